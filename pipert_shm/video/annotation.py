"""The routine that draws detections on frames."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipert_shm.data import Format
from pipert_shm.errors import RoutineError, describe, shown
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.routine import MiddleRoutine, writable
from pipert_shm.video.detection import NOT_FINITE, DetectedFrame, finite
from pipert_shm.video.drawing import draw
from pipert_shm.video.formats import converted, eight_bits, format_of, is_planar, size_of
from pipert_shm.video.marks import draw_zones

if TYPE_CHECKING:
    import supervision


class SupervisionAnnotator(Protocol):
    """An annotator of the `supervision` library, such as `BoxAnnotator()`."""

    def annotate(self, scene: np.ndarray, detections: supervision.Detections) -> np.ndarray:
        """Draws the detections on the scene, and returns it."""


class Annotator(MiddleRoutine):
    """Draws the detections on each `DetectedFrame`, and sends it on. No other routine sees the drawing.

    A frame in BGR is copied only if another routine holds it, too (see `writable`). One in another format, or with 16 bits a
    channel, becomes BGR with 8 bits, straight in shared memory. Several cameras may be wired to one annotator.
    Each camera gets copies of the given annotators, so that traces and heat maps are not mixed.

    Zones and lines, with their counts, and a heat map are drawn, too, where a `Zones` has told of them.

    A detection whose box has NaN or infinity is sent on, but not drawn. The counter `not_finite` counts these.

    :param annotators: annotators of the `supervision` library, in order: `Annotator(BoxAnnotator(), LabelAnnotator())`. Without
        any, boxes, outlines of masks and keypoints are drawn, and that library is not needed. Its annotators colour by class
        unless told otherwise: give them a `color_lookup` if there are no classes. They find the frame's `additional_data` in
        `detections.metadata`, and whole masks and `data` as `Detections.to_supervision` says.
    :raises TypeError: when one of them has no `annotate()`. The name goes by keyword: `Annotator(name="annotator")`.
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
        """Makes fresh annotators for each camera."""
        self._copies.clear()

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames | None:
        return OwnFrames(received, "copies of frames that others hold, too", "perhaps") if received else None

    def _own_frames_of(self, received: int, format: Format) -> OwnFrames | None:
        if format == "bgr":
            return None
        pixels = received * 2 // 3 if is_planar(format) else received // (1 if format == "gray" else 3)
        return OwnFrames(3 * pixels, f"BGR, of frames in {format.upper()}")

    def _sent_format(self, received: Format | None) -> Format | None:
        return "bgr"

    def main_logic(self, data: DetectedFrame) -> DetectedFrame:
        """Returns the frame, in BGR, with the detections drawn on it.

        :raises NoFreeSlot: when every slot of shared memory is in use, and the frame was to be converted; it is lost.
        :raises TypeError: when the payload is not a `DetectedFrame`.
        :raises ImportError: when annotators were given and `supervision` is not installed.
        :raises RoutineError: when an annotator can't be copied.
        """
        if not isinstance(data, DetectedFrame):
            raise TypeError(f"a DetectedFrame is needed, not a {type(data).__name__}: wire a detector before the annotator")
        scene = self._scene(data.frame)
        drawn = finite(self, data.detections)
        if self._annotators:
            found = drawn.to_supervision(scene.shape)
            found.metadata.update(data.additional_data)
            for annotator in self._copies[self.meta.origin]:
                scene = annotator.annotate(scene, found)
        else:
            draw(scene, drawn)
        draw_zones(scene, data.additional_data)
        return data.changed(frame=scene)

    def _scene(self, frame: np.ndarray) -> np.ndarray:
        """What can be drawn on: the frame, a copy, or what it is in BGR."""
        format = format_of(frame, self.meta)
        if format is None or (format == "bgr" and frame.dtype == np.uint8):
            return writable(frame)
        width, height = size_of(frame, format)
        scene = converted(eight_bits(frame), format, "bgr", self.loan((height, width, 3)))
        self.meta.describe("bgr", height)
        return scene

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
