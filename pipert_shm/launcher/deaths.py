"""What follows when a flow's process dies, or can't be started: its memory is recovered, and it is restarted or fails."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from pipert_shm import binding
from pipert_shm.control.guard import contained
from pipert_shm.control.messages import Died, Message
from pipert_shm.errors import describe
from pipert_shm.events import PEER_FAILED_EVENT_NAME, Event, pack_parameters
from pipert_shm.launcher.flow_stderr import FlowStderr
from pipert_shm.launcher.lifecycle import Lifecycle
from pipert_shm.launcher.recovery import Recovery
from pipert_shm.launcher.restarts import pause_after_death, pause_after_failed_start
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.launcher.tracing import Tracing
from pipert_shm.launcher.watch import Watch
from pipert_shm.shm.states import EndReason, FlowState
from pipert_shm.system import calls

RECOVERY_RETRY = 0.1  # seconds


class Deaths:
    """Clears up after dead flows, and decides what becomes of them.

    :param tell: sends the parent a message.
    :param note_up: called when a flow has failed for good, so that nobody waits for it to come up.
    :param note_removed: called when a flow that is being removed has no process any more.

    Attributes:
        on_down: called when a flow has lost its process, or got none.
    """

    def __init__(
        self,
        roster: Roster,
        watch: Watch,
        recovery: Recovery,
        lifecycle: Lifecycle,
        stderr: FlowStderr,
        tell: Callable[[Message], None],
        note_up: Callable[[Flow], None],
        note_removed: Callable[[Flow], None],
    ) -> None:
        self._roster = roster
        self._logger = roster.logger
        self._watch = watch
        self._recovery = recovery
        self._lifecycle = lifecycle
        self._stderr = stderr
        self._tell = tell
        self._note_up = note_up
        self._note_removed = note_removed
        self.on_down: Callable[[Flow], object] = lambda flow: None

    def note_death(self, flow: Flow) -> None:
        """Handles a death that the flow's pidfd has shown."""
        self._watch.drop(flow.pidfd)
        if flow.forked_by is not None:
            flow.forked_by.reap(flow.pid, lambda exit_code: self._bury(flow, exit_code))
            return
        try:
            exit_code = calls.wait_for_exit(flow.pid)
        except OSError as error:
            exit_code = -signal.SIGKILL
            self._logger.error("flow %r is dead, and its exit code can't be had: %s", flow.name, describe(error))
        self._bury(flow, exit_code)

    def _bury(self, flow: Flow, exit_code: int) -> None:
        if flow.peer is not None:
            flow.peer.hear_last_words()
        flow.note_exit(exit_code, ending=self._lifecycle.ending)
        Tracing.note(flow, "down", exit_code)
        self.release(flow)
        if self._lifecycle.ending:
            self._lifecycle.note_end(flow)
            return
        self.recover(flow)

    def release(self, flow: Flow) -> None:
        """Closes what belonged to the process: its descriptors and its channel."""
        if flow.pidfd >= 0:
            self._watch.drop(flow.pidfd)
        self._stderr.end(flow, flow.stacks)
        for fd in (flow.pidfd, flow.stacks):
            if fd >= 0:
                binding.unguard(fd)
                os.close(fd)
        if flow.peer is not None:
            flow.peer.close()
        flow.forget_process()

    def recover(self, flow: Flow) -> None:
        """Clears up after a death, and decides what becomes of the flow. Tries again later if the system refuses that."""
        first, flow.recover_at = flow.recover_at is None, None
        try:
            self._recovery.retire(flow)
        except Exception as error:
            flow.recover_at = time.monotonic() + RECOVERY_RETRY
            if first:
                text = "the rings of dead flow %r can't be cleared up now: %s; it is tried again"
                self._logger.error(text, flow.name, describe(error))
            return
        if flow.leaves:
            self._note_removed(flow)
            return
        self._recovery.mark(flow)
        pause = pause_after_death(flow, self._roster.plan.restarts[flow.name])
        self._record(flow, pause, restarting=pause is not None)
        if pause is None:
            self._logger.error("%s; it is not restarted", flow.died(), extra={"flow": flow.name})
            self._fail(flow, str(flow.died()) if flow.doom_text else "")
        else:
            self._logger.warning("%s; it is restarted in %g s", flow.died(), pause, extra={"flow": flow.name})

    def note_failed_start(self, flow: Flow, why: str) -> None:
        """Handles a start that failed: the flow gets another try, by its restart policy.

        :param why: the reason, for the log and the parent.
        """
        if self._lifecycle.ending:
            self._lifecycle.note_end(flow)
            return
        flow.restart_at = None
        with contained(self._logger, f"clearing up after a start of flow {flow.name!r} that failed"):
            self._recovery.retire(flow)
        if flow.leaves:
            self._note_removed(flow)
            return
        self._recovery.mark(flow)
        flow.ended_by = EndReason.START
        pause = pause_after_failed_start(flow, self._roster.plan.restarts[flow.name])
        self._record(flow, pause, restarting=False)
        if pause is None:
            self._logger.error("flow %r can't be started: %s", flow.name, why, extra={"flow": flow.name})
            self._fail(flow, f"flow {flow.name!r} can't be started: {why}")
        else:
            text = "flow %r can't be started: %s; it is tried again in %g s"
            self._logger.error(text, flow.name, why, pause, extra={"flow": flow.name})

    def _record(self, flow: Flow, pause: float | None, *, restarting: bool) -> None:
        """Sets when the flow is forked again, and writes its state into its record.

        :param pause: seconds until it is forked again; None: never.
        :param restarting: whether that counts as a restart.
        """
        flow.restart_at = None if pause is None else time.monotonic() + pause
        state = FlowState.FAILED if pause is None else FlowState.RESTARTING
        flow.record.note_death(state, flow.exit_code, flow.ended_by, restarting=restarting)
        self.on_down(flow)

    def _fail(self, flow: Flow, why: str) -> None:
        """Gives the flow up for good: the flows beside it go on without it.

        :param why: for the parent; empty where the exit code says enough.
        """
        flow.failed = True
        self._tell(Died(flow.name, flow.exit_code, why))
        self._recovery.give_up(flow)
        self._tell_neighbours(flow)
        self._lifecycle.fail(flow)
        self._note_up(flow)

    def _tell_neighbours(self, flow: Flow) -> None:
        plan, names = self._roster.plan, tuple(item.routine.name for item in flow.routines)
        neighbours = {
            plan.name_of(number)
            for item in flow.routines
            for edge in (*item.ins, *item.outs)
            for number in (edge.sender, edge.receiver)
        }
        told = {"flow": flow.name, "routines": list(names), "reason": flow.ended_by.name.lower()}
        params = pack_parameters(PEER_FAILED_EVENT_NAME, told)
        for other, group in self._roster.by_flow(tuple(sorted(neighbours - set(names)))):
            self._lifecycle.send_event(other, Event(PEER_FAILED_EVENT_NAME, group, params))
