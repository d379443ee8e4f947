"""A tracker: which find of one frame is which of the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pipert_shm.routine import MiddleRoutine
from pipert_shm.video.detection import DetectedFrame, Detections

if TYPE_CHECKING:
    import supervision


class SupervisionTracker(Protocol):
    """What the trackers of the `trackers` library can do."""

    def update(self, detections: supervision.Detections) -> supervision.Detections:
        """The finds of the next frame, with track ids."""


class Tracker(MiddleRoutine):
    """Gives the finds of each `DetectedFrame` track ids, the same one for the same thing from frame to frame.

    A find that is not followed (yet) has the id -1. The order of the finds may change.

    :param make: makes the tracker, at each start: one of the `trackers` library; its ByteTrack by default. Give a
        `functools.partial` of one to set its parameters.
    """

    def __init__(self, name: str | None = None, *, make: Callable[[], SupervisionTracker] | None = None) -> None:
        super().__init__(name)
        self._make = make or _byte_track

    def setup(self) -> None:
        """Makes the tracker.

        :raises ImportError: when its library is not installed.
        """
        self._tracker = self._make()

    def main_logic(self, data: DetectedFrame) -> DetectedFrame:
        """The same frame; its finds have track ids."""
        tracked = self._tracker.update(data.detections.to_supervision())
        return data.changed(detections=Detections.from_supervision(tracked, data.detections.names))


def _byte_track() -> SupervisionTracker:
    try:
        from trackers import ByteTrackTracker
    except ModuleNotFoundError as error:
        raise ImportError(f"trackers is not installed ({error}): pip install 'pipert_shm[tracking]'") from error
    tracker: SupervisionTracker = ByteTrackTracker()
    return tracker
