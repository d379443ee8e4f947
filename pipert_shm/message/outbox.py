"""A running routine's outgoing wires: payloads to messages.

`Outbox.send` takes a fast path where there is one. Else the payload is put into a list of what is unsent, and messages are
sent from there one by one, so that an interrupted send can go on later.
"""

from __future__ import annotations

from collections import deque
from typing import Any, TypeAlias

import numpy as np

from pipert_shm import binding
from pipert_shm.data import Meta
from pipert_shm.errors import SharedMemoryFull
from pipert_shm.graph.model import EdgePlan
from pipert_shm.graph.sizing import least_slots
from pipert_shm.message.encoder import Encoder
from pipert_shm.message.fast_path import FastPath
from pipert_shm.message.hand_over import HandOver
from pipert_shm.message.layouts import extent_of
from pipert_shm.message.outgoing import Group, Outgoing
from pipert_shm.message.packer import Packer
from pipert_shm.message.posting import Posting, check_numbers
from pipert_shm.message.resumption import Resumption
from pipert_shm.message.types import NOTHING, LocalMessages
from pipert_shm.shm import tracing
from pipert_shm.shm.head import pack
from pipert_shm.shm.needs import MESSAGE_SLOT_BYTES
from pipert_shm.shm.rings import open_ring
from pipert_shm.shm.segments import ControlSegment
from pipert_shm.shm.slots import Slots, Stopping
from pipert_shm.system import forked
from pipert_shm.system.descriptors import is_shortage

# A message to one group of wires, put and not sent yet: the group, payload, meta, and how many received messages it results
# from. A plain tuple, since one is made for each message.
_Unsent: TypeAlias = tuple[Group, Any, Meta, int]


