"""The friendly face of csrc/: the only module that touches the compiled binding.

Addresses and descriptors are plain ints here. The objects own their C memory; a forked child must not use those that it
inherited (their leases do nothing there).
"""

from __future__ import annotations

import os
from typing import Any

import pipert_shm._native as _native

_ffi = _native.ffi
_lib = _native.lib

OK: int = _lib.PSHM_OK
NOTICE: int = _lib.PSHM_NOTICE
TIMED_OUT: int = _lib.PSHM_TIMED_OUT
CLOSED: int = _lib.PSHM_CLOSED
UNMAPPED: int = _lib.PSHM_UNMAPPED
FULL: int = _lib.PSHM_FULL
PROTOCOL: int = _lib.PSHM_PROTOCOL

PRODUCER: int = _lib.PSHM_PRODUCER
RINGS: int = _lib.PSHM_RINGS
OUTS: int = _lib.PSHM_OUTS
INS: int = _lib.PSHM_INS
BUCKETS: int = _lib.PSHM_BUCKETS
MESSAGE_SLOTS: int = _lib.PSHM_MESSAGE_SLOTS
MESSAGE_BYTES: int = _lib.PSHM_MESSAGE_BYTES

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
}

FOREVER = 2**64 - 1

EDGE_FREE: int = _lib.PSHM_EDGE_FREE
EDGE_LIVE: int = _lib.PSHM_EDGE_LIVE
EDGE_CLOSING: int = _lib.PSHM_EDGE_CLOSING

BUCKET_NS: list[int] = [_lib.pshm_histogram_value(bucket) for bucket in range(BUCKETS)]


def now_ns() -> int:
    """CLOCK_MONOTONIC, ns: the clock of all time stamps, the same in every process of the machine."""
    value: int = _lib.pshm_now()
    return value


def guard(fd: int) -> None:
    """Closes `fd` in every child that is forked from now on.

    :raises OSError: when too many are guarded.
    """
    if not _lib.pshm_guard(fd):
        raise OSError(f"can't keep file descriptor {fd} out of forked children: the table is full")


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


def control_bytes(routines: int, edges: int, cells: int) -> int:
    size: int = _lib.pshm_control_bytes(routines, edges, cells)
    return size


def format_control(address: int, routines: int, edges: int, cells: int, budget: int) -> None:
    _lib.pshm_control_format(_ffi.cast("void *", address), routines, edges, cells, budget)


def ring_bytes(slots: int, slot_bytes: int) -> int:
    """Bytes of a ring's segment; 0 when there can be no such ring."""
    size: int = _lib.pshm_ring_bytes(slots, slot_bytes)
    return size


def format_ring(address: int, ring: int, owner: int, slots: int, slot_bytes: int) -> None:
    _lib.pshm_ring_format(_ffi.cast("pshm_ring_head *", address), ring, owner, slots, slot_bytes)


def borrow(address: int, size: int) -> memoryview:
    """A read-only buffer on a slot, for one lease of it: the slot is released when the last view dies.

    Nothing made from it can be made writable again. The last view may die on any thread.
    """
    owner = _ffi.gc(_ffi.cast("void *", address), _lib.pshm_release)
    return memoryview(_ffi.buffer(owner, size)).toreadonly()


def loan(address: int, size: int) -> memoryview:
    """The same, writable: for the routine whose ring it is."""
    return memoryview(_ffi.buffer(_ffi.gc(_ffi.cast("void *", address), _lib.pshm_release), size))


def writable_memory(address: int, size: int) -> memoryview:
    """A writable buffer that owns nothing: valid while the caller holds the slot."""
    return memoryview(_ffi.buffer(_ffi.cast("void *", address), size))


