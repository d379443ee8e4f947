"""The formats of frames: how the pixels lie in an array, and what of it can be had without a copy.

| Format | Array | |
| --- | --- | --- |
| `bgr`, `rgb` | (height, width, 3) uint8 or uint16 | the order of the channels |
| `gray` | (height, width) uint8 or uint16 | brightness alone |
| `i420` | (height · 3/2, width) uint8 | the planes Y, U and V one after the other, as in OpenCV; U and V have half the size |
| `nv12` | (height · 3/2, width) uint8 | the plane Y, then U and V in turns |

Y goes from 16 to 235, and is taken for BT.601, as OpenCV does. Width and height of a planar frame are even.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipert_shm.data import PLANAR, Format, Meta
from pipert_shm.errors import shown
from pipert_shm.video.opencv import cv2

if TYPE_CHECKING:
    from typing import TypeGuard

_CODES: dict[tuple[str, str], int] = {  # of OpenCV, from a format to another
    ("i420", "bgr"): cv2.COLOR_YUV2BGR_I420,
    ("nv12", "bgr"): cv2.COLOR_YUV2BGR_NV12,
    ("gray", "bgr"): cv2.COLOR_GRAY2BGR,
    ("rgb", "bgr"): cv2.COLOR_RGB2BGR,
    ("i420", "rgb"): cv2.COLOR_YUV2RGB_I420,
    ("nv12", "rgb"): cv2.COLOR_YUV2RGB_NV12,
    ("gray", "rgb"): cv2.COLOR_GRAY2RGB,
    ("bgr", "rgb"): cv2.COLOR_BGR2RGB,
    ("bgr", "gray"): cv2.COLOR_BGR2GRAY,
    ("rgb", "gray"): cv2.COLOR_RGB2GRAY,
    ("bgr", "i420"): cv2.COLOR_BGR2YUV_I420,
    ("rgb", "i420"): cv2.COLOR_RGB2YUV_I420,
}


def is_planar(format: str | None) -> TypeGuard[Format]:
    """Whether Y, U and V lie apart in frames of this format."""
    return format in PLANAR


def shape_of(format: Format, width: int, height: int) -> tuple[int, ...]:
    """Shape of the array of a frame of so many pixels.

    >>> shape_of("bgr", 640, 480), shape_of("gray", 640, 480), shape_of("i420", 640, 480)
    ((480, 640, 3), (480, 640), (720, 640))

    :raises ValueError: when a planar frame would have an odd width or height.
    """
    if is_planar(format):
        if width % 2 or height % 2:
            raise ValueError(f"a frame in {format} has an even width and height, not {width}x{height}")
        return height * 3 // 2, width
    return (height, width) if format == "gray" else (height, width, 3)


def size_of(frame: np.ndarray, format: Format | None) -> tuple[int, int]:
    """Width and height of a frame, in pixels."""
    return frame.shape[1], frame.shape[0] * 2 // 3 if is_planar(format) else frame.shape[0]


def format_of(frame: np.ndarray, meta: Meta) -> Format | None:
    """The format of a frame that came with this meta; None for an array that is in none, such as one with 4 channels.

    What `meta.format` says of a planar frame holds for the whole frame. A part of one, such as its luma, is taken for grey.
    An array with three channels is BGR, unless the meta says that it is RGB; one with none or one is grey, unless it is planar.
    """
    return meta.format_of(frame)


def planes(frame: np.ndarray, format: Format | None = None) -> tuple[np.ndarray, ...]:
    """The planes of a planar frame: views, which travel by reference.

    :param format: of the frame; None for I420.
    :return: (y, u, v) for I420, the latter two (height/2, width/2); (y, uv) for NV12, the latter (height/2, width/2, 2).
    :raises ValueError: when it is no such frame.

    >>> y, u, v = planes(np.zeros((720, 640), np.uint8))
    >>> y.shape, u.shape, v.shape, y.base is v.base
    ((480, 640), (240, 320), (240, 320), True)
    """
    height, width = _planar_size(frame, format or "i420")
    luminous = frame[:height]
    if format == "nv12":
        return luminous, _reshaped(frame[height:], (height // 2, width // 2, 2))
    quarter = height * width // 4
    colours = _reshaped(frame[height:], (2 * quarter,))
    half = height // 2, width // 2
    return luminous, colours[:quarter].reshape(half), colours[quarter:].reshape(half)


def luma(frame: np.ndarray, format: Format | None = None) -> np.ndarray:
    """The brightness of a planar or a grey frame, (height, width): a view, which travels by reference.

    :param format: of the frame; None for I420, of which NV12 does not differ here.
    :raises ValueError: when the format has no such plane: use `to_gray`.

    >>> luma(np.zeros((720, 640), np.uint8)).shape
    (480, 640)
    """
    if format == "gray":
        return frame.reshape(frame.shape[:2])
    return frame[: _planar_size(frame, format or "i420")[0]]


def _planar_size(frame: np.ndarray, format: Format) -> tuple[int, int]:
    """Height and width of a planar frame, in pixels."""
    if not is_planar(format):
        raise ValueError(f"a frame in {format} has no planes: only {' and '.join(PLANAR)} have")
    if frame.ndim != 2 or frame.dtype != np.uint8 or frame.shape[0] % 3 or frame.shape[1] % 2 or not frame.size:
        raise ValueError(
            f"an array of shape {frame.shape} and dtype {frame.dtype} is no frame in {format}: that is (height * 3/2, width) "
            f"uint8, with an even width and height"
        )
    return frame.shape[0] // 3 * 2, frame.shape[1]


def _reshaped(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """:raises ValueError: when that needs a copy: a plane of I420 may end in the middle of a row."""
    if not rows.flags.c_contiguous:
        raise ValueError("the planes of a frame whose rows lie apart can't be had without a copy: np.ascontiguousarray() first")
    return rows.reshape(shape)


def to_bgr(frame: np.ndarray, format: Format | None = None, *, out: np.ndarray | None = None) -> np.ndarray:
    """Returns the frame as (height, width, 3), BGR. A frame that is in BGR is returned as it is, unless there is an `out`.

    :param format: of the frame; None for BGR if it has three channels, else I420. In a routine `format_of(frame, self.meta)`
        has it.
    :param out: array of that shape and dtype, such as `self.loan(...)` gives.
    :raises ValueError: when the frame is not of that format, or `out` has another shape or dtype.

    >>> to_bgr(np.full((720, 640), 128, np.uint8)).shape
    (480, 640, 3)
    """
    return converted(frame, format or ("i420" if frame.ndim == 2 else "bgr"), "bgr", out)


def to_gray(frame: np.ndarray, format: Format | None = None) -> np.ndarray:
    """Returns the brightness of a frame, (height, width): a view where the format has it, else a new array. 16 bits are kept.

    :param format: of the frame; None for BGR if it has three channels, else grey.
    """
    return converted(frame, format or ("gray" if frame.ndim == 2 else "bgr"), "gray")


def from_bgr(frame: np.ndarray, format: Format, out: np.ndarray | None = None) -> np.ndarray:
    """Converts a frame from BGR: see `converted`."""
    return converted(frame, "bgr", format, out)


def converted(frame: np.ndarray, format: Format, wanted: Format, out: np.ndarray | None = None) -> np.ndarray:
    """Converts a frame from a format to another.

    The frame itself, or a view of it, is the result where nothing is to be converted and there is no `out`. A planar result
    leaves out the last column or row of an odd size.

    :param out: array of the shape and dtype of the result; None for a new one.
    :raises ValueError: when the frame is not of that format, or has 16 bits a channel and is to be planar; or when `out` has
        another shape or dtype.
    """
    if is_planar(format):
        _planar_size(frame, format)
    elif frame.shape[2:] not in (((), (1,)) if format == "gray" else ((3,),)):
        raise ValueError(f"an array of shape {frame.shape} is no frame in {format}")
    elif is_planar(wanted):
        if frame.dtype != np.uint8:
            raise ValueError(f"a frame in {wanted} has 8 bits a channel, and this one has {frame.dtype}")
        frame = frame[: frame.shape[0] & ~1, : frame.shape[1] & ~1]
    _check_out(out, shape_of(wanted, *size_of(frame, format)), frame.dtype)
    if wanted == format or (wanted == "gray" and is_planar(format)):
        return _placed(luma(frame, format) if wanted == "gray" else frame, out)
    code = _CODES.get((format, wanted))
    if code is not None:
        return cv2.cvtColor(_readable(frame), code, dst=out)
    if not is_planar(format) and (wanted == "nv12" or format == "gray"):
        by_way_of: Format = "bgr" if format == "gray" else "i420"
        return converted(converted(frame, format, by_way_of), by_way_of, wanted, out)
    out = np.empty_like(frame, order="C") if out is None else out
    (luminous, *colours), (to_luminous, *to_colours) = planes(frame, format), planes(out, wanted)
    np.copyto(to_luminous, luminous)
    if wanted == "nv12":
        cv2.merge(colours, to_colours[0])
    else:
        cv2.split(colours[0], to_colours)
    return out


def _placed(frame: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is None:
        return frame
    np.copyto(out, frame)
    return out


def eight_bits(frame: np.ndarray) -> np.ndarray:
    """Returns the frame with 8 bits a channel, for who can't take more: the upper ones of 16.

    :raises ValueError: when it has neither 8 nor 16.
    """
    if frame.dtype == np.uint8:
        return frame
    if frame.dtype != np.uint16:
        raise ValueError(f"a frame of {frame.dtype} is no picture: it has 8 or 16 bits a channel, uint8 or uint16")
    return (frame >> 8).astype(np.uint8)


def resized(
    frame: np.ndarray,
    format: Format | None,
    size: tuple[int, int],
    out: np.ndarray | None = None,
    interpolation: int | None = None,
) -> np.ndarray:
    """Scales a frame to a width and height. Proportions are not kept.

    :param out: array of the shape and dtype of the result; None for a new one.
    :param interpolation: one of OpenCV's; None for the best for the size.
    :raises ValueError: when `out` has another shape or dtype, or a planar frame would get an odd size.
    """
    if interpolation is None:
        width, height = size_of(frame, format)
        interpolation = cv2.INTER_AREA if width >= size[0] and height >= size[1] else cv2.INTER_LINEAR
    if not is_planar(format):
        _check_out(out, (size[1], size[0], *frame.shape[2:]), frame.dtype)
        return cv2.resize(_readable(frame), size, dst=out, interpolation=interpolation)
    shape = shape_of(format, *size)
    _check_out(out, shape, frame.dtype)
    result = np.empty(shape, frame.dtype) if out is None else out
    for plane, scaled in zip(planes(frame, format), planes(result, format), strict=True):
        cv2.resize(plane, (scaled.shape[1], scaled.shape[0]), dst=scaled, interpolation=interpolation)
    return result


def cropped(frame: np.ndarray, format: Format | None, roi: Sequence[int], out: np.ndarray | None = None) -> np.ndarray:
    """Returns a part of a frame: a view; but a copy of a part of a planar frame, in `out` if that is given.

    :param roi: left, top, width and height, in pixels.
    :raises ValueError: when `out` has another shape or dtype, or a number for a planar frame is odd.
    """
    left, top, width, height = roi
    if not is_planar(format):
        return frame[top : top + height, left : left + width]
    check_even(format, roi)
    shape = shape_of(format, width, height)
    _check_out(out, shape, frame.dtype)
    result = np.empty(shape, frame.dtype) if out is None else out
    for place, (plane, part) in enumerate(zip(planes(frame, format), planes(result, format), strict=True)):
        x, y = (left // 2, top // 2) if place else (left, top)
        np.copyto(part, plane[y : y + part.shape[0], x : x + part.shape[1]])
    return result


def check_even(format: Format, roi: Sequence[int]) -> None:
    """:raises ValueError: when the numbers of a part of a planar frame are not even."""
    if any(number % 2 for number in roi):
        raise ValueError(f"a part of a frame in {format} has an even left, top, width and height, not {tuple(roi)}")


def _check_out(out: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    """OpenCV would silently return another array."""
    if out is not None and (out.shape != shape or out.dtype != dtype):
        raise ValueError(f"out must have the shape {shape} and dtype {dtype}, not {out.shape} and {shown(str(out.dtype))}")


def _readable(frame: np.ndarray) -> np.ndarray:
    """The frame, or a copy where OpenCV can't read it: with negative strides, or pixels that lie apart."""
    packed = frame.itemsize if frame.ndim == 2 else frame.itemsize * frame.shape[2]
    lies_so = frame.strides[0] > 0 and frame.strides[1] == packed and frame.strides[-1] == frame.itemsize
    return frame if lies_so else np.ascontiguousarray(frame)
