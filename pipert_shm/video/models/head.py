"""What every head is: it turns the outputs of a family of networks into detections."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from pipert_shm.errors import shown
from pipert_shm.limits import is_number
from pipert_shm.video.detection import Detections
from pipert_shm.video.models.preprocessing import Preprocessing
from pipert_shm.video.names import Names, checked_names
from pipert_shm.video.opencv import cv2

SLACK = 0.01  # how far a score of a quantised network may lie outside 0 to 1


class Head(Protocol):
    """Reads the outputs of a family of networks.

    Attributes:
        preprocessing: what the network expects of the pictures that it gets.
        names: class names by id; empty if there are none.
    """

    @property
    def preprocessing(self) -> Preprocessing: ...  # noqa: D102  # told above

    @property
    def names(self) -> tuple[str, ...] | dict[int, str]: ...  # noqa: D102  # told above

    def __call__(self, outputs: Sequence[np.ndarray], size: tuple[int, int]) -> list[Detections]:
        """Returns the detections in each image of the batch, in pixels of the network's input.

        :param outputs: the network's outputs, in its order; the first axis of each is the batch.
        :param size: width and height of the network's input, pixels.
        :raises ValueError: when these are not outputs that it reads.
        """

    def more_inputs(self, count: int, size: tuple[int, int]) -> Mapping[str, np.ndarray]:
        """Returns what the network takes besides the pictures, by the names of its inputs; most take nothing.

        :param count: how many pictures there are.
        """


class BriefHead(Protocol):
    """A head of a user's that leaves out what it does not need."""

    @property
    def preprocessing(self) -> Preprocessing: ...  # noqa: D102  # as a Head's

    def __call__(self, outputs: Sequence[np.ndarray], size: tuple[int, int]) -> list[Detections]:
        """Returns the detections in each image of the batch, in pixels of the network's input."""


class EarlierHead(Protocol):
    """A head as it was before heads told of their preprocessing: it has a `scale`, and takes the outputs alone."""

    @property
    def scale(self) -> float: ...  # noqa: D102  # factor for the pixels

    def __call__(self, outputs: Sequence[np.ndarray]) -> list[Detections]:
        """Returns the detections in each image of the batch, in pixels of the network's input."""


AnyHead: TypeAlias = BriefHead | EarlierHead
"""What detectors take as a head: `as_head` makes a whole one of it."""


class PlainHead:
    """Base class of heads whose networks take pictures and nothing else."""

    def more_inputs(self, count: int, size: tuple[int, int]) -> Mapping[str, np.ndarray]:
        """Returns nothing."""
        return {}


class _OfEarlier(PlainHead):
    """What is made of an `EarlierHead`."""

    def __init__(self, head: Any) -> None:
        self._head = head
        self.preprocessing = Preprocessing(scale=head.scale, centred=False)
        self.names: tuple[str, ...] | dict[int, str] = checked_names(getattr(head, "names", ()))

    def __call__(self, outputs: Sequence[np.ndarray], size: tuple[int, int]) -> list[Detections]:
        found: list[Detections] = self._head(outputs)
        return found


class _OfBrief(PlainHead):
    """What is made of a `BriefHead`."""

    def __init__(self, head: Any) -> None:
        self._head = head
        self.preprocessing: Preprocessing = head.preprocessing
        self.names: tuple[str, ...] | dict[int, str] = checked_names(getattr(head, "names", ()))
        if hasattr(head, "more_inputs"):
            self.more_inputs = head.more_inputs  # type: ignore[method-assign]

    def __call__(self, outputs: Sequence[np.ndarray], size: tuple[int, int]) -> list[Detections]:
        found: list[Detections] = self._head(outputs, size)
        return found


def as_head(head: Any) -> Head:
    """Returns a head that has all of the protocol, made of one that leaves out what it does not need.

    A head has `preprocessing`, and is called with the outputs and the input's size; or it has a `scale`, and is called with the
    outputs alone. Then the frame lies at the top left of the network's input. `names` and `more_inputs` may be left out.

    :raises TypeError: when it is no head.
    """
    if isinstance(head, type) or not callable(head) or not (hasattr(head, "preprocessing") or hasattr(head, "scale")):
        raise TypeError(
            f"head makes detections of the outputs: YoloHead(names), CenterFaceHead(), or an object of yours with __call__ and "
            f"preprocessing, not {shown(head)}"
        )
    if not hasattr(head, "preprocessing"):
        return _OfEarlier(head)
    if not isinstance(head.preprocessing, Preprocessing):
        raise TypeError(f"a head's preprocessing is a pipert_shm.video.Preprocessing, not {shown(head.preprocessing)}")
    whole: Head = head if hasattr(head, "names") and hasattr(head, "more_inputs") else _OfBrief(head)
    return whole


# ---- what heads share ----------------------------------------------------------------------------


def every_name(names: Names, kind: str) -> tuple[str, ...]:
    """Returns the names of all classes, from 0 on.

    :param kind: the head's class, for the error.
    :raises TypeError: when they are not a list or dict of names.
    :raises ValueError: when an id has no name.
    """
    if isinstance(names, str | os.PathLike):
        call = f"{kind}(Path({os.fspath(names)!r}).read_text().splitlines())"
        raise TypeError(f"names are a list of class names, not a file's: {call}")
    by_id = checked_names(names)
    if isinstance(by_id, dict):
        raise ValueError(f"every class id from 0 on needs a name; there are names for {shown(sorted(by_id))} only")
    return by_id


def suppressed(corners: np.ndarray, score: np.ndarray, classes: np.ndarray, threshold: float, overlap: float) -> np.ndarray:
    """The indexes that stay: of boxes that overlap, the one with the best score."""
    sizes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).astype(np.float64)
    kept = cv2.dnn.NMSBoxesBatched(sizes.tolist(), score.tolist(), classes.tolist(), threshold, overlap)
    return np.asarray(kept, np.int64).ravel()


def corners_of(centred: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom of boxes that are told by centre and size, (n, 4)."""
    return np.hstack([centred[:, :2] - centred[:, 2:4] / 2, centred[:, :2] + centred[:, 2:4] / 2])


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The logistic function, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), logits.dtype)


def softmax(logits: np.ndarray) -> np.ndarray:
    """The shares of the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), logits.dtype)


def shapes(outputs: Sequence[np.ndarray]) -> str:
    """The outputs' shapes, for an error."""
    return ", ".join(str(each.shape) for each in outputs)


def check_scores(scores: np.ndarray) -> None:
    """:raises ValueError: when these can't be scores; objects would be missed silently."""
    if np.isnan(scores).any():
        raise ValueError("the network's scores are NaN: its weights are damaged, or overflow in half precision")
    if scores.size and (scores.min() < -SLACK or scores.max() > 1 + SLACK):
        raise ValueError(
            f"the network's scores are from {scores.min():.3g} to {scores.max():.3g}, not from 0 to 1: it is of another kind, "
            f"or was exported without its last step"
        )


def checked_share(what: str, value: float) -> float:
    """:raises ValueError: when this is no number from 0 to 1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{what} must be a number from 0 to 1, not {shown(value)}")
    return float(value)
