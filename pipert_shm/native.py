"""The friendly face of csrc/: the only module that touches the compiled binding.

Addresses and descriptors are plain ints here. The objects own their C memory; a forked child must not use those that it
inherited (their leases do nothing there).
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

try:
    import pipert_shm._native as _native
except ModuleNotFoundError as error:
    raise ImportError(
        f"{os.path.dirname(__file__)} has pipert_shm's source without its compiled part, and hides a pipert_shm that is "
        "installed: run your program from another directory, or compile this one: pip install -e CLONE"
    ) from error

_ffi = _native.ffi
_lib = _native.lib
_buffer, _gc, _release = _ffi.buffer, _ffi.gc, _lib.pshm_release

Memory: TypeAlias = Any  # a pointer of the binding's

OK: int = _lib.PSHM_OK
NOTICE: int = _lib.PSHM_NOTICE
TIMED_OUT: int = _lib.PSHM_TIMED_OUT
CLOSED: int = _lib.PSHM_CLOSED
UNMAPPED: int = _lib.PSHM_UNMAPPED
FULL: int = _lib.PSHM_FULL
PROTOCOL: int = _lib.PSHM_PROTOCOL
DRAINED: int = _lib.PSHM_DRAINED
LOST: int = _lib.PSHM_LOST
ARRAY: int = _lib.PSHM_ARRAY
LAYOUTS: int = _lib.PSHM_LAYOUTS
HEAD_SHIFT: int = _lib.PSHM_HEAD_SHIFT

PRODUCER: int = _lib.PSHM_PRODUCER
RINGS: int = _lib.PSHM_RINGS
OUTS: int = _lib.PSHM_OUTS
INS: int = _lib.PSHM_INS
BUCKETS: int = _lib.PSHM_BUCKETS
MESSAGE_SLOTS: int = _lib.PSHM_MESSAGE_SLOTS
COUNTERS: int = _lib.PSHM_COUNTERS
MESSAGE_BYTES: int = _lib.PSHM_MESSAGE_BYTES
GUARDED: int = _lib.PSHM_GUARDED
OFFSET_BITS: int = _lib.PSHM_OFFSET_BITS
NO_SLOT = 2**64 - 1

POLICIES: dict[str, int] = {
    "drop_oldest": _lib.PSHM_POLICY_DROP_OLDEST,
    "drop_newest": _lib.PSHM_POLICY_DROP_NEWEST,
    "block": _lib.PSHM_POLICY_BLOCK,
}
REASONS: dict[str, int] = {
    "oldest": _lib.PSHM_REASON_OLDEST,
    "newest": _lib.PSHM_REASON_NEWEST,
    "timeout": _lib.PSHM_REASON_TIMEOUT,
    "no_slot": _lib.PSHM_REASON_NO_SLOT,
    "ended": _lib.PSHM_REASON_ENDED,
    "stopped": _lib.PSHM_REASON_STOPPED,
    "error": _lib.PSHM_REASON_ERROR,
    "crash": _lib.PSHM_REASON_CRASH,
    "expired": _lib.PSHM_REASON_EXPIRED,
    "join": _lib.PSHM_REASON_JOIN,
}

FOREVER = 2**64 - 1

FREE: int = _lib.PSHM_FREE
LIVE: int = _lib.PSHM_LIVE
SENDER_DEAD: int = _lib.PSHM_SENDER_DEAD
SWEPT: int = _lib.PSHM_SWEPT

BUCKET_NS: list[int] = [_lib.pshm_histogram_value(bucket) for bucket in range(BUCKETS)]


# CLOCK_MONOTONIC, ns: the clock of all time stamps, the same in every process of the machine. Not by way of C, where each call
# lets go of the GIL, which a busy thread may then keep for a while.
now_ns = time.monotonic_ns


def guard(fd: int) -> None:
    """Closes `fd` in every child that is forked from now on.

    :raises OSError: when too many are guarded.
    """
    if not _lib.pshm_guard(fd):
        raise OSError(
            errno.EMFILE, f"can't keep file descriptor {fd} out of forked children: {GUARDED:,} others are kept out already"
        )


def unguard(fd: int) -> None:
    _lib.pshm_unguard(fd)


def map_shared(fd: int, size: int) -> int:
    """Maps a segment read-write and returns its address.

    :raises OSError: when the kernel refuses.
    """
    address = _lib.mmap(_ffi.NULL, size, _lib.PROT_READ | _lib.PROT_WRITE, _lib.MAP_SHARED, fd, 0)
    if int(_ffi.cast("intptr_t", address)) == -1:
        raise OSError(_ffi.errno, os.strerror(_ffi.errno))
    return int(_ffi.cast("uintptr_t", address))


def unmap(address: int, size: int) -> None:
    _lib.munmap(_ffi.cast("void *", address), size)


class ControlSize:
    """What a control segment has room for. `cells` per queue is a power of two."""

    __slots__ = ("size",)

    def __init__(self, *, flows: int, routines: int, edges: int, incarnations: int, cells: int) -> None:
        self.size: Any = _ffi.new("pshm_control_size *", (flows, routines, edges, incarnations, cells))

    def bytes_needed(self) -> int:
        """Bytes of the segment; 0 when there can be no such one."""
        size: int = _lib.pshm_control_bytes(self.size)
        return size

    def format(self, address: int, budget: int) -> None:
        """Writes the head of a fresh, zeroed segment."""
        _lib.pshm_control_format(_ffi.cast("void *", address), self.size, budget)


def ring_bytes(slots: int, slot_bytes: int) -> int:
    """Bytes of a ring's segment; 0 when there can be no such ring."""
    size: int = _lib.pshm_ring_bytes(slots, slot_bytes)
    return size


