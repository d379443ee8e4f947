"""A second network that looks at what a first one has found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipert_shm.errors import shown
from pipert_shm.limits import check_choice, check_count, is_number
from pipert_shm.video.detection import DetectedFrame, Detections
from pipert_shm.video.formats import size_of
from pipert_shm.video.models.joining import concatenated
from pipert_shm.video.models.network_detector import NetworkDetector, formats_of
from pipert_shm.video.models.parts import AnyDetector, LooksInParts, Part, part_around
from pipert_shm.video.names import class_numbers

LOOKED_AT, TOO_SMALL, TOO_MANY = "looked_at", "too_small", "too_many"


class Cascade(LooksInParts):
    """Has a second detector look at the boxes of a first one, such as plates in cars, or what kind of bird a bird is.

    It takes the `DetectedFrame` of the first detector, and sends it with more in it. The parts that the second one gets are
    views of the frame, so nothing is copied, unless the frame is planar. Parts of several frames make one batch.

    - With `keep="best"` the best result of each box stands in columns of its row: `data["plate_label"]` (a text, empty
      if there is none), `data["plate_score"]`, and `data["plate_box"]`, four numbers in pixels of the frame (NaN if there is
      none), where `plate` is what `column` says.
    - With `keep="all"` all results are detections, after those of the first one. `data["id"]` numbers the detections of a
      frame, and `data["parent"]` is the `id` of the box that a result was found in, -1 for those of the first detector. So a
      third detector can look at what the second one has found. A `Tracker` follows all of them.

    Counters are how many boxes were `looked_at`, were `too_small`, or were left out since there were `too_many`, and those of
    the detector.

    :param detector: the second detector: a `DnnDetector`, a `TorchDetector`, or another `Detector`.
    :param classes: which boxes it looks at, by names or ids of the first detector's classes; None for all.
    :param keep: `best` or `all`.
    :param column: what the columns of `keep="best"` begin with.
    :param margin: how much of a box's width and height is added to it on each side.
    :param smallest: pixels that the shorter side of a box must have.
    :param most: boxes of a frame that it looks at; of more, those with the best scores.
    :param batch_size: the most frames in one call; a network's own batches are as its `batch_size` says.
    :param max_wait: seconds that the first frame of a batch may wait for others.
    :raises TypeError, ValueError: when one of these is not what it should be.

    >>> from pipert_shm import Detector
    >>> class Brightest(Detector):
    ...     def detect(self, frame):
    ...         row, column = np.unravel_index(frame.max(axis=2).argmax(), frame.shape[:2])
    ...         return Detections([[column, row, column + 1, row + 1]], [1.0], [0], ["spot"])
    >>> frame = np.zeros((100, 100, 3), np.uint8)
    >>> frame[30, 40] = 255
    >>> first = Detections([[20, 20, 60, 60]], [0.9], [0], ["lamp"])
    >>> (sent,) = Cascade(Brightest(), column="spot").main_logic([DetectedFrame(frame, first)])
    >>> sent.detections.labels, sent.detections.data["spot_box"].tolist()
    (['lamp'], [[40.0, 30.0, 41.0, 31.0]])
    """

    counter_names = (*NetworkDetector.counter_names, LOOKED_AT, TOO_SMALL, TOO_MANY)

    def __init__(
        self,
        detector: AnyDetector,
        name: str | None = None,
        *,
        classes: Sequence[str | int] | None = None,
        keep: Literal["best", "all"] = "best",
        column: str = "second",
        margin: float = 0.0,
        smallest: int = 16,
        most: int = 32,
        batch_size: int = 8,
        max_wait: float = 0.0,
    ) -> None:
        super().__init__(detector, name, batch_size=batch_size, max_wait=max_wait)
        check_choice("keep", keep, ("best", "all"))
        if not isinstance(column, str) or not column:
            raise ValueError(f"column is what the columns begin with, such as 'plate', not {shown(column)}")
        if not is_number(margin) or not 0 <= margin <= 10:
            raise ValueError(f"margin is a share of a box's size from 0 to 10, not {shown(margin)}")
        if classes is not None and (isinstance(classes, str) or not classes):
            raise ValueError(
                f"classes are a list of class names or ids, such as ['car'], or None for all, not {shown(classes)}"
            )
        check_count("smallest", smallest)
        check_count("most", most)
        self._classes, self._keep, self._column = classes, keep, column
        self._margin, self._smallest, self._most = margin, smallest, most

    def main_logic(self, batch: Sequence[DetectedFrame]) -> list[DetectedFrame]:
        """Returns each frame with what was found in its boxes.

        :raises TypeError: when a payload is no `DetectedFrame`.
        :raises ValueError: when the first detector has no class of that name.
        """
        if wrong := [data for data in batch if not isinstance(data, DetectedFrame)]:
            raise TypeError(f"a DetectedFrame is needed, not {shown(wrong[0])}: wire a detector before this routine")
        formats = formats_of(self, [data.frame for data in batch])
        chosen = [self._chosen(data.detections) for data in batch]
        parts: list[list[Part]] = []
        for number, (data, format) in enumerate(zip(batch, formats, strict=True)):
            size = size_of(data.frame, format)
            around = {row: part_around(data.detections.boxes[row], size, format, self._margin) for row in chosen[number]}
            kept = {row: part for row, part in around.items() if part is not None and min(part[2:]) >= self._smallest}
            self.counters[TOO_SMALL] += len(around) - len(kept)
            self.counters[LOOKED_AT] += len(kept)
            chosen[number] = list(kept)
            parts.append(list(kept.values()))
        found = self._find([data.frame for data in batch], formats, parts)
        join = self._with_best if self._keep == "best" else self._with_all
        return [
            data.changed(detections=join(data.detections, rows, its))
            for data, rows, its in zip(batch, chosen, found, strict=True)
        ]

    def _chosen(self, found: Detections) -> list[int]:
        """The rows that are looked at."""
        rows = np.flatnonzero(np.isfinite(found.boxes).all(axis=1))
        if self._classes is not None:
            if found.class_ids is None:
                if len(found):
                    raise ValueError(f"these detections have no classes, so {shown(self._classes)} can't be told from others")
                return []
            rows = rows[np.isin(found.class_ids[rows], list(class_numbers(self._classes, found.names)))]
        if len(rows) > self._most:
            self.counters[TOO_MANY] += len(rows) - self._most
            if found.scores is not None:
                rows = rows[np.argsort(-np.nan_to_num(found.scores[rows]), kind="stable")]
            rows = np.sort(rows[: self._most])
        return list(map(int, rows))

    def _with_best(self, first: Detections, rows: list[int], found: list[Detections]) -> Detections:
        """The first detector's detections, with the best of the second's results in their rows."""
        labels = [""] * len(first)
        scores = np.full(len(first), np.nan, np.float32)
        boxes = np.full((len(first), 4), np.nan, np.float32)
        for row, its in zip(rows, found, strict=True):
            if not len(its):
                continue
            best = 0 if its.scores is None else int(np.nan_to_num(its.scores).argmax())
            labels[row], boxes[row] = its.labels[best], its.boxes[best]
            scores[row] = np.nan if its.scores is None else its.scores[best]
        new = first.select(slice(None))
        named = {"label": np.array(labels, np.str_), "score": scores, "box": boxes}
        new.data |= {f"{self._column}_{what}": column for what, column in named.items()}
        return new

    def _with_all(self, first: Detections, rows: list[int], found: list[Detections]) -> Detections:
        """The first detector's detections, and the second's, which know whose they are."""
        mothers = first.select(slice(None))
        count = len(mothers)
        mothers.data.setdefault("id", np.arange(count))
        mothers.data.setdefault("parent", np.full(count, -1))
        following = int(mothers.data["id"].max()) + 1 if count else 0
        children = concatenated(found) if found else Detections([])
        parents = [int(mothers.data["id"][row]) for row, its in zip(rows, found, strict=True) for _ in range(len(its))]
        children.data["id"] = np.arange(following, following + len(children))
        children.data["parent"] = np.array(parents, np.int64)
        return concatenated([mothers, children]) if len(children) else mothers
