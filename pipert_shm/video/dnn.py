"""A detector that runs a neural network in ONNX format, for one camera or a batch of many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.errors import shown
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.limits import is_count
from pipert_shm.routine import BatchRoutine
from pipert_shm.video import network
from pipert_shm.video.detection import DetectedFrame, Detections, detected
from pipert_shm.video.heads import Head
from pipert_shm.video.image import frame_of
from pipert_shm.video.opencv import cv2

PADDING = 114  # the grey that YOLO networks are trained with
_DEVICES = {"cpu": "cpu", network.CPU: "cpu", "cuda": "cuda", network.CUDA: "cuda", network.TENSORRT: "tensorrt"}


class DnnDetector(BatchRoutine):
    """Runs a neural network in ONNX format on each frame, and sends the frame with its detections, as a `DetectedFrame`.

    One batch may hold frames of any number of cameras and of any sizes. Each frame is scaled to the network's input with its
    proportions kept, and the rest of the input is grey. Boxes are in pixels of the frame.

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
        if isinstance(head, type) or not callable(head) or not hasattr(head, "scale"):
            raise TypeError(
                f"head makes finds of the outputs: YoloHead(names), CenterFaceHead(), or an object of yours with __call__ and "
                f"scale, not {shown(head)}"
            )
        if not isinstance(size, tuple | list) or len(size) != 2 or not all(map(is_count, size)):
            raise ValueError(f"size is a width and a height of at least 1 pixel, such as (640, 640), not {shown(size)}")
        self._model = Path(model)
        self._head = head
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
        """Returns the detections in each frame. Frames are (height, width, 3) uint8, BGR, of any sizes.

        :raises ValueError: when the head can't read the network's outputs.
        """
        width, height = self._size
        canvas = np.full((len(frames), height, width, 3), PADDING, np.uint8)
        ratios = []
        for frame, image in zip(frames, canvas, strict=True):
            ratio = min(width / frame.shape[1], height / frame.shape[0])
            fitted = max(1, round(frame.shape[1] * ratio)), max(1, round(frame.shape[0] * ratio))
            cv2.resize(frame, fitted, dst=image[: fitted[1], : fitted[0]])
            ratios.append(ratio)
        blob = cv2.dnn.blobFromImages(list(canvas), self._head.scale, swapRB=True)
        found = self._finds(self._run(blob), len(frames))
        for frame, ratio, each in zip(frames, ratios, found, strict=True):
            limits = np.array([frame.shape[1], frame.shape[0]] * 2, np.float32)
            each.boxes = np.clip(each.boxes / np.float32(ratio), 0, limits)
        return found

    def _finds(self, outputs: Sequence[np.ndarray], count: int) -> list[Detections]:
        """The detections in pixels of the network's input."""
        found = self._head(outputs)
        if len(found) != count:
            kind = type(self._head).__name__
            raise ValueError(f"{kind} returned {len(found)} Detections for {count} images; it must return one for each")
        return found

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(0)

    def main_logic(self, batch: Sequence[np.ndarray | FrameData]) -> list[DetectedFrame]:
        """Returns each frame with its detections."""
        frames = [frame_of(data) for data in batch]
        found = self.detect(frames)
        return [detected(data, frame, each) for data, frame, each in zip(batch, frames, found, strict=True)]
