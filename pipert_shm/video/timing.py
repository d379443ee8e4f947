"""Frames in the time of their video: one at a time as they are due, or fewer of them."""

from __future__ import annotations

import time

MOST_LATE = 1.0
LONGEST_GAP = 60.0


class Playback:
    """When frames are due that are played at the speed of their time stamps.

    A delay of up to a second is made up for; past that, and where time stamps jump (back, or by more than a minute), the rest
    is played that much later.
    """

    def __init__(self) -> None:
        self._zero: float | None = None
        self._last = 0.0

    def left(self, pts: float | None) -> float:
        """Seconds until a frame is due, at most 0 when it is."""
        if pts is None:
            return 0.0
        now = time.monotonic()
        if self._zero is None or not 0 <= pts - self._last <= LONGEST_GAP or now - self._zero - pts > MOST_LATE:
            self._zero = now - pts
        self._last = pts
        return self._zero + pts - now


class Thinning:
    """Which frames of a video to take so that it has at most `fps` in a second of its own time.

    >>> thinning = Thinning(10)
    >>> [number for number in range(10) if thinning.takes(number / 25)]
    [0, 3, 5, 8]
    """

    def __init__(self, fps: float) -> None:
        self._gap = 1 / fps
        self._next = float("-inf")
        self._last = 0.0

    def takes(self, pts: float | None) -> bool:
        """Whether the frame that stands there in the video is one of them."""
        if pts is None:
            return True
        if pts < self._last:
            self._next = pts  # it begins anew
        self._last = pts
        if pts < self._next - 1e-6:
            return False
        self._next = (self._next if pts - self._next < self._gap else pts) + self._gap
        return True
