"""The routine that tracks detections from frame to frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipert_shm.extras import to_install
from pipert_shm.graph.names import number_of
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.routine import MiddleRoutine
from pipert_shm.video.detection import DetectedFrame, Detections

if TYPE_CHECKING:
    import supervision

BLOCK = 100_000  # ids in a block; each camera has blocks of its own
ORIGINS = 4096  # the most routines of a pipe


class SupervisionTracker(Protocol):
    """A tracker of the `trackers` library."""

    def update(self, detections: supervision.Detections) -> supervision.Detections:
        """Returns the detections of the next frame, with track ids."""


class Tracker(MiddleRoutine):
    """Gives the detections of each `DetectedFrame` track ids: the same object keeps its id from frame to frame.

    One routine serves any number of cameras, with a tracker for each. No two cameras share an id: the pipe's first routine has
    the ids 0, 1, 2 …, its fourth 300,000, 300,001 … . A detection without a track has the id -1. The order of detections may
    change. A tracker can't have replicas: each would see only a part of the frames.

    :param make: makes a camera's tracker, one of the `trackers` library (the extra `tracking`); by default its
        ByteTrack. Give a `functools.partial` to set parameters.
    """

    replicable = False

    def __init__(self, name: str | None = None, *, make: Callable[[], SupervisionTracker] | None = None) -> None:
        super().__init__(name)
        self._make = make or _byte_track

    def setup(self) -> None:
        """Makes the first tracker.

        :raises ImportError: when the tracker's library is not installed.
        """
        first = [self._make()]  # made now, so that a missing library is an error at the start
        self._trackers = self.per_origin(lambda: first.pop() if first else self._make())

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(0)

    def main_logic(self, data: DetectedFrame) -> DetectedFrame:
        """Returns the same frame; its detections have track ids, (n,) int64. Keypoints, masks and the like stay with them.

        :raises TypeError: when the payload is no `DetectedFrame`.
        """
        if not isinstance(data, DetectedFrame):
            kind = type(data).__name__
            advice = "wire a detector before the tracker; a function returns DetectedFrame(frame, detections)"
            raise TypeError(f"a DetectedFrame is needed, not a {kind}: {advice}")
        tracked = self._trackers[self.meta.origin].update(data.detections.to_supervision())
        found = Detections.from_supervision(tracked, data.detections.names)
        if found.track_ids is not None:
            found.track_ids = _unique(found.track_ids, number_of(self.meta.origin_number))
        return data.changed(detections=found)


def _unique(ids: np.ndarray, origin: int) -> np.ndarray:
    """Turns the ids of one camera's tracker into ids that no other camera has. -1 stays.

    Each camera has every `ORIGINS`th block of numbers, so its ids do not depend on the other cameras. One that is added after
    another was removed may get the numbers of that.

    :param origin: the camera's number.
    """
    block, place = np.divmod(ids, BLOCK)
    return np.where(ids < 0, ids, (block * ORIGINS + origin) * BLOCK + place)


def _byte_track() -> SupervisionTracker:
    try:
        from trackers import ByteTrackTracker
    except ModuleNotFoundError as error:
        raise ImportError(f"trackers is not installed ({error}): {to_install('tracking')}") from error
    tracker: SupervisionTracker = ByteTrackTracker()
    return tracker
