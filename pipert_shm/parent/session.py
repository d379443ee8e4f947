"""A built pipe in the process that built it: its memory, its launcher, and the requests to that."""

from __future__ import annotations

import logging
import os
import select
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from pipert_shm import binding
from pipert_shm.control.channel import Channel
from pipert_shm.control.guard import tell
from pipert_shm.control.log_relay import LAST_WORDS, LogRelay
from pipert_shm.control.messages import (
    AskNumbers,
    EndTap,
    Extend,
    Kill,
    MakeTap,
    Message,
    Notify,
    RemoveFlows,
    RestartFlow,
)
from pipert_shm.errors import PipeFailed, PipeStateError
from pipert_shm.events import KILL_EVENT_NAME, START_EVENT_NAME, Audience, Event
from pipert_shm.graph.extension import Growth
from pipert_shm.graph.model import Plan
from pipert_shm.graph.reduction import plan_without
from pipert_shm.launcher.footprint import make_rings, make_segment, names_of, tap_places
from pipert_shm.launcher.loop import LaunchOrder, launch
from pipert_shm.parent.changes import Changes
from pipert_shm.parent.fork_servers import ForkServers
from pipert_shm.parent.line import FOR_EACH_FLOW, LONG_PATIENCE, PATIENCE, Deferred, Line, Unanswered
from pipert_shm.parent.listener import Listener
from pipert_shm.parent.outcome import Outcome
from pipert_shm.parent.relays import Handler, Relays
from pipert_shm.parent.taps import Taps
from pipert_shm.parent.tracing import Tracing
from pipert_shm.shm import sockets
from pipert_shm.shm.segments import has_segments, unlink_pipe
from pipert_shm.shm.states import State
from pipert_shm.system import calls, forked
from pipert_shm.system.interrupts import interrupts_allowed
from pipert_shm.tap import Tap


