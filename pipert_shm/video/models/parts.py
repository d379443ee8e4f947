"""Looks for something in parts of frames, which are views of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

import numpy as np

from pipert_shm.data import Format
from pipert_shm.errors import shown
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.routine import BatchRoutine
from pipert_shm.video.detection import Detections
from pipert_shm.video.detector import Detector
from pipert_shm.video.formats import cropped, is_planar, to_bgr
from pipert_shm.video.models.network_detector import NetworkDetector

AnyDetector: TypeAlias = Detector | NetworkDetector
Part: TypeAlias = tuple[int, int, int, int]
"""Left, top, width and height, in pixels of the frame."""


class LooksInParts(BatchRoutine):
    """Has a detector look at parts of frames: base class of `Cascade` and `Tiles`.

    The detector is part of this routine. It is no routine of the pipe: it has no wires, and its name is not used. Counters of
    a `DnnDetector` or `TorchDetector` are this routine's.

    :param detector: a `DnnDetector`, a `TorchDetector`, or another `Detector`. It gets the parts as they are in the frame's
        format if it runs a network, and in BGR otherwise.
    :param batch_size: the most frames in one call.
    :param max_wait: seconds that the first frame of a batch may wait for others.
    :raises TypeError: when the detector is none.
    """

    counter_names: ClassVar[tuple[str, ...]] = NetworkDetector.counter_names

    def __init__(self, detector: AnyDetector, name: str | None, *, batch_size: int, max_wait: float) -> None:
        if not isinstance(detector, Detector | NetworkDetector):
            raise TypeError(f"detector is a DnnDetector, a TorchDetector or another Detector, not {shown(detector)}")
        super().__init__(name, batch_size=batch_size, max_wait=max_wait)
        self._detector = detector
        self.replicable = detector.replicable

    def setup(self) -> None:
        """Sets the detector up.

        :raises Exception: as its `setup()` does.
        """
        self._detector._logger = self._logger
        if isinstance(self._detector, NetworkDetector):
            self._detector.counters = self.counters
        self._detector.setup()

    def cleanup(self) -> None:
        """Lets go of what the detector has."""
        self._detector.cleanup()

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(0)

    def _find(
        self, frames: Sequence[np.ndarray], formats: Sequence[Format], parts: Sequence[Sequence[Part]]
    ) -> list[list[Detections]]:
        """Returns what is in each part of each frame, in pixels of the frame. Parts of several frames share batches."""
        crops = [
            (cropped(frame, format, part), format)
            for frame, format, its in zip(frames, formats, parts, strict=True)
            for part in its
        ]
        found = iter(self._look(crops))
        return [[next(found).moved(part[0], part[1]) for part in its] for its in parts]

    def _look(self, crops: Sequence[tuple[np.ndarray, Format]]) -> list[Detections]:
        detector = self._detector
        if isinstance(detector, Detector):
            return [detector.detect(to_bgr(crop, format)) for crop, format in crops]
        found: list[Detections] = []
        for first in range(0, len(crops), detector.batch_size):
            some = crops[first : first + detector.batch_size]
            found += detector.find([crop for crop, _ in some], [format for _, format in some])
        return found


def part_around(box: Sequence[float], frame: tuple[int, int], format: Format, margin: float = 0.0) -> Part | None:
    """Returns the whole pixels that a box touches, within the frame; None if that is none. Of a planar frame they are even.

    :param box: left, top, right, bottom in pixels; right and bottom are exclusive.
    :param frame: width and height.
    :param margin: how much of its width and height is added on each side.

    >>> part_around((10.5, 20, 30, 40), (640, 480), "bgr"), part_around((700, 0, 800, 9), (640, 480), "bgr")
    ((10, 20, 20, 20), None)
    """
    left, top, right, bottom = box
    across, down = margin * (right - left), margin * (bottom - top)
    begin = max(0, math.floor(left - across)), max(0, math.floor(top - down))
    end = min(frame[0], math.ceil(right + across)), min(frame[1], math.ceil(bottom + down))
    if is_planar(format):
        begin = begin[0] & ~1, begin[1] & ~1
        end = end[0] + end[0] % 2, end[1] + end[1] % 2
    width, height = end[0] - begin[0], end[1] - begin[1]
    return (*begin, width, height) if width > 0 and height > 0 else None
