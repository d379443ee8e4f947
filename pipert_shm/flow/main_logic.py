"""The calls of a routine's `main_logic`: what they get, and what becomes of their results and failures."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from pipert_shm import binding
from pipert_shm.binding import trace
from pipert_shm.data import Meta
from pipert_shm.errors import EndOfStream, NoFreeSlot, PayloadError, RoutineError, SharedMemoryFull, describe
from pipert_shm.flow.commands import Command
from pipert_shm.flow.context import Context
from pipert_shm.flow.gathering import Gathered, Gathering
from pipert_shm.flow.hot_loop import HotLoop
from pipert_shm.flow.pacing import Pacing
from pipert_shm.flow.payload_log import PayloadLog
from pipert_shm.flow.tombstones import Tombstones
from pipert_shm.shm import tracing
from pipert_shm.shm.slots import Stopping
from pipert_shm.shm.states import State
from pipert_shm.system import forked

RUNNING = State.RUNNING


class Control(Protocol):
    """What the calls ask of the runner: whether to go on.

    Attributes:
        state: the routine's. The control thread may set it to `STOPPING` at any time.
        commands: those that wait to be obeyed.
    """

    state: State
    commands: deque[Command]

    def obey(self) -> bool:
        """Obeys the commands that came; says whether the run is to end."""


def _is_dated(meta: Meta) -> bool:
    """Whether a source has said when it captured the message; if what it said makes no sense, the send tells."""
    try:
        return bool(meta.captured_ns)
    except Exception:
        return True


class MainLogic:
    """Calls `main_logic` message by message, and sends what it returns. The routine's thread only.

    Each message passes through here, so what it needs is kept as attributes, and the raw record (`_words`) is written to.
    """

    def __init__(self, context: Context, control: Control, payload_log: PayloadLog) -> None:
        plan = context.plan
        self._context = context
        self._control = control
        self._logic = plan.logic
        self._routine = plan.routine
        self._number, self._origin = plan.number, plan.origin
        self._home = context.home
        self._port = context.port
        self._outbox = context.outbox
        self._words = context.record.words
        self._payload_log = payload_log
        self._pacing = Pacing(context, control.obey)
        self._tombstones = Tombstones(context)
        self._gathering = Gathering(context, self._tombstones, control.obey, self._count_error)
        self._is_plain, self._is_batch = self._gathering.is_plain, self._gathering.is_batch
        self._in_c = HotLoop(context, self._gathering, self._pacing, payload_log)
        self._turn = self._produce if self._in_c.is_source else self._consume
        self._redo: Gathered | None = None  # what a call was given that was interrupted: the next one gets it again
        self._began = False  # whether the call of main_logic that comes next began with a receipt: see csrc/port.h
        self._hand: list[Any] = []  # the result that is about to be sent
        self._errors_in_a_row = 0

    def run(self) -> tuple[State, str]:
        """Calls `main_logic` until the run is to end; the state that it ends in, and of a failure the cause."""
        control, outbox, turn = self._control, self._outbox, self._turn
        self._errors_in_a_row = 0
        self._pacing.turn_ns = 0
        self._began = False
        try:
            while control.state is RUNNING:
                if forked.pid != self._home:  # in place of a call: once a message
                    forked.end_stray(None)
                try:
                    if outbox.unsent:
                        self._send(outbox.flush)
                    ring = self._in_c.ring() if self._redo is None else None
                    if ring is None:
                        turn()
                    else:
                        self._turns_in_c(ring)
                except Stopping:
                    control.obey()
            return State.STOPPED, ""
        except EndOfStream:
            self.say_last()
            return State.ENDED, ""
        except SharedMemoryFull as error:
            self._context.logger.error("%s: %s", self._context.failures.who, error)
            self._context.record.count_error()
            return State.FAILED, str(error)
        except BaseException as error:  # a bug of ours: what setup() opened is to be closed all the same
            return State.FAILED, self._context.report_failure("the runner", error)
        finally:
            self._port.end_call()

    def finish(self, patience: float) -> None:
        """Sends what waits for room: the routine's next process can't.

        :param patience: seconds that it may take.
        """
        until = time.monotonic() + patience
        timer = threading.Timer(patience, self._port.notify)
        timer.start()
        while self._outbox.unsent and time.monotonic() < until:
            self._port.noticed()
            with suppress(Stopping, SharedMemoryFull):
                self._send(self._outbox.flush)
        timer.cancel()
        timer.join()

    def say_last(self) -> None:
        """Sends what a routine of ours has to say at the end of its stream (`_at_end`), such as the end of what has begun."""
        ask = getattr(self._routine, "_at_end", None)
        if ask is None:
            return
        self._routine.meta = Meta(self._context.names, self._origin, 0)
        try:
            result = self.call_user(ask)
            if result is not None:
                self._hand.append(result)
                self._send(self._outbox.send, self._hand, self._routine.meta, 0)
        except Stopping:
            pass  # it goes on below
        except Exception as error:
            self._report_error([self._routine.meta], error)
        while self._outbox.unsent and self._control.state is RUNNING:
            self._control.obey()
            with suppress(Stopping, SharedMemoryFull):
                self._send(self._outbox.flush)

    def let_go(self) -> None:
        """Drops what was gathered, and what waits to be sent: the routine has ended, or is to be killed."""
        self._gathering.let_go()
        self._outbox.abandon()

    def call_user(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls the user's code. If that forks, and the child returns or raises here, the child ends."""
        try:
            result = function(*arguments)
        except BaseException as error:
            forked.end_if_stray(self._home, error)
            raise
        if forked.pid != self._home:
            forked.end_stray(None)
        return result

    def _produce(self) -> None:
        """One call of a source."""
        control, pacing = self._control, self._pacing
        if control.commands and control.obey():
            return
        if pacing.turn_ns or pacing.auto:
            pacing.wait()
            if control.state is not RUNNING:
                return
        self._apply([], [Meta(self._context.names, self._origin, self._words.sequence)])

    def _consume(self) -> None:
        """One call of a routine that receives, once there is something for it."""
        pacing = self._pacing
        if pacing.turn_ns or pacing.auto:
            pacing.wait()
            if self._control.state is not RUNNING:
                return
        gathered, self._redo = self._redo, None
        if gathered is None:
            gathered = self._gathering.gather()
            self._began = self._gathering.begins_calls
        if gathered is not None:
            self._apply(*gathered)

    def _apply(self, holder: list[Any], metas: list[Meta]) -> None:
        """Calls `main_logic` once, and sends its results.

        The payloads, none for a source, are taken out of the holder before anything is sent: nothing here may hold them then.
        """
        if self._pacing.turn_ns or self._routine._const_fps > 0:
            self._pacing.take_turn()
        meta = metas[0] if self._is_plain else self._gathering.meta_of(metas)
        self._routine.meta, self._routine.metas = meta, metas
        if self._payload_log.on:
            for payload, its in zip(holder, metas, strict=False):  # a source has a meta only
                self._payload_log.log("input", payload, its)
        handled = len(holder)
        try:
            if tracing.on:
                result = self._call_traced(holder, metas)
            elif self._began:
                self._began = False  # by its receipt; and it is ended by what comes next, the send or the next receipt
                result = self.call_user(self._logic, holder[0])
            else:
                result = self._call(holder)
        except BaseException as error:
            self._fail(error, holder, metas)
            return
        self._errors_in_a_row = 0
        holder.clear()
        if result is None:
            if handled:
                self._tombstones.send(metas)
            return
        self._hand.append(result)
        del result
        if self._is_batch:
            self._send_all(metas)
        else:
            self._send_result(meta, handled)

    def _turns_in_c(self, ring: int) -> None:
        """Calls in C, until Python has something to do; and that."""
        hot, source = self._port.hot, self._in_c.is_source
        try:
            outcome = self._in_c.run(ring)
        except BaseException as error:
            forked.end_if_stray(self._home, error)
            if hot.calls:
                self._errors_in_a_row = 0
            self._fail(error, [] if source else [hot.take_payload()], [self._routine.meta])
            return
        if hot.calls:
            self._errors_in_a_row = 0
        if outcome == binding.FOUND:
            gathered = self._gathering.accept(hot.status)
            if gathered is not None:
                self._began = True
                self._apply(*gathered)
        elif outcome == binding.NOTICED:
            self._control.obey()
        elif outcome == binding.RESULT:
            self._hand.append(hot.take_result())
            self._send_result(self._routine.meta, 0 if source else 1)
        elif outcome == binding.REFUSED:
            self._refuse(hot.take_result(), hot.take_error(), 0 if source else 1)
        elif outcome == binding.SENT:
            self._send(self._outbox.finish, hot.status)
        else:  # main_logic has forked, and this is the child
            forked.end_stray(None)

    def _refuse(self, result: Any, error: BaseException, handled: int) -> None:
        """Goes on after C could make no message of a result."""
        if isinstance(error, PayloadError) and self._outbox.has_wires:
            self._words.sequence += not handled
            self._send(self._outbox.refuse, error, handled)
        else:  # for want of memory, a slot, or time; or nobody but a tap looks
            self._hand.append(result)
            del result
            self._send_result(self._routine.meta, handled)

    def _fail(self, error: BaseException, holder: list[Any], metas: list[Meta]) -> None:
        """Goes on after what a call raised, or raises it again.

        :param holder: what the call got; it is emptied.
        """
        handled = len(holder)
        try:
            if not self._goes_on_after(error, holder, metas):
                raise error
        finally:
            holder.clear()
            del error  # its traceback has this frame: a cycle would keep the frames that the call had
        if handled:
            self._tombstones.send(metas)

    def _call(self, holder: list[Any]) -> Any:
        """One call whose beginning and end are noted here."""
        self._words.busy_since_ns = binding.now_ns()
        try:
            if not holder:
                result = self.call_user(self._logic)
            else:
                result = self.call_user(self._logic, holder[0] if self._is_plain else self._gathering.argument(holder))
        except BaseException:
            self._port.end_call()
            raise
        if result is None:
            self._port.end_call()  # else the send does
        return result

    def _call_traced(self, holder: list[Any], metas: list[Meta]) -> Any:
        """One call, which a trace is told of."""
        hot, first = self._port.hot, metas[0]
        for meta in metas[1:]:
            tracing.note(trace.MEMBER, self._number, origin=meta.origin_number, sequence=meta.sequence)
        hot.trace_frame(first.origin_number, first.sequence)
        began, self._began = self._began, False
        began_ns = binding.now_ns()
        try:
            return self.call_user(self._logic, holder[0]) if began else self._call(holder)
        finally:
            hot.trace(trace.CALL, 0, began_ns)

    def _goes_on_after(self, error: BaseException, payloads: list[Any], metas: list[Meta]) -> bool:
        """Draws the consequences of what `main_logic` raised; False when that ends the run, or interrupts it."""
        handled = len(payloads)
        if isinstance(error, Stopping):
            if payloads:
                self._redo = (payloads.copy(), metas)
            return False
        if isinstance(error, EndOfStream | SharedMemoryFull):
            self._words.handled += handled
            return False
        if isinstance(error, NoFreeSlot):
            for meta in metas if self._is_batch else metas[:1]:
                self._outbox.lose(meta)  # by loan(): as the wires' policies say, not an error
            if not handled:
                self._words.sequence += 1
        else:
            self._report_error(metas, error, payloads)
        return True

    def _report_error(self, metas: list[Meta], error: BaseException, payloads: Iterable[object] = ()) -> None:
        sequences = ", ".join(str(meta.sequence) for meta in metas)
        messages = f"message{'s' if len(metas) > 1 else ''} {sequences}"
        tell = self._context.failures.tell
        tell("main_logic failed on {}", error, on=messages, sequence=metas[0].sequence, payloads=payloads)
        if tracing.on:
            name = tracing.name_index(type(error).__name__)
            tracing.note(trace.ERROR, self._number, other=name, origin=metas[0].origin_number, sequence=metas[0].sequence)
        self._count_error(error)

    def _count_error(self, error: BaseException) -> None:
        """Counts an error; gives the process up where the routine allows only so many in a row."""
        self._context.record.count_error()
        self._errors_in_a_row += 1
        limit = self._routine.max_errors
        if limit is not None and self._errors_in_a_row >= limit:
            cause = f"routine {self._routine.name!r} failed {limit} times in a row: {describe(error)}"
            self._context.host.give_up(cause)

    def _send_all(self, metas: list[Meta]) -> None:
        """Sends the results of a batch, in hand, a message each."""
        results = self._hand.pop()
        if not isinstance(results, list) or len(results) != len(metas):
            what = f"{len(results)} results" if isinstance(results, list) else type(results).__name__
            wanted = f"a list of {len(metas)} results is wanted, one per message, None for nothing"
            self._report_error(metas, RoutineError(self._routine.name, f"main_logic returned {what}; {wanted}"))
            self._tombstones.send(metas)
            return
        waiting = deque(results)
        del results
        for meta in metas:
            self._hand.append(waiting.popleft())
            if self._hand[0] is None:
                self._hand.clear()
                self._tombstones.put([meta])
            else:
                self._note_result(meta)
                self._outbox.put(self._hand, meta, 1)
        self._send(self._outbox.flush)

    def _send_result(self, meta: Meta, handled: int) -> None:
        """Sends the result in hand."""
        if not handled:
            self._words.sequence += 1  # before the send, which may be interrupted and resumed
        self._note_result(meta)
        self._send(self._outbox.send, self._hand, meta, handled)

    def _note_result(self, meta: Meta) -> None:
        """Logs the result in hand, which is about to be sent, and dates it where its source has not."""
        if self._payload_log.on:
            self._payload_log.log("output", self._hand[0], meta)
        if not _is_dated(meta):
            meta.captured_ns = binding.now_ns()

    def _send(self, send: Callable[..., None], *message: Any) -> None:
        if forked.pid != self._home:  # by what a payload did as it went
            forked.end_stray(None)
        try:
            send(*message)
        except (Stopping, SharedMemoryFull):
            raise
        except BaseException as error:  # user code packs payloads, and may raise anything
            sequence = self._outbox.sequence
            self._context.failures.tell("{} was not sent", error, on=f"message {sequence}", sequence=sequence)
            self._count_error(error)
