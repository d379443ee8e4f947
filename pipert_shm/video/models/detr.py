"""Heads for networks of the DETR family: they tell a fixed number of objects, with boxes as shares of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from pipert_shm.errors import shown
from pipert_shm.video.detection import Detections
from pipert_shm.video.masks import cut, side_for
from pipert_shm.video.models.head import (
    PlainHead,
    check_scores,
    checked_share,
    corners_of,
    every_name,
    shapes,
    sigmoid,
    softmax,
)
from pipert_shm.video.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from pipert_shm.video.names import Names, checked_names

Scores = Literal["sigmoid", "softmax"]
Output = Literal["boxes", "logits", "masks"]

STRETCHED = Preprocessing(fit="stretch")
NORMALISED = Preprocessing(fit="stretch", mean=IMAGENET_MEAN, std=IMAGENET_STD)
SIZES = "orig_target_sizes"
"""The input by which RT-DETR's own networks are told in which pixels boxes are wanted."""

_SLACK = 0.5  # how far a box may reach out of the picture, in shares of it


class DetrHead(PlainHead):
    """Reads networks that tell a box and a logit for each class: RF-DETR, and DETR, Deformable DETR, RT-DETR … of
    `transformers`.

    Their outputs are boxes (batch, n, 4), centre and size as shares of the input, logits (batch, n, classes), and perhaps masks
    (batch, n, height, width), which cover the input.

    :param names: class names: a list, or a dict by id that may leave ids out. With `softmax` the logits have one more, last,
        which stands for no object. Logits of ids without a name are left out.
    :param scores: `sigmoid` where each class has a score of its own, so that a box may be told for two classes; `softmax` where
        the classes share it, as in the first DETR.
    :param threshold: least score that counts, 0 to 1.
    :param order: of the network's outputs; by default that of RF-DETR. `transformers` gives `["logits", "boxes"]`.
    :param preprocessing: by default the picture is stretched, and normalised as for ImageNet, which RF-DETR and most of
        `transformers` want. Its RT-DETR wants `Preprocessing(fit="stretch")`.
    :raises TypeError: when the names are not a list or dict of names.
    :raises ValueError: when a number is out of range, or there is no such choice.
    """

    def __init__(
        self,
        names: Names,
        *,
        scores: Scores = "sigmoid",
        threshold: float = 0.5,
        order: Sequence[Output] = ("boxes", "logits"),
        preprocessing: Preprocessing | None = None,
    ) -> None:
        self.names = checked_names(names)
        if scores not in get_args(Scores):
            raise ValueError(f"scores must be one of {', '.join(get_args(Scores))}, not {shown(scores)}")
        if isinstance(order, str) or sorted(order) not in (["boxes", "logits"], ["boxes", "logits", "masks"]):
            raise ValueError(f"order names the outputs: boxes, logits and perhaps masks, each once, not {shown(order)}")
        self.scores = scores
        self.threshold = checked_share("threshold", threshold)
        self.order = tuple(order)
        self.preprocessing = preprocessing or NORMALISED

    def __call__(self, outputs: Sequence[np.ndarray], size: tuple[int, int]) -> list[Detections]:
        """Returns the detections in each image, the most likely first.

        :raises ValueError: when the outputs do not have shapes that go with names and order, or hold what can't be meant.
        """
        by_kind = dict(zip(self.order, outputs, strict=False))
        boxes, logits, masks = (by_kind.get(kind) for kind in get_args(Output))
        if len(outputs) != len(self.order) or boxes is None or logits is None or not self._fits(boxes, logits, masks):
            raise self._misfit(outputs)
        numbers = range(len(boxes))
        return [self._image(boxes[each], logits[each], None if masks is None else masks[each], size) for each in numbers]

    def _fits(self, boxes: np.ndarray, logits: np.ndarray, masks: np.ndarray | None) -> bool:
        if boxes.ndim != 3 or boxes.shape[2] != 4 or logits.ndim != 3 or logits.shape[:2] != boxes.shape[:2]:
            return False
        if masks is not None and (masks.ndim != 4 or masks.shape[:2] != boxes.shape[:2]):
            return False
        columns = int(logits.shape[2])
        if isinstance(self.names, dict):
            return max(self.names) < int(columns)
        return len(self.names) == columns - 1 or (len(self.names) == columns and self.scores == "sigmoid")

    def _misfit(self, outputs: Sequence[np.ndarray]) -> ValueError:
        count = len(self.names)
        columns = f"{count + 1}" if self.scores == "softmax" else f"{count} or {count + 1}"
        if isinstance(self.names, dict):
            columns = f"more than {max(self.names)}"
        wanted = {"boxes": "(batch, n, 4)", "logits": f"(batch, n, {columns})", "masks": "(batch, n, height, width)"}
        there = ", ".join(f"{kind} {wanted[kind]}" for kind in self.order)
        return ValueError(
            f"with {count} names, scores={self.scores!r} and this order the network's outputs are {there}, not "
            f"{shapes(outputs)}; give the names that it was trained with, or another order"
        )

    def _image(self, boxes: np.ndarray, logits: np.ndarray, masks: np.ndarray | None, size: tuple[int, int]) -> Detections:
        scores = (
            sigmoid(np.asarray(logits, np.float32)) if self.scores == "sigmoid" else softmax(np.asarray(logits, np.float32))
        )
        check_scores(scores)
        named = sorted(self.names) if isinstance(self.names, dict) else range(len(self.names))
        columns = np.array(named, np.int64)
        scores = scores[:, columns]
        if self.scores == "softmax":  # a box is of its likeliest class, unless it is of none
            scores = np.where(scores == scores.max(axis=1, keepdims=True), scores, 0)
        rows, kinds = np.nonzero(scores > self.threshold)
        order = np.argsort(-scores[rows, kinds], kind="stable")[: len(boxes)]
        rows, kinds = rows[order], kinds[order]
        found = Detections(scaled_up(boxes[rows], size), scores[rows, kinds], columns[kinds], self.names).clipped(*size)
        if masks is not None:
            found.masks = _masks(np.asarray(masks[rows], np.float32), found.boxes, size)
        return found


