"""Plans what `build()` makes: roles, edges, holder bits and ring sizes. It computes, and makes nothing."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence

from pipert_shm import binding
from pipert_shm.errors import FloatingRoutine, RoutineError, WiresValidation
from pipert_shm.events import Audience, handlers_of
from pipert_shm.graph.bits import assign_bits, assign_reach
from pipert_shm.graph.checks import check_names, logic_of, refuse_unforkable, sorted_by_wires
from pipert_shm.graph.model import Defaults, EdgePlan, Plan, RoutinePlan
from pipert_shm.graph.numbered import Numbered
from pipert_shm.graph.replicas import mark_order, replicate, settle_order, spread
from pipert_shm.graph.sizing import assign_slots, plan_batches
from pipert_shm.routine import BatchRoutine, Role, Routine
from pipert_shm.wire import Wire


def make_plan(
    flows: dict[str, Sequence[Routine]],
    wires: Iterable[Wire],
    defaults: Defaults,
    replicas: Mapping[str, int] | None = None,
    ordered: Iterable[str] = (),
) -> Plan:
    """Checks the graph and plans it.

    :param replicas: how many processes run a flow, by its name; 1 where it is not one of them.
    :param ordered: the flows whose results are put in order again.
    :raises UniqueRoutineName, FloatingRoutine, RoutineError: when a routine does not fit.
    :raises WiresValidation: when a wire does not fit.
    """
    flow_of = check_names(flows)
    pairs = check_pairs(wires, flow_of)
    flows, members, names = replicate(flows, replicas or {}, {id(destination) for _, destination, _ in pairs})
    spread_pairs = spread(pairs, members, flow_of)
    flow_of = check_names(flows)
    order = sorted_by_wires(
        [routine for routines in flows.values() for routine in routines], [pair[:2] for pair in spread_pairs]
    )

    numbers = {id(routine): number for number, routine in enumerate(r for rs in flows.values() for r in rs)}
    edges = []
    for number, (source, destination, wire, shared) in enumerate(spread_pairs):
        local = flow_of[id(source)] == flow_of[id(destination)]
        edges.append(
            plan_edge(number, (numbers[id(source)], numbers[id(destination)]), wire, defaults, local=local, spread=shared)
        )
    planned_flows = {}
    for flow, routines in flows.items():
        planned_flows[flow] = [plan_routine(numbers[id(routine)], routine, flow, edges) for routine in routines]
    routines_planned = [plan for plans in planned_flows.values() for plan in plans]
    plan = Plan(planned_flows, Numbered(routines_planned), Numbered(edges), defaults, names)
    for edge, (_, _, wire, _) in zip(edges, spread_pairs, strict=True):
        edge.own_transmitter = plan.number_transmitter(wire.data_transmitter)
    plan.known = dict.fromkeys(planned_flows, len(plan.transmitters))
    for flow in ordered:
        mark_order(plan, flow)
    settle_order(plan)
    plan_batches(plan, edges)
    assign_reach(plan, [numbers[id(routine)] for routine in order])
    assign_bits(plan)
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
        plan.replicas,
    )


def check_pairs(wires: Iterable[Wire], flow_of: dict[int, str]) -> list[tuple[Routine, Routine, Wire]]:
    """The pairs of routines that wires join.

    :param flow_of: the flow of each routine, by its `id()`.
    :raises WiresValidation: when a routine is in none, or two are wired twice.
    """
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


def plan_edge(
    number: int, ends: tuple[int, int], wire: Wire, defaults: Defaults, *, local: bool, spread: str | None = None
) -> EdgePlan:
    """The edge that a wire makes between two routines, which are given by their numbers."""
    settings = wire.settings(defaults.queue)
    return EdgePlan(
        number=number,
        sender=ends[0],
        receiver=ends[1],
        policy=settings.policy,
        capacity=settings.capacity,
        timeout=settings.timeout,
        transmitter=wire.data_transmitter or defaults.transmitter,
        local=local,
        max_age=wire.max_age,
        spread=spread,
        own_capacity=wire.capacity is not None,
    )


def plan_routine(number: int, routine: Routine, flow: str, edges: Iterable[EdgePlan]) -> RoutinePlan:
    """A routine with its edges and its role.

    :raises FloatingRoutine, RoutineError, WiresValidation: when the routine does not fit its wires, or can't run.
    """
    ins = [edge for edge in edges if edge.receiver == number]
    outs = [edge for edge in edges if edge.sender == number]
    if not ins and not outs and not routine.works_alone:
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
    for name, count, limit in (("receivers", len(outs), binding.OUTS), ("senders", len(ins), binding.INS)):
        if count > limit:
            raise WiresValidation(f"routine {routine.name!r} has {count} {name}; at most {limit} can be wired to one routine")
    refuse_unforkable(routine)
    item = RoutinePlan(number, routine, flow, role, logic_of(routine, role), ins, outs)
    if isinstance(routine, BatchRoutine):
        item.batch = routine.batch_size
    if routine.join is not None:
        item.depth, item.joined = routine.join.depth, tuple(edge.sender for edge in ins)
    return item
