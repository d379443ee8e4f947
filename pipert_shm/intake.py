"""What a routine's calls are made of: one message, a batch, or some that belong together; in order where it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from pipert_shm import native
from pipert_shm.data import Meta
from pipert_shm.errors import EndOfStream
from pipert_shm.failures import Failures
from pipert_shm.join import Matcher
from pipert_shm.memory import ControlSegment
from pipert_shm.order import Order
from pipert_shm.plan import HELD_BACK, EdgePlan, RoutinePlan
from pipert_shm.ports import NOTHING, Inbox, Message, Outbox
from pipert_shm.routine import BatchRoutine

HELD_BACK_POLL_NS = 2_000_000  # between looks whether what is held back has to wait for anything still

# Payloads to be handled in one call, and what is known of each.
Gathered = tuple[list[Any], list[Meta]]

Stream = tuple[int, int]  # one of the flows whose order is restored, and a sender to it


class Intake:
    """Gathers what a routine gets. The routine's thread only.

    :param copies: names of replicas, by the name that they share.
    :param obey: takes the commands that came; says whether the run is to end.
    :param count_error: counts an error of the routine's.
    """

    def __init__(
        self,
        segment: ControlSegment,
        plan: RoutinePlan,
        names: tuple[str, ...],
        copies: Mapping[str, tuple[str, ...]],
        inbox: Inbox,
        outbox: Outbox,
        failures: Failures,
        obey: Callable[[], bool],
        count_error: Callable[[BaseException], None],
    ) -> None:
        self._plan = plan
        self._routine = plan.routine
        self.names = names
        self._inbox = inbox
        inbox.on_over_cap = self._warn_of_cap
        self._outbox = outbox
        self._failures = failures
        self._obey = obey
        self._count_error = count_error
        self._record = native.RoutineRecord(segment.process, plan.number)
        self._words = self._record.words
        shared = {copy: name for name, members in copies.items() for copy in members}
        self._inputs = {sender: shared.get(names[sender], names[sender]) for sender in plan.joined}
        self._matcher: Matcher[tuple[EdgePlan, Any, Meta]] | None = None
        self.is_batch = isinstance(plan.routine, BatchRoutine)
        self.gather: Callable[[], Gathered | None] = self._gather_batch if self.is_batch else self._gather_one
        join = plan.routine.join
        if join is not None:
            self._matcher = Matcher(self._inputs.values(), join.tolerance, plan.depth)
            self.gather = self._gather_joined
        self.is_plain = not self.is_batch and join is None  # then a call gets one message, as it is
        self._lanes = {sender: native.EdgeRecord(segment.process, edge) for sender, edge in plan.lanes.items()}
        lanes = {
            (flow, sender): {edge: native.EdgeRecord(segment.process, lane).tickets for edge, lane in edges.items()}
            for flow, restored in enumerate(plan.restores)
            for sender, edges in restored.lanes.items()
        }
        self._order: Order[Stream, tuple[EdgePlan, Any, Meta]] | None = Order(lanes, HELD_BACK) if lanes else None
        self.begins_calls = self.is_plain and self._order is None  # those of main_logic, by their receipt: see csrc/port.h
        self._flow_of = {edge: flow for (flow, _), edges in lanes.items() for edge in edges}
        self._paused: set[int] = set()  # edges of which enough is held back
        self._edge: EdgePlan | None = None  # of the message that `_next_in_order` gave
        self._overtaken = False  # whether the last message came from elsewhere, while a result could be let through
        self._enters_flow = plan.ordered and any(not edge.local for edge in plan.ins)
        self._nothing_came = False
        self._stopped = False
        self._nothing: list[Meta] = []  # of messages to this replica that there is no payload for
        self._hand: list[Any] = []
        self._warned_of_cap: set[int] = set()

    def argument(self, payloads: list[Any]) -> Any:
        """What `main_logic` gets of what was gathered, where that is not plain."""
        if self.is_batch:
            return payloads.copy()
        return dict(zip(dict.fromkeys(self._inputs.values()), payloads, strict=True))

    def meta_of(self, metas: list[Meta]) -> Meta:
        """What the result of one call inherits: of a join, the first one's, with the oldest capture."""
        first = metas[0]
        if self._matcher is None:
            return first
        oldest = min(meta.captured_ns for meta in metas)
        return Meta(self.names, first.origin_number, first.sequence, oldest, first.raw_hops, pts=first.pts)

    def let_go(self) -> None:
        """The routine is over, or is killed: drops what waits for partners, and what waits for its turn."""
        if self._matcher is not None:
            self._disown(self._matcher.clear())
        while self._order is not None and (waiting := self._order.waiting()):
            _, (edge, _, _) = self._order.release(waiting[0])
            self._inbox.disown(edge, "ended")

    def _gather_one(self) -> Gathered | None:
        if self._enters_flow or self._nothing:
            self._settle()
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
            if not payloads:
                self._settle()
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
            elif self._stopped or (payloads and (self._nothing or (self._nothing_came and native.now_ns() >= until))):
                break  # not for a command that came, or a message that was skipped: others may be there
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
        edge = self._inbox.edge if self._order is None else self._edge
        assert edge is not None
        meta = message[1]
        key = meta.sequence if self._routine.join.by == "seq" else meta.captured_ns / 1e9
        dropped = self._matcher.add(self._inputs[edge.sender], key, (edge, *message))
        del message
        self._disown(dropped)
        matched = self._matcher.match()
        return None if matched is None else ([payload for _, payload, _ in matched], [meta for _, _, meta in matched])

    def _disown(self, dropped: list[tuple[Hashable, tuple[EdgePlan, Any, Meta]]]) -> None:
        for _, (edge, _, _) in dropped:
            self._inbox.disown(edge, "join")

    def _next(self, timeout_ns: int = native.FOREVER) -> Message | None:
        """The next message; None when there is none in time, or commands came, which are obeyed."""
        if self._order is not None:
            return self._next_in_order(self._order, timeout_ns)
        received = self._inbox.receive(timeout_ns)
        if isinstance(received, tuple):
            return received
        message = self._take(received)
        if message is not None and message[0] is NOTHING:
            if self._plan.ordered:
                self._nothing.append(message[1])
            else:  # on a wire that was linked from an ordered flow, after which there is no order here
                self._words.handled += 1
            return None
        return message

    def _next_in_order(self, order: Order[Stream, tuple[EdgePlan, Any, Meta]], timeout_ns: int) -> Message | None:
        until = min(native.now_ns() + timeout_ns, native.FOREVER)
        hidden = False
        while True:
            due = order.pop()
            if due is None:
                free = order.free()  # before the look, which then finds all that could come before
                if free and self._overtaken:  # by a wire that may always have something: the look would never find nothing
                    due = self._release_seen(order, free)
            if due is None:
                self._resume(order)
                patience = 0 if free and not hidden else HELD_BACK_POLL_NS if order.waiting() else native.FOREVER
                try:
                    message = self._receive(min(patience, max(0, until - native.now_ns())))
                except EndOfStream:
                    if not order.waiting():
                        raise
                    due = order.release(order.waiting()[0])
                else:
                    if message is not None:
                        edge, ticket = self._inbox.edge, message[1].ticket
                        self._overtaken = bool(free) and edge.number not in order.sources(free[0])
                        if ticket is None or edge.number not in self._flow_of:
                            self._edge = edge
                            return message
                        if order.add((self._flow_of[edge.number], ticket[0]), ticket[1], edge.number, (edge, *message)):
                            self._pause(edge.number, True)
                        del message
                        continue
                    if not self._nothing_came:
                        return None
                    due = self._release_seen(order, free)
                    hidden = bool(free) and due is None
                    if due is None and native.now_ns() >= until:
                        return None
                    if due is None:
                        continue
            number, (self._edge, payload, meta) = due
            due = None
            self._pause(number, False)
            if payload is not NOTHING:
                return payload, meta
            self._words.handled += 1

    def _release_seen(
        self, order: Order[Stream, tuple[EdgePlan, Any, Meta]], free: list[Stream]
    ) -> tuple[int, tuple[EdgePlan, Any, Meta]] | None:
        """The next result of a free stream of which all that was pushed before it has been taken.

        What is pushed may be where this process can't take it yet: it is told later of a new sender's queue.
        """
        seen = (stream for stream in free if not self._inbox.unread(order.sources(stream)))
        stream = next(seen, None)
        return None if stream is None else order.release(stream)

    def _pause(self, edge: int, paused: bool) -> None:
        if paused != (edge in self._paused):
            self._inbox.pause(edge, paused)
            (self._paused.add if paused else self._paused.remove)(edge)

    def _resume(self, order: Order[Stream, tuple[EdgePlan, Any, Meta]]) -> None:
        """Goes on with those that have enough held back, where results that others wait for come on the same edge."""
        if self._paused:
            for edge in self._paused & set().union(*(order.sources(stream) for stream in order.waiting())):
                self._pause(edge, False)

    def _settle(self) -> None:
        """Says what nothing will come of: tombstones that came, and what is gone that was sent to this replica.

        Only while it has nothing in its hands: whoever puts the results in order takes it that all earlier ones are sent.
        """
        if self._nothing:
            metas, self._nothing = self._nothing, []
            self.send_nothing(metas)
        if not (self._enters_flow and self._inbox.unsettled):
            return
        self._inbox.unsettled = False
        for sender, edge in self._lanes.items():
            pushed = edge.pushed_ticket()  # not one that is only about to be: it may come after the look at the queue
            if pushed > edge.tickets()[1] and not self._inbox.unread({self._plan.lanes[sender]}):
                meta = Meta(self.names, self._plan.number, 0, native.now_ns(), ticket=(sender, pushed))
                self._hand.append(NOTHING)
                self._outbox.put(self._hand, meta)
        self._outbox.flush()

    def send_nothing(self, metas: list[Meta]) -> None:
        """There is no result for these messages: they are done with, and in an ordered flow the others need not wait for it."""
        self.put_nothing(metas)
        if self._plan.ordered:
            self._outbox.flush()

    def put_nothing(self, metas: list[Meta]) -> None:
        """The same, to be sent by the next `flush`."""
        if not self._plan.ordered:
            self._words.handled += len(metas)
            return
        for meta in metas:
            self._hand.append(NOTHING)
            self._outbox.put(self._hand, meta, 1)

    def _receive(self, timeout_ns: int) -> Message | None:
        """The next message as it comes; None when there is none in time, or commands came, which are obeyed."""
        received = self._inbox.receive(timeout_ns)
        return received if isinstance(received, tuple) else self._take(received)

    def _take(self, status: int) -> Message | None:
        """The message that there is by this status, if there is one. Commands are obeyed."""
        self._nothing_came = self._stopped = False
        if status == native.OK:
            try:
                return self._inbox.take()
            except BaseException as error:  # user code unpacks payloads, and may raise anything
                self._failures.tell("a message could not be decoded", error)
                self._count_error(error)
        elif status == native.TIMED_OUT:
            self._nothing_came = True
        elif status == native.CLOSED:
            raise EndOfStream
        elif status == native.NOTICE:
            self._stopped = self._obey()
        elif status == native.PROTOCOL:
            self._record.count_error()
            self._failures.tell("a message is skipped", LookupError("it does not match its slots: a bug, please report it"))
        return None

    def _warn_of_cap(self, edge: EdgePlan) -> None:
        if edge.number in self._warned_of_cap:
            return
        self._warned_of_cap.add(edge.number)
        self._routine._logger.warning(
            "%s keeps more than %d frames of %r; further ones are handed over as private copies (shown once)",
            self._failures.who,
            edge.borrow_cap,
            self.names[edge.sender],
        )
