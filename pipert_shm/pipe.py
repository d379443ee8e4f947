"""The pipe: what users build, start, control and wait for."""

from __future__ import annotations

import atexit
import logging
import os
import selectors
import sys
import threading
import warnings
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from pipert_shm import native
from pipert_shm.channel import Channel
from pipert_shm.errors import FlowDied, PipeFailed, PipertError, PipeStateError, SharedMemoryFull, UnknownTarget
from pipert_shm.events import KILL_EVENT_NAME, LIFECYCLE_EVENTS, START_EVENT_NAME, STOP_EVENT_NAME, Audience, handlers_of
from pipert_shm.launcher import LaunchOrder, launch
from pipert_shm.logs import replay
from pipert_shm.memory import ControlSegment, create_ring, free_bytes, sweep_stale, unlink_pipe
from pipert_shm.plan import Defaults, Plan, audience_of, make_plan
from pipert_shm.routine import Routine
from pipert_shm.statistics import PipeStatistics, read_statistics
from pipert_shm.tap import Tap, no_tap
from pipert_shm.transmit import DataTransmitter, SharedMemoryTransmitter
from pipert_shm.wire import Policy, QueueNetwork, Wire, check_queue

TAPS = 8
LEAST_CELLS = 16

_running: set[Pipe] = set()


