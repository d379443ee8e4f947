"""A built pipe, seen from the process that built it: its memory, its launcher, and what comes back from there."""

from __future__ import annotations

import logging
import os
import pickle
import select
import threading
import weakref
from contextlib import ExitStack, suppress
from typing import Any

from pipert_shm import forked, native, system
from pipert_shm.control import messages
from pipert_shm.control.channel import Channel, Received
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.guard import contained, tell
from pipert_shm.control.messages import (
    Answer,
    Died,
    Ended,
    EndTap,
    Extend,
    Failed,
    Kill,
    MakeTap,
    Message,
    Notify,
    RestartFlow,
    TapEnded,
    TapMade,
)
from pipert_shm.control.questions import OPEN, Questions
from pipert_shm.errors import FlowDied, PipeFailed, PipeStateError, describe
from pipert_shm.events import KILL_EVENT_NAME, START_EVENT_NAME, Audience, Event
from pipert_shm.footprint import make_rings, make_segment, names_of, tap_places
from pipert_shm.growth import Growth
from pipert_shm.launcher.fork_server import run_fork_server
from pipert_shm.launcher.loop import LaunchOrder, launch
from pipert_shm.logs import LAST_WORDS, LogRelay
from pipert_shm.memory import has_segments, unlink_pipe
from pipert_shm.plan import Plan
from pipert_shm.states import State
from pipert_shm.tap import Tap

PATIENCE = 30.0  # seconds that a launcher may take to say whether it takes an event: it waits for nobody
LONG_PATIENCE = 60.0  # likewise, where it waits for flows to be forked, or for a routine between two calls of its own


