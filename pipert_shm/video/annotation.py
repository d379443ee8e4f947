"""What draws on frames."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipert_shm.errors import RoutineError, describe
from pipert_shm.routine import MiddleRoutine, writable
from pipert_shm.video.detection import DetectedFrame
from pipert_shm.video.opencv import cv2

if TYPE_CHECKING:
    import supervision

BOX_COLOUR = (0, 255, 0)


class SupervisionAnnotator(Protocol):
    """What `supervision.BoxAnnotator()` and its like can do."""

    def annotate(self, scene: np.ndarray, detections: supervision.Detections) -> np.ndarray:
        """Draws on the scene, and returns it."""


class Annotator(MiddleRoutine):
    """Draws what was found on each `DetectedFrame`, and sends it on. No other routine sees the drawing.

    Nothing is copied where this routine is the only one that has the frame (see `writable`). Several cameras may be wired to
    it: each has annotators of its own, copies of those that are given, so that traces and heat maps are not mixed.

    :param annotators: those of the `supervision` library, in order: `Annotator(BoxAnnotator(), LabelAnnotator())`; with none of
        them, plain boxes are drawn, for which that library is not needed. By default theirs colour by class; where there are
        no classes, give them a `color_lookup`.
    """

    def __init__(self, *annotators: SupervisionAnnotator, name: str | None = None) -> None:
        super().__init__(name)
        self._annotators = annotators
        self._copies = self.per_origin(self._copied)

    def setup(self) -> None:
        """Begins with annotators that have seen nothing."""
        self._copies.clear()

    def main_logic(self, data: DetectedFrame) -> DetectedFrame:
        """The frame, drawn on.

        :raises ImportError: when it needs `supervision`, and that is not installed.
        :raises RoutineError: when an annotator can't be copied.
        """
        scene = writable(data.frame)
        if self._annotators:
            found = data.detections.to_supervision()
            for annotator in self._copies[self.meta.origin]:
                scene = annotator.annotate(scene, found)
        else:
            for left, top, right, bottom in data.detections.boxes.round().astype(int).tolist():
                cv2.rectangle(scene, (left, top), (right - 1, bottom - 1), BOX_COLOUR, 2)
        return data.changed(frame=scene)

    def _copied(self) -> tuple[SupervisionAnnotator, ...]:
        try:
            return copy.deepcopy(self._annotators)
        except Exception as error:
            kinds = ", ".join(type(annotator).__name__ for annotator in self._annotators)
            raise RoutineError(
                self.name,
                f"each camera needs annotators of its own, and a copy of these ({kinds}) can't be made: {describe(error)}; "
                f"give the one that it is about a __deepcopy__()",
            ) from error
