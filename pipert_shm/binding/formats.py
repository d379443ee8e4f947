"""The layout of the two kinds of segments: control segments and rings."""

from __future__ import annotations

import mmap
import os
from typing import Any, NamedTuple

from pipert_shm.binding.constants import HOLDERS
from pipert_shm.binding.memory import Copy
from pipert_shm.binding.native import ffi, lib
from pipert_shm.frozen import Frozen

LINE = 64  # bytes of a cache line, at which each kind of records begins


class ControlSize(Frozen):
    """How many records of each kind a control segment has room for.

    Attributes:
        cells: messages that each queue has room for, a power of two.
    """

    flows: int
    routines: int
    edges: int
    incarnations: int
    cells: int

    @staticmethod
    def head_bytes() -> int:
        """Bytes of the head, before the records."""
        size: int = ffi.sizeof("pshm_control_head")
        return size

    def bytes_needed(self) -> int:
        """Bytes of the segment; 0 when a segment can't have so many records."""
        size: int = lib.pshm_control_bytes(self._in_c())
        return size

    def pages_of(self, used: ControlSize, text: int) -> int:
        """How many pages of such a segment have memory when so many records are used.

        :param text: bytes behind the records.
        """
        edges_at = self.replaced(edges=0, incarnations=0).bytes_needed()
        incarnations_at, end = self.replaced(incarnations=0).bytes_needed(), self.bytes_needed()
        stride = self.replaced(incarnations=1).bytes_needed() - incarnations_at
        routine, edge, flow = map(ffi.sizeof, ("pshm_routine_record", "pshm_edge_record", "pshm_flow_record"))
        parts = (
            (0, self.head_bytes()),
            (-(-self.head_bytes() // LINE) * LINE, used.flows * flow),
            (edges_at - self.routines * routine, used.routines * routine),
            (edges_at, used.edges * edge),
            (incarnations_at, used.incarnations * stride),
            (end, text),
        )
        pages: set[int] = set()
        for start, size in parts:
            pages.update(range(start // mmap.PAGESIZE, -(-(start + size) // mmap.PAGESIZE) if size else 0))
        return len(pages)

    def format(self, address: int, budget: int) -> None:
        """Writes the head of a fresh, zeroed segment.

        :param budget: bytes that the pipe's rings may take.
        """
        lib.pshm_control_format(ffi.cast("void *", address), self._in_c(), budget)

    def _in_c(self) -> Any:
        return ffi.new("pshm_control_size *", (self.flows, self.routines, self.edges, self.incarnations, self.cells))


class Holders(NamedTuple):
    """Who holds the slots of a ring. A snapshot.

    Attributes:
        slots: how many the ring has.
        held: how many of them somebody holds.
        by_bit: how many of them each holder keeps, by its bit. A slot may have several holders.
    """

    slots: int
    held: int
    by_bit: dict[int, int]


def holders_of(ring: Any) -> Holders:
    """The holders of a ring's slots, for an attached `pshm_ring *`."""
    counts = ffi.new("uint32_t[]", HOLDERS)
    held = lib.pshm_ring_count_holders(ring, counts)
    return Holders(ring.slots, held, {bit: count for bit, count in enumerate(counts) if count})


class RingHead(NamedTuple):
    """The head of a ring.

    Attributes:
        owner: routine number of the routine that writes to it.
        slot_bytes: bytes of each slot.
    """

    owner: int
    slot_bytes: int
    holders: Holders


def read_ring(fd: int, place: int) -> RingHead:
    """The head of a ring, read from its segment without mapping it.

    :param place: the ring's place in its pipe's table.
    :raises ValueError: when the segment is another ring, none at all, or cut short.
    """
    size, wanted = os.fstat(fd).st_size, mmap.PAGESIZE
    while True:
        data = os.pread(fd, wanted, 0)
        copy = Copy(data, wanted)
        ring = ffi.new("pshm_ring *")
        if not lib.pshm_ring_attach(ring, ffi.cast("pshm_ring_head *", copy.address), size, place):
            raise ValueError("not a ring of this version, or another one")
        if ring.payload_offset <= len(data):
            return RingHead(ring.owner, ring.slot_bytes, holders_of(ring))
        if len(data) < wanted:
            raise ValueError("cut short")
        wanted = ring.payload_offset


def ring_bytes(slots: int, slot_bytes: int) -> int:
    """Bytes of a ring's segment; 0 when no ring can have such slots."""
    size: int = lib.pshm_ring_bytes(slots, slot_bytes)
    return size


def format_ring(address: int, ring: int, owner: int, slots: int, slot_bytes: int) -> None:
    """Writes the head of a fresh, zeroed ring. Its owner, before the ring is published."""
    lib.pshm_ring_format(ffi.cast("pshm_ring_head *", address), ring, owner, slots, slot_bytes)


def serial_owner(serial: int) -> int:
    """The routine number of the owner of the ring that has this serial."""
    owner: int = lib.pshm_serial_owner(serial)
    return owner
