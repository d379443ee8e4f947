"""The fast path of a send: an array that lies in a slot, where every message goes to one group of wires as it is.

`Outbox` makes one when its wires change. What it does not take is sent by the outbox itself.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from pipert_shm import binding
from pipert_shm.data import Meta
from pipert_shm.message.layouts import is_plain, packed_strides, write_layout
from pipert_shm.message.outgoing import Group
from pipert_shm.message.packer import Packer
from pipert_shm.message.posting import Posting, check_numbers
from pipert_shm.message.types import LocalMessages
from pipert_shm.shm.needs import MESSAGE_SLOT_BYTES
from pipert_shm.shm.slots import Slots


class FastPath:
    """Sends arrays in C: see csrc/hot/give.c and, for receivers in the flow, csrc/hot/within.c.

    :param messages: the slots for messages to other processes.
    :param words: the routine's record, for its counters.
    :param packer: makes messages of what is no array in a slot, for C.
    :param within: where the group's receivers are in the flow, what waits for each of them; else None.
    """

    __slots__ = ("_group", "_hot", "_messages", "_posting", "_within", "_words")

    def __init__(
        self,
        port: binding.Port,
        posting: Posting,
        messages: Slots,
        words: Any,
        group: Group,
        packer: Packer,
        within: list[LocalMessages] | None,
    ) -> None:
        self._words = words
        self._posting = posting
        self._messages = messages
        self._hot = port.hot
        self._group = group
        self._within = within
        encode = partial(packer.encode, group, group.outs) if within is None else None
        self._hot.send_on(posting.post.address, group.outs, min(group.threshold, binding.FOREVER), within, encode)
        if within is None:
            packer.serve(group)

    @property
    def ring(self) -> int | None:
        """The ring for messages, any where they stay in the flow; None while there is something to do about it: `send` does."""
        if self._within is not None:
            return 0
        return self._messages.ring if self._messages.settled else None

    def send(self, payload: list[np.ndarray], meta: Meta, handled: int) -> bool:
        """Takes an array out of the list and sends it. False, with nothing done, where no slot that is held here has it.

        :param handled: how many received messages it is the result of.
        :raises Stopping: when it is interrupted.
        """
        messages, ring = self._messages, 0
        if self._within is None:
            if not messages.settled:
                messages.fit(MESSAGE_SLOT_BYTES)
            ring = messages.ring
        try:
            status = self._hot.send(payload, meta, ring, handled)
            if status == binding.UNKNOWN and self._describe(payload[0]):
                status = self._hot.send(payload, meta, ring, handled)
        except BaseException:  # what somebody wrote into the meta
            payload.clear()
            self._posting.sequence = meta.sequence
            self._posting.show(meta.origin_number, meta.sequence)
            self._words.sent += 1
            self._posting.drop(self._group.outs, binding.REASONS["error"], handled)
            check_numbers(meta)
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

    def refuse(self, error: BaseException, handled: int) -> None:
        """Counts the message that C wanted to send as not made, and raises the error."""
        self._words.sent += 1
        message = self._hot.message()
        self._posting.sequence = message[1]
        self._posting.show(message[3], message[1])
        self._posting.drop(self._group.outs, binding.REASONS["error"], handled)
        raise error

    def finish(self, status: int) -> None:
        """Acts on the status of a send in C, which is not OK.

        :raises Stopping: when it is interrupted.
        """
        posting, message = self._posting, self._hot.message()
        posting.sequence = message[1]
        posting.finish(status, (posting.post.post, *message))
