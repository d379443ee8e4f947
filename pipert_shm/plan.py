"""What `build()` decides: roles, edges, holder bits and ring sizes. Pure computation on the graph, nothing is made yet."""

from __future__ import annotations

import copy
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipert_shm import native
from pipert_shm.batches import Flood
from pipert_shm.errors import FloatingRoutine, RoutineError, UniqueRoutineName, WiresValidation, shown
from pipert_shm.events import Audience, handlers_of
from pipert_shm.limits import Policy, check_choice, check_count, is_number
from pipert_shm.routine import BatchRoutine, Role, Routine, logic_of
from pipert_shm.segments import Member
from pipert_shm.transmit import DataTransmitter, SharedMemoryTransmitter
from pipert_shm.wire import Wire

RestartPolicy = Literal["on-failure", "always", "never"]
RESTART_POLICIES: tuple[RestartPolicy, ...] = ("on-failure", "always", "never")

BITS = range(1, 32)
BORROW_CAP = 2
MOST_SLOTS = 0xFFFF  # as many as a descriptor can number
LOANS = 2
TAP_SLOTS = 3  # one tap: a message that waits, one that is read, one in passing
HELD_BACK = 4  # results of one replica that wait for earlier ones of others
IN_PASSING = 2  # held but not pushed, evicted but not dropped


@dataclass(slots=True)
class EdgePlan:
    """One sender to one receiver.

    Attributes:
        spread: what the edges to the replicas of one routine have in common: each message goes to one of them.
        ticketed: it leads to a replica of a flow whose order is restored.
        ordered: it leads from such a one, to where the order is restored.
        own_capacity: whether its wire says how much it holds; else `build()` may make that more.
        per_source: messages of one source that memory is set aside for; 0: for as many as it holds.
        own_transmitter: whether it has the transmitter that these two were wired with by a build, else the pipe's.
        linked: whether the sender sends on it, or will.
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
    spread: int | None = None
    ticketed: bool = False
    ordered: bool = False
    tap: bool = False
    bit: int = 0
    borrow_cap: int = BORROW_CAP
    own_capacity: bool = True
    per_source: int = 0
    own_transmitter: bool = True
    linked: bool = True

    @property
    def first_incarnation(self) -> int:
        """The number of the incarnation that build() makes."""
        return self.number

    def format(self, record: native.EdgeRecord, reach: frozenset[int]) -> None:
        """Writes into the control segment what the C core has to know of it, the reach of its sender included."""
        record.format(
            sender=self.sender,
            receiver=self.receiver,
            local=self.local,
            policy=native.POLICIES[self.policy],
            capacity=self.capacity,
            borrow_cap=self.borrow_cap,
            timeout_ns=native.FOREVER if self.timeout is None else int(min(self.timeout * 1e9, native.FOREVER - 1)),
            reach=reach,
        )

    def without_transmitter(self) -> EdgePlan:
        """For another process: a transmitter need not pickle, and `Plan.restore_transmitter` finds it there."""
        return replace(self, transmitter=SharedMemoryTransmitter())


@dataclass(frozen=True, slots=True)
class Restored:
    """A replicated flow, as it is seen by a routine that puts its results in order.

    Attributes:
        lanes: by sender to the flow: the edge to each replica, by the edge on which that one's results come.
    """

    lanes: dict[int, dict[int, int]]


@dataclass(slots=True)
class RoutinePlan:
    """One routine: its edges, and what its process needs to know to run it.

    Attributes:
        reach: numbers of the routines whose frames it may forward by reference.
        batch: messages that it takes in one call, at the most; 0 when it takes them one by one.
        depth: messages of one wire that may wait for partners from others; 0 when it joins nothing.
        slots: payload slots that its ring should have; 0 when it sends nothing.
        lanes: in a replicated flow whose order is restored: by sender to that flow, the edge from it to this replica.
        restores: the flows whose order is restored here.
        joined: the routines whose messages it joins, in the order of the wires that it was built with.
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
    ordered: bool = False
    lanes: dict[int, int] = field(default_factory=dict)
    restores: list[Restored] = field(default_factory=list)
    joined: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return self.routine.name

    @property
    def gathered(self) -> int:
        """Messages of one wire that the framework holds for it before it hands them over."""
        return self.batch or (self.depth + 1 if self.depth else 0)

    @property
    def message_slots(self) -> int:
        remote = [edge for edge in self.outs if not edge.local]
        return min(MOST_SLOTS, sum(edge.capacity + 1 + IN_PASSING for edge in remote) + 1) if remote else 0