def scaled_up(shares: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Corners in pixels, of centres and sizes that are shares of the input, (n, 4).

    :raises ValueError: when they can't be shares.
    """
    corners = corners_of(np.asarray(shares, np.float32))
    if corners.size and (corners.min() < -_SLACK or corners.max() > 1 + _SLACK):
        raise ValueError(
            f"the network's boxes reach from {corners.min():.3g} to {corners.max():.3g}, and should be shares of its input, 0 "
            "to 1: it is of another kind, or its outputs come in another order"
        )
    return corners * np.array(size * 2, np.float32)


def _masks(logits: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """:param logits: (n, height, width), over the whole input."""
    factors = np.array([logits.shape[2] / size[0], logits.shape[1] / size[1]] * 2, np.float32)
    boxes = boxes * factors
    side = side_for(boxes)
    made = np.zeros((len(boxes), side, side), np.uint8)
    for plane, box, out in zip(logits, boxes, made, strict=True):
        if (box[2:] > box[:2]).all():
            out[...] = np.minimum(sigmoid(cut(plane, box, (side, side))) * 256, 255)
    return made


class RtDetrHead(PlainHead):
    """Reads networks of the DETR family that tell finished detections:

    - those of RT-DETR's authors, D-FINE and DEIM, with three outputs: labels (batch, n), boxes (batch, n, 4), corners in
      pixels, and scores (batch, n). Their input `orig_target_sizes` gets the size of the network's input;
    - RT-DETR by Ultralytics, with one output: (batch, n, 6), centre and size as shares of the input, score and class id; or, of
      earlier versions, (batch, n, 4 + classes), with a score for each class.

    :param names: class names: a list, or a dict by id.
    :param threshold: least score that counts, 0 to 1.
    :param preprocessing: by default the picture is stretched.
    :raises TypeError: when the names are not a list or dict of names.
    :raises ValueError: when an id has no name, or a number is out of range.
    """

    def __init__(self, names: Names, *, threshold: float = 0.5, preprocessing: Preprocessing | None = None) -> None:
        self.names = every_name(names, type(self).__name__)
        self.threshold = checked_share("threshold", threshold)
        self.preprocessing = preprocessing or STRETCHED

    def more_inputs(self, count: int, size: tuple[int, int]) -> Mapping[str, np.ndarray]:
        """Returns the size in whose pixels the boxes are wanted: that of the network's input."""
        return {SIZES: np.array([size] * count, np.int64).reshape(count, 2)}

    def __call__(self, outputs: Sequence[np.ndarray], size: tuple[int, int]) -> list[Detections]:
        """Returns the detections in each image.

        :raises ValueError: when the outputs do not have shapes that go with the names, or hold what can't be meant.
        """
        if len(outputs) == 3:
            labels, boxes, scores = self._in_order(outputs)
            return [self._made(*each) for each in zip(boxes, scores, labels, strict=True)]
        if len(outputs) != 1 or outputs[0].ndim != 3 or outputs[0].shape[2] not in (6, 4 + len(self.names)):
            raise self._misfit(outputs)
        output = np.asarray(outputs[0], np.float32)
        if output.shape[2] == 6 and len(self.names) != 2:
            return [self._made(scaled_up(rows[:, :4], size), rows[:, 4], rows[:, 5]) for rows in output]
        if output.shape[2] == 6 and (output[..., 5] == np.round(output[..., 5])).all():  # a second score is no whole number
            return [self._made(scaled_up(rows[:, :4], size), rows[:, 4], rows[:, 5]) for rows in output]
        return [
            self._made(scaled_up(rows[:, :4], size), rows[:, 4:].max(axis=1), rows[:, 4:].argmax(axis=1)) for rows in output
        ]

    def _in_order(self, outputs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, boxes and scores: labels are whole numbers, and boxes have four columns."""
        boxes = [each for each in outputs if each.ndim == 3 and each.shape[2] == 4]
        labels = [each for each in outputs if each.ndim == 2 and each.dtype.kind in "iu"]
        scores = [each for each in outputs if each.ndim == 2 and each.dtype.kind == "f"]
        if not (len(boxes) == len(labels) == len(scores) == 1):
            raise self._misfit(outputs)
        return labels[0], boxes[0], scores[0]

    def _made(self, boxes: np.ndarray, scores: np.ndarray, ids: np.ndarray) -> Detections:
        check_scores(scores)
        likely = scores > self.threshold
        ids = ids[likely]
        if ids.size and not (ids.min() >= 0 and ids.max() < len(self.names)):
            raise ValueError(
                f"the network tells class ids from {ids.min():.0f} to {ids.max():.0f}, and there are {len(self.names)} names: "
                "give the names that it was trained with"
            )
        return Detections(boxes[likely], scores[likely], ids, self.names)

    def _misfit(self, outputs: Sequence[np.ndarray]) -> ValueError:
        return ValueError(
            "RT-DETR has three outputs, labels (batch, n), boxes (batch, n, 4) and scores (batch, n), or with "
            f"{len(self.names)} names one, (batch, n, 6) or (batch, n, {4 + len(self.names)}), not {shapes(outputs)}: give the "
            "names that it was trained with"
        )
