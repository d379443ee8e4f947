"""What one call of `main_logic` gets: one message, a batch, or some that belong together."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from pipert_shm import binding
from pipert_shm.data import Meta
from pipert_shm.errors import EndOfStream
from pipert_shm.flow.context import Context
from pipert_shm.flow.reception import Reception
from pipert_shm.flow.reordering import Held, Reordering
from pipert_shm.flow.tombstones import Tombstones
from pipert_shm.join import Matcher
from pipert_shm.routine import BatchRoutine

# Payloads to be handled in one call, and what is known of each.
Gathered = tuple[list[Any], list[Meta]]


class Gathering:
    """Gathers what a routine's calls get. The routine's thread only.

    :param obey: obeys the commands that came; says whether the run is to end.
    :param count_error: counts an error of the routine's.

    Attributes:
        gather: gives what the next call gets; None when nothing came yet, or after commands. Raises EndOfStream at the end.
        is_plain: whether a call gets one message's payload, as it is.
        begins_calls: whether the receipt of a message begins the call of `main_logic`: see csrc/port.h.
    """

    def __init__(
        self,
        context: Context,
        tombstones: Tombstones,
        obey: Callable[[], bool],
        count_error: Callable[[BaseException], None],
    ) -> None:
        plan = context.plan
        self._context = context
        self._routine = plan.routine
        self._inbox = context.inbox
        self._tombstones = tombstones
        self._settles = bool(plan.ordered)
        self._reception = Reception(context, tombstones, obey, count_error)
        self._reordering: Reordering | None = None
        self._next = self._reception.next
        shared = {replica: name for name, members in context.host.plan.replicas.items() for replica in members}
        self._inputs = {sender: shared.get(context.names[sender], context.names[sender]) for sender in plan.joined}
        self._matcher: Matcher[Held] | None = None
        self.is_batch = isinstance(plan.routine, BatchRoutine)
        self.gather: Callable[[], Gathered | None] = self._gather_batch if self.is_batch else self._gather_one
        join = plan.routine.join
        if join is not None:
            self._matcher = Matcher(self._inputs.values(), join.tolerance, plan.depth)
            self.gather = self._gather_joined
        self.is_plain = not self.is_batch and join is None
        self.begins_calls = self.is_plain
        context.on_order = self._put_in_order
        self._put_in_order()

    def _put_in_order(self) -> None:
        """Acts on what the plan says of the order of results. What waits for its turn goes on to do so."""
        if self._reordering is not None:
            self._reordering.restore()
        elif any(self._context.plan.restores.values()):
            self._reordering = reordering = Reordering(self._context, self._reception)
            self._next = reordering.next
            self.begins_calls = False

    def argument(self, payloads: list[Any]) -> Any:
        """What `main_logic` gets, where a call is not plain: a list of payloads, or a dictionary of them by routine."""
        if self.is_batch:
            return payloads.copy()
        return dict(zip(dict.fromkeys(self._inputs.values()), payloads, strict=True))

    def meta_of(self, metas: list[Meta]) -> Meta:
        """What the result of one call inherits: the first message's; after a join with the oldest capture."""
        first = metas[0]
        if self._matcher is None:
            return first
        oldest = min(meta.captured_ns for meta in metas)
        joined = Meta(self._context.names, first.origin_number, first.sequence, oldest, first.raw_hops, stamp=first.raw_stamp)
        joined.uncertainty_ns = max(meta.uncertainty_ns for meta in metas)
        return joined

    def let_go(self) -> None:
        """Drops what waits for partners or for its turn: the routine has ended, or is to be killed."""
        if self._matcher is not None:
            self._disown(self._matcher.clear())
        if self._reordering is not None:
            self._reordering.let_go()

    @property
    def is_bare(self) -> bool:
        """Whether a call gets each message that the port gives, as it comes."""
        return self.begins_calls and not self._settles and self._inbox.is_plain

    def accept(self, status: int) -> Gathered | None:
        """What `gather` gives after the port gave this status, where that is bare."""
        message = self._reception.accept(self._inbox.accept(status))
        if message is not None:
            message = self._reception.unless_tombstone(message)
        return None if message is None else ([message[0]], [message[1]])

    def _gather_one(self) -> Gathered | None:
        if self._settles:
            self._tombstones.settle()
        message = self._next()
        return None if message is None else ([message[0]], [message[1]])

    def _gather_batch(self) -> Gathered | None:
        """Up to `batch_size` messages: those that come within `max_wait` of the first, and before a stop."""
        routine, reception = self._routine, self._reception
        assert isinstance(routine, BatchRoutine)
        payloads: list[Any] = []
        metas: list[Meta] = []
        until, left = 0, binding.FOREVER
        while len(payloads) < routine.batch_size:
            if not payloads:
                self._tombstones.settle()
            try:
                message = self._next(left)
            except EndOfStream:
                if not payloads:
                    raise
                break
            if message is not None:
                payloads.append(message[0])
                metas.append(message[1])
                del message
                until = until or binding.now_ns() + int(routine.max_wait * 1e9)
            elif reception.stopped:
                break
            elif payloads and (self._tombstones.pending or (reception.nothing_came and binding.now_ns() >= until)):
                break  # not for a command that came, or a message that was skipped: others may be there
            if payloads:
                left = max(0, until - binding.now_ns())
        return (payloads, metas) if payloads else None

    def _gather_joined(self) -> Gathered | None:
        """The next message of one input completes a set, or waits for the others."""
        assert self._matcher is not None
        assert self._routine.join is not None
        message = self._next()
        if message is None:
            return None
        edge = (self._reordering or self._reception).edge
        assert edge is not None
        meta = message[1]
        key = meta.sequence if self._routine.join.by == "seq" else meta.captured_ns / 1e9
        dropped = self._matcher.add(self._inputs[edge.sender], key, (edge, *message))
        del message
        self._disown(dropped)
        matched = self._matcher.match()
        return None if matched is None else ([payload for _, payload, _ in matched], [meta for _, _, meta in matched])

    def _disown(self, dropped: list[tuple[Hashable, Held]]) -> None:
        for _, (edge, _, meta) in dropped:
            self._inbox.disown(edge, "join", meta)
