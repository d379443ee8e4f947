"""A message on its way out of a routine's port: interrupted, sent again, given up."""

from __future__ import annotations

from contextlib import suppress
from operator import index
from struct import Struct
from typing import Any, SupportsIndex

from pipert_shm import binding
from pipert_shm.binding import trace
from pipert_shm.data import Meta
from pipert_shm.message.outgoing import Outgoing
from pipert_shm.shm import tracing
from pipert_shm.shm.slots import Stopping

# The numbers of a meta, which somebody may have written into, and their bits in a message.
NUMBERS = (("sequence", 64), ("captured_ns", 64), ("origin_number", 32))

_HEAD = Struct("=QQQI")  # the beginning of `waiting_head` in csrc/hot/within.c


def check_numbers(meta: Meta) -> None:
    """:raises ValueError: when a meta has a number that no message can have."""
    for name, bits in NUMBERS:
        value = getattr(meta, name)
        if not (isinstance(value, SupportsIndex) and 0 <= index(value) < 1 << bits):
            raise ValueError(f"meta.{name} must be from 0 to 2**{bits} - 1, not {value!r}")


def frame_of(meta: Meta | bytes) -> tuple[int, int]:
    """Origin and sequence of a message that waits within the flow, from its meta or from the head that C has made."""
    if isinstance(meta, bytes):
        sequence, _, _, origin = _HEAD.unpack_from(meta)
        return origin, sequence
    return meta.origin_number, meta.sequence


class Posting:
    """The message that a routine is sending. The routine's thread only.

    :param number: the routine's.

    Attributes:
        post: the message in the port's form.
        sequence: number of the message.
        stuck: whether a send was interrupted, so that `resume` is due.
    """

    def __init__(self, port: binding.Port, outgoing: Outgoing, number: int) -> None:
        self._port = port
        self._number = number
        self._outgoing = outgoing
        self.post = binding.Post()
        self.sequence = 0
        self.stuck = False
        self._again: tuple[Any, ...] | None = None  # arguments of a send that found no message slot: nothing of it is out yet

    def finish(self, status: int, message: tuple[Any, ...] | None = None) -> None:
        """Acts on the status of a send.

        :param message: the arguments of the send, where it may have to be done again from the beginning.
        :raises Stopping: when the send was interrupted.
        """
        if status == binding.OK:
            return
        self.forget_lost()
        self.stuck = status == binding.NOTICE
        if self.stuck:
            if not self.post.offered:
                self._again = message
            raise Stopping
        if status != binding.LOST:
            self.abandon("no_slot")

    def abandon(self, reason: str) -> None:
        """Drops the message on the wires that have not got it."""
        self._port.abandon(self.post, binding.REASONS[reason])
        self.forget_lost()

    def resume(self) -> None:
        """Goes on with a send that was interrupted.

        :raises Stopping: when it is interrupted again.
        """
        self.stuck = False
        again, self._again = self._again, None
        if again is not None:
            self.finish(self._port.send(*again), again)
        else:
            self.finish(self._port.resume(self.post))

    def give_up(self, reason: int) -> None:
        """Drops the message that is stuck, if one is, on the wires that have not got it."""
        if self.stuck:
            self._port.abandon(self.post, reason)
            self.forget_lost()
            self.stuck = False
            self._again = None

    def show(self, origin: int, sequence: int) -> None:
        """Says for a trace which frame the next message is, where it may be dropped before a send has said so."""
        with suppress(OverflowError, TypeError):  # of what somebody wrote into a meta
            self.post.post.origin, self.post.post.sequence = origin, sequence

    def drop(self, outs: int, reason: int, handled: int) -> None:
        """Counts a message that was not made as dropped on these wires.

        :param handled: how many received messages it was the result of.
        """
        self.post.begin(outs, 0, handled)
        self._port.abandon(self.post, reason)
        self.post.take_lost()

    def remove(self, out: int) -> None:
        """Ends the stream of the wire at this place for the port."""
        self._port.remove_out(out)
        self.forget_lost()
        if self._again is not None:
            self.post.remove_out(out)

    def forget_lost(self) -> None:
        """Lets go of the payloads that no receiver in the flow will ask for."""
        for out, token in self.post.take_lost():
            lost = self._outgoing.waiting(out).pop(token, None)
            if tracing.on and lost is not None:
                origin, sequence = frame_of(lost[1])
                tracing.note(trace.TOKEN, self._number, origin=origin, sequence=token, began_ns=sequence)
