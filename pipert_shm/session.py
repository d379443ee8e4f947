"""A built pipe, seen from the process that built it: its memory, its launcher, and what comes back from there."""

from __future__ import annotations

import errno
import logging
import os
import selectors
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NoReturn

from pipert_shm import native
from pipert_shm.channel import Channel
from pipert_shm.errors import FlowDied, PipeFailed, PipeStateError
from pipert_shm.events import KILL_EVENT_NAME, Audience, Event
from pipert_shm.growth import Growth
from pipert_shm.launcher import LaunchOrder, launch
from pipert_shm.logs import replay
from pipert_shm.memory import ControlSegment, create_ring, free_bytes, unlink_pipe
from pipert_shm.nursery import run_nursery
from pipert_shm.plan import EdgePlan, Plan
from pipert_shm.segments import TAPS, about
from pipert_shm.streams import flush_output
from pipert_shm.tap import Tap

LINKS = 32  # wires between routines that build() knows no wire of, at one time
NEWCOMERS = 16  # flows, and routines, that can be added while the pipe runs
LEAST_CELLS = 16
LAST_WORDS = 2.0  # seconds past the grace period

_OPEN = object()  # in place of an answer that has not come


class Session:
    """From `build()` to the end. Safe to use from any thread.

    :param grace: seconds that flows have to end in when killed.
    :raises SharedMemoryFull: when there is too little memory for what is known to be needed; nothing is left behind then.

    Attributes:
        over: set when every routine has ended, or the launcher is gone.
        gone: set when the launcher is gone, and with it all flows and every segment.
        exit_codes: of the flows that died.
    """

    def __init__(
        self, plan: Plan, audience: Audience, logger: logging.Logger, budget: int | None, grace: float, stop_on_failure: bool
    ) -> None:
        self.plan = plan
        self.audience = audience
        self.over = threading.Event()
        self.gone = threading.Event()
        self._causes: dict[object, str] = {}
        self.exit_codes: dict[str, int] = {}
        self._logger = logger
        self._grace = grace
        self._stop_on_failure = stop_on_failure
        self._lock = threading.Lock()
        self._growing = threading.Lock()
        self._answered = threading.Condition(self._lock)
        self._asked = 0
        self._questions: dict[int, Any] = {}  # by number; _OPEN until it is answered
        self._ready = threading.Event()
        self._taps: dict[int, Tap] = {}
        self._names = plan.names  # that taps may come across
        self._hearing = threading.Lock()  # held by the listener while it handles something
        self._nurseries: set[int] = set()
        self._starts = 0
        self._closed = False
        self.segment = _make_segment(plan, budget)
        try:
            self._rings = _make_rings(plan, self.segment)
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        self.segment.close()
        self.segment.unmap()
        unlink_pipe(self.segment.pipe_id)

    def launch(self) -> None:
        """Forks the launcher.

        :raises OSError: when the system has no process, no thread or no file descriptor left for it; nothing is left then.
        """
        with ExitStack() as undo:
            undo.callback(self._discard)
            self._launch(undo)
            undo.pop_all()

    def _launch(self, undo: ExitStack) -> None:
        self._channel, theirs = Channel.pair()
        undo.callback(self._channel.close)
        undo.callback(theirs.close)
        self._logs, logs_in = Channel.pair()
        undo.callback(self._logs.close)
        undo.callback(logs_in.close)
        order = LaunchOrder(
            plan=self.plan,
            pipe_id=self.segment.pipe_id,
            audience=self.audience,
            logger_name=self._logger.name,
            taps=(len(self.plan.routines) + NEWCOMERS, TAPS, len(self.plan.edges) + LINKS),
            rings=self._rings,
            grace=self._grace,
            stop_on_failure=self._stop_on_failure,
        )
        self._channel.keep()
        self._logs.keep()
        self._launcher = _fork(lambda: launch(order, theirs, logs_in))
        theirs.close()
        logs_in.close()
        self._listener = threading.Thread(target=self._listen, name=f"pipe-{self.segment.pipe_id}", daemon=True)
        try:
            self._listener.start()
        except RuntimeError as error:
            self._channel.close()  # which ends the launcher
            os.waitpid(self._launcher, 0)
            raise OSError(errno.EAGAIN, str(error)) from error

    def wait_ready(self) -> None:
        """Waits until every flow is up.

        :raises PipeFailed: when one is not.
        """
        self._ready.wait()
        if self.causes:
            self.end()
            raise PipeFailed(self.causes, dict(self.exit_codes))

    @property
    def causes(self) -> list[str]:
        """What failed for good, in order; what was started again since does not count."""
        return [cause for cause in self._causes.values() if cause]

    def _note_cause(self, cause: str) -> None:
        self._causes[cause] = cause

    def send(self, event: Event) -> None:
        """Hands an event to the launcher."""
        self._tell("event", event)

    def note_start(self) -> None:
        """A start is about to be sent: an end that was told before it, or crosses it, does not count."""
        with self._lock:
            self._starts += 1
            if not self.gone.is_set():
                self.over.clear()

    def kill(self) -> None:
        """Makes every flow end."""
        if not self.gone.is_set():
            self.send(Event(KILL_EVENT_NAME, self.plan.names))

    def end(self) -> None:
        """Kills what still runs, waits until it is gone, and lets go of everything but the counters and live views."""
        self.kill()
        while not self.gone.is_set():
            try:
                self.gone.wait()
            except KeyboardInterrupt:
                self._logger.info("interrupted again: flows have %g s to end, then they are killed", self._grace)
        self._listener.join()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._channel.close()
        self._logs.close()
        self.segment.close()
        # Statistics and views outlive the pipe's end; its mappings go with this object.
        weakref.finalize(self, self.segment.unmap).atexit = False

    def tap(self, name: str) -> Tap:
        """See `Pipe.tap`. Waits until the routine has heard of it; other questions do not wait for that."""
        self._require_other_thread("tap()")
        tap: Tap = self._ask("tap", name)
        return tap

    def link(self, event: Event) -> None:
        """Sends a link event, and waits until it is known that it can be.

        On the listener's thread, which is the one that would hear it, it does not wait, and a refusal is only logged.

        :raises WiresValidation, ValueError: when it can't be.
        :raises PipeStateError: when the pipe has ended.
        """
        if threading.current_thread() is self._listener:
            self.send(event)
            return
        self._ask("link", event)

    def restart(self, flow: str) -> None:
        """See `Pipe.restart_flow`."""
        self._tell("restart", flow)

    def grow(self, plan: Plan, audience: Audience, growth: Growth) -> None:
        """Adds flows and wires, and waits until the flows are up. Where it raises, nothing has changed.

        :param plan: of the whole pipe, as it will be.
        :raises WiresValidation, ValueError, SharedMemoryFull: when it can't be.
        :raises PipeStateError: when the pipe has ended; or on the listener's thread, which would hear the answer.
        :raises OSError: when the system has no process or no file descriptor left for it.
        """
        self._require_other_thread("build()")
        with self._growing, ExitStack() as undo:
            names = _names_of(plan)
            self.segment.make_room(names)
            self._names = plan.names  # before the look at the taps: one that is made meanwhile knows them
            for tap in list(self._taps.values()):
                tap.know(plan.names)
            ends: list[Channel] = []
            nursery = 0
            if growth.flows:
                ours, theirs = Channel.pair()
                undo.callback(ours.close)
                ends.append(ours.keep())
                try:
                    with self._hearing:  # else a lock that the listener holds would stay locked in the nursery
                        nursery = _fork(lambda: run_nursery(plan, self.segment, self._logger.name, self._grace, theirs))
                finally:
                    theirs.close()
                self._nurseries.add(nursery)
                undo.callback(self._reap_nursery, nursery)
            self._ask("build", growth, nursery, handing_over=ends)
            undo.pop_all()
            self.segment.tell(names)
            self.plan, self.audience = plan, audience

    def _require_other_thread(self, what: str) -> None:
        if threading.current_thread() is self._listener:
            raise PipeStateError(f"{what} can't be called by a log handler")

    def _reap_nursery(self, pid: int) -> None:
        with self._lock:
            if pid not in self._nurseries:
                return
            self._nurseries.remove(pid)
        with suppress(ChildProcessError):  # somebody else in this process reaped it
            os.waitpid(pid, 0)

    def _untap(self, edge: int) -> None:
        if not self.gone.is_set():
            self._tell("untap", edge)

    def _tell(self, *message: Any, fds: Sequence[int] = ()) -> None:
        with self._lock:
            if self._closed:
                return
            try:
                self._channel.send(*message, fds=fds)
            except (BrokenPipeError, ConnectionError):
                self._logger.debug("the launcher is gone: %s was not sent", message[0])

    def _ask(self, what: str, *details: Any, handing_over: Sequence[Channel] = ()) -> Any:
        """The launcher's answer. Any thread but the listener's, which hears it.

        :param handing_over: ends of channels that are the launcher's from now on, and closed here.
        :raises Exception: where that is the answer.
        :raises PipeStateError: when the pipe has ended.
        """
        with self._lock:
            self._asked += 1
            number = self._asked
            self._questions[number] = _OPEN
        try:
            try:
                if not self.gone.is_set():
                    self._tell(what, number, *details, fds=[channel.fileno() for channel in handing_over])
            finally:
                for channel in handing_over:
                    channel.close()
            with self._answered:
                self._answered.wait_for(lambda: self._questions[number] is not _OPEN or self.gone.is_set())
        except BaseException:
            _turn_away(self._withdraw(number))
            raise
        answer = self._withdraw(number)
        if answer is _OPEN:
            raise PipeStateError(f"can't {what}: the pipe has ended")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _withdraw(self, number: int) -> Any:
        """The answer to a question, if there is one; there is nobody to wait for it any more."""
        with self._lock:
            return self._questions.pop(number)

    def _answer(self, number: int, answer: Any) -> None:
        with self._answered:
            awaited = number in self._questions
            if awaited:
                self._questions[number] = answer
                self._answered.notify_all()
        if not awaited:
            _turn_away(answer)

    def _make_tap(self, edge: EdgePlan, incarnation: int) -> Tap | Exception:
        """On the listener's thread: the end of the tap, if it is told of next, finds it."""
        try:
            tap = self._taps[edge.number] = Tap(self.segment, edge, incarnation, self._names, self._untap)
        except Exception as error:
            self._untap(edge.number)
            return error
        return tap

    def _listen(self) -> None:
        """The listener thread: the launcher's messages, and the flows' log records."""
        with selectors.PollSelector() as selector:  # which takes no file descriptor: there may be none
            selector.register(self._logs, selectors.EVENT_READ, self._hear_log)
            selector.register(self._channel, selectors.EVENT_READ, self._hear_launcher)
            while not self.gone.is_set():
                for key, _ in selector.select():
                    with self._hearing:
                        if not key.data():
                            selector.unregister(key.fileobj)
        self._ready.set()
        self.over.set()
        for tap in list(self._taps.values()):
            tap.end()

    def _hear_log(self) -> bool:
        message = self._logs.receive()
        if message is None:
            return False
        try:
            replay(message[0])
        except Exception:
            # A handler of the user's raised. It must not end the listener, nor be silent.
            self._logger.exception("a log handler failed")
        return True

    def _hear_launcher(self) -> bool:
        message = self._channel.receive()
        if message is None:
            self._end_launcher()
            return False
        what, *details = message
        if what == "ready":
            self._ready.set()
        elif what == "ended":
            with self._lock:
                if details[0] == self._starts:
                    self.over.set()
        elif what == "started":
            self.over.clear()  # by a routine
        elif what == "failed":
            routine, cause = details
            self._causes[routine] = cause
        elif what == "died":
            flow, exit_code = details
            self.exit_codes[flow] = exit_code
            self._note_cause(str(FlowDied(flow, exit_code)))
            self._ready.set()
        elif what == "untapped":
            tap = self._taps.pop(details[0], None)
            if tap is not None:
                tap.end()
                tap.release()
        elif what == "tapped":
            number, edge, incarnation = details
            self._answer(number, self._make_tap(edge, incarnation))
        else:
            self._answer(*details)
        return True

    def _end_launcher(self) -> None:
        """The launcher's end of the channel is closed: it is gone, and all of its flows with it, or about to be."""
        try:
            _, status = os.waitpid(self._launcher, 0)
            exit_code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            exit_code = 0  # reaped by somebody else in this process, who has its status
        if exit_code:
            self._note_cause(str(FlowDied("launcher", exit_code)))
        for pid in list(self._nurseries):
            self._reap_nursery(pid)
        self._drain_logs()
        try:
            unlink_pipe(self.segment.pipe_id)  # what the launcher could not
        except OSError as error:
            self._logger.warning("can't look into /dev/shm: %s; `pipert-shm clean` removes what may be left there", error)
        with self._answered:
            self.gone.set()
            self._answered.notify_all()

    def _drain_logs(self) -> None:
        """Hears what the flows still say. The last of them closes the channel."""
        deadline = time.monotonic() + self._grace + LAST_WORDS
        with selectors.PollSelector() as selector:
            selector.register(self._logs, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                if not self._hear_log():
                    return


def _turn_away(answer: Any) -> None:
    """Lets go of an answer that nobody waits for any more."""
    if isinstance(answer, Tap):
        answer.close()


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Lets Ctrl-C wait for the end of the block. Outside the main thread, which alone gets it, does nothing."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def _fork(be_child: Callable[[], NoReturn]) -> int:
    """The child's pid; the child does not return from `be_child`."""
    flush_output()
    with warnings.catch_warnings():
        # Forking a process with threads is unsafe for what the child then shares with them; the launcher and nurseries
        # only run code of their own, on one thread.
        warnings.simplefilter("ignore", DeprecationWarning)
        # The child has no handler for Ctrl-C before it has set its own; take_own_signals() lifts this there.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            pid = os.fork()
            if pid == 0:
                be_child()
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _names_of(plan: Plan) -> bytes:
    return about(*plan.directory())


def _make_segment(plan: Plan, budget: int | None) -> ControlSegment:
    if budget is None:
        budget = free_bytes() // 2
    largest = max((edge.capacity for edge in plan.edges), default=1)
    room = native.ControlSize(
        flows=len(plan.flows) + NEWCOMERS,
        routines=len(plan.routines) + NEWCOMERS + TAPS,
        edges=len(plan.edges) + LINKS + TAPS,
        # each edge's live incarnation, and those that are being drained after crashes
        incarnations=3 * (len(plan.edges) + TAPS) + 2 * LINKS,
        cells=max(LEAST_CELLS, 1 << (largest - 1).bit_length()),
    )
    segment = ControlSegment.create(room, budget, _names_of(plan))
    for edge in plan.edges:
        edge.format(native.EdgeRecord(segment.process, edge.number), plan.routines[edge.sender].reach)
        native.Incarnation(segment.process, edge.first_incarnation).format(edge.number, edge.bit)
    return segment


def _make_rings(plan: Plan, segment: ControlSegment) -> dict[int, tuple[int, int]]:
    rings = {}
    for item in plan.routines:
        size = item.routine._output_bytes
        if size and item.slots:
            purpose = f"the ring of {item.routine.name!r}"
            rings[item.number] = (create_ring(segment, item.number, item.slots, size, purpose, mapped=False), size)
    return rings
