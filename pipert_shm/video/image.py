"""Routines that crop, scale and convert frames, and what other routines need to read a frame."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import lru_cache

import numpy as np

from pipert_shm.data import FORMATS, Format, FrameData, Meta
from pipert_shm.errors import shown
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.limits import is_count
from pipert_shm.routine import MiddleRoutine
from pipert_shm.video.formats import check_even, converted, cropped, format_of, is_planar, resized, shape_of, size_of, to_bgr
from pipert_shm.video.opencv import VideoError, cv2


def frame_of(data: np.ndarray | FrameData) -> np.ndarray:
    """Returns the frame of a payload.

    :raises TypeError: when the payload is neither an array nor a `FrameData`.
    """
    if isinstance(data, np.ndarray):
        return data
    if isinstance(data, FrameData):
        return data.get_frame()
    raise TypeError(f"a frame is needed, as an array or in a FrameData (a DetectedFrame, say), not a {type(data).__name__}")


def check_code(what: str, value: object, example: str) -> None:
    """:raises TypeError: when the value is not a whole number of at least 0."""
    if not is_count(value, 0):
        raise TypeError(f"{what} must be one of OpenCV's numbers, such as {example}, not {shown(value)}")


def known_format(frame: np.ndarray, meta: Meta) -> Format:
    """Returns the format of a frame that came with this meta.

    :raises ValueError: when it is in none.
    """
    format = format_of(frame, meta)
    if format is None:
        raise ValueError(
            f"an array of shape {frame.shape} is no frame: that is (height, width), or has 3 channels, or is planar"
        )
    return format


def tell_format(meta: Meta, format: Format | None, frame: np.ndarray) -> None:
    """Notes the format of a frame that was made from another, where the meta tells of a planar one of so many rows."""
    if is_planar(meta.format):
        meta.describe(format, len(frame))


def as_bgr(frame: np.ndarray, where: str, format: Format | None = None) -> np.ndarray:
    """Returns the frame as (height, width, 3) uint8, BGR: grey fills the three channels, and alpha is dropped.

    :param frame: planar, or (height, width), or with 1 (grey), 3 (BGR or RGB) or 4 (BGRA) channels, uint8.
    :param where: the file to be written, for the error.
    :param format: of the frame, as `format_of` says it.
    :raises VideoError: when the array is of another kind; the error says how to convert it.
    """
    if is_planar(format):
        return to_bgr(frame, format)
    channels = frame.shape[2] if frame.ndim == 3 else 1
    if frame.ndim not in (2, 3) or channels not in (1, 3, 4) or not frame.size:
        raise VideoError(
            where,
            f"can't write an array of shape {frame.shape} to {where!r}: a frame is (height, width), grey, or has 1 (grey), "
            f"3 (BGR) or 4 (BGRA) channels, and at least one pixel",
        )
    if frame.dtype != np.uint8:
        raise VideoError(
            where,
            f"can't write a frame of {frame.dtype} to {where!r}: 8 bits a channel are needed; convert it before, "
            f"as only you know what its values mean: {_to_eight_bits(frame.dtype)}",
        )
    if channels == 3:
        return to_bgr(frame, format)
    return cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_BGRA2BGR if channels == 4 else cv2.COLOR_GRAY2BGR)


def _to_eight_bits(dtype: np.dtype[np.generic]) -> str:
    if dtype.kind == "b":
        return "frame.astype(np.uint8) * 255"
    if dtype.kind == "f":
        return "(255 * frame).clip(0, 255).astype(np.uint8) where they are from 0 to 1"
    return "(frame >> 8).astype(np.uint8) where they fill 16 bits, say"


def _planar_frames(format: Format, width: int, height: int) -> OwnFrames | None:
    """Frames of so many pixels in a planar format; None for any other."""
    if not is_planar(format):
        return None
    return OwnFrames(width * height * 3 // 2, f"{width}x{height}, {format.upper()}")


class Resize(MiddleRoutine):
    """Scales each frame, straight into shared memory. Proportions are not kept. The format stays what it is.

    :param size: width and height, in pixels; both even for planar frames.
    :param interpolation: one of OpenCV's `INTER_…`; the default suits a smaller size.
    :raises ValueError: when the size is not positive.

    >>> Resize((320, 240)).main_logic(np.zeros((480, 640, 3), np.uint8)).shape
    (240, 320, 3)
    """

    def __init__(self, size: tuple[int, int], name: str | None = None, *, interpolation: int = cv2.INTER_AREA) -> None:
        if not isinstance(size, tuple | list) or len(size) != 2 or not all(map(is_count, size)):
            raise ValueError(f"size is a width and a height of at least 1 pixel, such as (640, 480), not {shown(size)}")
        check_code("interpolation", interpolation, "cv2.INTER_AREA")
        super().__init__(name)
        self._size = (size[0], size[1])
        self._interpolation = interpolation

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(math.prod(self._size) * 3, "{}x{}, BGR".format(*self._size))

    def _own_frames_of(self, received: int, format: Format) -> OwnFrames | None:
        return _planar_frames(format, *self._size)

    def main_logic(self, data: np.ndarray | FrameData) -> np.ndarray:
        """Returns the frame at the new size, in the same format and of the same dtype.

        :raises NoFreeSlot: when every slot of shared memory is in use; the frame is lost.
        :raises ValueError: when a planar frame would get an odd size.
        """
        frame = frame_of(data)
        format = format_of(frame, self.meta)
        width, height = self._size
        shape = shape_of(format, width, height) if is_planar(format) else (height, width, *frame.shape[2:])
        result = resized(frame, format, self._size, self.loan(shape, frame.dtype), self._interpolation)
        tell_format(self.meta, format, result)
        return result


class Convert(MiddleRoutine):
    """Converts each frame to a format, straight into shared memory. A frame that is in that format is sent on as it is.

    Wire it where somebody needs BGR, say: those who don't then get the frame as it came from the camera.

    :param format: `bgr`, `rgb`, `gray`, `i420` or `nv12`. Grey of a planar frame is its luma, a view, so nothing is copied.
    :raises ValueError: when it is none of these.

    >>> to_colour = Convert("bgr")
    >>> to_colour.meta.format = "i420"  # as a source says it
    >>> to_colour.main_logic(np.zeros((720, 640), np.uint8)).shape
    (480, 640, 3)
    """

    def __init__(self, format: Format, name: str | None = None) -> None:
        if format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {shown(format)}")
        super().__init__(name)
        self._format: Format = format

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames | None:
        if not received:
            return None
        factor = 2 if self._format in ("bgr", "rgb") else 1  # the most, but for grey frames
        return OwnFrames(factor * received, f"{self._format}, of frames in another format", "perhaps")

    def _sent_format(self, received: Format | None) -> Format | None:
        return self._format

    def main_logic(self, data: np.ndarray | FrameData) -> np.ndarray:
        """Returns the frame in the format. One that becomes planar loses the last column or row of an odd size.

        :raises NoFreeSlot: when every slot of shared memory is in use; the frame is lost.
        :raises ValueError: when the payload's array is no frame, or has 16 bits a channel and is to be planar.
        """
        frame, wanted = frame_of(data), self._format
        format = known_format(frame, self.meta)
        if format == wanted or (wanted == "gray" and is_planar(format)):
            result = converted(frame, format, wanted)
        else:
            width, height = size_of(frame, format)
            if is_planar(wanted):
                width, height = width & ~1, height & ~1
            result = converted(frame, format, wanted, self.loan(shape_of(wanted, width, height), frame.dtype))
        self.meta.describe(wanted, len(result))
        return result


class CvtColor(MiddleRoutine):
    """Converts each frame to another colour space, straight into shared memory.

    It sets `meta.format` to what the code makes: BGR, RGB, grey or I420. Any other colour space is none of the formats, and its
    receivers have to know of it: they would take three channels for BGR, and one for grey.

    :param code: one of OpenCV's `COLOR_…`, which must suit the frames that come. `Convert` looks at their format itself.
    :raises TypeError: when the code is not a number.

    >>> import cv2
    >>> CvtColor(cv2.COLOR_BGR2GRAY).main_logic(np.zeros((480, 640, 3), np.uint8)).shape
    (480, 640)
    """

    def __init__(self, code: int, name: str | None = None) -> None:
        check_code("code", code, "cv2.COLOR_BGR2GRAY")
        super().__init__(name)
        self._code = code
        self._shapes: dict[tuple[int, ...], tuple[int, ...]] = {}  # of the result, by that of the frame

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames | None:
        for shape in ((12, 8, 3), (12, 8)):  # BGR; grey, or YUV 4:2:0
            frame = np.zeros(shape, np.uint8)
            with suppress(cv2.error):  # it takes no such frames
                converted = cv2.cvtColor(frame, self._code)
                return OwnFrames(received * converted.size // frame.size, "converted") if received else None
        return None

    def _sent_format(self, received: Format | None) -> Format | None:
        return _made_by(self._code, received)

    def main_logic(self, data: np.ndarray | FrameData) -> np.ndarray:
        """Returns the converted frame. The first frame of each shape is copied: the result's shape is known only afterwards.

        :raises NoFreeSlot: when every slot of shared memory is in use; the frame is lost.
        """
        frame = frame_of(data)
        shape = self._shapes.get(frame.shape)
        out = None if shape is None else self.loan(shape, frame.dtype)
        result = cv2.cvtColor(frame, self._code, dst=out)
        self._shapes[frame.shape] = result.shape
        self.meta.describe(_made_by(self._code, format_of(frame, self.meta)), len(result))
        return result


_SOURCES = {"bgr": "BGR2", "rgb": "RGB2", "gray": "GRAY2", None: "BGRA2"}  # how names of codes begin
_RESULTS: dict[str, Format] = {"BGR": "bgr", "RGB": "rgb", "GRAY": "gray", "YUV_I420": "i420", "YUV_IYUV": "i420"}  # and go on


@lru_cache
def _made_by(code: int, format: Format | None) -> Format | None:
    """The format that a conversion of OpenCV's makes of one; None for none of ours. A code may have several names."""
    names = [name.removeprefix("COLOR_") for name in dir(cv2) if name.startswith("COLOR_") and getattr(cv2, name) == code]
    names = [name for name in names if name.startswith(_SOURCES.get(format, "YUV2"))] or names
    ends = {name.partition("2")[2] for name in names}
    ends |= {end.partition("_")[0] for end in ends if not end.startswith("YUV")}  # BGR_FULL, BGR_I420, GRAY_NV12 …
    return next((result for end, result in _RESULTS.items() if end in ends), None)


