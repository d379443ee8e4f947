"""How many messages may be under way: as many as the rate and the round trip ask for."""

from __future__ import annotations

import math

from pipert_shm.limits import MOST_UNDER_WAY

LEAST, MOST = 2, MOST_UNDER_WAY
LONGEST_S = 0.25  # of a round trip that is covered: what takes longer stands in a queue, which a larger window would lengthen
SHARE = 1 / 8  # that a new measurement has in an average


class AutoWindow:
    """Covers the rate times the round trip, from measurements of both. Times are in seconds.

    The round trip is the average and four times its deviation, as TCP waits for answers: on a link that loses packets the
    window has to cover the time until they come again. The time in the receiver's queue is no part of it. Where the link
    itself is the bottleneck a round trip grows with the window, so no more than 0.25 s of it count, or twice the shortest.

    >>> window = AutoWindow()
    >>> for frame in range(100):
    ...     window.note_sent(frame / 30)
    ...     window.note_round_trip(0.04)
    >>> window.size
    3
    """

    def __init__(self) -> None:
        self._interval: float | None = None
        self._sent_at: float | None = None
        self._mean: float | None = None
        self._deviation = 0.0
        self._shortest = math.inf

    def note_sent(self, now: float) -> None:
        """A message was given to it."""
        if self._sent_at is not None:
            interval = max(now - self._sent_at, 1e-4)
            self._interval = interval if self._interval is None else self._interval + (interval - self._interval) * SHARE
        self._sent_at = now

    def note_round_trip(self, seconds: float) -> None:
        """A round trip, without what the receiver took."""
        self._shortest = min(self._shortest, seconds)
        if self._mean is None:
            self._mean, self._deviation = seconds, seconds / 2
            return
        self._deviation += (abs(seconds - self._mean) - self._deviation) * 2 * SHARE
        self._mean += (seconds - self._mean) * SHARE

    @property
    def round_trip(self) -> float:
        """The average; 0 before the first."""
        return self._mean or 0.0

    @property
    def size(self) -> int:
        """The window."""
        if self._mean is None or self._interval is None:
            return LEAST
        covered = min(self._mean + 4 * self._deviation, max(LONGEST_S, 2 * self._shortest))
        return max(LEAST, min(MOST, 1 + math.ceil(covered / self._interval)))
