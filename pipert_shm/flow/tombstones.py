"""Messages that yield no result: in a flow whose order is restored, the receivers behind it are told not to wait for them."""

from __future__ import annotations

from typing import Any

from pipert_shm import binding
from pipert_shm.data import Meta
from pipert_shm.flow.context import Context
from pipert_shm.message.types import NOTHING


class Tombstones:
    """Sends a tombstone for each message that yields no result; outside of such a flow it only counts them as handled.

    The routine's thread only.
    """

    def __init__(self, context: Context) -> None:
        plan = context.plan
        self._context = context
        self._inbox = context.inbox
        self._outbox = context.outbox
        self._words = context.record.words  # the raw record: it counts each message
        self._ordered = bool(plan.ordered)
        self._enters_flow = self._ordered and not any(edge.local for edge in plan.ins)
        self._received: list[Meta] = []  # tombstones that are to be passed on
        self._hand: list[Any] = []

    def receive(self, meta: Meta) -> None:
        """Notes a tombstone that came, for `settle`."""
        if self._ordered:
            self._received.append(meta)
        else:  # on a wire that was linked from an ordered flow, after which there is no order here
            self._words.handled += 1

    @property
    def pending(self) -> bool:
        """Whether a tombstone came that is not passed on."""
        return bool(self._received)

    def settle(self) -> None:
        """Passes on the tombstones that came, and sends one for messages to this replica that are lost.

        Only while the replica has no message in its hands: receivers take it that all earlier results are sent.
        """
        if self._received:
            metas, self._received = self._received, []
            self.send(metas)
        if not (self._enters_flow and self._inbox.unsettled):
            return
        context = self._context
        self._inbox.unsettled = False
        for sender, edge in context.lanes.items():
            pushed = edge.pushed_ticket()  # not one that is only announced: it may come after the look at the queue
            if pushed > edge.tickets()[1] and not self._inbox.unread({context.plan.lanes[sender]}):
                meta = Meta(context.names, context.plan.origin, 0, binding.now_ns(), ticket=(sender, pushed))
                self._hand.append(NOTHING)
                self._outbox.put(self._hand, meta)
        self._outbox.flush()

    def send(self, metas: list[Meta]) -> None:
        """Says of these messages that they yield no result."""
        self.put(metas)
        if self._ordered:
            self._outbox.flush()

    def put(self, metas: list[Meta]) -> None:
        """The same, but the outbox sends it with its next `flush`."""
        if not self._ordered:
            self._words.handled += len(metas)
            return
        for meta in metas:
            self._hand.append(NOTHING)
            self._outbox.put(self._hand, meta, 1)
