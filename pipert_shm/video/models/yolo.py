"""Heads for YOLO networks that tell boxes, and what the heads for their other tasks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from pipert_shm.errors import shown
from pipert_shm.video.detection import Detections
from pipert_shm.video.models.head import (
    SLACK,
    PlainHead,
    check_scores,
    checked_share,
    corners_of,
    every_name,
    shapes,
    suppressed,
)
from pipert_shm.video.models.preprocessing import Preprocessing
from pipert_shm.video.names import Names

Form = Literal["v8", "v5", "end-to-end"]


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in one image, before it becomes detections.

    Attributes:
        boxes: (n, 4): left, top, right, bottom in pixels of the network's input; for turned boxes centre and size.
        scores: (n,).
        classes: (n,) whole numbers.
        more: (n, …): what the network tells besides.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    more: np.ndarray


class YoloHead(PlainHead):
    """Reads YOLO networks that tell boxes. They have one output of one of these forms:

    - `v8`: (batch, 4 + classes, n), as of version 8: centres, sizes, and a score for each class;
    - `v5`: (batch, n, 5 + classes), of versions 5, 6 and 7: the same, with a score that there is an object before those of the
      classes;
    - `end-to-end`: (batch, n, 6), of versions 10 and 26, or exported with `nms=True`: corners, score and class id, a row for
      each detection. The network has suppressed overlapping ones already, so `overlap` has no effect.

    A network exported for TensorRT with its operator for suppression has four outputs: how many there are (batch, 1), their
    corners (batch, n, 4), scores (batch, n) and class ids (batch, n).

    :param names: class names: a list, or a dict by id, such as Ultralytics' `model.names`.
    :param threshold: least score that counts, 0 to 1.
    :param overlap: intersection over union from which two boxes of one class count as the same object, 0 to 1.
    :param form: of the output. By default it is told by the shape, and where that fits two forms, by the values.
    :raises TypeError: when the names are not a list or dict of names.
    :raises ValueError: when an id has no name, a number is out of range, or there is no such form.

    Attributes:
        left_out: how many rows of an end-to-end network were left out so far, since their corners make no box, as rounding may
            do to a very small one.

    >>> head = YoloHead({0: "person", 1: "car"}, threshold=0.5)
    >>> YoloHead("coco.names")
    Traceback (most recent call last):
    TypeError: names are a list of class names, not a file's: YoloHead(Path('coco.names').read_text().splitlines())
    """

    preprocessing = Preprocessing()
    _no_boxes = "the first four columns are no corners"

    def __init__(self, names: Names, *, threshold: float = 0.25, overlap: float = 0.45, form: Form | None = None) -> None:
        self.names = every_name(names, type(self).__name__)
        self.threshold = checked_share("threshold", threshold)
        self.overlap = checked_share("overlap", overlap)
        if form is not None and form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}, not {shown(form)}")
        self.form = form
        self.left_out = 0
        self._boxes_seen = self._no_boxes_seen = 0  # of all rows that count, to know a network of another kind by

    def __call__(self, outputs: Sequence[np.ndarray], size: tuple[int, int] | None = None) -> list[Detections]:
        """Returns the detections in each image.

        :raises ValueError: when the output does not have a shape that goes with the names, or holds what can't be meant.
        """
        if are_counted(outputs):
            return [self._made(found) for found in self._counted(*outputs)]
        if len(outputs) != 1 or outputs[0].ndim != 3:
            raise self._misfit(outputs)
        return [self._made(found) for found in self._read(outputs, 0)]

    def _made(self, found: Found) -> Detections:
        return Detections(found.boxes, found.scores, found.classes, self.names)

    # ---- what the heads for all tasks share ------------------------------------------------------

    def _read(self, outputs: Sequence[np.ndarray], more: int) -> Iterable[Found]:
        """What was found in each image.

        :param outputs: the first one has the boxes.
        :param more: how many columns there are besides boxes, scores and classes.
        """
        output = np.asarray(outputs[0], np.float32)
        form = self._form_of(output, more)
        if form == "end-to-end":
            self._check_finds(output)
            return [self._finds(rows) for rows in output]
        classes = len(self.names)
        if form == "v8":
            rows = output.transpose(0, 2, 1)
            return [self._image(each[:, :4], each[:, 4 : 4 + classes], each[:, 4 + classes :]) for each in rows]
        if form == "v5":
            last = 5 + classes
            return [self._image(each[:, :4], each[:, 5:last] * each[:, 4:5], each[:, last:]) for each in output]
        raise self._misfit(outputs)

    def _form_of(self, output: np.ndarray, more: int) -> Form | None:
        classes = len(self.names)
        of_8, of_5 = output.shape[1] == 4 + classes + more, output.shape[2] == 5 + classes + more
        ends = output.shape[2] == 6 + more
        if self.form is not None:
            return self.form if {"v8": of_8, "v5": of_5, "end-to-end": ends}[self.form] else None
        if ends and self._are_finds(output, of_8, of_5):
            return "end-to-end"
        return "v8" if of_8 else "v5" if of_5 else None

    def _are_finds(self, output: np.ndarray, of_8: bool, of_5: bool) -> bool:
        """Whether rows are detections. With one name they may be version 5's output as well: then the values decide.

        :raises ValueError: when the values fit neither.
        """
        if not of_5:
            return not (of_8 and self._why_not_finds(output))
        fifth, sixth = output[..., 4], output[..., 5]
        if np.isin(sixth, (0, -1)).all():  # ids of the one class, and of padding
            return True
        if (sixth == np.round(sixth)).all() and (sixth.max() > 1 or not self._why_not_finds(output)):
            return True  # ids of more classes than there are names
        if (fifth == np.round(fifth)).all() and (sixth > self.threshold).any():
            raise ValueError(
                f"the network's output {output.shape} has whole numbers in its fifth column and others in its sixth: with one "
                f"name these are score and class id, or, of version 5, two scores; give all names that it was trained with, or "
                f"form='v5' or form='end-to-end'"
            )
        return False

    def _misfit(self, outputs: Sequence[np.ndarray]) -> ValueError:
        classes, form = len(self.names), f" and form={self.form!r}" if self.form is not None else ""
        return ValueError(
            f"with {classes} names{form} {self._expected(classes)}, not {shapes(outputs)}; give the names that it was trained "
            f"with, or write a head for it"
        )

    def _expected(self, classes: int) -> str:
        """What the network's outputs should have been, for an error."""
        return (
            f"the network's one output is (batch, {4 + classes}, n) or (batch, n, {5 + classes}), or (batch, n, 6) end to end"
        )

    def _image(self, centred: np.ndarray, scores: np.ndarray, more: np.ndarray) -> Found:
        check_scores(scores)
        if not scores.size:
            return Found(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), more[:0])
        best = scores.argmax(axis=1)
        score = scores[np.arange(len(best)), best]
        likely = score > self.threshold
        best, score, centred, more = best[likely], score[likely], centred[likely], more[likely]
        boxes = self._boxes(centred)
        kept = self._suppressed(boxes, score, best, more)
        return Found(boxes[kept], score[kept], best[kept], more[kept])

    def _boxes(self, centred: np.ndarray) -> np.ndarray:
        return corners_of(centred)

    def _suppressed(self, boxes: np.ndarray, score: np.ndarray, classes: np.ndarray, more: np.ndarray) -> np.ndarray:
        """The indexes that stay."""
        return suppressed(boxes, score, classes, self.threshold, self.overlap)

    # ---- end to end ------------------------------------------------------------------------------

    def _check_finds(self, output: np.ndarray) -> None:
        why, ids = self._why_not_finds(output), output[..., 5]
        are_boxes = self._are_boxes(self._likely(output)[:, :4])
        self._boxes_seen += int(are_boxes.sum())
        self._no_boxes_seen += int((~are_boxes).sum())
        if not why and ids.size and ids.max() >= len(self.names):
            why = f"there is a class id {ids.max():.0f}"
        if why:
            raise ValueError(
                f"the network's output {output.shape} is not one of left, top, right, bottom, score and class id, with "
                f"{len(self.names)} names: {why}; give the names that it was trained with, or write a head for it"
            )

    def _why_not_finds(self, output: np.ndarray) -> str:
        """Why these are not rows of a box, score and class id; empty if they may be. Rows with id -1 are padding."""
        rows = output[output[..., 5] != -1]
        scores, ids = rows[:, 4], rows[:, 5]
        if not ((ids >= 0) & (ids == np.round(ids))).all():
            return "the sixth column has no class ids"
        if not ((scores >= 0) & (scores <= 1 + SLACK)).all():
            return "the fifth column has no scores from 0 to 1"
        are_boxes = self._are_boxes(self._likely(rows)[:, :4])
        if are_boxes.all():
            return ""
        boxes, others = self._boxes_seen + are_boxes.sum(), self._no_boxes_seen + (~are_boxes).sum()
        return self._no_boxes if others > boxes + 1 else ""  # one may be an accident, and is left out

    def _likely(self, rows: np.ndarray) -> np.ndarray:
        """The rows that count, of all images: (n, columns)."""
        return np.asarray(rows[(rows[..., 4] > self.threshold) & (rows[..., 5] != -1)])

    def _are_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Which of these can be boxes, (n,) bool."""
        return np.asarray((boxes[:, 2:] >= boxes[:, :2]).all(axis=1))

    def _finds(self, rows: np.ndarray) -> Found:
        likely = self._likely(rows)
        rows = likely[self._are_boxes(likely[:, :4])]
        self.left_out += len(likely) - len(rows)
        return Found(rows[:, :4], rows[:, 4], rows[:, 5], rows[:, 6:])

    def _counted(self, counts: np.ndarray, boxes: np.ndarray, scores: np.ndarray, ids: np.ndarray) -> Iterable[Found]:
        for count, *columns in zip(counts.ravel().tolist(), boxes, scores, ids, strict=True):
            if not 0 <= count <= len(columns[0]):
                raise ValueError(f"the network says that it found {count}, and has room for {len(columns[0])}")
            box, score, number = (np.asarray(column[:count], np.float32) for column in columns)
            rows = np.column_stack([box, score, number])
            self._check_finds(rows[None])
            yield self._finds(rows)


def are_counted(outputs: Sequence[np.ndarray]) -> bool:
    """Whether these are the outputs of TensorRT's operator for suppression."""
    if [each.ndim for each in outputs] != [2, 3, 2, 2]:
        return False
    count, boxes, scores, ids = (each.shape for each in outputs)
    return count[1:] == (1,) and boxes[2] == 4 and boxes[1] == scores[1] == ids[1]