@dataclass(frozen=True, slots=True)
class Restart:
    """What becomes of a flow that dies.

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


@dataclass(frozen=True, slots=True)
class Defaults:
    """A pipe's settings for wires that don't say."""

    policy: Policy
    capacity: int
    timeout: float | None
    transmitter: DataTransmitter


@dataclass(slots=True)
class Plan:
    """The whole graph, routines in the order of their flows.

    Attributes:
        edges: by number; those that were unlinked keep theirs until it is needed.
        copies: of the flows that have replicas, and of their routines: the names of the replicas, by the name that they share.
    """

    flows: dict[str, list[RoutinePlan]]
    routines: list[RoutinePlan]
    edges: list[EdgePlan]
    defaults: Defaults
    copies: dict[str, tuple[str, ...]] = field(default_factory=dict)
    restarts: dict[str, Restart] = field(default_factory=dict)
    auto_pacing: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(plan.routine.name for plan in self.routines)

    def directory(self) -> tuple[list[str], list[Member]]:
        """The names of the flows, and what is said of the routines to those who read the control segment; by number."""
        flows = list(self.flows)
        return flows, [Member(item.routine.name, flows.index(item.flow), item.routine.counter_names) for item in self.routines]

    def find(self, name: str) -> RoutinePlan | None:
        return next((plan for plan in self.routines if plan.routine.name == name), None)

    def get(self, name: str) -> RoutinePlan:
        """:raises WiresValidation: when there is no such routine."""
        item = self.find(name)
        if item is None:
            raise WiresValidation(f"there is no routine {name!r}")
        return item

    def restore_transmitter(self, edge: EdgePlan) -> EdgePlan:
        """An edge as the launcher sent it, with its transmitter again."""
        ends = edge.sender, edge.receiver
        own = (other.transmitter for other in self.edges if edge.own_transmitter and (other.sender, other.receiver) == ends)
        return replace(edge, transmitter=next(own, self.defaults.transmitter))


def make_plan(
    flows: dict[str, Sequence[Routine]],
    wires: Iterable[Wire],
    defaults: Defaults,
    replicas: Mapping[str, int] | None = None,
    ordered: Iterable[str] = (),
) -> Plan:
    """Checks the graph and plans it.

    :param replicas: how many processes run a flow, by its name, where it is not one.
    :param ordered: the flows after which the order is restored.
    :raises UniqueRoutineName, FloatingRoutine, RoutineError: for a routine that does not fit.
    :raises WiresValidation: for wires that don't.
    """
    pairs = _pairs(wires, check_names(flows))
    flows, spread_pairs, copies = _replicate(flows, pairs, replicas or {})
    flow_of = check_names(flows)
    order = _topological([routine for routines in flows.values() for routine in routines], [pair[:2] for pair in spread_pairs])

    numbers = {id(routine): number for number, routine in enumerate(r for rs in flows.values() for r in rs)}
    edges = []
    for number, (source, destination, wire, spread) in enumerate(spread_pairs):
        local = flow_of[id(source)] == flow_of[id(destination)]
        edges.append(
            plan_edge(number, (numbers[id(source)], numbers[id(destination)]), wire, defaults, local=local, spread=spread)
        )
    planned_flows = {}
    for flow, routines in flows.items():
        planned_flows[flow] = [plan_routine(numbers[id(routine)], routine, flow, edges) for routine in routines]
    routines_planned = [plan for plans in planned_flows.values() for plan in plans]
    plan = Plan(planned_flows, routines_planned, edges, defaults, copies)
    for flow in ordered:
        _order(plan, flow)
    plan_batches(plan, edges)
    _assign_reach(plan, [numbers[id(routine)] for routine in order])
    _assign_bits(plan)
    assign_slots(plan)
    return plan


def audience_of(plan: Plan) -> Audience:
    """Who can be addressed by events."""
    handlers = {}
    for item in plan.routines:
        handlers[item.routine.name] = {
            event: tuple(inspect.signature(getattr(item.routine, method)) for method in methods)
            for event, methods in handlers_of(type(item.routine)).items()
        }
    return Audience(
        {flow: tuple(p.routine.name for p in plans) for flow, plans in plan.flows.items()},
        handlers,
        plan.copies,
    )


# ---- checks --------------------------------------------------------------------------------------


def check_names(flows: dict[str, Sequence[Routine]]) -> dict[int, str]:
    seen: dict[str, str] = {}
    flow_of = {}
    for flow, routines in flows.items():
        for routine in routines:
            if routine.name in seen:
                raise UniqueRoutineName(
                    routine.name, f"there are two of this name (flows {seen[routine.name]!r} and {flow!r}); give each its own"
                )
            seen[routine.name] = flow
            flow_of[id(routine)] = flow
    return flow_of


def _pairs(wires: Iterable[Wire], flow_of: dict[int, str]) -> list[tuple[Routine, Routine, Wire]]:
    pairs = []
    seen: set[tuple[int, int]] = set()
    for wire in wires:
        for destination in wire.destinations:
            for routine in (wire.source, destination):
                if id(routine) not in flow_of:
                    raise WiresValidation(f"{wire!r}: routine {routine.name!r} is in no flow of this pipe")
            pair = (id(wire.source), id(destination))
            if pair in seen:
                raise WiresValidation(f"{wire.source.name!r} is wired to {destination.name!r} twice")
            seen.add(pair)
            pairs.append((wire.source, destination, wire))
    return pairs


def _replicate(
    flows: Mapping[str, Sequence[Routine]], pairs: list[tuple[Routine, Routine, Wire]], replicas: Mapping[str, int]
) -> tuple[dict[str, Sequence[Routine]], list[tuple[Routine, Routine, Wire, int | None]], dict[str, tuple[str, ...]]]:
    """Puts the replicas in the place of each flow that has some; what is wired to one of its routines, to one of each.

    :raises RoutineError: for a source in such a flow.
    """
    all_flows: dict[str, Sequence[Routine]] = {}
    flow_of: dict[int, str] = {}
    members: dict[int, list[Routine]] = {}
    copies: dict[str, tuple[str, ...]] = {}
    receiving = {id(destination) for _, destination, _ in pairs}
    for flow, routines in flows.items():
        count = replicas.get(flow, 1)
        for routine in routines:
            flow_of[id(routine)] = flow
            if count > 1 and id(routine) not in receiving:
                raise RoutineError(routine.name, f"there would be {count} of it: a source can't have replicas")
            if count > 1 and not routine.replicable:
                raise RoutineError(
                    routine.name,
                    f"there would be {count} of it, and each would see a part of a camera's frames, but a "
                    f"{type(routine).__name__} needs them all, one after the other: put it in a flow without replicas",
                )
            members[id(routine)] = [_copy(routine, number) for number in range(count)] if count > 1 else [routine]
            if count > 1:
                copies[routine.name] = tuple(member.name for member in members[id(routine)])
        if count == 1:
            all_flows[flow] = routines
            continue
        copies[flow] = tuple(f"{flow}#{number}" for number in range(count))
        for number, name in enumerate(copies[flow]):
            all_flows[name] = [members[id(routine)][number] for routine in routines]
            for routine in all_flows[name]:
                routine.flow_name = name
    spread_pairs: list[tuple[Routine, Routine, Wire, int | None]] = []
    for source, destination, wire in pairs:
        sources, destinations = members[id(source)], members[id(destination)]
        if flow_of[id(source)] == flow_of[id(destination)]:
            spread_pairs += [(one, other, wire, None) for one, other in zip(sources, destinations, strict=True)]
            continue
        for one in sources:
            spread = len(spread_pairs) if len(destinations) > 1 else None
            spread_pairs += [(one, other, wire, spread) for other in destinations]
    return all_flows, spread_pairs, copies


def _order(plan: Plan, flow: str) -> None:
    """Marks what takes part in the restoring of the order after a flow.

    :raises WiresValidation: when the flow is not a chain of routines with one way in and one way out.
    """
    after: dict[int, Restored] = {}
    for name in plan.copies.get(flow, ()):
        members = plan.flows[name]
        entries = [item for item in members if any(not edge.local for edge in item.ins)]
        exits = [item for item in members if any(not edge.local for edge in item.outs)]
        chained = all(len(item.ins) == 1 for item in members if item not in entries) and all(
            len(item.outs) == 1 for item in members if item not in exits
        )
        ends = (*(item.ins for item in entries), *(item.outs for item in exits))
        if not chained or len(entries) != 1 or len(exits) != 1 or any(edge.local for edges in ends for edge in edges):
            raise WiresValidation(
                f"flow {flow!r} is ordered: its routines have to be a chain, with wires from outside to the first and from the "
                f"last to outside only"
            )
        for edge in entries[0].ins:
            edge.ticketed = True
            for item in members:
                item.ordered = True
                item.lanes[edge.sender] = edge.number
        for edge in exits[0].outs:
            edge.ordered = True
            restored = after.setdefault(edge.receiver, Restored({}))
            for sender, lane in exits[0].lanes.items():
                restored.lanes.setdefault(sender, {})[edge.number] = lane
    for number, restored in after.items():
        receiver = plan.routines[number]
        if any(receiver.routine.name in names for names in plan.copies.values()):
            raise WiresValidation(f"flow {flow!r} is ordered: what it sends to can't have replicas itself")
        receiver.restores.append(restored)


def _copy(routine: Routine, number: int) -> Routine:
    replica = copy.copy(routine)
    replica.name = f"{routine.name}#{number}"
    replica._logger = logging.getLogger(f"{routine._logger.name}#{number}")
    return replica


def _topological(routines: list[Routine], pairs: list[tuple[Routine, Routine]]) -> list[Routine]:
    """Senders before receivers.

    :raises WiresValidation: when there is a cycle; it names one.
    """
    following: dict[int, list[Routine]] = {id(routine): [] for routine in routines}
    for source, destination in pairs:
        following[id(source)].append(destination)
    order: list[Routine] = []
    state: dict[int, str] = {}
    path: list[Routine] = []

    def visit(routine: Routine) -> None:
        if state.get(id(routine)) == "done":
            return
        if state.get(id(routine)) == "open":
            start = next(i for i, other in enumerate(path) if other is routine)
            names = " -> ".join(repr(other.name) for other in [*path[start:], routine])
            raise WiresValidation(f"the wires make a cycle: {names}")
        state[id(routine)] = "open"
        path.append(routine)
        for other in following[id(routine)]:
            visit(other)
        path.pop()
        state[id(routine)] = "done"
        order.append(routine)

    for routine in routines:
        visit(routine)
    return order[::-1]


def plan_edge(
    number: int, ends: tuple[int, int], wire: Wire, defaults: Defaults, *, local: bool, spread: int | None = None
) -> EdgePlan:
    """The edge from one routine to another, by their numbers, that a wire makes."""
    return EdgePlan(
        number=number,
        sender=ends[0],
        receiver=ends[1],
        policy=wire.policy or defaults.policy,
        capacity=wire.capacity or defaults.capacity,
        timeout=wire.timeout if wire.timeout is not None or wire.policy is not None else defaults.timeout,
        transmitter=wire.data_transmitter or defaults.transmitter,
        local=local,
        max_age=wire.max_age,
        spread=spread,
        own_capacity=wire.capacity is not None,
    )


def plan_routine(number: int, routine: Routine, flow: str, edges: list[EdgePlan]) -> RoutinePlan:
    ins = [edge for edge in edges if edge.receiver == number]
    outs = [edge for edge in edges if edge.sender == number]
    if not ins and not outs:
        raise FloatingRoutine(routine.name, f"in flow {flow!r} it is wired to no other routine")
    role = Role.SOURCE if not ins else Role.MIDDLE if outs else Role.DESTINATION
    if routine.role is Role.SOURCE and ins:
        raise RoutineError(routine.name, "a SourceRoutine takes no messages, but a wire leads to it")
    if routine.role is Role.DESTINATION and outs:
        raise RoutineError(routine.name, "a DestinationRoutine sends nothing, but a wire leads from it")
    takes = routine.role in (Role.MIDDLE, Role.DESTINATION) or isinstance(routine, BatchRoutine) or routine.join is not None
    if takes and not ins:
        raise FloatingRoutine(routine.name, f"a {type(routine).__name__} needs a wire that leads to it")
    if routine.join is not None and (len(ins) < 2 or isinstance(routine, BatchRoutine)):
        raise RoutineError(routine.name, "a join is of two wires or more, and not of batches")
    role = routine.role or role
    for name, count, limit in (("receivers", len(outs), native.OUTS), ("senders", len(ins), native.INS)):
        if count > limit:
            raise WiresValidation(f"routine {routine.name!r} has {count} {name}; at most {limit} can be wired to one routine")
    _refuse_unforkable(routine)
    item = RoutinePlan(number, routine, flow, role, logic_of(routine, role), ins, outs)
    if isinstance(routine, BatchRoutine):
        item.batch = routine.batch_size
    if routine.join is not None:
        item.depth, item.joined = routine.join.depth, tuple(edge.sender for edge in ins)
    return item


def plan_batches(plan: Plan, new: Iterable[EdgePlan]) -> None:
    """Makes the new edges hold the batches that come on them, and their receivers' joins wait for them.

    :raises WiresValidation: when one of them can't.
    """
    flood = Flood(plan.routines, [edge for edge in plan.edges if edge.linked])
    edges = list(new)
    for edge in edges:
        flood.widen(edge)
    for receiver in {edge.receiver for edge in edges}:
        flood.deepen(receiver)


def _refuse_unforkable(routine: Routine) -> None:
    """:raises RoutineError: when an attribute can't cross a fork."""
    for name, value in vars(routine).items():
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else (value,)
        for item in (value, *values):
            what = _unforkable(item)
            if what:
                raise RoutineError(
                    routine.name, f"attribute {name!r} holds {what}, which does not survive a fork: open it in setup()"
                )


