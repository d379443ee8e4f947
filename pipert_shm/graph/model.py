"""The parts of a plan, as data: its routines, the edges between them, and the pipe's settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipert_shm import binding
from pipert_shm.errors import WiresValidation, shown
from pipert_shm.frozen import Frozen
from pipert_shm.graph.names import MOST_PAST, Names
from pipert_shm.graph.numbered import Numbered
from pipert_shm.graph.process_settings import ProcessSettings
from pipert_shm.limits import Policy, check_choice, check_count, is_number
from pipert_shm.routine import Role, Routine
from pipert_shm.shm.listing import Member
from pipert_shm.transmitters import DataTransmitter, SharedMemoryTransmitter
from pipert_shm.wire import QueueSettings

RestartPolicy = Literal["on-failure", "always", "never"]
RESTART_POLICIES: tuple[RestartPolicy, ...] = ("on-failure", "always", "never")
BORROW_CAP = 2  # frames that user code of one receiver may keep
NUMBER_BITS = 16  # of a routine's number; the bits above it are the generation
IN_PASSING = 2  # messages beside those in the queue: one is held but not pushed yet, one evicted but not dropped yet


@dataclass(slots=True)
class EdgePlan:
    """One sender to one receiver.

    Attributes:
        spread: the name that the replicas share which it leads to one of: each message goes to one of them.
        ticketed: whether it leads to a replica of an ordered flow.
        ordered: whether it leads from a replica to the routine that restores the order.
        own_capacity: whether its wire gives the capacity; else `build()` may add to it.
        per_source: messages of one source that memory is set aside for; 0: as many as the queue holds.
        own_transmitter: the number of its own transmitter in `Plan.transmitters`; 0: it has the pipe's.
        linked: whether the sender sends on it, or will.
        held: whether its sender is removed, and its receiver waits for another wire before it takes the stream for ended.
    """

    number: int
    sender: int
    receiver: int
    policy: Policy
    capacity: int
    timeout: float | None
    transmitter: DataTransmitter
    local: bool
    max_age: float | None = None
    spread: str | None = None
    ticketed: bool = False
    ordered: bool = False
    tap: bool = False
    bit: int = 0
    borrow_cap: int = BORROW_CAP
    own_capacity: bool = True
    per_source: int = 0
    own_transmitter: int = 0
    linked: bool = True
    held: bool = False

    @property
    def queue(self) -> QueueSettings:
        """The settings of its queue."""
        return QueueSettings(self.policy, self.capacity, self.timeout)

    @property
    def first_incarnation(self) -> int:
        """The number of the incarnation that `build()` makes."""
        return self.number

    def format(self, record: binding.EdgeRecord, reach: frozenset[int]) -> None:
        """Writes the edge's settings and its sender's reach into its record, for the C core."""
        record.format(
            sender=self.sender,
            receiver=self.receiver,
            local=self.local,
            policy=binding.POLICIES[self.policy],
            capacity=self.capacity,
            borrow_cap=self.borrow_cap,
            timeout_ns=binding.FOREVER if self.timeout is None else int(min(self.timeout * 1e9, binding.FOREVER - 1)),
            reach=reach,
        )

    def without_transmitter(self) -> EdgePlan:
        """A copy that pickles, as a transmitter need not. `Plan.restore_transmitter` gives it its own again."""
        return replace(self, transmitter=SharedMemoryTransmitter())


Streams = dict[int, dict[int, int]]  # see `RoutinePlan.restores`


@dataclass(slots=True)
class RoutinePlan:
    """One routine: its edges, and what its process needs to know to run it.

    Attributes:
        reach: numbers of the routines whose frames it may forward by reference.
        batch: the most messages that it takes in one call; 0 when it takes them one by one.
        depth: messages of one wire that may wait for partners from others; 0 when it has no join.
        slots: payload slots that its ring should have; 0 when it sends nothing.
        ordered: the name of the ordered flow that it is in a replica of; empty where it is in none.
        lanes: of such a replica: for each sender to the flow, by `origin`, the edge from it to this replica.
        restores: the flows whose order it restores, by name: for each sender to the flow the edge to each replica, by the edge
            on which that replica's results come.
        joined: the routines whose messages it joins, in the order of its wires at `build()`.
        generation: counts the routines that had this number, from 1.
    """

    number: int
    routine: Routine
    flow: str
    role: Role
    logic: Callable[..., Any]
    ins: list[EdgePlan] = field(default_factory=list)
    outs: list[EdgePlan] = field(default_factory=list)
    batch: int = 0
    depth: int = 0
    reach: frozenset[int] = frozenset()
    slots: int = 0
    ordered: str = ""
    lanes: dict[int, int] = field(default_factory=dict)
    restores: dict[str, Streams] = field(default_factory=dict)
    joined: tuple[int, ...] = ()
    generation: int = 1

    @property
    def name(self) -> str:
        """The routine's name."""
        return self.routine.name

    @property
    def origin(self) -> int:
        """The number that its messages carry. Another routine that gets the same `number` later has another one."""
        return self.generation << NUMBER_BITS | self.number

    @property
    def gathered(self) -> int:
        """The most messages of one wire that are gathered before the routine gets them."""
        return self.batch or (self.depth + 1 if self.depth else 0)

    @property
    def leaves_flow(self) -> bool:
        """Whether a wire leads from it to another flow."""
        return any(not edge.local for edge in self.outs)

    @property
    def message_slots(self) -> int:
        """Slots for messages that its ring should have; 0 when no wire leaves the flow."""
        remote = [edge for edge in self.outs if not edge.local]
        return min(binding.MOST_SLOTS, sum(edge.capacity + 1 + IN_PASSING for edge in remote) + 1) if remote else 0


