"""Flows with replicas: each process gets copies of the routines, and the order of their results may be restored."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence

from pipert_shm.errors import RoutineError, WiresValidation
from pipert_shm.graph.model import Plan, Restored
from pipert_shm.routine import Routine
from pipert_shm.wire import Wire


def replicate(
    flows: Mapping[str, Sequence[Routine]], pairs: list[tuple[Routine, Routine, Wire]], counts: Mapping[str, int]
) -> tuple[dict[str, Sequence[Routine]], list[tuple[Routine, Routine, Wire, int | None]], dict[str, tuple[str, ...]]]:
    """The graph with replicas in the place of each flow that has some: its flows, its wires, and the replicas' names.

    A wire to a routine with replicas becomes one to each of them, all of one spread.

    :param counts: how many replicas a flow has, by its name; 1 where it is not one of them.
    :raises RoutineError: when a source is in such a flow, or a routine that is not replicable.
    """
    all_flows: dict[str, Sequence[Routine]] = {}
    flow_of: dict[int, str] = {}
    members: dict[int, list[Routine]] = {}
    names: dict[str, tuple[str, ...]] = {}
    receiving = {id(destination) for _, destination, _ in pairs}
    for flow, routines in flows.items():
        count = counts.get(flow, 1)
        flow_of |= {id(routine): flow for routine in routines}
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
    return all_flows, _spread(pairs, members, flow_of), names


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


def _spread(
    pairs: list[tuple[Routine, Routine, Wire]], members: dict[int, list[Routine]], flow_of: dict[int, str]
) -> list[tuple[Routine, Routine, Wire, int | None]]:
    """The wires between the replicas; each with the number of its spread, if it is of one."""
    spread_pairs: list[tuple[Routine, Routine, Wire, int | None]] = []
    for source, destination, wire in pairs:
        sources, destinations = members[id(source)], members[id(destination)]
        if flow_of[id(source)] == flow_of[id(destination)]:
            spread_pairs += [(one, other, wire, None) for one, other in zip(sources, destinations, strict=True)]
            continue
        for one in sources:
            spread = len(spread_pairs) if len(destinations) > 1 else None
            spread_pairs += [(one, other, wire, spread) for other in destinations]
    return spread_pairs


def restore_order(plan: Plan, flow: str) -> None:
    """Marks the edges and routines that restore the order of a flow's results.

    :raises WiresValidation: when the flow is not a chain of routines with one way in and one way out.
    """
    after: dict[int, Restored] = {}
    for name in plan.replicas.get(flow, ()):
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
        if any(receiver.routine.name in names for names in plan.replicas.values()):
            raise WiresValidation(f"flow {flow!r} is ordered: what it sends to can't have replicas itself")
        receiver.restores.append(restored)


def copy_of(routine: Routine, number: int) -> Routine:
    """The routine of a replica."""
    replica = copy.copy(routine)
    replica.name = f"{routine.name}#{number}"
    replica._logger = logging.getLogger(f"{routine._logger.name}#{number}")
    return replica
