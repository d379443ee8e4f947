"""The pipe: what users build, start, control and wait for."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from pipert_shm import exits
from pipert_shm.errors import (
    PipeFailed,
    PipertError,
    PipeStateError,
    UnknownTarget,
    WiresValidation,
    describe,
    shortened,
    shown,
)
from pipert_shm.events import (
    EVENTS_OF_A_ROUTINE,
    INTERNAL_EVENTS,
    KILL_EVENT_NAME,
    LIFECYCLE_EVENTS,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    Event,
    check_event_name,
    check_name,
    checked_flow_routines,
    handlers_of,
    pack_parameters,
)
from pipert_shm.growth import plan_growth
from pipert_shm.interrupts import interrupts_deferred
from pipert_shm.limits import Policy, check_count, check_flag, check_queue, check_seconds
from pipert_shm.logs import log_to_terminal, with_plog
from pipert_shm.memory import sweep_stale
from pipert_shm.plan import Defaults, Plan, Restart, RestartPolicy, audience_of, check_names, make_plan
from pipert_shm.routine import Role, Routine
from pipert_shm.session import Session
from pipert_shm.statistics import PipeStatistics, read_statistics
from pipert_shm.streams import occupy_standard_files
from pipert_shm.tables import Table
from pipert_shm.tap import Tap
from pipert_shm.transmit import DataTransmitter, SharedMemoryTransmitter
from pipert_shm.wire import QueueNetwork, Wire, check_transmitter

QUIET_S = 1.0  # at the program's exit a pipe is waited for so long without a word
DEFAULT_NAME = "Pipe"
RIGHT_CALL = 'Pipe(policy="block", capacity=8)'

_running: set[Pipe] = set()


class Control(Protocol):
    """A server of this process's, by which others control a pipe."""

    def begin(self, session: Session) -> None:
        """The pipe is built."""

    def finish(self) -> None:
        """The pipe has ended: waits until the server has."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow: its name, and its routines by name."""

    name: str
    routines: dict[str, Routine]


