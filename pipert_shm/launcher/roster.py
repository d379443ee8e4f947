"""The flows and routines of a pipe, as its launcher knows them."""

from __future__ import annotations

import logging
import signal
from contextlib import suppress
from dataclasses import dataclass, field

from pipert_shm import binding
from pipert_shm.control.messages import Message
from pipert_shm.errors import FlowDied
from pipert_shm.graph.model import EdgePlan, Plan, RoutinePlan
from pipert_shm.launcher.fork_server import ForkServer
from pipert_shm.launcher.peers import Peer
from pipert_shm.shm.segments import ControlSegment
from pipert_shm.shm.states import EndReason, FlowState, State
from pipert_shm.system import calls


@dataclass(slots=True, eq=False)
class Flow:
    """A flow, and its process while it has one.

    Attributes:
        peer: the channel to its process; None while it has none. It exists before the pid is known.
        server: the fork server that forks its next process; None: the launcher does.
        forked_by: the one that forked the process that it has.
        ready: its process has said that it is there.
        stacks: the descriptor that gives the stacks of its threads, and its standard error.
        unhandled: bytes of the events that it was sent and has not handled.
        restart_at: when it is to be forked again, as of time.monotonic().
        recover_at: when recovery from its death is to be tried again, since the system refused it.
        deaths: when its processes died or could not be started, within the window of its restart policy.
        exit_code: of its last process.
        failed: it is not restarted any more.
        doomed: it was sent SIGKILL, and is as good as dead.
        doom: why it is killed, if that is one of the reasons that are told; else NONE.
        doom_text: the same in words; empty where the exit code says enough.
        ended_by: why its last process ended.
        came_up: one of its processes was ready once.
        leaves: it is being removed: its process is to end, and gets no successor.
        kill_at: when its process gets SIGKILL, if it has not ended by itself, as of time.monotonic().
    """

    name: str
    number: int
    routines: list[RoutinePlan]
    record: binding.FlowRecord
    server: ForkServer | None = None
    forked_by: ForkServer | None = None
    peer: Peer | None = None
    pid: int = 0
    pidfd: int = -1
    stacks: int = -1
    ready: bool = False
    unhandled: int = 0
    deaths: list[float] = field(default_factory=list)
    restart_at: float | None = None
    recover_at: float | None = None
    exit_code: int = 0
    failed: bool = False
    doomed: bool = False
    doom: EndReason = EndReason.NONE
    doom_text: str = ""
    ended_by: EndReason = EndReason.NONE
    came_up: bool = False
    leaves: bool = False
    kill_at: float | None = None

    @property
    def up(self) -> bool:
        """Whether it has a process, as far as the launcher knows."""
        return self.peer is not None

    @property
    def moments(self) -> tuple[float | None, ...]:
        """When something is to be done about it, as of time.monotonic()."""
        return self.restart_at, self.recover_at, None if self.doomed else self.kill_at

    @property
    def is_pending(self) -> bool:
        """Whether it has a process, or will have one."""
        return self.up or self.restart_at is not None or self.recover_at is not None

    @property
    def state(self) -> FlowState:
        """Its state, from its record."""
        return FlowState(self.record.read().state)

    def kill(self) -> None:
        """Sends its process SIGKILL, as soon as its pidfd is known."""
        self.doomed = True
        if self.pidfd >= 0:
            with suppress(ProcessLookupError):  # it is dead already, as its pidfd tells
                calls.send_signal(self.pidfd, signal.SIGKILL)

    def kill_for(self, reason: EndReason, text: str = "") -> None:
        """Kills it, and keeps why, for when it is dead.

        :param text: what to say of its death; empty: as of any.
        """
        self.doom, self.doom_text = reason, text
        self.kill()

    def note_exit(self, exit_code: int, *, ending: bool) -> None:
        """Notes how its process ended, and why.

        :param ending: whether the pipe ends.
        """
        self.exit_code = exit_code
        killed = self.doom is not EndReason.NONE and exit_code == -signal.SIGKILL  # else it ended before the signal came
        ordered = self.doom is EndReason.ORDER  # it is to be restarted in any case
        self.ended_by = EndReason.END if ending else self.doom if killed or ordered else EndReason.DIED

    def note_launch(self) -> None:
        """Notes that it has a new process, which is not to be killed."""
        self.restart_at, self.doomed, self.doom, self.doom_text = None, False, EndReason.NONE, ""
        self.kill_at, self.forked_by = None, self.server

    def forget_process(self) -> None:
        """Notes that it has no process. What belonged to that must be closed by now."""
        self.peer, self.pid, self.pidfd, self.stacks, self.unhandled, self.ready = None, 0, -1, -1, 0, False
        self.kill_at = None

    def died(self) -> FlowDied:
        """An error that says how its last process ended."""
        return FlowDied(self.name, self.exit_code, self.doom_text if self.ended_by is self.doom else "")


class Roster:
    """Finds flows and routines by name and by number, and sends flows messages."""

    def __init__(self, plan: Plan, segment: ControlSegment, logger: logging.Logger) -> None:
        self.plan = plan
        self.segment = segment
        self.logger = logger
        self.flows: dict[str, Flow] = {}
        self.records: dict[int, binding.RoutineRecord] = {}
        self._flow_of: dict[str, Flow] = {}
        self._flow_at: dict[int, Flow] = {}
        for name, routines in plan.flows.items():
            self.add(name, routines, None)

    def add(self, name: str, routines: list[RoutinePlan], server: ForkServer | None) -> Flow:
        """Adds a flow that is in the plan."""
        process, number = self.segment.process, self.plan.flow_numbers[name]
        flow = Flow(name, number, routines, binding.FlowRecord(process, number), server)
        self.flows[name] = flow
        for item in routines:
            self._flow_of[item.routine.name] = self._flow_at[item.number] = flow
            self.records[item.number] = binding.RoutineRecord(process, item.number)
        return flow

    def dismiss(self, flow: Flow) -> None:
        """Takes a flow out. It is still found by its routines' numbers, until these are released."""
        del self.flows[flow.name]
        for item in flow.routines:
            del self._flow_of[item.name]
        flow.record.clear()

    def release(self, routine: int) -> None:
        """Forgets a routine of a flow that was taken out."""
        del self._flow_at[routine], self.records[routine]

    def flow_of(self, routine: str) -> Flow | None:
        """The flow that a routine is in."""
        return self._flow_of.get(routine)

    def flow_at(self, number: int) -> Flow:
        """The flow of a routine, by its number. That of a routine which was removed is found, too: it has failed for good."""
        return self._flow_at[number]

    def by_flow(self, names: tuple[str, ...]) -> list[tuple[Flow, tuple[str, ...]]]:
        """The flows of these routines, each with the names of those that are in it."""
        by_flow: dict[str, list[str]] = {}
        for name in names:
            by_flow.setdefault(self._flow_of[name].name, []).append(name)
        return [(self.flows[flow], tuple(members)) for flow, members in by_flow.items()]

    def state_of(self, number: int) -> State:
        """A routine's state, from its record."""
        return State(self.records[number].state)

    def edge_record(self, edge: EdgePlan) -> binding.EdgeRecord:
        return binding.EdgeRecord(self.segment.process, edge.number)

    def send(self, flow: Flow, message: Message, question: int = 0) -> None:
        """Sends a flow a message. A flow without a process gets none: its next one starts with all that it needs to know."""
        if flow.peer is not None:
            flow.peer.send(message, question)
