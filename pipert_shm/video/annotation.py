"""What draws on frames."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipert_shm.errors import RoutineError, describe, shown
from pipert_shm.routine import MiddleRoutine, writable
from pipert_shm.video.detection import NOT_FINITE, DetectedFrame, finite
from pipert_shm.video.opencv import cv2

if TYPE_CHECKING:
    import supervision

BOX_COLOUR = (0, 255, 0)
FAR = 1 << 15  # pixels, outside of any frame; OpenCV takes no coordinates of any size


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
        no classes, give them a `color_lookup`. They find the frame's `additional_data` in `detections.metadata`.
    :raises TypeError: when one of them can't annotate: a name goes by keyword, `Annotator(name="annotator")`.

    A find whose box has NaN or infinity is not drawn, but goes on; `not_finite` in the routine's counters counts these.
    """

    counter_names = (NOT_FINITE,)

    def __init__(self, *annotators: SupervisionAnnotator, name: str | None = None) -> None:
        for annotator in annotators:
            if isinstance(annotator, str):
                call = f"Annotator(name={annotator!r})"
                raise TypeError(f"an annotator is needed, not the text {annotator!r}; where that is a name, write {call}")
            if isinstance(annotator, type) or not callable(getattr(annotator, "annotate", None)):
                call = f"{annotator.__name__}()" if isinstance(annotator, type) else "supervision.BoxAnnotator()"
                raise TypeError(f"an annotator is an object with annotate(), such as {call}, not {shown(annotator)}")
        super().__init__(name)
        self._annotators = annotators
        self._copies = self.per_origin(self._copied)

    def setup(self) -> None:
        """Begins with annotators that have seen nothing."""
        self._copies.clear()

    def main_logic(self, data: DetectedFrame) -> DetectedFrame:
        """The frame, drawn on.

        :raises TypeError: when it is no `DetectedFrame`.
        :raises ImportError: when it needs `supervision`, and that is not installed.
        :raises RoutineError: when an annotator can't be copied.
        """
        if not isinstance(data, DetectedFrame):
            raise TypeError(f"a DetectedFrame is needed, not a {type(data).__name__}: wire a detector before the annotator")
        scene = writable(data.frame)
        drawn = finite(self, data.detections)
        if self._annotators:
            found = drawn.to_supervision()
            found.metadata.update(data.additional_data)
            for annotator in self._copies[self.meta.origin]:
                scene = annotator.annotate(scene, found)
        else:
            for left, top, right, bottom in np.clip(drawn.boxes, -FAR, FAR).round().astype(int).tolist():
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
