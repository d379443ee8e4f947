"""A routine at work: its thread, its commands, and the calls of `main_logic`.

The thread rests on a queue of commands until it is started, and is called out of whatever it waits in by the port's notice.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import numpy as np

from pipert_shm import native
from pipert_shm.data import FrameData, Meta
from pipert_shm.errors import EndOfStream, NoFreeSlot, RoutineError, SharedMemoryFull
from pipert_shm.memory import ControlSegment, Stopping
from pipert_shm.plan import EdgePlan, Plan, RoutinePlan
from pipert_shm.ports import Inbox, LocalMessages, Outbox
from pipert_shm.routine import Role

LONGEST_WAIT = 86_400.0


class State(IntEnum):
    """A routine's state, as it stands in its record in the control segment."""

    BUILT = 0
    RUNNING = 1
    STOPPED = 2
    ENDED = 3
    FAILED = 4

    @property
    def over(self) -> bool:
        """Whether it goes on only after a new start."""
        return self in (State.ENDED, State.FAILED)


@dataclass(slots=True)
class Start:
    """Command: run, under this number."""

    run: int


class Stop:
    """Command: end the run after the message in hand."""


class Shutdown:
    """Command: end the run and the thread."""


@dataclass(slots=True)
class Call:
    """Command: do this on the routine's thread, between messages."""

    action: Callable[[], None]


class Host(Protocol):
    """What a runner asks of its flow's process."""

    plan: Plan
    segment: ControlSegment
    edge_names: dict[int, str]

    def report(self, *message: Any) -> None:
        """Tells the launcher."""

    def ring(self, routine: int) -> None:
        """Makes a routine look at its queues."""


