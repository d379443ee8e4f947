"""How much of /dev/shm a pipe needs: its rings, its control segment, and the size of /dev/shm in which they have room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipert_shm import binding
from pipert_shm.frozen import Frozen

MESSAGE_SLOT_BYTES = 4096
STEP = 16 << 20  # bytes: sizes are advised in such steps
SHARE = 2  # a pipe's rings take at most 1/2 of what is free in /dev/shm, unless it has a memory_budget

Sure = Literal["yes", "perhaps", "assumed"]


def advised_size(needed: int) -> int:
    """The bytes that are needed, rounded up to whole steps of 16 MiB.

    >>> advised_size(129_000_000) >> 20
    128
    >>> advised_size(0) >> 20
    16
    """
    return max(1, -(-needed // STEP)) * STEP


@dataclass(frozen=True, slots=True)
class Ring:
    """A ring that a routine has, or will have.

    Attributes:
        owner: the routine's number.
        slots: how many it has when there is room.
        slot_bytes: whole pages; 0 while it is not known.
        why: how the size is known, or what was assumed.
        sure: whether each run of the pipe makes it, or perhaps, or whether the size of the slots is assumed.
    """

    owner: int
    routine: str
    flow: str
    holds: Literal["frames", "messages"]
    slots: int
    slot_bytes: int
    why: str = ""
    sure: Sure = "yes"

    @property
    def size(self) -> int:
        """Bytes of its segment; 0 while they are not known."""
        return binding.ring_bytes(self.slots, self.slot_bytes) if self.slot_bytes else 0


class Needs(Frozen):
    """What a pipe needs of /dev/shm.

    Attributes:
        control: bytes of its control segment.
        memory_budget: bytes that its rings may take; None: half of what is free.
    """

    rings: tuple[Ring, ...]
    control: int
    memory_budget: int | None = None

    @property
    def in_rings(self) -> int:
        """Bytes of all rings."""
        return sum(ring.size for ring in self.rings)

    @property
    def in_all(self) -> int:
        """Bytes that must be free in /dev/shm when the pipe is built."""
        share = 0 if self.memory_budget is not None else SHARE * self.in_rings
        return max(self.in_rings + self.control, share)

    @property
    def shm_size(self) -> int:
        """The size of /dev/shm that is advised for this pipe, in bytes."""
        return advised_size(self.in_all)

    def with_ring(self, owner: int, slots: int, slot_bytes: int, there: Iterable[tuple[int, binding.Geometry]]) -> Needs:
        """The same when one more ring is asked for, and those that are there have shown how large frames are.

        Frames of which nothing is known are taken to be as large as the largest that are.

        :param owner: of the ring that is asked for.
        :param there: the rings that exist: the owner's number, and the slots.
        """
        there = list(there)
        sizes = {owner: slot_bytes} if slot_bytes > MESSAGE_SLOT_BYTES else {}
        for other, (_, size) in there:
            if size > MESSAGE_SLOT_BYTES:
                sizes[other] = max(size, sizes.get(other, 0))
        largest = max(sizes.values(), default=0)
        rings = [
            ring if ring.holds == "messages" else replace(ring, slot_bytes=sizes.get(ring.owner) or ring.slot_bytes or largest)
            for ring in self.rings
        ]
        if slot_bytes > MESSAGE_SLOT_BYTES:
            rings += _beside(owner, slots, slot_bytes, rings, there)
        return self.replaced(rings=tuple(rings))


def _beside(
    owner: int, slots: int, slot_bytes: int, planned: Iterable[Ring], there: Sequence[tuple[int, binding.Geometry]]
) -> list[Ring]:
    """The rings for frames that a routine has beside those that were planned: older ones that are still read, and unplanned."""
    found = [geometry for other, geometry in there if other == owner and geometry.slot_bytes > MESSAGE_SLOT_BYTES]
    if not any(ring.owner == owner and ring.holds == "frames" for ring in planned):
        found.append(binding.Geometry(slots, slot_bytes))
    return [Ring(owner, "", "", "frames", *geometry) for geometry in found]
