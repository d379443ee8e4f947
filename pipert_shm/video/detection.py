"""Detections, the frames that carry them, and the base class of detectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from pipert_shm.data import Data, FrameData
from pipert_shm.errors import shown
from pipert_shm.extras import to_install
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.limits import is_count
from pipert_shm.routine import MiddleRoutine, Routine
from pipert_shm.video.image import frame_of

if TYPE_CHECKING:
    import supervision


Names: TypeAlias = Sequence[str] | Mapping[int, str]
"""Class names by class id: a list, or a mapping that may leave ids out."""


def checked_names(names: Names) -> tuple[str, ...] | dict[int, str]:
    """Returns the names as `Detections` keeps them.

    :raises TypeError: when they are a text, a set, or a mapping whose keys are not class ids.

    >>> checked_names({1: "bicycle", 0: "person"}), checked_names({2: "car"})
    (('person', 'bicycle'), {2: 'car'})
    """
    if isinstance(names, str | bytes | set | frozenset) or not isinstance(names, Iterable):
        raise TypeError(f"names are a list of class names, such as ['person'], or a dict by class id, not {shown(names)}")
    if not isinstance(names, Mapping):
        by_id = dict(enumerate(names))
    else:
        by_id = dict(names)
        if wrong := [key for key in by_id if not is_count(key, 0)]:
            raise TypeError(f"names as a dict go by class id, such as {{0: 'person'}}, not by {shown(wrong[0])}")
    if wrong_names := [name for name in by_id.values() if not isinstance(name, str)]:
        raise TypeError(f"names are texts, not {shown(wrong_names[0])}")
    if by_id.keys() == set(range(len(by_id))):
        return tuple(by_id[number] for number in range(len(by_id)))
    return {int(number): name for number, name in by_id.items()}


@dataclass(eq=False, slots=True)
class Detections:
    """The detections in one frame: row i of each array belongs to detection i.

    Lists become arrays. An array of the right dtype is kept, not copied.

    Boxes may hold NaN and infinity, since some trackers give such boxes. `finite()` leaves these detections out. Writers and
    annotators do so, too.

    Attributes:
        boxes: (n, 4) float32: left, top, right, bottom in pixels; right and bottom are exclusive.
        scores: (n,) float32 from 0 to 1; None if the detector gives none.
        class_ids: (n,) int64; None if there are no classes.
        names: class names by id, given as a list, or as a mapping such as {0: "person", 2: "car"}. They are kept as a tuple,
            or as a dict if ids are left out.
        track_ids: (n,) int64, -1 for a detection that has no track; None without a tracker.

    :raises ValueError: when a shape does not fit, an id is not a whole number, or a class has no name.
    :raises TypeError: when the names are a text, a set, or a mapping whose keys are not class ids.

    >>> found = Detections([[10, 20, 50, 90]], scores=[0.5], class_ids=[0], names=("person",))
    >>> len(found), found.boxes.dtype, found.labels
    (1, dtype('float32'), ['person'])
    """

    boxes: np.ndarray
    scores: np.ndarray | None = None
    class_ids: np.ndarray | None = None
    names: tuple[str, ...] | dict[int, str] = ()
    track_ids: np.ndarray | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            boxes: ArrayLike,
            scores: ArrayLike | None = None,
            class_ids: ArrayLike | None = None,
            names: Names = (),
            track_ids: ArrayLike | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float32)
        self.boxes = boxes if boxes.size else boxes.reshape(0, 4)
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes are rows of left, top, right, bottom: (n, 4), not {self.boxes.shape}")
        self.scores = self._column("scores", self.scores, np.float32)
        self.class_ids = self._column("class_ids", self.class_ids, np.int64)
        self.track_ids = self._column("track_ids", self.track_ids, np.int64)
        self.names = checked_names(self.names)
        if self.names and self.class_ids is not None and self.class_ids.size:
            self._check_ids(self.class_ids)

    def _check_ids(self, ids: np.ndarray) -> None:
        lowest, highest = int(ids.min()), int(ids.max())
        if isinstance(self.names, dict):
            if unknown := sorted(set(ids.tolist()) - self.names.keys()):
                raise ValueError(f"class ids {shown(unknown)} have no names; there are names for {shown(sorted(self.names))}")
        elif lowest < 0 or highest >= len(self.names):
            raise ValueError(f"class ids from {lowest} to {highest} do not fit {len(self.names)} names, from 0 on")

    def _column(self, name: str, values: ArrayLike | None, dtype: type[np.generic]) -> np.ndarray | None:
        if values is None:
            return None
        given = np.asarray(values)
        if dtype is np.int64 and given.dtype.kind == "f" and not (np.isfinite(given) & (given == np.round(given))).all():
            raise ValueError(f"{name} are whole numbers, not {shown(given.tolist())}")
        column = given.astype(dtype, copy=False)
        if column.shape != (len(self.boxes),):
            raise ValueError(f"{name} has the shape {column.shape}; one for each of the {len(self.boxes)} boxes is needed")
        return column

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def labels(self) -> list[str]:
        """A label for each detection: its class's name, or `class 3` without names, or an empty text without classes."""
        if self.class_ids is None:
            return [""] * len(self)
        return [self.names[number] if self.names else f"class {number}" for number in self.class_ids.tolist()]

    def finite(self) -> Detections:
        """Returns the detections whose boxes have no NaN and no infinity; the same object if all are finite.

        >>> found = Detections([[1, 2, 3, 4], [float("nan"), 2, 3, 4]], class_ids=[0, 1], names=["cat", "dog"])
        >>> found.finite().labels
        ['cat']
        """
        kept = np.isfinite(self.boxes).all(axis=1)
        if kept.all():
            return self
        columns = (self.scores, self.class_ids, self.track_ids)
        scores, class_ids, track_ids = (None if column is None else column[kept] for column in columns)
        return Detections(self.boxes[kept], scores, class_ids, self.names, track_ids)

    def scaled(self, across: float, down: float) -> Detections:
        """Returns them for the same picture in another size.

        :param across: how many times as wide that is.
        :param down: how many times as high.

        >>> Detections([[10, 20, 50, 90]], class_ids=[0], names=["cat"]).scaled(3, 2).boxes.tolist()
        [[30.0, 40.0, 150.0, 180.0]]
        """
        factors = np.array((across, down, across, down), np.float32)
        return Detections(self.boxes * factors, self.scores, self.class_ids, self.names, self.track_ids)

    def to_supervision(self) -> supervision.Detections:
        """Returns them as an object of the `supervision` library, for its trackers, zones and annotators. Arrays are shared.

        :raises ImportError: when `supervision` is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise ImportError(f"supervision is not installed ({error}): {to_install('tracking')}") from error
        data: dict[str, np.ndarray | list[str]] = {}
        if self.class_ids is not None and self.names:
            data["class_name"] = np.array(self.labels)
        return supervision.Detections(
            xyxy=self.boxes, confidence=self.scores, class_id=self.class_ids, tracker_id=self.track_ids, data=data
        )

    @classmethod
    def from_supervision(cls, found: supervision.Detections, names: Names = ()) -> Detections:
        """Makes them from an object of the `supervision` library.

        :param names: class names by id.
        """
        return cls(found.xyxy, found.confidence, found.class_id, names, found.tracker_id)


@dataclass(eq=False)
class DetectedFrame(FrameData):
    """A frame and its detections.

    Attributes:
        frame: the frame as it came, in the format that `meta.format` tells of; (height, width, 3) uint8, BGR, where it tells of
            none. `format_of(data.frame, self.meta)` says it for sure, and `to_bgr` converts it.
        detections: boxes in pixels of that frame.
    """

    frame: np.ndarray
    detections: Detections

    def get_frame(self) -> np.ndarray:
        """Returns the frame. A detector draws nothing on it."""
        return self.frame

    def changed(self, *, frame: np.ndarray | None = None, detections: Detections | None = None) -> DetectedFrame:
        """Returns a copy with another frame, other detections, or both. It keeps `additional_data`.

        >>> before = DetectedFrame(np.zeros((4, 4, 3), np.uint8), Detections([[0, 0, 2, 2]]))
        >>> before.additional_data["weather"] = "fog"
        >>> after = before.changed(detections=Detections([]))
        >>> len(after.detections), after.frame is before.frame, after.additional_data
        (0, True, {'weather': 'fog'})
        """
        new = DetectedFrame(self.frame if frame is None else frame, self.detections if detections is None else detections)
        new.additional_data.update(self.additional_data)
        return new


def detected(data: np.ndarray | FrameData, frame: np.ndarray, found: Detections) -> DetectedFrame:
    """Makes what a detector sends: the frame, its detections, and the payload's `additional_data`."""
    new = DetectedFrame(frame, found)
    if isinstance(data, Data):
        new.additional_data.update(data.additional_data)
    return new


