"""Made detections of objects that walk, for the tests of zones and rules."""

from __future__ import annotations

import numpy as np

from pipert_shm.data import Meta
from pipert_shm.routine import Routine
from pipert_shm.video import DetectedFrame, Detections

FRAME = np.zeros((100, 100, 3), np.uint8)
NAMES = ("person", "car")


def box(x: float, y: float = 50.0) -> list[float]:
    """A box whose bottom centre is here."""
    return [x - 4, y - 20, x + 4, y]


def seen(tracks: dict[int, float], *, y: float = 50.0, frame: np.ndarray = FRAME, cars: tuple[int, ...] = ()) -> DetectedFrame:
    """A frame with persons, by track: how far to the right their feet are."""
    found = Detections(
        [box(x, y) for x in tracks.values()],
        None,
        [int(track in cars) for track in tracks],
        NAMES,
        np.array([*tracks], np.int64),
    )
    return DetectedFrame(frame, found)


def at(routine: Routine, seconds: float, sequence: int = 0, camera: str = "yard") -> None:
    """The next frame that the routine gets was captured at this time."""
    routine.meta = Meta((camera,), 0, sequence, int(seconds * 1e9))
