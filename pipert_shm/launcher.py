"""The launcher: a small single-threaded process that forks the flows, orders events, and sees the flows' deaths.

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
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pipert_shm import native
from pipert_shm.channel import Channel
from pipert_shm.errors import FlowDied
from pipert_shm.events import KILL_EVENT_NAME, START_EVENT_NAME, STOP_EVENT_NAME, Audience, Event
from pipert_shm.flow import exit_process, run_flow, take_own_signals
from pipert_shm.logs import ForwardingHandler, forwarding_logger
from pipert_shm.memory import ControlSegment, unlink_pipe
from pipert_shm.plan import BITS, EdgePlan, Plan
from pipert_shm.runner import State
from pipert_shm.transmit import SharedMemoryTransmitter


@dataclass(slots=True)
class _Child:
    """A flow's process."""

    name: str
    pid: int
    pidfd: int
    channel: Channel
    outbox: deque[tuple[Any, ...]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class LaunchOrder:
    """All that a launcher needs.

    Attributes:
        taps: (first routine number, how many, first edge number) of the places that are kept for taps.
        rings: per routine number, the ring that build() made for it, and its slot size.
        grace: seconds that a flow has to end in, before SIGKILL.
    """

    plan: Plan
    pipe_id: str
    audience: Audience
    logger_name: str
    taps: tuple[int, int, int]
    rings: dict[int, tuple[int, int]]
    grace: float


class Launcher:
    """The launcher's state and loop."""

    def __init__(self, order: LaunchOrder, parent: Channel, logs: Channel) -> None:
        self._order = order
        self._plan = order.plan
        self._parent = parent
        self._logs = logs
        self._logger = logging.getLogger(order.logger_name)
        self._segment = ControlSegment.open(order.pipe_id)
        self._selector = selectors.DefaultSelector()
        self._children: dict[str, _Child] = {}
        self._flow_of = {item.routine.name: item.flow for item in self._plan.routines}
        self._records = [native.RoutineRecord(self._segment.process, item.number) for item in self._plan.routines]
        self._wanted: set[str] = set()
        self._runs = [0] * len(self._plan.routines)
        self._states = [State.BUILT] * len(self._plan.routines)
        self._ready = 0
        self._kill_by: float | None = None
        self._parent_gone = False

    def run(self) -> None:
        """Forks the flows and serves until all of them are gone."""
        for name in self._plan.flows:
            self._fork(name)
        self._selector.register(self._parent, selectors.EVENT_READ, self._hear_parent)
        while self._children:
            timeout = None if self._kill_by is None else max(0.0, self._kill_by - time.monotonic())
            for key, mask in self._selector.select(timeout):
                if key.fd not in self._selector.get_map():
                    continue  # buried by an earlier event of this round
                if mask & selectors.EVENT_READ:
                    key.data()
                if mask & selectors.EVENT_WRITE:
                    self._flush(key.fileobj)
            if self._kill_by is not None and time.monotonic() >= self._kill_by:
                self._kill_now()

    # ---- flows -----------------------------------------------------------------------------------

    def _fork(self, name: str) -> None:
        ours, theirs = Channel.pair()
        ours.keep()
        pid = os.fork()
        if pid == 0:
            self._be_flow(name, theirs)
        theirs.close()
        ours.set_blocking(False)
        child = _Child(name, pid, os.pidfd_open(pid), ours)
        native.guard(child.pidfd)
        self._children[name] = child
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear_flow(child))
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._bury(child))

    def _be_flow(self, name: str, control: Channel) -> NoReturn:
        status = 1
        try:
            order = self._order
            status = run_flow(
                name, self._plan, order.pipe_id, control, self._logs, order.logger_name, order.audience, order.rings
            )
        finally:
            exit_process(status)
        raise AssertionError("a forked process ends above")

    def _send(self, child: _Child, *message: Any) -> None:
        child.outbox.append(message)
        self._flush(child.channel)

    def _flush(self, channel: Any) -> None:
        child = next((child for child in self._children.values() if child.channel is channel), None)
        if child is None:
            return
        try:
            while child.outbox:
                child.channel.send(*child.outbox[0])
                child.outbox.popleft()
        except BlockingIOError:
            self._watch(child, selectors.EVENT_READ | selectors.EVENT_WRITE)
            return
        except (BrokenPipeError, ConnectionError):
            child.outbox.clear()  # it is dying: its pidfd tells the rest
        self._watch(child, selectors.EVENT_READ)

    def _watch(self, child: _Child, mask: int) -> None:
        if child.channel in self._selector.get_map():
            self._selector.modify(child.channel, mask, lambda: self._hear_flow(child))

    def _hear_flow(self, child: _Child) -> None:
        message = child.channel.receive()
        if message is None:
            self._selector.unregister(child.channel)
            return
        what, *details = message
        if what == "state":
            self._note_state(*details)
        elif what == "event":
            self._dispatch(details[0])
        elif what == "ready":
            self._ready += 1
            if self._ready == len(self._plan.flows):
                self._tell("ready")
        elif what in ("failed", "tapped", "untapped"):
            self._tell(*message)

    def _bury(self, child: _Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        exit_code = os.waitstatus_to_exitcode(status)
        while child.channel in self._selector.get_map():
            self._hear_flow(child)  # its last words
        self._selector.unregister(child.pidfd)
        native.unguard(child.pidfd)
        os.close(child.pidfd)
        child.channel.close()
        del self._children[child.name]
        if self._kill_by is None:
            self._logger.error("%s", FlowDied(child.name, exit_code))
            self._tell("died", child.name, exit_code)
            self._mark_dead(child.name)

    def _mark_dead(self, flow: str) -> None:
        """Ends the streams of a flow that died, so that nobody waits for it."""
        for item in self._plan.flows[flow]:
            for edge in item.outs:
                record = native.EdgeRecord(self._segment.process, edge.number)
                record.close()
                self._records[edge.receiver].ring()
            for edge in item.ins:
                native.EdgeRecord(self._segment.process, edge.number).end_receiver()
                self._records[edge.sender].ring()
            self._records[item.number].state = State.FAILED
            self._note_state(item.number, self._runs[item.number], State.FAILED, "")

    def _note_state(self, number: int, run: int, state: int, cause: str) -> None:
        if run < self._runs[number]:
            return  # of a run before the last start
        self._states[number] = State(state)
        if cause:
            self._tell("failed", number, cause)
        if self._states[number].over:
            self._wanted.discard(self._plan.routines[number].routine.name)
            if all(other.over for other in self._states):
                self._tell("ended")

    def _kill_now(self) -> None:
        for child in self._children.values():
            self._logger.warning("flow %r did not end within %g s and is killed", child.name, self._order.grace)
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
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
        message = self._parent.receive()
        if message is None:
            self._parent_gone = True
            self._selector.unregister(self._parent)
            self._kill()
            return
        what, *details = message
        if what == "event":
            self._dispatch(details[0])
        elif what == "tap":
            self._tap(details[0])
        elif what == "untap":
            self._untap(details[0])

    # ---- events ----------------------------------------------------------------------------------

    def _dispatch(self, event: Event) -> None:
        if event.name == KILL_EVENT_NAME:
            self._kill()
        elif event.name == START_EVENT_NAME:
            self._start(event.routines)
        else:
            if event.name == STOP_EVENT_NAME:
                self._wanted.difference_update(event.routines)
            for flow, names in self._by_flow(event.routines).items():
                if flow in self._children:
                    self._send(self._children[flow], "event", Event(event.name, tuple(names), event.params))

    def _by_flow(self, names: tuple[str, ...]) -> dict[str, list[str]]:
        by_flow: dict[str, list[str]] = {}
        for name in names:
            by_flow.setdefault(self._flow_of[name], []).append(name)
        return by_flow

    def _start(self, names: tuple[str, ...]) -> None:
        """Starts those that don't run. Ended streams are opened first, so that no receiver sees an old end."""
        starting = []
        for item in self._plan.routines:
            name = item.routine.name
            state = State(self._records[item.number].state)
            if name not in names or item.flow not in self._children or (name in self._wanted and not state.over):
                continue
            starting.append((item, state))
            if state is State.FAILED:
                self._tell("failed", item.number, "")  # it gets another try
        for item, state in starting:
            if state.over:
                for edge in item.outs:
                    native.EdgeRecord(self._segment.process, edge.number).reopen_stream()
                for edge in item.ins:
                    native.EdgeRecord(self._segment.process, edge.number).reopen_receiver()
        for flow, group in self._by_flow(tuple(item.routine.name for item, _ in starting)).items():
            orders = []
            for name in group:
                item = next(item for item, _ in starting if item.routine.name == name)
                self._wanted.add(name)
                self._runs[item.number] += 1
                self._states[item.number] = State.RUNNING
                orders.append((name, self._runs[item.number]))
            self._send(self._children[flow], "start", orders)

    def _kill(self) -> None:
        if self._kill_by is not None:
            return
        self._kill_by = time.monotonic() + self._order.grace
        for child in list(self._children.values()):
            self._send(child, KILL_EVENT_NAME)

    # ---- taps ------------------------------------------------------------------------------------

    def _tap(self, name: str) -> None:
        """Makes an edge from a routine to the parent, or says why there can't be one."""
        first_routine, count, first_edge = self._order.taps
        item = self._plan.find(name)
        if item is None or item.flow not in self._children:
            self._tell("no_tap", f"routine {name!r} does not run")
            return
        records = [native.EdgeRecord(self._segment.process, first_edge + place) for place in range(count)]
        place = next((place for place in range(count) if records[place].state == native.EDGE_FREE), None)
        if place is None:
            self._tell("no_tap", f"all {count} taps of the pipe are in use; close one")
            return
        number = first_edge + place
        used = {edge.bit for edge in self._plan.edges if self._plan.routines[edge.sender].reach & item.reach}
        used |= {record.bit for record in records if record.state != native.EDGE_FREE}
        bit = next((bit for bit in BITS if bit not in used), None)
        if bit is None:
            self._tell("no_tap", f"routine {name!r} has no holder bit left for one more receiver")
            return
        edge = EdgePlan(
            number=number,
            sender=item.number,
            receiver=first_routine + place,
            policy="drop_oldest",
            capacity=1,
            timeout=None,
            transmitter=SharedMemoryTransmitter(),
            local=False,
            bit=bit,
            borrow_cap=1,
        )
        records[place].format(
            sender=edge.sender,
            receiver=edge.receiver,
            bit=bit,
            policy=native.POLICIES[edge.policy],
            capacity=edge.capacity,
            borrow_cap=edge.borrow_cap,
            timeout_ns=edge.timeout_ns,
        )
        self._send(self._children[item.flow], "add_out", name, edge)

    def _untap(self, edge: int) -> None:
        record = native.EdgeRecord(self._segment.process, edge)
        sender = self._plan.routines[record.sender]
        if sender.flow in self._children:
            self._send(self._children[sender.flow], "remove_out", sender.routine.name, edge)
        else:
            self._tell("untapped", edge)


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
    except BaseException:
        logging.getLogger(order.logger_name).exception("the launcher failed")
    finally:
        unlink_pipe(order.pipe_id)
        exit_process(status)
    raise AssertionError("a forked process ends above")
