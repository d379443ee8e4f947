"""A routine at work on the thread that asks it to: the runner of a flow's process, made to wait for nothing.

The port's notice is always up, so nothing sleeps: where a runner in a flow's process would wait for a message, for room or for
a slot, this one comes back to its caller, which lets another routine go on. What fails is raised, not logged.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pipert_shm import binding
from pipert_shm.control.attachment import Attachment
from pipert_shm.control.messages import Message as Report
from pipert_shm.data import Meta
from pipert_shm.errors import EndOfStream, RoutineError
from pipert_shm.flow.context import Context
from pipert_shm.flow.failures import Failures
from pipert_shm.flow.handling import Handling
from pipert_shm.flow.loans import Loans
from pipert_shm.flow.main_logic import Control, MainLogic
from pipert_shm.flow.pacing import Pacing
from pipert_shm.flow.payload_log import PayloadLog
from pipert_shm.flow.runner import Runner
from pipert_shm.flow.write_advice import advice
from pipert_shm.graph.model import Plan, RoutinePlan
from pipert_shm.message.inbox import Inbox
from pipert_shm.message.types import LocalMessages
from pipert_shm.routine import Role, run_as
from pipert_shm.shm.segments import ControlSegment
from pipert_shm.shm.slots import Stopping
from pipert_shm.shm.states import REACTIONS, State
from pipert_shm.system.descriptors import Reserve

NO_SLOT = "In a pipe it would wait for one, and here nobody lets go of one meanwhile: are loans, or frames, kept for good?"


class UnwaitingInbox(Inbox):
    """An inbox that says NOTICE where another one would wait.

    Attributes:
        came: whether the last look found anything: a message, or the end of the streams.
    """

    came = False

    def receive(self, timeout_ns: int = binding.FOREVER) -> int:
        """Looks for the next message: see `Inbox.receive`. Returns NOTICE where that would wait."""
        self._port.noticed()
        received = super().receive(0)
        self._port.notify()
        self.came = received != binding.TIMED_OUT
        return received if self.came or not timeout_ns else binding.NOTICE


class RaisedFailures(Failures):
    """Raises what a flow's process would log, with a note of where it happened."""

    def tell(
        self, text: str, error: BaseException, *, on: str = "", sequence: int | None = None, payloads: Iterable[object] = ()
    ) -> None:
        """Raises the error.

        :raises BaseException: that is it.
        """
        error.add_note(f"{self.who}: {text.replace('{}', on)}{advice(error, payloads)}")
        raise error


class Host:
    """What a runner asks of its flow's process, where there is none: nobody is told of anything."""

    def __init__(self, plan: Plan, segment: ControlSegment) -> None:
        self.plan = plan
        self.segment = segment
        self.edge_names = {edge.bit: plan.names[edge.receiver] for edge in plan.edges if edge.bit}
        self.reserve = Reserve(0)

    def give_up(self, cause: str) -> None:
        """Nothing: the error that this comes of is raised."""

    def report(self, message: Report) -> None:
        """Nothing: who runs the routines sees their states."""

    def ring(self, routine: int) -> None:
        """Nothing: who runs the routines makes them look."""


class Unhurried(Pacing):
    """Holds no call back."""

    def wait(self) -> None:
        """Returns at once."""


class InlineLogic(MainLogic):
    """Calls `main_logic` once at a time, when it is asked to."""

    def __init__(self, context: Context, control: Control, payload_log: PayloadLog) -> None:
        super().__init__(context, control, payload_log)
        self._pacing = Unhurried(context, control.obey)

    def begin(self) -> None:
        """Begins a run."""
        self._began = False
        self._errors_in_a_row = 0
        self._pacing.turn_ns = 0

    def turn(self) -> None:
        """One call, if there is anything for it."""
        self._turn()

    def flush(self) -> None:
        """Goes on with what is not sent yet."""
        self._send(self._outbox.flush)

    def feed(self, payload: object, meta: Meta) -> None:
        """Sends a message as if `main_logic` had made it."""
        self._hand.append(payload)
        try:
            self._send(self._outbox.send, self._hand, meta)
        finally:
            self._hand.clear()

    def let_go(self) -> None:
        """Drops all that is not handled, and not sent."""
        self._redo = None
        super().let_go()

    def _report_error(self, metas: list[Meta], error: BaseException, payloads: Iterable[object] = ()) -> None:
        self._context.record.count_error()
        super()._report_error(metas, error, payloads)


class InlineLoans(Loans):
    """Loans that wait for nothing."""

    def loan(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, wait: bool = True) -> np.ndarray:
        """See `Routine.loan`; where that would wait, it is an error."""
        try:
            return super().loan(shape, dtype, wait=wait)
        except Stopping:
            raise RoutineError(self._name, f"loan(): there is no free slot. {NO_SLOT}") from None

    def swap_thread(self, thread: threading.Thread) -> threading.Thread:
        """Takes this thread for the routine's; the one that was it before."""
        before, self._thread = self._thread, thread
        return before


