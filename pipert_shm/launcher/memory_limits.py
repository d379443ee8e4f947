"""Kills flows that take more memory than they may. The pipe then recovers as from a crash."""

from __future__ import annotations

from pipert_shm.control.guard import contained
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.shm.states import EndReason
from pipert_shm.system import usage

INTERVAL = 1.0  # seconds between two looks


class MemoryLimits:
    """Looks once a second how much private memory the flows with a `max_rss` have. Where no flow has one it never looks."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._next = 0.0

    @property
    def due(self) -> float | None:
        """When the next look is due, as of time.monotonic(); None when no flow has a limit."""
        return self._next if any(settings.max_rss for settings in self._roster.plan.processes.values()) else None

    def enforce(self, now: float) -> None:
        """Kills the flows that are past their limits, if a look is due. A failure concerns one flow only."""
        if self.due is None or now < self._next:
            return
        self._next = now + INTERVAL
        for flow in self._roster.flows.values():
            limit = self._roster.plan.processes[flow.name].max_rss
            if limit is not None and flow.pidfd >= 0 and not flow.doomed:
                with contained(self._roster.logger, f"looking how much memory flow {flow.name!r} has"):
                    self._enforce(flow, limit)

    def _enforce(self, flow: Flow, limit: int) -> None:
        taken = usage.private_bytes_of(flow.pid)
        if taken > limit:
            why = f"was killed, since its private memory of {taken:,} bytes is more than its max_rss, {limit:,} bytes"
            flow.kill_for(EndReason.MAX_RSS, why)