def names_of(items: Iterable[RoutinePlan]) -> Names:
    """The names of routines, by number, and by the number that their messages carry."""
    return Names({number: item.name for item in items for number in (item.number, item.origin)})


@dataclass(frozen=True, slots=True)
class Restart:
    """The restart policy of a flow.

    Attributes:
        policy: `on-failure` (restart unless it exited with status 0), `always`, or `never`.
        limit: restarts within `window` after which the flow has failed for good.
        window: seconds.
    """

    policy: RestartPolicy = "on-failure"
    limit: int = 5
    window: float = 60.0

    def __post_init__(self) -> None:
        check_choice("restart policy", self.policy, RESTART_POLICIES)
        check_count("max_restarts", self.limit, least=0)
        if not (is_number(self.window) and self.window > 0):
            raise ValueError(f"restart_window must be a number of seconds, more than 0, not {shown(self.window)}")
        object.__setattr__(self, "limit", int(self.limit))  # plain numbers: they cross to other processes
        object.__setattr__(self, "window", float(self.window))

    def wanted(self, exit_code: int) -> bool:
        """Whether a flow that ended like this is to be restarted."""
        return self.policy == "always" or (self.policy == "on-failure" and exit_code != 0)


class Defaults(Frozen):
    """A pipe's settings for wires that give none."""

    policy: Policy
    capacity: int
    timeout: float | None
    transmitter: DataTransmitter

    @property
    def queue(self) -> QueueSettings:
        """The settings of a queue whose wire gives none."""
        return QueueSettings(self.policy, self.capacity, self.timeout)


