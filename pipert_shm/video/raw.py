"""Makes the arrays that are wanted of raw pictures: planes with padded rows, in the formats that decoders and cameras give."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipert_shm.data import Format
from pipert_shm.video.fit import Wanted
from pipert_shm.video.formats import is_planar, planes
from pipert_shm.video.opencv import VideoError, cv2

_TO_BGR = {"rgb": cv2.COLOR_RGB2BGR, "bgrx": cv2.COLOR_BGRA2BGR, "rgbx": cv2.COLOR_RGBA2BGR, "gray": cv2.COLOR_GRAY2BGR}
_OF_YUV = {
    ("i420", "bgr"): cv2.COLOR_YUV2BGR_I420,
    ("i420", "rgb"): cv2.COLOR_YUV2RGB_I420,
    ("nv12", "bgr"): cv2.COLOR_YUV2BGR_NV12,
    ("nv12", "rgb"): cv2.COLOR_YUV2RGB_NV12,
}


def _table(gain: float, before: int, after: int) -> np.ndarray:
    values: np.ndarray = np.clip(np.rint((np.arange(256) - before) * gain + after), 0, 255).astype(np.uint8)
    return values


LIMIT_LUMA, LIMIT_COLOURS = _table(219 / 255, 0, 16), _table(224 / 255, 128, 128)
"""From values that use the full range, as in JPEG, to those of video, 16 to 235 and 240."""
WIDEN_LUMA = _table(255 / 219, 16, 0)
"""From the luma of video to grey, which uses the full range."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A raw picture.

    Attributes:
        format: `i420` for the planes Y, U and V, with colours of any size; `nv12`, `gray`, `bgr`, `rgb`; `bgrx` and `rgbx` with
            a fourth channel that means nothing.
        planes: (height, width) each, or (height, width, channels). They need not be contiguous.
        full: whether Y, U and V, or the brightness, use the full range from 0 to 255.
        packed: the planes as one array in OpenCV's layout, where they lie so.
    """

    format: str
    planes: tuple[np.ndarray, ...]
    full: bool
    packed: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.planes[0].shape[1], self.planes[0].shape[0]


class RawScaler:
    """Makes the arrays that are wanted of raw pictures. One thread at a time.

    Colours are those that OpenCV gives: by BT.601, whatever the video says of its matrix; its range is heeded.

    :param name: of the video, for errors.
    """

    def __init__(self, name: str, wanted: Wanted, logger: logging.Logger | None = None) -> None:
        self._name = name
        self._wanted = wanted
        self._logger = logger
        self._scratches: dict[str, np.ndarray] = {}

    def shape(self, size: tuple[int, int], turns: int) -> tuple[int, ...]:
        """Shape of the array for a picture.

        :param turns: how many quarter turns to the left it needs.
        :raises VideoError: when the picture does not contain the wanted part.
        """
        return self._wanted.shape(self._name, *(size[::-1] if turns % 2 else size))

    def fill(self, picture: Picture, turns: int, out: np.ndarray | None) -> np.ndarray:
        """Returns what is wanted of the picture, in `out` if that has the right shape and dtype, else in a new array.

        :raises VideoError: when the picture does not contain the wanted part, or has no 16 bits where these are wanted.
        """
        picture = self._with_bits(picture)
        wanted, shape = self._wanted, self.shape(picture.size, turns)
        result = np.empty(shape, wanted.dtype) if out is None or out.shape != shape or out.dtype != wanted.dtype else out
        if turns:
            whole = np.empty((*picture.size[::-1], 3), wanted.dtype)
            self._make(picture, Wanted(bits=wanted.bits), whole)
            return wanted.fill(self._name, np.rot90(whole, turns), result)
        self._make(picture, wanted, result)
        return result

    def _with_bits(self, picture: Picture) -> Picture:
        deep = picture.planes[0].dtype == np.uint16
        if self._wanted.bits == 16 and not deep:
            raise VideoError(
                self._name, f"{self._name!r} has 8 bits a channel ({picture.format}), not 16 (GRAY16_LE): leave bits=16 away"
            )
        if self._wanted.bits == 16 or not deep:
            return picture
        if self._logger is not None:
            self._logger.warning("%r has 16 bits a pixel, of which the upper 8 are kept: bits=16 keeps all", self._name)
            self._logger = None
        return replace(picture, planes=((picture.planes[0] >> 8).astype(np.uint8),))

    def _make(self, picture: Picture, wanted: Wanted, out: np.ndarray) -> None:
        left, top, width, height = part = wanted.part_of(self._name, *picture.size)
        luma = picture.planes[0][top : top + height, left : left + width]
        if wanted.format == "gray" and picture.format in ("gray", "i420", "nv12"):
            _fit(luma, out)
            if not picture.full:
                cv2.LUT(out, WIDEN_LUMA, dst=out)
        elif picture.format not in ("i420", "nv12"):
            of_part = replace(wanted, roi=None)
            if picture.format == wanted.format:
                replace(of_part, format="bgr").fill(self._name, luma, out)
            else:
                bgr = luma if picture.format == "bgr" else cv2.cvtColor(_readable(luma), _TO_BGR[picture.format])
                of_part.fill(self._name, bgr, out)
        elif is_planar(wanted.format):
            self._compose(_cut(picture.planes, part), picture.full, wanted.format, out, scaled=wanted.size is not None)
        else:
            self._colour(picture, wanted, part, out)

    def _colour(self, picture: Picture, wanted: Wanted, part: tuple[int, int, int, int], out: np.ndarray) -> None:
        """Makes BGR or RGB of Y, U and V. The parts with odd edges are cut out afterwards."""
        left, top, width, height = part
        format: Format = "nv12" if picture.format == "nv12" else "i420"
        code = _OF_YUV[format, wanted.format]
        is_even = not any(number % 2 for number in (*part, *(wanted.size or ())))
        as_it_is = is_even and wanted.size in (None, part[2:]) and part[2:] == picture.size and not picture.full
        if as_it_is and picture.packed is not None:
            cv2.cvtColor(picture.packed, code, dst=out)
            return
        scaled = is_even and wanted.size is not None
        x, y = left & 1, top & 1  # the part begins so far within what is converted
        to = wanted.size if scaled and wanted.size else (width + x + 1 & ~1, height + y + 1 & ~1)
        parts = _cut(picture.planes, (left - x, top - y, width + x, height + y))
        whole = self._scratch("planes", (to[1] * 3 // 2, to[0]))
        self._compose(parts, picture.full, format, whole, scaled=scaled)
        if is_even:
            cv2.cvtColor(whole, code, dst=out)
            return
        colours = cv2.cvtColor(whole, code, dst=self._scratch("colours", (to[1], to[0], 3)))
        _fit(colours[y : y + height, x : x + width], out)

    def _compose(self, parts: Sequence[np.ndarray], full: bool, format: Format, out: np.ndarray, *, scaled: bool) -> None:
        """Makes a planar frame of planes, whose luma may lack the last row and column."""
        luma, *colours = planes(out, format)
        height, width = parts[0].shape
        if scaled:
            _fit(parts[0], luma)
        else:
            np.copyto(luma[:height, :width], parts[0])
            luma[:height, width:] = luma[:height, width - 1 : width]
            luma[height:] = luma[height - 1 : height]
        if len(parts[1:]) == len(colours):
            for plane, target in zip(parts[1:], colours, strict=True):
                _fit(plane, target)
        elif format == "nv12":
            apart = [self._scratch(name, colours[0].shape[:2]) for name in "uv"]
            for plane, target in zip(parts[1:], apart, strict=True):
                _fit(plane, target)
            cv2.merge(apart, colours[0])
        else:
            together = self._scratch("uv", (*colours[0].shape, 2))
            _fit(parts[1], together)
            cv2.split(together, colours)
        if full:
            cv2.LUT(luma, LIMIT_LUMA, dst=luma)
            below = out[len(luma) :]
            cv2.LUT(below, LIMIT_COLOURS, dst=below)

    def _scratch(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        found = self._scratches.get(name)
        if found is None or found.shape != shape:
            found = self._scratches[name] = np.empty(shape, np.uint8)
        return found


def _cut(all: Sequence[np.ndarray], part: tuple[int, int, int, int]) -> list[np.ndarray]:
    """A part of each plane; its left and top are even."""
    left, top, width, height = part
    whole = all[0].shape
    found = []
    for plane in all:
        across, down = round(whole[1] / plane.shape[1]), round(whole[0] / plane.shape[0])
        found.append(plane[top // down : -(-(top + height) // down), left // across : -(-(left + width) // across)])
    return found


def _fit(plane: np.ndarray, out: np.ndarray) -> None:
    """Copies, or scales."""
    if plane.shape == out.shape:
        np.copyto(out, plane)
        return
    height, width = out.shape[:2]
    shrinks = plane.shape[0] >= height and plane.shape[1] >= width
    cv2.resize(_readable(plane), (width, height), dst=out, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _readable(plane: np.ndarray) -> np.ndarray:
    """The plane, or a copy where OpenCV can't read it, since its pixels lie apart."""
    packed = plane.itemsize * (1 if plane.ndim == 2 else plane.shape[2])
    return plane if plane.strides[1] == packed and plane.strides[-1] == plane.itemsize else np.ascontiguousarray(plane)