def _unforkable(value: object) -> str | None:
    if isinstance(value, threading.Thread):
        return "a thread"
    socket = sys.modules.get("socket")
    if socket is not None and isinstance(value, socket.socket):
        return "a socket"
    kind = type(value)
    if kind.__module__.split(".")[0] == "cv2" and kind.__name__ in ("VideoCapture", "VideoWriter") and value.isOpened():  # type: ignore[attr-defined]
        return f"an open cv2.{kind.__name__}"
    if kind.__module__.split(".")[0] == "torch" and getattr(value, "is_cuda", False) is True:
        return "a CUDA tensor"
    return None


# ---- reach, bits, slots --------------------------------------------------------------------------


def _assign_reach(plan: Plan, order: list[int]) -> None:
    for number in order:
        routine = plan.routines[number]
        upstream = [plan.routines[edge.sender].reach for edge in routine.ins]
        routine.reach = frozenset({number}).union(*upstream)


def _assign_bits(plan: Plan) -> None:
    """One holder bit per remote edge: edges whose messages can reach one ring need different ones.

    Where 31 do not suffice, a routine's wires carry copies of what came from upstream, so that they need a bit in its own ring
    only.

    :raises WiresValidation: when not even that is enough.
    """
    for routine in plan.routines:
        remote = [edge for edge in routine.outs if not edge.local]
        if remote and not _take_bits(plan, routine, remote):
            routine.reach = frozenset({routine.number})
            if not _take_bits(plan, routine, remote):
                raise WiresValidation(
                    f"routine {routine.routine.name!r} sends to {len(remote)} routines in other flows; at most {len(BITS)} can "
                    f"hold its frames"
                )


