"""A pipe that runs inline with other sources than its own, for a test, and what one of its routines sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from pipert_shm.errors import RoutineError, WiresValidation
from pipert_shm.graph.checks import logic_of
from pipert_shm.graph.model import Plan
from pipert_shm.graph.plan import make_plan
from pipert_shm.pipe import Pipe
from pipert_shm.routine import Role, Routine, SourceRoutine
from pipert_shm.testing.surroundings import RESULTS, Collector, Output
from pipert_shm.wire import Wire


def sources_of(pipe: Pipe) -> list[str]:
    """The names of a pipe's sources."""
    return [item.name for item in pipe._plan(replicated=False).routines if item.role is Role.SOURCE]


def run_on(pipe: Pipe, sources: Mapping[str, SourceRoutine], of: str | None, outputs: list[Output]) -> None:
    """Runs a pipe as `Pipe.run_inline` does, with other routines in the place of its sources.

    :param sources: by the names of those whose places they take.
    :param of: the routine whose messages are wanted; None for the one that sends to the pipe's destinations.
    :param outputs: gets what that sends.
    :raises RoutineError: when there is no such routine.
    :raises Exception: as `Pipe.run_inline` does.
    """
    sender = _sender(pipe._plan(replicated=False), of)
    pipe._run_inline(partial(_plan, pipe, sources, sender, Collector(outputs)), private=(RESULTS,))


def _sender(plan: Plan, of: str | None) -> Routine:
    if of is not None:
        item = plan.find(of)
        if item is None or not item.outs:
            raise RoutineError(of, f"the pipe has no such routine that sends anything; there are {_listed(plan)}")
        return item.routine
    last = [item for item in plan.routines if any(not plan.routines[edge.receiver].outs for edge in item.outs)]
    if len(last) != 1:
        names = ", ".join(repr(item.name) for item in last)
        raise WiresValidation(f"several routines send to the pipe's destinations: say whose messages you want, of=… ({names})")
    return last[0].routine


def _listed(plan: Plan) -> str:
    return ", ".join(repr(item.name) for item in plan.routines if item.outs)


def _plan(pipe: Pipe, sources: Mapping[str, SourceRoutine], sender: Routine, collector: Collector) -> Plan:
    blueprint = pipe._blueprint
    flows: dict[str, Sequence[Routine]] = {name: spec.routines for name, spec in blueprint.flows.items()}
    flows[RESULTS] = (collector,)
    plan = make_plan(flows, [*blueprint.wires, Wire(sender, collector)], blueprint.defaults)
    plan.memory_budget = pipe._memory_budget
    for item in plan.routines:
        if item.name in sources:
            item.routine = sources[item.name]
            item.logic = logic_of(item.routine, Role.SOURCE)
    return plan
