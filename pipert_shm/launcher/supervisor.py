"""What the launcher does by the clock: restarts, retries, hangs, memory, silent fork servers, the end of the grace period."""

from __future__ import annotations

import time

from pipert_shm.control.guard import contained
from pipert_shm.control.messages import Kill
from pipert_shm.launcher.deaths import RECOVERY_RETRY, Deaths
from pipert_shm.launcher.flow_stderr import FlowStderr
from pipert_shm.launcher.fork_server import ForkServer
from pipert_shm.launcher.hangs import Hangs
from pipert_shm.launcher.lifecycle import Lifecycle
from pipert_shm.launcher.memory_limits import MemoryLimits
from pipert_shm.launcher.recovery import Recovery
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.launcher.starts import Starts
from pipert_shm.shm.states import EndReason

LAST_RESORT = 60.0  # seconds after a SIGKILL


class Supervisor:
    """Does what is due, flow by flow.

    :param grace: seconds that a flow has to end in, before SIGKILL.
    """

    def __init__(
        self,
        roster: Roster,
        recovery: Recovery,
        lifecycle: Lifecycle,
        stderr: FlowStderr,
        deaths: Deaths,
        starts: Starts,
        grace: float,
    ) -> None:
        self._roster = roster
        self._logger = roster.logger
        self._recovery = recovery
        self._lifecycle = lifecycle
        self._stderr = stderr
        self._deaths = deaths
        self._starts = starts
        self._grace = grace
        self._hangs = Hangs(roster)
        self._memory = MemoryLimits(roster)

    # ---- restarts --------------------------------------------------------------------------------

    def restart_by_order(self, flow: Flow) -> None:
        """Kills a flow so that it is restarted, which counts towards no limit. One that waits for its restart gets it now."""
        if self._lifecycle.ending or flow.leaves:
            return
        if flow.restart_at is not None:
            flow.restart_at = time.monotonic()
        elif flow.up and not flow.doomed:
            self._logger.info("flow %r is killed, to be restarted as requested", flow.name)
            flow.kill_for(EndReason.ORDER)

    def replace_by_order(self, flow: Flow) -> None:
        """Ends a flow's process, its routines cleaned up within the grace period, so that a new one takes its place."""
        if self._lifecycle.ending:
            return
        if flow.restart_at is not None:
            flow.restart_at = time.monotonic()
        elif flow.up and not flow.doomed:
            flow.doom, flow.doom_text = EndReason.ORDER, "has ended, to be replaced"
            flow.kill_at = time.monotonic() + self._grace
            self._roster.send(flow, Kill(to_be_replaced=True))

    def _restart(self, flow: Flow) -> None:
        """Forks the flow again, with fresh incarnations of the edges that it sends on."""
        opened = self._recovery.reopen_outs(flow)
        if opened is None:
            flow.restart_at = time.monotonic() + RECOVERY_RETRY  # until a receiver has released what it keeps
            return
        self._starts.launch(flow, {})
        if flow.up:
            for edge, number in opened:
                if not edge.local:
                    self._recovery.attach(number)

    # ---- what is due -----------------------------------------------------------------------------

    @property
    def due(self) -> float | None:
        """When `do_due` should be called, as of time.monotonic(); None: nothing is due."""
        now = time.monotonic()
        flows = self._roster.flows.values()
        moments = [moment for flow in flows for moment in flow.moments if moment is not None]
        moments += [server.due for server in self._servers() if server.due is not None]
        if self._lifecycle.kill_by is not None:
            moments.append(self._lifecycle.kill_by)
        if self._recovery.has_retired:
            moments.append(now + 1.0)
        if self._hangs.interval is not None:
            moments.append(now + self._hangs.interval)
        if self._memory.due is not None:
            moments.append(self._memory.due)
        if self._stderr.due is not None:
            moments.append(self._stderr.due)
        return min(moments, default=None)

    def _servers(self) -> set[ForkServer]:
        return {flow.server for flow in self._roster.flows.values() if flow.server is not None and not flow.server.dead}

    def do_due(self) -> None:
        """Does what is due. A failure concerns one flow only."""
        now = time.monotonic()
        self._stderr.tell_due(now)
        for server in self._servers():
            with contained(self._logger, "a fork server"):
                server.check(now)
        if self._lifecycle.kill_by is not None:
            if now >= self._lifecycle.kill_by:
                self._kill_all()
            return
        for flow in list(self._roster.flows.values()):
            with contained(self._logger, f"flow {flow.name!r}"):
                self._do_due_of(flow, now)
        self._memory.enforce(now)
        with contained(self._logger, "removing rings of dead flows"):
            self._recovery.remove_retired()

    def _do_due_of(self, flow: Flow, now: float) -> None:
        if flow.recover_at is not None and now >= flow.recover_at:
            self._deaths.recover(flow)
        elif flow.restart_at is not None and now >= flow.restart_at:
            self._restart(flow)
        elif flow.kill_at is not None and now >= flow.kill_at and flow.up and not flow.doomed:
            what = "removed" if flow.leaves else "replaced"
            self._logger.warning("flow %r is %s, did not end within %g s and is killed", flow.name, what, self._grace)
            flow.kill()
        elif flow.pidfd >= 0 and not flow.doomed and self._hangs.is_found(flow):
            flow.kill_for(EndReason.HANG)

    def _kill_all(self) -> None:
        for flow in self._roster.flows.values():
            if flow.up:
                self._logger.warning("flow %r did not end within %g s and is killed", flow.name, self._grace)
                with contained(self._logger, f"killing flow {flow.name!r}"):
                    flow.kill()
        self._lifecycle.kill_by = time.monotonic() + LAST_RESORT