def _take_bits(plan: Plan, routine: RoutinePlan, remote: list[EdgePlan]) -> bool:
    taken = {edge.bit for edge in plan.edges if edge.bit and plan.routines[edge.sender].reach & routine.reach}
    free = [bit for bit in BITS if bit not in taken]
    if len(free) < len(remote):
        return False
    for edge, bit in zip(remote, free, strict=False):
        edge.bit = bit
    return True


def _held_in_flow(plan: Plan, routine: RoutinePlan) -> int:
    """Messages that queues within the flow can hold of what this routine sends or forwards, and the hands behind them."""
    reached: dict[int, EdgePlan] = {}
    following = [routine]
    while following:
        for edge in following.pop().outs:
            if edge.local and edge.number not in reached:
                reached[edge.number] = edge
                following.append(plan.routines[edge.receiver])
    return sum(edge.capacity + max(1, plan.routines[edge.receiver].gathered) for edge in reached.values())


def _queued(edge: EdgePlan, owner: RoutinePlan) -> int:
    """Messages in an edge's queue that may be in the owner's ring."""
    return edge.capacity if owner.ins or not edge.per_source else edge.per_source


def assign_slots(plan: Plan) -> None:
    """Sizes the rings, and each edge's borrow cap: what user code may keep, on top of what the framework itself holds."""
    edges = [edge for edge in plan.edges if edge.linked]
    for edge in edges:
        receiver = plan.routines[edge.receiver]
        edge.borrow_cap = BORROW_CAP + _held_in_flow(plan, receiver) + receiver.gathered
        if edge.ordered:
            edge.borrow_cap += HELD_BACK + 1
    for routine in plan.routines:
        carrying = [edge for edge in edges if routine.number in plan.routines[edge.sender].reach and not edge.local]
        within = [edge for edge in edges if edge.sender == routine.number and edge.local]
        if not carrying and not within:
            continue
        held_by_edges = sum(_queued(edge, routine) + edge.borrow_cap + IN_PASSING for edge in carrying)
        held_in_flow = _held_in_flow(plan, routine) + BORROW_CAP * len(within)
        routine.slots = min(MOST_SLOTS, held_by_edges + held_in_flow + LOANS + TAP_SLOTS + 1)
