"""What is left of a plan when flows are removed from the pipe."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pipert_shm.graph.model import Plan
from pipert_shm.graph.numbered import Numbered


def plan_without(plan: Plan, flows: Collection[str]) -> Plan:
    """The plan without these flows, and without the wires that lead to them or from them. The given one is done with.

    :param flows: their names; of a flow with replicas those of all replicas.
    """
    gone = {item.number for name in flows for item in plan.flows[name]}
    edges = plan.edges.copy()
    for edge in plan.edges:
        if edge.sender in gone or edge.receiver in gone:
            del edges[edge.number]
    for item in plan.routines:
        item.ins = [edge for edge in item.ins if edge.sender not in gone]
        item.outs = [edge for edge in item.outs if edge.receiver not in gone]
        item.reach -= gone
    rest = replace(
        plan,
        flows=dict(plan.flows),
        routines=plan.routines.copy(),
        edges=edges,
        replicas=dict(plan.replicas),
        restarts=dict(plan.restarts),
        processes=dict(plan.processes),
        flow_numbers=dict(plan.flow_numbers),
        past=dict(plan.past),
    )
    rest.dismiss(flows)
    rest.leaving = Numbered()  # the launcher knows when their numbers are free
    return rest
