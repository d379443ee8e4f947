"""What a routine's calls are made of: one message, a batch, or some that belong together; in order where it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

from pipert_shm import native
from pipert_shm.data import Meta
from pipert_shm.errors import EndOfStream, describe
from pipert_shm.join import Matcher
from pipert_shm.memory import ControlSegment
from pipert_shm.order import Order
from pipert_shm.plan import HELD_BACK, EdgePlan, RoutinePlan
from pipert_shm.ports import NOTHING, Inbox, Outbox
from pipert_shm.routine import BatchRoutine

HELD_BACK_POLL_NS = 2_000_000  # between looks whether what is held back has to wait for anything still

# Payloads to be handled in one call, and what is known of each.
Gathered = tuple[list[Any], list[Meta]]


class Intake:
    """Gathers what a routine gets. The routine's thread only.

    :param obey: takes the commands that came; says whether the run is to end.
    :param count_error: counts an error of the routine's.
    """

    def __init__(
        self,
        segment: ControlSegment,
        plan: RoutinePlan,
        names: tuple[str, ...],
        inbox: Inbox,
        outbox: Outbox,
        logger: logging.Logger,
        obey: Callable[[], bool],
        count_error: Callable[[Exception], None],
    ) -> None:
        self._plan = plan
        self._routine = plan.routine
        self.names = names
        self._inbox = inbox
        inbox.on_over_cap = self._warn_of_cap
        self._outbox = outbox
        self._logger = logger
        self._obey = obey
        self._count_error = count_error
        self._record = native.RoutineRecord(segment.process, plan.number)
        self._words = self._record.words
        self._joined = [names[edge.sender] for edge in plan.ins]
        self._matcher: Matcher[tuple[EdgePlan, Any, Meta]] | None = None
        self.is_batch = isinstance(plan.routine, BatchRoutine)
        self.gather: Callable[[], Gathered | None] = self._gather_batch if self.is_batch else self._gather_one
        join = plan.routine.join
        if join is not None:
            self._matcher = Matcher([edge.number for edge in plan.ins], join.tolerance, join.depth)
            self.gather = self._gather_joined
        self.is_plain = not self.is_batch and join is None  # then a call gets one message, as it is
        self._lanes = {sender: [native.EdgeRecord(segment.process, n) for n in edges] for sender, edges in plan.lanes.items()}
        self._order: Order[tuple[EdgePlan, Any, Meta]] | None = None
        if self._lanes and not plan.ordered:
            self._order = Order({sender: [edge.tickets for edge in edges] for sender, edges in self._lanes.items()}, HELD_BACK)
        self._enters_flow = plan.ordered and any(not edge.local for edge in plan.ins)
        self._nothing_came = False
        self._stopped = False
        self._hand: list[Any] = []
        self._warned_of_cap: set[int] = set()

    def argument(self, payloads: list[Any]) -> Any:
        """What `main_logic` gets of what was gathered, where that is not plain."""
        if self.is_batch:
            return payloads.copy()
        return dict(zip(self._joined, payloads, strict=True))

    def meta_of(self, metas: list[Meta]) -> Meta:
        """What the result of one call inherits: of a join, the first one's, with the oldest capture."""
        first = metas[0]
        if self._matcher is None:
            return first
        oldest = min(meta.captured_ns for meta in metas)
        return Meta(self.names, first.origin_number, first.sequence, oldest, first.raw_hops, pts=first.pts)

    def end(self, *, over: bool) -> None:
        """The run ends: drops what waits for partners, and, if it is over for good, what waits for its turn."""
        if self._matcher is not None:
            self._disown(self._matcher.clear())
        while over and self._order is not None and (waiting := self._order.waiting()):
            _, (edge, _, _) = self._order.release(waiting[0])
            self._inbox.disown(edge, "ended")

    def _gather_one(self) -> Gathered | None:
        message = self._next()
        return None if message is None else ([message[0]], [message[1]])

    def _gather_batch(self) -> Gathered | None:
        """Up to `batch_size` messages: what comes within `max_wait` of the first, and before a stop."""
        routine = self._routine
        assert isinstance(routine, BatchRoutine)
        payloads: list[Any] = []
        metas: list[Meta] = []
        until, left = 0, native.FOREVER
        while len(payloads) < routine.batch_size:
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
                until = until or native.now_ns() + int(routine.max_wait * 1e9)
            elif self._stopped or (payloads and native.now_ns() >= until):
                break
            if payloads:
                left = max(0, until - native.now_ns())
        return (payloads, metas) if payloads else None

    def _gather_joined(self) -> Gathered | None:
        """The next message of one input completes a set, or waits for the others."""
        assert self._matcher is not None
        assert self._routine.join is not None
        message = self._next()
        if message is None:
            return None
        edge, meta = self._inbox.edge, message[1]
        key = meta.sequence if self._routine.join.by == "seq" else meta.captured_ns / 1e9
        dropped = self._matcher.add(edge.number, key, (edge, *message))
        del message
        self._disown(dropped)
        matched = self._matcher.match()
        return None if matched is None else ([payload for _, payload, _ in matched], [meta for _, _, meta in matched])

    def _disown(self, dropped: list[tuple[Hashable, tuple[EdgePlan, Any, Meta]]]) -> None:
        for _, (edge, _, _) in dropped:
            self._inbox.disown(edge, "join")

    def _next(self, timeout_ns: int = native.FOREVER) -> tuple[Any, Meta] | None:
        """The next message; None when there is none in time, or commands came, which are obeyed."""
        if self._order is not None:
            return self._next_in_order(self._order, timeout_ns)
        if self._plan.ordered:
            if self._enters_flow and self._inbox.unsettled:
                self._settle()
            message = self._receive(timeout_ns)
            if message is not None and message[0] is NOTHING:
                self.send_nothing([message[1]])
                return None
            return message
        message = self._receive(timeout_ns)
        if message is not None and message[0] is NOTHING:
            self._words.handled += 1  # on a wire that was linked from an ordered flow, after which there is no order here
            return None
        return message

    def _next_in_order(self, order: Order[tuple[EdgePlan, Any, Meta]], timeout_ns: int) -> tuple[Any, Meta] | None:
        until = min(native.now_ns() + timeout_ns, native.FOREVER)
        while True:
            due = order.pop()
            if due is None:
                free = order.free()  # before the look, which then finds all that could come before
                patience = 0 if free else HELD_BACK_POLL_NS if order.waiting() else native.FOREVER
                try:
                    message = self._receive(min(patience, max(0, until - native.now_ns())))
                except EndOfStream:
                    if not order.waiting():
                        raise
                    due = order.release(order.waiting()[0])
                else:
                    if message is not None:
                        edge, ticket = self._inbox.edge, message[1].ticket
                        if not edge.ordered or ticket is None:
                            return message
                        if order.add(*ticket, edge.number, (edge, *message)):
                            self._inbox.pause(edge.number, True)
                        del message
                        continue
                    if not self._nothing_came or (not free and native.now_ns() >= until):
                        return None
                    if not free:
                        continue
                    due = order.release(free[0])
            number, (_, payload, meta) = due
            due = None
            self._inbox.pause(number, False)
            if payload is not NOTHING:
                return payload, meta
            self._words.handled += 1

    def _settle(self) -> None:
        """Of what was sent to this replica, and is neither waiting nor in its hands, nothing will come: says so."""
        self._inbox.unsettled = False
        for sender, edges in self._lanes.items():
            for edge, number in zip(edges, self._plan.lanes[sender], strict=True):
                pushed, done = edge.tickets()
                if pushed > done and not self._inbox.unread(number):
                    meta = Meta(self.names, self._plan.number, 0, native.now_ns(), ticket=(sender, pushed))
                    self._hand.append(NOTHING)
                    self._outbox.put(self._hand, meta)
        self._outbox.flush()

    def send_nothing(self, metas: list[Meta]) -> None:
        """There is no result for these messages: they are done with, and in an ordered flow the others need not wait for it."""
        if not self._plan.ordered:
            self._words.handled += len(metas)
            return
        for meta in metas:
            self._hand.append(NOTHING)
            self._outbox.put(self._hand, meta, 1)
        self._outbox.flush()

    def _receive(self, timeout_ns: int = native.FOREVER) -> tuple[Any, Meta] | None:
        """The next message as it comes; None when there is none in time, or commands came, which are obeyed."""
        status = self._inbox.receive(timeout_ns)
        self._nothing_came = self._stopped = False
        if status == native.OK:
            try:
                return self._inbox.take()
            except Exception as error:
                self._logger.error("a message could not be decoded: %s", describe(error), exc_info=error)
                self._count_error(error)
        elif status == native.TIMED_OUT:
            self._nothing_came = True
        elif status == native.CLOSED:
            raise EndOfStream
        elif status == native.NOTICE:
            self._stopped = self._obey()
        elif status == native.PROTOCOL:
            self._record.count_error()
            self._logger.error("a message did not match its slots; it is skipped. This is a bug, please report it")
        return None

    def _warn_of_cap(self, edge: EdgePlan) -> None:
        if edge.number in self._warned_of_cap:
            return
        self._warned_of_cap.add(edge.number)
        self._logger.warning(
            "it keeps more than %d frames of %r; further ones are handed over as private copies (shown once)",
            edge.borrow_cap,
            self.names[edge.sender],
        )
