"""The flows and routines of a pipe, as its launcher knows them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from pipert_shm import native
from pipert_shm.control.messages import Message
from pipert_shm.errors import FlowDied
from pipert_shm.launcher.fork_server import ForkServer
from pipert_shm.launcher.peers import Peer
from pipert_shm.memory import ControlSegment
from pipert_shm.plan import EdgePlan, Plan, RoutinePlan
from pipert_shm.states import FlowState, State


@dataclass(slots=True, eq=False)
class Flow:
    """A flow, and its process while it has one.

    Attributes:
        peer: the channel to its process; None while it has none. There may be one before the pid is known.
        server: who forks it, where we don't.
        ready: its process has said that it is there.
        unhandled: bytes of the events that it was sent and has not handled.
        restart_at: when it is to be forked again, as of time.monotonic().
        recover_at: when recovery from its death is to be tried again, since the system would not let us.
        exit_code: of its last process.
        doomed: it was sent SIGKILL, and is as good as dead.
        ordered: it is being killed for a restart that was asked for.
    """

    name: str
    number: int
    routines: list[RoutinePlan]
    record: native.FlowRecord
    server: ForkServer | None = None
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
    ordered: bool = False

    @property
    def up(self) -> bool:
        """Whether it has a process, as far as we know."""
        return self.peer is not None

    @property
    def is_pending(self) -> bool:
        """Whether it has one, or will have one."""
        return self.up or self.restart_at is not None or self.recover_at is not None

    @property
    def state(self) -> FlowState:
        """What its record says."""
        return FlowState(self.record.read()[0])

    def died(self) -> FlowDied:
        """What its last death is called."""
        return FlowDied(self.name, self.exit_code)


class Roster:
    """Who there is, by name and by number; and how to reach them."""

    def __init__(self, plan: Plan, segment: ControlSegment, logger: logging.Logger) -> None:
        self.plan = plan
        self.segment = segment
        self.logger = logger
        self.flows: dict[str, Flow] = {}
        self.records: list[native.RoutineRecord] = []
        self._flow_of: dict[str, Flow] = {}
        for name, routines in plan.flows.items():
            self.add(name, routines, None)

    def add(self, name: str, routines: list[RoutinePlan], server: ForkServer | None) -> Flow:
        """One more flow; its routines come after those that are there."""
        process = self.segment.process
        flow = Flow(name, len(self.flows), routines, native.FlowRecord(process, len(self.flows)), server)
        self.flows[name] = flow
        for item in routines:
            self._flow_of[item.routine.name] = flow
            self.records.append(native.RoutineRecord(process, item.number))
        return flow

    def flow_of(self, routine: str) -> Flow | None:
        """The flow that a routine is in."""
        return self._flow_of.get(routine)

    def flow_at(self, number: int) -> Flow:
        """The flow of a routine, by its number."""
        return self.flows[self.plan.routines[number].flow]

    def by_flow(self, names: tuple[str, ...]) -> list[tuple[Flow, tuple[str, ...]]]:
        """These routines, by the flow that they are in."""
        by_flow: dict[str, list[str]] = {}
        for name in names:
            by_flow.setdefault(self._flow_of[name].name, []).append(name)
        return [(self.flows[flow], tuple(members)) for flow, members in by_flow.items()]

    def state_of(self, number: int) -> State:
        """What a routine's record says."""
        return State(self.records[number].state)

    def edge_record(self, edge: EdgePlan) -> native.EdgeRecord:
        return native.EdgeRecord(self.segment.process, edge.number)

    def send(self, flow: Flow, message: Message, question: int = 0) -> None:
        """To a flow that is down, nothing: it is born with all that it needs to know."""
        if flow.peer is not None:
            flow.peer.send(message, question)
