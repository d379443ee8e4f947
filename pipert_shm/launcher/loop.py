"""The launcher's process: its parts, who of them handles which message, and the loop that calls them, each in a guard."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from pipert_shm import forked, native, system
from pipert_shm.attachment import Attachment
from pipert_shm.control import messages
from pipert_shm.control.channel import Channel, Received, close_all
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.guard import contained
from pipert_shm.control.messages import (
    Answer,
    EndTap,
    Extend,
    Failed,
    Handled,
    Kill,
    MakeTap,
    Message,
    Notified,
    Notify,
    Recovered,
    Refused,
    RestartFlow,
    StateChanged,
    TapEnded,
    TapMade,
    TapRefused,
    Unlinked,
)
from pipert_shm.descriptors import RESERVED, Reserve
from pipert_shm.errors import PipeStateError, WiresValidation, describe
from pipert_shm.events import START_EVENT_NAME, Audience
from pipert_shm.flow.process import run_flow
from pipert_shm.launcher.extension import Extension
from pipert_shm.launcher.fork_server import ForkServer
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.lifecycle import Lifecycle
from pipert_shm.launcher.links import Links
from pipert_shm.launcher.overheard import Overheard
from pipert_shm.launcher.peers import Peer
from pipert_shm.launcher.recovery import Recovery
from pipert_shm.launcher.rewiring import Rewiring
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.launcher.supervisor import Supervisor
from pipert_shm.launcher.taps import Taps
from pipert_shm.launcher.watch import Watch
from pipert_shm.logs import ForwardingHandler, forwarding_logger, shield_records
from pipert_shm.memory import ControlSegment, unlink_pipe
from pipert_shm.plan import Plan

REMEMBERED = 256  # questions of the parent's, lest one is answered twice


@dataclass(frozen=True, slots=True)
class LaunchOrder:
    """All that a launcher needs.

    Attributes:
        taps: (first routine number, how many, first edge number) of the places that are kept for taps.
        rings: per routine number, the ring that build() made for it, and its slot size.
        grace: seconds that a flow has to end in, before SIGKILL.
        stop_on_failure: whether the whole pipe ends when a routine or a flow has failed for good.
    """

    plan: Plan
    pipe_id: str
    audience: Audience
    logger_name: str
    taps: tuple[int, int, int]
    rings: dict[int, tuple[int, int]]
    grace: float
    stop_on_failure: bool


class Launcher:
    """The parts, put together.

    :param signals: what can be read when a signal has come that is to end the pipe.
    """

    def __init__(self, order: LaunchOrder, parent: Channel, logs: Channel, reserve: Reserve, signals: int) -> None:
        self._order = order
        self._logs = logs
        self._logger = logger = logging.getLogger(order.logger_name)
        self._segment = segment = ControlSegment.open(order.pipe_id)
        segment.reserve = reserve
        self._watch = watch = Watch()
        self._parent_gone = False
        self._questions: deque[int] = deque(maxlen=REMEMBERED)
        self._unready = set(order.plan.flows)
        plan = order.plan
        self._roster = roster = Roster(plan, segment, logger)
        incarnations = Incarnations(segment, plan)
        links = Links(segment, plan, incarnations, order.taps[2])
        self._taps = Taps(roster, incarnations, order.taps, self._tell, self._refuse)
        self._recovery = recovery = Recovery(roster, incarnations, links, self._taps)
        self._rewiring = rewiring = Rewiring(roster, incarnations, links, recovery)
        self._lifecycle = lifecycle = Lifecycle(
            roster, incarnations, rewiring, order.audience, self._tell, order.grace, order.stop_on_failure
        )
        self._extension = Extension(roster, incarnations, links, rewiring, lifecycle, order.taps[0])
        self._supervisor = Supervisor(
            roster,
            watch,
            incarnations,
            links,
            recovery,
            lifecycle,
            logger,
            self._be_flow,
            self._extension.order_for,
            self._from_flow,
            self._tell,
            self._note_up,
            order.grace,
            Overheard(logger, self._logs, watch),
        )
        self._table = self._from_parent()
        self._parent = Peer(
            "the parent", parent, watch, logger, self._hear_parent, self._note_parent_gone, self._note_parent_gone
        )
        watch.add(signals, lambda: self._note_signal(signals))

    def run(self) -> None:
        """Forks the flows and serves until all of them are gone for good."""
        for flow in list(self._roster.flows.values()):
            with contained(self._logger, f"starting flow {flow.name!r}"):
                self._supervisor.launch(flow, self._order.rings)
        while any(flow.is_pending for flow in self._roster.flows.values()) or not self._is_over():
            with contained(self._logger, "waiting for what comes"):
                for action in self._watch.wait(self._supervisor.due):
                    with contained(self._logger, "handling what came"):
                        action()
            with contained(self._logger, "doing what is due"):
                self._supervisor.do_due()

    def _is_over(self) -> bool:
        """Whether there is nothing to wait for when no flow runs: the parent ends a pipe whose flows have all failed."""
        return self._lifecycle.ending or self._parent_gone

    def _be_flow(self, flow: Flow, control: Channel, stacks: int, attachment: Attachment) -> NoReturn:
        status = 1
        order = self._order
        try:
            self._segment.unmap()  # the flow has its own; ours would keep the memory of rings that are long gone
            status = run_flow(
                flow.name,
                order.plan,
                order.pipe_id,
                control,
                self._logs,
                stacks,
                order.logger_name,
                self._lifecycle.audience,
                attachment,
                order.grace,
            )
        finally:
            forked.exit_process(status)

    # ---- the parent ------------------------------------------------------------------------------

    def _hear_parent(self, received: Received) -> None:
        """Hands on what the parent says; of a question that comes twice only the first, which gets the one answer."""
        if received.question and received.message is not None and not isinstance(received.message, Answer):
            if received.question in self._questions:
                self._logger.error("a question of the parent's came twice (%s); it is dropped", received.kind)
                close_all(received.fds)
                return
            self._questions.append(received.question)
        self._table.deliver(received)

    def _from_parent(self) -> Dispatch:
        """Who handles what the parent says."""

        def refuse(received: Received, error: Exception) -> None:
            self._refuse(received.question, error)  # also what is no question: it may have been a kill

        table = Dispatch("the launcher, of the parent", self._logger, refuse)
        table.on_received(Notify, self._notify)
        table.on_received(Extend, self._extend)
        table.on_received(MakeTap, self._make_tap)
        table.on(EndTap, lambda message: self._taps.end(message.edge))
        table.on(RestartFlow, lambda message: self._supervisor.restart_by_order(self._roster.flows[message.flow]))
        table.on(Kill, lambda message: self._lifecycle.kill())
        table.on_received(Answer, lambda message, received: self._taps.withdraw(received.question))
        return table

    def _tell(self, message: Message, question: int = 0) -> None:
        self._parent.send(message, question)

    def _refuse(self, question: int, error: Exception) -> None:
        """Answers a question with an exception."""
        self._tell(Answer(_portable(error)), question)

    def _notify(self, message: Notify, received: Received) -> None:
        self._lifecycle.starts = max(self._lifecycle.starts, message.starts)
        try:
            self._lifecycle.deliver(message.event, lambda: self._tell(Answer(), received.question))
        except _REFUSALS as error:  # by the rules: no fault of anybody's here
            self._refuse(received.question, error)
        if message.event.name == START_EVENT_NAME:
            self._lifecycle.tell_if_ended()

    def _make_tap(self, message: MakeTap, received: Received) -> None:
        try:
            self._taps.make(received.question, message.routine)
        except PipeStateError as error:
            self._refuse(received.question, error)

    def _extend(self, message: Extend, received: Received) -> None:
        question, server = received.question, None
        try:
            if received.trouble:
                raise OSError(24, f"the pipe's launcher has no room for one more flow ({received.trouble})")
            if received.fds:
                server = self._fork_server(message, received.fds)
            self._extension.take_in(message.growth, server, self._supervisor.launch)
        except Exception as error:
            if server is not None:
                server.close()
            self._refuse(question, error)
            return
        self._extension.when_born(lambda: self._tell(Answer(), question))

    def _fork_server(self, message: Extend, fds: list[int]) -> ForkServer:
        known = len(self._order.plan.routines) + sum(map(len, message.growth.flows.values()))
        server: ForkServer

        def lose() -> None:
            for flow in self._roster.flows.values():  # nobody could fork them again; a restart finds that out by itself
                if flow.server is server and flow.up:
                    self._supervisor.kill_flow(flow)

        server = ForkServer(fds.pop(), message.fork_server, known, self._watch, self._logger, lose)
        return server

    def _note_parent_gone(self) -> None:
        self._parent_gone = True
        self._parent.close()
        self._lifecycle.kill()

    def _note_signal(self, signals: int) -> None:
        for number in os.read(signals, 64):
            if not self._lifecycle.ending:
                self._logger.warning("%s: the pipe ends", signal.Signals(number).name)
                self._lifecycle.kill()

    # ---- flows -----------------------------------------------------------------------------------

    def _from_flow(self, flow: Flow) -> Dispatch:
        """Who handles what a flow says. What can't be read says at least that the flow is there, and perhaps has changed."""

        def make_good(received: Received, error: Exception) -> None:
            if received.question:
                self._taps.fail(received.question, error)
            self._supervisor.note_ready(flow)
            self._lifecycle.look_at(flow)

        table = Dispatch(f"the launcher, of flow {flow.name!r}", self._logger, make_good)
        table.on(StateChanged, self._lifecycle.note_state)
        table.on(Notified, lambda message: self._note_notified(flow, message))
        table.on(Handled, lambda message: self._note_handled(flow, message))
        table.on(messages.Ready, lambda message: self._supervisor.note_ready(flow))
        table.on(Failed, self._tell)
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
        except _REFUSALS as error:
            self._roster.send(flow, Refused(message.by, str(error)))

    def _note_tap_lost(self, message: Answer, received: Received) -> None:
        self._taps.fail(received.question, PipeStateError("the routine's flow could not read what it was told"))

    @staticmethod
    def _note_handled(flow: Flow, message: Handled) -> None:
        flow.unhandled = max(0, flow.unhandled - message.cost)

    def _note_up(self, flow: Flow) -> None:
        self._extension.note_up(flow)
        if flow.name in self._unready:
            self._unready.remove(flow.name)
            if not self._unready:
                self._tell(messages.Ready())


_REFUSALS = (ValueError, PipeStateError, WiresValidation)


def _portable(error: Exception) -> bytes:
    """An exception as bytes; where it does not pickle, what it says."""
    try:
        return pickle.dumps(error, 5)
    except Exception:
        return pickle.dumps(PipeStateError(describe(error)), 5)


def launch(order: LaunchOrder, parent: Channel, logs: Channel) -> NoReturn:
    """The whole life of the launcher's process, just forked."""
    status = 1
    reserve = None
    try:
        reserve = Reserve(RESERVED)  # first: so it gets low numbers, which are there whatever the limit becomes
        signals, woken = system.pipe()
        for fd in (signals, woken):
            native.guard(fd)
            os.set_blocking(fd, False)
        forked.begin(lambda number: os.write(woken, bytes([number])))
        parent.keep()
        logs.set_blocking(False)
        gc.freeze()  # what is here now is shared with every flow: keep the collector from touching it
        shield_records()
        forwarding_logger(order.logger_name, ForwardingHandler(logs, "launcher", "launcher"))
        Launcher(order, parent, logs, reserve, signals).run()
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
            unlink_pipe(order.pipe_id)
        finally:
            forked.exit_process(status)
