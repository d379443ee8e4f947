"""A running routine's incoming wires: messages to payloads."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Collection
from typing import Any

from pipert_shm import binding
from pipert_shm.binding import trace
from pipert_shm.data import Labels, Meta
from pipert_shm.graph.model import EdgePlan
from pipert_shm.message.decoder import decode, layout_of
from pipert_shm.message.types import NOTHING, LocalMessages, Message
from pipert_shm.shm import tracing
from pipert_shm.shm.head import ARRAY, TOMBSTONE, payload_kind
from pipert_shm.shm.rings import open_every_ring, open_ring
from pipert_shm.shm.segments import ControlSegment
from pipert_shm.shm.slots import RETRY_NS
from pipert_shm.system import forked
from pipert_shm.system.descriptors import is_shortage
from pipert_shm.transmitters import changes

DELIVERY_BYTES = binding.DELIVERY_BYTES
WITH_MESSAGES = (binding.LIVE, binding.SENDER_DEAD)  # states of an incarnation
SKIPPED = -1  # a status of `Inbox.receive`


class Inbox:
    """Receives what a routine is sent. The routine's thread only.

    `receive` puts a message in hand, `take` gives it, `discard` drops it.

    :param number: the routine's; its port says what its messages carry.
    :param names: of all routines, by the number that their messages carry.
    :param local: per edge number, the messages that wait within this process.

    Attributes:
        unsettled: whether a message may be gone that was pushed here, and that no result will come of. The reader clears it.
        on_over_cap: called with a wire when a message of it is handed out as a copy, since too many of its frames are kept.
        on_starved: called with a wire, and the error, when its message can't be opened for want of a descriptor.
        on_fed: called with that wire when it can.
    """

    def __init__(
        self, segment: ControlSegment, port: binding.Port, number: int, names: Labels, local: dict[int, LocalMessages]
    ) -> None:
        self._home = forked.pid
        self._segment = segment
        self._port = port
        self._delivery = port.delivery  # the words of the message in hand; read directly, since each message needs some of them
        self._number = number
        self._origin = port.origin
        self.names = names
        self._local = local
        self._edges: dict[int, EdgePlan] = {}
        self._records: dict[int, binding.EdgeRecord] = {}
        self._receive: dict[int, Callable[[Any], Any] | None] = {}
        self._changes = False
        self._tables: dict[int, LocalMessages] = {}  # of the places whose messages come from this flow
        self._max_age_ns: dict[int, int] = {}
        self._unlinked: set[int] = set()
        self._array = 0  # the port's status, where the message in hand is an array of a known layout
        self._incarnations = segment.process.incarnations()
        self.on_over_cap: Callable[[EdgePlan], None] = lambda edge: None
        self.on_starved: Callable[[EdgePlan, OSError], None] = lambda edge, error: None
        self.on_fed: Callable[[EdgePlan], None] = lambda edge: None
        self._look: Callable[[int], int] = port.receive
        loader = type("Loader", (pickle.Unpickler,), {"persistent_load": port.hot.persistent_load})
        port.hot.decode_with(decode, loader, io.BytesIO)
        self.unsettled = True

    def add(self, edge: EdgePlan, incarnation: int) -> None:
        """Adds an incarnation of an edge, by its name. It waits its turn behind an earlier one of the same edge."""
        place = self._port.add_in(edge.number, incarnation)
        self.unsettled = True  # the launcher may have taken back what was between this one and the one before
        self._edges[place] = edge
        self._records[place] = binding.EdgeRecord(self._segment.process, edge.number)
        self._receive[place] = edge.transmitter.receive() if changes(edge.transmitter) else None
        self._changes = any(self._receive.values())
        self._max_age_ns.pop(place, None)
        if edge.max_age is not None:
            self._max_age_ns[place] = min(int(edge.max_age * 1e9), binding.FOREVER)
        self._port.hot.limit_age(place, self._max_age_ns.get(place, binding.FOREVER))
        self._tables.pop(place, None)
        if edge.local:
            self._tables[place] = self._local.setdefault(edge.number, {})
        self._port.hot.receive_within(place, self._tables.get(place))

    @property
    def comes_from_flow(self) -> bool:
        """Whether any wire comes from a routine of this process."""
        return any(edge.local for edge in self._edges.values())

    def expect(self, edge: int) -> None:
        """Notes that an edge was linked: more will come, until its stream ends."""
        self._unlinked.discard(edge)
        self._port.expect_in(edge)

    def remove(self, edge: int) -> None:
        """Notes that an edge was unlinked: its stream ends with the messages that wait on it."""
        self._unlinked.add(edge)
        self._port.remove_in(edge)

    def begin(self) -> None:
        """Begins a run: takes messages again, which `end` has stopped."""
        for place, edge in self._edges.items():
            if edge.number not in self._unlinked:
                self._records[place].receiver_ended = False

    def receive(self, timeout_ns: int = binding.FOREVER) -> int:
        """Waits for the next message. Returns a status:

        - OK: a message is in hand. Call `take` or `discard`.
        - TIMED_OUT: no message came in time.
        - CLOSED: every stream has ended, and no message will come.
        - NOTICE: the port was notified.
        - PROTOCOL: a message that contradicts its slots was skipped. There may be more.
        - SKIPPED: a message was too old and is dropped, or a dead sender's queue was cleared. There may be more.

        :raises LookupError: when the pipe, and the message's memory with it, is gone.
        """
        return self.accept(self._look(timeout_ns), timeout_ns)

    def accept(self, status: int, timeout_ns: int = binding.FOREVER) -> int:
        """What `receive` does with the status that a look at the port gave."""
        while status == binding.UNMAPPED:
            status = self._open_and_take(timeout_ns)
        if status >= binding.ARRAY:
            self._array, status = status, binding.OK
        if status == binding.OK:
            if not self._max_age_ns or not self._has_expired():
                return status
            self.discard("expired")
            return SKIPPED
        return self._recover_sender(timeout_ns) if status == binding.DRAINED else status

    @property
    def is_plain(self) -> bool:
        """Whether `HotPath.run` may receive here: all messages are to be handed out as they come."""
        return not (self._changes or self.starved)

    @property
    def starved(self) -> bool:
        """Whether a message, or a dead sender's queue, waits for a ring that could not be opened yet."""
        return self._look is not self._port.receive

    def _open_and_take(self, timeout_ns: int) -> int:
        """Maps the ring of the next message, and looks for the message again; a status."""
        try:
            open_ring(self._segment, self._delivery.unmapped)
        except OSError as error:
            return self._starve(error, self._open_and_take, timeout_ns)
        self._feed()
        return self._port.take()

    def _recover_sender(self, timeout_ns: int) -> int:
        """Clears what a dead sender left, which takes that every ring is mapped here; a status, SKIPPED when it is done."""
        try:
            open_every_ring(self._segment)
        except OSError as error:
            return self._starve(error, self._recover_sender, timeout_ns)
        self._feed()
        self._port.recover_sender(self._delivery.place)
        self.unsettled = True
        return SKIPPED

    def _starve(self, error: OSError, retry: Callable[[int], int], timeout_ns: int) -> int:
        """Rests a little, since no descriptor is free to open a ring with. The next `receive` tries again.

        :raises OSError: when the error is another one, which does not pass.
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
        delivery = self._delivery
        limit = self._max_age_ns.get(delivery.place)
        if limit is None:
            return False
        captured_ns: int = delivery.captured_ns
        if delivery.local:
            _, meta, _ = self._tables[delivery.place][delivery.token]
            captured_ns = self._captured_ns(meta)
        expired: bool = delivery.received_ns - captured_ns > limit
        return expired

    def _captured_ns(self, meta: Meta | bytes) -> int:
        """When the message in hand, from this flow, was captured. If C has sent it, its head goes to the delivery."""
        if not isinstance(meta, bytes):
            return meta.captured_ns
        self._port.hot.adopt(meta)
        captured_ns: int = self._delivery.captured_ns
        return captured_ns

    def discard(self, reason: str) -> None:
        """Drops the message in hand, counted under this reason."""
        port = self._port
        if self._array:
            port.hot.take(self._array)  # the lease ends with this array
            self._array = 0
            self.disown(self.edge, reason)
        else:
            if self._delivery.local:
                _, meta, _ = self._tables[self._delivery.place].pop(self._delivery.token)
                self._show(meta)
            port.discard(binding.REASONS[reason])
        self.unsettled = True

    @property
    def edge(self) -> EdgePlan:
        """The wire of the message in hand."""
        return self._edges[self._delivery.place]

    def pause(self, edge: int, paused: bool) -> None:
        """Takes no more from a wire, by its edge's number, or goes on to."""
        for place, other in self._edges.items():
            if other.number == edge:
                self._port.pause(place, paused)

    def unread(self, edges: Collection[int]) -> int:
        """How many messages wait on wires, with those of dead senders and those that can't be taken yet.

        :param edges: their numbers. An edge that has become another receiver's does not count.
        """
        own = {edge for edge in edges if binding.EdgeRecord(self._segment.process, edge).ends()[1] == self._number}
        if len(self._incarnations) < self._segment.process.incarnations_used:
            self._incarnations = self._segment.process.incarnations()
        waiting = sum(one.waiting() for one in self._incarnations if one.edge in own and one.state in WITH_MESSAGES)
        return waiting + (self.starved and self.edge.number in own)

    @property
    def received_ns(self) -> int:
        """When the message in hand was received."""
        received_ns: int = self._delivery.received_ns
        return received_ns

    def _show(self, meta: Meta | bytes) -> None:
        """Says for a trace which frame the message in hand is, which came from this flow."""
        if tracing.on and isinstance(meta, bytes):
            self._port.hot.adopt(meta)
        elif tracing.on and not isinstance(meta, bytes):
            self._delivery.origin, self._delivery.sequence = meta.origin_number, meta.sequence

    def disown(self, edge: EdgePlan, reason: str, meta: Meta | None = None) -> None:
        """Counts a message as dropped that was taken from a wire, and that the routine won't get.

        :param meta: the message's; None: it is the one in hand.
        """
        if tracing.on:
            its = self._delivery if meta is None else meta
            origin = self._delivery.origin if meta is None else meta.origin_number
            frame = {"origin": origin, "sequence": its.sequence}
            tracing.note(trace.DISCARD, self._number, other=edge.sender, detail=binding.REASONS[reason], **frame)
        self._port.disown(edge.number, binding.REASONS[reason])

    def take(self) -> Message:
        """The message that `receive` has put in hand.

        :raises Exception: what unpickling, or the wire's own transmitter, raised; the message is then dropped and counted.
        """
        status, port = self._array, self._port
        if not status:
            if self._tables and (delivery := self._delivery).local:
                return self._take_local(delivery.place, delivery.token, delivery.received_ns)
            return self._take_any()
        # The fast path, written out here: calls would cost more than they tell. The status says the layout and the head's size.
        self._array = 0
        head = status >> binding.HEAD_SHIFT
        array = port.hot.take(status)
        if self._changes:
            change = self._receive[self._delivery.place]
            array = array if change is None else self._changed(change, array)
        return array, Meta.received(self.names, self._origin, port.raw[: DELIVERY_BYTES + head])

    def _take_any(self) -> Message:
        """Takes a message from another process that is no array of a known layout."""
        failed: BaseException | None = self._port.hot.take_error()
        if failed is not None:  # C has tried, and called `decode`
            self._drop_damaged(failed)
            try:
                raise failed
            finally:
                del failed  # its traceback has this frame: a cycle would keep what it was about
        place, _, _, _, _, over_cap, _, _, _, _, _, kind, head, slots, size = self._port.head()
        body = self._port.body(size)
        meta = Meta.received(self.names, self._origin, self._port.raw[: DELIVERY_BYTES + head])
        buffers = self._port.delivered_slots(slots)
        if kind & TOMBSTONE:
            return NOTHING, meta
        try:
            if over_cap and slots:
                self.on_over_cap(self._edges[place])
                buffers = [bytes(memoryview(buffer)) for buffer in buffers]
                self._records[place].count_private(sum(map(len, buffers)))
            of_payload = payload_kind(kind)
            data = decode(of_payload, body, head, buffers)
            if of_payload == ARRAY and not over_cap:
                self._learn(kind, body, head)
            change = self._receive[place]
            if change is not None:
                data = change(data)
        except BaseException as error:
            self._drop_damaged(error)
            raise
        forked.end_if_stray(self._home, None)
        return data, meta

    def _drop_damaged(self, error: BaseException) -> None:
        """Drops the message in hand, which could not be decoded."""
        forked.end_if_stray(self._home, error)
        self._port.discard(binding.REASONS["error"])
        self.unsettled = True

    def _learn(self, kind: int, body: bytes, head: int) -> None:
        """Teaches the port the layout of an array, so that it recognises the next one like it."""
        layout = layout_of(body, head)
        if layout is not None:
            text, shape, dtype, size = layout
            self._port.learn(kind, text, size, shape, dtype)

    def _take_local(self, place: int, token: int, received_ns: int) -> Message:
        """Takes a message from a routine in the flow."""
        opener, meta, sent_ns = self._tables[place].pop(token)
        self._show(meta)
        self._port.count_handed(sent_ns, self._captured_ns(meta))
        if isinstance(meta, bytes):
            own = Meta.received(self.names, self._origin, self._port.hot.raw())
        else:
            own = Meta.handed(self.names, self._origin, meta, sent_ns, received_ns)
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
        return payload, own

    def _changed(self, change: Callable[[Any], Any], payload: Any) -> Any:
        """Applies the wire's own transmitter to a payload. If it raises, the message is counted as dropped."""
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
        """Takes no more messages. Those that wait are dropped, counted as `ended`."""
        self._port.end_ins()
        while True:
            status = self.receive(0)
            if status == binding.OK:
                self.discard("ended")
            elif status == binding.NOTICE:
                self._port.noticed()
            elif status not in (binding.PROTOCOL, SKIPPED):
                return

    def release(self, edge: EdgePlan) -> None:
        """Gives an edge's incarnation back, once no view of it lives. Call it after `end`, when the sender has let go of it."""
        open_every_ring(self._segment)
        for place, other in self._edges.items():
            if other is edge:
                self._port.recover_sender(place)
