"""Checks whether two routines of a running pipe may be linked."""

from __future__ import annotations

from pipert_shm import binding
from pipert_shm.errors import WiresValidation
from pipert_shm.graph.model import Plan, RoutinePlan
from pipert_shm.routine import Role


def check_ends(plan: Plan, sender: RoutinePlan, receiver: RoutinePlan, *, joins: bool) -> None:
    """Checks the roles of the two, and that the wire closes no cycle.

    :param joins: whether the receiver, if it joins its inputs, may have this one.
    :raises WiresValidation: when they can't be linked.
    """
    source, destination = sender.name, receiver.name
    if any(edge.receiver == receiver.number for edge in sender.outs):
        raise WiresValidation(f"{source!r} is wired to {destination!r} already")
    if receiver.role is Role.SOURCE:
        raise WiresValidation(f"{destination!r} is a source: it takes no messages, and can't be linked to")
    if sender.routine.role is Role.DESTINATION:
        raise WiresValidation(f"{source!r} is a DestinationRoutine: it sends nothing, and can't be linked from")
    if receiver.routine.join is not None and not joins:
        raise WiresValidation(f"{destination!r} joins what it was wired to when the pipe was built, and nothing else")
    path = _path(plan, receiver, sender)
    if path:
        raise WiresValidation(f"the wires would make a cycle: {' -> '.join(map(repr, [source, *path]))}")


def check_room(sender: RoutinePlan, outs: int, receiver: RoutinePlan, ins: int) -> None:
    """Checks that each of the two can have one more wire.

    :param outs: wires that the sender has.
    :param ins: wires that the receiver has.
    :raises WiresValidation: when one has as many as there can be.
    """
    for item, wires, limit, what in ((sender, outs, binding.OUTS, "receivers"), (receiver, ins, binding.INS, "senders")):
        if wires >= limit:
            raise WiresValidation(f"routine {item.name!r} has {wires} {what}, which is as many as there can be")


def _path(plan: Plan, start: RoutinePlan, end: RoutinePlan) -> list[str]:
    """The names along the wires from one routine to another, both included; empty when there is no way."""
    come_from: dict[int, RoutinePlan | None] = {start.number: None}
    following = [start]
    while following:
        item = following.pop()
        if item is end:
            path: list[str] = []
            step: RoutinePlan | None = item
            while step is not None:
                path.insert(0, step.name)
                step = come_from[step.number]
            return path
        for edge in item.outs:
            if edge.receiver not in come_from:
                come_from[edge.receiver] = item
                following.append(plan.routines[edge.receiver])
    return []
