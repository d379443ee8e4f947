"""A detector that looks at a large picture tile by tile, for small things."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipert_shm.data import Format, FrameData
from pipert_shm.errors import shown
from pipert_shm.extras import to_install
from pipert_shm.limits import check_flag, is_count, is_number
from pipert_shm.video.detection import DetectedFrame, Detections, detected
from pipert_shm.video.formats import is_planar, size_of
from pipert_shm.video.image import frame_of
from pipert_shm.video.models.joining import concatenated
from pipert_shm.video.models.network_detector import NetworkDetector, formats_of
from pipert_shm.video.models.parts import AnyDetector, LooksInParts, Part

TILES = "tiles"


class Tiles(LooksInParts):
    """Has a detector look at each frame in tiles that overlap, and at the whole frame, and joins what it finds.

    A network shrinks a frame to its input, and so misses what is small in a large frame. In a tile it sees that in full size.
    It is the way of SAHI (Akyon, Altinuc and Temizel, "Slicing Aided Hyper Inference and Fine-tuning for Small Object
    Detection", 2022): boxes of one class of which the smaller one lies by more than `join` in the larger one are one object,
    whose box goes around them all. The library `supervision` does that (the extra `tracking`).

    It takes arrays and `FrameData`, and sends a `DetectedFrame`. Tiles are views of the frame, so nothing is copied, unless
    the frame is planar. Tiles of several frames make one batch. The counter `tiles` counts them, whole frames included.

    :param detector: a `DnnDetector`, a `TorchDetector`, or another `Detector`.
    :param size: width and height of a tile, in pixels. That of the network's input shows each pixel as it is.
    :param overlap: the least share of a tile that it has in common with the next one, 0 to 0.9. An object that is smaller than
        that is whole in one of them.
    :param whole: whether the detector looks at the whole frame, too, for what is larger than a tile.
    :param join: intersection over the smaller of two boxes from which they are one object, 0 to 1.
    :param batch_size: the most frames in one call; a network's own batches are as its `batch_size` says.
    :param max_wait: seconds that the first frame of a batch may wait for others.
    :raises TypeError, ValueError: when one of these is not what it should be.
    """

    counter_names = (*NetworkDetector.counter_names, TILES)

    def __init__(
        self,
        detector: AnyDetector,
        name: str | None = None,
        *,
        size: tuple[int, int] = (640, 640),
        overlap: float = 0.2,
        whole: bool = True,
        join: float = 0.5,
        batch_size: int = 1,
        max_wait: float = 0.0,
    ) -> None:
        super().__init__(detector, name, batch_size=batch_size, max_wait=max_wait)
        if not isinstance(size, tuple | list) or len(size) != 2 or not all(is_count(side, 2) for side in size):
            raise ValueError(f"size is a width and a height of at least 2 pixels, such as (640, 640), not {shown(size)}")
        if not is_number(overlap) or not 0 <= overlap <= 0.9:
            raise ValueError(f"overlap is a share of a tile from 0 to 0.9, not {shown(overlap)}")
        if not is_number(join) or not 0 < join <= 1:
            raise ValueError(f"join is a share above 0 and up to 1, not {shown(join)}")
        check_flag("whole", whole)
        self._size, self._overlap, self._whole, self._join = (int(size[0]), int(size[1])), overlap, bool(whole), join

    def setup(self) -> None:
        """Sets the detector up.

        :raises ImportError: when `supervision` is not installed.
        :raises Exception: as the detector's `setup()` does.
        """
        try:
            import supervision  # noqa: F401 - it is needed for each frame
        except ModuleNotFoundError as error:
            raise ImportError(f"supervision is not installed ({error}): {to_install('tracking')}") from error
        super().setup()

    def main_logic(self, batch: Sequence[np.ndarray | FrameData]) -> list[DetectedFrame]:
        """Returns each frame with its detections."""
        frames = [frame_of(data) for data in batch]
        formats = formats_of(self, frames)
        tiles = [self._tiles(frame, format) for frame, format in zip(frames, formats, strict=True)]
        self.counters[TILES] += sum(map(len, tiles))
        found = [joined(concatenated(its), self._join) for its in self._find(frames, formats, tiles)]
        return [detected(data, frame, its) for data, frame, its in zip(batch, frames, found, strict=True)]

    def _tiles(self, frame: np.ndarray, format: Format) -> list[Part]:
        width, height = size_of(frame, format)
        step = 2 if is_planar(format) else 1
        columns = starts(width, self._size[0], self._overlap, step)
        rows = starts(height, self._size[1], self._overlap, step)
        across, down = min(self._size[0] // step * step, width), min(self._size[1] // step * step, height)
        tiles = [(left, top, across, down) for top in rows for left in columns]
        return [*tiles, (0, 0, width, height)] if self._whole and len(tiles) > 1 else tiles


def starts(length: int, tile: int, overlap: float, step: int = 1) -> list[int]:
    """Returns where tiles begin that cover a length evenly.

    :param tile: length of a tile.
    :param overlap: the least share of it that it has in common with the next one.
    :param step: of which number each beginning is a multiple.

    >>> starts(1920, 640, 0.2), starts(640, 640, 0.2)
    ([0, 427, 853, 1280], [0])
    """
    rest = length - tile
    if rest <= 0:
        return [0]
    count = math.ceil(rest / max(1, math.floor(tile * (1 - overlap)))) + 1
    last = rest // step * step
    return [*(round(number * rest / (count - 1) / step) * step for number in range(count - 1)), last]


def joined(found: Detections, share: float) -> Detections:
    """Returns the detections, with those that are one object as one: the best of them, with the box around them all.

    :param share: intersection over the smaller box from which two of one class are one object.
    """
    if len(found) < 2:
        return found
    import supervision

    scores = np.ones(len(found), np.float32) if found.scores is None else np.nan_to_num(found.scores)
    classes = np.zeros(len(found)) if found.class_ids is None else found.class_ids
    predictions = np.column_stack([found.boxes, scores, classes])
    groups = supervision.box_non_max_merge(predictions, share, supervision.OverlapMetric.IOS)
    best = [max(group, key=lambda row: float(scores[row])) for group in groups]
    new = found.select(np.array(best, np.int64))
    if new.masks is None and new.corners is None:  # these belong to the best one's own box
        new.boxes = np.array([_around(found.boxes[np.array(group)]) for group in groups], np.float32)
    return new


def _around(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
