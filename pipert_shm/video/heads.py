"""Heads: they turn the outputs of a family of networks into detections."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pipert_shm.errors import shown
from pipert_shm.limits import is_number
from pipert_shm.video.detection import Detections, Names, checked_names
from pipert_shm.video.opencv import cv2

SLACK = 0.01  # how far a score of a quantised network may lie outside 0 to 1
STRIDE = 4  # pixels of CenterFace's input for each pixel of its heat map


class Head(Protocol):
    """Reads the outputs of a family of networks.

    Attributes:
        scale: factor for the pixels, which are from 0 to 255, before the network gets them.
    """

    scale: float

    def __call__(self, outputs: Sequence[np.ndarray]) -> list[Detections]:
        """Returns the detections in each image of the batch, in pixels of the network's input.

        :param outputs: the network's outputs, in its order; the first axis of each is the batch.
        """


class YoloHead:
    """Reads YOLO networks, which have one output of one of these shapes:

    - (batch, 4 + classes, n), as of version 8: centres, sizes, and a score for each class;
    - (batch, n, 5 + classes), as of version 5: the same, with a score that there is an object before those of the classes;
    - (batch, n, 6), end to end, as of version 10, or exported with `nms=True`: corners, score and class id, a row for each
      detection. The network has suppressed overlapping ones already, so `overlap` has no effect.

    :param names: class names: a list, or a dict by id, such as Ultralytics' `model.names`.
    :param threshold: least score that counts, 0 to 1.
    :param overlap: intersection over union from which two boxes of one class count as the same object, 0 to 1.
    :raises TypeError: when the names are not a list or dict of names.
    :raises ValueError: when an id has no name, or a number is out of range.

    >>> head = YoloHead({0: "person", 1: "car"}, threshold=0.5)
    >>> YoloHead("coco.names")
    Traceback (most recent call last):
    TypeError: names are a list of class names, not a file's: YoloHead(Path('coco.names').read_text().splitlines())
    """

    scale = 1 / 255

    def __init__(self, names: Names, *, threshold: float = 0.25, overlap: float = 0.45) -> None:
        if isinstance(names, str | os.PathLike):
            call = f"YoloHead(Path({os.fspath(names)!r}).read_text().splitlines())"
            raise TypeError(f"names are a list of class names, not a file's: {call}")
        by_id = checked_names(names)
        if isinstance(by_id, dict):
            raise ValueError(f"every class id from 0 on needs a name; there are names for {shown(sorted(by_id))} only")
        self.names = by_id
        self.threshold = _checked_share("threshold", threshold)
        self.overlap = _checked_share("overlap", overlap)

    def __call__(self, outputs: Sequence[np.ndarray]) -> list[Detections]:
        """Returns the detections in each image.

        :raises ValueError: when the output does not have a shape that goes with the names, or holds what can't be meant.
        """
        if len(outputs) != 1 or outputs[0].ndim != 3:
            raise self._misfit(outputs)
        output, classes = np.asarray(outputs[0], np.float32), len(self.names)
        of_8, of_5 = output.shape[1] == 4 + classes, output.shape[2] == 5 + classes
        if output.shape[2] == 6 and self._are_finds(output, of_8, of_5):
            return [self._finds(rows) for rows in self._checked_finds(output)]
        if of_8:
            rows = output.transpose(0, 2, 1)
            return [self._image(*each) for each in zip(rows[..., :4], rows[..., 4:], strict=True)]
        if of_5:
            return [self._image(*each) for each in zip(output[..., :4], output[..., 5:] * output[..., 4:5], strict=True)]
        raise self._misfit(outputs)

    def _are_finds(self, output: np.ndarray, of_8: bool, of_5: bool) -> bool:
        """Whether rows of six are detections. With one name they may be version 5's output as well: then the values decide.

        :raises ValueError: when the values fit neither.
        """
        if not of_5:
            return not (of_8 and _why_not_finds(output, self.threshold))
        fifth, sixth = output[..., 4], output[..., 5]
        if np.isin(sixth, (0, -1)).all():  # ids of the one class, and of padding
            return True
        if (sixth == np.round(sixth)).all() and (sixth.max() > 1 or not _why_not_finds(output, self.threshold)):
            return True  # ids of more classes than there are names
        if (fifth == np.round(fifth)).all() and (sixth > self.threshold).any():
            raise ValueError(
                f"the network's output {output.shape} has whole numbers in its fifth column and others in its sixth: with one "
                f"name these are score and class id, or, of version 5, two scores; give all names that it was trained with, or "
                f"write a head for it"
            )
        return False

    def _misfit(self, outputs: Sequence[np.ndarray]) -> ValueError:
        classes = len(self.names)
        return ValueError(
            f"with {classes} names the network's one output is (batch, {4 + classes}, n) or (batch, n, {5 + classes}), or "
            f"(batch, n, 6) end to end, not {_shapes(outputs)}; give the names that it was trained with, or write a head for it"
        )

    def _image(self, centred: np.ndarray, scores: np.ndarray) -> Detections:
        _check_scores(scores)
        if not scores.size:
            return Detections([], [], [], self.names)
        best = scores.argmax(axis=1)
        score = scores[np.arange(len(best)), best]
        likely = score > self.threshold
        best, score, centred = best[likely], score[likely], centred[likely]
        corners = np.hstack([centred[:, :2] - centred[:, 2:] / 2, centred[:, :2] + centred[:, 2:] / 2])
        kept = _suppressed(corners, score, best, self.threshold, self.overlap)
        return Detections(corners[kept], score[kept], best[kept], self.names)

    # ---- end to end ------------------------------------------------------------------------------

    def _checked_finds(self, output: np.ndarray) -> np.ndarray:
        why, ids = _why_not_finds(output, self.threshold), output[..., 5]
        if not why and ids.size and ids.max() >= len(self.names):
            why = f"there is a class id {ids.max():.0f}"
        if why:
            raise ValueError(
                f"the network's output {output.shape} is not one of left, top, right, bottom, score and class id, with "
                f"{len(self.names)} names: {why}; give the names that it was trained with, or write a head for it"
            )
        return output

    def _finds(self, rows: np.ndarray) -> Detections:
        rows = rows[(rows[:, 4] > self.threshold) & (rows[:, 5] != -1)]
        return Detections(rows[:, :4], rows[:, 4], rows[:, 5], self.names)


class CenterFaceHead:
    """Reads CenterFace, a network that finds faces.

    :param threshold: least score that counts, 0 to 1.
    :param overlap: intersection over union from which two boxes count as the same face, 0 to 1.
    :raises ValueError: when one of them is out of range.
    """

    scale = 1.0
    names = ("face",)

    def __init__(self, *, threshold: float = 0.5, overlap: float = 0.3) -> None:
        self.threshold = _checked_share("threshold", threshold)
        self.overlap = _checked_share("overlap", overlap)

    def __call__(self, outputs: Sequence[np.ndarray]) -> list[Detections]:
        """Returns the detections in each image.

        :raises ValueError: when these are not the outputs of a CenterFace.
        """
        channels = [each.shape[1] if each.ndim == 4 else 0 for each in outputs]
        if channels != [1, 2, 2, 10] or len({each.shape[2:] for each in outputs}) != 1:
            raise ValueError(
                f"CenterFace has outputs of 1, 2, 2 and 10 channels, of one size, not {_shapes(outputs)}: it is another one"
            )
        heat, scale, offset, _ = outputs
        return [self._image(*each) for each in zip(heat[:, 0], scale, offset, strict=True)]

    def _image(self, heat: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> Detections:
        _check_scores(heat)
        rows, columns = np.nonzero(heat > self.threshold)
        places = np.stack([rows, columns])
        score = heat[rows, columns]
        half = np.exp(scale[:, rows, columns]) * (STRIDE / 2)  # vertical before horizontal, as in all that the network gives
        centre = (places + offset[:, rows, columns] + 0.5) * STRIDE
        corners = np.stack([*(centre - half)[::-1], *(centre + half)[::-1]], axis=1)
        faces = np.zeros(len(score), np.int64)
        kept = _suppressed(corners, score, faces, self.threshold, self.overlap)
        return Detections(corners[kept], score[kept], faces[kept], self.names)


def _suppressed(corners: np.ndarray, score: np.ndarray, classes: np.ndarray, threshold: float, overlap: float) -> np.ndarray:
    """The indexes that stay: of boxes that overlap, the one with the best score."""
    sizes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).astype(np.float64)
    kept = cv2.dnn.NMSBoxesBatched(sizes.tolist(), score.tolist(), classes.tolist(), threshold, overlap)
    return np.asarray(kept, np.int64).ravel()


def _shapes(outputs: Sequence[np.ndarray]) -> str:
    return ", ".join(str(each.shape) for each in outputs)


def _why_not_finds(output: np.ndarray, threshold: float) -> str:
    """Why these are not rows of corners, score and class id; empty if they may be. Rows with id -1 are padding."""
    rows = output[output[..., 5] != -1]
    (left, top, right, bottom), scores, ids = rows[:, :4].T, rows[:, 4], rows[:, 5]
    if not ((ids >= 0) & (ids == np.round(ids))).all():
        return "the sixth column has no class ids"
    if not ((scores >= 0) & (scores <= 1 + SLACK)).all():
        return "the fifth column has no scores from 0 to 1"
    if not ((right >= left) & (bottom >= top))[scores > threshold].all():
        return "the first four columns are no corners"
    return ""


def _check_scores(scores: np.ndarray) -> None:
    """:raises ValueError: when these can't be scores; objects would be missed silently."""
    if np.isnan(scores).any():
        raise ValueError("the network's scores are NaN: its weights are damaged, or overflow in half precision")
    if scores.size and (scores.min() < -SLACK or scores.max() > 1 + SLACK):
        raise ValueError(
            f"the network's scores are from {scores.min():.3g} to {scores.max():.3g}, not from 0 to 1: it is of another kind, "
            f"or was exported without its last step"
        )


def _checked_share(what: str, value: float) -> float:
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{what} must be a number from 0 to 1, not {shown(value)}")
    return float(value)
