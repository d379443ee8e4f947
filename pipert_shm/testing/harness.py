"""A routine under test: it runs on what the test gives it, on the test's thread."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from pipert_shm import binding
from pipert_shm.control.log_output import with_plog
from pipert_shm.data import Format
from pipert_shm.errors import PipertError, PipeStateError, shown
from pipert_shm.events import KILL_EVENT_NAME
from pipert_shm.limits import check_count, check_seconds
from pipert_shm.routine import BatchRoutine, Role, Routine
from pipert_shm.shm.states import State
from pipert_shm.statistics import RoutineStatistics
from pipert_shm.system.interrupts import interrupts_deferred
from pipert_shm.testing.surroundings import (
    FLOW,
    Notification,
    Output,
    Passed,
    Surroundings,
    captured_at,
    check_place,
    checked_senders,
)

RoleName = Literal["source", "middle", "destination"]


class RoutineHarness:
    """Runs a routine without a pipe and without processes, on the calling thread. A context manager.

    `setup()` is called when the block begins, `cleanup()` when it ends; in between the test sends messages, and each is handled
    before the call returns. The code that does it is that of a flow's process, wires included: what the routine gets came by
    shared memory, so arrays are read-only, `writable()` and `loan()` work, `self.meta`, `self.metas`, `self.counters` and
    `per_origin` are as in a pipe, and what it returns has to pickle. What the test sends is copied, and stays as it is.

    What the routine raises is raised by the call that made it do so; after that it can go on. Its rate (`set_const_fps`) is not
    kept, and `hang_timeout` and `max_errors` do nothing. Where a loan would wait for a slot, it raises RoutineError.

    Use it on one thread, the one that enters the block. It needs /dev/shm, as a pipe does.

    :param routine: one that is in no flow. It can be put into another harness, or a pipe, afterwards.
    :param role: what it is, where the class does not say: `source`, `middle` or `destination`. By default `middle`.
    :param senders: the names of those who send to it; needed for a routine that has a `join`. By default one, "source".
    :param timeout: seconds that `take()` has for its messages.
    :raises TypeError: when it is no routine.
    :raises PipertError: when it is in a flow already.
    :raises ValueError: when the senders or the time-out don't fit.

    Attributes:
        routine: what it runs.
        outputs: all that the routine has sent so far, with its meta.
        notified: the events that the routine has notified. They go nowhere.

    >>> import numpy as np
    >>> from pipert_shm import MiddleRoutine
    >>> from pipert_shm.testing import RoutineHarness
    >>> class Brightness(MiddleRoutine):
    ...     counter_names = ("dark",)
    ...     def main_logic(self, frame):
    ...         self.counters["dark"] += frame.mean() < 50
    ...         return {"camera": self.meta.origin, "mean": float(frame.mean())}
    >>> with RoutineHarness(Brightness("brightness")) as harness:
    ...     harness.run([np.zeros((480, 640), np.uint8), np.full((480, 640), 200, np.uint8)])
    ...     harness.send(np.full((480, 640), 90, np.uint8), origin="door")
    [{'camera': 'source', 'mean': 0.0}, {'camera': 'source', 'mean': 200.0}]
    {'camera': 'door', 'mean': 90.0}
    >>> harness.routine.counters["dark"], harness.outputs[-1].meta.origin
    (1, 'door')
    """

    def __init__(
        self,
        routine: Routine,
        *,
        role: RoleName | None = None,
        senders: Sequence[str] | None = None,
        timeout: float = 10.0,
    ) -> None:
        if not isinstance(routine, Routine):
            raise TypeError(f"RoutineHarness takes a routine, not {shown(routine)}: RoutineHarness(Detector('detector'))")
        if not hasattr(routine, "_notifier"):
            raise PipertError(f"{type(routine).__name__}.__init__ does not call super().__init__()")
        check_seconds("timeout", timeout)
        self.routine = routine
        self._require_free()
        self.outputs: list[Output] = []
        self.notified: list[Notification] = []
        self._timeout = timeout
        self._role = routine.role or Role(role or "middle")
        if role is not None and self._role.value != role:
            raise ValueError(f"routine {routine.name!r} is a {self._role.value}, and can't be run as a {role}")
        self._senders = checked_senders(routine, self._role, senders)
        self._here: Surroundings | None = None

    # ---- its life --------------------------------------------------------------------------------

    def __enter__(self) -> RoutineHarness:
        if self._here is not None:
            raise PipeStateError("the harness is in use already")
        self._require_free()
        self.routine.flow_name = FLOW
        self.routine._logger = with_plog(self.routine._logger)
        try:
            with interrupts_deferred():  # a Ctrl-C comes when there is something to close
                self._here = Surroundings(self.routine, self._role, self._senders, self.outputs, self.notified)
            self._here.begin()
        except BaseException as error:
            self._close(error)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self.notify(KILL_EVENT_NAME)
        except BaseException as failure:
            self._close(failure)
            raise
        self._close(error)

    def _close(self, error: BaseException | None) -> None:
        """The routine is of no harness any more.

        :param error: what ended it early.
        """
        here = self._here
        try:
            if here is not None:
                here.stage.end(error)
        finally:
            try:
                self._here = self.routine.flow_name = None
                if here is not None:
                    here.stage.close()
            finally:
                if here is not None:
                    here.stage.close()  # a Ctrl-C may have come before the first one began

    # ---- messages --------------------------------------------------------------------------------

    def send(
        self,
        payload: Any,
        *,
        sender: str | None = None,
        origin: str | None = None,
        sequence: int | None = None,
        pts: float | None = None,
        capture_time: float | None = None,
        format: Format | None = None,
    ) -> Any:
        """Sends the routine a message, has it handled, and returns the result: None when the routine sent nothing.

        A BatchRoutine gets a batch of one; `run()` makes larger ones. A routine with a `join` gets a message of each sender, of
        a dict `{sender: payload}`; or one of one `sender`, which then waits for its partners.

        What is sent to a join as `{sender: payload}` has one number, the largest of those that its senders would have next.

        :param sender: who sends it, where there are several. By default the first.
        :param origin: the source that it comes from, `meta.origin`: by default the sender.
        :param sequence: its number there, `meta.sequence`: by default one more than the last one of that origin, from 0.
        :param pts: where in its video it stands, seconds: `meta.pts`.
        :param capture_time: when the origin had it, seconds since the epoch: by default now.
        :param format: of the frame that it is, or has: `meta.format`. By default nobody has said.
        :raises PipeStateError: when the routine is stopped or has ended, or outside of the `with` block.
        :raises TypeError: when the routine is a source.
        :raises ValueError: when there is no such sender, the sequence, pts, capture time or format can't be one, or the capture
            time is before the machine's start.
        :raises Exception: what `main_logic` raised.
        """
        before = len(self.outputs)
        self._feed(payload, sender, origin, capture_time, sequence, pts, format)
        self._drive()
        return self.outputs[-1].payload if len(self.outputs) > before else None

    def run(
        self,
        payloads: Iterable[Any],
        *,
        sender: str | None = None,
        origin: str | None = None,
        capture_time: float | None = None,
        format: Format | None = None,
    ) -> list[Any]:
        """Sends the routine these messages, and returns what it sent, in order. There is no None in it: that is not sent.

        A BatchRoutine gets them in batches as large as it takes. A routine that raises EndOfStream gets no further ones.

        :param sender: of all of them, as of `send()`.
        :param origin: of all of them, as of `send()`.
        :param capture_time: of all of them, as of `send()`.
        :param format: of all of them, as of `send()`.
        :raises Exception: as `send()` does.
        """
        before = len(self.outputs)
        rest = iter(payloads)
        while batch := list(itertools.islice(rest, self._batch_size)):
            for payload in batch:
                self._feed(payload, sender, origin, capture_time, format=format)
            del payload, batch
            self._drive()
            if self.ended:
                break
        return [output.payload for output in self.outputs[before:]]

    def pass_on(self, messages: Iterable[Passed]) -> None:
        """Sends the routine messages as they were elsewhere, in batches as large as it takes. `outputs` has what it sent.

        A routine that raises EndOfStream gets no further ones.

        :raises Exception: as `send()` does.
        """
        if self._role is Role.SOURCE:
            raise TypeError(f"{self.routine!r} is a source, and gets nothing: take() has it make messages")
        rest = iter(messages)
        while batch := list(itertools.islice(rest, self._batch_size)):
            for message in batch:
                self._require_run("takes").pass_on(message)
            del message, batch
            self._drive()
            if self.ended:
                break

    @property
    def _batch_size(self) -> int:
        return self.routine.batch_size if isinstance(self.routine, BatchRoutine) else 1

    def take(self, count: int) -> list[Any]:
        """Lets a source make so many messages, and returns them; fewer when it ends before.

        :raises TypeError: when the routine is no source.
        :raises TimeoutError: when it has not made them in time.
        :raises PipeStateError: when it is stopped or has ended, or outside of the `with` block.
        :raises Exception: what `main_logic` raised.
        """
        check_count("count", count)
        if self._role is not Role.SOURCE:
            raise TypeError(f"{self.routine!r} is no source: send() gives it a message, and run() several")
        before = len(self.outputs)
        here = self._require_run("makes")
        deadline = time.monotonic() + self._timeout
        while len(self.outputs) < before + count and not self.ended:
            if time.monotonic() > deadline:
                made = len(self.outputs) - before
                raise TimeoutError(f"{self.routine!r} has made {made} of {count} messages in {self._timeout:g} s")
            here.step()
        return [output.payload for output in self.outputs[before:]]

    # ---- events and state ------------------------------------------------------------------------

    def notify(self, name: str, /, **parameters: Any) -> None:
        """Notifies the routine of an event: its handlers are called, with the checks of `Pipe.notify_event`.

        `stop` calls `cleanup()`, `start` then `setup()` again, as in a pipe.

        :raises UnknownEvent, PayloadError: as `Pipe.notify_event` does.
        :raises ValueError: for `link` and `unlink`: there are no wires that could be changed.
        :raises PipeStateError: outside of the `with` block.
        :raises Exception: what a handler raised.
        """
        self._running().notify(name, parameters)

    @property
    def ended(self) -> bool:
        """Whether the routine has ended its stream, by EndOfStream, or failed in `setup()` or `cleanup()`."""
        return self._running().runner.state.over

    def statistics(self) -> RoutineStatistics:
        """What the routine has done so far: messages, errors, bytes that were copied, its own counters.

        :raises PipeStateError: outside of the `with` block.
        """
        return self._running().stage.statistics().routines[self.routine.name]

    # ---- inside ----------------------------------------------------------------------------------

    def _require_free(self) -> None:
        """:raises PipertError: when the routine is in a flow."""
        name, flow = self.routine.name, self.routine.flow_name
        if flow is not None:
            raise PipertError(f"routine {name!r} is in flow {flow!r} already: test another one of its class")

    def _running(self) -> Surroundings:
        if self._here is None:
            raise PipeStateError("the harness is not in use: with RoutineHarness(routine) as harness: …")
        return self._here

    def _require_run(self, does: str) -> Surroundings:
        here = self._running()
        state = here.runner.state
        if state is not State.RUNNING:
            raise PipeStateError(f"{self.routine!r} is {state.name.lower()}, and {does} nothing until harness.notify('start')")
        return here

    def _drive(self) -> None:
        """Has all handled that was sent."""
        here = self._running()
        while here.step():
            pass
        here.runner.require_sent()

    def _feed(
        self,
        payload: Any,
        sender: str | None,
        origin: str | None,
        capture_time: float | None,
        sequence: int | None = None,
        pts: float | None = None,
        format: Format | None = None,
    ) -> None:
        if self._role is Role.SOURCE:
            raise TypeError(f"{self.routine!r} is a source, and gets nothing: take() has it make messages")
        if sender is not None and sender not in self._senders:
            raise ValueError(f"there is no sender {sender!r}: RoutineHarness(routine, senders=[{sender!r}, …])")
        check_place(sequence, pts)
        captured_ns = binding.now_ns() if capture_time is None else captured_at(capture_time)
        self._require_run("takes").feed(self._parts(payload, sender), origin, sequence, pts, captured_ns, format)

    def _parts(self, payload: Any, sender: str | None) -> Mapping[str, Any]:
        """What each sender sends."""
        if self.routine.join is None or sender is not None:
            return {sender or self._senders[0]: payload}
        if not isinstance(payload, dict) or not payload or not payload.keys() <= set(self._senders):
            names = ", ".join(f"{name!r}: …" for name in self._senders)
            raise ValueError(
                f"a join takes a dict of a payload for each sender, {{{names}}}, or a sender, not {shown(payload)}"
            )
        return payload