class Crop(MiddleRoutine):
    """Sends a part of each frame: a view of it, which travels by reference. Nothing is copied.

    A part of a planar frame is a copy, straight into shared memory, and its four numbers have to be even.

    :param left: of the part, in pixels.
    :param top: of the part, in pixels.
    :param width: of the part, in pixels.
    :param height: of the part, in pixels.
    :raises ValueError: when the part is empty, or begins outside of any frame.

    >>> frame = np.zeros((480, 640, 3), np.uint8)
    >>> part = Crop(100, 50, 64, 48).main_logic(frame)
    >>> part.shape, part.base is frame
    ((48, 64, 3), True)
    """

    def __init__(self, left: int, top: int, width: int, height: int, name: str | None = None) -> None:
        if not (is_count(left, 0) and is_count(top, 0) and is_count(width) and is_count(height)):
            given = ", ".join(map(shown, (left, top, width, height)))
            raise ValueError(f"left and top are at least 0 and width and height at least 1 pixel, not {given}")
        super().__init__(name)
        self._part = (left, top, width, height)

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(0)

    def _own_frames_of(self, received: int, format: Format) -> OwnFrames | None:
        return _planar_frames(format, *self._part[2:])

    def main_logic(self, data: np.ndarray | FrameData) -> np.ndarray:
        """Returns the part: a view of the frame, or, of a planar frame, a copy of its planes' parts.

        :raises NoFreeSlot: when every slot of shared memory is in use; the part of a planar frame is lost.
        :raises ValueError: when the frame does not contain the part, or is planar and one of the numbers is odd.
        """
        frame = frame_of(data)
        format = format_of(frame, self.meta)
        left, top, width, height = self._part
        whole = size_of(frame, format)
        if left + width > whole[0] or top + height > whole[1]:
            raise ValueError(
                f"a frame of {whole[0]}x{whole[1]} pixels has no part from {left}, {top} to {left + width}, {top + height}"
            )
        if not is_planar(format):
            return cropped(frame, format, self._part)
        check_even(format, self._part)
        part = cropped(frame, format, self._part, self.loan(shape_of(format, width, height), frame.dtype))
        tell_format(self.meta, format, part)
        return part