class Pipe:
    """Flows of routines, and the wires between them.

    A context manager: leaving the `with` block waits for the end of the pipe (`join()`), or kills it when the block raised. A pipe
    that is still running when the interpreter exits is waited for; Ctrl-C ends it.

    Methods may be called from any thread of the process that made the pipe.

    :param network: queue settings by PipeRT2's names; or give `policy`, `capacity` and `timeout`.
    :param logger: gets the records of all routines, as its children `<flow>.<routine>`. By default the logger "Pipe".
    :param data_transmitter: how payloads travel on wires that don't say; by default through shared memory.
    :param policy: what a sender does when a queue is full, on wires that don't say: `drop_oldest`, `drop_newest` or `block`.
    :param capacity: messages that a queue holds, on wires that don't say.
    :param timeout: seconds after which a blocked sender drops its message; None: never.
    :param memory_budget: bytes of /dev/shm that frames may take; by default half of what is free.
    :param grace_period: seconds that a routine has to return from `main_logic` when the pipe is killed.
    :raises ValueError: when an argument is out of range.
    """

    def __init__(
        self,
        network: QueueNetwork | None = None,
        logger: logging.Logger | None = None,
        data_transmitter: DataTransmitter | None = None,
        *,
        policy: Policy | None = None,
        capacity: int | None = None,
        timeout: float | None = None,
        memory_budget: int | None = None,
        grace_period: float = 5.0,
    ) -> None:
        check_queue(policy, capacity, timeout)
        if network is not None and (policy, capacity, timeout) != (None, None, None):
            raise ValueError("give either network or policy, capacity and timeout")
        self.logger = logger if logger is not None else logging.getLogger("Pipe")
        self._defaults = Defaults(
            network.policy if network else policy or "drop_oldest",
            network.capacity if network else capacity or 2,
            network.timeout if network else timeout,
            data_transmitter or SharedMemoryTransmitter(),
        )
        self._memory_budget = memory_budget
        self._grace = grace_period
        self._flows: dict[str, list[Routine]] = {}
        self._wires: list[Wire] = []
        self._plan: Plan | None = None
        self._audience: Audience | None = None
        self._early: list[tuple[str, dict[str, Iterable[str]] | None, str | None, dict[str, Any]]] = []
        self._started = False
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._answers: dict[str, Any] = {}
        self._answered = threading.Condition(self._lock)
        self._ready = threading.Event()
        self._over = threading.Event()
        self._gone = threading.Event()
        self._causes: list[str] = []
        self._exit_codes: dict[str, int] = {}
        self._taps: dict[int, Tap] = {}
        self._tapping = threading.Lock()

    # ---- building -------------------------------------------------------------------------------------------------------------

    def create_flow(
        self, flow_name: str, auto_wire: bool, *routines: Routine, data_transmitter: DataTransmitter | None = None
    ) -> None:
        """Adds a flow: a process of its own, with a thread per routine.

        :param auto_wire: wire each routine to the next one, in the order given.
        :param data_transmitter: for the wires that `auto_wire` makes.
        :raises PipertError: when the name is taken, a routine is in a flow already, or the pipe is built.
        """
        self._require_unbuilt("create_flow")
        if flow_name in self._flows:
            raise PipertError(f"there is a flow {flow_name!r} already")
        if not routines:
            raise PipertError(f"flow {flow_name!r} has no routines")
        for routine in routines:
            if not isinstance(routine, Routine):
                raise TypeError(f"flow {flow_name!r}: {routine!r} is not a Routine")
            if not hasattr(routine, "_notifier"):
                raise PipertError(f"flow {flow_name!r}: {type(routine).__name__}.__init__ does not call super().__init__()")
            if routine.flow_name is not None:
                raise PipertError(f"routine {routine.name!r} is in flow {routine.flow_name!r} already")
        for routine in routines:
            routine.flow_name = flow_name
            routine._notifier = self._notify
            routine._logger = self.logger.getChild(f"{flow_name}.{routine.name}")
        self._flows[flow_name] = list(routines)
        if auto_wire:
            self._wires += [Wire(a, b, data_transmitter) for a, b in zip(routines, routines[1:], strict=False)]

    def link(self, *wires: Wire) -> None:
        """Adds wires.

        :raises PipeStateError: when the pipe is built already.
        """
        self._require_unbuilt("link")
        self._wires += wires

    def build(self) -> None:
        """Checks the pipe, makes its memory and its processes. Nothing runs yet: notify START_EVENT_NAME.

        Events that were notified before are delivered now, in order.

        :raises WiresValidation, RoutineError: when the graph or a routine does not fit.
        :raises SharedMemoryFull: when there is too little shared memory for the frames that routines declared.
        :raises PipeStateError: when it is built already.
        :raises PipeFailed: when a flow's process did not come up.
        """
        self._require_unbuilt("build")
        plan = make_plan(dict(self._flows), self._wires, self._defaults)
        audience = audience_of(plan)
        early = [audience.address(*event) for event in self._early]
        sweep_stale()
        segment = self._make_segment(plan)
        try:
            rings = self._make_rings(plan, segment)
        except BaseException:
            segment.close()
            segment.unmap()
            unlink_pipe(segment.pipe_id)
            raise
        self._plan, self._audience, self._segment = plan, audience, segment
        self._launch(plan, audience, rings)
        self._ready.wait()
        if self._causes:
            self._shut_down()
            raise PipeFailed(self._causes, self._exit_codes)
        for event in early:
            self._send_event(event)

    def _make_segment(self, plan: Plan) -> ControlSegment:
        budget = self._memory_budget if self._memory_budget is not None else free_bytes() // 2
        largest = max((edge.capacity for edge in plan.edges), default=1)
        cells = max(LEAST_CELLS, 1 << (largest - 1).bit_length())
        segment = ControlSegment.create(len(plan.routines) + TAPS, len(plan.edges) + TAPS, cells, budget)
        for edge in plan.edges:
            native.EdgeRecord(segment.process, edge.number).format(
                sender=edge.sender,
                receiver=edge.receiver,
                bit=edge.bit,
                policy=native.POLICIES[edge.policy],
                capacity=edge.capacity,
                borrow_cap=edge.borrow_cap,
                timeout_ns=edge.timeout_ns,
            )
        return segment

    @staticmethod
    def _make_rings(plan: Plan, segment: ControlSegment) -> dict[int, tuple[int, int]]:
        rings = {}
        for item in plan.routines:
            size = item.routine._output_bytes
            if size and item.slots:
                purpose = f"the ring of {item.routine.name!r}"
                rings[item.number] = (create_ring(segment, item.number, item.slots, size, purpose), size)
        return rings

    def _launch(self, plan: Plan, audience: Audience, rings: dict[int, tuple[int, int]]) -> None:
        ours, theirs = Channel.pair()
        logs, logs_in = Channel.pair()
        order = LaunchOrder(
            plan=plan,
            pipe_id=self._segment.pipe_id,
            audience=audience,
            logger_name=self.logger.name,
            taps=(len(plan.routines), TAPS, len(plan.edges)),
            rings=rings,
            grace=self._grace,
        )
        ours.keep()
        logs.keep()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        with warnings.catch_warnings():
            # Forking a process with threads is unsafe for what the child then shares with them; the launcher only
            # runs code of its own, on one thread.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._launcher = os.fork()
        if self._launcher == 0:
            launch(order, theirs, logs_in)
        theirs.close()
        logs_in.close()
        self._channel, self._logs = ours, logs
        _running.add(self)
        self._listener = threading.Thread(target=self._listen, name=f"pipe-{self._segment.pipe_id}", daemon=True)
        self._listener.start()

    # ---- events ---------------------------------------------------------------------------------------------------------------

    def notify_event(
        self,
        event_name: str,
        specific_flow_routines: dict[str, Iterable[str]] | None = None,
        specific_routine: str | None = None,
        **event_parameters: Any,
    ) -> None:
        """Notifies routines of an event. Returns when it is on its way; events arrive in the order in which they were notified.

        Before `build()` events are kept, and delivered by it.

        :param specific_flow_routines: `{flow: [routines]}`; an empty list stands for all routines of the flow. By default all flows.
        :param specific_routine: one routine, in whichever flow.
        :param event_parameters: passed to the handlers, to each those that it takes. They have to pickle.
        :raises UnknownEvent: when none of the addressed routines handles it, or a parameter is missing.
        :raises UnknownTarget: when there is no such flow or routine.
        :raises PipeStateError: when the pipe has ended.
        """
        self._notify(event_name, specific_flow_routines, specific_routine, **event_parameters)

    def _notify(
        self,
        event_name: str,
        flow_routines: dict[str, Iterable[str]] | None = None,
        specific_routine: str | None = None,
        only_if_built: bool = False,
        **params: Any,
    ) -> None:
        flow_routines = {flow: list(routines) for flow, routines in (flow_routines or {}).items()}
        if self._audience is None:
            if not only_if_built:
                self._early.append((event_name, flow_routines, specific_routine, params))
            return
        event = self._audience.address(event_name, flow_routines, specific_routine, params)
        if self._gone.is_set():
            if event_name == KILL_EVENT_NAME or only_if_built:
                return
            raise PipeStateError(f"the pipe has ended; it can't take the event {event_name!r}")
        self._send_event(event)

    def _send_event(self, event: Any) -> None:
        if event.name == START_EVENT_NAME:
            self._started = True
        elif event.name == STOP_EVENT_NAME and len(event.routines) == len(self._built().routines):
            self._started = False
        self._tell("event", event)

    def _tell(self, *message: Any) -> None:
        with self._lock:
            try:
                self._channel.send(*message)
            except (BrokenPipeError, ConnectionError):
                self.logger.debug("the launcher is gone: %s was not sent", message[0])

    # ---- what comes back ------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """The listener thread: the launcher's messages, and the flows' log records."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._logs, selectors.EVENT_READ, self._hear_log)
            selector.register(self._channel, selectors.EVENT_READ, self._hear_launcher)
            while not self._gone.is_set():
                for key, _ in selector.select():
                    if not key.data():
                        selector.unregister(key.fileobj)
        self._ready.set()
        self._over.set()
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
            self.logger.exception("a log handler failed")
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
            self._over.set()
        elif what == "failed":
            self._causes.append(details[0])
        elif what == "died":
            flow, exit_code = details
            self._exit_codes[flow] = exit_code
            self._causes.append(str(FlowDied(flow, exit_code)))
            self._ready.set()
        elif what == "untapped":
            if details[0] in self._taps:
                self._taps[details[0]].released = True
        else:
            with self._answered:
                self._answers[what] = details[0]
                self._answered.notify_all()
        return True

    def _end_launcher(self) -> None:
        """The launcher's end of the channel is closed: it is gone, and all of its flows with it, or about to be."""
        try:
            _, status = os.waitpid(self._launcher, 0)
            exit_code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            exit_code = 0  # reaped by somebody else in this process, who has its status
        if exit_code:
            self._causes.append(str(FlowDied("launcher", exit_code)))
        self._drain_logs()
        unlink_pipe(self._segment.pipe_id)
        with self._answered:
            self._gone.set()
            self._answered.notify_all()

    def _drain_logs(self) -> None:
        self._logs.set_blocking(False)
        while True:
            try:
                if not self._hear_log():
                    return
            except BlockingIOError:
                return

    # ---- waiting --------------------------------------------------------------------------------------------------------------

    def join(self, to_kill: bool = False) -> None:
        """Waits until every routine has ended (`EndOfStream`), or the pipe was killed; then all its processes and memory are gone.

        Ctrl-C meanwhile kills the pipe, and `join` returns when that is done.

        :param to_kill: kill it first.
        :raises PipeFailed: when a routine failed for good or a flow's process died.
        :raises PipeStateError: when it is not built.
        """
        self._built()
        if to_kill:
            self._kill()
        try:
            self._over.wait()
        except KeyboardInterrupt:
            self.logger.info("interrupted: the pipe is killed")
        self._shut_down()
        if self._causes:
            raise PipeFailed(list(self._causes), dict(self._exit_codes))

    def _kill(self) -> None:
        if not self._gone.is_set():
            self._send_event(self._require_audience().address(KILL_EVENT_NAME, None, None, {}))

    def _shut_down(self) -> None:
        self._kill()
        while not self._gone.is_set():
            try:
                self._gone.wait()
            except KeyboardInterrupt:
                self.logger.info("interrupted again: flows have %g s to end, then they are killed", self._grace)
        self._listener.join()
        if self in _running:
            _running.discard(self)
            self._channel.close()
            self._logs.close()
            self._segment.close()
            # Statistics and views outlive the pipe's end; its mappings go with this object.
            weakref.finalize(self, self._segment.unmap).atexit = False

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._plan is None:
            return
        if error is None:
            self.join()
            return
        try:
            self.join(to_kill=True)
        except PipeFailed as failure:
            self.logger.error("%s", failure)

    # ---- looking at it --------------------------------------------------------------------------------------------------------

    def get_pipe_structure(self) -> dict[str, list[Any]]:
        """The routines with their flows and events, and the events that every routine knows.

        >>> from pipert_shm import DestinationRoutine, Pipe, SourceRoutine
        >>> pipe = Pipe()
        >>> pipe.create_flow("flow", True, SourceRoutine("camera"), DestinationRoutine("screen"))
        >>> pipe.get_pipe_structure()["Routines"][0]
        {'flow_name': 'flow', 'routine_name': 'camera', 'events': []}
        >>> pipe.get_pipe_structure()["Events"]
        ['start', 'stop', 'kill']
        """
        routines = [
            {
                "flow_name": flow,
                "routine_name": routine.name,
                "events": sorted(handlers_of(type(routine)).keys() - set(LIFECYCLE_EVENTS)),
            }
            for flow, members in self._flows.items()
            for routine in members
        ]
        return {"Routines": routines, "Events": list(LIFECYCLE_EVENTS)}

    def statistics(self) -> PipeStatistics:
        """What every routine and wire has done so far. Costs the flows nothing; works after the end, too.

        :raises PipeStateError: when the pipe is not built.
        """
        return read_statistics(self._built(), self._segment)

    def tap(self, routine: Routine | str) -> Tap:
        """An iterator over the newest outputs of a routine, in this process. For notebooks, previews and tests.

        :raises UnknownTarget: when there is no such routine.
        :raises PipeStateError: when the pipe is not built or has ended, or all taps are in use.
        """
        plan = self._built()
        name = routine if isinstance(routine, str) else routine.name
        item = plan.find(name)
        if item is None:
            raise UnknownTarget("routine", name, list(plan.names))
        with self._tapping:
            self._recycle_taps()
            edge_or_reason = self._ask("tapped", "no_tap", "tap", name)
            if isinstance(edge_or_reason, str):
                raise no_tap(edge_or_reason)
            tap = Tap(self._segment, edge_or_reason, plan.names, self._untap)
            self._taps[edge_or_reason.number] = tap
            return tap

    def _ask(self, answer: str, refusal: str, *message: Any) -> Any:
        if self._gone.is_set():
            raise no_tap("the pipe has ended")
        self._tell(*message)
        with self._answered:
            self._answered.wait_for(lambda: answer in self._answers or refusal in self._answers or self._gone.is_set())
            for key in (answer, refusal):
                if key in self._answers:
                    return self._answers.pop(key)
        raise no_tap("the pipe has ended")

    def _untap(self, edge: int) -> None:
        with self._tapping:
            if not self._gone.is_set():
                self._tell("untap", edge)

    def _recycle_taps(self) -> None:
        """Gives back the places of taps that were closed, and of which no array lives."""
        for number, tap in list(self._taps.items()):
            if tap.released and tap.recycle():
                del self._taps[number]

    # ---- state ----------------------------------------------------------------------------------------------------------------

    def _require_unbuilt(self, what: str) -> None:
        if self._plan is not None:
            raise PipeStateError(f"{what}() comes before build(), and this pipe is built")

    def _built(self) -> Plan:
        if self._plan is None:
            raise PipeStateError("the pipe is not built yet: call build() first")
        return self._plan

    def _require_audience(self) -> Audience:
        if self._audience is None:
            raise PipeStateError("the pipe is not built yet: call build() first")
        return self._audience


@atexit.register
def _end_pipes() -> None:
    """Waits for the pipes that still run when the interpreter exits; kills those that have nothing to wait for."""
    failed = getattr(sys, "last_value", None) is not None
    for pipe in list(_running):
        if pipe._owner != os.getpid():
            continue
        try:
            pipe.join(to_kill=failed or not pipe._started)
        except PipeFailed as failure:
            pipe.logger.error("%s", failure)
