"""Routines that crop, scale and convert frames, and what other routines need to read a frame."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.errors import shown
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.limits import is_count
from pipert_shm.routine import MiddleRoutine
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


def as_bgr(frame: np.ndarray, where: str) -> np.ndarray:
    """Returns the frame as (height, width, 3) uint8, BGR: grey fills the three channels, and alpha is dropped.

    :param frame: (height, width), or with 1 (grey), 3 (BGR) or 4 (BGRA) channels, uint8.
    :param where: the file to be written, for the error.
    :raises VideoError: when the array is of another kind; the error says how to convert it.
    """
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
        return frame
    return cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_BGRA2BGR if channels == 4 else cv2.COLOR_GRAY2BGR)


def _to_eight_bits(dtype: np.dtype[np.generic]) -> str:
    if dtype.kind == "b":
        return "frame.astype(np.uint8) * 255"
    if dtype.kind == "f":
        return "(255 * frame).clip(0, 255).astype(np.uint8) where they are from 0 to 1"
    return "(frame >> 8).astype(np.uint8) where they fill 16 bits, say"


class Resize(MiddleRoutine):
    """Scales each frame, straight into shared memory. Proportions are not kept.

    :param size: width and height, in pixels.
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
        self._size = size
        self._interpolation = interpolation

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(math.prod(self._size) * 3, "{}x{}, BGR".format(*self._size))

    def main_logic(self, data: np.ndarray | FrameData) -> np.ndarray:
        """Returns the frame at the new size: (height, width) or (height, width, channels), of the same dtype.

        :raises NoFreeSlot: when every slot of shared memory is in use; the frame is lost.
        """
        frame = frame_of(data)
        width, height = self._size
        return cv2.resize(
            frame, self._size, dst=self.loan((height, width, *frame.shape[2:]), frame.dtype), interpolation=self._interpolation
        )


class CvtColor(MiddleRoutine):
    """Converts each frame to another colour space, straight into shared memory.

    :param code: one of OpenCV's `COLOR_…`.
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

    def main_logic(self, data: np.ndarray | FrameData) -> np.ndarray:
        """Returns the converted frame. The first frame of each shape is copied: the result's shape is known only afterwards.

        :raises NoFreeSlot: when every slot of shared memory is in use; the frame is lost.
        """
        frame = frame_of(data)
        shape = self._shapes.get(frame.shape)
        out = None if shape is None else self.loan(shape, frame.dtype)
        converted = cv2.cvtColor(frame, self._code, dst=out)
        self._shapes[frame.shape] = converted.shape
        return converted


class Crop(MiddleRoutine):
    """Sends a part of each frame: a view of it, which travels by reference. Nothing is copied.

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
        self._rows = slice(top, top + height)
        self._columns = slice(left, left + width)

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames:
        return OwnFrames(0)

    def main_logic(self, data: np.ndarray | FrameData) -> np.ndarray:
        """Returns the part, a view of the frame.

        :raises ValueError: when the frame does not contain the part.
        """
        frame = frame_of(data)
        if self._rows.stop > frame.shape[0] or self._columns.stop > frame.shape[1]:
            raise ValueError(
                f"a frame of {frame.shape[1]}x{frame.shape[0]} pixels has no part from {self._columns.start}, "
                f"{self._rows.start} to {self._columns.stop}, {self._rows.stop}"
            )
        return frame[self._rows, self._columns]
