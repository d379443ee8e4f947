"""Plans what a later `build()` adds to a running pipe. The launcher then adds all of it or nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, NoReturn

from pipert_shm.errors import PipertError, UniqueRoutineName, WiresValidation
from pipert_shm.events import Audience
from pipert_shm.frozen import Frozen
from pipert_shm.graph.blueprint import FlowSpec
from pipert_shm.graph.checks import check_names
from pipert_shm.graph.model import EdgePlan, Plan, Restart, RoutinePlan
from pipert_shm.graph.plan import audience_of, check_pairs, plan_edge, plan_routine
from pipert_shm.graph.process_settings import ProcessSettings
from pipert_shm.graph.replicas import Members, Spread, mark_order, replicate, spread
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
        own_transmitter: the number of its own transmitter, which both of its ends know; 0: it has the pipe's.
        spread, ticketed, ordered: as of `EdgePlan`.
        is_whole: it has nothing of an earlier wire between the two.
    """

    sender: str
    receiver: str
    policy: Policy | None
    capacity: int | None
    timeout: float | None
    max_age: float | None = None
    own_transmitter: int = 0
    spread: str | None = None
    ticketed: bool = False
    ordered: bool = False
    is_whole: bool = False


class Growth(Frozen):
    """What a later build adds to a pipe, as the launcher gets it.

    Attributes:
        numbers: of the new flows' records.
        replicas: the names of the new replicas, by the name that they share.
        audience: that of the whole pipe with the new routines.
    """

    flows: dict[str, list[RoutinePlan]]
    numbers: dict[str, int]
    restarts: dict[str, Restart]
    processes: dict[str, ProcessSettings]
    replicas: dict[str, tuple[str, ...]]
    wires: list[NewWire]
    audience: Audience


def plan_growth(
    plan: Plan,
    built: Mapping[str, FlowSpec],
    flows: Mapping[str, FlowSpec],
    wires: Iterable[Wire],
    free: Iterable[tuple[int, int]],
) -> tuple[Plan, Audience, Growth]:
    """The plan and the audience as they will be, and what the launcher has to add.

    The wires may have been changed by events since the build. Only the launcher knows those, so it checks the rest.

    :param built: the flows of the plan.
    :param flows: those that are added.
    :param free: numbers for the new routines, each with the generation of the routine that gets it.
    :raises WiresValidation, RoutineError, PipertError: when a routine, a name or a wire does not fit.
    """
    specs = {**built, **flows}
    flow_of = check_names({name: spec.routines for name, spec in specs.items()})
    pairs = check_pairs(wires, flow_of)
    counts, receiving = {name: spec.replicas for name, spec in flows.items()}, {id(destination) for _, destination, _ in pairs}
    added, members, names = replicate({name: spec.routines for name, spec in flows.items()}, counts, receiving)
    _check_names(plan, added)
    grown = plan.copy()
    grown.replicas |= names
    new_edges = _add(grown, added, spread(pairs, members | _running(plan, built), flow_of), free)
    for flow, spec in flows.items():
        for one in names.get(flow, (flow,)):
            grown.restarts[one], grown.processes[one] = spec.restart, spec.process
    for flow in (name for name, spec in specs.items() if spec.ordered):
        mark_order(grown, flow, is_new=flow in flows)
    plan_batches(grown, new_edges)
    audience = audience_of(grown)
    growth = Growth(
        {flow: [stranger(item) for item in grown.flows[flow]] for flow in added},
        {flow: grown.flow_numbers[flow] for flow in added},
        {flow: grown.restarts[flow] for flow in added},
        {flow: grown.processes[flow] for flow in added},
        names,
        _new_wires(grown, new_edges),
        audience.picklable(),
    )
    return grown, audience, growth


def _add(
    grown: Plan, added: Mapping[str, Sequence[Routine]], wired: Iterable[Spread], free: Iterable[tuple[int, int]]
) -> list[EdgePlan]:
    """Adds flows and wires to a plan; the edges of the wires."""
    flow_of = check_names({**{flow: [item.routine for item in items] for flow, items in grown.flows.items()}, **added})
    numbers = {id(item.routine): item.number for item in grown.routines}
    generations = {}
    for routine, (number, generation) in zip((r for routines in added.values() for r in routines), free, strict=False):
        numbers[id(routine)], generations[number] = number, generation
    edges = [
        _add_edge(grown, numbers, generations.keys(), each, local=flow_of[id(each[0])] == flow_of[id(each[1])])
        for each in wired
    ]
    taken = set(grown.flow_numbers.values())
    grown.flow_numbers.update(zip(added, (number for number in count() if number not in taken), strict=False))
    for flow, routines in added.items():
        grown.flows[flow] = [plan_routine(numbers[id(routine)], routine, flow, grown.edges) for routine in routines]
        grown.known[flow] = len(grown.transmitters)
        for item in grown.flows[flow]:
            item.generation = generations[item.number]
            grown.routines[item.number] = item
    return edges


def _running(plan: Plan, built: Mapping[str, FlowSpec]) -> Members:
    """The routines that run, by the `id()` of those that they are, or are copies of."""
    by_name = {item.name: item.routine for item in plan.routines}
    of_users = (routine for spec in built.values() for routine in spec.routines)
    return {id(routine): [by_name[name] for name in plan.replicas.get(routine.name, (routine.name,))] for routine in of_users}


def _add_edge(grown: Plan, numbers: Mapping[int, int], new: Collection[int], wired: Spread, *, local: bool) -> EdgePlan:
    """Adds the edge of a wire between two routines.

    :param numbers: of all routines, by their `id()`.
    :param new: those of the new routines.
    :raises WiresValidation: when the wire has a transmitter that one of the routines, which runs already, does not know.
    """
    source, destination, wire, shared = wired
    ends = numbers[id(source)], numbers[id(destination)]
    transmitter = grown.number_transmitter(wire.data_transmitter)
    for number in ends:
        if number not in new and grown.known.get(grown.routines[number].flow, 0) < transmitter:
            raise WiresValidation(f"{wire!r}: routines that run already know no transmitter but the pipe's")
    edge = plan_edge(grown.edges.free(), ends, wire, grown.defaults, local=local, spread=shared)
    edge.own_transmitter = transmitter
    grown.edges[edge.number] = edge
    return edge


def _check_names(plan: Plan, flows: Mapping[str, Sequence[Routine]]) -> None:
    """:raises PipertError: when a new flow has a name of the running pipe, or a routine that of replicas there."""
    for name, routines in flows.items():
        if name in plan.flows:
            raise PipertError(f"there is a flow {name!r} already")
        for routine in routines:
            if routine.name in plan.replicas:
                raise UniqueRoutineName(routine.name, "there is one of this name, with replicas; give each its own")


def stranger(item: RoutinePlan) -> RoutinePlan:
    """A routine as the launcher gets it: a stand-in, with no edges."""
    return replace(item, routine=StandIn.of(item.routine), logic=never, ins=[], outs=[])


def _new_wires(grown: Plan, edges: list[EdgePlan]) -> list[NewWire]:
    return [
        NewWire(
            grown.name_of(edge.sender),
            grown.name_of(edge.receiver),
            *edge.queue,
            max_age=edge.max_age,
            own_transmitter=edge.own_transmitter,
            spread=edge.spread,
            ticketed=edge.ticketed,
            ordered=edge.ordered,
            is_whole=True,
        )
        for edge in edges
    ]
