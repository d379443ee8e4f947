"""One process's part in a pipe: the memory that it has mapped, and the slots that it holds."""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple, TypeAlias

from pipert_shm.binding import hot
from pipert_shm.binding.constants import LIVE, RINGS, SENDER_DEAD, SWEEPING
from pipert_shm.binding.formats import ControlSize, Holders, holders_of
from pipert_shm.binding.memory import Memory, address_of
from pipert_shm.binding.native import ffi, lib
from pipert_shm.binding.records import Incarnation

Kind: TypeAlias = Literal["flow", "routine", "edge", "incarnation"]  # of a record


WORD = 64  # bits of a word of an edge's reach


class Claim(NamedTuple):
    """A place for a new ring, and its serial."""

    ring: int
    serial: int


class Geometry(NamedTuple):
    """Number and size of a ring's slots."""

    slots: int
    slot_bytes: int


class Extent(NamedTuple):
    """A part of a segment."""

    offset: int
    size: int


class Writable(NamedTuple):
    """Where to write to a slot.

    Attributes:
        address: 0 when it can't be written to, or not yet.
        ring: if the address is 0, the ring to be mapped writable first; RINGS when another holds the slot, too.
    """

    address: int
    ring: int


class Process:
    """The memory of one pipe that this process has mapped, and the slots that it holds. Safe to use from any thread.

    :param address: where the control segment is mapped.
    :param size: its bytes.
    :raises ValueError: when it is not a control segment of this version.

    Attributes:
        control: the C structure, for the modules of this folder.
    """

    __slots__ = ("_address", "_process", "control")

    def __init__(self, address: int, size: int) -> None:
        process = lib.pshm_process_open(ffi.cast("void *", address), size)
        if process == ffi.NULL:
            raise ValueError("this is not the control segment of a pipe of this version")
        self._process = process
        self._address = address
        self.control: Any = ffi.addressof(process, "control")

    def close(self) -> bool:
        """Unmaps every ring. Returns False, with nothing done, while a view of a slot lives."""
        process, self._process = self._process, ffi.NULL  # first: after a Ctrl-C in the midst it must not be closed again
        closed: bool = process == ffi.NULL or lib.pshm_process_close(process)
        if not closed:
            self._process = process
        return closed

    @property
    def handle(self) -> Any:
        """The C structure, for the modules of this folder."""
        return self._process

    def incarnations(self) -> list[Incarnation]:
        """The incarnations, by number, that are in use or were."""
        return [Incarnation(self, number) for number in range(self.incarnations_used)]

    @property
    def edges_used(self) -> int:
        """No edge from this number on is in use, but for those of taps."""
        used: int = lib.pshm_control_edges_used(self.control)
        return used

    @property
    def incarnations_used(self) -> int:
        """No incarnation from this number on is in use."""
        used: int = lib.pshm_control_incarnations_used(self.control)
        return used

    def note_used(self, edges: int, incarnations: int) -> None:
        """Says so many are in use. The creator or the launcher, when they have memory."""
        lib.pshm_control_use(self.control, edges, incarnations)

    def extent(self, kind: Kind, number: int) -> Extent:
        """Where in the control segment a record lies.

        :raises LookupError: when there is no room for so many.
        """
        find, size = {
            "flow": (lib.pshm_control_flow, ffi.sizeof("pshm_flow_record")),
            "routine": (lib.pshm_control_routine, ffi.sizeof("pshm_routine_record")),
            "edge": (lib.pshm_control_edge, ffi.sizeof("pshm_edge_record")),
            "incarnation": (lib.pshm_control_incarnation, self.control.incarnation_stride),
        }[kind]
        record = find(self.control, number)
        if not record:
            raise LookupError(f"the control segment has no room for {kind} {number}")
        return Extent(address_of(record) - self._address, size)

    @property
    def room(self) -> ControlSize:
        """How many records of each kind the control segment has room for."""
        control = self.control
        return ControlSize(
            flows=control.flows,
            routines=control.routines,
            edges=control.edges,
            incarnations=control.incarnations,
            cells=control.cells,
        )

    def records_bytes(self) -> int:
        """Where the records end. The rest of the control segment is Python's."""
        return self.room.bytes_needed()

    def receivers(self) -> dict[int, dict[int, int]]:
        """Who may hold slots of each routine: the routine numbers of receivers, by owner and holder bit. A snapshot."""
        edge = ffi.new("pshm_edge *")
        receivers: dict[int, dict[int, int]] = {}
        for incarnation in self.incarnations():
            if incarnation.state not in (LIVE, SENDER_DEAD, SWEEPING) or not incarnation.bit:
                continue
            if not lib.pshm_edge_attach(edge, self.control, incarnation.number):
                continue
            reach = lib.pshm_control_edge(self.control, incarnation.edge).reach
            for place, word in enumerate(ffi.unpack(reach, len(reach))):
                while word:
                    owner = place * WORD + (word & -word).bit_length() - 1
                    receivers.setdefault(owner, {})[edge.mask.bit_length() - 1] = edge.receiver
                    word &= word - 1
        return receivers

    def claim_ring(self, owner: int) -> Claim | None:
        """A place and a serial for a new ring, None when no place is left."""
        serial = ffi.new("uint64_t *")
        ring: int = lib.pshm_control_claim_ring(self.control, owner, serial)
        return None if ring == RINGS else Claim(ring, serial[0])

    def publish_ring(self, ring: int) -> None:
        """Makes a claimed ring known. Its creator, when the ring's segment is formatted."""
        lib.pshm_control_publish_ring(self.control, ring)

    def release_ring(self, ring: int) -> None:
        """Gives back a ring's place and its bytes of the budget. Its owner, or the launcher for a dead one."""
        lib.pshm_control_release_ring(self.control, ring)

    def rings(self) -> list[int]:
        """The places of the rings that are published. A snapshot."""
        places = []
        place: int = lib.pshm_control_next_ring(self.control, 0)
        while place < RINGS:
            places.append(place)
            place = lib.pshm_control_next_ring(self.control, place + 1)
        return places

    def serial(self, ring: int) -> int:
        """The serial of a published ring, 0 if the place is free."""
        serial: int = lib.pshm_control_serial(self.control, ring)
        return serial

    def prune(self) -> None:
        """Unmaps the rings that were released, once no view of them lives."""
        lib.pshm_process_prune(self._process)

    def unclaim_ring(self, owner: int) -> int:
        """Gives back one place that a dead routine claimed and did not publish.

        Returns its serial, whose segment may exist; 0 when there is no such place. The launcher.
        """
        serial: int = lib.pshm_control_unclaim_ring(self.control, owner)
        return serial

    def ring_geometry(self, ring: int) -> Geometry:
        """Number and size of the slots of a ring that is mapped here, 0 and 0 if it is not."""
        mapping = lib.pshm_process_find(self._process, ring)
        return Geometry(0, 0) if mapping == ffi.NULL else Geometry(mapping.ring.slots, mapping.ring.slot_bytes)

    def ring_owner(self, ring: int) -> int | None:
        """Routine number of the owner of a ring that is mapped here; None if it is not."""
        mapping = lib.pshm_process_find(self._process, ring)
        return None if mapping == ffi.NULL else int(mapping.ring.owner)

    def memory_left(self) -> int:
        """Bytes of the pipe's memory budget that no ring has taken."""
        left: int = lib.pshm_control_left(self.control)
        return left

    def spend(self, ring: int, size: int) -> bool:
        """Takes bytes of the budget for a claimed ring; False when less is left. `release_ring` gives them back."""
        spent: bool = lib.pshm_control_spend(self.control, ring, size)
        return spent

    def map_ring(self, ring: int, serial: int, fd: int, size: int, *, writable: bool) -> None:
        """Maps a ring's segment.

        :raises OSError: when the segment is not that ring, or can't be mapped.
        """
        error = lib.pshm_process_map(self._process, ring, serial, fd, size, writable)
        if error:
            raise OSError(error, f"can't map ring {ring} (serial {serial}): {os.strerror(error)}")

    def holders(self, ring: int) -> Holders | None:
        """Who holds the slots of a ring that is mapped here; None if it is not."""
        mapping = lib.pshm_process_find(self._process, ring)
        return None if mapping == ffi.NULL else holders_of(ffi.addressof(mapping, "ring"))

    def used_slots(self, ring: int) -> int:
        """How many slots of a ring are held; 0 if it is not mapped here. A snapshot."""
        mapping = lib.pshm_process_find(self._process, ring)
        return 0 if mapping == ffi.NULL else int(lib.pshm_ring_used(ffi.addressof(mapping, "ring")))

    def writable(self, routine: int, address: int, size: int) -> Writable:
        """Where to write to this memory of a slot that only `routine` holds, under one new lease. The routine's thread."""
        ring = ffi.new("uint32_t *")
        there = lib.pshm_process_writable(self._process, routine, ffi.cast("void *", address), size, ring)
        return Writable(int(ffi.cast("uintptr_t", there)), ring[0])

    def recover_owner(self, ring: int) -> None:
        """Clears the bits that a dead owner held in its ring. The launcher."""
        lib.pshm_recover_owner(self._process, ring)

    def holds(self, memory: Memory, size: int) -> bool:
        """Whether this memory lies in a slot that this process holds."""
        descriptor = ffi.new("uint64_t *")
        if not lib.pshm_process_reference(self._process, memory, size, descriptor, ffi.new("uint64_t *")):
            return False
        lib.pshm_process_release(self._process, descriptor[0])
        return True

    def share(self, memory: Memory, size: int) -> memoryview | None:
        """A read-only buffer on this memory, under a lease of its own; None if it does not lie in a slot that is held here."""
        address = lib.pshm_process_share(self._process, memory, size)
        return memoryview(hot.lease(address_of(address), size, False)) if address else None

    def lend(self, descriptor: int) -> memoryview:
        """A read-only buffer on a slot that the caller holds, under a lease of its own.

        :raises LookupError: when it is not held here.
        """
        size = ffi.new("uint64_t *")
        address = lib.pshm_process_lend(self._process, descriptor, size)
        if not address:
            raise LookupError(f"slot {descriptor:#x} is not held here")
        return memoryview(hot.lease(address_of(address), size[0], False))

    def leased_slots(self, ring: int) -> int:
        """How many slots of a ring have a view in this process."""
        leased: int = lib.pshm_process_leased(self._process, ring)
        return leased

    def release(self, descriptor: int) -> None:
        """Ends one lease of a slot."""
        lib.pshm_process_release(self._process, descriptor)
