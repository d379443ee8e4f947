"""Rates and recent latencies, worked out from the counters at two moments."""

from __future__ import annotations

from collections import deque

from pipert_shm.statistics import Latency, PipeStatistics, RoutineStatistics, WireStatistics

WINDOW = 5  # looks that rates and latencies are taken over


class Motion:
    """Follows a pipe's counters. One thread.

    Attributes:
        now: the last look.
    """

    def __init__(self, now: PipeStatistics) -> None:
        self._looks = deque([now], maxlen=WINDOW + 1)

    @property
    def now(self) -> PipeStatistics:
        """The last look."""
        return self._looks[-1]

    def look(self, now: PipeStatistics) -> None:
        """Takes one more."""
        self._looks.append(now)

    def fps(self, name: str) -> float:
        """Messages a second that a routine works on: those that it gets, or sends where it gets none."""
        return self.now.fps(name, self._looks[0])

    def wire_rate(self, wire: WireStatistics) -> float:
        """Messages a second that come through a wire."""
        before = self._looks[0].wires.get((wire.sender, wire.receiver))
        return self._per_second(wire.received - before.received) if before else 0.0

    def loss_rate(self, wire: WireStatistics) -> float:
        """Messages a second that a wire drops."""
        before = self._looks[0].wires.get((wire.sender, wire.receiver))
        return self._per_second(wire.lost - before.lost) if before else 0.0

    def cpu_percent(self, flow: str) -> float | None:
        """What share of a processor a flow's process takes; None while that is not known."""
        now, before = self.now.flows[flow], self._looks[0].flows.get(flow)
        if now.cpu_s is None or before is None or before.cpu_s is None or before.pid != now.pid:
            return None
        return 100 * self._per_second(now.cpu_s - before.cpu_s)

    def latency(self, routine: RoutineStatistics) -> Latency:
        """The recent latency from capture to receipt; for a source that of its wires, from publication to receipt."""
        before = self._looks[0]
        ages = [(routine.age, before.routines[routine.name].age)] if routine.name in before.routines else []
        if not routine.received:
            ages = [
                (wire.hop, before.wires[key].hop)
                for key, wire in self.now.wires.items()
                if key[0] == routine.name and key in before.wires
            ]
        counts = [sum(now.counts[place] - was.counts[place] for now, was in ages) for place in range(len(routine.age.counts))]
        return Latency(tuple(max(0, count) for count in counts))

    def _per_second(self, count: float) -> float:
        passed = self.now.time_s - self._looks[0].time_s
        return max(0.0, count / passed) if passed > 0 else 0.0


def summary(now: PipeStatistics) -> str:
    """A pipe's state in a word: that of its parts which matters most."""
    flows = {flow.state for flow in now.flows.values()}
    routines = {routine.state for routine in now.routines.values()}
    if "failed" in flows | routines:
        return "failed"
    if "restarting" in flows:
        return "restarting"
    if flows == {"ended"}:
        return "ended"
    for state in ("running", "stopping", "stopped", "built"):
        if state in routines:
            return state
    return "ended"
