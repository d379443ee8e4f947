"""Flows with replicas: each process gets copies of the routines, and the order of their results may be restored."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from pipert_shm.errors import RoutineError, WiresValidation
from pipert_shm.graph.model import EdgePlan, Plan
from pipert_shm.routine import Routine
from pipert_shm.wire import Wire

Members = dict[int, list[Routine]]  # by the id() of a routine: its copies, or itself where it has no replicas
Spread = tuple[Routine, Routine, Wire, str | None]  # a wire, with the name that the replicas share which it is spread over


def replicate(
    flows: Mapping[str, Sequence[Routine]], counts: Mapping[str, int], receiving: Collection[int]
) -> tuple[dict[str, Sequence[Routine]], Members, dict[str, tuple[str, ...]]]:
    """The flows with replicas in the place of each that has some, the routines' copies, and the replicas' names.

    :param counts: how many replicas a flow has, by its name; 1 where it is not one of them.
    :param receiving: the `id()` of each routine that a wire leads to.
    :raises RoutineError: when a source is in such a flow, or a routine that is not replicable.
    """
    all_flows: dict[str, Sequence[Routine]] = {}
    members: Members = {}
    names: dict[str, tuple[str, ...]] = {}
    for flow, routines in flows.items():
        count = counts.get(flow, 1)
        if count == 1:
            members |= {id(routine): [routine] for routine in routines}
            all_flows[flow] = routines
            continue
        for routine in routines:
            _check_replicable(routine, count, id(routine) in receiving)
            members[id(routine)] = [copy_of(routine, number) for number in range(count)]
            names[routine.name] = tuple(member.name for member in members[id(routine)])
        names[flow] = tuple(f"{flow}#{number}" for number in range(count))
        for number, name in enumerate(names[flow]):
            all_flows[name] = [members[id(routine)][number] for routine in routines]
            for routine in all_flows[name]:
                routine.flow_name = name
    return all_flows, members, names


def _check_replicable(routine: Routine, count: int, receives: bool) -> None:
    """:raises RoutineError: when there can't be several of a routine."""
    if not receives:
        raise RoutineError(routine.name, f"there would be {count} of it: a source can't have replicas")
    if not routine.replicable:
        raise RoutineError(
            routine.name,
            f"there would be {count} of it, and each would see a part of a camera's frames, but a "
            f"{type(routine).__name__} needs them all, one after the other: put it in a flow without replicas",
        )


def spread(pairs: Iterable[tuple[Routine, Routine, Wire]], members: Members, flow_of: Mapping[int, str]) -> list[Spread]:
    """The wires between the replicas. One to a routine with replicas becomes one to each of them, all of one spread.

    :param flow_of: the flow of each routine before it was replicated, by the routine's `id()`.
    """
    spread_pairs: list[Spread] = []
    for source, destination, wire in pairs:
        sources, destinations = members[id(source)], members[id(destination)]
        if flow_of[id(source)] == flow_of[id(destination)]:
            spread_pairs += [(one, other, wire, None) for one, other in zip(sources, destinations, strict=True)]
            continue
        name = destination.name if len(destinations) > 1 else None
        spread_pairs += [(one, other, wire, name) for one in sources for other in destinations]
    return spread_pairs


# ---- the order of results ------------------------------------------------------------------------


def mark_order(plan: Plan, flow: str, *, is_new: bool = True) -> None:
    """Marks the routines of an ordered flow, and the edges that lead to it and from it.

    :param is_new: whether it must have such edges; one that runs may have lost them.
    :raises WiresValidation: when the flow is not a chain of routines with one way in and one way out.
    """
    for name in plan.replicas.get(flow, ()):
        members = {item.number for item in plan.flows[name]}
        enters = [edge for edge in plan.edges if edge.receiver in members and edge.sender not in members]
        leaves = [edge for edge in plan.edges if edge.sender in members and edge.receiver not in members]
        within = [edge for edge in plan.edges if edge.sender in members and edge.receiver in members]
        followers, leaders = [edge.receiver for edge in within], [edge.sender for edge in within]
        first, last = members.difference(followers), members.difference(leaders)
        is_chain = len(first) == len(last) == 1 and len({*followers}) == len(followers) == len({*leaders})
        way_in, way_out = {edge.receiver for edge in enters}, {edge.sender for edge in leaves}
        if not (is_chain and way_in <= first and way_out <= last and (not is_new or (way_in and way_out))):
            raise WiresValidation(
                f"flow {flow!r} is ordered: its routines have to be a chain, with wires from outside to the first and from the "
                f"last to outside only"
            )
        for item in plan.flows[name]:
            item.ordered = flow
        for edge in enters:
            edge.ticketed = True
        for edge in leaves:
            edge.ordered = True
            receiver = plan.routines[edge.receiver].name
            if any(receiver in names for names in plan.replicas.values()):
                raise WiresValidation(f"flow {flow!r} is ordered: what it sends to can't have replicas itself")


def settle_order(plan: Plan, is_there: Callable[[EdgePlan], bool] = lambda edge: True) -> None:
    """Notes in each routine what the order of results takes, from the marks of `mark_order`: its `lanes`, and `restores`.

    :param is_there: whether anything may still come on an edge.
    """
    lanes: dict[str, dict[int, int]] = {}  # by replica of a flow
    for edge in plan.edges:
        replica, sender = plan.routines.get(edge.receiver), plan.routines.get(edge.sender) or plan.leaving.get(edge.sender)
        if edge.ticketed and replica is not None and sender is not None and is_there(edge):
            lanes.setdefault(replica.flow, {})[sender.origin] = edge.number
    for item in plan.routines:
        item.lanes, item.restores = dict(lanes.get(item.flow, {})), {}
    for edge in plan.edges:
        replica, receiver = plan.routines.get(edge.sender), plan.routines.get(edge.receiver)
        if edge.ordered and replica is not None and receiver is not None and is_there(edge):
            streams = receiver.restores.setdefault(replica.ordered, {})
            for origin, lane in replica.lanes.items():
                streams.setdefault(origin, {})[edge.number] = lane


def copy_of(routine: Routine, number: int) -> Routine:
    """The routine of a replica."""
    replica = copy.copy(routine)
    replica.name = f"{routine.name}#{number}"
    replica._logger = logging.getLogger(f"{routine._logger.name}#{number}")
    return replica
