"""Puts the pictures of two streams of one camera together that show the same moment.

A pair has one slot of shared memory, with room for both pictures. When a frame of one stream comes, it is decoded to where its
partner lies, or into a pair that is empty, where its partner will find it. So nothing is moved, and no frame is converted that
can have no partner.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import numpy as np

from pipert_shm.shm.counters import Counters
from pipert_shm.video.live import Live

SIDES = MAIN, SUB = 0, 1
NAMES = "main", "sub"

MOST_PAIRS = 6
"""Pairs that may be open: one stream may come so many frames before the other, less one, at full rate."""

MOST_APART = 0.5
"""Seconds by which the clocks of two streams, which are one camera's, may differ. If it is more, the time of arrival counts."""

STALE = 2.0
"""Gaps between frames: a pair that waits for longer while newer frames come is not handed over."""

_STEPS = 15
_FEWEST_STEPS = 2
_EVEN = 0.25  # of a gap: the most by which steps differ in a stream whose frames come evenly


class Stamp(NamedTuple):
    """When a frame was captured.

    Attributes:
        captured_ns: CLOCK_MONOTONIC, ns.
        wall_clock: by the camera's clock, seconds since the epoch; None if nobody says.
    """

    captured_ns: int
    wall_clock: float | None = None

    def after(self, other: Stamp) -> float:
        """Seconds by which it was captured later: by the camera's clock where both have it, and it can be right.

        >>> Stamp(2_000_000_000, 100.0).after(Stamp(1_900_000_000, 99.98)) < 0.03
        True
        >>> Stamp(2_000_000_000, 100.0).after(Stamp(1_900_000_000, 7.0))
        0.1
        """
        apart = (self.captured_ns - other.captured_ns) / 1e9
        if self.wall_clock is None or other.wall_clock is None:
            return apart
        by_camera = self.wall_clock - other.wall_clock
        return by_camera if abs(by_camera - apart) < MOST_APART else apart

    def moved(self, seconds: float) -> Stamp:
        """The stamp of a frame that was captured later by so many seconds."""
        wall_clock = None if self.wall_clock is None else self.wall_clock + seconds
        return Stamp(self.captured_ns + round(seconds * 1e9), wall_clock)


class Rhythm:
    """How often the frames of a stream come.

    Attributes:
        last: the stamp of the newest frame.
    """

    def __init__(self) -> None:
        self.last: Stamp | None = None
        self._steps: deque[float] = deque(maxlen=_STEPS)

    def note(self, stamp: Stamp, left_out: int) -> None:
        """Takes note of a frame.

        :param left_out: how many frames before it were not decoded.
        """
        step = 0.0 if self.last is None else stamp.after(self.last)
        if step > 0:
            self._steps.append(step / (left_out + 1))
        self.last = stamp

    @property
    def gap(self) -> float | None:
        """Seconds between two frames; None while that is not known."""
        return median(self._steps) if len(self._steps) >= _FEWEST_STEPS else None

    def may_have(self, stamp: Stamp, within: float) -> bool:
        """Whether a frame may yet come that was captured at about this time. Only a stream that comes evenly can say no."""
        gap = self.gap
        if gap is None or self.last is None or len(self._steps) < _STEPS:
            return True
        if any(abs(step - gap) > _EVEN * gap for step in self._steps):
            return True
        beyond = stamp.after(self.last)
        frames = max(1, round(beyond / gap))
        return abs(beyond - frames * gap) <= within


class Pair:
    """Room for two pictures, in one slot.

    Attributes:
        arrays: where they go, by side.
        stamps: of the pictures that are there, or are being decoded; None for a place that is free.
        pictures: that are there.
    """

    __slots__ = ("arrays", "pictures", "stamps")

    def __init__(self, main: np.ndarray, sub: np.ndarray) -> None:
        self.arrays = main, sub
        self.stamps: list[Stamp | None] = [None, None]
        self.pictures: list[Live | None] = [None, None]

    def free(self, side: int) -> None:
        """Makes the place of one picture free again."""
        self.stamps[side] = self.pictures[side] = None

    @property
    def is_empty(self) -> bool:
        """Whether both places are free."""
        return self.stamps[MAIN] is None and self.stamps[SUB] is None

    @property
    def is_complete(self) -> bool:
        """Whether both pictures are there."""
        return self.pictures[MAIN] is not None and self.pictures[SUB] is not None