def found_in(data: DetectedFrame | Detections) -> Detections:
    """Returns the detections of a payload.

    :raises TypeError: when the payload is neither a `DetectedFrame` nor `Detections`.
    """
    found = data.detections if isinstance(data, DetectedFrame) else data
    if not isinstance(found, Detections):
        kind = type(data).__name__
        raise TypeError(f"a DetectedFrame or Detections are needed, not a {kind}: wire a detector before this routine")
    return found


NOT_FINITE = "not_finite"


def finite(routine: Routine, found: Detections) -> Detections:
    """Returns the detections that can be written or drawn. The routine counts the others, and warns once."""
    kept = found.finite()
    if (left_out := len(found) - len(kept)) and NOT_FINITE in routine.counters:
        if not routine.counters[NOT_FINITE]:
            routine._logger.warning(
                "%d of %d boxes are not finite, such as %s: these are left out, and counted as %s",
                left_out,
                len(found),
                found.boxes[~np.isfinite(found.boxes).all(axis=1)][0].tolist(),
                NOT_FINITE,
            )
        routine.counters[NOT_FINITE] += left_out
    return kept


class Detector(MiddleRoutine):
    """A routine that finds something in each frame. Subclass it, and write `detect`.

    It takes arrays and `FrameData`, and sends a `DetectedFrame`: the same frame, by reference, the detections, and the
    payload's `additional_data`. The detectors of this package take every format. Yours gets each frame as it comes, and may
    call `to_bgr(frame, format_of(frame, self.meta))`, or `luma`, which costs nothing.

    >>> class Bright(Detector):
    ...     def detect(self, frame):
    ...         rows, columns = np.nonzero(frame.min(axis=2) > 250)
    ...         if not rows.size:
    ...             return Detections([])
    ...         return Detections([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
    >>> frame = np.zeros((60, 80, 3), np.uint8)
    >>> frame[10:20, 30:50] = 255
    >>> Bright().main_logic(frame).detections.boxes.tolist()
    [[30.0, 10.0, 50.0, 20.0]]
    """

    def detect(self, frame: np.ndarray) -> Detections:
        """Returns what is in the frame. It is called on the routine's own thread.

        :param frame: as it came, read-only: (height, width, 3) uint8, BGR, unless `self.meta.format` tells of another format.
        """
        raise NotImplementedError(f"{type(self).__name__} has no detect(frame)")

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(0)

    def main_logic(self, data: np.ndarray | FrameData) -> DetectedFrame:
        """Returns the frame and its detections."""
        frame = frame_of(data)
        return detected(data, frame, self.detect(frame))