class Pipe:
    """Flows of routines, and the wires between them.

    A context manager: leaving the `with` block waits for the end of the pipe (`join()`), or kills it when the block raised or
    it was never started.

    A program whose last line is done waits for its pipe, and says so; Ctrl-C ends that. Where `sys.exit()`, an exception or the
    end of an interactive session ends the program, the pipe is killed.

    Methods may be called from any thread of the process that built the pipe; in others they raise PipeStateError.

    :param network: queue settings by PipeRT2's names; or give `policy`, `capacity` and `timeout`.
    :param logger: gets the records of all routines, as its children `<flow>.<routine>`. By default the logger "Pipe"; where
        the program has not configured logging, what routines log from the level INFO on goes to standard error.
    :param data_transmitter: how payloads travel on wires that don't say; by default through shared memory.
    :param policy: what a sender does when a queue is full, on wires that don't say: `drop_oldest`, `drop_newest` or `block`.
    :param capacity: messages that a queue holds, on wires that don't say; `build()` adds what batches ask for.
    :param timeout: seconds after which a blocked sender drops its message; None: never.
    :param memory_budget: bytes of /dev/shm that frames may take; by default half of what is free.
    :param auto_pacing_mechanism: routines rest while every queue that they send to is full, instead of making messages only for
        them to be dropped: the pipe goes at the same rate, on less CPU.
    :param event_board: taken for PipeRT2's sake; events need none.
    :param on_failure: what the pipe does when a routine or a flow has failed for good: `continue` without it, or `stop`.
    :param grace_period: seconds that a routine has to return from `main_logic` when the pipe is killed.
    :raises ValueError: when an argument is out of range.
    :raises TypeError: when something else stands in the place of the network, the logger or the transmitter.

    Attributes:
        name: what `pipert-shm top` and the dashboard call it, to be set before `build()`: by default the logger's name, or
            where that is "Pipe" the program's, or that of the file that `pipert-shm run` runs.

    >>> from pipert_shm import START_EVENT_NAME, DestinationRoutine, EndOfStream, Pipe, SourceRoutine
    >>> class Fast(SourceRoutine):
    ...     def main_logic(self):
    ...         if self.meta.sequence == 100:
    ...             raise EndOfStream
    ...         return self.meta.sequence
    >>> class Slow(DestinationRoutine):
    ...     def main_logic(self, number):
    ...         sum(range(10_000))
    >>> with Pipe(auto_pacing_mechanism=True) as pipe:     # else most would be dropped for newer ones
    ...     pipe.create_flow("both", True, Fast("fast"), Slow("slow"))
    ...     pipe.build()
    ...     pipe.notify_event(START_EVENT_NAME)
    >>> pipe.statistics().wires["fast", "slow"].received
    100
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
        auto_pacing_mechanism: bool = False,
        event_board: object = None,
        on_failure: Literal["continue", "stop"] = "continue",
        grace_period: float = 5.0,
    ) -> None:
        if network is not None and not isinstance(network, QueueNetwork):
            text = f"network must be a QueueNetwork, not {shown(network)}; give settings by name: {RIGHT_CALL}"
            if isinstance(network, str):
                text += f"; its records get a name by a logger: Pipe(logger=logging.getLogger({shown(network)}))"
            raise TypeError(text)
        if logger is not None and not isinstance(logger, logging.Logger):
            raise TypeError(f"logger must be a logging.Logger, not {shown(logger)}; give settings by name: {RIGHT_CALL}")
        check_transmitter(data_transmitter, RIGHT_CALL)
        check_queue(policy, capacity, timeout)
        check_seconds("grace_period", grace_period)
        if memory_budget is not None:
            check_count("memory_budget", memory_budget)
        if network is not None and (policy, capacity, timeout) != (None, None, None):
            raise ValueError("give either network or policy, capacity and timeout")
        self.logger = logger if logger is not None else logging.getLogger(DEFAULT_NAME)
        self.name = self.logger.name if self.logger.name != DEFAULT_NAME else _program()
        self._has_own_logger = logger is None
        self._defaults = Defaults(
            network.policy if network else policy or "drop_oldest",
            network.capacity if network else int(capacity or 2),
            network.timeout if network else None if timeout is None else float(timeout),
            data_transmitter or SharedMemoryTransmitter(),
        )
        self._memory_budget = None if memory_budget is None else int(memory_budget)
        check_flag("auto_pacing_mechanism", auto_pacing_mechanism)
        self._auto_pacing = bool(auto_pacing_mechanism)
        self._grace = grace_period
        if on_failure not in ("continue", "stop"):
            raise ValueError(f"on_failure must be 'continue' or 'stop', not {shown(on_failure)}")
        self._stop_on_failure = on_failure == "stop"
        self._restarts: dict[str, Restart] = {}
        self._replicas: dict[str, int] = {}
        self._ordered: list[str] = []
        self._flows: dict[str, list[Routine]] = {}
        self._wires: list[Wire] = []
        self._early: list[tuple[str, dict[str, Iterable[str]] | None, str | None, dict[str, Any]]] = []
        self._session: Session | None = None
        self._built_of = (0, 0)  # flows and wires: those after these wait for build()
        self._building = threading.RLock()
        self._is_building = False
        self._started = False  # and not stopped since
        self._was_started = False
        self._can_end = False  # whether an event was sent after which it may end
        self._joined = False
        self._owner: int | None = None  # the process that built it
        self._controls: list[Control] = []  # through which others may start it

    # ---- building --------------------------------------------------------------------------------

    def create_flow(
        self,
        flow_name: str,
        auto_wire: bool,
        *routines: Routine,
        data_transmitter: DataTransmitter | None = None,
        replicas: int = 1,
        ordered: bool = False,
        restart: RestartPolicy = "on-failure",
        max_restarts: int = 5,
        restart_window: float = 60.0,
    ) -> None:
        """Adds a flow: a process of its own, with a thread per routine.

        :param flow_name: unique in the pipe, and with no `/` in it.
        :param auto_wire: wire each routine to the next one, in the order given.
        :param data_transmitter: for the wires that `auto_wire` makes.
        :param replicas: how many processes run the flow side by side; each message that is sent to it goes to one of them, that
            which has the least to do. They and their routines are called `<name>#0`, `<name>#1`, …; events that are notified to
            the flow or a routine by its plain name go to all of them.
        :param ordered: whether what comes after the replicas gets their results in the order in which the messages were sent to
            them. A result waits for earlier ones; not for messages that yield none (`None`, an exception, a loss). The flow's
            routines have to be a chain.
        :param restart: whether the flow is restarted when its process dies: `on-failure` (unless it exited with status 0),
            `always`, or `never`. The first restart comes at once, each further one after twice the time.
        :param max_restarts: restarts within `restart_window` seconds after which the flow has failed for good.
        :raises PipertError: when a name is taken, a routine is in a flow already, or the pipe has ended.
        :raises TypeError: when something else stands in the place of the name, `auto_wire` or a routine.
        :raises ValueError: when the name can't be one, a number or the restart policy is out of range, or when a flow with
            replicas is added to a pipe that is built.

        >>> from pipert_shm import START_EVENT_NAME, DestinationRoutine, EndOfStream, MiddleRoutine, Pipe, SourceRoutine, Wire
        >>> class Numbers(SourceRoutine):
        ...     def main_logic(self):
        ...         if self.meta.sequence == 10:
        ...             raise EndOfStream
        ...         return self.meta.sequence
        >>> class Odd(MiddleRoutine):
        ...     def main_logic(self, number):
        ...         return number if number % 2 else None
        >>> class Last(DestinationRoutine):
        ...     before = 0
        ...     def main_logic(self, number):
        ...         assert number > self.before
        ...         self.before = number
        >>> numbers, odd, last = Numbers("numbers"), Odd("odd"), Last("last")
        >>> with Pipe(policy="block") as pipe:
        ...     pipe.create_flow("ends", False, numbers, last)
        ...     pipe.create_flow("workers", False, odd, replicas=3, ordered=True)
        ...     pipe.link(Wire(numbers, odd), Wire(odd, last))
        ...     pipe.build()
        ...     pipe.notify_event(START_EVENT_NAME)
        >>> statistics = pipe.statistics()
        >>> sum(statistics.routines[f"odd#{number}"].sent for number in range(3)), statistics.routines["last"].errors
        (5, 0)
        """
        self._require_alive("create_flow")
        if self._session is not None and (replicas != 1 or ordered):
            raise ValueError(f"flow {flow_name!r}: what is added to a pipe that is built can't have replicas")
        flow_name = check_name("a flow", flow_name)
        call = f"create_flow({flow_name!r}, True, first, second)"
        try:
            check_flag("auto_wire", auto_wire)
        except TypeError as error:
            raise TypeError(f"{error}; routines come after it: {call}") from None
        check_flag("ordered", ordered)
        if flow_name in self._flows:
            raise PipertError(f"there is a flow {flow_name!r} already")
        if not routines:
            raise PipertError(f"flow {flow_name!r} has no routines: {call}")
        check_count(f"flow {flow_name!r}: replicas", replicas)
        check_transmitter(data_transmitter, f"create_flow({flow_name!r}, True, first, second, replicas=2)")
        its_restart = Restart(restart, max_restarts, restart_window)
        for routine in routines:
            if not isinstance(routine, Routine):
                raise TypeError(f"flow {flow_name!r}: {shown(routine)} is not a Routine{_what_instead(routine, call)}")
            if not hasattr(routine, "_notifier"):
                raise PipertError(f"flow {flow_name!r}: {type(routine).__name__}.__init__ does not call super().__init__()")
            if routine.flow_name is not None:
                raise PipertError(f"routine {routine.name!r} is in flow {routine.flow_name!r} already")
        check_names({**self._flows, flow_name: routines})
        for routine in routines:
            routine.flow_name = flow_name
            routine._notifier = self._notify
            routine._logger = with_plog(self.logger.getChild(f"{flow_name}.{routine.name}"))
        self._restarts[flow_name] = its_restart
        self._replicas[flow_name] = replicas
        if ordered:
            self._ordered.append(flow_name)
        self._flows[flow_name] = list(routines)
        if data_transmitter is not None and not auto_wire:
            self.logger.warning(
                "create_flow(%r, …): data_transmitter is for the wires that auto_wire makes, and here it makes none; give it "
                "to the wires: Wire(camera, screen, data_transmitter=…)",
                flow_name,
            )
        if auto_wire:
            self._wires += [Wire(a, b, data_transmitter) for a, b in pairwise(routines)]

    def link(self, *wires: Wire) -> None:
        """Adds wires, which the next `build()` makes.

        :raises TypeError: when something is no wire.
        :raises PipeStateError: when the pipe has ended.
        """
        self._require_alive("link")
        for wire in wires:
            if not isinstance(wire, Wire):
                raise TypeError(
                    f"link() takes wires, one by one, not {shown(wire)}: pipe.link(Wire(camera, screen), Wire(camera, disk))"
                )
        self._wires += wires

    def build(self) -> None:
        """Checks the pipe, makes its memory and its processes. Nothing runs yet: notify START_EVENT_NAME.

        Events that were notified before are delivered now, in order.

        Called again, while the pipe runs, it adds the flows and wires that were created since: new routines, wired to each
        other and to those that are there. A START_EVENT_NAME then starts what does not run. Where it raises, nothing has
        changed, and what was created since is forgotten: its routines can go into other flows.

        - There is room for 16 more routines, in up to 16 flows, and for 32 wires that the first `build()` did not know of, with
          those of `link` events. Their capacity has the same limit as there (see `notify_event`).
        - A new flow can't have replicas, and a flow with replicas gets no more wires that lead to it.
        - A wire between a new routine and one that was there uses the pipe's transmitter, and those that were there forward
          copies of new ones' frames, not references.
        - The new flows are forked, also when they are restarted, from a small process that this one forks, with the routines as
          they are now. If it dies, so do they, for good. A lock that a thread of yours holds at that moment stays locked in
          them.

        >>> from pipert_shm import START_EVENT_NAME, DestinationRoutine, Pipe, SourceRoutine, Wire
        >>> class Numbers(SourceRoutine):
        ...     def main_logic(self):
        ...         return self.meta.sequence
        >>> class Screen(DestinationRoutine):
        ...     def main_logic(self, data): ...
        >>> camera, late = Numbers("camera"), Screen("late")
        >>> pipe = Pipe()
        >>> pipe.create_flow("camera", True, camera, Screen("preview"))
        >>> with pipe:
        ...     pipe.build()
        ...     pipe.notify_event(START_EVENT_NAME)
        ...     pipe.create_flow("late", False, late)
        ...     pipe.link(Wire(camera, late))
        ...     pipe.build()
        ...     pipe.notify_event(START_EVENT_NAME)
        ...     while not pipe.statistics().wires["camera", "late"].received:
        ...         pass
        ...     pipe.join(to_kill=True)

        :raises WiresValidation, RoutineError, ValueError: when the graph, a routine or a wire does not fit, or a pipe that runs
            has no place left.
        :raises SharedMemoryFull: when there is too little shared memory for the frames that routines declared.
        :raises PipeStateError: when it is built already and nothing was added, or when it has ended.
        :raises PipeFailed: when a flow's process did not come up; one that is added later then has failed, as in a death.
        """
        with self._building:
            self._require_alive("build")
            if self._is_building:
                raise PipeStateError("build() is at work already: it was called again by a signal's handler, it seems")
            self._is_building = True
            try:
                self._build_or_grow()
            finally:
                self._is_building = False

    def _build_or_grow(self) -> None:
        if not self._flows:
            raise WiresValidation("the pipe has no routines: create_flow('camera', False, camera) comes before build()")
        if self._session is None:
            try:
                self._build()
            except BaseException:
                if self._session is None:
                    self._owner = None
                raise
        else:
            self._grow(self._session)

    def _grow(self, session: Session) -> None:
        """Builds what was added to a running pipe."""
        flow_count, wire_count = self._built_of
        flows = dict(islice(self._flows.items(), flow_count, None))
        wires = self._wires[wire_count:]
        if not flows and not wires:
            raise PipeStateError("build(): this pipe is built, and nothing was added to it since")
        grown = False
        try:
            plan, audience, growth = plan_growth(session.plan, flows, wires, {name: self._restarts[name] for name in flows})
            with interrupts_deferred():
                session.grow(plan, audience, growth)
                grown = True
                self._built_of = len(self._flows), len(self._wires)
        except BaseException:
            if grown:  # Ctrl-C, which came meanwhile
                raise
            del self._wires[wire_count:]
            for name, routines in flows.items():
                del self._flows[name], self._restarts[name], self._replicas[name]
                for routine in routines:
                    routine.flow_name = routine._notifier = None
            raise
        self._announce()

    def check(self) -> None:
        """Checks flows and wires as the first `build()` does, and makes nothing.

        >>> from pipert_shm import DestinationRoutine, Pipe, SourceRoutine
        >>> pipe = Pipe()
        >>> pipe.create_flow("flow", True, SourceRoutine("camera"), DestinationRoutine("screen"))
        >>> pipe.check()
        Traceback (most recent call last):
        pipert_shm.errors.RoutineError: routine 'camera': SourceRoutine has no main_logic

        :raises WiresValidation, RoutineError, ValueError: when the graph, a routine or a wire does not fit.
        """
        self._make_plan()

    def _make_plan(self) -> Plan:
        return make_plan(dict(self._flows), self._wires, self._defaults, self._replicas, self._ordered)

    def _build(self) -> None:
        plan = self._make_plan()
        plan.restarts = {name: restart for flow, restart in self._restarts.items() for name in plan.copies.get(flow, (flow,))}
        plan.auto_pacing = self._auto_pacing
        audience = audience_of(plan)
        early = [audience.address(*event) for event in self._early]
        occupy_standard_files()
        if self._has_own_logger:
            log_to_terminal(self.logger)  # before the flows are forked, which have its level from here
        sweep_stale()
        exits.remember_main()
        self._owner = os.getpid()  # from here on: the processes that are forked have it, too
        with interrupts_deferred():  # half a pipe could neither be joined nor killed
            session = Session(plan, audience, self.name, self.logger, self._memory_budget, self._grace, self._stop_on_failure)
            session.launch()
            self._session = session
            self._built_of = len(self._flows), len(self._wires)
            _running.add(self)
        try:
            session.wait_ready()
        except PipeFailed:
            self._forget_session()
            raise
        self._announce()
        try:
            for event in early:
                self._send(event)
        except (WiresValidation, ValueError):
            session.end()
            self._forget_session()
            raise
        for control in self._controls:
            control.begin(session)

    def _forget_session(self) -> None:
        """The pipe is as it was before `build()`."""
        self._session, self._built_of = None, (0, 0)
        _forget(self)

    def _announce(self) -> None:
        """Tells of the pipe those of the logger's handlers that show it, and nobody else's log."""
        for handler in self.logger.handlers:
            if getattr(handler, "takes_structure", False):
                extra = {"pipe_creation": True, "pipe": weakref.ref(self)}
                arguments = (self.logger.name, logging.INFO, __file__, 0, "%s", (self.get_pipe_structure(),), None)
                handler.handle(self.logger.makeRecord(*arguments, extra=extra))

    # ---- events ----------------------------------------------------------------------------------

    def notify_event(
        self,
        event_name: str,
        specific_flow_routines: dict[str, Iterable[str]] | None = None,
        specific_routine: str | None = None,
        **event_parameters: Any,
    ) -> None:
        """Notifies routines of an event. Returns when it is on its way; events arrive in the order of notification.

        Before `build()` events are kept, and delivered by it.

        Two events change the wires of a running pipe, each addressed to the sender: `link` (LINK_EVENT_NAME), with
        `link_routine_name` and, as of a `Wire`, `policy`, `capacity` and `timeout`; and `unlink` (UNLINK_EVENT_NAME), with
        `unlink_routine_name`. They are done between two messages of the sender, in the order of events: all that it sends from
        then on goes over the new wire, all that it has sent still arrives over the old one.

        - What is not given of the settings is as it was, when the two were wired before, else as the pipe's. A queue holds no
          more messages than the pipe's longest at `build()`, or 16. There is room for 32 wires that `build()` did not know of.
        - An unlinked wire is an ended stream: a routine ends with its last one, once that is drained. Link another one first. A
          routine that has ended takes nothing from a new wire until it is started.
        - A message that the sender waits to put on a full wire when that is unlinked is dropped, and counted as `ended`.
        - What the receiver forwards of the frames that come over a new wire is copied, not passed by reference.

        >>> from pipert_shm import (
        ...     LINK_EVENT_NAME, START_EVENT_NAME, UNLINK_EVENT_NAME, DestinationRoutine, Pipe, SourceRoutine, Wire,
        ... )
        >>> class Numbers(SourceRoutine):
        ...     def main_logic(self):
        ...         return self.meta.sequence
        >>> class Screen(DestinationRoutine):
        ...     def main_logic(self, data): ...
        >>> pipe = Pipe(policy="block")
        >>> pipe.create_flow("camera", True, Numbers("camera"), Screen("preview"))
        >>> pipe.create_flow("other", True, Numbers("other camera"), Screen("screen"))
        >>> with pipe:
        ...     pipe.build()
        ...     pipe.notify_event(START_EVENT_NAME)
        ...     pipe.notify_event(LINK_EVENT_NAME, specific_routine="camera", link_routine_name="screen", capacity=8)
        ...     pipe.notify_event(UNLINK_EVENT_NAME, specific_routine="other camera", unlink_routine_name="screen")
        ...     while not pipe.statistics().wires["camera", "screen"].received:
        ...         pass
        ...     pipe.join(to_kill=True)
        >>> pipe.statistics().wires["other camera", "screen"].linked
        False

        :param specific_flow_routines: `{flow: [routines]}`; an empty list stands for all of the flow. By default all flows.
        :param specific_routine: one routine, in whichever flow.
        :param event_parameters: passed to the handlers, to each those that it takes. They have to pickle.
        :raises UnknownEvent: when no addressed routine handles it, a parameter is missing, or a built-in event has one
            that neither it nor a handler takes.
        :raises UnknownTarget: when there is no such flow or routine.
        :raises PayloadError: when the parameters are larger than 1 MiB, nested deeper than 100 levels, or don't pickle.
        :raises PipeStateError: when the pipe has ended.
        :raises WiresValidation, ValueError: when what a `link` event asks for can't be: it would make a cycle, or a receiver of
            a source, the two are wired already, a flow has failed, a setting is out of range, or there is no place left. (From
            a routine the event is on its way then; the error is logged and counted as that routine's.)
        """
        self._notify(event_name, specific_flow_routines, specific_routine, event_parameters)

    def _notify(
        self,
        event_name: str,
        flow_routines: dict[str, Iterable[str]] | None,
        specific_routine: str | None,
        params: dict[str, Any],
        *,
        only_if_built: bool = False,
    ) -> None:
        self._require_owner()
        check_event_name(event_name)
        flow_routines = dict(checked_flow_routines(flow_routines))
        if self._session is None:
            if not only_if_built:
                pack_parameters(event_name, params)  # what can't be sent is told here, not by build()
                self._early.append((event_name, flow_routines, specific_routine, params))
            return
        event = self._session.audience.address(event_name, flow_routines, specific_routine, params)
        if self._session.gone.is_set():
            if event_name == KILL_EVENT_NAME or only_if_built:
                return
            raise PipeStateError(f"the pipe has ended; it can't take the event {event_name!r}")
        self._send(event)

    def _send(self, event: Event) -> None:
        session = self._built()
        if event.name in (START_EVENT_NAME, KILL_EVENT_NAME) or event.name not in INTERNAL_EVENTS:
            self._can_end = True  # a handler of the user's may start it
        if event.name == START_EVENT_NAME:
            self._warn_of_unbuilt()
            self._started = self._was_started = True
        elif event.name == STOP_EVENT_NAME and len(event.routines) == len(session.plan.routines):
            self._started = False
        session.send(event)

    def _warn_of_unbuilt(self) -> None:
        flows, wires = len(self._flows) - self._built_of[0], len(self._wires) - self._built_of[1]
        if (flows or wires) and not self._is_building:
            self.logger.warning("%d flows and %d wires are not in the pipe yet: call build() once more", flows, wires)

    def restart_flow(self, flow: str) -> None:
        """Ends the flow's process at once, with SIGKILL, and starts it afresh; the rest of the pipe goes on.

        Returns when that is on its way. It is recovered from as from a crash, whatever the flow's restart policy: what it was
        at work on is lost and counted, what waits for it is kept, and its routines run `setup()` but not `cleanup()`. It does
        not count towards `max_restarts`.

        >>> from pipert_shm import START_EVENT_NAME, DestinationRoutine, Pipe, SourceRoutine
        >>> class Numbers(SourceRoutine):
        ...     def main_logic(self):
        ...         return self.meta.sequence
        >>> class Screen(DestinationRoutine):
        ...     def main_logic(self, data): ...
        >>> pipe = Pipe()
        >>> pipe.create_flow("camera", True, Numbers("camera"), Screen("screen"), restart="never")
        >>> with pipe:
        ...     pipe.build()
        ...     pipe.restart_flow("camera")
        ...     while pipe.statistics().flows["camera"].restarts == 0:
        ...         pass
        ...     pipe.join(to_kill=True)

        :param flow: its name; that of a flow with replicas stands for all of them.
        :raises UnknownTarget: when there is no such flow.
        :raises PipeStateError: when the pipe is not built or has ended, or the flow has ended or failed for good.
        """
        session = self._built()
        if not isinstance(flow, str):
            raise TypeError(f"restart_flow() takes the name of a flow, not {shown(flow)}")
        names = (flow,) if flow in session.plan.flows else session.plan.copies.get(flow, ())
        flows = self.statistics().flows
        if not names or not set(names) <= flows.keys():
            raise UnknownTarget("flow", flow, list(session.plan.flows))
        self._require_alive("restart_flow")
        for name in names:
            if flows[name].state in ("failed", "ended"):
                raise PipeStateError(f"flow {name!r} has {flows[name].state}, and can't be restarted")
        for name in names:
            session.restart(name)

    # ---- waiting ---------------------------------------------------------------------------------

    def join(self, to_kill: bool = False) -> None:
        """Waits until every routine has ended (`EndOfStream`) or the pipe was killed; then its processes and memory are gone.

        Ctrl-C meanwhile kills the pipe, and `join` returns when that is done.

        :param to_kill: kill it first.
        :raises PipeFailed: when a routine failed for good or a flow's process died.
        :raises PipeStateError: when it is not built; or was never started, and is not to be killed.
        """
        try:
            self._join(to_kill)
        finally:
            if self._joined:
                with suppress(KeyboardInterrupt):  # the pipe has ended; what is missing is the answer to a client
                    for control in list(self._controls):
                        control.finish()

    def _join(self, to_kill: bool = False) -> None:
        """As `join`, but does not wait for the servers that control it."""
        session = self._built()
        check_flag("to_kill", to_kill)
        session.require_no_handler("join()")
        if to_kill:
            session.kill()
        elif not (self._can_end or self._controls) and not session.over.is_set() and self._never_ran():
            raise PipeStateError(
                "join(): the pipe was never started, so it would never end: call notify_event(START_EVENT_NAME) first, or "
                "join(to_kill=True)"
            )
        try:
            session.over.wait()
        except KeyboardInterrupt:
            session.relay.logger.info("interrupted: the pipe is killed")
        session.end()
        _forget(self)
        self._joined = True
        if session.causes:
            raise PipeFailed(session.causes, dict(session.exit_codes))

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_foreign():
            return  # a process that was forked within the block leaves it
        if self._session is None:
            if error is None:
                self.logger.warning(
                    "nothing ran: the pipe was never built; call build() and then notify_event(START_EVENT_NAME) before the "
                    "`with` block ends"
                )
            return
        if error is None:
            if not self._joined:  # a failure that was raised once is not raised again
                self._warn_if_never_ran()
                self.join(to_kill=not (self._started or self._controls))  # nobody is left who could start it
            return
        try:
            self.join(to_kill=True)
        except PipeFailed as failure:
            self.logger.error(str(failure))  # not the exception, whose traceback would keep the pipe alive

    # ---- looking at it ---------------------------------------------------------------------------

    def __repr__(self) -> str:
        its = vars(self)
        if "_owner" not in its:
            return f"{type(self).__name__}(its __init__ is not done)"
        routines = sum(map(len, list(self._flows.values())))
        of = f"{len(self._flows)} flows, {routines} routines, {len(self._wires)} wires"
        return f"{type(self).__name__}({self.logger.name!r}: {of}, {self._situation()})"

    def _situation(self) -> str:
        """Where it is in its life, in a word or two. Raises nothing."""
        if self._is_foreign():
            return f"of process {self._owner}"
        session = self._session
        if session is None:
            return "not built"
        if session.gone.is_set():
            return "failed" if session.causes else "ended"
        try:
            states = Counter(routine.state for routine in self.statistics().routines.values())
        except (ValueError, LookupError, OSError, PipeStateError) as error:  # its memory is damaged, or just going
            return f"its state can't be read: {describe(error)}"
        return ", ".join(f"{count} {state}" for state, count in states.items())

    def __str__(self) -> str:
        """The pipe, and a line for each routine and wire."""
        if "_owner" not in vars(self):
            return repr(self)
        return "\n\n".join([repr(self), *map(str, self._tables())])

    def _repr_html_(self) -> str:
        from html import escape

        tables = self._tables() if "_owner" in vars(self) else []
        return "".join([f"<code>{escape(repr(self))}</code>", *(table.html() for table in tables)])

    def _tables(self) -> list[Table]:
        flows, wires = list(self._flows.items()), list(self._wires)  # another thread may add one
        routines = [[flow, routine.name, type(routine).__name__] for flow, members in flows for routine in members]
        lines = [
            [
                f"{wire.source.name} -> {to.name}",
                wire.policy or self._defaults.policy,
                str(wire.capacity or self._defaults.capacity),
            ]
            for wire in wires
            for to in wire.destinations
        ]
        tables = Table(["flow", "routine", "class"], routines), Table(["wire", "policy", "capacity"], lines)
        return [table for table in tables if table.rows]

    def get_pipe_structure(self) -> dict[str, list[Any]]:
        """The routines with their flows and events, and the events of the whole pipe. A Cockpit offers those that stand there.

        >>> from pipert_shm import DestinationRoutine, Pipe, SourceRoutine
        >>> pipe = Pipe()
        >>> pipe.create_flow("flow", True, SourceRoutine("camera"), DestinationRoutine("screen"))
        >>> pipe.get_pipe_structure()["Routines"][0]
        {'flow_name': 'flow', 'routine_name': 'camera', 'events': ['start', 'stop', 'unlink']}
        >>> pipe.get_pipe_structure()["Events"]
        ['start', 'stop', 'kill']
        """
        routines = [
            {
                "flow_name": flow,
                "routine_name": routine.name,
                "events": sorted({*handlers_of(type(routine)), *EVENTS_OF_A_ROUTINE} - {KILL_EVENT_NAME}),
            }
            for flow, members in list(self._flows.items())  # another thread may add one
            for routine in members
        ]
        return {"Routines": routines, "Events": list(LIFECYCLE_EVENTS)}

    @property
    def flows(self) -> dict[str, Flow]:
        """What `create_flow` has made, by name."""
        return {name: Flow(name, {routine.name: routine for routine in members}) for name, members in self._flows.items()}

    def get_event_notify(self) -> Callable[..., None]:
        """`notify_event`, as something to hand on."""
        return self.notify_event

    def statistics(self) -> PipeStatistics:
        """What every routine and wire has done so far. Costs the flows nothing; works after the end, too.

        :raises PipeStateError: when the pipe is not built.
        """
        session = self._built()
        return read_statistics(session.segment.process, *session.plan.directory())

    def tap(self, routine: Routine | str) -> Tap:
        """An iterator over the newest outputs of a routine, in this process. For notebooks, previews and tests.

        Waits until the routine has heard of it, between two calls of its `main_logic`; a minute at most.

        :raises UnknownTarget: when there is no such routine.
        :raises PipeStateError: when the pipe is not built or has ended, all taps are in use, or the routine sends nothing.
        """
        session = self._built()
        if not isinstance(routine, Routine | str):
            raise TypeError(f"tap() takes a routine or the name of one, not {shown(routine)}")
        name = routine if isinstance(routine, str) else routine.name
        planned = session.plan.find(name)
        if planned is None:
            raise UnknownTarget("routine", name, list(session.plan.names))
        if planned.role is Role.DESTINATION:
            raise PipeStateError(f"routine {name!r} sends nothing that could be tapped: tap the one that sends to it")
        return session.tap(name)

    # ---- state -----------------------------------------------------------------------------------

    def _require_alive(self, what: str) -> None:
        self._require_owner()
        if self._session is not None and self._session.gone.is_set():
            raise PipeStateError(f"{what}(): the pipe has ended")

    def _built(self) -> Session:
        self._require_owner()
        if self._session is None:
            raise PipeStateError("the pipe is not built yet: call build() first")
        return self._session

    def _require_owner(self) -> None:
        """:raises PipeStateError: in a process other than the one that built it: its channels are closed there."""
        if self._is_foreign():
            raise PipeStateError(
                f"this process was forked from the one that built the pipe (process {self._owner}), and can't use it: call the "
                f"pipe's methods there; in a routine use the routine's own, such as self.notify_event()"
            )

    def _is_foreign(self) -> bool:
        return self._owner is not None and self._owner != os.getpid()

    def _never_ran(self) -> bool:
        return all(routine.state in ("built", "failed") for routine in self.statistics().routines.values())

    def _warn_if_never_ran(self) -> None:
        session = self._built()
        if not (self._was_started or self._controls) and not session.over.is_set() and self._never_ran():
            self.logger.warning(
                "nothing ran: the pipe was built, but never started; call notify_event(START_EVENT_NAME) after build()"
            )

    def _end_at_exit(self, why_killed: str) -> None:
        """Waits for the pipe when the program is done, or kills it.

        :param why_killed: what ended the program early; empty: nothing did.
        :raises PipeFailed: as `join` does.
        """
        session = self._built()
        if session.over.is_set():
            self.join()
            return
        try:
            if why_killed:
                session.relay.logger.warning("%s: its pipe is killed", why_killed)
            elif not (self._started or self._controls):  # nobody is left who could start it
                self._warn_if_never_ran()
            else:
                if not session.over.wait(QUIET_S):
                    self._tell_what_runs()
                self.join()
                return
        except KeyboardInterrupt:  # at any moment: join() is but one of them
            session.relay.logger.info("interrupted: the pipe is killed")
        self.join(to_kill=True)

    def _tell_what_runs(self) -> None:
        running = [routine.name for routine in self.statistics().routines.values() if routine.state == "running"]
        self._built().relay.logger.warning(
            "the program is done, and waits for its pipe to end (running: %s%s); Ctrl-C ends it",
            shortened(", ".join(running), 500) or "nothing",
            ", and clients may control it" if self._controls else "",
        )

    # ---- servers that control it -----------------------------------------------------------------

    def _attach(self, control: Control) -> None:
        """Others control it by this server: it is told of the pipe, and the end of the program waits for what they do."""
        with self._building:
            self._controls.append(control)
            if self._session is not None:
                control.begin(self._session)
        _serve_to_the_end()

    def _detach(self, control: Control) -> None:
        if control in self._controls:
            self._controls.remove(control)


def check_pipe(call: str, pipe: object) -> None:
    """:raises TypeError: when it is none."""
    if not isinstance(pipe, Pipe):
        raise TypeError(f"{call} takes a pipe, not {shown(pipe)}")


def _what_instead(given: object, call: str) -> str:
    """A hint for whoever gives something else in place of a routine."""
    if isinstance(given, type) and issubclass(given, Routine):
        return f", but a class of them: make one of it, such as {given.__name__}('camera')"
    if isinstance(given, list | tuple | set):
        return f"; routines are given one by one: {call}"
    if isinstance(given, Wire):
        return "; wires are given to link(): pipe.link(wire)"
    if callable(given):
        return "; of a function one is made by from_callable(function)"
    return f": {call}"


def _forget(pipe: Pipe) -> None:
    """Notes that a pipe has ended."""
    _running.discard(pipe)
    if not _running:
        exits.forget_main()


@functools.cache
def _serve_to_the_end() -> None:
    """Makes the end of the program wait for pipes that are served while their servers work as ever: before exit handlers run,
    `concurrent.futures`, and with it asyncio's threads, has stopped taking work. It is called at that moment by a function of
    `threading` that has no public name; where that is missing, these pipes are waited for with the others.
    """
    import concurrent.futures.thread  # noqa: F401 - what registers later is called earlier

    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        register(_end_served_pipes)


def _end_served_pipes() -> None:
    _end(pipe for pipe in list(_running) if pipe._controls)


@atexit.register
def _end_pipes() -> None:
    """Waits for the pipes that still run when the program is done; kills them when something has ended it early."""
    _end(list(_running))


def _end(pipes: Iterable[Pipe]) -> None:
    why_killed = exits.why_ended_early()
    for pipe in pipes:
        if pipe._is_foreign():
            continue
        try:
            pipe._end_at_exit(why_killed)
        except PipeFailed as failure:
            pipe.logger.error(str(failure))
        except SystemExit:  # of a signal's handler of the program's: it wants an end now
            why_killed = "sys.exit() has ended the program"
            pipe._end_at_exit(why_killed)


def _program() -> str:
    """The name of the program's file, or of the package that it is the main module of."""
    path = Path(sys.argv[0] if sys.argv else "")
    return (path.parent.name if path.stem == "__main__" else path.stem) or DEFAULT_NAME
