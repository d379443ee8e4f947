"""Makes, opens and removes rings. Each ring is a segment of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from pipert_shm import binding
from pipert_shm.errors import SharedMemoryFull
from pipert_shm.shm.needs import Needs
from pipert_shm.shm.segments import (
    PAGE,
    SHM,
    ControlSegment,
    create_segment,
    free_bytes,
    open_file,
    segment_name,
    unlink,
)
from pipert_shm.system import calls

FEWEST_SLOTS = 3


def page_up(size: int) -> int:
    """A number of bytes, rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


def create_ring(segment: ControlSegment, owner: int, wanted: int, slot_bytes: int, purpose: str, *, mapped: bool = True) -> int:
    """Makes a ring for routine number `owner`. Returns its number.

    It gets as many slots as are wanted if the pipe's budget and /dev/shm allow, else as many as there is room for.

    :param purpose: what the ring is for, for errors.
    :param mapped: whether to map it here, writable. A mapping keeps the memory even when the ring is gone, so only a process
        that uses the ring should have one.
    :raises SharedMemoryFull: when there is no room for the fewest slots that work.
    :raises OSError: when it can't be made, for want of a file descriptor for example. Nothing is left behind then.
    """
    process = segment.process
    slot_bytes = page_up(slot_bytes)

    def needs() -> Needs:
        return segment.needs().with_ring(owner, wanted, slot_bytes, _rings_there(segment))

    slots = _affordable_slots(process, wanted, slot_bytes, purpose, needs)
    size = binding.ring_bytes(slots, slot_bytes)
    claim = process.claim_ring(owner)
    if claim is None:
        raise SharedMemoryFull(f"{purpose} (the pipe has {binding.RINGS} rings already)", size, 0, needs().shm_size)

    def make() -> None:
        name = segment_name(segment.pipe_id, claim.serial)
        fd = create_segment(name, size, purpose, needs)
        try:
            address = calls.map_memory(fd, PAGE)
            binding.format_ring(address, claim.ring, owner, slots, slot_bytes)
            binding.unmap(address, PAGE)
            if mapped:
                process.map_ring(claim.ring, claim.serial, fd, size, writable=True)
        except BaseException:
            unlink(name)
            raise
        finally:
            os.close(fd)

    _pay_and_make(segment, claim, size, purpose, make, needs)
    return claim.ring


def _affordable_slots(process: binding.Process, slots: int, slot_bytes: int, purpose: str, needs: Callable[[], Needs]) -> int:
    """How many of so many slots there is room for.

    :raises SharedMemoryFull: when they are too few to work with.
    """
    left, unused = process.memory_left(), free_bytes()
    free, of_budget = min(left, unused), left < unused
    head = binding.ring_bytes(slots, slot_bytes) - slots * slot_bytes
    affordable = min(slots, max(0, free - head) // slot_bytes)
    fewest = min(slots, FEWEST_SLOTS)
    if affordable < fewest:
        needed = head + fewest * slot_bytes
        what = f"{purpose} ({fewest} slots of {slot_bytes:,} bytes)"
        whole = needs()
        raise SharedMemoryFull(what, needed, free, whole.shm_size, memory_budget=whole.in_rings if of_budget else None)
    return affordable


def _pay_and_make(
    segment: ControlSegment,
    claim: binding.Claim,
    size: int,
    purpose: str,
    make: Callable[[], None],
    needs: Callable[[], Needs],
) -> None:
    """Takes a ring's bytes of the budget, makes it and publishes it; or gives the claim back."""
    process = segment.process
    try:
        if not process.spend(claim.ring, size):
            whole, left = needs(), process.memory_left()
            raise SharedMemoryFull(purpose, size, left, whole.shm_size, memory_budget=whole.in_rings)
        segment.reserve.help(make)
    except BaseException:
        process.release_ring(claim.ring)
        raise
    process.publish_ring(claim.ring)


def _rings_there(segment: ControlSegment) -> Iterator[tuple[int, binding.Geometry]]:
    """The rings that exist now: the owner's number, and the slots. Nothing is mapped."""
    for ring in segment.process.rings():
        serial = segment.process.serial(ring)
        if not serial:
            continue
        try:
            with open(open_file(segment_name(segment.pipe_id, serial)[1:]), "rb", buffering=0) as file:
                head = binding.read_ring(file.fileno(), ring)
        except (OSError, ValueError):
            continue  # it was removed meanwhile, or no descriptor is free to look: then it counts as it was planned
        yield head.owner, binding.Geometry(head.holders.slots, head.slot_bytes)


def open_ring(segment: ControlSegment, ring: int, *, writable: bool = False) -> None:
    """Maps a published ring here.

    :raises LookupError: when the ring does not exist, or is gone.
    :raises OSError: when it can't be mapped, for want of a file descriptor for example. It can be tried again.
    """
    serial = segment.process.serial(ring)
    if not serial:
        raise LookupError(f"a message names ring {ring}, which does not exist")

    def map_it() -> None:
        fd = calls.open_file(SHM / segment_name(segment.pipe_id, serial)[1:], os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            segment.process.map_ring(ring, serial, fd, os.fstat(fd).st_size, writable=writable)
        finally:
            os.close(fd)

    try:
        segment.reserve.help(map_it)
    except FileNotFoundError:
        raise LookupError(f"ring {ring} (serial {serial}) is gone, with its pipe") from None


def open_every_ring(segment: ControlSegment) -> list[int]:
    """Maps every ring of the pipe here, for recovery. Returns their numbers.

    :raises OSError: see `open_ring`.
    """
    rings = []
    for ring in segment.process.rings():
        if segment.process.ring_owner(ring) is None:
            try:
                open_ring(segment, ring)
            except LookupError:
                continue  # it was removed meanwhile, so nobody holds a slot of it
        rings.append(ring)
    return rings


def remove_unpublished(segment: ControlSegment, owner: int) -> None:
    """Gives back the places of rings that a dead routine was just making or removing. The launcher only."""
    process = segment.process
    while serial := process.unclaim_ring(owner):
        unlink(segment_name(segment.pipe_id, serial))
    for ring in process.rings():
        serial = process.serial(ring)
        is_own = bool(serial) and binding.serial_owner(serial) == owner
        if is_own and not calls.exists(SHM / segment_name(segment.pipe_id, serial)[1:]):
            process.release_ring(ring)


def remove_if_free(segment: ControlSegment, ring: int) -> bool:
    """Removes a ring that its owner allocates from no more, if all of its slots are free. Returns whether they were.

    The owner only, or the launcher when the owner is dead.
    """
    process = segment.process
    if not process.ring_geometry(ring).slots or process.used_slots(ring):
        return False
    serial = process.serial(ring)
    unlink(segment_name(segment.pipe_id, serial))
    process.release_ring(ring)
    process.prune()
    return True
