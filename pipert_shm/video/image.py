"""Steps that turn a frame into another one."""

from __future__ import annotations

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.errors import shown
from pipert_shm.limits import is_count
from pipert_shm.routine import MiddleRoutine
from pipert_shm.video.opencv import cv2


def frame_of(data: np.ndarray | FrameData) -> np.ndarray:
    """The frame that a payload is or carries.

    :raises TypeError: when it is neither an array nor a `FrameData`.
    """
    if isinstance(data, np.ndarray):
        return data
    if isinstance(data, FrameData):
        return data.get_frame()
    raise TypeError(f"a frame is needed, as an array or in a FrameData (a DetectedFrame, say), not a {type(data).__name__}")


def check_code(what: str, value: object, example: str) -> None:
    """:raises TypeError: when it is none of OpenCV's numbers."""
    if not is_count(value, 0):
        raise TypeError(f"{what} must be one of OpenCV's numbers, such as {example}, not {shown(value)}")


class Resize(MiddleRoutine):
    """Sends each frame at another size; it is written straight into shared memory.

    :param size: width and height, in pixels.
    :param interpolation: one of OpenCV's `INTER_…`; by default the one for smaller pictures.
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

    def main_logic(self, data: np.ndarray | FrameData) -> np.ndarray:
        """The frame at the new size: (height, width) or (height, width, channels), of the same dtype.

        :raises NoFreeSlot: when there is no room for it; it is then lost.
        """
        frame = frame_of(data)
        width, height = self._size
        return cv2.resize(
            frame, self._size, dst=self.loan((height, width, *frame.shape[2:]), frame.dtype), interpolation=self._interpolation
        )


class CvtColor(MiddleRoutine):
    """Sends each frame in another colour space; it is written straight into shared memory.

    :param code: one of OpenCV's `COLOR_…`.
    :raises TypeError: when it is no number.

    >>> import cv2
    >>> CvtColor(cv2.COLOR_BGR2GRAY).main_logic(np.zeros((480, 640, 3), np.uint8)).shape
    (480, 640)
    """

    def __init__(self, code: int, name: str | None = None) -> None:
        check_code("code", code, "cv2.COLOR_BGR2GRAY")
        super().__init__(name)
        self._code = code
        self._shapes: dict[tuple[int, ...], tuple[int, ...]] = {}  # of the result, by that of the frame

    def main_logic(self, data: np.ndarray | FrameData) -> np.ndarray:
        """The frame in the new colour space; the first frame of each shape is copied, since only its result tells its shape.

        :raises NoFreeSlot: when there is no room for it; it is then lost.
        """
        frame = frame_of(data)
        shape = self._shapes.get(frame.shape)
        out = None if shape is None else self.loan(shape, frame.dtype)
        converted = cv2.cvtColor(frame, self._code, dst=out)
        self._shapes[frame.shape] = converted.shape
        return converted


class Crop(MiddleRoutine):
    """Sends a part of each frame: a view of it, which travels by reference. Nothing is copied.

    :param left, top: of the part, in pixels.
    :param width, height: of the part, in pixels.
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

    def main_logic(self, data: np.ndarray | FrameData) -> np.ndarray:
        """The part.

        :raises ValueError: when the frame is too small to have it.
        """
        frame = frame_of(data)
        if self._rows.stop > frame.shape[0] or self._columns.stop > frame.shape[1]:
            raise ValueError(
                f"a frame of {frame.shape[1]}x{frame.shape[0]} pixels has no part from {self._columns.start}, "
                f"{self._rows.start} to {self._columns.stop}, {self._rows.stop}"
            )
        return frame[self._rows, self._columns]
