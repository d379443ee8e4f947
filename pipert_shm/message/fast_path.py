"""The fast paths of a send: an array that lies in a slot, where every message goes to one group of wires as it is.

`Outbox` picks one when its wires change. What a fast path does not take is sent by the outbox itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipert_shm import binding
from pipert_shm.data import Meta
from pipert_shm.message.hand_over import HandOver
from pipert_shm.message.layouts import is_plain, packed_strides, write_layout
from pipert_shm.message.outgoing import Group
from pipert_shm.message.posting import Posting
from pipert_shm.message.types import LocalMessages
from pipert_shm.shm.needs import MESSAGE_SLOT_BYTES
from pipert_shm.shm.slots import Slots


class FastPathOut:
    """Sends arrays to other processes, in C: see csrc/hot/give.c.

    :param messages: the slots for messages.
    :param words: the routine's record, for its counters.
    """

    __slots__ = ("_group", "_hot", "_messages", "_posting", "_words")

    def __init__(self, port: binding.Port, posting: Posting, messages: Slots, words: Any, group: Group) -> None:
        self._words = words
        self._posting = posting
        self._messages = messages
        self._hot = port.hot
        self._group = group
        self._hot.send_on(posting.post.address, group.outs, group.threshold)

    @property
    def ring(self) -> int | None:
        """The ring for messages; None while there is something to do about it, which `send` does."""
        return self._messages.ring if self._messages.settled else None

    def send(self, payload: list[np.ndarray], meta: Meta, handled: int) -> bool:
        """Takes an array out of the list and sends it. False, with nothing done, where no slot that is held here has it.

        :param handled: how many received messages it is the result of.
        :raises Stopping: when it is interrupted.
        """
        messages = self._messages
        if not messages.settled:
            messages.fit(MESSAGE_SLOT_BYTES)
        try:
            status = self._hot.send(payload, meta, messages.ring, handled)
            if status == binding.UNKNOWN and self._describe(payload[0]):
                status = self._hot.send(payload, meta, messages.ring, handled)
        except BaseException:  # what somebody wrote into the meta
            payload.clear()
            self._words.sent += 1
            self._posting.drop(self._group.outs, binding.REASONS["error"], handled)
            raise
        if status < 0:
            return False
        self._posting.sequence = meta.sequence
        if status != binding.OK:
            self.finish(status)
        return True

    def _describe(self, array: np.ndarray) -> bool:
        """Says how messages describe arrays of this form; False where they can't be sent this way."""
        if not is_plain(array.dtype) or array.nbytes < self._group.threshold:
            return False
        described: bool = self._hot.describe(array.shape, array.dtype, write_layout(array, packed_strides(array)))
        return described

    def finish(self, status: int) -> None:
        """Acts on the status of a send in C, which is not OK.

        :raises Stopping: when it is interrupted.
        """
        posting, message = self._posting, self._hot.message()
        posting.sequence = message[1]
        posting.finish(status, (posting.post.post, *message))


class FastPathWithin:
    """Hands arrays to receivers in the flow.

    :param words: the routine's record, for its counters.
    :param tables: the messages that wait on each of the group's wires.
    """

    __slots__ = ("_group", "_hand_over", "_post", "_posting", "_refer", "_tables", "_words")

    def __init__(
        self, port: binding.Port, posting: Posting, hand_over: HandOver, words: Any, group: Group, tables: list[LocalMessages]
    ) -> None:
        self._posting = posting
        self._post = posting.post.post
        self._refer = hand_over.refer
        self._hand_over = port.hand_over
        self._words = words
        self._group = group
        self._tables = tables

    def send(self, payload: list[np.ndarray], meta: Meta, handled: int) -> bool:
        """Takes an array out of the list and hands it over. False, with nothing done, where no slot that is held here has it.

        :param handled: how many received messages it is the result of.
        :raises Stopping: when it is interrupted.
        """
        group, posting = self._group, self._posting
        own = self._refer(payload[0], group.threshold)
        if own is None:
            return False
        payload.clear()
        self._words.sent += 1
        posting.token = token = posting.token + 1
        posting.sequence = meta.sequence
        meta.raw_hops  # noqa: B018  settles them now, since several threads read them
        message = own.view, meta, binding.now_ns()
        for table in self._tables:
            table[token] = message
        status = self._hand_over(self._post, group.outs, token, handled)
        if status != binding.OK:
            posting.finish(status)
        return True
