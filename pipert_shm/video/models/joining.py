"""Puts the detections of several networks, or of several parts of a picture, together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from pipert_shm.video.detection import Detections
from pipert_shm.video.opencv import cv2

UNNAMED = "object"  # the class of those that have none, beside others that have one


def concatenated(parts: Sequence[Detections]) -> Detections:
    """Returns all detections as one object, in the order of the parts. Class ids are those of their names taken together.

    Where only some parts have a column, the rows of the others are NaN, -1, an empty text, or, of masks, the whole box.

    :raises ValueError: when a column of `data` does not have the same form in all parts.

    >>> people = Detections([[0, 0, 9, 9]], class_ids=[0], names=["person"], data={"id": [4]})
    >>> plates = Detections([[5, 5, 7, 6]], [0.5], class_ids=[0], names=["plate"])
    >>> both = concatenated([people, plates])
    >>> both.labels, both.scores.tolist(), both.data["id"].tolist()
    (['person', 'plate'], [nan, 0.5], [4, -1])
    """
    counts = [len(part) for part in parts]
    new = Detections(np.concatenate([part.boxes for part in parts]) if parts else [])
    _join_classes(new, parts)
    for name in ("scores", "track_ids", "keypoints", "corners", "masks"):
        columns = [getattr(part, name) for part in parts]
        if any(column is not None for column in columns):
            setattr(new, name, _joined(name, columns, counts))
    for name in dict.fromkeys(name for part in parts for name in part.data):
        new.data[name] = _joined(name, [part.data.get(name) for part in parts], counts)
    return new


def _join_classes(new: Detections, parts: Sequence[Detections]) -> None:
    if all(part.class_ids is None for part in parts):
        return
    if len({_told(part) for part in parts}) == 1:
        new.names = parts[0].names
        new.class_ids = np.concatenate([part.class_ids for part in parts if part.class_ids is not None])
        return
    numbers: dict[str, int] = {}
    for part in parts:
        for name in part.names.values() if isinstance(part.names, dict) else part.names:
            numbers.setdefault(name, len(numbers))
    labels = [label or UNNAMED for part in parts for label in part.labels]
    for label in labels:
        numbers.setdefault(label, len(numbers))
    new.names = tuple(numbers)
    new.class_ids = np.array([numbers[label] for label in labels], np.int64)


def _told(part: Detections) -> object:
    names = tuple(part.names.items()) if isinstance(part.names, dict) else part.names
    return names, part.class_ids is None


def _joined(name: str, columns: Sequence[np.ndarray | None], counts: Sequence[int]) -> np.ndarray:
    known = [column for column in columns if column is not None]
    if name == "keypoints":
        most = max(column.shape[1] for column in known)
        columns = [None if column is None else _padded(column, most) for column in columns]
    if name == "masks":
        size = max(column.shape[2] for column in known), max(column.shape[1] for column in known)
        columns = [None if column is None else _enlarged(column, size) for column in columns]
    like = next(column for column in columns if column is not None)
    filled = [_missing(name, like, count) if column is None else column for column, count in zip_longest(columns, counts)]
    if len({(column.shape[1:], column.dtype.kind in "US") for column in filled}) != 1:
        raise ValueError(f"data[{name!r}] can't be joined: it has {' and '.join(str(column.shape[1:]) for column in filled)}")
    return np.concatenate(filled)


def _missing(name: str, like: np.ndarray, count: int) -> np.ndarray:
    value = {"f": np.nan, "i": -1, "U": "", "S": b""}.get(like.dtype.kind, 0)
    return np.full((count, *like.shape[1:]), 255 if name == "masks" else value, like.dtype)


def _padded(keypoints: np.ndarray, most: int) -> np.ndarray:
    return np.pad(keypoints, ((0, 0), (0, most - keypoints.shape[1]), (0, 0)), constant_values=np.nan)


def _enlarged(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    new = np.empty((len(masks), size[1], size[0]), np.uint8)
    for mask, place in zip(masks, new, strict=True):
        cv2.resize(mask, size, place, interpolation=cv2.INTER_LINEAR)
    return new