class EdgeRecord:
    """One edge's words in the control segment: what build() fixed of it, and its counters."""

    __slots__ = ("_edge", "_process", "_record", "number")

    def __init__(self, process: Process, number: int) -> None:
        self._process = process
        self._record = _lib.pshm_control_edge(process.control, number)
        self._edge = _ffi.new("pshm_edge *")
        self.number = number

    def format(
        self,
        *,
        sender: int,
        receiver: int,
        bit: int,
        policy: int,
        capacity: int,
        borrow_cap: int,
        timeout_ns: int,
    ) -> None:
        """Makes the edge live. `bit` 0 makes it local. The creator only, before its ends know of it."""
        record = self._record
        record.sender = sender
        record.receiver = receiver
        record.bit = bit
        record.local = bit == 0
        record.policy = policy
        record.capacity = capacity
        record.borrow_cap = borrow_cap
        record.timeout_ns = timeout_ns
        record.receiver_ended = 0
        _lib.pshm_queue_format(_ffi.addressof(record, "queue"))
        record.state = EDGE_LIVE

    @property
    def state(self) -> int:
        state: int = self._record.state
        return state

    @state.setter
    def state(self, state: int) -> None:
        self._record.state = state

    @property
    def bit(self) -> int:
        bit: int = self._record.bit
        return bit

    @property
    def sender(self) -> int:
        sender: int = self._record.sender
        return sender

    def reopen_stream(self) -> None:
        """Takes the end of the stream back. The launcher, while the sender rests."""
        _lib.pshm_queue_reopen(self._queue())

    def reopen_receiver(self) -> None:
        """Takes the receiver's end back. The launcher, while the receiver rests."""
        self._record.receiver_ended = 0

    def end_receiver(self) -> None:
        """For a receiver that died: its sender drops from now on."""
        self._record.receiver_ended = 1

    def close(self) -> None:
        """Ends the stream of a sender that died."""
        _lib.pshm_queue_close(self._queue())

    def _queue(self) -> Any:
        _lib.pshm_edge_attach(self._edge, self._process.control, self.number)
        return _ffi.addressof(self._edge, "queue")

    def waiting(self) -> int:
        depth: int = _lib.pshm_queue_depth(self._queue())
        return depth

    def counters(self) -> dict[str, int]:
        record = self._record
        return {name: getattr(record, name) for name in ("sent", "received", "private_bytes", "protocol_errors")}

    def dropped(self) -> dict[str, int]:
        dropped = self._record.dropped
        return {reason: dropped[number] for reason, number in REASONS.items()}

    def hop_histogram(self) -> list[int]:
        return list(self._record.hop)

    def count_private(self, size: int) -> None:
        """Adds bytes that were copied on receipt. The receiver's thread."""
        self._record.private_bytes += size

    def count_hop(self, ns: int) -> None:
        """Adds a local hop, whose sending time C does not know. The receiver's thread."""
        _lib.pshm_histogram_add(self._record.hop, ns)


class RoutineRecord:
    """One routine's words in the control segment."""

    __slots__ = ("_number", "_process", "_record")

    def __init__(self, process: Process, number: int) -> None:
        self._process = process
        self._number = number
        self._record = _lib.pshm_control_routine(process.control, number)

    def ring(self) -> None:
        """Makes the routine look at its queues again. Any thread."""
        _lib.pshm_control_ring(self._process.control, self._number)

    @property
    def state(self) -> int:
        state: int = self._record.state
        return state

    @state.setter
    def state(self, state: int) -> None:
        self._record.state = state

    def counters(self) -> dict[str, int]:
        record = self._record
        names = ("received", "sent", "errors", "logs_lost", "copied_bytes", "in_band_bytes", "busy_ns")
        return {name: getattr(record, name) for name in names}

    def age_histogram(self) -> list[int]:
        return list(self._record.age)

    def count_error(self) -> None:
        self._record.errors += 1

    def count_lost_log(self) -> None:
        self._record.logs_lost += 1

    def count_sending(self, *, copied: int, in_band: int) -> None:
        """Adds to the sender's byte counters. The routine's thread."""
        self._record.copied_bytes += copied
        self._record.in_band_bytes += in_band

    def count_sent(self) -> None:
        """One more message sent, however many receivers it has. The routine's thread."""
        self._record.sent += 1

    def count_busy(self, ns: int) -> None:
        self._record.busy_ns += ns

    def count_age(self, ns: int) -> None:
        _lib.pshm_histogram_add(self._record.age, ns)


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

    def ring_owner(self, ring: int) -> int | None:
        """Routine number of the producer of a ring that is mapped here."""
        mapping = _lib.pshm_process_find(self._process, ring)
        return None if mapping == _ffi.NULL else int(mapping.ring.owner)

    def spend(self, size: int) -> int:
        """Takes `size` bytes of the pipe's memory budget, or nothing; returns what was left before."""
        left: int = _lib.pshm_control_spend(self.control, size)
        return left

    def refund(self, size: int) -> None:
        _lib.pshm_control_refund(self.control, size)

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

    def sweep(self, ring: int, bit: int) -> int:
        """Clears a dead edge's bit in every slot of a ring; how many had it."""
        mapping = _lib.pshm_process_find(self._process, ring)
        return 0 if mapping == _ffi.NULL else int(_lib.pshm_ring_sweep(_ffi.addressof(mapping, "ring"), 1 << bit))

    def borrowed(self, edge: int) -> int:
        """How many slots this process holds through an edge."""
        count: int = _lib.pshm_process_borrowed(self._process, edge)
        return count

    def release(self, descriptor: int) -> None:
        """Ends one lease of a slot."""
        _lib.pshm_process_release(self._process, descriptor)


