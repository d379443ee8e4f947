"""The launcher: a small single-threaded process that forks the flows, orders events, and sees to it when flows die.

The parent forks it at `build()`; it holds the routine objects as they were then, so routines need not pickle and a flow is
never forked from a process with threads. What the kernel says is what counts: a flow is dead when its pidfd says so, and
everyone ends when the channel to whom they obey is closed.
"""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from pipert_shm import native
from pipert_shm.channel import Channel
from pipert_shm.errors import FlowDied, PipeStateError, SharedMemoryFull, WiresValidation, describe
from pipert_shm.events import (
    KILL_EVENT_NAME,
    LINK_EVENT_NAME,
    PEER_FAILED_EVENT_NAME,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UNLINK_EVENT_NAME,
    Audience,
    Event,
    pack_parameters,
)
from pipert_shm.flow import STACKS_SIGNAL, exit_process, run_flow, take_own_signals
from pipert_shm.growth import Growth, take_in
from pipert_shm.incarnations import Incarnations
from pipert_shm.links import Links
from pipert_shm.logs import ForwardingHandler, forwarding_logger
from pipert_shm.memory import ControlSegment, unlink_pipe
from pipert_shm.nursery import Nursery, Order
from pipert_shm.plan import EdgePlan, Plan, RoutinePlan
from pipert_shm.runner import Attachment
from pipert_shm.states import FlowState, State
from pipert_shm.transmit import SharedMemoryTransmitter

FIRST_BACKOFF = 0.02  # seconds, doubled with each restart within the window
LONGEST_BACKOFF = 10.0
STACKS_WAIT = 0.5


