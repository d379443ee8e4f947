"""Heads for YOLO networks that tell more than upright boxes: masks, keypoints, boxes that are turned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipert_shm.errors import shown
from pipert_shm.limits import is_count
from pipert_shm.video.detection import Detections
from pipert_shm.video.masks import cut, side_for
from pipert_shm.video.models.head import sigmoid
from pipert_shm.video.models.yolo import Form, Found, YoloHead
from pipert_shm.video.names import Names


class YoloSegmentHead(YoloHead):
    """Reads YOLO networks for segmentation: their detections have `masks`.

    They have two outputs: one as `YoloHead` reads it, with as many further columns as there are prototypes, and the prototypes,
    (batch, prototypes, height, width), which cover the network's input.

    For the parameters see `YoloHead`.
    """

    def __call__(self, outputs: Sequence[np.ndarray], size: tuple[int, int] | None = None) -> list[Detections]:
        """Returns the detections in each image. A mask has the prototypes' resolution within its box, 160 pixels a side at
        most.

        :raises ValueError: when the outputs do not have shapes that go with the names, or hold what can't be meant.
        """
        if sorted(each.ndim for each in outputs) != [3, 4]:
            raise self._misfit(outputs)
        if size is None:
            raise ValueError("for masks the size of the network's input is needed: head(outputs, (640, 640))")
        rows, prototypes = sorted(outputs, key=lambda each: each.ndim)
        images = self._read([rows], prototypes.shape[1])
        return [self._masked(*each, size) for each in zip(images, np.asarray(prototypes, np.float32), strict=True)]

    def _masked(self, found: Found, prototypes: np.ndarray, size: tuple[int, int]) -> Detections:
        detections = self._made(found).clipped(*size)
        factors = np.array([prototypes.shape[2] / size[0], prototypes.shape[1] / size[1]] * 2, np.float32)
        detections.masks = masks_from(prototypes, found.more, detections.boxes * factors)
        return detections

    def _expected(self, classes: int) -> str:
        return (
            f"the network's outputs are prototypes (batch, p, height, width) and (batch, {4 + classes} + p, n), or "
            f"(batch, n, {5 + classes} + p), or (batch, n, 6 + p) end to end"
        )


def masks_from(prototypes: np.ndarray, shares: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Makes masks of prototypes, (n, side, side) uint8. Only what lies in the boxes is worked out.

    :param prototypes: (p, height, width) float32.
    :param shares: (n, p): how much each prototype counts for each detection.
    :param boxes: (n, 4) in pixels of the prototypes.
    """
    side = side_for(boxes)
    made = np.zeros((len(boxes), side, side), np.uint8)
    height, width = prototypes.shape[1:]
    for share, box, out in zip(shares, boxes, made, strict=True):
        if not (np.isfinite(box).all() and (box[2:] > box[:2]).all()):
            continue
        left, top = (min(max(0, int(edge) - 1), last) for edge, last in ((box[0], width - 1), (box[1], height - 1)))
        part = prototypes[:, top : int(box[3]) + 2, left : int(box[2]) + 2]
        logits = np.tensordot(share, part, 1)
        likely = sigmoid(cut(logits, box - np.array([left, top] * 2, np.float32), (side, side)))
        out[...] = np.minimum(likely * 256, 255)  # 128 is what is as likely as not
    return made


class YoloPoseHead(YoloHead):
    """Reads YOLO networks for poses: their detections have `keypoints`.

    The output is one as `YoloHead` reads it, with further columns for the keypoints. Points without a column that says how
    likely they are to be seen count as seen.

    :param names: class names; see `YoloHead` for these and the other parameters.
    :param keypoints: how many keypoints an object has, and how many columns each: 3, or 2 without how likely they are.
    :raises ValueError: when they are not two such numbers.
    """

    def __init__(
        self,
        names: Names = ("person",),
        keypoints: Sequence[int] = (17, 3),
        *,
        threshold: float = 0.25,
        overlap: float = 0.45,
        form: Form | None = None,
    ) -> None:
        super().__init__(names, threshold=threshold, overlap=overlap, form=form)
        if isinstance(keypoints, str) or len(keypoints) != 2 or not is_count(keypoints[0]) or keypoints[1] not in (2, 3):
            raise ValueError(
                f"keypoints are how many there are, and how many columns each has, 2 or 3: (17, 3), not {shown(keypoints)}"
            )
        self.keypoints = (int(keypoints[0]), int(keypoints[1]))

    def __call__(self, outputs: Sequence[np.ndarray], size: tuple[int, int] | None = None) -> list[Detections]:
        """Returns the detections in each image.

        :raises ValueError: when the output does not have a shape that goes with names and keypoints, or holds what can't be
        meant.
        """
        if len(outputs) != 1 or outputs[0].ndim != 3:
            raise self._misfit(outputs)
        return [self._made(found) for found in self._read(outputs, self.keypoints[0] * self.keypoints[1])]

    def _made(self, found: Found) -> Detections:
        points = found.more.reshape(len(found.boxes), *self.keypoints)
        if self.keypoints[1] == 2:
            points = np.dstack([points, np.ones(points.shape[:2], np.float32)])
        detections = super()._made(found)
        detections.keypoints = np.ascontiguousarray(points, np.float32)
        return detections

    def _expected(self, classes: int) -> str:
        count, each = self.keypoints
        return (
            f"{count} keypoints of {each} columns the network's one output is (batch, {4 + classes + count * each}, n), or "
            f"(batch, n, {5 + classes + count * each}), or (batch, n, {6 + count * each}) end to end"
        )


