"""Plans what a running pipe's flows get in place of their routines: others, with the same names and wires."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from pipert_shm.events import Audience
from pipert_shm.frozen import Frozen
from pipert_shm.graph.checks import logic_of, refuse_unforkable
from pipert_shm.graph.extension import stranger
from pipert_shm.graph.model import Plan, Restart, RoutinePlan
from pipert_shm.graph.plan import audience_of
from pipert_shm.graph.process_settings import ProcessSettings
from pipert_shm.graph.replicas import copy_of
from pipert_shm.routine import BatchRoutine, Role, Routine
from pipert_shm.transmitters import DataTransmitter


class Replacement(Frozen):
    """Other routines for flows, as the launcher gets them.

    Attributes:
        flows: stand-ins for the routines, in the order of those that they replace.
        now: the flows whose process makes way for a new one at once; the others get the routines with their next process.
        audience: that of the whole pipe with these routines.
    """

    flows: dict[str, list[RoutinePlan]]
    now: tuple[str, ...]
    restarts: dict[str, Restart]
    processes: dict[str, ProcessSettings]
    audience: Audience


class FlowChange(Frozen):
    """What a flow gets: its routines, by name, and its settings."""

    routines: dict[str, Routine]
    restart: Restart
    process: ProcessSettings


def why_not(item: RoutinePlan, routine: Routine) -> str:
    """Why a routine can't take the place of another one with its wires, in a few words; empty when it can."""
    old = item.routine
    if routine.role is not old.role and routine.role not in (None, item.role):
        return f"it is a {routine.role.value if routine.role is not None else Role.MIDDLE.value} now"
    if isinstance(routine, BatchRoutine) != bool(item.batch) or (item.batch and routine.batch_size != item.batch):  # type: ignore[attr-defined]
        return "it takes batches of another size"
    if (routine.join is None) != (old.join is None) or (routine.join is not None and routine.join != old.join):
        return "it joins others"
    if routine.counter_names != old.counter_names:
        return "it has other counters"
    return ""


def plan_replacement(
    plan: Plan, changes: Mapping[str, FlowChange], now: Collection[str], transmitters: Iterable[DataTransmitter | None] = ()
) -> tuple[Plan, Audience, Replacement]:
    """The plan and the audience as they will be, and what the launcher has to take in.

    :param changes: by the name of the flow; that of a flow with replicas stands for all of them.
    :param now: the flows that get a new process at once.
    :param transmitters: of wires that are made later, which the new processes are to know.
    :raises RoutineError: when a routine can't run.
    """
    changed = plan.copy()
    for transmitter in transmitters:
        changed.number_transmitter(transmitter)
    told: dict[str, FlowChange] = {}
    for name, change in changes.items():
        for number, one in enumerate(plan.replicas.get(name, (name,))):
            replicated = name in plan.replicas
            changed.flows[one] = [_with(item, change, number if replicated else None) for item in plan.flows[one]]
            changed.restarts[one], changed.processes[one] = change.restart, change.process
            told[one] = change
    for item in (item for one in told for item in changed.flows[one]):
        changed.routines[item.number] = item
    at_once = tuple(one for name in now for one in plan.replicas.get(name, (name,)))
    changed.known.update(dict.fromkeys(at_once, len(changed.transmitters)))
    audience = audience_of(changed)
    replacement = Replacement(
        {one: [stranger(item) for item in changed.flows[one]] for one in told},
        at_once,
        {one: change.restart for one, change in told.items()},
        {one: change.process for one, change in told.items()},
        audience.picklable(),
    )
    return changed, audience, replacement


def _with(item: RoutinePlan, change: FlowChange, replica: int | None) -> RoutinePlan:
    if replica is None:
        routine = change.routines[item.name]
    else:
        routine = copy_of(change.routines[item.name.rpartition("#")[0]], replica)
        routine.flow_name = item.flow
    refuse_unforkable(routine)
    return replace(item, routine=routine, logic=logic_of(routine, item.role))