@dataclass(slots=True)
class Plan:
    """The whole graph, routines in the order of their flows.

    Attributes:
        edges: by number; an unlinked edge keeps its number until another one needs it.
        flow_numbers: the number of each flow's record, by the flow's name.
        leaving: in the launcher: routines that were removed, and whose numbers are not free yet.
        past: the names of routines that were removed, by the number that their messages carry.
        replicas: the names of the replicas, by the name that they share: of each flow that has some, and of its routines.
        memory_budget: bytes that rings may take; None: half of what is free in /dev/shm.
        transmitters: those that wires have for themselves, by number, from 1 on in the order in which they were given.
        known: how many of these the process of each flow knows: those that were there when what forks it was forked.
    """

    flows: dict[str, list[RoutinePlan]]
    routines: Numbered[RoutinePlan]
    edges: Numbered[EdgePlan]
    defaults: Defaults
    replicas: dict[str, tuple[str, ...]] = field(default_factory=dict)
    restarts: dict[str, Restart] = field(default_factory=dict)
    processes: dict[str, ProcessSettings] = field(default_factory=dict)
    auto_pacing: bool = False
    memory_budget: int | None = None
    flow_numbers: dict[str, int] = field(default_factory=dict)
    leaving: Numbered[RoutinePlan] = field(default_factory=Numbered)
    past: dict[int, str] = field(default_factory=dict)
    transmitters: dict[int, DataTransmitter] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.flow_numbers = self.flow_numbers or {name: number for number, name in enumerate(self.flows)}

    def copy(self) -> Plan:
        """Another one with the same routines and edges, and with tables of its own."""
        return replace(
            self,
            flows=dict(self.flows),
            routines=self.routines.copy(),
            edges=self.edges.copy(),
            replicas=dict(self.replicas),
            restarts=dict(self.restarts),
            processes=dict(self.processes),
            flow_numbers=dict(self.flow_numbers),
            leaving=self.leaving.copy(),
            past=dict(self.past),
            transmitters=dict(self.transmitters),
            known=dict(self.known),
        )

    @property
    def names(self) -> Names:
        """The routines' names, by number, and by the number that their messages carry."""
        names = Names(self.past)
        names.past = tuple(self.past)
        names.update(names_of((*self.leaving, *self.routines)))
        return names

    @property
    def present(self) -> list[str]:
        """The names of the routines that are in the pipe."""
        return [item.name for item in self.routines]

    def name_of(self, number: int) -> str:
        """The name of the routine that has this number."""
        item = self.routines.get(number) or self.leaving.get(number)
        return f"routine {number}" if item is None else item.name

    def directory(self) -> tuple[list[str], list[Member | None]]:
        """The names of the flows, and the entries of the routines in the control segment's listing; both by number.

        A number that no flow has gives an empty name, and one that no routine has gives None.
        """
        flows = [""] * (max(self.flow_numbers.values(), default=-1) + 1)
        for name, number in self.flow_numbers.items():
            flows[number] = name
        members: list[Member | None] = [None] * (max(self.routines.numbers(), default=-1) + 1)
        for item in self.routines:
            members[item.number] = Member(item.name, self.flow_numbers[item.flow], item.routine.counter_names)
        return flows, members

    def dismiss(self, flows: Collection[str]) -> None:
        """Takes flows out. Their routines are leaving then; `release` has to follow for each."""
        for name in flows:
            for item in self.flows.pop(name):
                del self.routines[item.number]
                self.leaving[item.number] = item
                self.remember(item)
            del self.restarts[name], self.processes[name], self.flow_numbers[name]
            self.known.pop(name, None)
        present = {*self.flows, *self.present}
        self.replicas = {name: those for name, those in self.replicas.items() if not present.isdisjoint(those)}

    def release(self, item: RoutinePlan) -> None:
        """Nothing is left of a routine that was leaving: another one may have its number."""
        del self.leaving[item.number]
        for other in self.routines:
            other.reach -= {item.number}

    def remember(self, item: RoutinePlan) -> None:
        """Keeps the name of a routine that is removed, for messages of it that are still on their way."""
        self.past[item.origin] = item.name
        for origin in list(self.past)[:-MOST_PAST]:
            del self.past[origin]

    def find(self, name: str) -> RoutinePlan | None:
        """The routine of this name; None when there is none."""
        return next((plan for plan in self.routines if plan.routine.name == name), None)

    def get(self, name: str) -> RoutinePlan:
        """The routine of this name.

        :raises WiresValidation: when there is no such routine.
        """
        item = self.find(name)
        if item is None:
            raise WiresValidation(f"there is no routine {name!r}")
        return item

    def restore_transmitter(self, edge: EdgePlan) -> EdgePlan:
        """An edge that the launcher sent without its transmitter, with it again."""
        return replace(edge, transmitter=self.transmitters.get(edge.own_transmitter, self.defaults.transmitter))

    def number_transmitter(self, transmitter: DataTransmitter | None) -> int:
        """The number of a wire's own transmitter, which is new if no wire had it before; 0 where it has none."""
        if transmitter is None:
            return 0
        known = (number for number, other in self.transmitters.items() if other is transmitter)
        number = next(known, len(self.transmitters) + 1)
        self.transmitters[number] = transmitter
        return number
