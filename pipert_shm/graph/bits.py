"""Holder bits: edges whose messages can reach the same ring get different ones."""

from __future__ import annotations

from pipert_shm import binding
from pipert_shm.errors import WiresValidation
from pipert_shm.graph.model import EdgePlan, Plan, RoutinePlan

BITS = range(1, binding.LAST_BIT + 1)


def assign_reach(plan: Plan, order: list[int]) -> None:
    """Notes whose frames each routine may forward by reference: its own, and those of all routines before it."""
    for number in order:
        routine = plan.routines[number]
        upstream = [plan.routines[edge.sender].reach for edge in routine.ins]
        routine.reach = frozenset({number}).union(*upstream)


def assign_bits(plan: Plan) -> None:
    """Gives each remote edge a holder bit. Edges whose messages can reach the same ring get different ones.

    Where 31 bits do not suffice, a routine forwards copies of the frames that it receives, so that its wires need bits in its
    own ring only.

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