@dataclass(slots=True)
class _Flow:
    """A flow, and its process while it has one.

    Attributes:
        nursery: who forks it, where we don't.
        ordered: whether its process is being killed for a restart that was asked for.
    """

    name: str
    number: int
    routines: list[RoutinePlan]
    pid: int = 0
    pidfd: int = -1
    stacks: int = -1
    channel: Channel | None = None
    outbox: deque[tuple[Any, ...]] = field(default_factory=deque)
    deaths: list[float] = field(default_factory=list)
    restart_at: float | None = None
    nursery: Nursery | None = None
    failed: bool = False
    hung: bool = False
    ordered: bool = False

    @property
    def up(self) -> bool:
        return self.channel is not None


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
    """The launcher's state and loop."""

    def __init__(self, order: LaunchOrder, parent: Channel, logs: Channel) -> None:
        self._order = order
        self._plan = order.plan
        self._parent = parent
        self._logs = logs
        self._logger = logging.getLogger(order.logger_name)
        self._segment = ControlSegment.open(order.pipe_id)
        self._incarnations = Incarnations(self._segment, self._plan)
        self._links = Links(self._segment, self._plan, self._incarnations, order.taps[2])
        self._selector = selectors.DefaultSelector()
        self._flows = {name: _Flow(name, number, routines) for number, (name, routines) in enumerate(self._plan.flows.items())}
        self._flow_of = {item.routine.name: self._flows[item.flow] for item in self._plan.routines}
        self._records = [native.RoutineRecord(self._segment.process, item.number) for item in self._plan.routines]
        self._wanted: set[str] = set()
        self._runs = [0] * len(self._plan.routines)
        self._states = [State.BUILT] * len(self._plan.routines)
        self._sizes = [(item.slots, item.message_slots) for item in self._plan.routines]
        self._audience = order.audience
        self._newborn: set[str] = set()  # flows of a later build that are not up yet
        self._taps: dict[int, EdgePlan] = {}
        self._asked_taps: dict[int, int] = {}  # by edge, the question that the sender has not answered
        self._asked_growth = 0  # the question that is answered when all new flows are up
        self._unready = len(self._flows)
        self._built = False
        self._kill_by: float | None = None
        self._parent_gone = False
        self._starts_of_parent = 0
        self._retired = False

    def run(self) -> None:
        """Forks the flows and serves until all of them are gone for good."""
        for flow in self._flows.values():
            self._fork(flow, self._order.rings)
        self._selector.register(self._parent, selectors.EVENT_READ, self._hear_parent)
        while any(flow.up or flow.restart_at is not None for flow in self._flows.values()) or not self._is_over():
            for key, mask in self._selector.select(self._patience()):
                if key.fd not in self._selector.get_map():
                    continue  # buried by an earlier event of this round
                if mask & selectors.EVENT_READ:
                    key.data()
                if mask & selectors.EVENT_WRITE:
                    self._flush(key.fileobj)
            self._do_what_is_due()

    def _is_over(self) -> bool:
        """Whether there is nothing to wait for when no flow runs: the parent ends a pipe whose flows have all failed."""
        return self._kill_by is not None or self._parent_gone

    def _patience(self) -> float | None:
        """Seconds until something is due, None when nothing is."""
        due = [flow.restart_at for flow in self._flows.values() if flow.restart_at is not None]
        if self._kill_by is not None:
            due.append(self._kill_by)
        now = time.monotonic()
        if self._retired:
            due.append(now + 1.0)
        timeouts = [item.routine.hang_timeout for item in self._plan.routines if item.routine.hang_timeout is not None]
        if timeouts:
            due.append(now + min(timeouts) / 4)
        return max(0.0, min(due) - now) if due else None

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if self._kill_by is not None:
            if now >= self._kill_by:
                self._kill_now()
            return
        for flow in self._flows.values():
            if flow.restart_at is not None and now >= flow.restart_at:
                self._restart(flow)
            elif flow.up and not flow.hung:
                self._watch_hang(flow)
        self._retired = self._retired and self._incarnations.remove_retired()

    # ---- processes -------------------------------------------------------------------------------

    def _fork(self, flow: _Flow, rings: dict[int, tuple[int, int]]) -> None:
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
        ours, theirs = Channel.pair()
        ours.keep()
        stacks, stacks_in = os.pipe()
        native.guard(stacks)
        attachment, why = Attachment(outs, ins, rings, leaving), ""
        if flow.nursery is not None:
            fds = [theirs.fileno(), stacks_in, self._logs.fileno()]
            pid, why = flow.nursery.fork(self._order_for(flow, flow.nursery, attachment), fds)
        else:
            pid = os.fork()
            if pid == 0:
                self._be_flow(flow.name, theirs, stacks_in, attachment)
        theirs.close()
        os.close(stacks_in)
        if not pid:
            ours.close()
            native.unguard(stacks)
            os.close(stacks)
            self._give_up_unborn(flow, why)
            return
        ours.set_blocking(False)
        flow.pid, flow.pidfd, flow.stacks, flow.channel = pid, os.pidfd_open(pid), stacks, ours
        flow.restart_at, flow.hung, flow.ordered = None, False, False
        flow.outbox.clear()
        native.guard(flow.pidfd)
        native.FlowRecord(self._segment.process, flow.number).note_start(FlowState.RUNNING, pid)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear_flow(flow))
        self._selector.register(flow.pidfd, selectors.EVENT_READ, lambda: self._bury(flow))
        for edge in leaving:
            self._forget(edge)

    def _be_flow(self, name: str, control: Channel, stacks: int, attachment: Attachment) -> NoReturn:
        status = 1
        order = self._order
        try:
            self._segment.unmap()  # the flow has its own; ours would keep the memory of rings that are long gone
            status = run_flow(
                name,
                self._plan,
                order.pipe_id,
                control,
                self._logs,
                stacks,
                order.logger_name,
                self._audience,
                attachment,
                order.grace,
            )
        finally:
            exit_process(status)
        raise AssertionError("a forked process ends above")

    def _send(self, flow: _Flow, *message: Any) -> None:
        """Queues a message; nothing for a flow that is down, which is born with all that it needs to know."""
        if flow.channel is not None:
            flow.outbox.append(message)
            self._flush(flow.channel)

    def _flush(self, channel: Any) -> None:
        flow = next((flow for flow in self._flows.values() if flow.channel is channel), None)
        if flow is None:
            return
        mask = selectors.EVENT_READ
        try:
            while flow.outbox:
                channel.send(*flow.outbox[0])
                flow.outbox.popleft()
        except BlockingIOError:
            mask |= selectors.EVENT_WRITE
        except (BrokenPipeError, ConnectionError):
            flow.outbox.clear()  # it is dying: its pidfd tells the rest
        if channel in self._selector.get_map():
            self._selector.modify(channel, mask, lambda: self._hear_flow(flow))

    def _hear_flow(self, flow: _Flow) -> None:
        message = flow.channel.receive() if flow.channel is not None else None
        if message is None:
            if flow.channel is not None:
                self._selector.unregister(flow.channel)
            return
        what, *details = message
        if what == "state":
            self._note_state(*details)
        elif what == "event" and details[0].name == LINK_EVENT_NAME:
            error = self._link(details[0])
            if error is not None:
                self._refuse(flow, details[1], error)
        elif what == "event":
            self._dispatch(details[0])
        elif what == "ready":
            self._note_ready(flow)
        elif what == "recovered":
            if self._incarnations.note_recovered(details[0]):
                self._attach(details[0])
        elif what == "unlinked":
            self._end_unlinked(details[0])
        elif what == "tapped":
            edge, incarnation = details
            self._tell("tapped", self._asked_taps.pop(edge.number), edge, incarnation)
        elif what == "untappable":
            number, refusal = details
            self._incarnations.give_up(self._taps.pop(number))
            self._refuse_tap(self._asked_taps.pop(number), refusal)
        elif what == "untapped":
            self._taps.pop(details[0], None)
            self._tell(*message)
        else:
            self._tell(*message)

    def _note_ready(self, flow: _Flow) -> None:
        if self._built:
            self._note_born(flow)
            self._start_again(flow)
            return
        self._unready -= 1
        if self._unready == 0:
            self._built = True
            self._tell("ready")

    def _bury(self, flow: _Flow) -> None:
        exit_code = self._reap(flow)
        while flow.channel is not None and flow.channel in self._selector.get_map():
            self._hear_flow(flow)  # its last words
        self._selector.unregister(flow.pidfd)
        for fd in (flow.pidfd, flow.stacks):
            native.unguard(fd)
            os.close(fd)
        if flow.channel is not None:
            flow.channel.close()
        flow.channel = None
        if self._kill_by is None:
            self._recover(flow)
            self._decide(flow, exit_code)
        else:
            native.FlowRecord(self._segment.process, flow.number).note_death(FlowState.ENDED, exit_code, restarting=False)

    # ---- death and restart -----------------------------------------------------------------------

    def _recover(self, flow: _Flow) -> None:
        """Sees to it that what the dead process held is let go of, by whoever can.

        All of its incarnations are marked before anything of it starts again.
        """
        for item in flow.routines:
            self._records[item.number].count_crash()
            self._incarnations.retire_rings(item)
        self._retired = True
        for item in flow.routines:
            for edge in [*self._links.outs(item), *(tap for tap in self._taps.values() if tap.sender == item.number)]:
                unswept = self._incarnations.unswept_of(edge)
                self._incarnations.note_sender_death(edge)
                for number in unswept:
                    self._incarnations.recover_receiver(number)
                for number in unswept[:1]:
                    self._attach(number)  # the next receiver, if it is up already, drains it
                if edge.number not in self._taps and self._flows[self._plan.routines[edge.receiver].flow].failed:
                    self._incarnations.give_up(edge)
                self._wake_receiver(edge)
        for item in flow.routines:
            for edge in self._links.ins(item):
                if edge.local:
                    continue
                sender = self._plan.routines[edge.sender]
                sender_flow = self._flows[sender.flow]
                for number in self._incarnations.note_receiver_death(edge, sender_lives=sender_flow.up):
                    self._send(sender_flow, "receiver_died", sender.routine.name, number)
        # Whoever sleeps may have been about to be rung by the dead one, which had made room or freed a slot just then.
        for record in self._records:
            record.ring()

    def _wake_receiver(self, edge: EdgePlan) -> None:
        """Without asking its flag: the sender may have died between its push and its ring."""
        if edge.number in self._taps:
            # A tap ends with its routine's process; whoever reads it may tap again.
            native.EdgeRecord(self._segment.process, edge.number).fail_sender()
            del self._taps[edge.number]
            self._tell("untapped", edge.number)
            question = self._asked_taps.pop(edge.number, None)
            if question is not None:
                self._incarnations.give_up(edge)  # there is no tap yet that could drain it
                self._refuse_tap(question, f"routine {self._plan.names[edge.sender]!r} died just now")
        native.RoutineRecord(self._segment.process, edge.receiver).ring()
        if edge.receiver < len(self._plan.routines) and not edge.local:
            receiver = self._plan.routines[edge.receiver]
            self._send(self._flows[receiver.flow], "sender_died", receiver.routine.name)

    def _attach(self, number: int) -> None:
        """Nothing of a dead receiver is left on the incarnation: the next one may attach, if it is up already.

        Not before an earlier one of the same edge, and those that waited behind it follow.
        """
        edge = self._plan.edges[self._incarnations[number].edge]
        fit = self._links.fit(edge)
        for ready in fit[fit.index(number) :] if number in fit else ():
            self._send_edge("add_in", edge.receiver, edge, ready)
        self._forget(edge)

    def _forget(self, edge: EdgePlan) -> None:
        """Tells the receiver's process that the edge is unlinked, once it has all that there is to drain."""
        if self._flow_at(edge.receiver).up and self._links.must_forget(edge):
            self._send_to(edge.receiver, "remove_in", edge.number)

    def _flow_at(self, number: int) -> _Flow:
        return self._flows[self._plan.routines[number].flow]

    def _send_to(self, number: int, what: str, *details: Any) -> None:
        """Queues a message for a routine."""
        self._send(self._flow_at(number), what, self._plan.names[number], *details)

    def _send_edge(self, what: str, number: int, edge: EdgePlan, incarnation: int) -> None:
        self._send_to(number, what, edge.without_transmitter(), incarnation)

    def _decide(self, flow: _Flow, exit_code: int) -> None:
        """Restart or failure, by the flow's policy."""
        restart = self._plan.restarts[flow.name]
        now = time.monotonic()
        flow.deaths = [death for death in flow.deaths if now - death < restart.window]
        came_up = self._built and flow.name not in self._newborn
        again = came_up and flow.ordered
        if not again:
            flow.deaths.append(now)
            again = came_up and restart.wanted(exit_code) and len(flow.deaths) <= restart.limit
        record = native.FlowRecord(self._segment.process, flow.number)
        record.note_death(FlowState.RESTARTING if again else FlowState.FAILED, exit_code, restarting=again)
        death = FlowDied(flow.name, exit_code)
        if again:
            backoff = 0.0 if flow.ordered else min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (len(flow.deaths) - 1))
            flow.restart_at = now + backoff
            self._logger.warning("%s; it is restarted in %g s", death, backoff)
            return
        self._logger.error("%s; it is not restarted", death)
        self._tell("died", flow.name, exit_code)
        self._fail(flow)
        self._note_born(flow)

    def _restart(self, flow: _Flow) -> None:
        """Forks the flow again, with fresh incarnations for what it sends."""
        opened: list[tuple[EdgePlan, int]] = []
        for item in flow.routines:
            for edge in item.outs:
                if self._incarnations.live(edge) is not None:
                    continue
                number = self._incarnations.open(edge, item)
                if number is None:
                    for other, unused in opened:
                        self._incarnations.withdraw(other, unused)
                    self._give_up_undrained()
                    flow.restart_at = time.monotonic() + 0.1  # as soon as a receiver has let go of what it keeps
                    return
                if State(self._records[item.number].state).over:
                    self._incarnations[number].close()
                opened.append((edge, number))
        self._fork(flow, {})
        for edge, number in opened:
            if not edge.local:
                self._attach(number)

    def _give_up_undrained(self) -> None:
        """No bit is left for a restart: what dead senders sent to flows that are down is lost, counted, and its bits are free.

        Else two deaths can wait for each other: the receiver's restart for a bit, and its sender's old one for the receiver.
        """
        for edge in self._plan.edges:
            if not edge.local and not self._flow_at(edge.receiver).up:
                self._incarnations.give_up_dead(edge)

    def _start_again(self, flow: _Flow) -> None:
        """Starts the routines of a restarted flow that ran, or were to run, when it died."""
        self._tell("failed", flow.name, "")  # what kept an earlier process from coming up is over
        orders = []
        for item in flow.routines:
            name = item.routine.name
            state = State(self._records[item.number].state)
            if name in self._wanted and not state.over:
                self._runs[item.number] += 1
                orders.append((name, self._runs[item.number]))
            elif state is State.RUNNING:
                self._records[item.number].state = State.STOPPED  # it was told to stop while there was nobody to hear it
        self._send(flow, "start", orders)

    def _fail(self, flow: _Flow) -> None:
        """The flow does not come back: its neighbours go on without it."""
        flow.failed = True
        names = [item.routine.name for item in flow.routines]
        for item in flow.routines:
            for edge in self._links.outs(item):
                native.EdgeRecord(self._segment.process, edge.number).fail_sender()
                if self._flow_at(edge.receiver).failed:
                    self._incarnations.give_up(edge)
                native.RoutineRecord(self._segment.process, edge.receiver).ring()
            for edge in self._links.ins(item):
                native.EdgeRecord(self._segment.process, edge.number).receiver_ended = True
                if not self._flow_at(edge.sender).up:
                    self._incarnations.give_up(edge)
                elif not edge.local:
                    for number in self._incarnations.give_up_dead(edge):
                        self._send_to(edge.sender, "receiver_failed", number)
                native.RoutineRecord(self._segment.process, edge.sender).ring()
        self._tell_neighbours(flow, names)
        if self._order.stop_on_failure:
            self._kill()
        for item in flow.routines:
            self._records[item.number].state = State.FAILED
            self._note_state(item.number, self._runs[item.number], State.FAILED, "")

    def _tell_neighbours(self, flow: _Flow, names: list[str]) -> None:
        neighbours = {
            self._plan.routines[number].routine.name
            for item in flow.routines
            for edge in (*item.ins, *item.outs)
            for number in (edge.sender, edge.receiver)
        }
        listening = tuple(
            name for name in sorted(neighbours - set(names)) if PEER_FAILED_EVENT_NAME in self._audience.handlers[name]
        )
        if listening:
            told = pack_parameters(PEER_FAILED_EVENT_NAME, {"flow": flow.name, "routines": names})
            self._dispatch(Event(PEER_FAILED_EVENT_NAME, listening, told))

    def _restart_by_order(self, flow: _Flow) -> None:
        """Its death counts towards no limit. A flow that is about to be restarted anyway is restarted now."""
        if self._kill_by is None and flow.restart_at is not None:
            flow.restart_at = time.monotonic()
        elif self._kill_by is None and flow.up and not flow.hung:
            self._logger.info("flow %r is killed to be restarted, as was asked for", flow.name)
            flow.ordered = flow.hung = True
            signal.pidfd_send_signal(flow.pidfd, signal.SIGKILL)

    def _watch_hang(self, flow: _Flow) -> None:
        for item in flow.routines:
            since = self._records[item.number].words.busy_since_ns
            limit = item.routine.hang_timeout
            if limit is None or not since or native.now_ns() - since < limit * 1e9:
                continue
            self._logger.error(
                "routine %r hangs in main_logic for more than %g s; flow %r is killed. The stacks of its threads:\n%s",
                item.routine.name,
                limit,
                flow.name,
                self._stacks_of(flow),
            )
            flow.hung = True
            signal.pidfd_send_signal(flow.pidfd, signal.SIGKILL)
            return

    @staticmethod
    def _stacks_of(flow: _Flow) -> str:
        signal.pidfd_send_signal(flow.pidfd, STACKS_SIGNAL)
        text = b""
        with selectors.DefaultSelector() as selector:
            selector.register(flow.stacks, selectors.EVENT_READ)
            # Until it is silent: the handler writes all of it in one go.
            while selector.select(STACKS_WAIT if not text else STACKS_WAIT / 10):
                text += os.read(flow.stacks, 1 << 16)
        return text.decode(errors="replace") or "(it does not answer)"

    # ---- states ----------------------------------------------------------------------------------

    def _note_state(self, number: int, run: int, state: int, cause: str) -> None:
        if run < self._runs[number]:
            return  # of a run before the last start
        self._states[number] = State(state)
        if cause:
            self._tell("failed", number, cause)
            if self._order.stop_on_failure:
                self._kill()
        if self._states[number].over:
            self._wanted.discard(self._plan.routines[number].routine.name)
            self._tell_if_ended()

    def _tell_if_ended(self) -> None:
        if all(state.over for state in self._states):
            self._tell("ended", self._starts_of_parent)

    def _kill_now(self) -> None:
        for flow in self._flows.values():
            if flow.up:
                self._logger.warning("flow %r did not end within %g s and is killed", flow.name, self._order.grace)
                signal.pidfd_send_signal(flow.pidfd, signal.SIGKILL)
        self._kill_by = time.monotonic() + 60

    # ---- the parent ------------------------------------------------------------------------------

    def _tell(self, *message: Any) -> None:
        if self._parent_gone:
            return
        try:
            self._parent.send(*message)
        except (BrokenPipeError, ConnectionError):
            self._parent_gone = True

    def _hear_parent(self) -> None:
        message, fds = self._parent.receive_with_fds()
        if message is None:
            self._parent_gone = True
            self._selector.unregister(self._parent)
            self._kill()
            return
        what, *details = message
        if what == "event" and details[0].name == LINK_EVENT_NAME:
            error = self._link(details[0])
            if error is not None:
                self._logger.error("%s", error)
        elif what == "event":
            self._starts_of_parent += details[0].name == START_EVENT_NAME
            self._dispatch(details[0])
            self._tell_if_ended()
        elif what == "build":
            self._asked_growth, *growth = details
            self._grow(growth[0], growth[1], fds)
        elif what == "link":
            question, event = details
            self._tell("answer", question, self._link(event))
        elif what == "tap":
            self._tap(*details)
        elif what == "untap":
            self._untap(details[0])
        elif what == "restart":
            self._restart_by_order(self._flows[details[0]])

    # ---- events ----------------------------------------------------------------------------------

    def _dispatch(self, event: Event) -> None:
        if event.name == KILL_EVENT_NAME:
            self._kill()
        elif event.name == START_EVENT_NAME:
            self._start(event.routines)
        else:
            if event.name == STOP_EVENT_NAME:
                self._wanted.difference_update(event.routines)
            elif event.wiring is not None and event.name == UNLINK_EVENT_NAME:
                for name in event.routines:
                    self._unlink(name, event.wiring.receiver)
            for flow, names in self._by_flow(event.routines):
                self._send(flow, "event", replace(event, routines=tuple(names)))

    def _by_flow(self, names: tuple[str, ...]) -> list[tuple[_Flow, list[str]]]:
        by_flow: dict[str, list[str]] = {}
        for name in names:
            by_flow.setdefault(self._flow_of[name].name, []).append(name)
        return [(self._flows[flow], members) for flow, members in by_flow.items()]

    def _start(self, names: tuple[str, ...]) -> None:
        """Starts those that don't run. Ended streams are opened first, so that no receiver sees an old end."""
        starting = []
        for item in self._plan.routines:
            name = item.routine.name
            over = State(self._records[item.number].state).over
            if name not in names or self._flows[item.flow].failed or (name in self._wanted and not over):
                continue
            starting.append(item)
            if State(self._records[item.number].state) is State.FAILED:
                self._tell("failed", item.number, "")  # it gets another try
            if over:
                self._reopen(item)
        for item in starting:
            self._wanted.add(item.routine.name)
            self._runs[item.number] += 1
            self._states[item.number] = State.RUNNING
        if starting:
            self._tell("started")
        for flow, group in self._by_flow(tuple(item.routine.name for item in starting)):
            orders = [(item.routine.name, self._runs[item.number]) for item in starting if item.routine.name in group]
            self._send(flow, "start", orders)

    def _reopen(self, item: RoutinePlan) -> None:
        for edge in item.outs:
            live = self._incarnations.live(edge)
            if live is not None:
                self._incarnations[live].reopen()
        for edge in item.ins:
            native.EdgeRecord(self._segment.process, edge.number).receiver_ended = False
        self._records[item.number].state = State.STOPPED

    def _kill(self) -> None:
        if self._kill_by is not None:
            return
        self._kill_by = time.monotonic() + self._order.grace
        for flow in self._flows.values():
            flow.restart_at = None
            self._send(flow, KILL_EVENT_NAME)

    # ---- flows of a later build ------------------------------------------------------------------

    def _grow(self, growth: Growth, nursery_pid: int, fds: list[int]) -> None:
        """Takes new flows into the pipe, and forks them; or says why not, and nothing has changed."""
        known = len(self._plan.routines) + sum(map(len, growth.flows.values()))
        nursery = next((Nursery(fd, nursery_pid, known) for fd in fds), None)
        try:
            edges, rings = self._take_in(growth)
        except (ValueError, WiresValidation, PipeStateError, SharedMemoryFull, OSError) as error:
            if nursery is not None:
                nursery.close()
            self._tell("answer", self._asked_growth, error)
            return
        self._audience = growth.audience
        running = [flow for flow in self._flows.values() if flow.up]
        for name, routines in growth.flows.items():
            self._flows[name] = _Flow(name, len(self._flows), routines, nursery=nursery)
            self._newborn.add(name)
        for item in self._plan.routines[len(self._records) :]:
            self._flow_of[item.routine.name] = self._flows[item.flow]
            self._records.append(native.RoutineRecord(self._segment.process, item.number))
            self._runs.append(0)
            self._states.append(State.BUILT)
            self._sizes.append((item.slots, item.message_slots))
        for flow in running:
            self._send(flow, "grown", self._plan.names, self._audience)
        self._resize()
        for edge in edges:
            self._announce(edge)
        if nursery is None:
            self._tell("answer", self._asked_growth, None)
            return
        self._selector.register(nursery, selectors.EVENT_READ, lambda: self._lose(nursery))
        for name in growth.flows:
            if self._kill_by is None:  # the failure of one may be the end of all
                self._fork(self._flows[name], rings)

    def _take_in(self, growth: Growth) -> tuple[list[EdgePlan], dict[int, tuple[int, int]]]:
        if self._kill_by is not None:
            raise PipeStateError("the pipe has ended; nothing can be built")
        for wire in growth.wires:
            for name in (wire.sender, wire.receiver):
                flow = self._flow_of.get(name)
                if flow is not None and flow.failed:
                    raise WiresValidation(f"{name!r} can't be wired: its flow {flow.name!r} has failed for good")
        return take_in(
            growth,
            self._plan,
            self._links,
            self._incarnations,
            self._segment,
            self._order.taps[0],
            lambda name: self._flows[name].up,
        )

    def _order_for(self, flow: _Flow, nursery: Nursery, attachment: Attachment) -> Order:
        def plain(edges: list[EdgePlan]) -> list[EdgePlan]:
            return [edge.without_transmitter() for edge in edges]

        return Order(
            flow.name,
            [replace(item, ins=[], outs=[]) for item in self._plan.routines[nursery.known :]],
            {item.number: plain(item.ins) for item in flow.routines},
            {item.number: plain(item.outs) for item in flow.routines},
            {item.number: item.reach for item in flow.routines},
            {item.number: item.slots for item in flow.routines},
            replace(attachment, leaving=plain(attachment.leaving)),
            self._audience,
        )

    def _note_born(self, flow: _Flow) -> None:
        """A flow is up, or has failed: if it was the last new one of a later build, that is done."""
        if flow.name in self._newborn:
            self._newborn.remove(flow.name)
            if not self._newborn:
                self._tell("answer", self._asked_growth, None)

    def _reap(self, flow: _Flow) -> int:
        """The exit code of a flow that has ended."""
        if flow.nursery is None:
            _, status = os.waitpid(flow.pid, 0)
            return os.waitstatus_to_exitcode(status)
        exit_code = flow.nursery.reap(flow.pid)
        return -signal.SIGKILL if exit_code is None else exit_code

    def _lose(self, nursery: Nursery) -> None:
        """A nursery is dead: nobody could fork its flows again. A restart finds that out by itself."""
        self._selector.unregister(nursery)
        nursery.dead = True
        nursery.close()
        for flow in self._flows.values():
            if flow.nursery is nursery and flow.up:
                signal.pidfd_send_signal(flow.pidfd, signal.SIGKILL)

    def _give_up_unborn(self, flow: _Flow, why: str) -> None:
        """There can't be a process for the flow."""
        flow.restart_at = None
        native.FlowRecord(self._segment.process, flow.number).note_death(FlowState.FAILED, -signal.SIGKILL, restarting=False)
        self._logger.error("flow %r can't be started: %s", flow.name, why)
        self._tell("died", flow.name, -signal.SIGKILL)
        self._recover(flow)
        self._fail(flow)
        self._note_born(flow)

    # ---- wires that come and go ------------------------------------------------------------------

    def _link(self, event: Event) -> Exception | None:
        """Links each of the routines that are addressed; why not, if one can't be."""
        wiring = event.wiring
        assert wiring is not None
        settings = {name: getattr(wiring, name) for name in ("policy", "capacity", "timeout")}
        try:
            for name in event.routines:
                self._connect(self._plan.get(name), self._plan.get(wiring.receiver), **settings)
        except (ValueError, WiresValidation, PipeStateError) as error:
            return error
        self._dispatch(event)
        return None

    def _connect(self, sender: RoutinePlan, receiver: RoutinePlan, **settings: Any) -> None:
        if self._kill_by is not None:
            raise PipeStateError("the pipe has ended; nothing can be linked")
        for item in (sender, receiver):
            if self._flows[item.flow].failed:
                raise WiresValidation(f"{item.routine.name!r} can't be linked: its flow {item.flow!r} has failed for good")
        edge = self._links.link(sender, receiver, **settings, live=self._flows[sender.flow].up)
        self._resize()
        self._announce(edge)

    def _announce(self, edge: EdgePlan) -> None:
        """Tells both ends of a new wire, as far as they are up."""
        if self._flow_at(edge.receiver).up and self._links.must_expect(edge):
            self._send_to(edge.receiver, "expect_in", edge.number)
        number = self._incarnations.live(edge)
        if number is not None:  # else _restart() opens it
            self._attach(number)
            self._send_edge("link_out", edge.sender, edge, number)

    def _unlink(self, name: str, receiver: str) -> None:
        sender = self._plan.get(name)
        edges = [self._links.unlink(sender, one) for one in self._plan.copies.get(receiver, (receiver,))]
        if not any(edges):
            self._logger.warning("unlink: there is no wire to %r", receiver)
        for edge in edges:
            if edge is None:
                continue
            number = self._incarnations.live(edge)
            if self._flows[sender.flow].up and number is not None:
                self._send_to(sender.number, "unlink_out", edge.number, number)
            self._forget(edge)
        self._resize()

    def _end_unlinked(self, number: int) -> None:
        """The sender is done with the incarnation of a wire that was unlinked. It is drained like that of a dead one."""
        edge = self._plan.edges[self._incarnations[number].edge]
        if self._flow_at(edge.receiver).failed:
            self._incarnations.abandon(number)
            return
        self._incarnations[number].state = native.SENDER_DEAD
        self._records[edge.receiver].ring()
        self._send_to(edge.receiver, "sender_died")

    def _resize(self) -> None:
        """Tells senders how many slots they should have now."""
        for item in self._plan.routines:
            size = item.slots, item.message_slots
            if self._sizes[item.number] != size:
                self._sizes[item.number] = size
                self._send_to(item.number, "want_slots", *size)

    def _refuse(self, flow: _Flow, name: str, error: Exception) -> None:
        """Tells a routine that what it asked for can't be."""
        self._send(flow, "refused", name, str(error))

    # ---- taps ------------------------------------------------------------------------------------

    def _tap(self, question: int, name: str) -> None:
        """Makes an edge from a routine to the parent, or says why there can't be one."""
        first_routine, count, first_edge = self._order.taps
        item = self._plan.find(name)
        flow = self._flow_of.get(name)
        if item is None or flow is None or not flow.up:
            self._refuse_tap(question, f"routine {name!r} does not run")
            return
        place = next((place for place in range(count) if self._is_unused(first_edge + place)), None)
        if place is None:
            self._refuse_tap(question, f"all {count} taps of the pipe are in use; close one")
            return
        edge = EdgePlan(
            number=first_edge + place,
            sender=item.number,
            receiver=first_routine + place,
            policy="drop_oldest",
            capacity=1,
            timeout=None,
            transmitter=SharedMemoryTransmitter(),
            local=False,
            tap=True,
            borrow_cap=1,
        )
        edge.format(native.EdgeRecord(self._segment.process, edge.number), item.reach)
        number = self._incarnations.open(edge, item)
        if number is None:
            self._refuse_tap(question, f"routine {name!r} has no holder bit left for one more receiver")
            return
        self._taps[edge.number] = edge
        self._asked_taps[edge.number] = question
        self._send(flow, "add_tap", name, edge, number)

    def _refuse_tap(self, question: int, why: str) -> None:
        self._tell("answer", question, PipeStateError(f"can't tap: {why}"))

    def _is_unused(self, edge: int) -> bool:
        """Whether a tap's place is free: its last sender is done with it, and no view of it lives."""
        return edge not in self._taps and not self._incarnations.numbers_of(edge)

    def _untap(self, edge: int) -> None:
        tap = self._taps.get(edge)
        if tap is None:
            return  # it ended with its routine's process
        sender = self._plan.routines[tap.sender]
        self._send(self._flows[sender.flow], "remove_out", sender.routine.name, edge)


def launch(order: LaunchOrder, parent: Channel, logs: Channel) -> NoReturn:
    """The whole life of the launcher's process, just forked."""
    status = 1
    try:
        take_own_signals()
        parent.keep()
        logs.set_blocking(False)
        gc.freeze()  # what is here now is shared with every flow: keep the collector from touching it
        forwarding_logger(order.logger_name, ForwardingHandler(logs, "launcher", "launcher", lambda: None))
        Launcher(order, parent, logs).run()
        status = 0
    except BaseException as error:
        logging.getLogger(order.logger_name).exception("the launcher failed")
        with suppress(OSError):  # the parent may be gone
            parent.send("failed", "launcher", f"the launcher failed: {describe(error)}")
    finally:
        unlink_pipe(order.pipe_id)
        exit_process(status)
    raise AssertionError("a forked process ends above")
