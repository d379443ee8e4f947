"""What a later `build()` adds to a running pipe: planned in the parent, taken in by the launcher as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from pipert_shm.errors import PipertError, SharedMemoryFull, UniqueRoutineName, WiresValidation
from pipert_shm.events import Audience
from pipert_shm.incarnations import Incarnations
from pipert_shm.links import Links
from pipert_shm.memory import ControlSegment, create_ring
from pipert_shm.plan import EdgePlan, Plan, Restart, RoutinePlan, audience_of, check_names, plan_edge, plan_routine
from pipert_shm.routine import Routine
from pipert_shm.wire import Policy, Wire


class StandIn(Routine):
    """What the launcher has in the place of a routine that only the nursery holds: all that it asks of one."""

    def __init__(self, routine: Routine) -> None:
        super().__init__(routine.name)
        self.flow_name = routine.flow_name
        vars(self).update({name: getattr(routine, name) for name in ("role", "join", "hang_timeout", "_output_bytes")})


def _never(*_: Any) -> NoReturn:
    raise AssertionError("this process does not hold the routine")


@dataclass(frozen=True, slots=True)
class NewWire:
    """A wire of a later build: the names of its ends, and its settings."""

    sender: str
    receiver: str
    policy: Policy
    capacity: int
    timeout: float | None
    max_age: float | None
    own_transmitter: bool


@dataclass(frozen=True, slots=True)
class Growth:
    """What a later build adds to a pipe, as the launcher gets it.

    Attributes:
        audience: of the whole pipe, as it will be.
    """

    flows: dict[str, list[RoutinePlan]]
    restarts: dict[str, Restart]
    wires: list[NewWire]
    audience: Audience


def plan_growth(
    plan: Plan, flows: Mapping[str, Sequence[Routine]], wires: Iterable[Wire], restarts: Mapping[str, Restart]
) -> tuple[Plan, Audience, Growth]:
    """Checks as much as can be without the wires that events have changed since, which the launcher knows.

    :raises WiresValidation, RoutineError, PipertError: when a routine, a name or a wire does not fit.
    """
    for name in flows:
        if name in plan.flows:
            raise PipertError(f"there is a flow {name!r} already")
    for routine in (routine for routines in flows.values() for routine in routines):
        if routine.name in plan.copies:
            raise UniqueRoutineName(routine.name, "there is one of this name, with replicas; give each its own")
    present = {flow: [item.routine for item in items] for flow, items in plan.flows.items()}
    flow_of = check_names({**present, **flows})
    numbers = {id(item.routine): item.number for item in plan.routines}
    for routine in (routine for routines in flows.values() for routine in routines):
        numbers[id(routine)] = len(numbers)
    edges = [*plan.edges]
    for wire in wires:
        for source, destination in _pairs(plan, wire, flow_of):
            ends = numbers[id(source)], numbers[id(destination)]
            if wire.data_transmitter is not None and min(ends) < len(plan.routines):
                raise WiresValidation(f"{wire!r}: routines that run already know no transmitter but the pipe's")
            local = flow_of[id(source)] == flow_of[id(destination)]
            edges.append(plan_edge(len(edges), ends, wire, plan.defaults, local=local))
            edges[-1].own_transmitter = wire.data_transmitter is not None
    new = {flow: [plan_routine(numbers[id(r)], r, flow, edges) for r in routines] for flow, routines in flows.items()}
    grown = replace(
        plan,
        flows={**plan.flows, **new},
        routines=[*plan.routines, *(item for items in new.values() for item in items)],
        edges=edges,
        restarts={**plan.restarts, **restarts},
    )
    audience = audience_of(grown)
    strangers = {
        flow: [replace(item, routine=StandIn(item.routine), logic=_never, ins=[], outs=[]) for item in items]
        for flow, items in new.items()
    }
    names = grown.names
    new_wires = [
        NewWire(names[e.sender], names[e.receiver], e.policy, e.capacity, e.timeout, e.max_age, e.own_transmitter)
        for e in edges[len(plan.edges) :]
    ]
    return grown, audience, Growth(strangers, dict(restarts), new_wires, audience.picklable())


def _pairs(plan: Plan, wire: Wire, flow_of: dict[int, str]) -> list[tuple[Routine, Routine]]:
    """The routines that a wire connects; of a sender with replicas, each one."""
    for routine in (wire.source, *wire.destinations):
        if id(routine) not in flow_of and (routine.flow_name is None or routine.name not in plan.copies):
            raise WiresValidation(f"{wire!r}: routine {routine.name!r} is in no flow of this pipe")
    for destination in wire.destinations:
        if id(destination) not in flow_of:
            raise WiresValidation(f"{wire!r}: routine {destination.name!r} has replicas, and can't be wired to while it runs")
    sources = [wire.source]
    if id(wire.source) not in flow_of:
        sources = [item.routine for item in plan.routines if item.routine.name in plan.copies[wire.source.name]]
    return [(source, destination) for source in sources for destination in wire.destinations]


def take_in(
    growth: Growth,
    plan: Plan,
    links: Links,
    incarnations: Incarnations,
    segment: ControlSegment,
    most_routines: int,
    is_up: Callable[[str], bool],
) -> tuple[list[EdgePlan], dict[int, tuple[int, int]]]:
    """Puts it all into the launcher's plan, or nothing; the new wires, and the rings of routines that declared an output.

    :param most_routines: that there are records for.
    :param is_up: whether a flow that there is has a process.
    :raises ValueError, WiresValidation, SharedMemoryFull, OSError: when it can't be.
    """
    control = segment.process.control
    more = sum(map(len, growth.flows.values()))
    for what, there, added, most in (
        ("flows", len(plan.flows), len(growth.flows), control.flows),
        ("routines", len(plan.routines), more, most_routines),
    ):
        if there + added > most:
            raise WiresValidation(f"the running pipe has {there} {what} and room for {most}; {added} more are too many")
    routines, edges = len(plan.routines), list(plan.edges)
    flows = list(plan.flows)
    plan.flows.update(growth.flows)
    plan.restarts.update(growth.restarts)
    plan.routines += [item for items in growth.flows.values() for item in items]
    _assign_reach(plan, routines, growth.wires)
    new: list[EdgePlan] = []
    rings: dict[int, tuple[int, int]] = {}
    try:
        for wire in growth.wires:
            sender, receiver = plan.get(wire.sender), plan.get(wire.receiver)
            edge = links.link(
                sender,
                receiver,
                wire.policy,
                wire.capacity,
                wire.timeout,
                live=sender.number >= routines or is_up(sender.flow),
                max_age=wire.max_age,
                own_transmitter=wire.own_transmitter,
                joins=receiver.number >= routines,
            )
            new.append(edge)
        for item in plan.routines[routines:]:
            size = item.routine._output_bytes
            if size and item.slots:
                purpose = f"the ring of {item.routine.name!r}"
                rings[item.number] = (create_ring(segment, item.number, item.slots, size, purpose, mapped=False), size)
    except (ValueError, WiresValidation, SharedMemoryFull, OSError):
        for item in plan.routines[routines:]:
            incarnations.retire_rings(item)
        incarnations.remove_retired()
        for edge in reversed(new):
            links.take_back(edge, edges[edge.number] if edge.number < len(edges) else None)
        del plan.routines[routines:]
        for name in [name for name in plan.flows if name not in flows]:
            del plan.flows[name], plan.restarts[name]
        raise
    return new, rings


def _assign_reach(plan: Plan, first: int, wires: list[NewWire]) -> None:
    """Of the routines from number `first` on. Those that were there keep theirs: the bits by it are in use."""
    for item in plan.routines[first:]:
        item.reach = frozenset({item.number})
    for _ in plan.routines[first:]:  # no chain of them is longer
        for wire in wires:
            receiver = plan.get(wire.receiver)
            if receiver.number >= first:
                receiver.reach |= plan.get(wire.sender).reach
