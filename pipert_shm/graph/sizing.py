"""How many slots each ring has, and how many frames a receiver may keep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from pipert_shm import binding
from pipert_shm.graph.batches import Flood
from pipert_shm.graph.model import BORROW_CAP, IN_PASSING, EdgePlan, Plan, RoutinePlan
from pipert_shm.shm.rings import FEWEST_SLOTS

LOANS = 2  # arrays that the routine has on loan
TAP_SLOTS = 3  # one tap: a message that waits, one that is read, one in passing
HELD_BACK = 4  # results of one replica that wait for earlier ones of others
FEWEST_MESSAGES = 8


def plan_batches(plan: Plan, new: Iterable[EdgePlan]) -> None:
    """Makes room in the new edges for the batches that come on them, and in the joins that they lead to.

    :raises WiresValidation: when a wire's own capacity is too small for that, or a queue would be too large.
    """
    flood = Flood(plan.routines, [edge for edge in plan.edges if edge.linked])
    edges = list(new)
    for edge in edges:
        flood.widen(edge)
    for receiver in {edge.receiver for edge in edges}:
        flood.deepen(receiver)


def _held_in_flow(plan: Plan, routine: RoutinePlan) -> int:
    """How many of the messages that a routine sends or forwards may be in its flow: in queues, and in routines' hands."""
    reached: dict[int, EdgePlan] = {}
    following = [routine]
    while following:
        for edge in following.pop().outs:
            if edge.local and edge.number not in reached:
                reached[edge.number] = edge
                following.append(plan.routines[edge.receiver])
    return sum(edge.capacity + max(1, plan.routines[edge.receiver].gathered) for edge in reached.values())


def _queued(edge: EdgePlan, owner: RoutinePlan) -> int:
    """How many of the messages in an edge's queue may refer to the owner's ring."""
    return edge.capacity if owner.ins or not edge.per_source else edge.per_source


def assign_slots(plan: Plan) -> None:
    """Sizes the rings, and each edge's borrow cap: the frames that user code may keep, and those that the framework holds."""
    edges = [edge for edge in plan.edges if edge.linked]
    for edge in edges:
        receiver = plan.routines[edge.receiver]
        edge.borrow_cap = BORROW_CAP + _held_in_flow(plan, receiver) + receiver.gathered
        if edge.ordered:
            edge.borrow_cap += HELD_BACK + 1
    carried: dict[int, list[EdgePlan]] = defaultdict(list)  # by the owner of the frames, like the next
    kept_within: dict[int, list[EdgePlan]] = defaultdict(list)
    for edge in edges:
        if edge.local:
            kept_within[edge.sender].append(edge)
            continue
        for owner in plan.routines[edge.sender].reach:
            carried[owner].append(edge)
    for routine in plan.routines:
        carrying, within = carried.get(routine.number, ()), kept_within.get(routine.number, ())
        if not carrying and not within:
            continue
        held_by_edges = sum(_queued(edge, routine) + edge.borrow_cap + IN_PASSING for edge in carrying)
        held_in_flow = _held_in_flow(plan, routine) + BORROW_CAP * len(within)
        routine.slots = min(binding.MOST_SLOTS, held_by_edges + held_in_flow + LOANS + TAP_SLOTS + 1)


def least_slots(slots: int, message_slots: int) -> tuple[int, int]:
    """How many slots a routine's rings get where its wires need so many, or none: a tap may be put on every routine."""
    return max(slots, FEWEST_SLOTS + TAP_SLOTS), max(message_slots, FEWEST_MESSAGES)
