"""Makes of frames of any format and size the pictures of one stream, all of one size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipert_shm.data import Format
from pipert_shm.video.films import LARGEST, SMALLEST
from pipert_shm.video.formats import converted, eight_bits, is_planar, planes, resized, size_of
from pipert_shm.video.opencv import cv2

BLACK, GREY = 16, 128  # of a planar picture: the luma, and both colours


class Shown(NamedTuple):
    """A frame to be streamed.

    Attributes:
        frame: the array, 8 or 16 bits a channel.
        format: as `Meta.format_of` says it; None for BGRA.
        at_ns: when it was captured, CLOCK_MONOTONIC, ns.
        origin: the camera's name.
    """

    frame: np.ndarray
    format: Format | None
    at_ns: int
    origin: str


def check_shown(shown: Shown) -> None:
    """:raises ValueError: when it is no picture that can be streamed."""
    frame = shown.frame
    known = frame.dtype in (np.uint8, np.uint16) and frame.ndim in (2, 3) and frame.shape[2:] in ((), (1,), (3,), (4,))
    if not known or 0 in frame.shape:
        raise ValueError(
            f"an array of shape {frame.shape} and dtype {frame.dtype} can't be streamed: a frame is (height, width) or "
            f"(height, width, 1, 3 or 4), uint8 or uint16"
        )


def stream_size(frame: np.ndarray, format: Format | None, widest: int | None) -> tuple[int, int]:
    """Width and height of the stream whose first frame this is, both even; it is at most `widest` pixels wide.

    >>> stream_size(np.zeros((1080, 1920, 3), np.uint8), "bgr", 1280), stream_size(np.zeros((99, 101), np.uint8), "gray", None)
    ((1280, 720), (100, 98))
    """
    width, height = size_of(frame, format)
    scale = min(1.0, (widest or LARGEST) / width, LARGEST / height)
    return _even(width * scale), _even(height * scale)


def _even(side: float) -> int:
    return max(SMALLEST, int(side + 1e-6) & ~1)


def fitted(frame: np.ndarray, format: Format | None, size: tuple[int, int], wanted: Format) -> np.ndarray:
    """The frame in this size and planar format: itself where it has both, else a new array.

    One of other proportions gets black beside it, or above and below.
    """
    if frame.dtype == np.uint16:
        frame = eight_bits(frame)
    if frame.ndim == 3 and frame.shape[2] == 4:
        frame, format = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_BGRA2BGR), "bgr"
    assert format is not None
    width, height = size_of(frame, format)
    if (width, height) != size:
        scale = min(size[0] / width, size[1] / height)
        inner = max(2, round(width * scale) & ~1), max(2, round(height * scale) & ~1)
        near = size[0] - inner[0] <= 2 and size[1] - inner[1] <= 2  # of odd sizes: a pixel is nothing to be seen
        frame = resized(frame, format, size if near else inner)
        if not near:
            return _framed(converted(frame, format, wanted), wanted, inner, size)
    return np.ascontiguousarray(converted(frame, format, wanted))


def _framed(picture: np.ndarray, format: Format, inner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """A planar picture in the middle of a larger black one."""
    whole = np.empty((size[1] * 3 // 2, size[0]), np.uint8)
    whole[: size[1]], whole[size[1] :] = BLACK, GREY
    left, top = (size[0] - inner[0]) // 4 * 2, (size[1] - inner[1]) // 4 * 2
    for place, (plane, part) in enumerate(zip(planes(whole, format), planes(picture, format), strict=True)):
        x, y = (left // 2, top // 2) if place else (left, top)
        np.copyto(plane[y : y + part.shape[0], x : x + part.shape[1]], part)
    return whole


def film_format(format: Format | None) -> Format:
    """The planar format that a stream's encoder gets, by the format of its first frame, so that such frames go as they are."""
    return format if is_planar(format) else "i420"
