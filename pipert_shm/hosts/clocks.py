"""How far two hosts' clocks are apart, by the four stamps of an acknowledgement."""

from __future__ import annotations

from collections import deque

from pipert_shm.hosts.messages import Offset

KEPT = 64  # measurements
DRIFT = 100  # ns that two clocks may move apart in a millisecond: 100 parts in a million


class ClockOffset:
    """Estimates the offset from the round trip that was shortest, which says most.

    With the shortest round trip d, the offset is wrong by d/2 at most, as each way takes from 0 to d; and by the drift since.

    >>> clocks = ClockOffset()
    >>> clocks.note(sent=1_000, arrived=51_500, answered=51_600, back=2_100)
    1000
    >>> clocks.offset(2_100)
    Offset(ns=50000, uncertainty_ns=500)
    """

    def __init__(self) -> None:
        self._measured: deque[tuple[int, int, int]] = deque(maxlen=KEPT)  # round trip, offset, when

    def note(self, *, sent: int, arrived: int, answered: int, back: int) -> int:
        """Takes a measurement: sent and back by this clock, arrived and answered by the other. Returns the round trip (ns)."""
        round_trip = max((back - sent) - (answered - arrived), 0)
        self._measured.append((round_trip, ((arrived - sent) + (answered - back)) // 2, back))
        return round_trip

    def offset(self, now: int) -> Offset | None:
        """The other clock minus this one; None before the first measurement."""
        if not self._measured:
            return None
        wrong, ns = min((trip // 2 + (now - at) * DRIFT // 1_000_000, ns) for trip, ns, at in self._measured)
        return Offset(ns, wrong)

    def clear(self) -> None:
        """Forgets all: the other end is another process, perhaps on a host that was started anew."""
        self._measured.clear()
