"""Frames as pictures to look at: scaled down, put side by side, and encoded. OpenCV is loaded at the first use."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

import numpy as np

WIDEST_MOSAIC = 1280  # pixels
STALE_S = 5.0  # after which the tile of a silent camera says so
GONE_S = 60.0  # after which the tile of a silent camera is removed
BETWEEN_MOSAICS_S = 1 / 30
SOON_S = 0.1  # a camera whose frames come in such intervals need not be shown at once


def scaled(frame: object, widest: int) -> tuple[np.ndarray, float]:
    """The frame scaled down to at most `widest` pixels, as a view or a new array, and the scale.

    :raises ValueError: when it is not a picture: (h, w[, 1|3|4]) uint8.
    """
    import cv2

    if not isinstance(frame, np.ndarray):
        raise ValueError(f"it sends {type(frame).__name__}, which is no picture; send a uint8 array, or FrameData")
    if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or 0 in frame.shape or frame.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError(
            f"it sends arrays {frame.shape} of {frame.dtype}, which are no pictures: those are (h, w[, 1|3|4]) uint8"
        )
    scale = min(1.0, widest / frame.shape[1])
    if scale == 1:
        return frame, scale
    size = widest, max(1, round(frame.shape[0] * scale))
    readable = np.ascontiguousarray(frame) if min(frame.strides) < 0 else frame
    return cv2.resize(readable, size, interpolation=cv2.INTER_AREA), scale


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

    def put(self, origin: str, frame: np.ndarray) -> None:
        """Puts a camera's frame, (h, w[, 1|3|4]) uint8, in its tile. It is copied.

        :raises ValueError: when it is not a picture.
        """
        self.note(origin)
        self._tiles[origin].picture = _in_colour(scaled(frame, self._widest // self._columns)[0])

    def add(self, origin: str, frame: np.ndarray) -> np.ndarray | None:
        """The picture to show after a new frame; None if it is soon enough to show it with the next one.

        :raises ValueError: when there are several cameras, and the frame is not a picture.
        """
        before, now = self._tiles.get(origin), time.monotonic()
        comes_soon = before is not None and now - before.came_at < SOON_S
        if not self.note(origin):
            return frame
        self.put(origin, frame)
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