class Post:
    """One message on its way out of a port. Reused from message to message, but for one that was interrupted."""

    __slots__ = ("_slot", "post")

    def __init__(self) -> None:
        self.post: Any = _ffi.new("pshm_post *")
        self._slot = self.post.slot

    def begin(self, outs: int, token: int) -> None:
        post = self.post
        post.outs = outs
        post.token = token
        post.slots = 0
        post.lost = 0
        post.message = FOREVER
        post.offered = 0

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


class Port:
    """A routine's end of all its edges. All but `notify()` belong to the routine's thread."""

    __slots__ = ("_address", "_body", "_delivery", "_descriptor", "_offset", "_port", "delivery", "process")

    def __init__(self, process: Process, routine: int) -> None:
        port = _lib.pshm_port_open(process.handle, routine)
        if port == _ffi.NULL:
            raise MemoryError(f"no port for routine {routine}")
        self.process = process
        self._port = _ffi.gc(port, _lib.pshm_port_close)
        self._delivery = _ffi.new("pshm_delivery *")
        self.delivery: Any = self._delivery
        self._body = memoryview(_ffi.buffer(self._delivery.body))
        self._descriptor = _ffi.new("uint64_t *")
        self._offset = _ffi.new("uint64_t *")
        self._address = _ffi.new("void **")

    def add_out(self, edge: int) -> int:
        """:raises ValueError: when the edge is not sound, or the port is full."""
        return self._place(_lib.pshm_port_add_out(self._port, edge), edge)

    def add_in(self, edge: int) -> int:
        """:raises ValueError: when the edge is not sound, or the port is full."""
        return self._place(_lib.pshm_port_add_in(self._port, edge), edge)

    def _place(self, place: int, edge: int) -> int:
        if place >= INS:
            raise ValueError(f"edge {edge} can't be added to this routine")
        return place

    def remove_out(self, out: int) -> None:
        _lib.pshm_port_remove_out(self._port, out)

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

    def reference(self, outs: int, address: int, size: int) -> tuple[int, int] | None:
        """(descriptor, offset) of the slot that this memory lies in, under one new lease; None where it must be copied."""
        if _lib.pshm_port_reference(self._port, outs, _ffi.cast("void *", address), size, self._descriptor, self._offset):
            return self._descriptor[0], self._offset[0]
        return None

    def send(
        self, post: Post, ring: int, sequence: int, captured_ns: int, origin: int, kind: int, hops: int, body: bytes
    ) -> int:
        status: int = _lib.pshm_port_send(
            self._port, post.post, ring, sequence, captured_ns, origin, kind, hops, body, len(body)
        )
        return status

    def resume(self, post: Post) -> int:
        status: int = _lib.pshm_port_resume(self._port, post.post)
        return status

    def abandon(self, post: Post, reason: int) -> None:
        _lib.pshm_port_abandon(self._port, post.post, reason)

    def receive(self, timeout_ns: int) -> int:
        """Fills `delivery`; sleeps without the GIL."""
        status: int = _lib.pshm_port_receive(self._port, self._delivery, timeout_ns)
        return status

    def take(self) -> int:
        status: int = _lib.pshm_port_take(self._port, self._delivery)
        return status

    def discard(self, reason: int) -> None:
        _lib.pshm_port_discard(self._port, self._delivery, reason)

    def body(self) -> memoryview:
        """The delivery's body; overwritten by the next receive."""
        return self._body[: self._delivery.body_bytes]

    def delivered_slots(self) -> list[memoryview]:
        """A read-only buffer for each payload slot of the delivery; takes its leases over."""
        delivery = self._delivery
        count = delivery.slots
        delivery.slots = 0
        addresses, sizes = delivery.address, delivery.slot_bytes
        gc, release, buffer = _ffi.gc, _lib.pshm_release, _ffi.buffer
        return [memoryview(buffer(gc(addresses[k], release), sizes[k])).toreadonly() for k in range(count)]

    def close_outs(self) -> None:
        _lib.pshm_port_close_outs(self._port)

    def end_ins(self) -> None:
        _lib.pshm_port_end_ins(self._port)
