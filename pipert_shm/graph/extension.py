"""Plans what a later `build()` adds to a running pipe. The launcher then adds all of it or nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, NoReturn

from pipert_shm.errors import PipertError, UniqueRoutineName, WiresValidation
from pipert_shm.events import Audience
from pipert_shm.frozen import Frozen
from pipert_shm.graph.checks import check_names
from pipert_shm.graph.model import Defaults, EdgePlan, Plan, Restart, RoutinePlan
from pipert_shm.graph.numbered import Numbered
from pipert_shm.graph.plan import audience_of, plan_edge, plan_routine
from pipert_shm.graph.process_settings import ProcessSettings
from pipert_shm.graph.sizing import plan_batches
from pipert_shm.join import Join
from pipert_shm.limits import Policy
from pipert_shm.routine import Role, Routine
from pipert_shm.wire import Wire


class StandIn(Routine):
    """Stands in the launcher for a routine that only the fork server holds; it has all that the launcher asks for."""

    def __init__(
        self,
        name: str,
        flow_name: str | None,
        role: Role | None,
        joins: bool,
        hang_timeout: float | None,
        output_bytes: int | None,
    ) -> None:
        super().__init__(name)
        self.flow_name = flow_name
        vars(self)["role"] = role
        self.join = Join() if joins else None  # the launcher needs to know only that it joins
        self.hang_timeout = hang_timeout
        self._output_bytes = output_bytes

    @classmethod
    def of(cls, routine: Routine) -> StandIn:
        """The stand-in of a routine. It holds nothing of the user's own."""
        timeout = None if routine.hang_timeout is None else float(routine.hang_timeout)
        return cls(routine.name, routine.flow_name, routine.role, routine.join is not None, timeout, routine._output_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.name, self.flow_name, self.role, self.join is not None, self.hang_timeout, self._output_bytes)
        return StandIn, arguments


def never(*_: Any) -> NoReturn:
    """Stands for a routine's `main_logic` where there is none."""
    raise AssertionError("this process does not hold the routine")


class NewWire(Frozen):
    """A wire for a running pipe: the names of its ends, and its settings.

    Where a setting is None, the wire has that of an earlier wire between the two, else the pipe's.

    Attributes:
        is_whole: a `max_age` of None means none, and not that of an earlier wire.
        own_transmitter: it has one that both of its ends know of.
    """

    sender: str
    receiver: str
    policy: Policy | None
    capacity: int | None
    timeout: float | None
    max_age: float | None = None
    own_transmitter: bool = False
    is_whole: bool = False


class Growth(Frozen):
    """What a later build adds to a pipe, as the launcher gets it.

    Attributes:
        numbers: of the new flows' records.
        audience: that of the whole pipe with the new routines.
    """

    flows: dict[str, list[RoutinePlan]]
    numbers: dict[str, int]
    restarts: dict[str, Restart]
    processes: dict[str, ProcessSettings]
    wires: list[NewWire]
    audience: Audience


def plan_growth(
    plan: Plan,
    flows: Mapping[str, Sequence[Routine]],
    wires: Iterable[Wire],
    restarts: Mapping[str, Restart],
    processes: Mapping[str, ProcessSettings],
    free: Iterable[tuple[int, int]],
) -> tuple[Plan, Audience, Growth]:
    """The plan and the audience as they will be, and what the launcher has to add.

    The wires may have been changed by events since the build. Only the launcher knows those, so it checks the rest.

    :param free: numbers for the new routines, each with the generation of the routine that gets it.
    :raises WiresValidation, RoutineError, PipertError: when a routine, a name or a wire does not fit.
    """
    _check_names(plan, flows)
    present = {flow: [item.routine for item in items] for flow, items in plan.flows.items()}
    flow_of = check_names({**present, **flows})
    numbers = {id(item.routine): item.number for item in plan.routines}
    generations = {}
    added = (routine for routines in flows.values() for routine in routines)
    for routine, (number, generation) in zip(added, free, strict=False):
        numbers[id(routine)], generations[number] = number, generation
    edges, routines = plan.edges.copy(), plan.routines.copy()
    new_edges = [
        _add_edge(edges, numbers, generations.keys(), wire, plan.defaults, pair, local=len({flow_of[id(r)] for r in pair}) == 1)
        for wire in wires
        for pair in _pairs(plan, wire, flow_of)
    ]
    new = {flow: [plan_routine(numbers[id(r)], r, flow, edges) for r in members] for flow, members in flows.items()}
    for item in (item for items in new.values() for item in items):
        item.generation = generations[item.number]
        routines[item.number] = item
    flow_numbers = _flow_numbers(plan, flows)
    grown = replace(
        plan,
        flows={**plan.flows, **new},
        routines=routines,
        edges=edges,
        restarts={**plan.restarts, **restarts},
        processes={**plan.processes, **processes},
        flow_numbers={**plan.flow_numbers, **flow_numbers},
    )
    plan_batches(grown, new_edges)
    audience = audience_of(grown)
    changes = _strangers(new), flow_numbers, dict(restarts), dict(processes), _new_wires(grown, new_edges)
    return grown, audience, Growth(*changes, audience.picklable())


