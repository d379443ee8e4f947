"""What sources that can keep footage have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipert_shm.errors import shown
from pipert_shm.events import events
from pipert_shm.routine import SourceRoutine
from pipert_shm.video.footage.settings import FootageSettings

if TYPE_CHECKING:
    from pipert_shm.video.footage.footage import Footage

FOOTAGE_COUNTERS = ("clips", "cut_clips", "lost_clips", "segments", "unrecorded")


class KeepsFootage(SourceRoutine):
    """A source that may keep the encoded packets of its stream.

    :param footage: what to keep; None for nothing.
    :raises TypeError, ValueError: when something in it is not what it should be.
    """

    def __init__(self, name: str | None, footage: Mapping[str, Any] | None) -> None:
        if footage is not None:
            vars(self)["counter_names"] = (*self.counter_names, *FOOTAGE_COUNTERS)
        super().__init__(name)
        self._footage_settings = None if footage is None else FootageSettings.of(footage)
        self._footage: Footage | None = None
        self._told_of_no_clip = False
        self.works_alone = footage is not None  # a camera may only be recorded

    @property
    def _footage_camera(self) -> str:
        """Whose footage it keeps."""
        settings = self._footage_settings
        return self.name if settings is None or settings.camera is None else settings.camera

    def _begin_footage(self) -> None:
        """:raises OSError: when the directory can't be made or written to."""
        if self._footage_settings is not None:
            from pipert_shm.video.footage.footage import Footage  # heavy: it needs PyAV

            self._footage = Footage(self._footage_settings, self._footage_camera, self.counters, self._logger)

    def _end_footage(self) -> None:
        if self._footage is not None:
            self._footage.close()
            self._footage = None

    @events("record_clip")
    def record_clip(
        self, event: Mapping[str, Any] | None = None, before: float | None = None, after: float | None = None
    ) -> None:
        """Records a clip, if the event is about this camera. Needs `footage=`.

        :param event: what happened, as `DetectionEvent.to_dict()` gives it; None for something that happens now. With the
            phase `start` the clip goes on until the event with the same `id` and the phase `end`. One about another `camera` is
            none of this routine's.
        :param before: seconds before it, if others than `footage` says.
        :param after: seconds after it, if others than `footage` says.
        :raises TypeError, ValueError: when the event is none.
        """
        if event is not None and not isinstance(event, Mapping):
            raise TypeError(f"the parameter event must be a dict, as DetectionEvent.to_dict() gives it, not {shown(event)}")
        told = {} if event is None else dict(event)
        if told.get("camera", self._footage_camera) != self._footage_camera:
            return
        if self._footage is not None:
            self._footage.record(told, before, after)
        elif self._footage_settings is None:
            self._tell_of_no_clip(told, "give it footage={'directory': …}")
        elif told.get("phase") != "end":  # else its clip ended with the camera, which said so
            self.counters["lost_clips"] += 1
            self._tell_of_no_clip(told, "it does not run")

    def _tell_of_no_clip(self, event: Mapping[str, Any], why: str) -> None:
        if not self._told_of_no_clip:
            self._told_of_no_clip = True
            self._logger.warning("there is no clip of %s, since nothing is kept: %s", shown(event.get("id", "now")), why)
