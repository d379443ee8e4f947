"""What is left of a plan when flows or wires are removed from the pipe."""

from __future__ import annotations

from collections.abc import Collection

from pipert_shm.graph.model import Plan
from pipert_shm.graph.numbered import Numbered


def plan_without(plan: Plan, flows: Collection[str]) -> Plan:
    """The plan without these flows, and without the wires that lead to them or from them. The given one is done with.

    :param flows: their names; of a flow with replicas those of all replicas.
    """
    gone = {item.number for name in flows for item in plan.flows[name]}
    rest = plan.copy()
    for edge in plan.edges:
        if edge.sender in gone or edge.receiver in gone:
            del rest.edges[edge.number]
    for item in plan.routines:
        item.ins = [edge for edge in item.ins if edge.sender not in gone]
        item.outs = [edge for edge in item.outs if edge.receiver not in gone]
        item.reach -= gone
    rest.dismiss(flows)
    rest.leaving = Numbered()  # the launcher knows when their numbers are free
    return rest


def plan_unwired(plan: Plan, sender: str, receiver: str) -> Plan:
    """The plan without the wire between two routines; of one with replicas, without those of all replicas."""
    ends = [
        {item.number for name in plan.replicas.get(end, (end,)) if (item := plan.find(name)) is not None}
        for end in (sender, receiver)
    ]
    rest = plan.copy()
    for edge in plan.edges:
        if edge.sender in ends[0] and edge.receiver in ends[1]:
            del rest.edges[edge.number]
    return rest
