"""How objects move: how long they are inside, which lines they cross, how fast they are, and where they stand most."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Literal, TypeAlias

import numpy as np

from pipert_shm.analytics.geometry import LEFT, NEITHER
from pipert_shm.video.opencv import cv2

Direction: TypeAlias = Literal["in", "out"]

MOST_TRACKS = 4_096  # that are remembered, of a camera and zone
SPEED_S = 1.0  # a speed is taken over so long
SHORTEST_S = 0.4  # and not told of a track that was seen for less
MOST_PLACES = 64  # of a track within that time
HEAT_SIZE = (64, 36)  # cells across and down
HEAT_SPREAD = 1.0  # cells


class Stays:
    """Since when each track is in a zone. One that was outside, or not seen, for at most `lost` seconds has never left."""

    def __init__(self, lost: float) -> None:
        self._lost = lost
        self._since: OrderedDict[int, tuple[float, float]] = OrderedDict()  # when it came, and when it was seen inside last

    def look(self, tracks: Iterable[int], now: float) -> tuple[list[float], list[int]]:
        """Notes who is inside.

        :return: for each track the seconds that it has been inside, and the tracks that have just come.
        """
        self._forget(now)
        seconds, came = [], []
        for track in tracks:
            if track not in self._since:
                came.append(track)
            since = self._since.get(track, (now, now))[0]
            self._since[track] = since, now
            self._since.move_to_end(track)
            seconds.append(round(now - since, 3))
        while len(self._since) > MOST_TRACKS:
            self._since.popitem(last=False)
        return seconds, came

    def _forget(self, now: float) -> None:
        while self._since:
            track, (_, last) = next(iter(self._since.items()))
            if now - last <= self._lost:
                break
            del self._since[track]


class Sides:
    """On which side of a line each track is. A track that is not seen for more than `lost` seconds is forgotten."""

    def __init__(self, lost: float) -> None:
        self._lost = lost
        self._sides: OrderedDict[int, tuple[int, float]] = OrderedDict()  # the side, and when it was seen last

    def look(self, tracks: Iterable[int], sides: Iterable[int], now: float) -> list[Direction | None]:
        """Notes the sides; for each track the direction in which it has just crossed the line.

        A track whose box is on the line, or beside the line's ends, stays on the side that it was on.
        """
        found: list[Direction | None] = []
        while self._sides and now - next(iter(self._sides.values()))[1] > self._lost:
            self._sides.popitem(last=False)
        for track, side in zip(tracks, sides, strict=True):
            before = self._sides.get(track, (NEITHER, now))[0]
            crossed = before != NEITHER and side != NEITHER and side != before
            found.append(None if not crossed else "in" if side == LEFT else "out")
            if (kept := side if side != NEITHER else before) != NEITHER:
                self._sides[track] = kept, now
                self._sides.move_to_end(track)
        while len(self._sides) > MOST_TRACKS:
            self._sides.popitem(last=False)
        return found


class Speeds:
    """How fast each track is: how far it has come within the last second, by the time that it took."""

    def __init__(self) -> None:
        self._places: OrderedDict[int, deque[tuple[float, float, float]]] = OrderedDict()

    def look(self, tracks: Iterable[int], places: np.ndarray, now: float) -> list[float | None]:
        """Notes where tracks are, (n, 2) in metres; their speeds in metres per second, None where it can't be said yet."""
        found: list[float | None] = []
        for track, (x, y) in zip(tracks, places.tolist(), strict=True):
            if track < 0 or not (np.isfinite(x) and np.isfinite(y)):
                found.append(None)
                continue
            its = self._places.setdefault(track, deque(maxlen=MOST_PLACES))
            self._places.move_to_end(track)
            if not its or now - its[-1][0] >= SPEED_S / MOST_PLACES:
                its.append((now, x, y))
            while now - its[0][0] > SPEED_S:
                its.popleft()
            took = now - its[0][0]
            far = float(np.hypot(x - its[0][1], y - its[0][2]))
            found.append(round(far / took, 2) if took >= SHORTEST_S else None)
        while self._places and (
            len(self._places) > MOST_TRACKS or now - next(iter(self._places.values()))[-1][0] > 2 * SPEED_S
        ):
            self._places.popitem(last=False)
        return found


class Heat:
    """Where objects have stood, in cells of the picture: each second of each object counts, and fades with time.

    :param half_life: seconds in which what was counted fades to its half.
    """

    def __init__(self, half_life: float) -> None:
        self._half_life = half_life
        self._cells = np.zeros(HEAT_SIZE[::-1], np.float32)
        self._before: float | None = None

    def look(self, feet: np.ndarray, size: tuple[int, int], now: float) -> np.ndarray:
        """Adds where objects stand; returns the map: (36, 64) uint8, 255 where they have stood most.

        :param feet: (n, 2), pixels.
        :param size: of the frame.
        """
        took = 0.0 if self._before is None else now - self._before
        self._before = now
        self._cells *= 0.5 ** (took / self._half_life)
        across, down = HEAT_SIZE
        with np.errstate(invalid="ignore"):
            cells = feet * np.array((across / size[0], down / size[1]), np.float32)
            cells = cells[((cells >= 0) & (cells <= (across, down))).all(axis=1)]
        columns, rows = np.minimum(cells, (across - 1, down - 1)).astype(int).T
        np.add.at(self._cells, (rows, columns), np.float32(took))
        spread = cv2.GaussianBlur(self._cells, (0, 0), HEAT_SPREAD)
        hottest = float(spread.max())
        found: np.ndarray = (spread * (255 / hottest)).astype(np.uint8) if hottest > 1e-6 else np.zeros_like(spread, np.uint8)
        return found
