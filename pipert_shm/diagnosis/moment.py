"""A pipe at one moment: what a diagnosis is drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipert_shm import binding
from pipert_shm.frozen import Frozen
from pipert_shm.shm.listing import Member, Segment
from pipert_shm.statistics import PipeStatistics, read_statistics
from pipert_shm.system.usage import machine_cpu_s, processors

RING = "ring of "


class Ring(Frozen):
    """The slots of a routine's messages or frames.

    Attributes:
        owner: the routine that makes them.
        slots: how many there are.
        free: how many of them nobody holds.
        held: how many each holder keeps, by routine.
    """

    owner: str
    slots: int
    free: int
    held: Mapping[str, int]


class Moment(Frozen):
    """A pipe at one moment.

    Attributes:
        statistics: its counters.
        in_call_s: how long the present call of `main_logic` takes so far, by routine; only of routines that are in one.
        rings: of all routines.
        cpu_s: CPU seconds that each flow's process has used, by flow.
        machine_s: CPU seconds of all of the machine that were used, and that there were, since its start.
        processors: how many the pipe may use; 0 where that is unknown.
    """

    statistics: PipeStatistics
    in_call_s: Mapping[str, float] = {}
    rings: Sequence[Ring] = ()
    cpu_s: Mapping[str, float] = {}
    machine_s: tuple[float, float] = (0.0, 0.0)
    processors: int = 0


def take(
    process: binding.Process, flow_names: Sequence[str], members: Sequence[Member | None], segments: Iterable[Segment] = ()
) -> Moment:
    """Reads a pipe's control segment, or a copy of one, and /proc. Any thread, at any time.

    :param flow_names: the names of its flows, by number; empty where no flow has the number.
    :param members: its routines, by number; None where no routine has the number.
    :param segments: its segments, as `list_pipe` lists them.
    :raises ValueError, LookupError: when the segment is damaged.
    """
    statistics = read_statistics(process, flow_names, members)
    in_call = {}
    for number, member in enumerate(members):
        if member is None:
            continue
        since = binding.RoutineRecord(process, number).busy_since_ns
        if since and statistics.routines[member.name].state in ("running", "stopping"):
            in_call[member.name] = max(0.0, statistics.time_s - since / 1e9)
    return Moment(
        statistics,
        in_call,
        [
            Ring(segment.what.removeprefix(RING), segment.slots[0], segment.free, segment.held)
            for segment in segments
            if segment.slots is not None and segment.what.startswith(RING)
        ],
        {flow.name: flow.cpu_s for flow in statistics.flows.values() if flow.cpu_s is not None},
        machine_cpu_s(),
        processors(),
    )
