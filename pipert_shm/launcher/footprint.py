"""Makes the shared memory that a plan needs: at `build()`, and with room for what is added later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pipert_shm import binding
from pipert_shm.control.encoding import PROTOCOL
from pipert_shm.graph.model import Plan, RoutinePlan
from pipert_shm.graph.needs import OwnFrames, frame_ring, needs_of
from pipert_shm.shm import sockets
from pipert_shm.shm.listing import ATTACHED, TAPS, Meeting, about
from pipert_shm.shm.needs import SHARE
from pipert_shm.shm.rings import create_ring
from pipert_shm.shm.segments import PAGE, ControlSegment, free_bytes

LINKS = 4096  # wires that can be added while the pipe runs, at one time
NEWCOMERS = 2048  # flows that can be added while the pipe runs, and as many routines
QUEUES = 64 << 20  # bytes of address space that the queues of added wires may have: very long ones are fewer
LIVES = 3  # incarnations for each wire: the live one, and those that are drained after crashes
LEAST_CELLS = 16  # messages that a queue has room for, at least


class TapPlaces(NamedTuple):
    """The records that are kept for taps.

    Attributes:
        routine: the routine number of the first.
        taps: how many the parent can have.
        attached: how many attached processes can have, behind those.
        edge: the edge number of the first.
    """

    routine: int
    taps: int
    attached: int
    edge: int


def tap_places(plan: Plan) -> TapPlaces:
    """The records of a plan's pipe that are kept for taps."""
    room = control_room(plan)
    return TapPlaces(room.routines - TAPS - ATTACHED, TAPS, ATTACHED, room.edges - TAPS - ATTACHED)


def names_of(plan: Plan, name: str, file: str) -> bytes:
    """The names in the control segment, for other programs: of the pipe, its flows and routines; and where to attach to it.

    :param file: the pipeline's file that it was made from, as a real path; empty if there is none.
    """
    return about(*plan.directory(), name, Meeting(str(sockets.directory()), PROTOCOL), file)


def control_room(plan: Plan) -> binding.ControlSize:
    """How many records the control segment of a new pipe has room for."""
    largest = max((edge.capacity for edge in plan.edges), default=1)
    cells = max(LEAST_CELLS, 1 << (largest - 1).bit_length())
    links = min(LINKS, QUEUES // (LIVES * cells * binding.DESCRIPTOR_BYTES))
    newcomers = max(0, min(NEWCOMERS, binding.ROUTINES - TAPS - ATTACHED - len(plan.routines)))
    return binding.ControlSize(
        flows=len(plan.flows) + newcomers,
        routines=len(plan.routines) + newcomers + TAPS + ATTACHED,
        edges=len(plan.edges) + links + TAPS + ATTACHED,
        incarnations=LIVES * (len(plan.edges) + links + TAPS) + ATTACHED,
        cells=cells,
    )


def control_used(plan: Plan) -> binding.ControlSize:
    """How many of these records a new pipe uses. The others take no memory until they are used."""
    room, wires = control_room(plan), len(plan.edges)
    return room.replaced(flows=len(plan.flows), routines=len(plan.routines), edges=wires, incarnations=LIVES * wires)


def control_bytes(plan: Plan, name: str, file: str = "") -> int:
    """Bytes that the control segment of a new pipe takes."""
    return control_room(plan).pages_of(control_used(plan), len(names_of(plan, name, file))) * PAGE


def make_segment(plan: Plan, name: str, file: str = "") -> ControlSegment:
    """The control segment of a new pipe.

    :param name: the pipe's name, for people.
    :param file: the pipeline's file that it was made from; empty if there is none.
    :raises SharedMemoryFull, ValueError, OSError: see `ControlSegment.create`.
    """
    budget = free_bytes() // SHARE if plan.memory_budget is None else plan.memory_budget
    needs = needs_of(plan, control_bytes(plan, name, file))  # now: the segment may outlive the pipe, and must not hold its plan
    names = names_of(plan, name, file)
    segment = ControlSegment.create(control_room(plan), budget, names, lambda: needs, control_used(plan))
    for edge in plan.edges:
        edge.format(binding.EdgeRecord(segment.process, edge.number), plan.routines[edge.sender].reach)
        binding.Incarnation(segment.process, edge.first_incarnation).format(edge.number, edge.bit)
    return segment


def make_rings(routines: Iterable[RoutinePlan], segment: ControlSegment) -> dict[int, tuple[int, int]]:
    """Makes rings for routines that declared an output: by routine number, the ring and its slot size.

    :raises SharedMemoryFull, OSError: see `create_ring`.
    """
    rings = {}
    for item in routines:
        size = item.routine._output_bytes
        if size and item.leaves_flow:  # the others make theirs when they send
            ring = frame_ring(item, OwnFrames(size))
            purpose = f"the ring of {item.routine.name!r}"
            number = create_ring(segment, item.number, ring.slots, ring.slot_bytes, purpose, mapped=False)
            rings[item.number] = number, ring.slot_bytes
    return rings