class Runner:
    """One routine at work. Public methods are for the control thread."""

    def __init__(self, flow: Host, plan: RoutinePlan, local: dict[int, LocalMessages], ring: tuple[int, int] | None) -> None:
        self.routine = plan.routine
        self._flow = flow
        self._plan = plan
        self._logic = plan.logic
        self._logger = plan.routine._logger
        segment, names = flow.segment, flow.plan.names
        self.record = native.RoutineRecord(segment.process, plan.number)
        self._port = native.Port(segment.process, plan.number)
        self._outbox = Outbox(
            segment, self._port, plan.number, plan.routine.name, plan.reach, plan.slots, plan.message_slots, local
        )
        self._outbox.slots.edge_names = flow.edge_names
        self._inbox = Inbox(segment, self._port, plan.number, names, local)
        for edge in plan.ins:
            self._inbox.add(edge)
        for edge in plan.outs:
            self._outbox.add(edge)
        if ring is not None:
            self._outbox.slots.adopt(*ring)
        self._names = names
        self._commands: queue.SimpleQueue[Start | Stop | Shutdown | Call] = queue.SimpleQueue()
        self._woken = threading.Event()
        self._stopping = False
        self._shut = False
        self._run_number = 0
        self._sequence = 0
        self._due = 0.0
        self._redo: tuple[Any, Meta] | None = None
        self._hand: list[Any] = []
        self._warned_of_cap: set[int] = set()
        self.log_data = False
        self._thread = threading.Thread(target=self._serve, name=plan.routine.name, daemon=True)
        plan.routine._runtime = self

    def start_thread(self) -> None:
        self._thread.start()

    def command(self, command: Start | Stop | Shutdown | Call) -> None:
        self._commands.put(command)
        self._woken.set()
        self._port.notify()

    def wake(self) -> None:
        """Makes the routine look at its settings again."""
        self.command(Call(lambda: None))

    def join(self) -> None:
        self._thread.join()

    def add_out(self, edge: EdgePlan, then: Callable[[], None]) -> None:
        def add() -> None:
            self._outbox.add(edge)
            if State(self.record.state).over:
                self._port.close_outs()  # nothing will come on it
            then()

        self.command(Call(add))

    def remove_out(self, edge: int, then: Callable[[], None]) -> None:
        def remove() -> None:
            self._outbox.remove(edge)
            then()

        self.command(Call(remove))

    # ---- the routine's thread --------------------------------------------------------------------

    def loan(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        if threading.current_thread() is not self._thread:
            raise RoutineError(self.routine.name, "loan() belongs to the routine's own thread (setup, main_logic, cleanup)")
        if not self._outbox.leaves_flow:
            return np.empty(shape, dtype)
        while True:
            try:
                return self._outbox.loan(shape, dtype)
            except Stopping:
                if self._obey():
                    raise

    def _serve(self) -> None:
        try:
            self._obey_commands()
        except BaseException as error:
            # Not user code, whose exceptions are handled where it is called: a bug of ours must not hang the pipe.
            self._set_state(State.FAILED, self._failed("the runner", error))
            self._port.close_outs()
            self._port.end_ins()

    def _obey_commands(self) -> None:
        while not self._shut:
            command = self._commands.get()
            if isinstance(command, Start):
                self._run_number = command.run
                self._run()
            elif isinstance(command, Call):
                command.action()
            elif isinstance(command, Shutdown):
                self._shut = True
            elif self.record.state == State.BUILT:
                self._set_state(State.STOPPED)
        self._outbox.abandon()

    def _obey(self) -> bool:
        """Takes the commands that came while running; whether the run is to end."""
        self._port.noticed()
        self._woken.clear()
        while not self._stopping:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                break
            if isinstance(command, Call):
                command.action()
            elif isinstance(command, Stop | Shutdown):
                self._stopping = True
                self._shut = isinstance(command, Shutdown)
        return self._stopping

    def _set_state(self, state: State, cause: str = "") -> None:
        self.record.state = state
        self._flow.report("state", self._plan.number, self._run_number, int(state), cause)

    def _run(self) -> None:
        self._stopping = False
        self._outbox.close_removed()
        self._set_state(State.RUNNING)
        try:
            self.routine.setup()
        except BaseException as error:
            state, cause = State.FAILED, self._failed("setup", error)
        else:
            state, cause = self._run_logic()
            try:
                self.routine.cleanup()
            except BaseException as error:
                state, cause = State.FAILED, self._failed("cleanup", error)
        if state.over:
            self._outbox.abandon()
            self._port.close_outs()
            self._inbox.end()
        self._set_state(state, cause)

    def _failed(self, where: str, error: BaseException) -> str:
        self.record.count_error()
        self._logger.error("%s failed: %s", where, describe(error), exc_info=error)
        return f"{where} of routine {self.routine.name!r} failed: {describe(error)}"

    def _run_logic(self) -> tuple[State, str]:
        self._due = 0.0
        turn = self._produce if self._plan.role is Role.SOURCE else self._consume
        try:
            while not self._stopping:
                try:
                    self._outbox.flush()
                    turn()
                except Stopping:
                    self._obey()
            return State.STOPPED, ""
        except EndOfStream:
            return State.ENDED, ""
        except SharedMemoryFull as error:
            self._logger.error("%s", error)
            self.record.count_error()
            return State.FAILED, str(error)

    def _produce(self) -> None:
        if self._woken.is_set() and self._obey():
            return
        self._pace()
        if self._stopping:
            return
        self._apply(None, Meta(self._names, self._plan.number, self._sequence))

    def _consume(self) -> None:
        self._pace()
        if self._stopping:
            return
        if self._redo is not None:
            (payload, meta), self._redo = self._redo, None
        else:
            status = self._inbox.receive()
            if status == native.CLOSED:
                raise EndOfStream
            if status == native.NOTICE:
                self._obey()
                return
            if status == native.PROTOCOL:
                self.record.count_error()
                self._logger.error("a message did not match its slots; it is skipped. This is a bug, please report it")
            if status != native.OK:
                return
            try:
                payload, meta = self._inbox.take()
            except Exception as error:
                self.record.count_error()
                self._logger.error("a message could not be decoded: %s", describe(error), exc_info=error)
                return
            if self._inbox.over_cap is not None:
                self._warn_of_cap()
        holder = [payload]
        del payload
        self._apply(holder, meta)

    def _warn_of_cap(self) -> None:
        edge, self._inbox.over_cap = self._inbox.over_cap, None
        if edge is None or edge.number in self._warned_of_cap:
            return
        self._warned_of_cap.add(edge.number)
        self._logger.warning(
            "it keeps more than %d frames of %r; further ones are handed over as private copies (shown once)",
            edge.borrow_cap,
            self._names[edge.sender],
        )

    def _apply(self, holder: list[Any] | None, meta: Meta) -> None:
        """One call of main_logic, and the sending of its result."""
        self.routine.meta = meta
        if self.log_data and holder is not None:
            self._log_payload("input", holder[0])
        started = native.now_ns()
        try:
            result = self._logic() if holder is None else self._logic(holder[0])
        except Stopping:
            if holder is not None:
                self._redo = (holder.pop(), meta)
            raise
        except (EndOfStream, SharedMemoryFull):
            raise
        except NoFreeSlot:
            self._outbox.lose()  # by loan(): as the wires' policies say, not an error
            if holder is None:
                self._sequence += 1
            return
        except BaseException as error:
            self.record.count_error()
            self._logger.error(
                "main_logic failed on message %d: %s",
                meta.sequence,
                describe(error),
                exc_info=error,
                extra={"sequence": meta.sequence},
            )
            return
        finally:
            ended = native.now_ns()
            self.record.count_busy(ended - started)
            if holder is not None:
                holder.clear()  # what is forwarded must not be held here too
        if result is None:
            return
        if holder is None:
            self._sequence += 1  # before the send, which may be interrupted and resumed
        if self.log_data:
            self._log_payload("output", result)
        if not meta.captured_ns:
            meta.captured_ns = ended
        self._hand.append(result)
        del result
        self._send(meta)

    def _send(self, meta: Meta) -> None:
        try:
            self._outbox.send(self._hand, meta)
        except (Stopping, SharedMemoryFull):
            raise
        except Exception as error:
            self.record.count_error()
            self._logger.error("message %d was not sent: %s", meta.sequence, describe(error), extra={"sequence": meta.sequence})

    def _log_payload(self, what: str, payload: object) -> None:
        frame = payload.get_frame() if isinstance(payload, FrameData) else payload
        text = f"{frame.dtype} array {frame.shape}" if isinstance(frame, np.ndarray) else repr(frame)[:200]
        self._logger.info("%s: %s", what, text)

    def _pace(self) -> None:
        """Rests until the next call is due; the deadlines are absolute, so that lateness does not add up."""
        fps = self.routine._const_fps
        if fps <= 0:
            return
        last = self._due or time.monotonic() - 1.0 / fps
        while fps > 0 and not self._stopping:
            now = time.monotonic()
            self._due = max(last + 1.0 / fps, now - 1.0 / fps)
            if self._due <= now:
                return
            if self._woken.wait(min(self._due - now, LONGEST_WAIT)):
                self._obey()
                fps = self.routine._const_fps  # it may have been changed just now

    def unlink(self, names: tuple[str, ...], unlink_routine_name: str) -> None:
        """Takes the wire to a routine away, in order: what was sent on it still arrives."""

        def remove() -> None:
            for edge in self._plan.outs:
                if names[edge.receiver] == unlink_routine_name and self._outbox.remove(edge.number):
                    self._flow.ring(edge.receiver)
                    return
            self._logger.warning("unlink: there is no wire to %r", unlink_routine_name)

        self.command(Call(remove))


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
