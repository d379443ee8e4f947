"""The flows' processes: how they are made, how one knows of their deaths, and what becomes of a flow then."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NoReturn

from pipert_shm import forked, native, system
from pipert_shm.attachment import Attachment
from pipert_shm.control.channel import Channel
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.guard import contained
from pipert_shm.control.messages import Died, ForkFlow, Message
from pipert_shm.descriptors import advised
from pipert_shm.errors import describe
from pipert_shm.events import PEER_FAILED_EVENT_NAME, Event, pack_parameters
from pipert_shm.launcher.fork_server import ForkServer
from pipert_shm.launcher.hangs import Hangs
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.lifecycle import Lifecycle
from pipert_shm.launcher.links import Links
from pipert_shm.launcher.overheard import Overheard
from pipert_shm.launcher.peers import Peer
from pipert_shm.launcher.recovery import Recovery
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.launcher.watch import Watch
from pipert_shm.plan import EdgePlan
from pipert_shm.states import FlowState

FIRST_BACKOFF = 0.02  # seconds, doubled with each death within the window
START_BACKOFF = 0.5  # likewise, where the system would not let us fork: what it lacks does not come back so soon
LONGEST_BACKOFF = 10.0
RECOVERY_RETRY = 0.1
LAST_RESORT = 60.0  # seconds after a SIGKILL

BeFlow = Callable[[Flow, Channel, int, Attachment], NoReturn]
MakeOrder = Callable[[Flow, ForkServer, Attachment], ForkFlow]


class Supervisor:
    """Forks flows, hears of their deaths, and restarts them by their policies.

    :param be_flow: what a forked child does; it does not return.
    :param make_order: what a fork server has to be told to fork a flow.
    :param dispatch_for: who handles what a flow says.
    :param tell: sends the parent a message.
    :param note_up: called when a flow's process is ready, or the flow has failed.
    """

    def __init__(
        self,
        roster: Roster,
        watch: Watch,
        incarnations: Incarnations,
        links: Links,
        recovery: Recovery,
        lifecycle: Lifecycle,
        logger: logging.Logger,
        be_flow: BeFlow,
        make_order: MakeOrder,
        dispatch_for: Callable[[Flow], Dispatch],
        tell: Callable[[Message], None],
        note_up: Callable[[Flow], None],
        grace: float,
        overheard: Overheard,
    ) -> None:
        self._roster = roster
        self._watch = watch
        self._overheard = overheard
        self._incarnations = incarnations
        self._links = links
        self._recovery = recovery
        self._lifecycle = lifecycle
        self._logger = logger
        self._be_flow = be_flow
        self._make_order = make_order
        self._dispatch_for = dispatch_for
        self._tell = tell
        self._note_up = note_up
        self._grace = grace
        self._hangs = Hangs(roster)
        self._came_up: set[str] = set()  # flows that were ready once

    # ---- births ----------------------------------------------------------------------------------

    def launch(self, flow: Flow, rings: dict[int, tuple[int, int]]) -> None:
        """Gives a flow a process, unless the pipe is to end. Where the system does not let us, that is a failed start."""
        if self._lifecycle.ending:  # the failure of one may be the end of all
            flow.restart_at = None
            self._lifecycle.note_end(flow)
            return
        try:
            with ExitStack() as undo:
                self._launch(flow, rings, undo)
                undo.pop_all()
        except Exception as error:
            flow.peer, flow.stacks = None, -1
            self._note_failed_start(flow, advised(error))

    def _launch(self, flow: Flow, rings: dict[int, tuple[int, int]], undo: ExitStack) -> None:
        attachment = self._attachment(flow, rings)
        order = None if flow.server is None else self._make_order(flow, flow.server, attachment)
        ours, theirs = Channel.pair()
        undo.callback(ours.close)
        with ExitStack() as for_child:
            for_child.callback(theirs.close)
            ours.keep()
            stacks, stacks_in = system.pipe()
            undo.callback(os.close, stacks)
            for_child.callback(os.close, stacks_in)
            native.guard(stacks)
            undo.callback(native.unguard, stacks)
            undo.callback(self._watch.drop, stacks)
            self._overheard.begin(flow, stacks)
            pid, pidfd = 0, -1
            if order is None:
                pid = forked.fork(lambda: self._be_flow(flow, theirs, stacks_in, attachment))
                pidfd = self._pidfd_of(pid, _reap)
                undo.callback(_abandon, pid, pidfd)
            else:
                for_child.pop_all()
        flow.peer, flow.stacks, flow.unhandled = self._peer_of(flow, ours), stacks, 0
        undo.callback(self._watch.drop, ours)
        flow.restart_at, flow.doomed, flow.ordered = None, False, False
        for edge in attachment.leaving:
            self._recovery.forget(edge)
        if flow.server is not None and order is not None:
            flow.server.fork(order, [theirs.detach(), stacks_in], lambda pid, why: self._note_forked(flow, pid, why))
        else:
            self._note_process(flow, pid, pidfd)

    def _attachment(self, flow: Flow, rings: dict[int, tuple[int, int]]) -> Attachment:
        outs: dict[int, int] = {}
        ins: dict[int, list[int]] = {}
        leaving: list[EdgePlan] = []
        for item in flow.routines:
            for edge in item.outs:
                live = self._incarnations.live(edge)
                if live is not None:
                    outs[edge.number] = live
            for edge in self._links.ins(item):
                ins[edge.number] = self._links.fit(edge)
            self._links.note_birth(item)
            leaving += [edge for edge in self._links.ins(item) if not edge.linked]
        return Attachment(outs, ins, rings, leaving)

    @staticmethod
    def _pidfd_of(pid: int, reap: Callable[[int], object]) -> int:
        """The pidfd of a process that was just forked. It is not left alone where there is none to be had.

        :raises OSError: then.
        """
        try:
            pidfd = system.pidfd_open(pid)
            native.guard(pidfd)
            return pidfd
        except OSError:
            os.kill(pid, signal.SIGKILL)
            reap(pid)
            raise

    def _peer_of(self, flow: Flow, channel: Channel) -> Peer:
        name = f"flow {flow.name!r}"
        dispatch = self._dispatch_for(flow)
        return Peer(
            name,
            channel,
            self._watch,
            self._logger,
            dispatch.deliver,
            lambda: None,
            lambda: self.kill_flow(flow),
        )

    def _note_process(self, flow: Flow, pid: int, pidfd: int) -> None:
        flow.pid, flow.pidfd = pid, pidfd
        flow.record.note_start(FlowState.RUNNING, pid)
        self._watch.add(pidfd, lambda: self._note_death(flow))
        if flow.doomed:
            self.kill_flow(flow)
        if flow.ready:
            self._note_up_and_running(flow)

    def _note_forked(self, flow: Flow, pid: int, why: str) -> None:
        """A fork server has made a process, or has not."""
        pidfd = -1
        if pid:
            try:
                pidfd = self._pidfd_of(pid, partial(self._forget_child, flow))
            except OSError as error:
                pid, why = 0, advised(error)
        if pid:
            self._note_process(flow, pid, pidfd)
            return
        self._close(flow)
        self._note_failed_start(flow, why)

    @staticmethod
    def _forget_child(flow: Flow, pid: int) -> None:
        if flow.server is not None:
            flow.server.reap(pid, lambda exit_code: None)

    def note_ready(self, flow: Flow) -> None:
        """Its process says that it is there; perhaps more than once, and perhaps before a fork server has told its pid."""
        if flow.ready:
            return
        flow.ready = True
        if flow.pid:
            self._note_up_and_running(flow)

    def _note_up_and_running(self, flow: Flow) -> None:
        self._came_up.add(flow.name)
        self._note_up(flow)
        self._lifecycle.start_again(flow)

    # ---- deaths ----------------------------------------------------------------------------------

    def _note_death(self, flow: Flow) -> None:
        self._watch.drop(flow.pidfd)
        if flow.server is not None:
            flow.server.reap(flow.pid, lambda exit_code: self._bury(flow, exit_code))
            return
        try:
            exit_code = os.waitstatus_to_exitcode(system.waitpid(flow.pid, 0)[1])
        except OSError as error:
            exit_code = -signal.SIGKILL
            self._logger.error("how flow %r ended is not known: %s", flow.name, describe(error))
        self._bury(flow, exit_code)

    def _bury(self, flow: Flow, exit_code: int) -> None:
        if flow.peer is not None:
            flow.peer.hear_last_words()
        flow.exit_code = exit_code
        self._close(flow)
        if self._lifecycle.ending:
            self._lifecycle.note_end(flow)
            return
        self._recover(flow)

    def _close(self, flow: Flow) -> None:
        """Lets go of what belonged to the process."""
        if flow.pidfd >= 0:
            self._watch.drop(flow.pidfd)
        self._overheard.end(flow, flow.stacks)
        for fd in (flow.pidfd, flow.stacks):
            if fd >= 0:
                native.unguard(fd)
                os.close(fd)
        if flow.peer is not None:
            flow.peer.close()
        flow.peer, flow.pid, flow.pidfd, flow.stacks, flow.unhandled, flow.ready = None, 0, -1, -1, 0, False

    def _recover(self, flow: Flow) -> None:
        """Clears up after a death, and decides what becomes of the flow; later, where the system lets us do nothing now."""
        first, flow.recover_at = flow.recover_at is None, None
        try:
            self._recovery.retire(flow)
        except Exception as error:
            flow.recover_at = time.monotonic() + RECOVERY_RETRY
            if first:
                self._logger.error("what dead flow %r left can't be cleared up now, and waits: %s", flow.name, describe(error))
            return
        self._recovery.mark(flow)
        self._decide(flow)

    def _decide(self, flow: Flow) -> None:
        """Restart or failure, by the flow's policy."""
        restart = self._roster.plan.restarts[flow.name]
        again = self._has_come_up(flow) and flow.ordered
        if not again:
            deaths = self._count_death(flow)
            again = self._has_come_up(flow) and restart.wanted(flow.exit_code) and deaths <= restart.limit
        state = FlowState.RESTARTING if again else FlowState.FAILED
        flow.record.note_death(state, flow.exit_code, restarting=again)
        if again:
            backoff = 0.0 if flow.ordered else min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (len(flow.deaths) - 1))
            flow.restart_at = time.monotonic() + backoff
            self._logger.warning("%s; it is restarted in %g s", flow.died(), backoff, extra={"flow": flow.name})
            return
        self._logger.error("%s; it is not restarted", flow.died(), extra={"flow": flow.name})
        self._fail(flow)

    def _count_death(self, flow: Flow) -> int:
        """How often it died, this time included, within the window of its policy."""
        now = time.monotonic()
        window = self._roster.plan.restarts[flow.name].window
        flow.deaths = [death for death in flow.deaths if now - death < window] + [now]
        return len(flow.deaths)

    def _has_come_up(self, flow: Flow) -> bool:
        return flow.name in self._came_up

    def _note_failed_start(self, flow: Flow, why: str) -> None:
        """There is no process for the flow: by its policy it gets another try, later."""
        if self._lifecycle.ending:
            self._lifecycle.note_end(flow)
            return
        flow.restart_at = None
        with contained(self._logger, f"clearing up after a start of flow {flow.name!r} that failed"):
            self._recovery.retire(flow)
        self._recovery.mark(flow)
        restart = self._roster.plan.restarts[flow.name]
        deaths = self._count_death(flow)
        for_good = flow.server is not None and flow.server.dead
        again = self._has_come_up(flow) and not for_good and deaths <= restart.limit
        flow.record.note_death(FlowState.RESTARTING if again else FlowState.FAILED, flow.exit_code, restarting=False)
        if again:
            backoff = min(LONGEST_BACKOFF, START_BACKOFF * 2 ** (deaths - 1))
            flow.restart_at = time.monotonic() + backoff
            text = "flow %r can't be started: %s; it is tried again in %g s"
            self._logger.error(text, flow.name, why, backoff, extra={"flow": flow.name})
            return
        self._logger.error("flow %r can't be started: %s", flow.name, why, extra={"flow": flow.name})
        self._fail(flow, f"flow {flow.name!r} can't be started: {why}")

    def _fail(self, flow: Flow, why: str = "") -> None:
        """The flow does not come back: its neighbours go on without it."""
        flow.failed = True
        self._tell(Died(flow.name, flow.exit_code, why))
        self._recovery.give_up(flow)
        self._tell_neighbours(flow)
        self._lifecycle.fail(flow)
        self._note_up(flow)

    def _tell_neighbours(self, flow: Flow) -> None:
        plan, names = self._roster.plan, tuple(item.routine.name for item in flow.routines)
        neighbours = {
            plan.names[number]
            for item in flow.routines
            for edge in (*item.ins, *item.outs)
            for number in (edge.sender, edge.receiver)
        }
        params = pack_parameters(PEER_FAILED_EVENT_NAME, {"flow": flow.name, "routines": list(names)})
        for other, group in self._roster.by_flow(tuple(sorted(neighbours - set(names)))):
            self._lifecycle.send_event(other, Event(PEER_FAILED_EVENT_NAME, group, params))

    # ---- restarts --------------------------------------------------------------------------------

    def restart_by_order(self, flow: Flow) -> None:
        """Its death counts towards no limit. A flow that is about to be restarted anyway is restarted now."""
        if self._lifecycle.ending:
            return
        if flow.restart_at is not None:
            flow.restart_at = time.monotonic()
        elif flow.up and not flow.doomed:
            self._logger.info("flow %r is killed to be restarted, as was asked for", flow.name)
            flow.ordered = True
            self.kill_flow(flow)

    def kill_flow(self, flow: Flow) -> None:
        """SIGKILL to its process, as soon as that is known."""
        flow.doomed = True
        if flow.pidfd >= 0:
            try:
                system.send_signal(flow.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return  # it is dead already, as its pidfd tells

    def _restart(self, flow: Flow) -> None:
        """Forks the flow again, with fresh incarnations for what it sends."""
        opened = self._recovery.reopen_outs(flow)
        if opened is None:
            flow.restart_at = time.monotonic() + RECOVERY_RETRY  # as soon as a receiver has let go of what it keeps
            return
        self.launch(flow, {})
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
        moments = [moment for flow in flows for moment in (flow.restart_at, flow.recover_at) if moment is not None]
        moments += [server.due for server in self._servers() if server.due is not None]
        if self._lifecycle.kill_by is not None:
            moments.append(self._lifecycle.kill_by)
        if self._recovery.has_retired:
            moments.append(now + 1.0)
        if self._hangs.interval is not None:
            moments.append(now + self._hangs.interval)
        if self._overheard.due is not None:
            moments.append(self._overheard.due)
        return min(moments, default=None)

    def _servers(self) -> set[ForkServer]:
        return {flow.server for flow in self._roster.flows.values() if flow.server is not None and not flow.server.dead}

    def do_due(self) -> None:
        """Does what is due. A failure is that of one flow."""
        now = time.monotonic()
        self._overheard.tell_due(now)
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
        with contained(self._logger, "removing rings of dead flows"):
            self._recovery.remove_retired()

    def _do_due_of(self, flow: Flow, now: float) -> None:
        if flow.recover_at is not None and now >= flow.recover_at:
            self._recover(flow)
        elif flow.restart_at is not None and now >= flow.restart_at:
            self._restart(flow)
        elif flow.pidfd >= 0 and not flow.doomed and self._hangs.is_found(flow):
            self.kill_flow(flow)

    def _kill_all(self) -> None:
        for flow in self._roster.flows.values():
            if flow.up:
                self._logger.warning("flow %r did not end within %g s and is killed", flow.name, self._grace)
                with contained(self._logger, f"killing flow {flow.name!r}"):
                    self.kill_flow(flow)
        self._lifecycle.kill_by = time.monotonic() + LAST_RESORT


def _reap(pid: int) -> None:
    """Waits for a child that was just killed."""
    os.waitpid(pid, 0)


def _abandon(pid: int, pidfd: int) -> None:
    """Ends a child that nobody would know of."""
    native.unguard(pidfd)
    os.close(pidfd)
    os.kill(pid, signal.SIGKILL)
    _reap(pid)