class Session:
    """From `build()` to the end. Safe to use from any thread.

    :param name: the pipe's, for people.
    :param grace: seconds that flows have to end in when killed.
    :raises SharedMemoryFull: when there is too little memory for what is known to be needed; nothing is left behind then.

    Attributes:
        over: set when every routine has ended, or the launcher is gone.
        gone: set when the launcher is gone, and with it all flows and every segment.
        exit_codes: of the flows that died.
    """

    def __init__(
        self,
        plan: Plan,
        audience: Audience,
        name: str,
        logger: logging.Logger,
        budget: int | None,
        grace: float,
        stop_on_failure: bool,
    ) -> None:
        self.plan = plan
        self.audience = audience
        self.over = threading.Event()
        self.gone = threading.Event()
        self._causes: dict[str, str] = {}
        self.exit_codes: dict[str, int] = {}
        self._name = name
        self._logger = logger
        self._grace = grace
        self._stop_on_failure = stop_on_failure
        self._lock = threading.RLock()
        self._growing = threading.Lock()
        self._questions = Questions(_turn_away)
        self._ready = threading.Event()
        self._taps: dict[int, Tap] = {}
        self._names = plan.names  # that taps may come across
        self._hearing = threading.Lock()  # held by the listener while it handles something
        self._fork_servers: set[int] = set()
        self._is_unsure = False  # whether the launcher took in what was added last
        self._numbered = 0  # starts; no number is given out twice
        self._starts = 0  # the last one that counts
        self._ended = -1  # the last one after which all was over
        self._starting = 0  # starts that the launcher has not answered
        self._closed = False
        self.segment = make_segment(plan, name, budget)
        try:
            self._rings = make_rings(plan.routines, self.segment)
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        self.segment.close()
        self.segment.unmap()
        unlink_pipe(self.segment.pipe_id)

    # ---- the beginning ---------------------------------------------------------------------------

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
        logs, self._logs_in = Channel.pair()
        undo.callback(logs.close)
        undo.callback(self._logs_in.close)
        voice = self._logs_in.duplicate()
        undo.callback(voice.close)
        order = LaunchOrder(
            plan=self.plan,
            pipe_id=self.segment.pipe_id,
            audience=self.audience,
            logger_name=self._logger.name,
            taps=tap_places(self.plan),
            rings=self._rings,
            grace=self._grace,
            stop_on_failure=self._stop_on_failure,
        )
        for channel in (self._channel, logs, voice):
            channel.keep()
        self.relay = LogRelay(logs, voice, self._logger)
        self._logs = logs
        self._table = self._make_table()
        self._launcher = forked.fork(lambda: launch(order, theirs, self._logs_in))
        try:
            theirs.close()
            self._logs_in.keep()  # for fork servers
            self.relay.start()
            self._listener = threading.Thread(target=self._listen, name=f"pipe-{self.segment.pipe_id}", daemon=True)
            system.start_thread(self._listener)
        except BaseException:
            self._channel.close()  # which ends the launcher
            self._logs_in.close()
            voice.close()  # which ends the relay
            os.waitpid(self._launcher, 0)
            raise

    def wait_ready(self) -> None:
        """Waits until every flow is up.

        :raises PipeFailed: when one is not.
        """
        self._ready.wait()
        if self.causes:
            self.end()
            raise PipeFailed(self.causes, dict(self.exit_codes))

    # ---- what is asked of the launcher -----------------------------------------------------------

    @property
    def causes(self) -> list[str]:
        """What failed for good, in order; what was started again since does not count."""
        return [cause for cause in list(self._causes.values()) if cause]

    def send(self, event: Event) -> None:
        """Hands an event to the launcher, and waits until that says that it is on its way. An event of a kill does not wait.

        :raises WiresValidation, ValueError: when it links wires that can't be.
        :raises PipeStateError: when the pipe has ended, or a flow does not take what it was sent before.
        """
        if event.name == KILL_EVENT_NAME:
            self.kill()
        elif event.name == START_EVENT_NAME:
            self._start(event)
        else:
            self._ask(Notify(event, self._starts), patience=PATIENCE)

    def _start(self, event: Event) -> None:
        """An end that was told before a start, or crosses it, does not count."""
        with self._lock:
            self._numbered += 1
            number, before = self._numbered, self._starts
            self._starts = number
            self._starting += 1
            if not self.gone.is_set():
                self.over.clear()
        try:
            self._ask(Notify(event, number), patience=PATIENCE)
        except BaseException:
            with self._lock:
                if self._starts == number:
                    self._starts = before
                    self._set_over()
            raise
        finally:
            with self._lock:
                self._starting -= 1

    def kill(self) -> None:
        """Makes every flow end."""
        if not self.gone.is_set():
            self._tell(Kill())

    def end(self) -> None:
        """Kills what still runs, waits until it is gone, and lets go of everything but the counters and live views.

        :raises PipeStateError: on the thread of a log handler, which the end waits for.
        """
        self.require_no_handler("join()")
        self.kill()
        while not self.gone.is_set():
            try:
                if not self.gone.wait(self._grace + LAST_WORDS):
                    self.relay.logger.warning(
                        "the pipe's launcher (process %d) has not ended yet; is it stopped?", self._launcher
                    )
                    self.kill()  # it was not heard, perhaps
            except KeyboardInterrupt:
                self.relay.logger.info("interrupted again: flows have %g s to end, then they are killed", self._grace)
        self._listener.join()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._channel.close()
        self.relay.finish(self._grace)
        self.segment.close()
        # Statistics and views outlive the pipe's end; its mappings go with this object.
        weakref.finalize(self, self.segment.unmap).atexit = False

    def tap(self, name: str) -> Tap:
        """See `Pipe.tap`. Waits until the routine has heard of it; other questions do not wait for that."""
        tap: Tap = self._ask(MakeTap(name), patience=LONG_PATIENCE, whom=f"routine {name!r}, in a call of its own perhaps,")
        return tap

    def restart(self, flow: str) -> None:
        """See `Pipe.restart_flow`."""
        self._tell(RestartFlow(flow))

    def grow(self, plan: Plan, audience: Audience, growth: Growth) -> None:
        """Adds flows and wires, and waits until the flows are up. Where it raises, nothing has changed.

        :param plan: of the whole pipe, as it will be.
        :raises WiresValidation, ValueError, SharedMemoryFull: when it can't be.
        :raises PipeStateError: when the pipe has ended; or on the thread of a log handler.
        :raises OSError: when the system has no process or no file descriptor left for it.
        """
        self.require_no_handler("build()")
        if self._is_unsure:
            raise PipeStateError("build(): what became of an earlier one is not known; nothing more can be added to the pipe")
        with self._growing, ExitStack() as undo:
            names = names_of(plan, self._name)
            self.segment.make_room(names)
            self._names = plan.names  # before the look at the taps: one that is made meanwhile knows them
            for tap in list(self._taps.values()):
                tap.know(plan.names)
            ends: list[Channel] = []
            server = 0
            if growth.flows:
                ours, server = self._fork_server(plan, undo)
                ends.append(ours)
            try:
                self._ask(Extend(growth, server), handing_over=ends, patience=LONG_PATIENCE)
            except _Unreadable:
                self._is_unsure = True
                undo.pop_all()  # the fork server is at work, perhaps: it ends with the launcher
                raise
            undo.pop_all()
            self.segment.tell(names)
            self.plan, self.audience = plan, audience

    def _fork_server(self, plan: Plan, undo: ExitStack) -> tuple[Channel, int]:
        """The launcher's end of its channel, and its pid."""
        ours, theirs = Channel.pair()
        undo.callback(ours.close)
        ours.keep()
        try:
            logs = self._logs_in.duplicate()
            try:
                with self._hearing, self.relay.at_rest():  # else a lock that a thread of ours holds would stay locked there
                    pid = forked.fork(lambda: run_fork_server(plan, self.segment, self._logger.name, self._grace, theirs, logs))
            finally:
                logs.close()
        finally:
            theirs.close()
        self._fork_servers.add(pid)
        undo.callback(self._reap_fork_server, pid)
        return ours, pid

    def require_no_handler(self, what: str) -> None:
        """:raises PipeStateError: on the thread of log handlers."""
        if self.relay.is_here:
            raise PipeStateError(
                f"{what} can't be called by a log handler: it would wait for itself; call it on another thread"
            )

    def _reap_fork_server(self, pid: int) -> None:
        with self._lock:
            if pid not in self._fork_servers:
                return
            self._fork_servers.remove(pid)
        with suppress(ChildProcessError):  # somebody else in this process reaped it
            os.waitpid(pid, 0)

    def _untap(self, edge: int) -> None:
        if not self.gone.is_set():
            self._tell(EndTap(edge))

    def _tell(self, message: Message, question: int = 0, fds: tuple[int, ...] = ()) -> bool:
        """False when it is on its way only when what this thread was sending is."""
        with self._lock:
            if self._closed:
                return True
            try:
                return self._channel.send(message, question, fds)
            except ConnectionError:
                self.relay.logger.debug("the launcher is gone: %s was not sent", type(message).__name__)
                return True

    def _ask(
        self, message: Message, handing_over: list[Channel] | None = None, patience: float | None = None, whom: str = ""
    ) -> Any:
        """The launcher's answer. Any thread but the listener's, which hears it.

        :param handing_over: ends of channels that are the launcher's from now on, and closed here.
        :param patience: seconds after which no answer is an error.
        :param whom: who has to answer, where it is not the launcher alone.
        :raises Exception: where that is the answer.
        :raises PipeStateError: when the pipe has ended, or the launcher does not answer in time.
        """
        channels = handing_over or []

        def send(number: int) -> None:
            try:
                if not self.gone.is_set() and not self._tell(message, number, tuple(channel.fileno() for channel in channels)):
                    raise _Deferred
            finally:
                for channel in channels:
                    channel.close()

        try:
            answer = self._questions.ask(send, patience)
        except _Deferred:  # a signal's handler, in the midst of another call: nobody can wait for an answer here
            if isinstance(message, Notify):
                return None
            raise PipeStateError("a signal's handler can't ask for this in the midst of another call of the pipe's") from None
        if answer is OPEN and not self.gone.is_set():
            whom = whom or f"the pipe's launcher (process {self._launcher})"
            raise _Unreadable(f"{whom} has not answered for {patience:g} s")
        if answer is OPEN:
            raise PipeStateError("the pipe has ended")
        if isinstance(answer, bytes):  # on the thread that asked: the listener runs nobody's code
            raise _unpacked(answer)
        if isinstance(answer, Exception):
            raise answer
        return answer

    # ---- the listener thread ---------------------------------------------------------------------

    def _make_table(self) -> Dispatch:
        """Who handles what the launcher says. Nothing here runs users' code."""

        def make_good(received: Received, error: Exception) -> None:
            if received.question:
                self._questions.answer(
                    received.question, _Unreadable(f"the launcher's answer could not be read: {describe(error)}")
                )
                self._tell(Answer(), received.question)  # where it made something for us
            if received.kind == messages.Ready.__name__:  # which says nothing but that
                self._ready.set()
            self._look()

        table = Dispatch("the pipe's parent", self.relay.logger, make_good)
        table.on(messages.Ready, lambda message: self._ready.set())
        table.on(Ended, self._note_ended)
        table.on(messages.Started, lambda message: self._note_started())
        table.on(Failed, self._note_failed)
        table.on(Died, self._note_died)
        table.on_received(Answer, self._take_answer)
        table.on_received(TapMade, self._make_tap)
        table.on(TapEnded, self._end_tap)
        return table

    def _listen(self) -> None:
        """The listener thread: the launcher's messages."""
        while not self.gone.is_set():
            received = self._channel.receive_patiently(
                lambda error: self.relay.logger.error("the launcher can't be heard now: %s; it is tried again", describe(error))
            )
            with self._hearing:
                if received is None:
                    self._note_end()
                else:
                    self._table.deliver(received)
        self._ready.set()
        self.over.set()
        for tap in list(self._taps.values()):
            tap.end()

    def _note_started(self) -> None:
        """Something was started, by a routine perhaps: the end that was told before is none."""
        with self._lock:
            self._ended = -1
            self.over.clear()

    def _note_ended(self, message: Ended) -> None:
        with self._lock:
            self._ended = max(self._ended, message.starts)
            self._set_over()

    def _set_over(self) -> None:
        """With the lock held."""
        if self._ended >= self._starts:
            self.over.set()

    def _look(self) -> None:
        """Something that was said is lost: sees whether all routines are over."""
        with self._lock:
            numbers = range(len(self.plan.routines))
            states = [State(native.RoutineRecord(self.segment.process, number).state) for number in numbers]
            if not self._starting and all(state.over for state in states):
                self.over.set()

    def _note_failed(self, message: Failed) -> None:
        self._causes[message.key] = message.cause

    def _note_died(self, message: Died) -> None:
        cause = message.why or str(FlowDied(message.flow, message.exit_code))
        if message.exit_code or not message.why:  # it had a process
            self.exit_codes[message.flow] = message.exit_code
        self._causes[cause] = cause
        self._ready.set()

    def _take_answer(self, message: Answer, received: Received) -> None:
        answer = message.error or None
        if received.question:
            self._questions.answer(received.question, answer)
        else:  # something came to nothing there that was no question, or was not known as one
            self._look()

    def _make_tap(self, message: TapMade, received: Received) -> None:
        """The end of the tap, if it is told of next, finds it.

        :raises LookupError: when there is one already.
        """
        number = message.edge.number
        if number in self._taps:
            raise LookupError(f"there is a tap {number} already")
        try:
            tap = self._taps[number] = Tap(
                self.segment, message.edge, message.incarnation, self._names, self._untap, self.relay.logger
            )
        except Exception as error:
            self._untap(number)
            self._questions.answer(received.question, error)
        else:
            self._questions.answer(received.question, tap)

    def _end_tap(self, message: TapEnded) -> None:
        tap = self._taps.pop(message.edge, None)
        if tap is not None:
            tap.end()
            tap.release()

    def _note_end(self) -> None:
        """Whatever goes wrong with what is left to do then: it is the end, and whoever waits for it hears of it."""
        try:
            with contained(self.relay.logger, "clearing up after the launcher"):
                self._end_launcher()
        finally:
            self.gone.set()
            self._questions.close()

    def _end_launcher(self) -> None:
        """The launcher's end of the channel is closed: it is gone, and all of its flows with it, or about to be."""
        try:
            _, status = system.waitpid(self._launcher, 0)
            exit_code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            exit_code = 0  # reaped by somebody else in this process, who has its status
        if exit_code and not self._causes.get("launcher"):
            self._causes["launcher"] = str(FlowDied("launcher", exit_code))
        for pid in list(self._fork_servers):
            self._reap_fork_server(pid)
        self._await_flows()
        try:
            if has_segments(self.segment.pipe_id):
                unlink_pipe(self.segment.pipe_id)  # what the launcher could not
        except OSError as error:
            tell("can't clear up /dev/shm: %s; `pipert-shm clean` removes what may be left there", error)

    def _await_flows(self) -> None:
        """Waits until the flows are gone, too: nobody holds the other end of the log channel any more."""
        with self._lock:
            self._logs_in.close()
        self.relay.fall_silent()
        ends = select.poll()
        ends.register(self._logs, 0)  # for the hang-up alone
        ends.poll((self._grace + LAST_WORDS) * 1000)


def _unpacked(error: bytes) -> Exception:
    """The exception that is the launcher's answer."""
    try:
        answer = pickle.loads(error)
    except Exception as failure:
        answer = f"why can't be read here: {describe(failure)}"
    return answer if isinstance(answer, Exception) else PipeStateError(f"the launcher refuses; {answer}")


class _Deferred(Exception):
    """The question is not sent yet."""


class _Unreadable(PipeStateError):
    """What the launcher answers is not known."""


def _turn_away(answer: Any) -> None:
    """Lets go of an answer that nobody waits for any more."""
    if isinstance(answer, Tap):
        answer.close()