class InlineRunner(Runner):
    """One routine at work, a step at a time. Only the thread that makes it may use it.

    :param is_private: it gets copies of all frames, as is intended.

    Attributes:
        plan: the routine's.
    """

    make_inbox = UnwaitingInbox
    make_failures = RaisedFailures
    make_logic = InlineLogic
    make_loans = InlineLoans
    _inbox: UnwaitingInbox
    _logic: InlineLogic
    _loans: InlineLoans

    def __init__(
        self,
        host: Host,
        plan: RoutinePlan,
        local: dict[int, LocalMessages],
        attachment: Attachment,
        *,
        is_private: bool = False,
    ) -> None:
        super().__init__(host, plan, local, attachment)
        self.plan = plan
        if is_private:
            self._inbox.on_over_cap = lambda edge: None
        self._elsewhere = self._loans.swap_thread(threading.current_thread())
        self._room = [(binding.Incarnation(host.segment.process, attachment.outs[edge.number]), edge) for edge in plan.outs]
        self._queues = [
            binding.Incarnation(host.segment.process, binding.incarnation_of(name))
            for edge in plan.ins
            for name in attachment.ins[edge.number]
        ]

    # ---- what the caller sees --------------------------------------------------------------------

    @property
    def made(self) -> int:
        """Messages that a source has made, in all of its runs."""
        return self.record.sequence

    @property
    def waiting(self) -> int:
        """Messages in its queues."""
        return sum(queue.waiting() for queue in self._queues)

    @property
    def arrived(self) -> int:
        """Messages that it was sent so far, those in its queues included."""
        received: int = self.record.words.received
        return received + self.waiting

    @property
    def is_occupied(self) -> bool:
        """Whether it has something else to do than to take messages: what it was commanded, or the rest of a send."""
        return bool(self.commands) or self.state is not State.RUNNING or self._outbox.unsent

    def has_room(self) -> bool:
        """Whether all results of a call would find room in the queues."""
        results = max(1, self.plan.batch)
        return all(edge.capacity - incarnation.waiting() >= results for incarnation, edge in self._room)

    # ---- what the caller asks for ----------------------------------------------------------------

    def step(self) -> bool:
        """Does one thing: what it was commanded, or a call of `main_logic`. Whether there was anything to do.

        :raises BaseException: what the routine raised. It has not ended by that: a further step goes on with the next message.
        """
        self._port.notify()
        with self.here():
            try:
                return self._step()
            except Stopping:
                return False  # there is no slot for what it sends: it goes on with that
            except EndOfStream:
                self._logic.say_last()
                self.end(State.ENDED)
                return True
            finally:
                self._port.end_call()

    def _step(self) -> bool:
        if self.state is State.STOPPING:
            self.end(State.STOPPED)
        elif self.commands:
            command = self.commands.popleft()
            self._do(REACTIONS[self.state][command.order], command)
        elif self.state is not State.RUNNING:
            return False
        elif self._outbox.unsent:
            self._logic.flush()
        elif not self.has_room():
            return False
        else:
            self._logic.turn()
            return self.plan.role is Role.SOURCE or self._inbox.came
        return True

    def end(self, state: State) -> None:
        """Ends the run, with `cleanup()`.

        :raises BaseException: what that raised; the routine has failed then.
        """
        with self.here():
            try:
                self._logic.call_user(self.routine.cleanup)
            except BaseException as error:
                self._end_run(State.FAILED, "")
                self._context.report_failure("cleanup", error)
            self._end_run(state, "")

    def discard(self) -> None:
        """Lets go of all that it has not handled, and not sent. It can't be stepped afterwards."""
        self._logic.let_go()
        self._inbox.end()

    def feed(self, payload: object, meta: Meta) -> None:
        """Sends a message as if `main_logic` had made it."""
        with self.here():
            try:
                self._logic.feed(payload, meta)
            except Stopping:
                self.require_sent()

    def require_sent(self) -> None:
        """After all others had their turn.

        :raises RoutineError: when what it sends waits for a slot all the same: nobody will let go of one.
        """
        if self._outbox.unsent:
            raise RoutineError(self.routine.name, f"what it sends finds no free slot. {NO_SLOT}")

    @contextmanager
    def here(self) -> Iterator[None]:
        """In the block the calling thread is the routine's."""
        before = run_as(self._loans)
        try:
            yield
        finally:
            run_as(before)

    @contextmanager
    def away(self) -> Iterator[None]:
        """In the block it is not, though it is the same: it runs what a flow's process has another thread for."""
        self._elsewhere = self._loans.swap_thread(self._elsewhere)
        try:
            yield
        finally:
            self._elsewhere = self._loans.swap_thread(self._elsewhere)

    # ---- what differs from a runner in a flow's process ------------------------------------------

    def _run(self) -> None:
        """Begins a run; further steps go on with it."""
        self._logic.begin()
        try:
            self._logic.call_user(self.routine.setup)
        except BaseException as error:
            self._end_run(State.FAILED, "")
            self._context.report_failure("setup", error)

    def obey(self) -> bool:
        """Obeys the commands that came; True, so that nothing waits."""
        super().obey()
        self._port.notify()
        return True


class InlineHandling(Handling):
    """Calls handlers of events at once, on the calling thread."""

    def __init__(self, runners: dict[str, InlineRunner], logger: logging.Logger) -> None:
        super().__init__("inline", runners, lambda message: None, logger)

    def _has_started(self) -> bool:
        return False

    @staticmethod
    def _call(runner: Runner, handler: Callable[..., Any], name: str, params: dict[str, Any]) -> None:
        assert isinstance(runner, InlineRunner)
        with runner.away():
            Handling._call(runner, handler, name, params)
