"""A routine's port: what it sends and receives messages by."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pipert_shm.binding import hot
from pipert_shm.binding.constants import (
    FOREVER,
    INS,
    LAYOUTS,
    MESSAGE_BYTES,
    OFFSET_BITS,
    OFFSET_MASK,
    OK,
)
from pipert_shm.binding.memory import Memory, address_of
from pipert_shm.binding.native import ffi, lib
from pipert_shm.binding.process import Process


class Post:
    """One message on its way out of a port. It is used for one message after another. The routine's thread only.

    Attributes:
        post: the C structure, which C reads and the send of each message writes to: see csrc/send.h.
    """

    __slots__ = ("_slot", "post")

    def __init__(self) -> None:
        self.post: Any = ffi.new("pshm_post *", {"message": FOREVER})
        self._slot = self.post.slot

    @property
    def address(self) -> int:
        """Where it lies."""
        return address_of(self.post)

    def begin(self, outs: int, token: int, handled: int = 0) -> None:
        """Begins a new message, without a ticket. The one before was sent or given up.

        :param outs: the set of outgoing edges that it goes to.
        :param token: stands for its payload on the local ones of them.
        :param handled: how many received messages it finishes when it is sent.
        """
        post = self.post
        post.outs = outs
        post.token = token
        post.ticket = 0
        post.handled = handled

    def add_slot(self, descriptor: int) -> int:
        """Adds a payload slot, on which the caller has a lease. Returns its index."""
        count: int = self.post.slots
        self._slot[count] = descriptor
        self.post.slots = count + 1
        return count

    @property
    def offered(self) -> bool:
        """Whether an interrupted send has reached an edge: then `Port.resume` goes on with it, else it begins anew."""
        return bool(self.post.offered)

    @property
    def slots(self) -> list[int]:
        """The descriptors of its payload slots."""
        return [self._slot[index] for index in range(self.post.slots)]

    def take_slots(self) -> list[int]:
        """Takes all payload slots back. Returns their descriptors, whose leases are the caller's again."""
        taken = self.slots
        self.post.slots = 0
        return taken

    def remove_out(self, out: int) -> None:
        """Takes one outgoing edge back."""
        self.post.outs &= ~(1 << out)

    def take_lost(self) -> list[tuple[int, int]]:
        """The local messages that no receiver will ask for, each as its outgoing edge and its token. They are told of once."""
        post = self.post
        count = post.lost
        if not count:
            return []
        lost = [(post.lost_out[i], post.lost_token[i]) for i in range(count)]
        post.lost = 0
        return lost


class Delivered(NamedTuple):
    """The words of a delivery, up to its body.

    Attributes:
        place: the incoming edge's place in the port.
        local: whether the message came from this process.
        token: of a local message, the token that it was sent with.
        cell: the word that stood in the queue.
        unmapped: after UNMAPPED, the ring to be mapped first.
        over_cap: whether the receiver holds as many slots as it may, so that it should copy this message's.
        received_ns, captured_ns, sent_ns: CLOCK_MONOTONIC, ns.
        sequence: number of the message at its origin.
        origin: the origin's routine number.
        kind: see `pipert_shm.shm.head`.
        head: bytes of the body's head.
        slots: payload slots.
        body_bytes: bytes of the body, its head included.
    """

    place: int
    local: int
    token: int
    cell: int
    unmapped: int
    over_cap: int
    received_ns: int
    sequence: int
    captured_ns: int
    sent_ns: int
    origin: int
    kind: int
    head: int
    slots: int
    body_bytes: int


def _delivery_struct() -> struct.Struct:
    """The layout of `pshm_delivery` up to its body, as the compiled part has it."""
    fields = dict(ffi.typeof("pshm_delivery").fields)
    code, end = "=", 0
    for name in Delivered._fields:
        field = fields[name]
        size = ffi.sizeof(field.type)
        code += "x" * (field.offset - end) + {4: "I", 8: "Q"}[size]
        end = field.offset + size
    return struct.Struct(code + "x" * (fields["body"].offset - end))


DELIVERY = _delivery_struct()
DELIVERY_BYTES = DELIVERY.size


def read_delivered(raw: bytes) -> Delivered:
    """The words of a delivery from the bytes that `Port.raw` began with."""
    return Delivered._make(DELIVERY.unpack_from(raw))


def slot_and_offset(reference: int) -> tuple[int, int]:
    """Which of a post's slots `Port.refer` found an array in, and where in that slot the array begins."""
    return reference >> OFFSET_BITS, reference & OFFSET_MASK