class Pairs:
    """The pairs that are open, and what is known of both streams. Callers hold the lock of `changed`, and notify it.

    :param counters: where frames are counted: those that had no partner (`unpaired`), and those that came when there was no
        room for them, or nobody to take them (`skipped`).
    :param tolerance: seconds by which the two pictures of a pair may be apart; None for half the time between two frames of the
        faster stream. Then each frame of the slower one has a partner, and only one.

    Attributes:
        changed: what a routine waits on for pairs, and for room to be lacking.
        shapes: of the arrays that each stream needs, by side; None while that is not known.
        connected: whether each stream is there, by side.
        nearest: seconds by which the nearest two frames since the last pair were apart.
    """

    def __init__(self, counters: Counters, tolerance: float | None = None) -> None:
        self._counters = counters
        self.changed = threading.Condition()
        self.shapes: list[tuple[int, ...] | None] = [None, None]
        self.connected = [False, False]
        self.nearest = float("inf")
        self._tolerance = tolerance
        self._rhythms = [Rhythm(), Rhythm()]
        self._open: list[Pair] = []
        self._is_awaited = False
        self._until = 0.0  # as long as that, the routine counts as waiting though it does not

    # ---- for the routine -------------------------------------------------------------------------

    def await_pair(self) -> None:
        """Says that the routine waits for a pair."""
        self._is_awaited = True

    def leave(self, pause: float) -> None:
        """Says that it no longer does.

        A frame that comes while it sends the last pair should not be lost.

        :param pause: seconds until it waits again, at the least.
        """
        self._is_awaited = False
        grace = self.gap or 0.0
        self._until = time.monotonic() + (grace if pause <= grace else 0.0)

    @property
    def gap(self) -> float | None:
        """Seconds between two frames of the faster stream; None while that is not known."""
        gaps = [rhythm.gap for rhythm in self._rhythms]
        return None if None in gaps else min(gap for gap in gaps if gap is not None)

    @property
    def tolerance(self) -> float | None:
        """Seconds by which partners may be apart; None while that is not known."""
        if self._tolerance is not None:
            return self._tolerance
        return None if self.gap is None else self.gap / 2

    @property
    def is_any_complete(self) -> bool:
        """Whether there is a pair to take."""
        return any(pair.is_complete for pair in self._open)

    @property
    def has_none(self) -> bool:
        """Whether no pair is open."""
        return not self._open

    @property
    def lack_room(self) -> bool:
        """Whether `add` should be called: both streams are there, and no pair is empty."""
        known = all(shape is not None and all(shape) for shape in self.shapes)
        is_full = len(self._open) >= MOST_PAIRS or any(pair.is_empty for pair in self._open)
        return all(self.connected) and known and not is_full

    def add(self, pair: Pair) -> None:
        """Opens a pair. One that the streams have outgrown is not taken."""
        if [array.shape for array in pair.arrays] == self.shapes:
            self._open.append(pair)

    def take(self) -> tuple[Live, Live] | None:
        """The oldest complete pair that is not too old; None if there is none."""
        for pair in [pair for pair in self._open if pair.is_complete]:
            self._open.remove(pair)
            main, sub = pair.pictures
            assert main is not None
            assert sub is not None
            if not self._is_stale(pair):
                self.nearest = float("inf")
                return main, sub
            self._counters["skipped"] += 2
        return None

    def _is_stale(self, pair: Pair) -> bool:
        """Whether both streams have gone on. One that comes later than the other is what its pairs wait for."""
        behind = []
        for rhythm, stamp in zip(self._rhythms, pair.stamps, strict=True):
            gap, last = rhythm.gap, rhythm.last
            behind.append(gap is not None and last is not None and stamp is not None and last.after(stamp) > STALE * gap)
        return all(behind)

    def clear(self) -> None:
        """Gives up all pairs. What is in them counts as unpaired; a picture that is being decoded, when that is done."""
        for pair in self._open:
            self._counters["unpaired"] += sum(picture is not None for picture in pair.pictures)
        self._open = []

    # ---- for the streams -------------------------------------------------------------------------

    def expect(self, side: int, shape: tuple[int, ...]) -> None:
        """Says that a stream is there, and what arrays its frames need."""
        self.connected[side] = True
        self._rhythms[side] = Rhythm()
        self._reshape(side, shape)

    def lose(self, side: int) -> None:
        """Says that a stream is lost. What is left of it has no partner any more."""
        self.connected[side] = False
        self.clear()

    def claim(self, side: int, stamp: Stamp, shape: tuple[int, ...], left_out: int = 0) -> np.ndarray | None:
        """The array for a frame that came; None, which is counted, if it is not to be decoded.

        :param left_out: how many frames of the stream, just before it, were not decoded.
        """
        other = 1 - side
        self._rhythms[side].note(stamp, left_out)
        if self.shapes[side] != shape:
            self._reshape(side, shape)
        if not self.connected[other]:
            self._counters["unpaired"] += 1
            return None
        tolerance, newest = self.tolerance, self._rhythms[other].last
        if tolerance is None or newest is None:
            self._counters["skipped"] += 1
            return None
        self.nearest = min(self.nearest, abs(stamp.after(newest)))
        self._drop(other, lambda own: stamp.after(own) > tolerance)
        if not self._is_open:
            self._counters["skipped"] += 1
            return None
        pair = self._partner(side, stamp, tolerance)
        if pair is None:
            if newest.after(stamp) > tolerance or not self._may_come(other, stamp, tolerance):
                self._counters["unpaired"] += 1
                return None
            pair = self._empty()
        elif (partner := pair.stamps[other]) is not None:
            self._drop(other, lambda own: own is not partner and partner.after(own) > 0)
        if pair is None:
            self._counters["skipped"] += 1
            return None
        pair.stamps[side] = stamp
        return pair.arrays[side]

    def settle(self, side: int, array: np.ndarray, picture: Live | None) -> None:
        """Takes a picture for which an array was claimed; None for one that is damaged."""
        for pair in self._open:
            if pair.arrays[side] is array:
                if picture is None:
                    pair.free(side)
                pair.pictures[side] = picture
                return
        self._counters["unpaired"] += picture is not None

    def is_needless(self, side: int, stamp: Stamp) -> bool:
        """Whether a frame that is captured at about this time will not be decoded."""
        other = 1 - side
        if not self.connected[other] or not self._is_open:
            return True
        tolerance = self.tolerance
        if tolerance is None or self._partner(side, stamp, tolerance + (self.gap or 0.0) / 4) is not None:
            return False
        return not self._may_come(other, stamp, tolerance) or self._empty() is None

    @property
    def _is_open(self) -> bool:
        """Whether somebody waits for pairs, or will so at once."""
        return self._is_awaited or time.monotonic() < self._until

    def _reshape(self, side: int, shape: tuple[int, ...]) -> None:
        self.shapes[side] = shape
        self.clear()

    def _may_come(self, side: int, stamp: Stamp, tolerance: float) -> bool:
        return self._rhythms[side].may_have(stamp, tolerance + (self.gap or 0.0) / 4)

    def _drop(self, side: int, is_passed: Callable[[Stamp], bool]) -> None:
        """Makes those places free whose pictures have no partner, and can get none any more."""
        for pair in self._open:
            own = pair.stamps[side]
            waits = own is not None and pair.pictures[side] is not None and pair.stamps[1 - side] is None
            if waits and own is not None and is_passed(own):
                pair.free(side)
                self._counters["unpaired"] += 1

    def _partner(self, side: int, stamp: Stamp, tolerance: float) -> Pair | None:
        """The pair that waits for a frame of this side, and whose picture is the nearest to it."""
        found, least = None, tolerance
        for pair in self._open:
            own = pair.stamps[1 - side]
            if own is not None and pair.stamps[side] is None and abs(stamp.after(own)) <= least:
                found, least = pair, abs(stamp.after(own))
        return found

    def _empty(self) -> Pair | None:
        """A pair for a frame that comes before its partner."""
        return next((pair for pair in self._open if pair.is_empty), None)
