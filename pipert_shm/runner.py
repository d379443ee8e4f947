"""A routine at work: its thread, its commands, and the calls of `main_logic`.

What a command does in which state is said by the table in states.py. The thread waits for everything by its port, for commands
too, and the port's notice calls it out of that. While a run is to stop the notice stays up, so that nothing waits any more.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from pipert_shm import forked, native
from pipert_shm.attachment import Attachment
from pipert_shm.control.messages import Message, StateChanged
from pipert_shm.counters import Counters
from pipert_shm.data import FrameData, Meta
from pipert_shm.descriptors import Reserve, remedy
from pipert_shm.errors import EndOfStream, NoFreeSlot, RoutineError, SharedMemoryFull, describe, shown
from pipert_shm.failures import Failures
from pipert_shm.intake import Gathered, Intake
from pipert_shm.logs import as_picture
from pipert_shm.memory import RETRY_NS, ControlSegment, Stopping
from pipert_shm.plan import EdgePlan, Plan, RoutinePlan
from pipert_shm.ports import Inbox, LocalMessages, Outbox
from pipert_shm.routine import LONGEST_WAIT, Role, run_as
from pipert_shm.states import ANSWERS, Answer, Order, State

LONGEST_REST_NS = int(LONGEST_WAIT * 1e9)
RUNNING = State.RUNNING
BETWEEN_PICTURES_NS = 200_000_000  # that are logged of one kind: enough for somebody who watches


@dataclass(slots=True)
class Start:
    """Command: run, under this number."""

    order: ClassVar[Order] = Order.START
    run: int


@dataclass(slots=True)
class Stop:
    """Command: end the run after the message in hand."""

    order: ClassVar[Order] = Order.STOP


@dataclass(slots=True)
class Shutdown:
    """Command: end the run and the thread."""

    order: ClassVar[Order] = Order.KILL


@dataclass(slots=True)
class Call:
    """Command: do this on the routine's thread, between messages."""

    order: ClassVar[Order] = Order.CALL
    action: Callable[[], None]


Command = Start | Stop | Shutdown | Call


class Host(Protocol):
    """What a runner asks of its flow's process."""

    plan: Plan
    segment: ControlSegment
    edge_names: dict[int, str]
    reserve: Reserve

    def give_up(self, cause: str) -> None:
        """Ends the process as failed."""

    def report(self, message: Message) -> None:
        """Tells the launcher."""

    def ring(self, routine: int) -> None:
        """Makes a routine look at its queues."""


