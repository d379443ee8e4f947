"""A tracker: which find of one frame is which of the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipert_shm.routine import MiddleRoutine
from pipert_shm.video.detection import DetectedFrame, Detections

if TYPE_CHECKING:
    import supervision

BLOCK = 100_000  # tracks of one camera whose ids follow each other
ORIGINS = 1024  # as many routines as a pipe can have


class SupervisionTracker(Protocol):
    """What the trackers of the `trackers` library can do."""

    def update(self, detections: supervision.Detections) -> supervision.Detections:
        """The finds of the next frame, with track ids."""


class Tracker(MiddleRoutine):
    """Gives the finds of each `DetectedFrame` track ids, the same one for the same thing from frame to frame.

    It serves any number of cameras, with a tracker for each; no two cameras share an id. The ids of the pipe's first routine
    are those of its tracker, 0, 1, 2 …, those of its fourth, say, 300,000, 300,001 … . A find that is not followed (yet) has
    the id -1. The order of the finds may change. It can't have replicas: each would see a part of the frames.

    :param make: makes the tracker of a camera: one of the `trackers` library; its ByteTrack by default. Give a
        `functools.partial` of one to set its parameters.
    """

    replicable = False

    def __init__(self, name: str | None = None, *, make: Callable[[], SupervisionTracker] | None = None) -> None:
        super().__init__(name)
        self._make = make or _byte_track

    def setup(self) -> None:
        """Makes the first tracker.

        :raises ImportError: when its library is not installed.
        """
        first = [self._make()]  # now, to say at the start what is missing
        self._trackers = self.per_origin(lambda: first.pop() if first else self._make())

    def main_logic(self, data: DetectedFrame) -> DetectedFrame:
        """The same frame; its finds have track ids."""
        tracked = self._trackers[self.meta.origin].update(data.detections.to_supervision())
        found = Detections.from_supervision(tracked, data.detections.names)
        if found.track_ids is not None:
            found.track_ids = _unique(found.track_ids, self.meta.origin_number)
        return data.changed(detections=found)


def _unique(ids: np.ndarray, origin: int) -> np.ndarray:
    """Of the ids that one camera's tracker gave: ids that no other camera's have, -1 apart. They depend on nothing else.

    Each camera has every `ORIGINS`th block of numbers.
    """
    block, place = np.divmod(ids, BLOCK)
    return np.where(ids < 0, ids, (block * ORIGINS + origin) * BLOCK + place)


def _byte_track() -> SupervisionTracker:
    try:
        from trackers import ByteTrackTracker
    except ModuleNotFoundError as error:
        raise ImportError(f"trackers is not installed ({error}): pip install 'pipert_shm[tracking]'") from error
    tracker: SupervisionTracker = ByteTrackTracker()
    return tracker
