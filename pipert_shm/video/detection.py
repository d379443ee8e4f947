"""Detections, the frames that carry them, and the base class of detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from pipert_shm.data import Data, FrameData
from pipert_shm.errors import shown
from pipert_shm.routine import Routine
from pipert_shm.video import masks, supervised
from pipert_shm.video.names import Names, checked_names, class_numbers

if TYPE_CHECKING:
    import supervision


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
        keypoints: (n, k, 3) float32: x, y in pixels, and how likely the point is to be seen, 0 to 1; None if there are none.
        corners: (n, 4, 2) float32: x, y of the four corners of boxes that are turned, in order around the box; None if boxes
            are not turned. `boxes` then has the upright boxes around them.
        masks: (n, h, w) uint8: how much each part of a detection's box belongs to the object, 0 to 255, from 128 on it does;
            None without masks. A mask is stretched over its box, so it is small, and stays right when boxes are moved and
            scaled. `mask(i, shape)` gives a whole one.
        data: further columns by name, each with a row for each detection: an array of numbers or texts.

    :raises ValueError: when a shape does not fit, an id is not a whole number, a class has no name, or a column has objects in
        it.
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
    keypoints: np.ndarray | None = None
    corners: np.ndarray | None = None
    masks: np.ndarray | None = None
    data: dict[str, np.ndarray] = field(default_factory=dict)

    if TYPE_CHECKING:

        def __init__(
            self,
            boxes: ArrayLike,
            scores: ArrayLike | None = None,
            class_ids: ArrayLike | None = None,
            names: Names = (),
            track_ids: ArrayLike | None = None,
            keypoints: ArrayLike | None = None,
            corners: ArrayLike | None = None,
            masks: ArrayLike | None = None,
            data: Mapping[str, ArrayLike] = ...,
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
        self.keypoints = self._pictures("keypoints", self.keypoints, np.float32, (-1, 3))
        self.corners = self._pictures("corners", self.corners, np.float32, (4, 2))
        self.masks = self._pictures("masks", self.masks, np.uint8, (-1, -1))
        if self.data:
            self.data = {name: self._more(name, column) for name, column in self.data.items()}

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

    def _pictures(
        self, name: str, values: ArrayLike | None, dtype: type[np.generic], sides: tuple[int, int]
    ) -> np.ndarray | None:
        """A column with two more axes; -1 is any length."""
        if values is None:
            return None
        given = np.asarray(values)
        if dtype is np.uint8 and given.dtype.kind == "b":
            given = given.astype(np.uint8) * np.uint8(255)
        if dtype is np.uint8 and given.size and given.dtype != np.uint8:
            raise ValueError(f"{name} are uint8 from 0 to 255, or bool, not {given.dtype}")
        column = given.astype(dtype, copy=False)
        if not column.size and column.ndim != 3:
            column = np.empty((0, *(max(side, 0) for side in sides)), dtype)
        expected = (
            len(self.boxes),
            *(there if side < 0 else side for side, there in zip(sides, column.shape[1:], strict=False)),
        )
        if column.ndim != 3 or column.shape != expected:
            wanted = ", ".join(str(side) if side >= 0 else "any" for side in sides)
            raise ValueError(
                f"{name} has the shape {given.shape}; with {len(self.boxes)} boxes ({len(self.boxes)}, {wanted}) is needed"
            )
        return column

    def _more(self, name: str, values: ArrayLike) -> np.ndarray:
        column = np.asarray(values)
        if not isinstance(name, str) or column.dtype.hasobject:
            raise ValueError(f"data has columns of numbers or texts by their names; {shown(name)} has {column.dtype}")
        if column.shape[:1] != (len(self.boxes),):
            raise ValueError(
                f"data[{name!r}] has the shape {column.shape}; it needs a row for each of the {len(self.boxes)} boxes"
            )
        return column

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # A pickle of an earlier version has not set what came later.
            if name in ("keypoints", "corners", "masks"):
                return None
            if name == "data":
                return {}
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def labels(self) -> list[str]:
        """A label for each detection: its class's name, or `class 3` without names, or an empty text without classes."""
        if self.class_ids is None:
            return [""] * len(self)
        return [self.names[number] if self.names else f"class {number}" for number in self.class_ids.tolist()]

    # ---- some of them ----------------------------------------------------------------------------

    def select(self, rows: Rows) -> Detections:
        """Returns some of the detections, with all that belongs to them.

        :param rows: a bool for each detection, or indexes in the wanted order, or a slice.

        >>> found = Detections([[1, 2, 3, 4], [5, 6, 7, 8]], scores=[0.5, 0.9], data={"plate": ["AB 1", "CD 2"]})
        >>> found.select(found.scores > 0.6).data["plate"].tolist()
        ['CD 2']
        """
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            rows = rows if rows.size else rows.astype(np.int64)
        new = self._copied()
        for name in _COLUMNS:
            if (column := getattr(self, name)) is not None:
                setattr(new, name, column[rows])
        new.data = {name: column[rows] for name, column in self.data.items()}
        return new

    def of_classes(self, classes: Sequence[str | int]) -> Detections:
        """Returns the detections of these classes.

        :param classes: names or ids.
        :raises ValueError: when there is no such class, or these detections have no classes.

        >>> found = Detections([[1, 2, 3, 4], [5, 6, 7, 8]], class_ids=[0, 2], names=["person", "bicycle", "car"])
        >>> found.of_classes(["car"]).boxes.tolist()
        [[5.0, 6.0, 7.0, 8.0]]
        """
        if self.class_ids is None:
            raise ValueError(f"these detections have no classes, so {shown(classes)} can't be told from others")
        numbers = class_numbers(classes, self.names)
        return self.select(np.isin(self.class_ids, list(numbers)))

    def finite(self) -> Detections:
        """Returns the detections whose boxes have no NaN and no infinity; the same object if all are finite.

        >>> found = Detections([[1, 2, 3, 4], [float("nan"), 2, 3, 4]], class_ids=[0, 1], names=["cat", "dog"])
        >>> found.finite().labels
        ['cat']
        """
        kept = np.isfinite(self.boxes).all(axis=1)
        return self if kept.all() else self.select(kept)

    # ---- elsewhere -------------------------------------------------------------------------------

    def scaled(self, across: float, down: float) -> Detections:
        """Returns them for the same picture in another size.

        :param across: how many times as wide that is.
        :param down: how many times as high.

        >>> Detections([[10, 20, 50, 90]], class_ids=[0], names=["cat"]).scaled(3, 2).boxes.tolist()
        [[30.0, 40.0, 150.0, 180.0]]
        """
        return self._placed(np.array((across, down), np.float32), np.zeros(2, np.float32))

    def moved(self, right: float, down: float) -> Detections:
        """Returns them for a picture in which all lies so many pixels further right and down.

        >>> Detections([[10, 20, 50, 90]]).moved(5, -5).boxes.tolist()
        [[15.0, 15.0, 55.0, 85.0]]
        """
        return self._placed(np.ones(2, np.float32), np.array((right, down), np.float32))

    def _placed(self, factors: np.ndarray, offset: np.ndarray) -> Detections:
        new = self._copied()
        new.boxes = self.boxes * np.tile(factors, 2) + np.tile(offset, 2)
        if self.corners is not None:
            new.corners = self.corners * factors + offset
        if self.keypoints is not None:
            new.keypoints = self.keypoints.copy()
            new.keypoints[..., :2] = self.keypoints[..., :2] * factors + offset
        return new

    def clipped(self, width: int, height: int) -> Detections:
        """Returns them with boxes and masks cut off at the edges of a picture. Keypoints and corners stay.

        >>> Detections([[-10, 20, 50, 90]]).clipped(40, 60).boxes.tolist()
        [[0.0, 20.0, 40.0, 60.0]]
        """
        new = self._copied()
        new.boxes = np.clip(self.boxes, 0, np.array((width, height, width, height), np.float32))
        if self.masks is not None:
            new.masks = masks.recut(self.masks, self.boxes, new.boxes)
        return new

    def _copied(self) -> Detections:
        """The same arrays, in an object of their own. They are checked already."""
        new: Detections = object.__new__(type(self))
        for name in (*_COLUMNS, "names"):
            setattr(new, name, getattr(self, name))
        new.data = dict(self.data)
        return new

    # ---- masks -----------------------------------------------------------------------------------

    def mask(self, index: int, shape: Sequence[int]) -> np.ndarray:
        """Returns a detection's whole mask, (height, width) bool.

        :param index: of the detection.
        :param shape: height and width of the frame; more, such as `frame.shape`, may follow.
        :raises ValueError: when there are no masks.
        """
        return masks.pasted(self._masks()[index], self.boxes[index], (shape[0], shape[1]))

    def outlines(self, index: int) -> list[np.ndarray]:
        """Returns the outlines of the parts of a detection's mask, each (points, 2) float32 in pixels.

        :raises ValueError: when there are no masks.
        """
        return masks.outlines(self._masks()[index], self.boxes[index])

    def _masks(self) -> np.ndarray:
        if self.masks is None:
            raise ValueError("these detections have no masks: they come from a network for segmentation")
        return self.masks

    # ---- for supervision -------------------------------------------------------------------------

    def to_supervision(self, shape: Sequence[int] | None = None) -> supervision.Detections:
        """Returns them as an object of the `supervision` library, for its trackers, zones and annotators. Arrays are shared.

        `corners` are in `data["xyxyxyxy"]`, where its annotators look for them; `keypoints`, `masks` and `data` are in `data`
        as well.

        :param shape: height and width of the frame: with it there are whole masks, too, each as large as the frame.
        :raises ImportError: when `supervision` is not installed.
        """
        return supervised.to_supervision(self, shape)

    def to_key_points(self) -> supervision.KeyPoints:
        """Returns the keypoints as an object of the `supervision` library, for its annotators.

        :raises ValueError: when there are none.
        :raises ImportError: when `supervision` is not installed.
        """
        return supervised.to_key_points(self)

    @classmethod
    def from_supervision(cls, found: supervision.Detections | supervision.KeyPoints, names: Names = ()) -> Detections:
        """Makes them from an object of the `supervision` library. A box of keypoints goes around those that are seen.

        :param names: class names by id; by default those in `data["class_name"]`.
        """
        return cls(**supervised.columns_from(found, names))


Rows: TypeAlias = np.ndarray | Sequence[bool] | Sequence[int] | slice

_COLUMNS = ("boxes", "scores", "class_ids", "track_ids", "keypoints", "corners", "masks")


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


def found_in(data: object) -> Detections:
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
