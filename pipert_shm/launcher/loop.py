"""The launcher's process: its parts, which of them handles which message of a flow, and the loop that calls them."""

from __future__ import annotations

import gc
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pipert_shm import binding
from pipert_shm.control import messages
from pipert_shm.control.attachment import Attachment
from pipert_shm.control.channel import Channel, Received
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.guard import contained
from pipert_shm.control.logs import ForwardingHandler, forwarding_logger, shield_records
from pipert_shm.control.messages import (
    Answer,
    Failed,
    Handled,
    Notified,
    Recovered,
    Refused,
    TapEnded,
    TapMade,
    TapRefused,
    Unlinked,
)
from pipert_shm.errors import PipeStateError, describe
from pipert_shm.events import Audience
from pipert_shm.flow.birth import FlowBirth
from pipert_shm.flow.process import run_flow
from pipert_shm.frozen import Frozen
from pipert_shm.graph.model import Plan
from pipert_shm.graph.needs import needs_of
from pipert_shm.launcher.attaching import Attaching
from pipert_shm.launcher.changes import Changes
from pipert_shm.launcher.deaths import Deaths
from pipert_shm.launcher.edge_table import EdgeTable
from pipert_shm.launcher.extension import Extension
from pipert_shm.launcher.flow_stderr import FlowStderr
from pipert_shm.launcher.footprint import TapPlaces
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.lifecycle import Lifecycle
from pipert_shm.launcher.parent import REFUSALS, Parent, Requests
from pipert_shm.launcher.recovery import Recovery
from pipert_shm.launcher.relays import Relays
from pipert_shm.launcher.removal import Removal
from pipert_shm.launcher.rewiring import Rewiring
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.launcher.servers import Servers
from pipert_shm.launcher.starts import Starts
from pipert_shm.launcher.supervisor import Supervisor
from pipert_shm.launcher.taps import Taps
from pipert_shm.launcher.tracing import Tracing
from pipert_shm.launcher.undrained import Undrained
from pipert_shm.launcher.watch import Watch
from pipert_shm.shm import sockets
from pipert_shm.shm.segments import ControlSegment, unlink_pipe
from pipert_shm.system import calls, forked
from pipert_shm.system.descriptors import RESERVED, Reserve


class LaunchOrder(Frozen):
    """All that a launcher starts with.

    Attributes:
        name: the pipe's, for people.
        meeting: the directory for the socket that others attach by.
        rings: per routine number, the ring that build() made for it, and its slot size.
        grace: seconds that a flow has to end in, before SIGKILL.
        stop_on_failure: whether the whole pipe ends when a routine or a flow has failed for good.
    """

    plan: Plan
    pipe_id: str
    name: str
    meeting: Path
    audience: Audience
    logger_name: str
    taps: TapPlaces
    rings: dict[int, tuple[int, int]]
    grace: float
    stop_on_failure: bool


