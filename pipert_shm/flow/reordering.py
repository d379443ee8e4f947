"""Messages in their senders' order, after flows whose replicas overtake each other."""

from __future__ import annotations

from typing import Any

from pipert_shm import binding
from pipert_shm.data import Meta
from pipert_shm.errors import EndOfStream
from pipert_shm.flow.context import Context
from pipert_shm.flow.reception import Reception
from pipert_shm.flow.ticket_order import TicketOrder, Tickets
from pipert_shm.graph.model import EdgePlan
from pipert_shm.graph.sizing import HELD_BACK
from pipert_shm.message.types import NOTHING, Message

HELD_BACK_POLL_NS = 2_000_000  # between looks whether a result that is held back still has to wait

Stream = tuple[str, int]  # a flow whose order is restored, and a sender to it by the number that its messages carry
Held = tuple[EdgePlan, Any, Meta]  # a result that is held back: its wire, its payload, and what is known of it


class Reordering:
    """Receives a routine's messages, in order. The routine's thread only.

    Attributes:
        edge: the wire of the message that `next` gave.
    """

    def __init__(self, context: Context, reception: Reception) -> None:
        self._process = context.host.segment.process
        self._plan = context.plan
        self._reception = reception
        self._inbox = context.inbox
        self._words = context.record.words  # the raw record: it counts each message
        self._order: TicketOrder[Stream, Held] = TicketOrder({}, HELD_BACK)
        self._flow_of: dict[int, str] = {}  # by edge on which results come
        self._paused: set[int] = set()  # edges of which enough is held back
        self._overtaken = False  # whether the last message came from elsewhere, while a result could be let through
        self.edge: EdgePlan | None = None
        self.restore()

    def restore(self) -> None:
        """Goes by the flows and their edges that the plan says now.

        Where an edge has gone, no more results are sent on it. Those that are on their way still come in their order.
        """
        lanes: dict[Stream, dict[int, Tickets]] = {
            (flow, sender): {edge: binding.EdgeRecord(self._process, lane).tickets for edge, lane in edges.items()}
            for flow, streams in self._plan.restores.items()
            for sender, edges in streams.items()
        }
        flow_of = {edge: flow for (flow, _), edges in lanes.items() for edge in edges}
        for stream, edges in self._order.lanes.items():
            for edge in (edge for edge in edges if edge not in flow_of and self._inbox.unread({edge})):
                lanes.setdefault(stream, {})[edge] = _no_more
        self._flow_of = {edge: flow for (flow, _), edges in lanes.items() for edge in edges}
        self._order.go_by(lanes)

    def next(self, timeout_ns: int = binding.FOREVER) -> Message | None:
        """The next message in order; None when none came in time, after commands, or for a tombstone that needs no order.

        :raises EndOfStream: when all wires are at their end, and nothing is held back.
        """
        order = self._order
        until = min(binding.now_ns() + timeout_ns, binding.FOREVER)
        hidden = False  # whether something earlier was pushed that this process can't take yet
        while True:
            free: dict[Stream, set[int]] = {}
            due = order.pop()
            if due is None:
                free = order.free()  # before the look, which then finds all that could come before
                if free and self._overtaken:  # by a wire that may always have something: the look would never find nothing
                    due = self._release_seen(free)
            if due is None:
                self._resume(free)
                patience = 0 if free and not hidden else HELD_BACK_POLL_NS if order.waiting() else binding.FOREVER
                try:
                    message = self._reception.receive(min(patience, max(0, until - binding.now_ns())))
                except EndOfStream:
                    if not order.waiting():
                        raise
                    due = order.release(order.waiting()[0])
                else:
                    if message is not None and not self._hold_back(message, free):
                        return self._reception.unless_tombstone(message)
                    if message is None and not self._reception.nothing_came:
                        return None
                    if message is None:
                        due = self._release_seen(free)
                        hidden = bool(free) and due is None
                        if due is None and binding.now_ns() >= until:
                            return None
            if due is not None and (message := self._let_through(*due)) is not None:
                return message

    def _hold_back(self, message: Message, free: dict[Stream, set[int]]) -> bool:
        """Holds a message back until its turn; False for one that needs no order, and is next."""
        payload, meta = message
        edge, ticket = self._reception.edge, meta.ticket
        self._overtaken = bool(free) and edge.number not in next(iter(free.values()))
        if ticket is None or edge.number not in self._flow_of:
            self.edge = edge
            return False
        sender, number = ticket
        if self._order.add((self._flow_of[edge.number], sender), number, edge.number, (edge, payload, meta)):
            self._pause(edge.number, True)
        return True

    def _let_through(self, number: int, held: Held) -> Message | None:
        """The message whose turn it is; None when it is a tombstone."""
        self.edge, payload, meta = held
        self._pause(number, False)
        if payload is not NOTHING:
            return payload, meta
        self._words.handled += 1
        return None

    def _release_seen(self, free: dict[Stream, set[int]]) -> tuple[int, Held] | None:
        """The next result of a free stream of which all that was pushed before it has been taken.

        What is pushed may be where this process can't take it yet: it is told later of a new sender's queue.
        """
        seen = (stream for stream, edges in free.items() if not self._inbox.unread(edges))
        stream = next(seen, None)
        return None if stream is None else self._order.release(stream)

    def _pause(self, edge: int, paused: bool) -> None:
        if paused != (edge in self._paused):
            self._inbox.pause(edge, paused)
            (self._paused.add if paused else self._paused.remove)(edge)

    def _resume(self, free: dict[Stream, set[int]]) -> None:
        """Takes messages again from the edges on which results come that others wait for, however many are held back."""
        if self._paused:
            for edge in self._paused & self._order.needed(free):
                self._pause(edge, False)

    def let_go(self) -> None:
        """Drops all that is held back, counted as `ended`."""
        while waiting := self._order.waiting():
            _, (edge, _, meta) = self._order.release(waiting[0])
            self._inbox.disown(edge, "ended", meta)


def _no_more() -> tuple[int, int]:
    """The tickets of an edge on which nothing is announced that is not done."""
    return 0, 0