class YoloObbHead(YoloHead):
    """Reads YOLO networks for oriented boxes: their detections have `corners`, and `boxes` around these.

    The output is one as `YoloHead` reads it, with centres and sizes in all forms, and a last column with the angle, radians.

    For the parameters see `YoloHead`. The `overlap` is that of Gaussian distributions which stand for the boxes (ProbIoU), as
    in Ultralytics' own suppression.
    """

    _no_boxes = "the third and fourth column are no width and height"

    def __call__(self, outputs: Sequence[np.ndarray], size: tuple[int, int] | None = None) -> list[Detections]:
        """Returns the detections in each image.

        :raises ValueError: when the output does not have a shape that goes with the names, or holds what can't be meant.
        """
        if len(outputs) != 1 or outputs[0].ndim != 3:
            raise self._misfit(outputs)
        return [self._made(found) for found in self._read(outputs, 1)]

    def _made(self, found: Found) -> Detections:
        corners = turned_corners(found.boxes, found.more[:, 0])
        boxes = np.hstack([corners.min(axis=1), corners.max(axis=1)])
        return Detections(boxes, found.scores, found.classes, self.names, corners=corners)

    def _boxes(self, centred: np.ndarray) -> np.ndarray:
        return centred

    def _are_boxes(self, boxes: np.ndarray) -> np.ndarray:
        return np.asarray((boxes[:, 2:] >= 0).all(axis=1))

    def _suppressed(self, boxes: np.ndarray, score: np.ndarray, classes: np.ndarray, more: np.ndarray) -> np.ndarray:
        order = np.argsort(-score, kind="stable")
        turned = _gaussians(np.hstack([boxes, more])[order].astype(np.float64))
        kinds = classes[order]
        kept = [place for place in range(len(order)) if not self._is_doubled(turned, kinds, place)]
        return order[kept]

    def _is_doubled(self, turned: np.ndarray, kinds: np.ndarray, place: int) -> bool:
        """Whether a better one overlaps it. That one may overlap a better one itself, as in Ultralytics' suppression."""
        better = turned[:place][kinds[:place] == kinds[place]]
        return bool((_overlap(turned[place], better) > self.overlap).any())

    def _expected(self, classes: int) -> str:
        return (
            f"the network's one output is (batch, {5 + classes}, n), or (batch, n, {6 + classes}), or (batch, n, 7) end to "
            "end, with the angle in its last column"
        )


def turned_corners(boxes: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The corners, (n, 4, 2), of boxes that are told by centre, size (n, 4) and angle (n,)."""
    across = np.stack([np.cos(angles), np.sin(angles)], axis=1) * boxes[:, 2:3] / 2
    down = np.stack([-np.sin(angles), np.cos(angles)], axis=1) * boxes[:, 3:4] / 2
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    corners = np.stack([boxes[:, :2] + right * across + below * down for right, below in signs], axis=1)
    return np.asarray(corners, np.float32)


def _gaussians(turned: np.ndarray) -> np.ndarray:
    """Centre and covariance (x, y, a, b, c) of distributions that stand for boxes, (n, 5): centre, size, angle."""
    x, y, width, height, angle = turned.T
    long, short = width**2 / 12, height**2 / 12
    cosine, sine = np.cos(angle), np.sin(angle)
    a = long * cosine**2 + short * sine**2
    b = long * sine**2 + short * cosine**2
    return np.stack([x, y, a, b, (long - short) * cosine * sine], axis=1)


def _overlap(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How much a box overlaps others, 0 to 1: 1 less Hellinger's distance (https://arxiv.org/abs/2106.06072)."""
    tiny = 1e-7
    x, y, a, b, c = (one - others * np.array([1, 1, -1, -1, -1])).T  # differences of centres, sums of covariances
    area = a * b - c**2
    one_area, areas = one[2] * one[3] - one[4] ** 2, others[:, 2] * others[:, 3] - others[:, 4] ** 2
    apart = (a * y**2 + b * x**2 - 2 * c * x * y) / (area + tiny) / 4
    unlike = np.log(area / (4 * np.sqrt(np.maximum(one_area, 0) * np.maximum(areas, 0)) + tiny) + tiny) / 2
    distance = np.clip(apart + unlike, tiny, 100)
    return np.asarray(1 - np.sqrt(1 - np.exp(-distance) + tiny))