class Session:
    """A pipe from `build()` to its end. Safe to use from any thread.

    :param name: the pipe's name, for people.
    :param file: the pipeline's file that it was made from, as a real path; empty if there is none.
    :param grace: seconds that flows have to end in when killed.
    :raises SharedMemoryFull: when there is too little memory for what is known to be needed; nothing is left behind then.

    Attributes:
        gone: set when the launcher is gone, and with it all flows and every segment.
        outcome: whether all routines have ended, and what has failed.
        tracing: traces the pipe.
        changes: the steps of a change of flows that run.
    """

    def __init__(
        self,
        plan: Plan,
        audience: Audience,
        name: str,
        file: str,
        logger: logging.Logger,
        grace: float,
        stop_on_failure: bool,
    ) -> None:
        self.plan = plan
        self.audience = audience
        self.gone = threading.Event()
        self.outcome = Outcome()
        self._name, self._file = name, file
        self._logger = logger
        self._grace = grace
        self._stop_on_failure = stop_on_failure
        self._lock = threading.RLock()
        self._growing = threading.Lock()
        self._line = Line(self.gone, _turn_away)
        self._relays = Relays(self._line)
        self._meeting = sockets.directory()
        self._is_unsure = False  # whether the launcher took in what was added last
        self.segment = make_segment(plan, name, file)
        self.tracing = Tracing(self.segment.pipe_id, lambda order: self._ask(order, patience=PATIENCE))
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
        logs, self._logs_in = Channel.pair()
        undo.callback(logs.close)
        undo.callback(self._logs_in.close)
        voice = self._logs_in.duplicate()
        undo.callback(voice.close)
        for channel in (logs, voice):
            channel.keep()
        self.relay = LogRelay(logs, voice, self._logger)
        self._logs = logs
        theirs = self._line.open(self.relay.logger)  # not the user's: its handlers run on the relay's thread alone
        undo.callback(self._line.close)
        undo.callback(theirs.close)
        self._taps = Taps(self.segment, self.plan.names, self._untap, self.relay.logger)
        self._fork_servers = ForkServers(self.segment, self._at_rest, self._logger.name, self._grace, self._logs_in)
        self.changes = Changes(self._ask, self._fork_servers, self._growing)
        self._listener = Listener(
            self._line,
            self.outcome,
            self._taps,
            self._relays,
            self.relay,
            self.gone,
            self._all_over,
            self._end_launcher,
            self._fork_servers.reap,
        )
        order = self._order()
        self._launcher = forked.fork(lambda: launch(order, theirs, self._logs_in))
        try:
            theirs.close()
            self._logs_in.keep()  # for fork servers
            self.relay.start()
            self._listener.start(f"pipe-{self.segment.pipe_id}")
        except BaseException:
            self._line.close()  # which ends the launcher
            self._logs_in.close()
            voice.close()  # which ends the relay
            os.waitpid(self._launcher, 0)
            raise

    def _order(self) -> LaunchOrder:
        return LaunchOrder(
            plan=self.plan,
            pipe_id=self.segment.pipe_id,
            name=self._name,
            meeting=self._meeting,
            audience=self.audience,
            logger_name=self._logger.name,
            taps=tap_places(self.plan),
            rings=self._rings,
            grace=self._grace,
            stop_on_failure=self._stop_on_failure,
        )

    def wait_ready(self) -> None:
        """Waits until every flow is up.

        :raises PipeFailed: when one is not.
        """
        self._listener.ready.wait()
        if self.outcome.causes:
            self.end()
            raise PipeFailed(self.outcome.causes, dict(self.outcome.exit_codes))

    # ---- what is asked of the launcher -----------------------------------------------------------

    def send(self, event: Event) -> None:
        """Gives an event to the launcher, and waits until it is on its way. A kill does not wait.

        :raises WiresValidation, ValueError: when a wire that it asks for can't be linked.
        :raises PipeStateError: when the pipe has ended, or a flow does not handle its earlier events.
        """
        if event.name == KILL_EVENT_NAME:
            self.kill()
        elif event.name == START_EVENT_NAME:
            with self.outcome.start(self.gone) as number:
                self._ask(Notify(event, number), patience=PATIENCE)
        else:
            self._ask(Notify(event, self.outcome.starts), patience=PATIENCE)

    def kill(self) -> None:
        """Makes every flow end."""
        if not self.gone.is_set():
            self._line.tell(Kill())

    def end(self) -> None:
        """Kills all flows that still run, waits until they are gone, and releases all but the counters and live views.

        :raises PipeStateError: on the thread of a log handler, which the end waits for.
        """
        self.require_no_handler("join()")
        self.kill()
        while not self.gone.is_set():
            try:
                with interrupts_allowed():
                    has_ended = self.gone.wait(self._grace + LAST_WORDS)
                if not has_ended:
                    self.relay.logger.warning(
                        "the pipe's launcher (process %d) has not ended yet; is it stopped?", self._launcher
                    )
                    self.kill()  # it was not heard, perhaps
            except KeyboardInterrupt:
                self.relay.logger.info("interrupted again: flows have %g s to end, then they are killed", self._grace)
        self._listener.join()
        self._relays.end()
        if not self._line.close():
            return
        self.relay.finish(self._grace)
        self.segment.close()
        # Statistics and views outlive the pipe's end; its mappings go with this object.
        weakref.finalize(self, self.segment.unmap).atexit = False

    def tap(self, name: str) -> Tap:
        """See `Pipe.tap`. Waits until the routine sends to it; other requests do not wait for that."""
        tap: Tap = self._ask(MakeTap(name), patience=LONG_PATIENCE, whom=f"routine {name!r}, in a call of its own perhaps,")
        return tap

    def serve(self, kind: str, handler: Handler) -> None:
        """Answers questions of attached processes: see `Attached.relay`.

        :param handler: gets a question's bytes, and gives those of the answer. It is called on a thread that the questions of
            this kind have for themselves; what it raises is raised where the question was asked.
        """
        self._relays.serve(kind, handler)

    def restart(self, flow: str) -> None:
        """See `Pipe.restart_flow`."""
        self._line.tell(RestartFlow(flow))

    def numbers(self, count: int) -> tuple[tuple[int, int], ...]:
        """Free numbers for so many new routines, each with the generation of the routine that gets it.

        :raises WiresValidation: when there are not so many.
        :raises PipeStateError: when the pipe has ended; or on the thread of a log handler.
        """
        self._require_sure("build()")
        free: tuple[tuple[int, int], ...] = self._ask(AskNumbers(count), patience=PATIENCE)
        return free

    def remove(self, flows: Sequence[str], receivers_wait: bool) -> None:
        """Removes flows, and waits until their processes are gone. If it raises, nothing has changed, or the pipe has ended.

        :param flows: their names; of a flow with replicas those of all replicas.
        :raises WiresValidation: when others need one of them.
        :raises PipeStateError: when the pipe has ended; or on the thread of a log handler.
        """
        self._require_sure("remove_flow()")
        with self._growing:
            order = RemoveFlows(tuple(flows), receivers_wait)
            patience = self._grace + LONG_PATIENCE + FOR_EACH_FLOW * len(flows)
            with self._unsure_if_unanswered():
                for pid in self._ask(order, patience=patience):
                    self._fork_servers.reap(pid)
            self.outcome.forget(flows, [item.number for name in flows for item in self.plan.flows[name]])
            self.plan, self.audience = plan_without(self.plan, flows), self.audience.without(flows)
            self._taps.know(self.plan.names)
            self.segment.tell(names_of(self.plan, self._name, self._file))

    @contextmanager
    def _unsure_if_unanswered(self) -> Iterator[None]:
        """A context in which the launcher is asked for a change of the flows."""
        try:
            yield
        except Unanswered:
            self._is_unsure = True
            raise

    def _require_sure(self, what: str) -> None:
        """:raises PipeStateError: when it is not known which flows the launcher has; or on the thread of a log handler."""
        self.require_no_handler(what)
        if self._is_unsure:
            raise PipeStateError(f"{what}: what became of an earlier change is not known; no more flows can come or go")

    def grow(self, plan: Plan, audience: Audience, growth: Growth) -> None:
        """Adds flows and wires, and waits until the flows are up. If it raises, nothing has changed.

        :param plan: that of the whole pipe with the new flows and wires.
        :raises WiresValidation, ValueError, SharedMemoryFull: when the launcher can't add them.
        :raises PipeStateError: when the pipe has ended; or on the thread of a log handler.
        :raises OSError: when the system has no process or no file descriptor left for it.
        """
        self._require_sure("build()")
        with self._growing, ExitStack() as undo:
            names = names_of(plan, self._name, self._file)
            self.segment.make_room(names)
            self._taps.know(plan.names)
            ends: list[Channel] = []
            server = 0
            if growth.flows:
                ours, server = self._fork_servers.fork(plan, undo)
                ends.append(ours)
            try:
                with self._unsure_if_unanswered():
                    patience = LONG_PATIENCE + FOR_EACH_FLOW * len(growth.flows)
                    self._ask(Extend(growth, server), handing_over=ends, patience=patience)
            except Unanswered:
                undo.pop_all()  # the fork server is at work, perhaps: it ends with the launcher
                raise
            undo.pop_all()
            self.segment.tell(names)
            self.plan, self.audience = plan, audience

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """A context in which no thread of the pipe's own holds a lock."""
        with self._listener.busy, self.relay.at_rest():
            yield

    def require_no_handler(self, what: str) -> None:
        """:raises PipeStateError: on the thread of log handlers."""
        if self.relay.is_here:
            raise PipeStateError(
                f"{what} can't be called by a log handler: it would wait for itself; call it on another thread"
            )

    def _untap(self, edge: int) -> None:
        if not self.gone.is_set():
            self._line.tell(EndTap(edge))

    def _ask(self, message: Message, *, patience: float, whom: str = "", handing_over: Sequence[Channel] = ()) -> Any:
        """The launcher's answer: see `Line.ask`.

        :raises PipeStateError: also when a signal's handler asks in the midst of another call. What it notifies goes out.
        """
        try:
            whom = whom or f"the pipe's launcher (process {self._launcher})"
            return self._line.ask(message, whom, handing_over=handing_over, patience=patience)
        except Deferred:
            if isinstance(message, Notify):
                return None
            raise PipeStateError("a signal's handler can't ask for this in the midst of another call of the pipe's") from None

    # ---- the end of the launcher, on the listener's thread ----------------------------------------

    def _all_over(self) -> bool:
        records = [binding.RoutineRecord(self.segment.process, item.number) for item in self.plan.routines]
        return bool(records) and all(State(record.state).over for record in records)

    def _end_launcher(self) -> None:
        """Clears up after the launcher. Its end of the channel is closed, so it and its flows are gone, or about to be."""
        try:
            exit_code = calls.wait_for_exit(self._launcher)
        except ChildProcessError:
            exit_code = 0  # reaped by somebody else in this process, who has its status
        if exit_code:
            self.outcome.note_launcher_death(exit_code)
        for pid in self._fork_servers:
            self._fork_servers.reap(pid)
        self._await_flows()
        try:
            if has_segments(self.segment.pipe_id):
                sockets.remove(self._meeting, self.segment.pipe_id)
                unlink_pipe(self.segment.pipe_id, keep_traces=self.tracing.is_on)  # what the launcher could not
        except OSError as error:
            tell("can't clear up /dev/shm: %s; `pipert-shm clean` removes what may be left there", error)

    def _await_flows(self) -> None:
        """Waits until the flows are gone, too. Then nobody holds the other end of the log channel any more."""
        with self._lock:
            self._logs_in.close()
        self.relay.fall_silent()
        ends = select.poll()
        ends.register(self._logs, 0)  # for the hang-up alone
        ends.poll((self._grace + LAST_WORDS) * 1000)


def _turn_away(answer: Any) -> None:
    """Releases an answer that nobody waits for any more."""
    if isinstance(answer, Tap):
        answer.close()
