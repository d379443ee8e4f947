"""A running routine's outgoing and incoming wires: payloads to messages and back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipert_shm import forked, native
from pipert_shm.codec import (
    ARRAY,
    STAMP,
    STAMPED,
    TICKET,
    TICKETED,
    TOMBSTONE,
    Encoder,
    decode,
    extent_of,
    layout_of,
)
from pipert_shm.data import Meta
from pipert_shm.descriptors import is_shortage
from pipert_shm.errors import NoFreeSlot, PayloadError, SharedMemoryFull
from pipert_shm.in_flow import HandOver, Opener, itself
from pipert_shm.memory import (
    FEWEST_SLOTS,
    MESSAGE_SLOT_BYTES,
    RETRY_NS,
    ControlSegment,
    Slots,
    Stopping,
    open_every_ring,
    open_ring,
)
from pipert_shm.plan import IN_PASSING, TAP_SLOTS, EdgePlan
from pipert_shm.transmit import BasicTransmitter, DataTransmitter, SharedMemoryTransmitter, changes

FEWEST_MESSAGES = 8
DELIVERY_BYTES = native.DELIVERY.size  # up to its body

LocalMessages = dict[int, tuple[Opener, Meta, int]]  # by token: how to open it, and when it was sent
Message = tuple[Any, Meta]


class _Nothing:
    """What stands in an ordered flow for a result that there is not."""


NOTHING = _Nothing()
WITH_MESSAGES = (native.LIVE, native.SENDER_DEAD)  # states of an incarnation
SKIPPED = -1  # a status: what was there is dropped, or was the end of what a dead sender left; there may be more


class _Group:
    """The outgoing edges that share a transmitter: one message serves them all."""

    __slots__ = ("in_band", "local", "outs", "remote", "spreads", "tables", "threshold", "transform")

    def __init__(self, transmitter: DataTransmitter) -> None:
        self.transform = transmitter.transmit() if changes(transmitter) else None
        self.in_band = transmitter.in_band
        self.threshold = transmitter.data_size_threshold
        self.outs = 0
        self.remote = 0
        self.local: list[int] = []
        self.tables: list[LocalMessages] = []  # of these, where it is the straight one
        self.spreads: dict[int, _Spread] = {}


@dataclass(slots=True)
class _Spread:
    """Edges to the replicas of one routine: each message goes to one of them."""

    outs: int
    wait_ns: int  # how long for room


class Outbox:
    """What a routine sends by. The routine's thread only.

    :param local: per edge number, the payloads that wait within this process.
    :param ordered: whether it is in a replicated flow whose order is restored: then tickets are passed on.
    :param lanes: if it is, by sender to the flow, the edge on which this replica gets its messages.
    """

    def __init__(
        self,
        segment: ControlSegment,
        port: native.Port,
        number: int,
        name: str,
        slots: int,
        message_slots: int,
        local: dict[int, LocalMessages],
        *,
        ordered: bool = False,
        lanes: dict[int, native.EdgeRecord] | None = None,
    ) -> None:
        self._home = forked.pid
        self._port = port
        self._number = number
        self._name = name
        self._segment = segment
        self._record = native.RoutineRecord(segment.process, number)
        self._words = self._record.words
        self._local = local
        self._groups: dict[tuple[type, int], _Group] = {}
        self._straight: _Group | None = None
        self.outs = 0  # of all groups
        self._edges: dict[int, tuple[int, int]] = {}  # edge and incarnation
        self._wires = 0  # all of them but taps
        self._held_elsewhere: dict[int, int] = {}  # slots that the receiver of each wire out of the flow may hold
        self._ticketed = 0
        self._ordered = ordered
        self._lanes = lanes or {}
        self._finished: dict[int, int] = {}  # by sender, the last ticket whose result is sent as soon as nothing is unsent
        self._post = native.Post()
        self._token = 0
        self._unsent: deque[tuple[_Group, Any, Meta, int]] = deque()
        self.sequence = 0  # of the message that is sent, or was last
        self._handled = 0  # received messages whose results are not sent yet
        self.unsent = False  # whether there is anything for `flush` to do
        self._stuck = False
        self._again: tuple[Any, ...] | None = None  # a send that found no message slot: nothing of it is out yet
        self._messages = Slots(segment, port, number, name, 0, f"the messages of {name!r}")
        self.slots = Slots(segment, port, number, name, 0, f"the ring of {name!r}")
        self.want_slots(slots, message_slots)
        self._encoder = Encoder(port, self.slots, name)
        self.hand_over = HandOver(segment.process, self.slots, name)

    def want_slots(self, slots: int, message_slots: int) -> None:
        """Says how many slots of each kind the wires of now need: it moves to larger rings where there are fewer."""
        self.slots.want(max(slots, FEWEST_SLOTS + TAP_SLOTS))
        self._messages.want(max(message_slots, FEWEST_MESSAGES))

    def begin(self) -> None:
        """A run begins: opens the streams that ended with the one before."""
        for _, incarnation in self._edges.values():
            native.Incarnation(self._segment.process, incarnation).reopen()

    def add(self, edge: EdgePlan, incarnation: int) -> None:
        """:raises SharedMemoryFull, OSError: when memory or a descriptor is short; nothing is added then."""
        if not edge.local and self._messages.ring < 0:
            self._messages.fit(MESSAGE_SLOT_BYTES)
        out = self._port.add_out(incarnation)
        self._edges[out] = edge.number, incarnation
        self._wires |= (not edge.tap) << out
        self._ticketed |= edge.ticketed << out
        kind = type(edge.transmitter)
        own = kind in (SharedMemoryTransmitter, BasicTransmitter)  # then the settings say all of it
        key = (kind, edge.transmitter.data_size_threshold if own else id(edge.transmitter))
        group = self._groups.setdefault(key, _Group(edge.transmitter))
        group.outs |= 1 << out
        self.outs |= 1 << out
        if edge.spread is not None:
            wait_ns = native.FOREVER if edge.timeout is None else int(edge.timeout * 1e9)
            spread = group.spreads.setdefault(edge.spread, _Spread(0, wait_ns if edge.policy == "block" else 0))
            spread.outs |= 1 << out
        if edge.local:
            group.local.append(out)
            self._local.setdefault(edge.number, {})
        else:
            group.remote |= 1 << out
            if not edge.tap:
                self._held_elsewhere[out] = edge.capacity + edge.borrow_cap + IN_PASSING
                self.slots.needed_elsewhere = sum(self._held_elsewhere.values())
        self._straight = self._find_straight()

    def remove(self, edge: int) -> bool:
        """Sends no more on an edge: its stream ends with what was sent. False when the edge is not one of ours."""
        out = next((out for out, (number, _) in self._edges.items() if number == edge), None)
        if out is None:
            return False
        self._port.remove_out(out)
        self._forget_lost()
        if self._again is not None:
            self._post.post.outs &= ~(1 << out)
        _, incarnation = self._edges.pop(out)
        self.outs &= ~(1 << out)
        self._wires &= ~(1 << out)
        self._ticketed &= ~(1 << out)
        self._held_elsewhere.pop(out, None)
        self.slots.needed_elsewhere = sum(self._held_elsewhere.values())
        for group in self._groups.values():
            group.outs &= ~(1 << out)
            group.remote &= ~(1 << out)
            for spread in group.spreads.values():
                spread.outs &= ~(1 << out)
            if out in group.local:
                group.local.remove(out)
        self._straight = self._find_straight()
        native.Incarnation(self._segment.process, incarnation).close()
        return True

    def writable(self, array: np.ndarray) -> np.ndarray | None:
        """The array's own memory, to be written to, where this routine alone holds it; else None."""
        process = self._segment.process
        first, low, span = extent_of(array)
        address, ring = process.writable(self._number, low, span)
        if not address and ring != native.RINGS:
            try:
                open_ring(self._segment, ring, writable=True)
            except OSError as error:
                if not is_shortage(error):
                    raise
                return None  # a copy will do, for now
            address, _ = process.writable(self._number, low, span)
        if not address:
            return None
        return np.ndarray(array.shape, array.dtype, native.loan(address, span), first - low, array.strides)

    def copy(self, array: np.ndarray) -> np.ndarray | None:
        """A copy in a slot where one is free, so that it can be sent as it is; None where it won't be sent, or has gaps."""
        if not self._wires or not array.flags.c_contiguous:
            return None
        copy = self.slots.loan_now(array.shape, array.dtype)
        np.copyto(copy, array)
        return copy

    def recover_receiver(self, incarnation: int) -> None:
        """The receiver of an edge is dead: makes its queue fit for the next one. Any thread."""
        self._port.recover_receiver(incarnation)

    def give_up_receiver(self, incarnation: int) -> None:
        """The receiver of an edge is dead for good: takes back all that it has. Any thread."""
        self._port.discard_unread(incarnation)
        self._port.recover_receiver(incarnation)

    @property
    def has_wires(self) -> bool:
        """Whether it sends to anybody; a tap is no wire."""
        return bool(self._wires)

    @property
    def leaves_flow(self) -> bool:
        """Whether any wire leads to another process; a tap is none."""
        return any(group.remote & self._wires for group in self._groups.values())

    def await_room(self) -> int:
        """Waits until one of the wires has room for a message; a status."""
        return self._port.await_room(self._wires)

    @property
    def stays_in_flow(self) -> bool:
        """Whether any wire leads to a routine of this process."""
        return any(group.local for group in self._groups.values())

    def loan(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        return self.slots.loan(shape, dtype, self.outs) if self.leaves_flow else self.slots.loan_now(shape, dtype)

    def put(self, payload: list[Any], meta: Meta, handled: int = 0) -> None:
        """Takes the one payload out of the list, to be sent by the next `flush`: so nobody here holds it when it is received.

        :param handled: how many received messages it is the result of: they are done with when it counts as sent.
        """
        data = payload.pop()
        self.unsent = True
        if self._ordered and meta.ticket is not None and not self.stays_in_flow:
            self._finished[meta.ticket[0]] = meta.ticket[1]
        if not self.outs:
            self._handled += handled
            return
        if self._ticketed:
            meta.ticket = self._number, self._record.next_ticket()
        elif not self._ordered:
            meta.ticket = None
        if data is not NOTHING:
            self._words.sent += 1
        for group in self._groups.values():
            if group.outs:
                self._unsent.append((group, data, meta, handled))
                handled = 0

    def send(self, payload: list[Any], meta: Meta, handled: int = 0) -> None:
        """`put` and `flush`; in one, where there is nothing to decide: an array in a slot, to one group of edges."""
        group = self._straight
        if group is None or self.unsent or type(payload[0]) is not np.ndarray:
            sent = False
        elif group.local:
            sent = self._send_in_flow(group, payload, meta, handled)
        else:
            sent = self._send_away(group, payload, meta, handled)
        if not sent:
            self.put(payload, meta, handled)
            self.flush()

    def _send_away(self, group: _Group, payload: list[Any], meta: Meta, handled: int) -> bool:
        """Sends an array that lies in a slot to other processes; False, with nothing done, for any other."""
        post, outs = self._post, group.outs
        if not self._messages.settled:
            self._messages.fit(MESSAGE_SLOT_BYTES)
        try:
            described = self._encoder.refer(post, payload[0], outs, group.threshold)
        except BaseException:
            payload.clear()
            self._words.sent += 1
            self._handled += handled
            self._drop(outs, native.REASONS["error"])
            raise
        if described is None:
            return False
        payload.clear()  # before the push: the receiver may then be the only holder
        self._words.sent += 1
        post.post.outs = outs
        if handled:
            post.post.handled = handled
        kind, head = ARRAY, meta.raw_hops
        if meta.pts is not None:
            kind |= STAMPED
            head += STAMP.pack(meta.pts)
        body = head + described
        self.sequence = sequence = meta.sequence
        ring = self._messages.ring
        message = post.post, ring, sequence, meta.captured_ns, meta.origin_number, kind, len(head), body, len(body)
        status = self._port.send(*message)
        if status != native.OK:
            self._finish(status, message)
        return True

    def _send_in_flow(self, group: _Group, payload: list[Any], meta: Meta, handled: int) -> bool:
        """Hands an array that lies in a slot to receivers in this flow; False, with nothing done, for any other."""
        own = self.hand_over.refer(payload[0], group.threshold)
        if own is None:
            return False
        payload.clear()
        self._words.sent += 1
        self._token = token = self._token + 1
        self.sequence = meta.sequence
        meta.raw_hops  # noqa: B018  settled here, since several threads read them
        message = own.view, meta, native.now_ns()
        for table in group.tables:
            table[token] = message
        status = self._port.hand_over(self._post.post, group.outs, token, handled)
        if status != native.OK:
            self._finish(status)
        return True

    def _find_straight(self) -> _Group | None:
        """The only group, if all of its messages go the same way, as they are."""
        groups = [group for group in self._groups.values() if group.outs]
        if len(groups) != 1 or self._ordered or self._ticketed:
            return None
        group = groups[0]
        if group.spreads or group.transform is not None or group.in_band or (group.local and group.remote):
            return None
        group.tables = [self._local[self._edges[out][0]] for out in group.local]
        return group

    def flush(self) -> None:
        """Sends what was put, and goes on with what an interruption left unsent.

        :raises Stopping: when it is interrupted; what is not yet sent waits for the next call.
        :raises PayloadError, SharedMemoryFull: the message in question is dropped then, and counted; the rest waits likewise.
        """
        if self._stuck:
            self._stuck = False
            again, self._again = self._again, None
            if again is not None:
                self._finish(self._port.send(*again), again)
            else:
                self._finish(self._port.resume(self._post))
        while self._unsent:
            self._send_next()
        while self._finished:
            sender, ticket = self._finished.popitem()
            self._lanes[sender].finish(ticket)
        if self._handled:
            self._count_handled()
        self.unsent = False

    def _count_handled(self) -> None:
        """Those whose results no wire was there for."""
        self._words.handled += self._handled
        self._handled = 0

    def abandon(self) -> None:
        """Gives up what is unsent, counted as stopped."""
        reason = native.REASONS["stopped"]
        if self._stuck:
            self._port.abandon(self._post, reason)
            self._forget_lost()
            self._stuck = False
            self._again = None
        for group, _, _, handled in self._unsent:
            self._handled += handled
            self._drop(self._one_each(group), reason)
        self._unsent.clear()
        self._count_handled()
        self.unsent = bool(self._finished)

    def lose(self) -> None:
        """Counts a message that was not even made, for want of a slot, as dropped on every wire."""
        outs = 0
        for group in self._groups.values():
            outs |= self._one_each(group)
        if outs:
            self._drop(outs, native.REASONS["no_slot"])

    def _one_each(self, group: _Group) -> int:
        """The edges that a message counts on: of the replicas of a routine, one."""
        outs = group.outs
        for spread in group.spreads.values():
            if spread.outs:
                outs = outs & ~spread.outs | 1 << self._port.choose(spread.outs)
        return outs

    def _drop(self, outs: int, reason: int) -> None:
        self._post.begin(outs, 0)
        self._post.post.handled = self._handled
        self._handled = 0
        self._port.abandon(self._post, reason)
        self._post.take_lost()

    def _choose(self, group: _Group) -> int:
        """The edges that a message goes to: of the replicas of a routine, the one that has the least to do."""
        for spread in group.spreads.values():
            if spread.wait_ns and self._port.await_room(spread.outs, spread.wait_ns) == native.NOTICE:
                raise Stopping
        return self._one_each(group)

    def _send_next(self) -> None:
        group = self._unsent[0][0]
        outs = self._choose(group) if group.spreads else group.outs
        _, payload, meta, handled = self._unsent.popleft()
        if payload is NOTHING:
            outs &= self._wires
        remote = outs & group.remote
        self.sequence = meta.sequence
        post = self._post
        self._token += 1
        hops, ticket = meta.raw_hops, meta.ticket
        kind, head, words = TOMBSTONE, hops, post.post
        words.outs = outs
        if group.local:
            words.token = self._token
        marks = 0
        try:
            if ticket is not None:
                marks = TICKETED
                head += TICKET.pack(*ticket)
                words.ticket = ticket[1] if outs & self._ticketed else 0
            if meta.pts is not None:
                marks |= STAMPED
                head += STAMP.pack(meta.pts)
            data = payload if payload is NOTHING or group.transform is None else group.transform(payload)
            kind, body, opener, refusal = self._prepare(group, data, remote, head)
        except Stopping:
            self._unsent.appendleft((group, payload, meta, handled))
            raise
        except BaseException as error:
            if not isinstance(error, SharedMemoryFull):
                forked.end_if_stray(self._home, error)
            self._handled += handled
            self._drop(outs, native.REASONS["error"])
            raise
        self._handled += handled
        if refusal:
            self._drop(remote, native.REASONS[refusal])
            post.begin(outs & ~remote, self._token)
            remote = 0
        if opener is not None:
            message = opener, meta, native.now_ns()
            for out in group.local:
                self._local[self._edges[out][0]][self._token] = message
        payload = data = None  # let go of before the push: the receiver may then be the only holder
        forked.end_if_stray(self._home, None)
        if self._handled:
            words.handled = self._handled
            self._handled = 0
        if remote:
            self._messages.fit(MESSAGE_SLOT_BYTES)
        ring = self._messages.ring if remote else 0
        kind |= marks
        sent = words, ring, meta.sequence, meta.captured_ns, meta.origin_number, kind, len(head), body, len(body)
        self._finish(self._port.send(*sent), sent)

    def _prepare(self, group: _Group, data: Any, remote: int, head: bytes) -> tuple[int, bytes, Opener | None, str]:
        """Kind and body of a message to other processes, how receivers in the flow open it, and why the others don't get it.

        That they don't is then no error: the wires' policies say so, or only taps are among them, which must not be felt.
        """
        if data is NOTHING:
            return TOMBSTONE, head, partial(itself, data) if group.local else None, ""
        refusal = ""
        if remote:
            encoder = self._encoder
            try:
                kind, body = encoder.encode(self._post, data, remote, head, in_band=group.in_band, threshold=group.threshold)
            except NoFreeSlot:
                refusal = "no_slot"
            except (SharedMemoryFull, PayloadError) as error:
                if remote & self._wires:
                    raise
                refusal = "no_slot" if isinstance(error, SharedMemoryFull) else "error"
            else:
                self._count(encoder.copied_bytes, encoder.in_band_bytes)
                return kind, body, self._open_message(kind, body, len(head)) if group.local else None, ""
        if not group.local:
            return TOMBSTONE, head, None, refusal
        opener = self.hand_over.make(data, group.threshold, in_band=group.in_band)
        self._count(self.hand_over.copied_bytes, self.hand_over.pickled_bytes)
        return TOMBSTONE, head, opener, refusal

    def _open_message(self, kind: int, body: bytes, start: int) -> Opener:
        """How receivers in the flow open what was encoded for others."""
        post = self._post.post
        opener = self.hand_over.open_message(kind, body, start, [post.slot[k] for k in range(post.slots)])
        self._count(self.hand_over.copied_bytes, 0)
        return opener

    def _count(self, copied: int, in_band: int) -> None:
        if copied or in_band:
            self._record.count_sending(copied=copied, in_band=in_band)

    def _finish(self, status: int, message: tuple[Any, ...] | None = None) -> None:
        """Draws the consequences of how a send went.

        :param message: what was sent, if it may have to be sent again from the beginning.
        """
        if status == native.OK:
            return
        self._forget_lost()
        self._stuck = status == native.NOTICE
        if self._stuck:
            if not self._post.post.offered:
                self._again = message
            self.unsent = True
            raise Stopping
        if status != native.LOST:
            self._port.abandon(self._post, native.REASONS["no_slot"])
            self._forget_lost()

    def _forget_lost(self) -> None:
        for out, token in self._post.take_lost():
            self._local[self._edges[out][0]].pop(token, None)


class Inbox:
    """What a routine receives by. The routine's thread only.

    :param names: of all routines, by number.
    """

    def __init__(
        self, segment: ControlSegment, port: native.Port, number: int, names: tuple[str, ...], local: dict[int, LocalMessages]
    ) -> None:
        self._home = forked.pid
        self._segment = segment
        self._port = port
        self._number = number
        self.names = names
        self._local = local
        self._record = native.RoutineRecord(segment.process, number)
        self._edges: dict[int, EdgePlan] = {}
        self._records: dict[int, native.EdgeRecord] = {}
        self._receive: dict[int, Callable[[Any], Any] | None] = {}
        self._changes = False
        self._tables: dict[int, LocalMessages] = {}  # of the places whose messages come from this flow
        self._max_age_ns: dict[int, int] = {}
        self._unlinked: set[int] = set()
        self._array = 0  # the status of a bare array whose layout is known, which `take` is to give
        self._layouts: dict[int, tuple[tuple[int, ...], np.dtype[Any], int]] = {}
        self._incarnations = segment.process.incarnations()
        self.on_over_cap: Callable[[EdgePlan], None] = lambda edge: None
        self.on_starved: Callable[[EdgePlan, OSError], None] = lambda edge, error: None
        self.on_fed: Callable[[EdgePlan], None] = lambda edge: None
        self._look: Callable[[int], int] = port.receive
        self.unsettled = True  # whether a message may be gone that was pushed, and that nothing will come of

    def add(self, edge: EdgePlan, incarnation: int) -> None:
        """One more incarnation of an edge. It waits its turn behind an earlier one of the same edge."""
        place = self._port.add_in(incarnation)
        self._edges[place] = edge
        self._records[place] = native.EdgeRecord(self._segment.process, edge.number)
        self._receive[place] = edge.transmitter.receive() if changes(edge.transmitter) else None
        self._changes = any(self._receive.values())
        self._max_age_ns.pop(place, None)
        if edge.max_age is not None:
            self._max_age_ns[place] = int(edge.max_age * 1e9)
        if edge.local:
            self._tables[place] = self._local.setdefault(edge.number, {})

    @property
    def comes_from_flow(self) -> bool:
        """Whether any wire comes from a routine of this process."""
        return any(edge.local for edge in self._edges.values())

    def expect(self, edge: int) -> None:
        """An edge was linked: there is more to come until its stream ends."""
        self._unlinked.discard(edge)
        self._port.expect_in(edge)

    def remove(self, edge: int) -> None:
        """An edge was unlinked: its stream ends with what is still to be drained."""
        self._unlinked.add(edge)
        self._port.remove_in(edge)

    def begin(self) -> None:
        """A run begins: takes messages again, where `end` said that it does not."""
        for place, edge in self._edges.items():
            if edge.number not in self._unlinked:
                self._records[place].receiver_ended = False

    def receive(self, timeout_ns: int = native.FOREVER) -> int | Message:
        """The next message, where there is nothing to decode; native.OK where `take` gives it; or another status. Waits."""
        while True:
            status = self._look(timeout_ns)
            while status == native.UNMAPPED:
                status = self._open_and_take(timeout_ns)
            if status >= native.ARRAY:
                self._array, status = status, native.OK
                if not (self._changes or self._max_age_ns):
                    return self._take_array()
            if status == native.OK and not self._max_age_ns:
                return status
            if status == native.DRAINED:
                return self._recover_sender(timeout_ns)
            elif status == native.OK and self._has_expired():
                self.discard("expired")
                return SKIPPED
            else:
                return status

    @property
    def starved(self) -> bool:
        """Whether it has a message, or a dead sender's queue, in hand that no ring could be opened for yet."""
        return self._look is not self._port.receive

    def _open_and_take(self, timeout_ns: int) -> int:
        """Takes the message whose ring is not mapped here, once it can be; or another status."""
        try:
            open_ring(self._segment, self._port.delivery.unmapped)
        except OSError as error:
            return self._starve(error, self._open_and_take, timeout_ns)
        self._feed()
        return self._port.take()

    def _recover_sender(self, timeout_ns: int) -> int:
        """Clears what a dead sender left, once every ring of it can be mapped here: SKIPPED; or another status."""
        try:
            open_every_ring(self._segment)
        except OSError as error:
            return self._starve(error, self._recover_sender, timeout_ns)
        self._feed()
        self._port.recover_sender(self._port.delivery.place)
        self.unsettled = True
        return SKIPPED

    def _starve(self, error: OSError, retry: Callable[[int], int], timeout_ns: int) -> int:
        """There is no descriptor to open a ring with: rests a little; the next look for a message tries again.

        :raises OSError: when it is something else, that does not pass.
        """
        if not is_shortage(error):
            raise error
        if not self.starved:
            self.on_starved(self.edge, error)
        self._look = retry
        return self._port.rest(min(timeout_ns, RETRY_NS))

    def _feed(self) -> None:
        if self.starved:
            self._look = self._port.receive
            self.on_fed(self.edge)

    def _has_expired(self) -> bool:
        delivery = self._port.delivery
        limit = self._max_age_ns.get(delivery.place)
        if limit is None:
            return False
        captured_ns: int = delivery.captured_ns
        if delivery.local:
            _, meta, _ = self._local[self._edges[delivery.place].number][delivery.token]
            captured_ns = meta.captured_ns
        expired: bool = delivery.received_ns - captured_ns > limit
        return expired

    def discard(self, reason: str) -> None:
        """Drops the message that `receive` found, counted under this reason."""
        delivery = self._port.delivery
        if self._array:
            self._take_array()
            self.disown(self.edge, reason)
        else:
            if delivery.local:
                self._local[self._edges[delivery.place].number].pop(delivery.token)
            self._port.discard(native.REASONS[reason])
        self.unsettled = True

    @property
    def edge(self) -> EdgePlan:
        """The wire of the message that `receive` found."""
        return self._edges[self._port.delivery.place]

    def pause(self, edge: int, paused: bool) -> None:
        """Takes no more from a wire, by its edge's number, until told to go on."""
        for place, other in self._edges.items():
            if other.number == edge:
                self._port.pause(place, paused)

    def unread(self, edges: Collection[int]) -> int:
        """Messages that wait on wires, those of dead senders and those that can't be taken yet included.

        :param edges: numbers; one whose place was given to another receiver's wire counts for nothing.
        """
        own = {edge for edge in edges if native.EdgeRecord(self._segment.process, edge).ends()[1] == self._number}
        waiting = sum(one.waiting() for one in self._incarnations if one.edge in own and one.state in WITH_MESSAGES)
        return waiting + (self.starved and self.edge.number in own)

    def disown(self, edge: EdgePlan, reason: str) -> None:
        """Counts a message that was taken from a wire, and that nobody will see, as dropped."""
        self._port.disown(edge.number, native.REASONS[reason])

    def take(self) -> Message:
        """The message that `receive` found, and did not give.

        :raises Exception: what unpickling, or the wire's own transmitter, raised; the message is then dropped and counted.
        """
        if self._array:
            return self._take_array()
        if self._tables and (delivery := self._port.delivery).local:
            return self._take_local(delivery.place, delivery.token, delivery.received_ns)
        place, _, _, _, _, over_cap, _, _, _, _, _, kind, head, slots, size = self._port.head()
        body = self._port.body(size)
        meta = Meta.received(self.names, self._number, self._port.raw[: DELIVERY_BYTES + head])
        if kind & TOMBSTONE:
            return NOTHING, meta
        buffers = self._port.delivered_slots(slots)
        try:
            if over_cap and slots:
                self.on_over_cap(self._edges[place])
                self._records[place].count_private(sum(len(buffer) for buffer in buffers))
                buffers = [memoryview(bytes(buffer)) for buffer in buffers]
            payload_kind = kind & ~(TICKETED | STAMPED)
            data = decode(payload_kind, body, head, buffers)
            if payload_kind == ARRAY and not over_cap:
                self._learn(kind, body, head)
            change = self._receive[place]
            if change is not None:
                data = change(data)
        except BaseException as error:
            forked.end_if_stray(self._home, error)
            self._port.discard(native.REASONS["error"])
            self.unsettled = True
            raise
        forked.end_if_stray(self._home, None)
        return data, meta

    def _learn(self, kind: int, body: bytes, head: int) -> None:
        """Arrays like this one are recognised from now on."""
        layout = layout_of(body, head)
        if layout is not None:
            text, shape, dtype, size = layout
            index = self._port.learn(kind, text, size)
            self._layouts[native.ARRAY + index] = shape, dtype, size

    def _take_array(self) -> Message:
        status, self._array = self._array, 0
        port, head = self._port, status >> native.HEAD_SHIFT
        shape, dtype, size = self._layouts[status & (1 << native.HEAD_SHIFT) - 1]
        array: Any = np.frombuffer(port.array(size), dtype).reshape(shape)
        if self._changes:
            change = self._receive[port.delivery.place]
            array = array if change is None else self._changed(change, array)
        return array, Meta.received(self.names, self._number, port.raw[: DELIVERY_BYTES + head])

    def _take_local(self, place: int, token: int, received_ns: int) -> Message:
        opener, meta, sent_ns = self._tables[place].pop(token)
        self._port.count_handed(sent_ns, meta.captured_ns)
        try:
            payload = opener()
        except BaseException as error:
            forked.end_if_stray(self._home, error)
            self.disown(self.edge, "error")
            self.unsettled = True
            raise
        change = self._receive[place]
        if change is not None and payload is not NOTHING:
            payload = self._changed(change, payload)
        return payload, Meta.handed(self.names, self._number, meta, sent_ns, received_ns)

    def _changed(self, change: Callable[[Any], Any], payload: Any) -> Any:
        """What the wire's own transmitter makes of a payload. What it raises costs this message."""
        try:
            changed = change(payload)
        except BaseException as error:
            forked.end_if_stray(self._home, error)
            self.disown(self.edge, "error")
            self.unsettled = True
            raise
        forked.end_if_stray(self._home, None)
        return changed

    def end(self) -> None:
        """Takes no more; what waits is dropped, counted as `ended`."""
        self._port.end_ins()
        while True:
            received = self.receive(0)
            if isinstance(received, tuple):
                self.disown(self.edge, "ended")
                self.unsettled = True
            elif received == native.OK:
                self.discard("ended")
            elif received == native.NOTICE:
                self._port.noticed()
            elif received not in (native.PROTOCOL, SKIPPED):
                return

    def release(self, edge: EdgePlan) -> None:
        """After `end`, when the sender has let go of the edge: gives its incarnation back, once no view of it lives."""
        open_every_ring(self._segment)
        for place, other in self._edges.items():
            if other is edge:
                self._port.recover_sender(place)