class Launcher:
    """Puts the parts together, and calls each of them in a guard: a failure costs one action only.

    :param channel: to the parent.
    :param logs: where log records go to the parent.
    :param signals: a descriptor that gives the number of each signal that is to end the pipe.
    """

    # longer than 40 lines: it puts the parts together, one after the other
    def __init__(self, order: LaunchOrder, channel: Channel, logs: Channel, reserve: Reserve, signals: int) -> None:
        self._order = order
        self._logs = logs
        self._logger = logger = logging.getLogger(order.logger_name)
        self._segment = segment = ControlSegment.open(order.pipe_id)
        segment.reserve = reserve
        control = segment.taken_bytes
        segment.needs = lambda: needs_of(order.plan, control)
        self._watch = watch = Watch()
        self._parent = parent = Parent(channel, watch, logger, self._note_parent_gone)
        self._unready = set(order.plan.flows)
        self._roster = roster = Roster(order.plan, segment, logger)
        incarnations = Incarnations(segment, order.plan, logger)
        undrained = Undrained(segment, order.plan, incarnations, logger)
        edges = EdgeTable(segment, order.plan, incarnations, undrained, order.taps.edge)
        self.tracing = Tracing(roster, parent)
        self._taps = taps = Taps(roster, incarnations, order.taps, parent)
        self._recovery = recovery = Recovery(roster, incarnations, undrained, edges, taps)
        self._rewiring = rewiring = Rewiring(roster, incarnations, edges, recovery)
        self._lifecycle = lifecycle = Lifecycle(
            roster, incarnations, rewiring, order.audience, parent.tell, order.grace, order.stop_on_failure
        )
        self._extension = extension = Extension(roster, incarnations, edges, rewiring, lifecycle, order.taps.routine)
        stderr = FlowStderr(logger, logs, watch)
        servers = Servers(roster, watch, parent.tell)
        removal = Removal(
            roster, incarnations, undrained, edges, rewiring, recovery, lifecycle, servers, order.taps.routine, order.grace
        )
        deaths = Deaths(roster, watch, recovery, lifecycle, stderr, parent.tell, self._note_up, removal.note_dead)
        self._starts = starts = Starts(
            roster, watch, edges, recovery, lifecycle, stderr, deaths, self._be_flow, self._from_flow, self._note_up
        )
        self._supervisor = supervisor = Supervisor(roster, recovery, lifecycle, stderr, deaths, starts, order.grace)
        relays = Relays(parent.tell)
        self._attaching = attaching = Attaching(order.name, order.meeting, roster, watch, lifecycle, taps, relays)
        requests = Requests(
            parent, roster, lifecycle, taps, extension, removal, starts, supervisor, servers, relays, attaching.tell_all
        )
        self._changes = changes = Changes(
            parent, roster, undrained, lifecycle, servers, supervisor.replace_by_order, attaching.tell_all
        )
        deaths.on_down, starts.on_launch = changes.note_down, servers.end_unused
        changes.serve(requests.table)
        self.tracing.serve(requests.table)
        parent.serve(requests.table)
        self._signals = signals
        watch.add(signals, lambda: None)  # wakes the loop, which reads it

    def run(self) -> None:
        """Forks the flows, and serves until all of them are gone for good."""
        for flow in list(self._roster.flows.values()):
            with contained(self._logger, f"starting flow {flow.name!r}"):
                self._starts.launch(flow, self._order.rings)
        self._attaching.listen()  # afterwards: so the first flows inherit nothing of it
        while any(flow.is_pending for flow in self._roster.flows.values()) or not self._is_over():
            with contained(self._logger, "waiting for what comes"):
                actions = self._watch.wait(self._supervisor.due)
                self._note_signals()  # first: a flow that the same signal has ended is not one that has failed
                for action in actions:
                    with contained(self._logger, "handling what came"):
                        action()
            with contained(self._logger, "doing what is due"):
                self._supervisor.do_due()

    def _is_over(self) -> bool:
        """Whether the loop may end when no flow runs. If all flows have failed, the parent still has to end the pipe."""
        return self._lifecycle.ending or not self._parent.is_open

    def _be_flow(self, flow: Flow, control: Channel, stacks: int, attachment: Attachment) -> NoReturn:
        status = 1
        order = self._order
        try:
            self._segment.unmap()  # the flow has its own; ours would keep the memory of rings that are long gone
            birth = FlowBirth(
                name=flow.name,
                plan=order.plan,
                pipe_id=order.pipe_id,
                logger_name=order.logger_name,
                grace=order.grace,
                audience=self._lifecycle.audience,
                attachment=attachment,
                control=control,
                logs=self._logs,
                stacks=stacks,
            )
            status = run_flow(birth)
        finally:
            forked.exit_process(status)

    def _note_parent_gone(self) -> None:
        self._parent.close()
        self._lifecycle.kill()

    def _note_signals(self) -> None:
        try:
            came = os.read(self._signals, 64)
        except BlockingIOError:
            return
        for number in came:
            if not self._lifecycle.ending:
                self._logger.warning("%s: the pipe ends", signal.Signals(number).name)
                self._lifecycle.kill()

    # ---- flows -----------------------------------------------------------------------------------

    def _from_flow(self, flow: Flow) -> Dispatch:
        """The table of a flow's messages. One that can't be read shows at least that the flow is up."""

        def make_good(received: Received, error: Exception) -> None:
            if received.question:
                self._taps.fail(received.question, error)
                self._changes.fail(received.question, error)
            self._starts.note_ready(flow)
            self._lifecycle.look_at(flow)
            self._changes.look(flow)

        table = Dispatch(f"the launcher, of flow {flow.name!r}", self._logger, make_good)
        self._changes.serve_flow(table)
        table.on(Notified, lambda message: self._note_notified(flow, message))
        table.on(Handled, lambda message: self._note_handled(flow, message))
        table.on(messages.Ready, lambda message: self._starts.note_ready(flow))
        table.on(Failed, self._parent.tell)
        table.on(Recovered, lambda message: self._recovery.note_recovered(message.incarnation))
        table.on(Unlinked, lambda message: self._rewiring.end_unlinked(message.incarnation))
        table.on(TapMade, self._taps.note_made)
        table.on(TapRefused, self._taps.note_refused)
        table.on(TapEnded, self._taps.note_ended)
        table.on_received(Answer, self._note_tap_lost)
        return table

    def _note_notified(self, flow: Flow, message: Notified) -> None:
        try:
            self._lifecycle.deliver(message.event)
        except REFUSALS as error:
            self._roster.send(flow, Refused(message.by, str(error)))

    def _note_tap_lost(self, message: Answer, received: Received) -> None:
        self._taps.fail(received.question, PipeStateError("the routine's flow could not read what it was told"))

    @staticmethod
    def _note_handled(flow: Flow, message: Handled) -> None:
        flow.unhandled = max(0, flow.unhandled - message.cost)

    def _note_up(self, flow: Flow) -> None:
        if flow.ready:
            self.tracing.tell(flow)
        self._extension.note_up(flow)
        self._changes.look(flow)
        if flow.name in self._unready:
            self._unready.remove(flow.name)
            if not self._unready:
                self._parent.tell(messages.Ready())


def launch(order: LaunchOrder, parent: Channel, logs: Channel) -> NoReturn:
    """The whole life of the launcher's process, just forked."""
    status = 1
    reserve = launcher = None
    try:
        reserve = Reserve(RESERVED)  # first: so it gets low numbers, which are there whatever the limit becomes
        signals, woken = calls.pipe()
        for fd in (signals, woken):
            binding.guard(fd)
            os.set_blocking(fd, False)
        forked.begin(lambda number: os.write(woken, bytes([number])))
        parent.keep()
        logs.set_blocking(False)
        gc.freeze()  # what is here now is shared with every flow: keep the collector from touching it
        shield_records()
        forwarding_logger(order.logger_name, ForwardingHandler(logs, "launcher", "launcher"))
        launcher = Launcher(order, parent, logs, reserve, signals)
        launcher.run()
        status = 0
    except BaseException as error:
        logging.getLogger(order.logger_name).exception("the launcher failed")
        with suppress(OSError):  # the parent may be gone
            parent.set_blocking(True)
            parent.send(Failed("launcher", f"the pipe's launcher failed: {describe(error)}"))
    finally:
        if reserve is not None:
            reserve.close()
        try:
            sockets.remove(order.meeting, order.pipe_id)
            unlink_pipe(order.pipe_id, keep_traces=launcher is not None and launcher.tracing.is_read)
        finally:
            forked.exit_process(status)