def _add_edge(
    edges: Numbered[EdgePlan],
    numbers: Mapping[int, int],
    new: Collection[int],
    wire: Wire,
    defaults: Defaults,
    pair: tuple[Routine, Routine],
    *,
    local: bool,
) -> EdgePlan:
    """Adds the edge of a wire between two routines.

    :param numbers: of all routines, by their `id()`.
    :param new: those of the new routines.
    :raises WiresValidation: when the wire has a transmitter, and one of the routines runs already.
    """
    ends = numbers[id(pair[0])], numbers[id(pair[1])]
    if wire.data_transmitter is not None and not (ends[0] in new and ends[1] in new):
        raise WiresValidation(f"{wire!r}: routines that run already know no transmitter but the pipe's")
    edge = plan_edge(edges.free(), ends, wire, defaults, local=local)
    edge.own_transmitter = wire.data_transmitter is not None
    edges[edge.number] = edge
    return edge


def _flow_numbers(plan: Plan, flows: Iterable[str]) -> dict[str, int]:
    """The least numbers that no flow has, for the new ones."""
    taken = set(plan.flow_numbers.values())
    return dict(zip(flows, (number for number in count() if number not in taken), strict=False))


def _check_names(plan: Plan, flows: Mapping[str, Sequence[Routine]]) -> None:
    """:raises PipertError: when a new flow has a name of the running pipe, or a routine that of replicas there."""
    for name, routines in flows.items():
        if name in plan.flows:
            raise PipertError(f"there is a flow {name!r} already")
        for routine in routines:
            if routine.name in plan.replicas:
                raise UniqueRoutineName(routine.name, "there is one of this name, with replicas; give each its own")


def _strangers(new: dict[str, list[RoutinePlan]]) -> dict[str, list[RoutinePlan]]:
    """The new routines as the launcher gets them: stand-ins, with no edges yet."""
    return {
        flow: [replace(item, routine=StandIn.of(item.routine), logic=never, ins=[], outs=[]) for item in items]
        for flow, items in new.items()
    }


def _new_wires(grown: Plan, edges: list[EdgePlan]) -> list[NewWire]:
    name_of = grown.name_of
    return [
        NewWire(name_of(e.sender), name_of(e.receiver), e.policy, e.capacity, e.timeout, e.max_age, e.own_transmitter, True)
        for e in edges
    ]


def _pairs(plan: Plan, wire: Wire, flow_of: dict[int, str]) -> list[tuple[Routine, Routine]]:
    """The routines that a wire connects; of a sender with replicas, each one."""
    for routine in (wire.source, *wire.destinations):
        if id(routine) not in flow_of and (routine.flow_name is None or routine.name not in plan.replicas):
            raise WiresValidation(f"{wire!r}: routine {routine.name!r} is in no flow of this pipe")
    for destination in wire.destinations:
        if id(destination) not in flow_of:
            raise WiresValidation(f"{wire!r}: routine {destination.name!r} has replicas, and can't be wired to while it runs")
    sources = [wire.source]
    if id(wire.source) not in flow_of:
        sources = [item.routine for item in plan.routines if item.routine.name in plan.replicas[wire.source.name]]
    return [(source, destination) for source in sources for destination in wire.destinations]
