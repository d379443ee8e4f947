"""Frames as pictures to look at: scaled down, put side by side, and encoded. OpenCV is loaded at the first use."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

import numpy as np

from pipert_shm.display.formats import PLANAR

WIDEST_MOSAIC = 1280  # pixels
STALE_S = 5.0  # after which the tile of a silent camera says so
GONE_S = 60.0  # after which the tile of a silent camera is removed
BETWEEN_MOSAICS_S = 1 / 30
SOON_S = 0.1  # a camera whose frames come in such intervals need not be shown at once


def picture_shape(frame: np.ndarray, format: str | None) -> tuple[int, int]:
    """Height and width of what a frame shows, in pixels.

    :raises ValueError: when the array has no two axes.
    """
    height, width = frame.shape[:2]
    return height * 2 // 3 if format in PLANAR else height, width


def scaled(frame: object, widest: int, format: str | None = None) -> tuple[np.ndarray, float]:
    """The frame scaled down to at most `widest` pixels, and the scale.

    The result is a view or a new array, grey, BGR or BGRA, with 8 bits a channel: of 16 bits, the upper ones.

    :param format: of the frame, as `Meta.format_of` says it.
    :raises ValueError: when it is not a picture: (h, w[, 1|3|4]) uint8 or uint16, or planar.
    """
    import cv2

    if not isinstance(frame, np.ndarray):
        raise ValueError(f"it sends {type(frame).__name__}, which is no picture; send a uint8 array, or FrameData")
    known = frame.dtype in (np.uint8, np.uint16) and frame.ndim in (2, 3) and frame.shape[2:] in ((), (1,), (3,), (4,))
    if not known or 0 in frame.shape:
        raise ValueError(
            f"it sends arrays {frame.shape} of {frame.dtype}, which are no pictures: those are (h, w[, 1|3|4]) uint8 or uint16"
        )
    height, width = picture_shape(frame, format)
    scale = min(1.0, widest / width)
    size = (width, height) if scale == 1 else (widest, max(1, round(height * scale)))
    if format in PLANAR:
        return _of_planes(frame, format == "nv12", (width, height), size), scale
    if scale < 1:
        readable = np.ascontiguousarray(frame) if min(frame.strides) < 0 else frame
        frame = cv2.resize(readable, size, interpolation=cv2.INTER_AREA)
    if frame.dtype == np.uint16:
        frame = np.right_shift(frame, 8).astype(np.uint8)
    return cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2BGR) if format == "rgb" else frame, scale


def _of_planes(frame: np.ndarray, is_nv12: bool, size: tuple[int, int], wanted: tuple[int, int]) -> np.ndarray:
    """A planar frame in BGR. It is scaled before it is converted: that costs less."""
    import cv2

    width, height = size
    luminous, colours = frame[:height], np.ascontiguousarray(frame[height:])
    if is_nv12:
        both = colours.reshape(height // 2, width // 2, 2)
    else:
        both = cv2.merge(tuple(colours.reshape(2, height // 2, width // 2)))
    if wanted != size:
        half = max(1, wanted[0] // 2), max(1, wanted[1] // 2)
        luminous = cv2.resize(luminous, (2 * half[0], 2 * half[1]), interpolation=cv2.INTER_AREA)
        both = cv2.resize(both, half, interpolation=cv2.INTER_AREA)
    return cv2.cvtColorTwoPlane(luminous, both, cv2.COLOR_YUV2BGR_NV12)


def viewable(frame: np.ndarray, format: str | None) -> np.ndarray:
    """The frame as OpenCV shows and encodes it: as it is, or converted from another format, or from 16 bits."""
    if format in (*PLANAR, "rgb") or frame.dtype == np.uint16:
        return scaled(frame, frame.shape[1], format)[0]
    return frame


def encoded(picture: np.ndarray, quality: int) -> bytes:
    """A picture as a JPEG.

    :raises ValueError: when OpenCV can't encode it.
    """
    import cv2

    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError("OpenCV can't encode it")
    return data.tobytes()


@dataclass(slots=True)
class _Tile:
    """One camera's place.

    Attributes:
        came_at: when its last frame came, in seconds of the monotonic clock.
        picture: its last frame, (h, w, 3) uint8, BGR; None before the first.
    """

    came_at: float
    picture: np.ndarray | None = None


class Mosaic:
    """One picture of several cameras: the newest frame of each, in a tile with its name. For use from one thread.

    While there is only one camera, the picture is its frame. Tiles stand in the order of names (`camera2` before `camera10`),
    in about as many columns as rows, and are of one size; a frame of another shape has black beside it. The tile of a camera
    that has sent nothing for `STALE_S` is dark and says so; after `GONE_S` it is removed.

    :param widest: the most pixels in a row of the whole picture.
    """

    def __init__(self, widest: int = WIDEST_MOSAIC) -> None:
        self._widest = widest
        self._tiles: dict[str, _Tile] = {}
        self._made_at = -math.inf

    def __len__(self) -> int:
        """How many cameras there are."""
        return len(self._tiles)

    def note(self, origin: str) -> bool:
        """Notes that a frame of a camera came. Returns whether there are several cameras."""
        now = time.monotonic()
        for gone in [name for name, tile in self._tiles.items() if now - tile.came_at > GONE_S]:
            del self._tiles[gone]
        self._tiles.setdefault(origin, _Tile(now)).came_at = now
        return len(self._tiles) > 1

    def put(self, origin: str, frame: np.ndarray, format: str | None = None) -> None:
        """Puts a camera's frame in its tile. It is copied.

        :param format: of the frame, as `Meta.format_of` says it.

        :raises ValueError: when it is not a picture.
        """
        self.note(origin)
        self._tiles[origin].picture = _in_colour(scaled(frame, self._widest // self._columns, format)[0])

    def add(self, origin: str, frame: np.ndarray, format: str | None = None) -> np.ndarray | None:
        """The picture to show after a new frame; None if it is soon enough to show it with the next one.

        :param format: of the frame, as `Meta.format_of` says it.
        :raises ValueError: when there are several cameras, and the frame is not a picture.
        """
        before, now = self._tiles.get(origin), time.monotonic()
        comes_soon = before is not None and now - before.came_at < SOON_S
        if not self.note(origin):
            return viewable(frame, format)
        self.put(origin, frame, format)
        if comes_soon and now - self._made_at < BETWEEN_MOSAICS_S:
            return None
        self._made_at = now
        return self.picture()

    def picture(self) -> np.ndarray:
        """The tiles as one picture, (h, w, 3) uint8, BGR: a new array."""
        import cv2

        height, width = self._tile_shape()
        columns = self._columns
        rows = -(-len(self._tiles) // columns)
        whole = np.zeros((rows * height, columns * width, 3), np.uint8)
        now = time.monotonic()
        for place, (name, tile) in enumerate(sorted(self._tiles.items(), key=lambda item: _natural(item[0]))):
            top, left = place // columns * height, place % columns * width
            part, silent = whole[top : top + height, left : left + width], now - tile.came_at
            if tile.picture is not None:
                _fit(tile.picture, part)
            if silent > STALE_S:
                part //= 3
                name = f"{name}: nothing for {silent:.0f} s"
            for colour, thickness in ((0, 0, 0), 3), ((255, 255, 255), 1):
                cv2.putText(part, name, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA)
        return whole

    @property
    def _columns(self) -> int:
        return max(1, math.isqrt(max(0, len(self._tiles) - 1)) + 1)

    def _tile_shape(self) -> tuple[int, int]:
        """Height and width: as wide as the widest frame, where there is room for it, and as high as is usual at that width."""
        shapes = [tile.picture.shape for tile in self._tiles.values() if tile.picture is not None]
        if not shapes:
            return 90, 160
        width = min(max(shape[1] for shape in shapes), self._widest // self._columns)
        return max(1, round(width * sorted(shape[0] / shape[1] for shape in shapes)[(len(shapes) - 1) // 2])), width


def _in_colour(picture: np.ndarray) -> np.ndarray:
    """A copy of a picture, in colours."""
    import cv2

    channels = picture.shape[2] if picture.ndim == 3 else 1
    if channels == 3:
        return np.array(picture)
    return cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_BGRA2BGR)


def _fit(picture: np.ndarray, part: np.ndarray) -> None:
    """Puts a picture into the middle of a part of another, scaled to fit."""
    import cv2

    scale = min(part.shape[0] / picture.shape[0], part.shape[1] / picture.shape[1])
    height, width = (max(1, round(length * scale)) for length in picture.shape[:2])
    top, left = (part.shape[0] - height) // 2, (part.shape[1] - width) // 2
    if scale != 1:
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    part[top : top + height, left : left + width] = picture


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names, with the numbers in them by value."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)]
