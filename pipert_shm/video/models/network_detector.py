"""What the detectors have in common that run a network, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipert_shm.data import Format, FrameData
from pipert_shm.errors import shown
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.limits import is_count
from pipert_shm.routine import BatchRoutine
from pipert_shm.video.detection import DetectedFrame, Detections, detected
from pipert_shm.video.image import frame_of, known_format
from pipert_shm.video.models.choosing import head_for
from pipert_shm.video.models.description import ModelDescription
from pipert_shm.video.models.head import AnyHead, Head, as_head, checked_share
from pipert_shm.video.models.network import Network
from pipert_shm.video.models.runtime import Runtime, Size
from pipert_shm.video.names import Names, checked_names, class_numbers

DEVICES = {
    "cpu": "cpu",
    "CPUExecutionProvider": "cpu",
    "cuda": "cuda",
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "tensorrt",
    "gpu": "gpu",
    "npu": "npu",
}
DEVICE_COUNTERS = ("onnxruntime", "opencv", "openvino", "torch", "cpu", "cuda", "tensorrt", "gpu", "npu", "other_device")
NO_BOX = "no_box"


class NetworkDetector(BatchRoutine):
    """Runs a neural network on each frame: base class of `DnnDetector` and `TorchDetector`.

    :param head: turns the network's outputs into detections; None for the one that fits the network.
    :param names: class names by id, for a network that does not tell its own; not with a head, which has them.
    :param threshold: least score that counts; not with a head, which has one.
    :param overlap: from which share two boxes of one class count as one object; not with a head, which has one.
    :param classes: the classes to keep, by name or id; None for all.
    :param size: width and height of the network's input, pixels; None for the network's own.
    :param batch_size: the most frames in one call.
    :param max_wait: seconds that the first frame of a batch may wait for others.
    :raises TypeError: when the head is not a head.
    :raises ValueError: when another argument makes no sense.
    """

    counter_names = (*DEVICE_COUNTERS, NO_BOX)

    def __init__(
        self,
        head: AnyHead | None,
        name: str | None,
        *,
        names: Names | None,
        threshold: float | None,
        overlap: float | None,
        classes: Sequence[str | int] | None,
        size: Size | None,
        batch_size: int,
        max_wait: float,
    ) -> None:
        super().__init__(name, batch_size=batch_size, max_wait=max_wait)
        self._head = None if head is None else as_head(head)
        self._names, self._threshold, self._overlap = names, threshold, overlap
        _check_told(head, names=names, threshold=threshold, overlap=overlap)
        self._size = _checked_size(size)
        self._classes = _checked_classes(classes)
        if self._head is not None and self._head.names and self._classes is not None:
            class_numbers(self._classes, self._head.names)  # an unknown name is told at the call, not at the start

    def _load(self) -> Runtime:
        """Loads the network."""
        raise NotImplementedError

    def _find_head(self, runtime: Runtime) -> Head:
        """Returns the head that fits the network."""
        raise NotImplementedError

    def _head_for(self, description: ModelDescription) -> Head:
        return head_for(description, self._names, threshold=self._threshold, overlap=self._overlap)

    def _title(self) -> str:
        """What the log calls the network."""
        raise NotImplementedError

    def setup(self) -> None:
        """Loads the network, and runs it once.

        :raises FileNotFoundError: when there is no such file.
        :raises ValueError: when the network can't be read, or can't be run on the wanted device, or the head does not fit.
        :raises ImportError: when what runs it is not installed.
        """
        runtime = self._load()
        for note in runtime.notes:
            self._logger.warning(note)
        head = self._head or self._find_head(runtime)
        classes = None if self._classes is None else class_numbers(self._classes, head.names)
        self._network = Network(runtime, head, classes)
        self._logger.info("%s is run by %s on %s", self._title(), runtime.backend, ", ".join(runtime.devices))
        if self._head is None:
            told = type(head).__name__, len(head.names), *runtime.size
            self._logger.info("its outputs are read by %s, with %d class names; it takes %dx%d pixels", *told)
        self._tell(runtime)

    def _tell(self, runtime: Runtime) -> None:
        first = runtime.devices[0]
        device = DEVICES.get(first) or DEVICES.get(first.lower().split(".")[0].split(":")[0], "other_device")
        for name in DEVICE_COUNTERS:
            if name in self.counters:  # a subclass may have replaced counter_names
                self.counters[name] = int(name in (runtime.backend, device))

    def detect(self, frames: Sequence[np.ndarray]) -> list[Detections]:
        """Returns the detections in each frame. Frames may be of any sizes, in the formats that `self.metas` tell of.

        :raises ValueError: when an array is no frame, or the head can't read the network's outputs.
        """
        return self.find(frames, formats_of(self, frames))

    def find(self, frames: Sequence[np.ndarray], formats: Sequence[Format]) -> list[Detections]:
        """Returns the detections in each frame, whose formats are told. All frames make one batch; they may be crops.

        :raises ValueError: when a frame is not of its format, or the head can't read the network's outputs.
        """
        before = self._network.left_out
        found = self._network.find(frames, formats)
        if (left_out := self._network.left_out - before) and NO_BOX in self.counters:
            if not self.counters[NO_BOX]:
                text = "the network tells a box whose right or bottom edge lies before its left or top one: such are left out, "
                self._logger.warning(text + "and counted as %s", NO_BOX)
            self.counters[NO_BOX] += left_out
        return found

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(0)

    def main_logic(self, batch: Sequence[np.ndarray | FrameData]) -> list[DetectedFrame]:
        """Returns each frame with its detections."""
        frames = [frame_of(data) for data in batch]
        found = self.detect(frames)
        return [detected(data, frame, each) for data, frame, each in zip(batch, frames, found, strict=True)]


def formats_of(routine: BatchRoutine, frames: Sequence[np.ndarray]) -> list[Format]:
    """Returns the formats of the batch's frames, as the messages tell them. Outside of a flow there is one `meta` for all.

    :raises ValueError: when an array is no frame.
    """
    metas = routine.metas if len(routine.metas) == len(frames) else [routine.meta] * len(frames)
    return [known_format(frame, meta) for frame, meta in zip(frames, metas, strict=True)]


def _check_told(head: AnyHead | None, *, names: Any, threshold: Any, overlap: Any) -> None:
    """Checks what only a head that is found takes."""
    told = {"names": names, "threshold": threshold, "overlap": overlap}
    if head is not None and (given := [what for what, value in told.items() if value is not None]):
        raise ValueError(f"the head has {' and '.join(given)} of its own: give these to {type(head).__name__}(…)")
    if names is not None:
        checked_names(names)
    for what, share in (("threshold", threshold), ("overlap", overlap)):
        if share is not None:
            checked_share(what, share)


def _checked_size(size: Any) -> Size | None:
    if size is None:
        return None
    if not isinstance(size, tuple | list) or len(size) != 2 or not all(map(is_count, size)):
        raise ValueError(f"size is a width and a height of at least 1 pixel, such as (640, 640), not {shown(size)}")
    return int(size[0]), int(size[1])


def _checked_classes(classes: Any) -> tuple[str | int, ...] | None:
    if classes is None:
        return None
    if isinstance(classes, str | bytes) or not isinstance(classes, Sequence) or not classes:
        raise ValueError(f"classes are a list of class names or ids to keep, such as ['person', 'car'], not {shown(classes)}")
    if wrong := [each for each in classes if not isinstance(each, str) and not is_count(each, 0)]:
        raise ValueError(f"classes are names or ids, not {shown(wrong[0])}")
    return tuple(classes)
