"""A payload made ready for the wires that it goes to."""

from __future__ import annotations

from functools import partial
from typing import Any

from pipert_shm import binding
from pipert_shm.errors import NoFreeSlot, PayloadError, SharedMemoryFull
from pipert_shm.message.encoder import Encoder
from pipert_shm.message.hand_over import HandOver, itself
from pipert_shm.message.outgoing import Group
from pipert_shm.message.types import NOTHING, Opener
from pipert_shm.shm.head import TOMBSTONE


class Packer:
    """Makes a routine's payloads ready to be sent. The routine's thread only.

    :param post: takes the slots that a message refers to.
    :param encoder: makes what other processes get.
    :param hand_over: makes what receivers in the flow get.
    :param record: counts the bytes.
    """

    def __init__(self, post: binding.Post, encoder: Encoder, hand_over: HandOver, record: binding.RoutineRecord) -> None:
        self._post = post
        self._encoder = encoder
        self._hand_over = hand_over
        self._record = record

    def pack(
        self, group: Group, payload: Any, remote: int, head: bytes, *, needed: bool
    ) -> tuple[int, bytes, Opener | None, str]:
        """Kind and body for other processes, an opener for receivers in the flow, and why the others don't get it.

        The last is a reason to count, or "" when they do get it.

        :param remote: the wires to other processes.
        :param head: the bytes that the body starts with.
        :param needed: whether it is an error when the payload can't be made ready for `remote`, as on any wire but a tap.
        :raises PayloadError: when the payload does not pickle.
        :raises SharedMemoryFull, Stopping: see `Encoder.encode`.
        """
        if payload is NOTHING:
            return TOMBSTONE, head, partial(itself, payload) if group.local else None, ""
        refusal = ""
        if remote:
            try:
                return *self.encode(group, remote, head, payload), ""
            except NoFreeSlot:  # as the wires' policies say, so it is no error
                refusal = "no_slot"
            except (SharedMemoryFull, PayloadError) as error:
                if needed:
                    raise
                refusal = "no_slot" if isinstance(error, SharedMemoryFull) else "error"
        opener = None
        if group.local:
            opener = self._hand_over.make(payload, group.threshold, in_band=group.in_band)
            self._count(self._hand_over.copied_bytes, self._hand_over.pickled_bytes)
        return TOMBSTONE, head, opener, refusal

    def encode(self, group: Group, remote: int, head: bytes, payload: Any) -> tuple[int, bytes, Opener | None]:
        """The same of a message that leaves the flow. Receivers in the flow open what was encoded for the others."""
        encoder, opener = self._encoder, None
        kind, body = encoder.encode(self._post, payload, remote, head, in_band=group.in_band, threshold=group.threshold)
        self._count(encoder.copied_bytes, encoder.in_band_bytes)
        if group.local:
            opener = self._hand_over.open_message(kind, body, len(head), self._post.slots)
            self._count(self._hand_over.copied_bytes, 0)
        return kind, body, opener

    def serve(self, group: Group) -> None:
        """Lends `HotPath.run` the means to pickle, where all messages go to this group of wires to other processes."""
        self._encoder.serve(self._post, group.outs, group.threshold, self._finish)

    def _finish(self, head: bytes) -> tuple[int, bytes]:
        kind, body = self._encoder.finish(head)
        self._count(self._encoder.copied_bytes, self._encoder.in_band_bytes)
        return kind, body

    def _count(self, copied: int, in_band: int) -> None:
        if copied or in_band:
            self._record.count_sending(copied=copied, in_band=in_band)
