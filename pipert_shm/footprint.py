"""The shared memory that a plan needs, made at `build()`."""

from __future__ import annotations

from collections.abc import Iterable

from pipert_shm import native
from pipert_shm.memory import ControlSegment, create_ring, free_bytes
from pipert_shm.plan import Plan, RoutinePlan
from pipert_shm.segments import TAPS, about

LINKS = 32  # wires between routines that build() knows no wire of, at one time
NEWCOMERS = 16  # flows, and routines, that can be added while the pipe runs
LEAST_CELLS = 16


def tap_places(plan: Plan) -> tuple[int, int, int]:
    """(first routine number, how many, first edge number) of the records that are kept for taps."""
    return len(plan.routines) + NEWCOMERS, TAPS, len(plan.edges) + LINKS


def names_of(plan: Plan, name: str) -> bytes:
    """What the control segment says of the plan, and of a pipe of this name, to those who read it."""
    return about(*plan.directory(), name)


def make_segment(plan: Plan, name: str, budget: int | None) -> ControlSegment:
    """The control segment of a new pipe.

    :param name: the pipe's, for people.
    :param budget: bytes that rings may take; by default half of what is free.
    :raises SharedMemoryFull, ValueError, OSError: see `ControlSegment.create`.
    """
    if budget is None:
        budget = free_bytes() // 2
    largest = max((edge.capacity for edge in plan.edges), default=1)
    room = native.ControlSize(
        flows=len(plan.flows) + NEWCOMERS,
        routines=len(plan.routines) + NEWCOMERS + TAPS,
        edges=len(plan.edges) + LINKS + TAPS,
        # each edge's live incarnation, and those that are being drained after crashes
        incarnations=3 * (len(plan.edges) + TAPS) + 2 * LINKS,
        cells=max(LEAST_CELLS, 1 << (largest - 1).bit_length()),
    )
    segment = ControlSegment.create(room, budget, names_of(plan, name))
    for edge in plan.edges:
        edge.format(native.EdgeRecord(segment.process, edge.number), plan.routines[edge.sender].reach)
        native.Incarnation(segment.process, edge.first_incarnation).format(edge.number, edge.bit)
    return segment


def make_rings(routines: Iterable[RoutinePlan], segment: ControlSegment) -> dict[int, tuple[int, int]]:
    """The rings of those that declared an output: by routine number, the ring and its slot size.

    :raises SharedMemoryFull, OSError: see `create_ring`.
    """
    rings = {}
    for item in routines:
        size = item.routine._output_bytes
        if size and any(not edge.local for edge in item.outs):  # those of others are made where there is room
            purpose = f"the ring of {item.routine.name!r}"
            rings[item.number] = (create_ring(segment, item.number, item.slots, size, purpose, mapped=False), size)
    return rings
