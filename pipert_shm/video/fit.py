"""What is wanted of a video's pictures, and how a picture in BGR is made so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipert_shm.data import FORMATS, Format
from pipert_shm.errors import shown
from pipert_shm.limits import is_count
from pipert_shm.video.formats import from_bgr, is_planar, resized, shape_of
from pipert_shm.video.opencv import VideoError

_EIGHT, _SIXTEEN = np.dtype(np.uint8), np.dtype(np.uint16)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of the pictures is wanted, how large, and in which format. A capture gets it when it is opened.

    Attributes:
        format: of the arrays.
        bits: 8 or 16 bits a channel.
        roi: left, top, width and height of the part, in pixels of the whole picture; None for all of it.
        size: width and height to scale the part to; None to keep its size.
    """

    format: Format = "bgr"
    bits: int = 8
    roi: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None

    def check(self) -> None:
        """:raises ValueError: when something is out of range, or does not go with the rest."""
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {self.format!r}")
        if self.bits not in (8, 16) or (self.bits == 16 and is_planar(self.format)):
            raise ValueError(
                f"bits must be 8, or 16 with format 'bgr', 'rgb' or 'gray', not {self.bits!r} with {self.format!r}"
            )
        if self.size is not None and (not _are_whole(self.size, 2) or min(self.size) < 1):
            raise ValueError(f"size must be (width, height), at least (1, 1), not {shown(self.size)}")
        if self.roi is not None and (not _are_whole(self.roi, 4) or min(self.roi) < 0 or min(self.roi[2:]) < 1):
            raise ValueError(f"roi must be (left, top, width, height), at least (0, 0, 1, 1), not {shown(self.roi)}")
        for name, numbers in ("size", self.size), ("roi", self.roi):
            if is_planar(self.format) and any(number % 2 for number in numbers or ()):
                raise ValueError(f"{name} must have even numbers with format {self.format!r}, not {numbers}")

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of the arrays."""
        return _EIGHT if self.bits == 8 else _SIXTEEN

    def part_of(self, name: str, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, width and height of the part, in a picture of this size. A planar part is even.

        :param name: of the video, for the error.
        :raises VideoError: when the picture does not contain the wanted part.
        """
        if self.roi is None:
            if is_planar(self.format) and min(width, height) == 1:
                raise VideoError(name, f"{name!r} has {width}x{height} pixels, too few for {self.format}: leave format away")
            return (0, 0, width & ~1, height & ~1) if is_planar(self.format) else (0, 0, width, height)
        left, top, part_width, part_height = self.roi
        if left + part_width > width or top + part_height > height:
            raise VideoError(
                name,
                f"the part {self.roi} (left, top, width, height) does not lie within the frames of {name!r}, which are "
                f"{width}x{height}: give another roi",
            )
        return self.roi

    def shape(self, name: str, width: int, height: int) -> tuple[int, ...]:
        """Shape of the array for a picture of this size.

        :raises VideoError: when the picture does not contain the wanted part.
        """
        part = self.part_of(name, width, height)
        return shape_of(self.format, *(self.size or part[2:]))

    def fill(self, name: str, picture: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """Makes the array of a picture in BGR. It is `out` if that has the right shape and dtype, else another one.

        :param picture: (height, width, 3).
        :raises VideoError: when the picture does not contain the wanted part.
        """
        left, top, width, height = self.part_of(name, picture.shape[1], picture.shape[0])
        part = picture[top : top + height, left : left + width]
        shape = shape_of(self.format, *(self.size or (width, height)))
        if out is not None and (out.shape != shape or out.dtype != picture.dtype):
            out = None
        if self.size is None or self.size == (width, height):
            return from_bgr(part, self.format, out)
        if self.format == "bgr":
            return resized(part, "bgr", self.size, out)
        return from_bgr(resized(part, "bgr", self.size), self.format, out)


def _are_whole(numbers: object, count: int) -> bool:
    """Whether these are so many whole numbers."""
    return isinstance(numbers, Sequence) and len(numbers) == count and all(is_count(each, 0) for each in numbers)