class Copy:
    """A private copy of the beginning of a segment, at a page of its own: to look at it maps, and changes, nothing of it."""

    __slots__ = ("_address", "memory")

    def __init__(self, data: bytes, size: int = 0) -> None:
        """:param size: bytes that it has at least; those that `data` lacks are 0."""
        self.memory = mmap.mmap(-1, max(size, len(data), 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory[: len(data)] = data
        self._address = _ffi.from_buffer(self.memory)

    @property
    def address(self) -> int:
        return int(_ffi.cast("uintptr_t", self._address))


@dataclass(frozen=True, slots=True)
class RingHead:
    """What a ring's head says: routine number of its owner, bytes per slot, and the holder bits of each slot."""

    owner: int
    slot_bytes: int
    holders: list[int]


def read_ring(fd: int, place: int) -> RingHead:
    """The head of the ring whose place in its pipe's table this is, read from its segment without mapping it.

    :raises ValueError: when it is no such ring, or cut short.
    """
    size, wanted = os.fstat(fd).st_size, mmap.PAGESIZE
    while True:
        data = os.pread(fd, wanted, 0)
        copy = Copy(data, wanted)
        ring = _ffi.new("pshm_ring *")
        if not _lib.pshm_ring_attach(ring, _ffi.cast("pshm_ring_head *", copy.address), size, place):
            raise ValueError("not a ring of this version, or another one")
        if ring.payload_offset <= len(data):
            return RingHead(ring.owner, ring.slot_bytes, [_lib.pshm_ring_holders(ring, n) for n in range(ring.slots)])
        if len(data) < wanted:
            raise ValueError("cut short")
        wanted = ring.payload_offset


def format_ring(address: int, ring: int, owner: int, slots: int, slot_bytes: int) -> None:
    _lib.pshm_ring_format(_ffi.cast("pshm_ring_head *", address), ring, owner, slots, slot_bytes)


def loan(address: int, size: int) -> memoryview:
    """A writable buffer on a slot, for one lease of it: released when the last view dies, on whatever thread. For its owner."""
    return memoryview(_ffi.buffer(_ffi.gc(_ffi.cast("void *", address), _lib.pshm_release), size))


def is_slot(memory: memoryview) -> bool:
    """Whether it is a buffer on a slot, or a part of one."""
    return isinstance(memory.obj, _ffi.buffer)


# memory_of(array): where a C-contiguous array lies; keeps it alive.
memory_of: Callable[[np.ndarray], Memory] = _ffi.from_buffer


def memory_at(address: int) -> Memory:
    return _ffi.cast("void *", address)


def writable_memory(address: int, size: int) -> memoryview:
    """A writable buffer that owns nothing: valid while the caller holds the slot."""
    return memoryview(_ffi.buffer(_ffi.cast("void *", address), size))


class EdgeRecord:
    """One edge's words in the control segment: what build() fixed of it, and its counters."""

    __slots__ = ("_record",)

    def __init__(self, process: Process, number: int) -> None:
        self._record = _lib.pshm_control_edge(process.control, number)

    def format(
        self,
        *,
        sender: int,
        receiver: int,
        local: bool,
        policy: int,
        capacity: int,
        borrow_cap: int,
        timeout_ns: int,
        reach: Iterable[int] = (),
    ) -> None:
        """Fixes the edge. The creator only, before its ends know of it.

        :param reach: the routines, besides the sender, whose rings its messages can name.
        """
        record = self._record
        record.sender = sender
        record.receiver = receiver
        record.local = local
        record.policy = policy
        record.capacity = capacity
        record.borrow_cap = borrow_cap
        record.timeout_ns = timeout_ns
        record.receiver_ended = record.removed = record.sender_failed = 0
        words = [0] * len(record.reach)
        for routine in {sender, *reach}:
            words[routine // 64] |= 1 << routine % 64
        record.reach = words

    def clear(self) -> None:
        """Makes it as new, for another pair of routines. The launcher, when nobody knows of it any more."""
        _ffi.buffer(self._record)[:] = bytes(_ffi.sizeof("pshm_edge_record"))

    def ends(self) -> tuple[int, int]:
        """Numbers of the sender and of the receiver."""
        return self._record.sender, self._record.receiver

    def settings(self) -> tuple[Any, int]:
        """Policy and capacity; a record that was never used has capacity 0.

        :raises LookupError: when the record is damaged.
        """
        return {number: name for name, number in POLICIES.items()}[self._record.policy], self._record.capacity

    @property
    def sender(self) -> int:
        sender: int = self._record.sender
        return sender

    @property
    def receiver_ended(self) -> bool:
        """Whether the receiver takes no more: senders drop what they have for it."""
        return bool(self._record.receiver_ended)

    @receiver_ended.setter
    def receiver_ended(self, ended: bool) -> None:
        self._record.receiver_ended = ended

    @property
    def removed(self) -> bool:
        """Whether it is unlinked."""
        return bool(self._record.removed)

    @removed.setter
    def removed(self, removed: bool) -> None:
        self._record.removed = removed

    def fail_sender(self) -> None:
        """For a sender that is dead for good. Ring the receiver afterwards."""
        self._record.sender_failed = 1

    def counters(self) -> dict[str, int]:
        record = self._record
        return {name: getattr(record, name) for name in ("sent", "received", "private_bytes", "protocol_errors")}

    def dropped(self) -> dict[str, int]:
        dropped = self._record.dropped
        return {reason: dropped[number] for reason, number in REASONS.items()}

    def hop_histogram(self) -> list[int]:
        return list(self._record.hop)

    def tickets(self) -> tuple[int, int]:
        """Of an edge to a replica: the last ticket that is pushed, or about to be; and up to which it is done. Any process."""
        announced, done = _ffi.new("uint64_t *"), _ffi.new("uint64_t *")
        _lib.pshm_tickets_read(self._record, announced, done)
        return announced[0], done[0]

    def pushed_ticket(self) -> int:
        """Of the same, the last ticket that is pushed for certain: it was taken if the queue is empty by now. Any process."""
        pushed: int = _lib.pshm_tickets_pushed(self._record)
        return pushed

    def settle_tickets(self) -> None:
        """The sender is dead: what it announced last is pushed, or never will be. The launcher, before it says so."""
        _lib.pshm_tickets_settle(self._record)

    def finish(self, ticket: int) -> None:
        """The results of all tickets up to this one are pushed. The replica only."""
        _lib.pshm_tickets_done(self._record, ticket)

    def count_private(self, size: int) -> None:
        """Adds bytes that were copied on receipt. The receiver's thread."""
        self._record.private_bytes += size


class Incarnation:
    """One life of an edge: its bit and its queue. A sender's death ends it; the next one gets a new one."""

    __slots__ = ("_edge", "_process", "_record", "number")

    def __init__(self, process: Process, number: int) -> None:
        self._process = process
        self._record = _lib.pshm_control_incarnation(process.control, number)
        self._edge = _ffi.new("pshm_edge *")
        self.number = number

    def format(self, edge: int, bit: int) -> None:
        """Makes it live. `bit` is 0 for a local edge. The creator or the launcher, before its ends know of it."""
        _lib.pshm_incarnation_format(self._record, edge, bit)

    @property
    def state(self) -> int:
        state: int = self._record.state
        return state

    @state.setter
    def state(self, state: int) -> None:
        self._record.state = state

    @property
    def edge(self) -> int:
        edge: int = self._record.edge
        return edge

    @property
    def bit(self) -> int:
        bit: int = self._record.bit
        return bit

    def reopen(self) -> None:
        """Takes the end of the stream back. The launcher, while the sender rests."""
        _lib.pshm_queue_reopen(self._queue())

    def close(self) -> None:
        """Ends the stream at what was sent. The sender, or the launcher for one that does not run."""
        _lib.pshm_queue_close(self._queue())

    def waiting(self) -> int:
        if not _lib.pshm_edge_attach(self._edge, self._process.control, self.number):
            return 0  # its edge is just being made
        depth: int = _lib.pshm_queue_depth(_ffi.addressof(self._edge, "queue"))
        return depth

    def _queue(self) -> Any:
        _lib.pshm_edge_attach(self._edge, self._process.control, self.number)
        return _ffi.addressof(self._edge, "queue")

    def recover_receiver(self) -> None:
        """Its receiver is dead, and its sender too: see csrc/recover.h. The launcher.

        :raises MemoryError: with nothing done.
        """
        if not _lib.pshm_recover_receiver(self._process.handle, self.number, FOREVER):
            raise MemoryError(f"incarnation {self.number} is not recovered")

    def recover(self) -> None:
        """Both of its ends are dead, and nobody will drain it. The launcher."""
        _lib.pshm_recover_edge(self._process.handle, self.number)


class FlowRecord:
    """One flow's words in the control segment; the launcher writes them."""

    __slots__ = ("_record",)

    def __init__(self, process: Process, number: int) -> None:
        self._record = _lib.pshm_control_flow(process.control, number)

    def note_start(self, state: int, pid: int) -> None:
        self._record.state = state
        self._record.pid = pid

    def note_death(self, state: int, exit_code: int, *, restarting: bool) -> None:
        self._record.state = state
        self._record.pid = 0
        self._record.last_exit = exit_code
        self._record.restarts += restarting

    def read(self) -> tuple[int, int, int, int]:
        """State, pid, last exit code, restarts."""
        record = self._record
        return record.state, record.pid, record.last_exit, record.restarts


class RoutineRecord:
    """One routine's words in the control segment.

    Attributes:
        words: they themselves, for what changes with each message.
    """

    __slots__ = ("_number", "_process", "words")

    def __init__(self, process: Process, number: int) -> None:
        self._process = process
        self._number = number
        self.words: Any = _lib.pshm_control_routine(process.control, number)

    def ring(self) -> None:
        """Makes the routine look at its queues again. Any thread."""
        _lib.pshm_control_ring(self._process.control, self._number)

    @property
    def state(self) -> int:
        state: int = self.words.state
        return state

    @state.setter
    def state(self, state: int) -> None:
        self.words.state = state

    def counters(self) -> dict[str, int]:
        record = self.words
        names = ("received", "sent", "errors", "logs_lost", "copied_bytes", "in_band_bytes", "busy_ns", "lost_in_crash")
        return {name: getattr(record, name) for name in names}

    def own_counters(self) -> Any:
        """The words of the counters that the routine's class gives names to, to be read and set by index."""
        return self.words.counter

    def age_histogram(self) -> list[int]:
        return list(self.words.age)

    def count_error(self) -> None:
        self.words.errors += 1

    def next_ticket(self) -> int:
        """A number that no message of this routine has had, also if its process died since. The routine's thread."""
        ticket: int = self.words.tickets + 1
        self.words.tickets = ticket
        return ticket

    def count_crash(self) -> None:
        """The process died: what it had received and was not done with is lost. The launcher."""
        record = self.words
        record.lost_in_crash += record.received - record.handled
        record.handled = record.received
        record.busy_since_ns = record.handling_since_ns = 0

    def count_lost_log(self) -> None:
        self.words.logs_lost += 1

    def count_sending(self, *, copied: int, in_band: int) -> None:
        """Adds to the sender's byte counters. The routine's thread."""
        self.words.copied_bytes += copied
        self.words.in_band_bytes += in_band


class Process:
    """What this process has mapped of one pipe, and which slots it holds. Safe to use from any thread."""

    __slots__ = ("_process", "control")

    def __init__(self, address: int, size: int) -> None:
        process = _lib.pshm_process_open(_ffi.cast("void *", address), size)
        if process == _ffi.NULL:
            raise ValueError("this is not the control segment of a pipe of this version")
        self._process = process
        self.control: Any = _ffi.addressof(process, "control")

    def close(self) -> bool:
        """Unmaps every ring. False, and nothing done, while a view of one lives."""
        closed: bool = self._process == _ffi.NULL or _lib.pshm_process_close(self._process)
        if closed:
            self._process = _ffi.NULL
        return closed

    @property
    def handle(self) -> Any:
        return self._process

    def incarnations(self) -> list[Incarnation]:
        """All that the control segment has room for."""
        return [Incarnation(self, number) for number in range(self.control.incarnations)]

    def records_bytes(self) -> int:
        """Where the records end: what follows in the control segment is Python's."""
        control = self.control
        size = ControlSize(
            flows=control.flows,
            routines=control.routines,
            edges=control.edges,
            incarnations=control.incarnations,
            cells=control.cells,
        )
        return size.bytes_needed()

    def receivers_by_bit(self, owner: int) -> dict[int, int]:
        """Whose holder bit each one is in the rings of routine number `owner`: bit to routine number. A snapshot."""
        edge = _ffi.new("pshm_edge *")
        receivers = {}
        for incarnation in self.incarnations():
            if incarnation.state not in (LIVE, SENDER_DEAD) or not incarnation.bit:
                continue
            if _lib.pshm_edge_attach(edge, self.control, incarnation.number) and _lib.pshm_edge_reaches(edge, owner):
                receivers[edge.mask.bit_length() - 1] = edge.receiver
        return receivers

    def claim_ring(self, owner: int) -> tuple[int, int] | None:
        """A place and a serial for a new ring, None when there is no place left."""
        serial = _ffi.new("uint64_t *")
        ring: int = _lib.pshm_control_claim_ring(self.control, owner, serial)
        return None if ring == RINGS else (ring, serial[0])

    def publish_ring(self, ring: int) -> None:
        _lib.pshm_control_publish_ring(self.control, ring)

    def release_ring(self, ring: int) -> None:
        _lib.pshm_control_release_ring(self.control, ring)

    def serial(self, ring: int) -> int:
        """The serial of a published ring, 0 where there is none."""
        serial: int = _lib.pshm_control_serial(self.control, ring)
        return serial

    def prune(self) -> None:
        """Unmaps the rings that are gone."""
        _lib.pshm_process_prune(self._process)

    def unclaim_ring(self, owner: int) -> int:
        """Gives back a place that a dead routine claimed and did not publish; its segment's serial, 0 when there is none."""
        serial: int = _lib.pshm_control_unclaim_ring(self.control, owner)
        return serial

    def ring_geometry(self, ring: int) -> tuple[int, int]:
        """Slots and bytes per slot of a ring that is mapped here."""
        mapping = _lib.pshm_process_find(self._process, ring)
        return (0, 0) if mapping == _ffi.NULL else (mapping.ring.slots, mapping.ring.slot_bytes)

    def ring_owner(self, ring: int) -> int | None:
        """Routine number of the producer of a ring that is mapped here."""
        mapping = _lib.pshm_process_find(self._process, ring)
        return None if mapping == _ffi.NULL else int(mapping.ring.owner)

    def memory_left(self) -> int:
        """Bytes of the pipe's memory budget that no ring has taken."""
        left: int = _lib.pshm_control_left(self.control)
        return left

    def spend(self, ring: int, size: int) -> bool:
        """Takes `size` bytes of the budget for a ring that was claimed; False when there is less. `release_ring` gives back."""
        spent: bool = _lib.pshm_control_spend(self.control, ring, size)
        return spent

    def map_ring(self, ring: int, serial: int, fd: int, size: int, *, writable: bool) -> None:
        """:raises OSError: when the segment is not that ring, or can't be mapped."""
        error = _lib.pshm_process_map(self._process, ring, serial, fd, size, writable)
        if error:
            raise OSError(error, f"can't map ring {ring} (serial {serial}): {os.strerror(error)}")

    def holders(self, ring: int) -> list[int] | None:
        """The holder bits of each slot of a ring that is mapped here."""
        mapping = _lib.pshm_process_find(self._process, ring)
        if mapping == _ffi.NULL:
            return None
        handle = _ffi.addressof(mapping, "ring")
        return [_lib.pshm_ring_holders(handle, slot) for slot in range(mapping.ring.slots)]

    def used_slots(self, ring: int) -> int:
        """How many slots of a ring that is mapped here are held by anyone."""
        mapping = _lib.pshm_process_find(self._process, ring)
        return 0 if mapping == _ffi.NULL else int(_lib.pshm_ring_used(_ffi.addressof(mapping, "ring")))

    def writable(self, routine: int, address: int, size: int) -> tuple[int, int]:
        """Where to write to this memory of a slot that only `routine` holds, under one new lease.

        The address, or 0 and the ring to be mapped writable first: RINGS when it is not the only holder. The routine's thread.
        """
        ring = _ffi.new("uint32_t *")
        there = _lib.pshm_process_writable(self._process, routine, _ffi.cast("void *", address), size, ring)
        return int(_ffi.cast("uintptr_t", there)), ring[0]

    def recover_owner(self, ring: int) -> None:
        """The owner of a ring is dead: clears the producer's bit in it. The launcher."""
        _lib.pshm_recover_owner(self._process, ring)

    def holds(self, memory: Memory, size: int) -> bool:
        """Whether this memory lies in a slot that this process holds."""
        descriptor = _ffi.new("uint64_t *")
        if not _lib.pshm_process_reference(self._process, memory, size, descriptor, _ffi.new("uint64_t *")):
            return False
        _lib.pshm_process_release(self._process, descriptor[0])
        return True

    def share(self, memory: Memory, size: int) -> memoryview | None:
        """A read-only buffer on this memory, under a lease of its own; None where it lies in no slot that is held here."""
        address = _lib.pshm_process_share(self._process, memory, size)
        return memoryview(_buffer(_gc(address, _release), size)).toreadonly() if address else None

    def lend(self, descriptor: int) -> memoryview:
        """A read-only buffer on a slot that the caller holds, under a lease of its own.

        :raises LookupError: when it is not held here.
        """
        size = _ffi.new("uint64_t *")
        address = _lib.pshm_process_lend(self._process, descriptor, size)
        if not address:
            raise LookupError(f"slot {descriptor:#x} is not held here")
        return memoryview(_buffer(_gc(address, _release), size[0])).toreadonly()

    def leased_slots(self, ring: int) -> int:
        """Slots of a ring that views in this process stand on."""
        leased: int = _lib.pshm_process_leased(self._process, ring)
        return leased

    def release(self, descriptor: int) -> None:
        """Ends one lease of a slot."""
        _lib.pshm_process_release(self._process, descriptor)


class Post:
    """One message on its way out of a port. Reused from message to message, but for one that was interrupted.

    Attributes:
        post: its words: see csrc/port.h.
    """

    __slots__ = ("_slot", "post")

    def __init__(self) -> None:
        self.post: Any = _ffi.new("pshm_post *", {"message": FOREVER})
        self._slot = self.post.slot

    def begin(self, outs: int, token: int) -> None:
        """A new message, without a ticket; the one before is sent, or was given up."""
        post = self.post
        post.outs = outs
        post.token = token
        post.ticket = 0

    def add_slot(self, descriptor: int) -> int:
        """Adds a payload slot, on which the caller has a lease; its index."""
        count: int = self.post.slots
        self._slot[count] = descriptor
        self.post.slots = count + 1
        return count

    def take_lost(self) -> list[tuple[int, int]]:
        """(outgoing edge, token) of the local messages that no receiver will ask for."""
        post = self.post
        count = post.lost
        if not count:
            return []
        lost = [(post.lost_out[i], post.lost_token[i]) for i in range(count)]
        post.lost = 0
        return lost


# Of pshm_delivery, up to its body: place, local, token, cell, unmapped, over_cap, received_ns, sequence, captured_ns, sent_ns,
# origin, kind, head, slots, body_bytes.
DELIVERY = struct.Struct("@IIQQIIQQQQIIIII")
assert DELIVERY.size == _ffi.offsetof("pshm_delivery", "body")


class Port:
    """A routine's end of all its edges. All but `notify()` and recovery belong to the routine's thread.

    :param awaited: how many incoming edges there will be.

    Attributes:
        delivery: what `receive` found.
        raw: a buffer on it; up to its body it is what `DELIVERY` says.
        receive: `receive(timeout_ns) -> status`; sleeps without the GIL.
        refer: `refer(post.post, outs, memory, size) -> place`; see csrc/port.h.
        hand_over: `hand_over(post.post, outs, token, handled) -> status`; may sleep.
        count_handed: `count_handed(sent_ns, captured_ns)`, of the delivery, which came from this process.
        send: `send(post.post, ring, sequence, captured_ns, origin, kind, head, body, len(body)) -> status`; may sleep.
    """

    __slots__ = (
        "_address",
        "_addresses",
        "_body",
        "_descriptor",
        "_head",
        "_port",
        "_sizes",
        "count_handed",
        "delivery",
        "hand_over",
        "process",
        "raw",
        "receive",
        "refer",
        "send",
    )

    def __init__(self, process: Process, routine: int, awaited: int = 0) -> None:
        port = _lib.pshm_port_open(process.handle, routine, awaited)
        if port == _ffi.NULL:
            raise MemoryError(f"no port for routine {routine}")
        self.process = process
        self._port = _ffi.gc(port, _lib.pshm_port_close)
        self.delivery: Any = _ffi.new("pshm_delivery *")
        self.receive: Callable[[int], int] = partial(_lib.pshm_port_receive, self._port, self.delivery)
        self.refer: Callable[[Any, int, Memory, int], int] = partial(_lib.pshm_port_refer, self._port)
        self.hand_over: Callable[[Any, int, int, int], int] = partial(_lib.pshm_port_hand_over, self._port)
        self.count_handed: Callable[[int, int], None] = partial(_lib.pshm_port_count_handed, self._port, self.delivery)
        self.send: Callable[..., int] = partial(_lib.pshm_port_send, self._port)
        self._head = _ffi.buffer(self.delivery, DELIVERY.size)
        self.raw = _ffi.buffer(self.delivery, DELIVERY.size + MESSAGE_BYTES)
        self._addresses, self._sizes = self.delivery.address, self.delivery.slot_bytes
        self._body = memoryview(_ffi.buffer(self.delivery.body))
        self._descriptor = _ffi.new("uint64_t *")
        self._address = _ffi.new("void **")

    def add_out(self, incarnation: int) -> int:
        """:raises ValueError: when the edge is not sound, or the port is full."""
        return self._place(_lib.pshm_port_add_out(self._port, incarnation), incarnation)

    def add_in(self, incarnation: int) -> int:
        """:raises ValueError: when the edge is not sound, or the port is full."""
        return self._place(_lib.pshm_port_add_in(self._port, incarnation), incarnation)

    def expect_in(self, edge: int) -> None:
        """An edge to this routine was linked; incarnations of it come with `add_in`."""
        _lib.pshm_port_expect_in(self._port, edge)

    def remove_in(self, edge: int) -> None:
        """An edge to this routine was unlinked: its stream ends with what is still to be drained."""
        _lib.pshm_port_remove_in(self._port, edge)

    def _place(self, place: int, incarnation: int) -> int:
        if place >= INS:
            raise ValueError(f"incarnation {incarnation} can't be added to this routine")
        return place

    def recover_receiver(self, incarnation: int) -> None:
        """The receiver of an outgoing edge is dead: see csrc/port.h. Any thread.

        :raises MemoryError: with nothing done.
        """
        if not _lib.pshm_port_recover_receiver(self._port, incarnation):
            raise MemoryError(f"incarnation {incarnation} is not recovered")

    def discard_unread(self, incarnation: int) -> None:
        """Takes back what waits for a receiver that will not come. Any thread."""
        _lib.pshm_port_discard_unread(self._port, incarnation)

    def recover_sender(self, place: int) -> None:
        """After DRAINED: see csrc/port.h."""
        _lib.pshm_port_recover_sender(self._port, place)

    def remove_out(self, out: int) -> None:
        _lib.pshm_port_remove_out(self._port, out)

    def end_call(self) -> None:
        """A call of main_logic is over, if there was one."""
        _lib.pshm_port_end_call(self._port)

    def notify(self) -> None:
        """Makes whatever the routine's thread sleeps in return NOTICE. Any thread."""
        _lib.pshm_port_notify(self._port)

    def noticed(self) -> bool:
        noticed: bool = _lib.pshm_port_noticed(self._port)
        return noticed

    def reserve(self, outs: int, ring: int) -> tuple[int, int, int]:
        """(status, descriptor, address) of a slot in an own ring, under one new lease."""
        status = _lib.pshm_port_reserve(self._port, outs, ring, self._descriptor, self._address)
        if status != OK:
            return status, 0, 0
        return OK, self._descriptor[0], int(_ffi.cast("uintptr_t", self._address[0]))

    def pause(self, place: int, paused: bool) -> None:
        """Takes nothing from an incoming edge, or goes on to."""
        _lib.pshm_port_pause(self._port, place, paused)

    def choose(self, outs: int) -> int:
        """Of these outgoing edges, at least one, the one whose receiver has the least to do."""
        out: int = _lib.pshm_port_choose(self._port, outs)
        return out

    def rest(self, timeout_ns: int) -> int:
        """Sleeps, without the GIL, until notified: NOTICE or TIMED_OUT."""
        status: int = _lib.pshm_port_rest(self._port, timeout_ns)
        return status

    def await_room(self, outs: int, timeout_ns: int = FOREVER) -> int:
        """Sleeps, without the GIL, until one of the outgoing edges has room: OK, NOTICE or TIMED_OUT."""
        status: int = _lib.pshm_port_await_room(self._port, outs, timeout_ns)
        return status

    def resume(self, post: Post) -> int:
        status: int = _lib.pshm_port_resume(self._port, post.post)
        return status

    def abandon(self, post: Post, reason: int) -> None:
        _lib.pshm_port_abandon(self._port, post.post, reason)

    def take(self) -> int:
        status: int = _lib.pshm_port_take(self._port, self.delivery)
        return status

    def discard(self, reason: int) -> None:
        _lib.pshm_port_discard(self._port, self.delivery, reason)

    def disown(self, edge: int, reason: int) -> None:
        """Counts a message that was received on an edge as dropped after all."""
        _lib.pshm_port_disown(self._port, edge, reason)

    def head(self) -> tuple[int, ...]:
        """What `DELIVERY` says of the delivery. All at once: one by one they take four times as long."""
        return DELIVERY.unpack(self._head)

    def body(self, size: int) -> bytes:
        """The delivery's body, whose size its head says."""
        return self._body[:size].tobytes()

    def delivered_slots(self, count: int) -> list[memoryview]:
        """A read-only buffer for each of the delivery's `count` payload slots; takes their leases over."""
        self.delivery.slots = 0
        addresses, sizes = self._addresses, self._sizes
        return [memoryview(_buffer(_gc(addresses[k], _release), sizes[k])).toreadonly() for k in range(count)]

    def array(self, size: int) -> memoryview:
        """After ARRAY: a read-only buffer on the array; takes its lease over."""
        return memoryview(_buffer(_gc(self._addresses[0], _release), size)).toreadonly()

    def learn(self, kind: int, text: bytes, size: int) -> int:
        """See csrc/port.h."""
        index: int = _lib.pshm_delivery_learn(self.delivery, kind, text, len(text), size)
        return index

    def close_outs(self) -> None:
        _lib.pshm_port_close_outs(self._port)

    def end_ins(self) -> None:
        _lib.pshm_port_end_ins(self._port)
