"""A detector that runs a neural network in ONNX format, for one camera or a batch of many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipert_shm.data import Format, FrameData
from pipert_shm.errors import shown
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.limits import is_count
from pipert_shm.routine import BatchRoutine
from pipert_shm.video.detection import DetectedFrame, Detections, detected
from pipert_shm.video.formats import converted, eight_bits, is_planar, resized, size_of
from pipert_shm.video.image import frame_of, known_format
from pipert_shm.video.models import network
from pipert_shm.video.models.head import Head, as_head
from pipert_shm.video.models.preprocessing import Placement
from pipert_shm.video.opencv import cv2

_DEVICES = {"cpu": "cpu", network.CPU: "cpu", "cuda": "cuda", network.CUDA: "cuda", network.TENSORRT: "tensorrt"}


class DnnDetector(BatchRoutine):
    """Runs a neural network in ONNX format on each frame, and sends the frame with its detections, as a `DetectedFrame`.

    One batch may hold frames of any number of cameras, of any sizes and formats. Each frame is scaled to the network's input
    with its proportions kept, and the rest of the input is grey. Boxes are in pixels of the frame.

    `setup()` runs the network once, so that a network that can't be run, or a head that does not fit, fails there. Counters
    say which backend runs it (`opencv` or `onnxruntime`) and on which device (`cpu`, `cuda`, `tensorrt` or `other_device`): 1
    for the one in use, 0 for the others. The log says so, too.

    :param model: path of the file.
    :param head: turns the network's outputs into detections: `YoloHead(names)`, `CenterFaceHead()`, or an object of yours.
    :param size: width and height of the network's input, in pixels. Most networks want multiples of 32.
    :param batch_size: the most frames in one call.
    :param max_wait: seconds that the first frame of a batch may wait for others.
    :param backend: `opencv` runs the frames of a batch one by one. `onnxruntime` (`pip install 'pipert_shm[onnx]'`) runs them
        together if the model has a free batch axis, and knows more operators. `auto` takes OpenCV, and onnxruntime, if that is
        installed, for a network that OpenCV refuses.
    :param device: `cpu`, `cuda`, `cuda:1`, or `tensorrt` (onnxruntime only; its engine is kept beside the model, in
        `NAME.tensorrt`). By default the CPU with OpenCV; with onnxruntime CUDA if it is available.
    :param providers: execution providers of onnxruntime instead of a device: names, or tuples (name, options).
    :raises TypeError: when the model is not a path, or the head is not a head.
    :raises ValueError: when another argument makes no sense.
    """

    counter_names = ("opencv", "onnxruntime", "cpu", "cuda", "tensorrt", "other_device")

    def __init__(
        self,
        model: str | os.PathLike[str],
        head: Head,
        name: str | None = None,
        *,
        size: tuple[int, int] = (640, 640),
        batch_size: int = 8,
        max_wait: float = 0.0,
        backend: network.Backend = "auto",
        device: str | None = None,
        providers: network.Providers | None = None,
    ) -> None:
        super().__init__(name, batch_size=batch_size, max_wait=max_wait)
        if not isinstance(model, str | os.PathLike):
            raise TypeError(
                f"model is the path of an .onnx file, not {shown(model)}: DnnDetector('yolo.onnx', YoloHead(names))"
            )
        if not isinstance(size, tuple | list) or len(size) != 2 or not all(map(is_count, size)):
            raise ValueError(f"size is a width and a height of at least 1 pixel, such as (640, 640), not {shown(size)}")
        self._model = Path(model)
        self._head = as_head(head)
        self._kind = type(head).__name__
        self._size = (size[0], size[1])
        self._choice = network.Choice(backend, device, providers)

    def setup(self) -> None:
        """Loads the network, and runs it once.

        :raises FileNotFoundError: when there is no such file.
        :raises ValueError: when the network can't be read, or can't be run on the wanted device, or the head does not fit.
        :raises ImportError: when the backend is not installed.
        """
        if not self._model.is_file():
            raise FileNotFoundError(f"there is no model {str(self._model)!r}; check the path")
        loaded = network.load(self._model, self._size, self._choice)
        self._run = loaded.run
        for note in loaded.notes:
            self._logger.warning(note)
        self._logger.info("%s is run by %s on %s", self._model.name, loaded.backend, ", ".join(loaded.providers))
        self._tell(loaded)
        self._finds(loaded.trial, 1)

    def _tell(self, loaded: network.Network) -> None:
        in_use = (loaded.backend, _DEVICES.get(loaded.providers[0], "other_device"))
        for name in DnnDetector.counter_names:
            if name in self.counters:  # a subclass may have replaced counter_names
                self.counters[name] = int(name in in_use)

    def detect(self, frames: Sequence[np.ndarray]) -> list[Detections]:
        """Returns the detections in each frame. Frames may be of any sizes, in the formats that `self.metas` tell of.

        :raises ValueError: when an array is no frame, or the head can't read the network's outputs.
        """
        metas = self.metas if len(self.metas) == len(frames) else [self.meta] * len(frames)  # outside of a flow there is one
        formats = [known_format(frame, meta) for frame, meta in zip(frames, metas, strict=True)]
        wanted = self._head.preprocessing
        images = np.full((len(frames), self._size[1], self._size[0], 3), wanted.padding, np.uint8)
        in_bgr = wanted.colours == "bgr" or set(formats) != {"rgb"}
        places = [self._fill(*each, in_bgr) for each in zip(images, frames, formats, strict=True)]
        blob = cv2.dnn.blobFromImages(list(images), wanted.scale, swapRB=in_bgr and wanted.colours == "rgb")
        if any(wanted.mean) or wanted.std != (1, 1, 1):
            mean, std = (np.array(each, np.float32).reshape(3, 1, 1) for each in (wanted.mean, wanted.std))
            blob = (blob - mean) / std
        found = self._finds(self._run(blob), len(frames))
        return [place.restored(each) for place, each in zip(places, found, strict=True)]

    def _fill(self, image: np.ndarray, frame: np.ndarray, format: Format, in_bgr: bool) -> Placement:
        """Puts a frame into the network's input, BGR or RGB, and returns where.

        It is scaled first, and then converted: that costs less.
        """
        planar = is_planar(format)
        place = self._head.preprocessing.place(size_of(frame, format), self._size, even=planar)
        left, top, right, bottom = place.region
        fitted = (right - left, bottom - top)
        method = cv2.INTER_AREA if self._head.preprocessing.antialias and max(place.scale) < 1 else cv2.INTER_LINEAR
        wanted: Format = "bgr" if in_bgr else "rgb"
        small = eight_bits(resized(frame, format, fitted, None, method))
        if format != wanted:
            small = converted(small, format, wanted)
        visible = small[max(0, -top) : self._size[1] - top, max(0, -left) : self._size[0] - left]
        image[max(0, top) : max(0, top) + len(visible), max(0, left) : max(0, left) + visible.shape[1]] = visible
        return place

    def _finds(self, outputs: Sequence[np.ndarray], count: int) -> list[Detections]:
        """The detections in pixels of the network's input."""
        found = self._head(outputs, self._size)
        if len(found) != count:
            raise ValueError(f"{self._kind} returned {len(found)} Detections for {count} images; it must return one for each")
        return found

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(0)

    def main_logic(self, batch: Sequence[np.ndarray | FrameData]) -> list[DetectedFrame]:
        """Returns each frame with its detections."""
        frames = [frame_of(data) for data in batch]
        found = self.detect(frames)
        return [detected(data, frame, each) for data, frame, each in zip(batch, frames, found, strict=True)]