class Outbox:
    """Sends what a routine returns. The routine's thread only.

    :param slots: how many slots the wires need for frames.
    :param message_slots: how many for messages.
    :param local: per edge number, the messages that wait within this process.
    :param ordered: whether the routine is in a replicated flow whose order is restored: then tickets are passed on.
    :param lanes: if it is, by sender to the flow, the edge on which this replica gets its messages.

    Attributes:
        hand_over: makes payloads for receivers in the flow.
        slots: where the routine's frames lie.
        unsent: whether there is anything for `flush` to do.
    """

    def __init__(
        self,
        segment: ControlSegment,
        port: binding.Port,
        number: int,
        name: str,
        slots: int,
        message_slots: int,
        local: dict[int, LocalMessages],
        *,
        ordered: bool = False,
        lanes: dict[int, binding.EdgeRecord] | None = None,
    ) -> None:
        self._home = forked.pid
        self._segment = segment
        self._port = port
        self._hot = port.hot
        self._number = number
        self._ordered = ordered
        self._lanes = {} if lanes is None else lanes
        self._record = binding.RoutineRecord(segment.process, number)
        self._outgoing = Outgoing(port, local)
        self._fast: FastPath | None = None  # where the wires have one
        self._posting = Posting(port, self._outgoing, number)
        self._words = self._record.words
        self._messages = Slots(segment, port, number, name, 0, f"the messages of {name!r}")
        self.slots = Slots(segment, port, number, name, 0, f"the ring of {name!r}")
        self.want_slots(slots, message_slots)
        self._encoder = Encoder(port, self.slots, name)
        self.hand_over = HandOver(port, self.slots, name)
        self._packer = Packer(self._posting.post, self._encoder, self.hand_over, self._record)
        self._unsent: deque[_Unsent] = deque()
        self._finished: dict[int, int] = {}  # by sender, the last ticket whose result is sent as soon as nothing is unsent
        self._handled = 0  # received messages whose results are not sent yet
        self._resumption = Resumption(segment, self._outgoing)
        self.unsent = False

    def want_slots(self, slots: int, message_slots: int) -> None:
        """Says how many slots of each kind the wires need now: the outbox moves to larger rings when these have fewer."""
        slots, message_slots = least_slots(slots, message_slots)
        self.slots.want(slots)
        self._messages.want(message_slots)

    def begin(self) -> None:
        """Begins a run: opens the streams that ended with the last one."""
        for incarnation in self._outgoing.incarnations:
            binding.Incarnation(self._segment.process, incarnation).reopen()

    def add(self, edge: EdgePlan, incarnation: int) -> None:
        """Sends on one more edge.

        :raises SharedMemoryFull, OSError: when memory or a descriptor is short; nothing is added then.
        """
        if not edge.local and self._messages.ring < 0:
            self._messages.fit(MESSAGE_SLOT_BYTES)
        self._outgoing.add(edge, incarnation)
        self._note_change()

    def remove(self, edge: int) -> bool:
        """Sends no more on an edge: its stream ends with what was sent. False when the edge is not one of this routine's."""
        out = self._outgoing.find(edge)
        if out is None:
            return False
        self._posting.remove(out)
        incarnation = self._outgoing.remove(out)
        self._note_change()
        binding.Incarnation(self._segment.process, incarnation).close()
        return True

    def _note_change(self) -> None:
        """The wires are others than before."""
        self.slots.needed_elsewhere = self._outgoing.held_elsewhere
        self._fast = None
        posting, group = self._posting, self._outgoing.fast_group()
        self._hot.send_on(posting.post.address, 0, 0, None, None)
        if group is None or self._ordered or self._resumption.is_due:
            return
        within = [self._outgoing.waiting(out) for out in group.local] or None
        self._fast = FastPath(self._port, posting, self._messages, self._words, group, self._packer, within)

    def resume(self, sequence: int) -> bool:
        """Sends the message of this number only on the wires that have not got it from a process before; whether all have."""
        is_done = self._resumption.begin(sequence)
        self._note_change()
        return is_done

    def writable(self, array: np.ndarray) -> np.ndarray | None:
        """The array's own memory, to be written to, where this routine alone holds it; else None."""
        process = self._segment.process
        first, low, span = extent_of(array)
        address, ring = process.writable(self._number, low, span)
        if not address and ring != binding.RINGS:
            try:
                open_ring(self._segment, ring, writable=True)
            except OSError as error:
                if not is_shortage(error):
                    raise
                return None  # a copy will do, for now
            address, _ = process.writable(self._number, low, span)
        if not address:
            return None
        return np.ndarray(array.shape, array.dtype, binding.loan(address, span), first - low, array.strides)

    def copy(self, array: np.ndarray) -> np.ndarray | None:
        """A copy that can be sent as it lies, in a slot where one is free. None where nobody gets it, or the array has gaps."""
        if not self._outgoing.wires or not array.flags.c_contiguous:
            return None
        copy = self.slots.loan_now(array.shape, array.dtype)
        np.copyto(copy, array)
        return copy

    def loan(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, wait: bool = True) -> np.ndarray:
        """A writable array in a slot; see `Slots.loan`, or `Slots.loan_now` where no wire leaves the flow.

        :param wait: whether the policies of the wires apply if no slot is free.
        """
        outgoing = self._outgoing
        return (
            self.slots.loan(shape, dtype, outgoing.outs if wait else 0)
            if outgoing.leaves_flow
            else self.slots.loan_now(shape, dtype)
        )

    def recover_receiver(self, incarnation: int) -> None:
        """Makes the queue of an edge whose receiver died fit for the next receiver. Any thread."""
        self._port.recover_receiver(incarnation)

    def give_up_receiver(self, incarnation: int) -> None:
        """Takes back all that the receiver of an edge had, which died and won't be restarted. Any thread."""
        self._port.discard_unread(incarnation)
        self._port.recover_receiver(incarnation)

    @property
    def has_wires(self) -> bool:
        """Whether it sends to any routine; a tap does not count."""
        return bool(self._outgoing.wires)

    @property
    def stays_in_flow(self) -> bool:
        """Whether any wire leads to a routine of this process."""
        return self._outgoing.stays_in_flow

    @property
    def sequence(self) -> int:
        """Number of the message that is being sent, or was sent last."""
        return self._posting.sequence

    @property
    def ring(self) -> int | None:
        """The ring for messages, where `HotPath.run` may send what it gets, or has nothing to send; else None."""
        if self._fast is not None:
            return None if self.unsent else self._fast.ring
        return None if self._outgoing.outs or self.unsent else 0

    def finish(self, status: int) -> None:
        """Acts on the status of a send by `HotPath.run`, which is not OK.

        :raises Stopping: when it is interrupted; it waits for the next `flush`.
        """
        assert self._fast is not None
        try:
            self._fast.finish(status)
        except Stopping:
            self.unsent = True
            raise

    def refuse(self, error: BaseException, handled: int) -> None:
        """Counts a result of which `HotPath.run` could make no message, and raises why."""
        assert self._fast is not None
        self._fast.refuse(error, handled)

    def await_room(self) -> int:
        """Waits until one of the wires has room for a message: OK or NOTICE."""
        return self._port.await_room(self._outgoing.wires)

    def send(self, payload: list[Any], meta: Meta, handled: int = 0) -> None:
        """Takes the one payload out of the list and sends it, as `put` and `flush` do."""
        fast = self._fast
        try:
            if fast is not None and not self.unsent and type(payload[0]) is np.ndarray and fast.send(payload, meta, handled):
                return
        except Stopping:
            self.unsent = True
            raise
        self.put(payload, meta, handled)
        self.flush()

    def put(self, payload: list[Any], meta: Meta, handled: int = 0) -> None:
        """Takes the one payload out of the list, to be sent by the next `flush`. Nothing here holds it when it is received.

        :param handled: how many received messages it is the result of: they are done with when it counts as sent.
        """
        data = payload.pop()
        self.unsent = True
        outgoing = self._outgoing
        if self._ordered and meta.ticket is not None and not outgoing.stays_in_flow:
            self._finished[meta.ticket[0]] = meta.ticket[1]
        if not outgoing.outs:
            self._handled += handled
            return
        if outgoing.ticketed:
            meta.ticket = self._port.origin, self._record.next_ticket()
        elif not self._ordered:
            meta.ticket = None
        if data is not NOTHING:
            self._words.sent += 1
        for group in outgoing.groups:
            self._unsent.append((group, data, meta, handled))
            handled = 0

    def flush(self) -> None:
        """Sends what was put, and goes on with what an interruption left unsent.

        :raises Stopping: when it is interrupted; what is not yet sent waits for the next call.
        :raises PayloadError, SharedMemoryFull: when a message can't be made. It is dropped then, and counted; the rest waits
            for the next call.
        """
        if self._posting.stuck:
            self._posting.resume()
        while self._unsent:
            self._send_next()
        while self._finished:
            sender, ticket = self._finished.popitem()
            self._lanes[sender].finish(ticket)
        if self._handled:
            self._count_handled()
        self.unsent = False
        if self._resumption.ends(self._words.sequence):
            self._note_change()

    def abandon(self) -> None:
        """Gives up what is unsent, counted as stopped."""
        self._posting.give_up(binding.REASONS["stopped"])
        for group, _, meta, handled in self._unsent:
            self._handled += handled
            self._show(meta)
            self._drop(self._outgoing.choose(group), "stopped")
        self._unsent.clear()
        self._count_handled()
        self.unsent = bool(self._finished)

    def lose(self, meta: Meta) -> None:
        """Counts a message that was not even made, for want of a slot, as dropped on every wire."""
        self._show(meta)
        outs = 0
        for group in self._outgoing.groups:
            outs |= self._outgoing.choose(group)
        if outs:
            self._drop(outs, "no_slot")

    # longer than 40 lines: each message off the fast path passes here, and every further call costs some 600 instructions
    def _send_next(self) -> None:
        """Sends the first of the unsent messages. When it is interrupted, the message is still the first."""
        group = self._unsent[0][0]
        outs = self._outgoing.await_room(group) if group.spreads else group.outs
        group, payload, meta, handled = self._unsent.popleft()
        if payload is NOTHING:
            outs &= self._outgoing.wires
        if self._resumption.is_due:
            outs &= self._resumption.lacking(group, meta.sequence)
        remote = outs & group.remote
        posting = self._posting
        posting.sequence = meta.sequence
        if tracing.on:
            self._show(meta)
        self._hot.token = token = self._hot.token + 1
        words = posting.post.post  # its words one by one, and only those that this message needs: this is each message's way
        words.outs = outs
        if group.local:
            words.token = token
        marks, head = 0, meta.raw_hops
        try:
            stamp = meta.raw_stamp
            if stamp or meta.ticket is not None:
                marks, head = self._write_head(meta, outs, stamp)
            data = payload if payload is NOTHING or group.transform is None else group.transform(payload)
            needed = bool(remote & self._outgoing.wires)
            kind, body, opener, refusal = self._packer.pack(group, data, remote, head, needed=needed)
        except Stopping:
            self._unsent.appendleft((group, payload, meta, handled))
            raise
        except BaseException as error:
            if not isinstance(error, SharedMemoryFull):
                forked.end_if_stray(self._home, error)
            self._handled += handled
            self._drop(outs, "error")
            raise
        self._handled += handled
        if refusal:
            self._drop(remote, refusal)
            posting.post.begin(outs & ~remote, token)
            remote = 0
        if opener is not None:
            message = opener, meta, binding.now_ns()
            for out in group.local:
                if outs >> out & 1:
                    self._outgoing.waiting(out)[token] = message
        payload = data = None  # let go of before the push: the receiver may then be the only holder
        forked.end_if_stray(self._home, None)
        self._push(meta, bool(remote), kind | marks, head, body)

    def _write_head(self, meta: Meta, outs: int, stamp: bytes) -> tuple[int, bytes]:
        """The marks that belong to a message's kind, and its head. The port gets the ticket."""
        if meta.ticket is not None:
            self._posting.post.post.ticket = meta.ticket[1] if outs & self._outgoing.ticketed else 0
        return pack(meta.raw_hops, meta.ticket, stamp)

    def _push(self, meta: Meta, leaves: bool, kind: int, head: bytes, body: bytes) -> None:
        """Sends what `_send_next` made.

        :param leaves: whether it goes to any other process, so that it needs a message slot.
        """
        post, ring = self._posting.post.post, 0  # the words of the message, as in fast_path.py
        if self._handled:
            post.handled = self._handled
            self._handled = 0
        try:
            if leaves:
                self._messages.fit(MESSAGE_SLOT_BYTES)
                ring = self._messages.ring
            message = post, ring, meta.sequence, meta.captured_ns, meta.origin_number, kind, len(head), body, len(body)
            status = self._port.send(*message)
        except BaseException as error:
            self._posting.abandon("error")
            if isinstance(error, OverflowError | TypeError):  # of what somebody wrote into the meta
                check_numbers(meta)
            raise
        self._posting.finish(status, message)

    def _show(self, meta: Meta) -> None:
        self._posting.show(meta.origin_number, meta.sequence)

    def _drop(self, outs: int, reason: str) -> None:
        handled, self._handled = self._handled, 0
        self._posting.drop(outs, binding.REASONS[reason], handled)

    def _count_handled(self) -> None:
        """Counts the received messages as done with whose results no wire took."""
        self._words.handled += self._handled
        self._handled = 0