class Runner:
    """One routine at work. Public methods are for the control thread."""

    def __init__(self, flow: Host, plan: RoutinePlan, local: dict[int, LocalMessages], attachment: Attachment) -> None:
        self.routine = plan.routine
        self._flow = flow
        self._plan = plan
        self._logic = plan.logic
        self._logger = plan.routine._logger
        self.failures = Failures(self._logger, plan.routine.name, plan.flow)
        segment, names = flow.segment, flow.plan.names
        segment.reserve = flow.reserve
        self.record = native.RoutineRecord(segment.process, plan.number)
        self._words = self.record.words
        ins = [*plan.ins, *(edge for edge in attachment.leaving if edge.receiver == plan.number)]
        self._port = native.Port(segment.process, plan.number, len(ins))
        self._outbox = Outbox(
            segment,
            self._port,
            plan.number,
            plan.routine.name,
            plan.slots,
            plan.message_slots,
            local,
            ordered=plan.ordered,
            lanes={sender: native.EdgeRecord(segment.process, edge) for sender, edge in plan.lanes.items()},
        )
        self._outbox.slots.edge_names = flow.edge_names
        self._outbox.hand_over.use_logger(self._logger)
        self._inbox = Inbox(segment, self._port, plan.number, names, local)
        self._inbox.on_starved = self._report_starved
        self._inbox.on_fed = self._report_fed
        for edge in ins:
            for incarnation in attachment.ins.get(edge.number, ()):
                self._inbox.add(edge, incarnation)
        for edge in plan.outs:
            if edge.number in attachment.outs:
                self._outbox.add(edge, attachment.outs[edge.number])
        if plan.number in attachment.rings:
            self._outbox.slots.adopt(*attachment.rings[plan.number])
        self._home = forked.pid
        self._names = names
        self._commands: deque[Command] = deque()
        self._lock = threading.RLock()  # of the state, and of what is added to the commands
        self._state = self._state_at_birth()
        self._left = False
        self._run_number = 0
        self._errors_in_a_row = 0
        self._turn_ns = 0
        copies = flow.plan.copies
        self._intake = Intake(
            segment, plan, names, copies, self._inbox, self._outbox, self.failures, self._obey, self._count_error
        )
        self._redo: Gathered | None = None
        self._began = False  # whether the call of main_logic that comes next began with a receipt: see csrc/port.h
        self._hand: list[Any] = []
        self.shows = bool(self._words.shows)  # whether pictures of what comes and goes are logged; a restarted flow goes on
        self._shown_ns: dict[str, int] = {}  # when what came in, and what went out, was logged last
        self._thread = threading.Thread(target=self._serve, name=plan.routine.name, daemon=True)
        if plan.routine.counter_names:
            plan.routine.counters = Counters(plan.routine.counter_names, self.record.own_counters())
        plan.routine._runtime = self

    def start_thread(self) -> None:
        self._thread.start()
        self.drain_the_dead()  # it may have been born with what they left

    def command(self, command: Command) -> None:
        """Tells the routine. One that runs is `stopping` at once, whatever its thread is doing."""
        with self._lock:
            self._receive(command)
        self._port.notify()

    def show(self, on: bool) -> None:
        self.shows = on
        self._words.shows = on

    def wake(self) -> None:
        """Makes the routine look at its settings again."""
        self.command(Call(lambda: None))

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def add_out(self, edge: EdgePlan, incarnation: int, then: Callable[[str], None]) -> None:
        """:param then: called afterwards, with the reason if it can't be added, else with nothing."""

        def add() -> None:
            try:
                self._outbox.add(edge, incarnation)
            except (SharedMemoryFull, OSError) as error:
                then(str(error))
                return
            if self._is_over:
                self._port.close_outs()  # nothing will come on it
            then("")

        self.command(Call(add))

    def link_out(self, edge: EdgePlan, incarnation: int) -> None:
        def note(refusal: str) -> None:
            if refusal:
                self.refuse(f"the wire to {self._names[edge.receiver]!r} ends before it began: {refusal}")
                native.Incarnation(self._flow.segment.process, incarnation).close()
                self._flow.ring(edge.receiver)

        self.add_out(edge, incarnation, note)

    def add_in(self, edge: EdgePlan, incarnation: int) -> None:
        def add() -> None:
            self._inbox.add(edge, incarnation)
            if self._is_over:
                self._inbox.end()  # nothing is taken from it

        self.command(Call(add))

    def expect_in(self, edge: int) -> None:
        self.command(Call(lambda: self._inbox.expect(edge)))

    def remove_in(self, edge: int) -> None:
        self.command(Call(lambda: self._inbox.remove(edge)))

    def want_slots(self, slots: int, message_slots: int) -> None:
        self.command(Call(lambda: self._outbox.want_slots(slots, message_slots)))

    def know(self, names: tuple[str, ...]) -> None:
        """There are more routines, whose messages may come."""

        def know() -> None:
            self._names = self._inbox.names = self._intake.names = names

        self.command(Call(know))

    def refuse(self, why: str) -> None:
        self.record.count_error()
        self._logger.error("%s: %s", self.failures.who, why)

    def recover_receiver(self, incarnation: int) -> None:
        """At once, also while the routine's thread is busy."""
        self._outbox.recover_receiver(incarnation)

    def give_up_receiver(self, incarnation: int) -> None:
        """At once, also while the routine's thread is busy."""
        self._outbox.give_up_receiver(incarnation)

    def drain_the_dead(self) -> None:
        """A sender died. A routine that has ended takes nothing more from it, and lets go of what there is."""

        def drain() -> None:
            if self._is_over:
                self._inbox.end()

        self.command(Call(drain))

    def remove_out(self, edge: int, then: Callable[[], None]) -> None:
        def remove() -> None:
            self._outbox.remove(edge)
            then()

        self.command(Call(remove))

    # ---- the routine's thread --------------------------------------------------------------------

    def loan(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        if threading.current_thread() is not self._thread:
            raise RoutineError(self.routine.name, "loan() belongs to the routine's own thread (setup, main_logic, cleanup)")
        if not self._outbox.has_wires or forked.pid != self._home:
            return np.empty(shape, dtype)
        since, self._words.busy_since_ns = self._words.busy_since_ns, 0  # to wait for a slot is not to hang
        try:
            while True:
                try:
                    return self._outbox.loan(shape, dtype)
                except Stopping:
                    if self._obey():
                        raise
        finally:
            self._words.busy_since_ns = since and native.now_ns()

    def writable(self, array: np.ndarray) -> np.ndarray | None:
        if threading.current_thread() is not self._thread or forked.pid != self._home:
            return None
        if array.dtype.hasobject or 0 in array.strides or not array.size:
            return None
        own = None
        if not (self._outbox.stays_in_flow or self._inbox.comes_from_flow):  # else others may stand on the same memory
            own = self._outbox.writable(array) if not array.flags.writeable else array
        return self._outbox.copy(array) if own is None else own

    def _state_at_birth(self) -> State:
        """At rest. The record is left as it is where an earlier process died in a run: the launcher says what comes of that."""
        state = State(self.record.state)
        if state is State.STOPPING:
            self.record.state = State.STOPPED  # it was told to
        return State.STOPPED if state.active else state

    @property
    def _is_over(self) -> bool:
        """By its record, where the launcher opens what had ended, before it says start."""
        return State(self.record.state).over

    def _serve(self) -> None:
        run_as(self)
        while not self._left:
            try:
                self._rest()
            except BaseException as error:
                # Not user code, whose exceptions are handled where it is called: a bug of ours must not hang the pipe.
                self._set_state(State.FAILED, self._failed("the runner", error))
                self._port.close_outs()
                self._port.end_ins()

    def _rest(self) -> None:
        """Waits for a command, between runs, and does what it says."""
        self._port.noticed()  # before the look
        if self._commands:
            command = self._commands.popleft()
            self._do(ANSWERS[self._state][command.order], command)
        elif self._inbox.starved and self._is_over:
            self._port.rest(RETRY_NS)
            self._inbox.end()
        else:
            self._port.rest(native.FOREVER)

    def _receive(self, command: Command) -> None:
        """Takes a command down, with the lock held. What a run is told of its end holds from now on, the rest in turn."""
        if self._state is not State.RUNNING:
            self._commands.append(command)
            return
        answer = ANSWERS[self._state][command.order]
        if answer in (Answer.STOP, Answer.STOP_AND_LEAVE):
            self._set_state(State.STOPPING)
        if answer in (Answer.CALL, Answer.STOP_AND_LEAVE):
            self._commands.append(command)

    def _do(self, answer: Answer, command: Command) -> None:
        """What an order that was its turn comes to. The routine's thread."""
        if answer is Answer.RUN and isinstance(command, Start):
            self._begin(command.run)
            self._run()
        elif answer in (Answer.CALL, Answer.CALL_NOW) and isinstance(command, Call):
            try:
                command.action()
            except Exception as error:  # what was asked for can't be; the routine goes on
                self.record.count_error()
                self.failures.tell("an order could not be carried out", error)
        elif answer is Answer.MARK:
            self._set_state(State.STOPPED)
        elif answer is Answer.LEAVE:
            self._intake.let_go()
            self._outbox.abandon()
            self._left = True

    def _obey(self) -> bool:
        """Does what a run was told; whether it is to end: then the notice stays up, and nothing waits any more."""
        self._port.noticed()  # before the look
        while self._commands and (answer := ANSWERS[self._state][self._commands[0].order]) is not Answer.WAIT:
            self._do(answer, self._commands.popleft())
        if self._state is State.STOPPING:
            self._port.notify()
        return self._state is State.STOPPING

    def _set_state(self, state: State, cause: str = "") -> None:
        with self._lock:
            self._state = state
            self.record.state = state
            self._flow.report(StateChanged(self._plan.number, self._run_number, int(state), cause))

    def _begin(self, run: int) -> None:
        """A run begins; what was told meanwhile was told to it."""
        self._errors_in_a_row = 0
        self._inbox.begin()
        self._outbox.begin()
        with self._lock:
            self._run_number = run
            self._set_state(State.RUNNING)
            told, self._commands = self._commands, deque()
            for command in told:
                self._receive(command)
            if self._commands or self._state is State.STOPPING:
                self._port.notify()

    def _run(self) -> None:
        try:
            self._call_user(self.routine.setup)
        except Stopping:  # out of its loan(): it is called again by the next run
            state, cause = State.STOPPED, ""
        except BaseException as error:
            state, cause = State.FAILED, self._failed("setup", error)
        else:
            state, cause = self._run_logic()
            try:
                self._call_user(self.routine.cleanup)
            except BaseException as error:
                state, cause = State.FAILED, self._failed("cleanup", error)
        if state.over:
            self._intake.let_go()
            self._outbox.abandon()
            self._port.close_outs()
            self._inbox.end()
        self.failures.end()
        self._set_state(state, cause)

    def _failed(self, where: str, error: BaseException) -> str:
        self.record.count_error()
        self.failures.tell(f"{where} failed", error)
        return f"{where} of routine {self.routine.name!r} failed: {describe(error)}"

    def _run_logic(self) -> tuple[State, str]:
        self._turn_ns = 0
        self._began = False
        turn = self._produce if self._plan.role is Role.SOURCE else self._consume
        try:
            while self._state is RUNNING:
                if forked.pid != self._home:  # in place of a call: once a message
                    forked.end_stray(None)
                try:
                    if self._outbox.unsent:
                        self._send(self._outbox.flush)
                    turn()
                except Stopping:
                    self._obey()
            return State.STOPPED, ""
        except EndOfStream:
            return State.ENDED, ""
        except SharedMemoryFull as error:
            self._logger.error("%s: %s", self.failures.who, error)
            self.record.count_error()
            return State.FAILED, str(error)
        except BaseException as error:  # a bug of ours: what setup() opened is to be closed all the same
            return State.FAILED, self._failed("the runner", error)
        finally:
            self._port.end_call()

    def _produce(self) -> None:
        if self._commands and self._obey():
            return
        if self._turn_ns or self._flow.plan.auto_pacing:
            self._pace()
            if self._state is not RUNNING:
                return
        self._apply([], [Meta(self._names, self._plan.number, self._words.sequence)])

    def _consume(self) -> None:
        if self._turn_ns or self._flow.plan.auto_pacing:
            self._pace()
            if self._state is not RUNNING:
                return
        gathered, self._redo = self._redo, None
        if gathered is None:
            gathered = self._intake.gather()
            self._began = self._intake.begins_calls
        if gathered is not None:
            self._apply(*gathered)

    def _apply(self, holder: list[Any], metas: list[Meta]) -> None:
        """One call of main_logic, and the sending of its results.

        :param holder: the payloads, none for a source. Emptied before anything is sent: what is forwarded must not be held.
        """
        if self._turn_ns or self.routine._const_fps > 0:
            self._take_turn()
        meta = metas[0] if self._intake.is_plain else self._intake.meta_of(metas)
        self.routine.meta, self.routine.metas = meta, metas
        if self.shows:
            for payload in holder:
                self._log_payload("input", payload)
        handled = len(holder)
        try:
            if self._began:
                self._began = False  # by its receipt; and it is ended by what comes next, the send or the next receipt
                result = self._call_user(self._logic, holder[0])
            else:
                result = self._call(holder)
        except Stopping:
            if holder:
                self._redo = (holder.copy(), metas)
            raise
        except (EndOfStream, SharedMemoryFull):
            self._words.handled += handled
            raise
        except NoFreeSlot:
            for _ in range(max(1, handled) if self._intake.is_batch else 1):
                self._outbox.lose()  # by loan(): as the wires' policies say, not an error
            if not handled:
                self._words.sequence += 1
            result = None
        except BaseException as error:
            self._report_error(metas, error, holder)
            result = None
        else:
            self._errors_in_a_row = 0
        finally:
            holder.clear()
        if result is None:
            if handled:
                self._intake.send_nothing(metas)
            return
        if not handled:
            self._words.sequence += 1  # before the send, which may be interrupted and resumed
        self._hand.append(result)
        del result
        if self._intake.is_batch:
            self._put_all(metas)
            self._send(self._outbox.flush)
        else:
            self._note_result(meta)
            self._send(self._outbox.send, self._hand, meta, handled)

    def _call(self, holder: list[Any]) -> Any:
        self._words.busy_since_ns = native.now_ns()
        try:
            if not holder:
                result = self._call_user(self._logic)
            else:
                result = self._call_user(self._logic, holder[0] if self._intake.is_plain else self._intake.argument(holder))
        except BaseException:
            self._port.end_call()
            raise
        if result is None:
            self._port.end_call()  # else the send does
        return result

    def _call_user(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls the user's code. In a process that it has forked, whoever returns from it must not go on as the routine."""
        try:
            result = function(*arguments)
        except BaseException as error:
            forked.end_if_stray(self._home, error)
            raise
        if forked.pid != self._home:
            forked.end_stray(None)
        return result

    def _report_error(self, metas: list[Meta], error: BaseException, payloads: Iterable[object] = ()) -> None:
        sequences = ", ".join(str(meta.sequence) for meta in metas)
        messages = f"message{'s' if len(metas) > 1 else ''} {sequences}"
        self.failures.tell("main_logic failed on {}", error, on=messages, sequence=metas[0].sequence, payloads=payloads)
        self._count_error(error)

    def _put_all(self, metas: list[Meta]) -> None:
        """Makes the results of a batch, in hand, a message each."""
        results = self._hand.pop()
        if not isinstance(results, list) or len(results) != len(metas):
            what = f"{len(results)} results" if isinstance(results, list) else type(results).__name__
            wanted = f"a list of {len(metas)} results is wanted, one per message, None for nothing"
            self._report_error(metas, RoutineError(self.routine.name, f"main_logic returned {what}; {wanted}"))
            self._intake.send_nothing(metas)
            return
        waiting = deque(results)
        del results
        for meta in metas:
            self._hand.append(waiting.popleft())
            if self._hand[0] is None:
                self._hand.clear()
                self._intake.put_nothing([meta])
            else:
                self._note_result(meta)
                self._outbox.put(self._hand, meta, 1)

    def _note_result(self, meta: Meta) -> None:
        """The result in hand is about to be sent."""
        if self.shows:
            self._log_payload("output", self._hand[0])
        if not meta.captured_ns:
            meta.captured_ns = native.now_ns()

    def _count_error(self, error: BaseException) -> None:
        """Counts it, and gives the process up where the routine allows only so many in a row."""
        self.record.count_error()
        self._errors_in_a_row += 1
        limit = self.routine.max_errors
        if limit is not None and self._errors_in_a_row >= limit:
            self._flow.give_up(f"routine {self.routine.name!r} failed {limit} times in a row: {describe(error)}")

    def _report_starved(self, edge: EdgePlan, error: OSError) -> None:
        self.record.count_error()
        self._logger.error(
            "%s: messages of %r wait, since what they are in can't be opened here: %s. It is tried again every %g s; %s",
            self.failures.who,
            self._names[edge.sender],
            error.strerror,
            RETRY_NS / 1e9,
            remedy(error),
        )

    def _report_fed(self, edge: EdgePlan) -> None:
        self._logger.info("%s: messages of %r come again", self.failures.who, self._names[edge.sender])

    def _send(self, send: Callable[..., None], *message: Any) -> None:
        if forked.pid != self._home:  # by what a payload did as it went
            forked.end_stray(None)
        try:
            send(*message)
        except (Stopping, SharedMemoryFull):
            raise
        except BaseException as error:  # user code packs payloads, and may raise anything
            sequence = self._outbox.sequence
            self.failures.tell("{} was not sent", error, on=f"message {sequence}", sequence=sequence)
            self._count_error(error)

    def _log_payload(self, what: str, payload: object) -> None:
        """What a watcher can follow, and no more. Whatever comes of it, the message goes on."""
        now = native.now_ns()
        if now - self._shown_ns.get(what, 0) < BETWEEN_PICTURES_NS:
            return
        self._shown_ns[what] = now
        try:
            frame = payload.get_frame() if isinstance(payload, FrameData) else payload
            text = f"{frame.dtype} array {frame.shape}" if isinstance(frame, np.ndarray) else shown(frame)
            picture = as_picture(frame) if isinstance(frame, np.ndarray) else None
        except BaseException as error:  # get_frame() is the user's, and may raise anything; OpenCV may not load
            forked.end_if_stray(self._home, error)
            self.failures.tell(f"{what} can't be logged", error)
        else:
            self._logger.info("%s: %s", what, text, extra={"image_base64": picture})

    def _pace(self) -> None:
        """Rests until the next call is due, and, with auto pacing, until one of the receivers has room for its result."""
        if self._flow.plan.auto_pacing:
            while self._state is RUNNING and self._outbox.await_room() != native.OK:
                self._obey()
        while self._turn_ns and self._state is RUNNING:
            fps = self.routine._const_fps  # it may be changed meanwhile
            left = self._turn_ns + round(1e9 / fps) - native.now_ns() if fps > 0 else 0
            if left <= 0:
                return
            if self._port.rest(min(left, LONGEST_REST_NS)) == native.NOTICE:
                self._obey()

    def _take_turn(self) -> None:
        """Notes a call; its deadline is absolute, so that lateness does not add up, but for more than one interval."""
        fps, now = self.routine._const_fps, native.now_ns()
        interval = round(1e9 / fps) if fps > 0 else 0
        self._turn_ns = max(self._turn_ns + interval, now - interval) if interval and self._turn_ns else now
