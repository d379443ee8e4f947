"""How a flow gets a process: forked by the launcher or by a fork server, until it says that it is ready."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import NoReturn

from pipert_shm import binding
from pipert_shm.control.attachment import Attachment
from pipert_shm.control.channel import Channel
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.messages import ForkFlow
from pipert_shm.errors import describe
from pipert_shm.graph.model import EdgePlan
from pipert_shm.launcher.deaths import Deaths
from pipert_shm.launcher.edge_table import EdgeTable
from pipert_shm.launcher.flow_stderr import FlowStderr
from pipert_shm.launcher.fork_server import ForkServer
from pipert_shm.launcher.lifecycle import Lifecycle
from pipert_shm.launcher.peers import Peer
from pipert_shm.launcher.recovery import Recovery
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.launcher.watch import Watch
from pipert_shm.shm.states import FlowState
from pipert_shm.system import calls, forked, usage
from pipert_shm.system.descriptors import advised

BeFlow = Callable[[Flow, Channel, int, Attachment], NoReturn]


class Starts:
    """Starts the processes of flows.

    :param be_flow: runs in the forked child, and does not return.
    :param dispatch_for: makes the table of a flow's messages.
    :param note_up: called when a flow's process is ready.

    Attributes:
        on_launch: called when a flow gets a process, and so has none that another fork server made.
    """

    def __init__(
        self,
        roster: Roster,
        watch: Watch,
        edges: EdgeTable,
        recovery: Recovery,
        lifecycle: Lifecycle,
        stderr: FlowStderr,
        deaths: Deaths,
        be_flow: BeFlow,
        dispatch_for: Callable[[Flow], Dispatch],
        note_up: Callable[[Flow], None],
    ) -> None:
        self._roster = roster
        self._watch = watch
        self._edges = edges
        self._recovery = recovery
        self._lifecycle = lifecycle
        self._stderr = stderr
        self._deaths = deaths
        self._be_flow = be_flow
        self._dispatch_for = dispatch_for
        self._note_up = note_up
        self.on_launch: Callable[[], object] = lambda: None

    def launch(self, flow: Flow, rings: dict[int, tuple[int, int]]) -> None:
        """Starts a flow's process, unless the pipe is to end. An error is handled as a failed start.

        :param rings: per routine number, the ring that build() made for it, and its slot size.
        """
        if self._lifecycle.ending:  # a flow that failed just now may have ended the pipe
            flow.restart_at = None
            self._lifecycle.note_end(flow)
            return
        try:
            with ExitStack() as undo:
                self._launch(flow, rings, undo)
                undo.pop_all()
        except Exception as error:
            flow.forget_process()
            self._deaths.note_failed_start(flow, advised(error))

    def _launch(self, flow: Flow, rings: dict[int, tuple[int, int]], undo: ExitStack) -> None:
        attachment = self._edges.attachment(flow.routines, rings)
        order = None if flow.server is None else self._order_for(flow, flow.server, attachment)
        ours, theirs = Channel.pair()
        undo.callback(ours.close)
        with ExitStack() as for_child:
            for_child.callback(theirs.close)
            ours.keep()
            stacks, stacks_in = calls.pipe()
            undo.callback(os.close, stacks)
            for_child.callback(os.close, stacks_in)
            binding.guard(stacks)
            undo.callback(binding.unguard, stacks)
            undo.callback(self._watch.drop, stacks)
            self._stderr.begin(flow, stacks)
            pid, pidfd = 0, -1
            if order is None:
                pid = forked.fork(lambda: self._be_flow(flow, theirs, stacks_in, attachment))
                pidfd = self._pidfd_of(pid, _reap)
                undo.callback(_abandon, pid, pidfd)
            else:
                for_child.pop_all()
        flow.peer, flow.stacks, flow.unhandled = self._peer_of(flow, ours), stacks, 0
        undo.callback(self._watch.drop, ours)
        flow.note_launch()
        self.on_launch()
        for edge in attachment.leaving:
            self._recovery.forget(edge)
        if flow.forked_by is not None and order is not None:
            flow.forked_by.fork(order, [theirs.detach(), stacks_in], lambda pid, why: self._note_forked(flow, pid, why))
        else:
            self._note_process(flow, pid, pidfd)

    def _order_for(self, flow: Flow, server: ForkServer, attachment: Attachment) -> ForkFlow:
        """The order to fork a flow, with the wires as they are now."""

        def plain(edges: list[EdgePlan]) -> list[EdgePlan]:
            return [edge.without_transmitter() for edge in edges]

        plan = self._roster.plan
        return ForkFlow(
            flow.name,
            [replace(item, ins=[], outs=[]) for item in plan.routines if server.known.get(item.number) != item.generation],
            [number for number in server.known if number not in plan.routines],
            plan.past,
            {item.number: plain(item.ins) for item in flow.routines},
            {item.number: plain(item.outs) for item in flow.routines},
            {item.number: item.reach for item in flow.routines},
            {item.number: item.slots for item in flow.routines},
            {item.number: item.lanes for item in flow.routines},
            {item.number: item.restores for item in flow.routines},
            attachment.replaced(leaving=plain(attachment.leaving)),
            self._lifecycle.audience,
        )

    @staticmethod
    def _pidfd_of(pid: int, reap: Callable[[int], object]) -> int:
        """The pidfd of a process that was just forked.

        :raises OSError: when there is none to be had; the process is killed then.
        """
        try:
            pidfd = calls.pidfd_open(pid)
            binding.guard(pidfd)
            return pidfd
        except OSError:
            os.kill(pid, signal.SIGKILL)
            reap(pid)
            raise

    def _peer_of(self, flow: Flow, channel: Channel) -> Peer:
        deliver = self._dispatch_for(flow).deliver
        return Peer(f"flow {flow.name!r}", channel, self._watch, self._roster.logger, deliver, lambda: None, flow.kill)

    def _note_process(self, flow: Flow, pid: int, pidfd: int) -> None:
        flow.pid, flow.pidfd = pid, pidfd
        flow.record.note_start(FlowState.RUNNING, pid, self._start_of(flow, pid))
        self._watch.add(pidfd, lambda: self._deaths.note_death(flow))
        if flow.doomed:
            flow.kill()
        if flow.ready:
            self._note_up_and_running(flow)

    def _start_of(self, flow: Flow, pid: int) -> int:
        """When the flow's process began; 0 where the system does not tell."""
        try:
            return usage.started_at(pid)
        except OSError as error:
            text = "statistics can't tell what flow %r takes of the machine: %s"
            self._roster.logger.warning(text, flow.name, describe(error), extra={"flow": flow.name})
            return 0

    def _note_forked(self, flow: Flow, pid: int, why: str) -> None:
        """Handles a fork server's answer.

        :param pid: of the new process; 0: there is none.
        :param why: there is none.
        """
        pidfd = -1
        if pid:
            try:
                pidfd = self._pidfd_of(pid, partial(self._forget_child, flow))
            except OSError as error:
                pid, why = 0, advised(error)
        if pid:
            self._note_process(flow, pid, pidfd)
            return
        self._deaths.release(flow)
        self._deaths.note_failed_start(flow, why)

    @staticmethod
    def _forget_child(flow: Flow, pid: int) -> None:
        if flow.forked_by is not None:
            flow.forked_by.reap(pid, lambda exit_code: None)

    def note_ready(self, flow: Flow) -> None:
        """A flow's process says that it is ready. It may say so more than once, and before the fork server has told its pid."""
        if flow.ready:
            return
        flow.ready = True
        if flow.pid:
            self._note_up_and_running(flow)

    def _note_up_and_running(self, flow: Flow) -> None:
        flow.came_up = True
        self._note_up(flow)
        self._lifecycle.start_again(flow)


def _reap(pid: int) -> None:
    """Waits for a child that was just killed."""
    os.waitpid(pid, 0)


def _abandon(pid: int, pidfd: int) -> None:
    """Kills a child that the launcher can't watch."""
    binding.unguard(pidfd)
    os.close(pidfd)
    os.kill(pid, signal.SIGKILL)
    _reap(pid)