class Port:
    """A routine's ends of all its edges. The routine's thread only, but for `notify()` and where a method says so.

    :param awaited: how many incoming edges the port will get.
    :raises MemoryError: when there is no memory for it.

    Attributes:
        delivery: the C structure of the message that `receive` found.
        hot: sends and receives arrays in C: see csrc/hot/path.c.
        raw: a buffer on it, for `read_delivered`; the body begins at DELIVERY_BYTES.
        receive: `receive(timeout_ns) -> status`; sleeps without the GIL.
        refer: `refer(post.post, outs, memory, size) -> reference`, for `slot_and_offset`, or NO_SLOT; see csrc/send.h.
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
        "hot",
        "origin",
        "process",
        "raw",
        "receive",
        "refer",
        "send",
    )

    def __init__(self, process: Process, routine: int, awaited: int = 0, origin: int | None = None) -> None:
        port = lib.pshm_port_open(process.handle, routine, awaited)
        if port == ffi.NULL:
            raise MemoryError(f"no port for routine {routine}")
        if origin is not None:
            port.origin = origin
        self.origin: int = port.origin
        self.process = process
        self._port = ffi.gc(port, lib.pshm_port_close)
        self.delivery: Any = ffi.new("pshm_delivery *")
        self.receive: Callable[[int], int] = partial(lib.pshm_port_receive, self._port, self.delivery)
        self.refer: Callable[[Any, int, Memory, int], int] = partial(lib.pshm_port_refer, self._port)
        self.count_handed: Callable[[int, int], None] = partial(lib.pshm_port_count_handed, self._port, self.delivery)
        self.send: Callable[..., int] = partial(lib.pshm_port_send, self._port)
        owners = self._port, self.delivery
        self.hot = hot.HotPath(owners, *map(address_of, owners))
        self._head = ffi.buffer(self.delivery, DELIVERY.size)
        self.raw = ffi.buffer(self.delivery, DELIVERY.size + MESSAGE_BYTES)
        self._addresses, self._sizes = self.delivery.address, self.delivery.slot_bytes
        self._body = memoryview(ffi.buffer(self.delivery.body))
        self._descriptor = ffi.new("uint64_t *")
        self._address = ffi.new("void **")

    def add_out(self, incarnation: int) -> int:
        """:raises ValueError: when the edge is not sound, or the port is full."""
        return self._place(lib.pshm_port_add_out(self._port, incarnation), incarnation)

    def add_in(self, edge: int, incarnation: int) -> int:
        """Adds an incarnation of an edge, by its `Incarnation.name`. One that the launcher has withdrawn counts as drained.

        :raises ValueError: when the edge is not sound, or the port is full.
        """
        return self._place(lib.pshm_port_add_in(self._port, edge, incarnation), incarnation)

    def expect_in(self, edge: int) -> None:
        """Says that an edge to this routine was linked. Its incarnations come with `add_in`."""
        lib.pshm_port_expect_in(self._port, edge)

    def remove_in(self, edge: int) -> None:
        """Says that an edge to this routine was unlinked. Its stream ends with the messages that still wait."""
        lib.pshm_port_remove_in(self._port, edge)

    def let_end(self, hold: int) -> None:
        """Lets the routine end again that was held with this number: see `RoutineRecord.hold`. A later hold stays."""
        lib.pshm_port_let_end(self._port, hold)

    def _place(self, place: int, incarnation: int) -> int:
        if place >= INS:
            raise ValueError(f"incarnation {incarnation} can't be added to this routine")
        return place

    def recover_receiver(self, incarnation: int) -> None:
        """Recovers an outgoing edge from its receiver's death: see csrc/recover.h. Any thread.

        :raises MemoryError: with nothing done.
        """
        if not lib.pshm_port_recover_receiver(self._port, incarnation):
            raise MemoryError(f"incarnation {incarnation} is not recovered")

    def discard_unread(self, incarnation: int) -> None:
        """Takes back the messages that wait for a receiver which will not come back. Any thread."""
        lib.pshm_port_discard_unread(self._port, incarnation)

    def recover_sender(self, place: int) -> None:
        """After DRAINED: clears what a dead sender left. See csrc/recover.h."""
        lib.pshm_port_recover_sender(self._port, place)

    def remove_out(self, out: int) -> None:
        """Sends no more on an outgoing edge, and gives its place back."""
        lib.pshm_port_remove_out(self._port, out)

    def end_call(self) -> None:
        """Ends the call of `main_logic`, if one has begun, for `busy_ns`."""
        lib.pshm_port_end_call(self._port)

    def notify(self) -> None:
        """Wakes the routine's thread: the call that it sleeps in returns NOTICE. Any thread."""
        lib.pshm_port_notify(self._port)

    def noticed(self) -> bool:
        """Takes the notice back; whether there was one."""
        noticed: bool = lib.pshm_port_noticed(self._port)
        return noticed

    def reserve(self, outs: int, ring: int) -> tuple[int, int, int]:
        """A free slot of one's own ring, under one new lease: its status, descriptor and address. May sleep, without the GIL.

        If the status is not OK, there is no slot.
        """
        status = lib.pshm_port_reserve(self._port, outs, ring, self._descriptor, self._address)
        if status != OK:
            return status, 0, 0
        return OK, self._descriptor[0], int(ffi.cast("uintptr_t", self._address[0]))

    def pause(self, place: int, paused: bool) -> None:
        """Stops, or goes on, taking messages from an incoming edge."""
        lib.pshm_port_pause(self._port, place, paused)

    def choose(self, outs: int) -> int:
        """The outgoing edge of these, at least one, whose receiver has the least to do."""
        out: int = lib.pshm_port_choose(self._port, outs)
        return out

    def rest(self, timeout_ns: int) -> int:
        """Sleeps, without the GIL, until notified: NOTICE or TIMED_OUT."""
        status: int = lib.pshm_port_rest(self._port, timeout_ns)
        return status

    def bell_word(self) -> int:
        """What `nap` needs. Read it before you look at what you wait for."""
        word: int = lib.pshm_port_word(self._port)
        return word

    def nap(self, word: int, timeout_ns: int) -> None:
        """Sleeps, without the GIL, until somebody has rung since `word` was read, or notified; so long at most."""
        lib.pshm_port_nap(self._port, word, timeout_ns)

    def await_room(self, outs: int, timeout_ns: int = FOREVER) -> int:
        """Sleeps, without the GIL, until one of the outgoing edges has room: OK, NOTICE or TIMED_OUT."""
        status: int = lib.pshm_port_await_room(self._port, outs, timeout_ns)
        return status

    def resume(self, post: Post) -> int:
        """Goes on with a send that a notice interrupted; a status, as of `send`. May sleep, without the GIL."""
        status: int = lib.pshm_port_resume(self._port, post.post)
        return status

    def abandon(self, post: Post, reason: int) -> None:
        """Gives up a message, counted under a reason on each edge that it has not reached."""
        lib.pshm_port_abandon(self._port, post.post, reason)

    def take(self) -> int:
        """Takes the message that `receive` found, after UNMAPPED; a status."""
        status: int = lib.pshm_port_take(self._port, self.delivery)
        return status

    def discard(self, reason: int) -> None:
        """Drops the message that `receive` found, counted under a reason."""
        lib.pshm_port_discard(self._port, self.delivery, reason)

    def disown(self, edge: int, reason: int) -> None:
        """Counts a message that was taken from an edge as dropped after all."""
        lib.pshm_port_disown(self._port, edge, reason)

    def head(self) -> Delivered:
        """The words of the delivery, all at once: read one by one they take longer."""
        return Delivered._make(DELIVERY.unpack(self._head))

    def body(self, size: int) -> bytes:
        """The delivery's body.

        :param size: its bytes: `head().body_bytes`.
        """
        return self._body[:size].tobytes()

    def delivered_slots(self, count: int) -> list[Any]:
        """A read-only buffer on each of the delivery's `count` payload slots. They take over its leases."""
        self.delivery.slots = 0
        addresses, sizes = self._addresses, self._sizes
        return [hot.lease(address_of(addresses[k]), sizes[k], False) for k in range(count)]

    def learn(self, kind: int, text: bytes, size: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Recognises arrays like this one from now on, for `hot`: see csrc/layout.h."""
        index = lib.pshm_delivery_learn(self.delivery, kind, text, len(text), size)
        if index < LAYOUTS:
            self.hot.learn(index, shape, dtype)

    def close_outs(self) -> None:
        """Ends the streams of all outgoing edges."""
        lib.pshm_port_close_outs(self._port)

    def end_ins(self) -> None:
        """Takes no more on any incoming edge: their senders drop what they have for it."""
        lib.pshm_port_end_ins(self._port)
