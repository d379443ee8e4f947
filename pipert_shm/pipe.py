"""The pipe: what users build, start, control and wait for."""

# longer than 400 lines: it is a pipe's public face, and more than half of it is the reference of its methods. What they do is
# done in graph/ (the plan) and parent/ (the session, and the end of the program).

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pipert_shm.control.log_output import log_to_terminal, with_plog
from pipert_shm.errors import (
    PipeFailed,
    PipeStateError,
    UnknownTarget,
    WiresValidation,
    describe,
    shown,
)
from pipert_shm.events import (
    INTERNAL_EVENTS,
    KILL_EVENT_NAME,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UNLINK_EVENT_NAME,
    Event,
    check_event_name,
    check_name,
    checked_flow_routines,
    pack_parameters,
)
from pipert_shm.graph.blueprint import Blueprint, FlowSpec
from pipert_shm.graph.extension import plan_growth
from pipert_shm.graph.model import Defaults, Plan, Restart, RestartPolicy
from pipert_shm.graph.plan import audience_of
from pipert_shm.graph.process_settings import ProcessSettings
from pipert_shm.graph.reduction import plan_unwired
from pipert_shm.limits import Policy, check_count, check_flag, check_queue, check_seconds
from pipert_shm.parent.program_end import note_end, note_start, wait_for_served
from pipert_shm.parent.relays import STRUCTURE, TRACE, Handler
from pipert_shm.parent.session import Session
from pipert_shm.routine import Role, Routine
from pipert_shm.shm.segments import sweep_stale
from pipert_shm.statistics import PipeStatistics, read_statistics
from pipert_shm.system import exits
from pipert_shm.system.interrupts import interrupts_allowed, interrupts_deferred, interrupts_held
from pipert_shm.system.streams import occupy_standard_files
from pipert_shm.tap import Tap
from pipert_shm.transmitters import DataTransmitter, SharedMemoryTransmitter
from pipert_shm.wire import QueueNetwork, Wire, check_transmitter

if TYPE_CHECKING:
    from pipert_shm.trace.answers import Traces
    from pipert_shm.trace.recording import TraceReport

DEFAULT_NAME = "Pipe"
PROGRAM = "pipert_shm.agents.program"  # imported by its name where a pipe has hosts, since that stands above this module
RIGHT_CALL = 'Pipe(policy="block", capacity=8)'


class Control(Protocol):
    """A server in this process through which others control a pipe."""

    def begin(self, session: Session) -> None:
        """Called when the pipe is built."""

    def finish(self) -> None:
        """Called when the pipe has ended; returns when the server has ended, too."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow: its name, and its routines by name."""

    name: str
    routines: dict[str, Routine]


# longer than 300 lines: see above
class Pipe:
    """Flows of routines, and the wires between them.

    A context manager: leaving the `with` block waits for the end of the pipe (`join()`), or kills it when the block raised or
    it was never started.

    A program that reaches its last line waits for its pipe, and logs that it does; Ctrl-C kills the pipe then. When
    `sys.exit()`, an exception or the end of an interactive session ends the program, the pipe is killed.

    Methods may be called from any thread of the process that built the pipe; in others they raise PipeStateError.

    :param network: queue settings by PipeRT2's names; or give `policy`, `capacity` and `timeout`.
    :param logger: the parent of the routines' loggers, which are called `<flow>.<routine>`. By default the logger "Pipe"; if
        the program has not configured logging, records of the level INFO and above go to standard error.
    :param data_transmitter: how payloads travel on wires that give none; by default through shared memory.
    :param policy: what a sender does when a queue is full, on wires that give none: `drop_oldest`, `drop_newest` or `block`.
    :param capacity: messages that a queue holds, on wires that give none; `build()` adds room for batches.
    :param timeout: seconds after which a blocked sender drops its message; None: never.
    :param memory_budget: bytes of /dev/shm that frames may take; by default half of what is free.
    :param auto_pacing_mechanism: routines rest while every queue that they send to is full, instead of making messages that
        would be dropped. The pipe runs at the same rate, with less CPU.
    :param event_board: accepted for compatibility with PipeRT2, and not used.
    :param on_failure: what the pipe does when a routine or a flow has failed for good: `continue` without it, or `stop`.
    :param name: what others call the pipe: see the attribute. `pipert_shm.attach` finds it by this name.
    :param grace_period: seconds that a routine has to return from `main_logic` when the pipe is killed.
    :param hosts: how hosts find each other, as the section `hosts` of a pipeline's file says it, for flows that other hosts
        run: `{"hub": "tcp/10.0.0.7:7447"}`.
    :raises ConfigError: when `hosts` does not fit.
    :raises ValueError: when an argument is out of range.
    :raises TypeError: when the network, the logger, the transmitter or the name is of another type.

    Attributes:
        is_named: whether it was given a name, or a logger that has one.
        name: what `pipert_shm.attach`, `pipert-shm top` and the dashboard call the pipe; set it before `build()`. By default
            the logger's name; if that is "Pipe", the program's name, or that of the file that `pipert-shm run` runs.

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

    _pipeline_file: object = None  # the `PipelineFile` that it was made from, and is like now
    _made_from: str = ""  # the real path of the file that it was made from

    # longer than 40 lines: its parameters, and their checks
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
        name: str | None = None,
        hosts: Mapping[str, str] | None = None,
    ) -> None:
        defaults = _defaults(network, logger, data_transmitter, policy, capacity, timeout)
        check_seconds("grace_period", grace_period)
        if memory_budget is not None:
            check_count("memory_budget", memory_budget)
        check_flag("auto_pacing_mechanism", auto_pacing_mechanism)
        if on_failure not in ("continue", "stop"):
            raise ValueError(f"on_failure must be 'continue' or 'stop', not {shown(on_failure)}")
        self.logger = logger if logger is not None else logging.getLogger(DEFAULT_NAME)
        self.name, self.is_named = _named(name, self.logger)
        self._has_own_logger = logger is None
        self._blueprint = Blueprint(defaults)
        self._hosts = None if hosts is None else importlib.import_module(PROGRAM).checked(hosts)
        self._memory_budget = None if memory_budget is None else int(memory_budget)
        self._auto_pacing = bool(auto_pacing_mechanism)
        self._grace = grace_period
        self._stop_on_failure = on_failure == "stop"
        self._early: list[tuple[str, dict[str, Iterable[str]] | None, str | None, dict[str, Any]]] = []
        self._session: Session | None = None
        self._building = threading.RLock()
        self._is_building = self._is_inline = self._joined = False  # in build(), in run_inline(), after join()
        self._started = False  # and not stopped since
        self._was_started = self._ran_inline = self._can_end = False  # the last: an event was sent after which it may end
        self._handlers: dict[str, Handler] = {}  # of questions of attached processes, by kind
        self._owner: int | None = None  # the process that built it
        self._controls: list[Control] = []  # through which others may start it

    # ---- building --------------------------------------------------------------------------------

    # longer than 40 lines: its docstring is the reference
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
        max_rss: int | None = None,
        cpus: Collection[int] | None = None,
        nice: int | None = None,
        host: str | Mapping[str, str] | None = None,
    ) -> None:
        """Adds a flow: a process of its own, with a thread per routine.

        :param flow_name: unique in the pipe, and with no `/` in it.
        :param auto_wire: wire each routine to the next one, in the order given.
        :param data_transmitter: for the wires that `auto_wire` makes.
        :param replicas: how many processes run the flow side by side. Each message goes to the one that has the least to do.
            They and their routines are called `<name>#0`, `<name>#1`, …; an event for the flow or for a routine by its plain
            name goes to all of them.
        :param ordered: whether the results of the replicas are passed on in the order in which the messages were sent to them.
            A result waits for earlier ones, but not for messages that yield none (`None`, an exception, a loss). The flow's
            routines have to be a chain.
        :param restart: whether the flow is restarted when its process dies: `on-failure` (unless it exited with status 0),
            `always`, or `never`. The first restart comes at once; each further one waits twice as long as the one before.
        :param max_restarts: restarts within `restart_window` seconds after which the flow has failed for good.
        :param max_rss: bytes of private memory (`RssAnon`: not that of frames in shared memory, nor the code of libraries) past
            which the process is killed with SIGKILL and restarted by `restart`, as after a crash. There is a look each second.
        :param cpus: the numbers of the processors that all threads of the process run on; None: those of this program. Each
            replica gets all of them.
        :param nice: the niceness of all threads of the process, from -20 (first) to 19 (last); None: that of this program.
        :param host: another host that runs the flow, or the labels that such a host must have; None: this one. The pipe takes
            `hosts=` then. The agent of that host makes the routines anew, of what their constructors were given, at `build()`.
        :raises PipertError: when a name is taken, a routine is in a flow already, or the pipe has ended.
        :raises TypeError: when the name, `auto_wire`, a routine or the host is of another type.
        :raises ValueError: when the name is no valid one, a number or the restart policy is out of range, a processor is not
            there, or the niceness is not permitted.
        """
        self._require_alive("create_flow")
        flow_name = check_name("a flow", flow_name)
        process = ProcessSettings(max_rss, cpus, nice)
        if host is None:
            process = process.plain()  # else its own host checks it
        else:
            self._check_host(flow_name, host)
        spec = FlowSpec(routines, replicas, ordered, Restart(restart, max_restarts, restart_window), process, host)
        self._blueprint.add_flow(flow_name, spec, auto_wire, data_transmitter)
        self._adopt(flow_name, *routines)
        if data_transmitter is not None and not auto_wire:
            self.logger.warning(
                "create_flow(%r, …): data_transmitter is for the wires that auto_wire makes, and here it makes none; give it "
                "to the wires: Wire(camera, screen, data_transmitter=…)",
                flow_name,
            )

    def _check_host(self, flow: str, host: object) -> None:
        call = f"create_flow({flow!r}, …, host={shown(host)})"
        if not isinstance(host, str | Mapping) or not host:
            raise TypeError(f"{call}: give a host's name, or its labels, such as {{'gpu': 'true'}}")
        if self._hosts is None:
            raise PipeStateError(f"{call}: say how hosts find each other: Pipe(hosts={{'hub': 'tcp/10.0.0.7:7447'}})")
        if self._session is not None:
            raise PipeStateError(f"{call}: flows of other hosts are brought there by the first build(): create them before it")

    def _adopt(self, flow: str, *routines: Routine) -> None:
        for routine in routines:
            routine.flow_name = flow
            routine._notifier = self._notify
            routine._logger = with_plog(self.logger.getChild(f"{flow}.{routine.name}"))

    def link(self, *wires: Wire) -> None:
        """Adds wires, which the next `build()` makes.

        :raises TypeError: when something is no wire.
        :raises PipeStateError: when the pipe has ended.
        """
        self._require_alive("link")
        self._blueprint.add_wires(wires)

    # longer than 40 lines: its docstring is the reference
    def build(self) -> None:
        """Checks the pipe, and makes its memory and its processes. Routines run after START_EVENT_NAME is notified.

        Events that were notified earlier are delivered now, in order.

        Call it again while the pipe runs to add the flows and wires that were created since. New routines may be wired to each
        other and to those that run. START_EVENT_NAME then starts the routines that do not run yet. If it raises, the running
        pipe has not changed, and the flows and wires that were created since are forgotten: their routines can go into other
        flows.

        - There is room for 2,048 more routines and flows, and for 4,096 more wires, including those of `link` events. What
          `remove_flow` removes makes room again. The limit of their capacity is that of `notify_event`.
        - A wire to or from an old routine has the pipe's transmitter, or one that some wire had when the old routine's process
          was made. Old routines forward copies of new ones' frames, not references.
        - The new flows are forked and restarted by a fork server, a small process that this one forks, with the routines as
          they are now. If it dies, its flows have failed for good. A lock that one of your threads holds at that moment stays
          locked in them.

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
        :raises PipeFailed: when a flow's process did not come up. When that happens to a flow that is added later, the flow
            has failed, as if its process had died.
        """
        with self._building:
            self._require_alive("build")
            if self._is_inline:
                raise PipeStateError("build(): the pipe is in run_inline(); build it when that has returned")
            with self._changing("build"):
                self._build_or_grow()

    @contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        """A context in which flows and wires come and go, one change after the other."""
        with self._building:
            if self._is_building:
                raise PipeStateError(
                    f"{what}(): another change is at work already: it was called again by a signal's handler, it seems"
                )
            self._is_building = True
            try:
                yield
            finally:
                self._is_building = False

    def _build_or_grow(self) -> None:
        if not self._blueprint.flows:
            raise WiresValidation("the pipe has no routines: create_flow('camera', False, camera) comes before build()")
        self._refuse_between_hosts()
        if self._session is None:
            try:
                with self._with_other_hosts():
                    self._build()
            except BaseException:
                if self._session is None:
                    self._owner = None
                raise
        else:
            self._grow(self._session)

    def _refuse_between_hosts(self) -> None:
        """:raises WiresValidation: when a wire says how it goes to another host, and the pipe has none."""
        can_cross = self._hosts is not None and self._session is None
        for wire in self._blueprint.new_wires() if not can_cross else ():
            if wire.codec is not None or wire.window is not None:
                raise WiresValidation(f"{wire!r}: codec and window are for wires between hosts, at the first build()")

    @contextmanager
    def _with_other_hosts(self) -> Iterator[None]:
        """A context in which other hosts run their flows, and this pipe has the rest. If it fails, all is as before."""
        if self._hosts is None:
            yield
            return
        self.check()
        whole, settings = self._blueprint, self._settings()
        rollout = importlib.import_module(PROGRAM).bring(whole, settings, self._hosts, self.logger)
        self._blueprint = rollout.here
        for name, spec in rollout.added.items():
            self._adopt(name, *spec.routines)
        try:
            yield
        except BaseException:
            self._blueprint = whole
            rollout.take_back()
            raise
        rollout.finish()

    def _settings(self) -> dict[str, Any]:
        """What a pipeline's file says of the whole pipe."""
        settings = {
            "name": self.name,
            **self._blueprint.defaults.queue._asdict(),
            "memory_budget": self._memory_budget,
            "auto_pacing_mechanism": self._auto_pacing,
            "on_failure": "stop" if self._stop_on_failure else "continue",
            "grace_period": float(self._grace),
        }
        return {name: value for name, value in settings.items() if value is not None}

    def _grow(self, session: Session) -> None:
        """Builds what was added to a running pipe."""
        flows, wires = self._blueprint.new_flows(), self._blueprint.new_wires()
        if not flows and not wires:
            raise PipeStateError("build(): this pipe is built, and nothing was added to it since")
        grown = False
        try:
            count = sum(len(spec.routines) * spec.replicas for spec in flows.values())
            free = session.numbers(count) if count else ()
            plan, audience, growth = plan_growth(session.plan, self._blueprint.built_flows(), flows, wires, free)
            with interrupts_deferred():
                session.grow(plan, audience, growth)
                grown = True
                self._blueprint.mark_built()
        except BaseException:
            if not grown:  # else it is Ctrl-C, which came afterwards
                self._blueprint.forget_new()
            raise
        self._announce()

    # longer than 40 lines: its docstring is the reference
    def remove_flow(self, *names: str, receivers_wait: bool = False) -> None:
        """Removes flows, and all wires that lead to them and from them, while the rest of the pipe goes on.

        Their routines end as at a kill: the message in hand is finished, `cleanup()` runs, and what does not return within the
        pipe's `grace_period` gets SIGKILL. What they sent is still delivered, and views of their frames stay valid. What waits
        for them is dropped. Returns when their processes are gone. Names of flows and routines are free at once, and so are
        the routines: they can go into other flows. Before `build()`, or when a flow waits for it, it is just forgotten.

        A routine that is left without an incoming wire ends when it has taken what waits for it, as after `unlink()`. With
        `receivers_wait` it waits for its next wire instead, so that a flow can be replaced.

        What failed of a removed flow is forgotten, too: `join()` does not raise for it. A pipe whose last flow is removed goes
        on with none, until `join()` ends it.

        >>> from pipert_shm import START_EVENT_NAME, DestinationRoutine, Pipe, SourceRoutine, Wire
        >>> class Numbers(SourceRoutine):
        ...     def main_logic(self):
        ...         return self.meta.sequence
        >>> class Screen(DestinationRoutine):
        ...     def main_logic(self, data): ...
        >>> camera, screen = Numbers("camera"), Screen("screen")
        >>> pipe = Pipe()
        >>> pipe.create_flow("camera", True, camera, Screen("preview"))
        >>> pipe.create_flow("screen", False, screen)
        >>> pipe.link(Wire(camera, screen))
        >>> with pipe:
        ...     pipe.build()
        ...     pipe.notify_event(START_EVENT_NAME)
        ...     pipe.remove_flow("screen")
        ...     sorted(pipe.statistics().routines)
        ...     pipe.join(to_kill=True)
        ['camera', 'preview']

        :param names: those of the flows; that of a flow with replicas stands for all of them. All are removed, or none.
        :raises UnknownTarget: when there is no such flow.
        :raises WiresValidation: when a flow that stays joins what comes from one of them: remove both.
        :raises TypeError: when a name is not a str, or there is none.
        :raises PipeStateError: when the pipe has ended.
        """
        self._require_alive("remove_flow")
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError(f"remove_flow() takes the names of flows, not {shown(names)}: pipe.remove_flow('camera')")
        check_flag("receivers_wait", receivers_wait)
        with self._changing("remove_flow"):
            self._blueprint.require_flows(names)
            session = self._session
            built = [name for name in dict.fromkeys(names) if self._blueprint.is_built(name)]
            with interrupts_deferred():
                if session is not None and built:
                    flows = [one for name in built for one in session.plan.replicas.get(name, (name,))]
                    session.remove(flows, receivers_wait)
                self._blueprint.remove_flows(names)
        if session is not None:
            self._announce()

    def unlink(self, source: Routine, *destinations: Routine) -> None:
        """Removes the wires from a routine to others. On a pipe that runs it is what the event `unlink` does.

        The sender stops sending between two messages; what it has sent is still delivered. A routine that is left without an
        incoming wire ends then.

        >>> from pipert_shm import DestinationRoutine, Pipe, SourceRoutine, Wire
        >>> camera, screen, disk = SourceRoutine("camera"), DestinationRoutine("screen"), DestinationRoutine("disk")
        >>> pipe = Pipe()
        >>> pipe.link(Wire(camera, (screen, disk)))
        >>> pipe.unlink(camera, disk)

        :raises WiresValidation: when one of them is not wired to the source; none is unlinked then.
        :raises TypeError: when something is no routine, or there is no destination.
        :raises PipeStateError: when the pipe has ended.
        """
        self._require_alive("unlink")
        for routine in (source, *destinations):
            if not isinstance(routine, Routine):
                raise TypeError(f"unlink() takes routines, not {shown(routine)}: pipe.unlink(camera, screen)")
        if not destinations:
            raise TypeError("unlink() takes the receivers, too: pipe.unlink(camera, screen)")
        with self._changing("unlink"):
            self._blueprint.require_wires(source, destinations)
            for to in self._blueprint.remove_wires(source, destinations):
                if self._session is not None:
                    self._notify(UNLINK_EVENT_NAME, None, source.name, {"unlink_routine_name": to.name})
                    self._session.plan = plan_unwired(self._session.plan, source.name, to.name)

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
        self._plan()

    def run_inline(self, *, messages: int | None = None, timeout: float | None = None) -> PipeStatistics:
        """Runs the whole pipe on the calling thread, with no other process: `breakpoint()` in a routine stops in your terminal.

        Instead of `build()`, a start and `join()`. Returns when all sources have ended and what they sent is handled. The pipe
        can run again then, in this way or by `build()`. An exception of a routine ends it, and is raised here with its
        traceback.

        Frames travel through shared memory and are read-only as ever, and the checks are those of `build()`. This differs:

        - One routine after the other does something, in the same order every time: the farthest from the sources first.
        - No message is dropped for want of room, whatever the wire's policy, and none expires (`max_age`).
        - `set_const_fps`, `hang_timeout`, `max_errors`, `restart`, `max_rss`, `cpus`, `nice`, `on_failure` and auto pacing do
          nothing. A batch waits until it is full, or the sources have nothing more for it, and not for `max_wait`.
        - A flow with replicas runs once.
        - `link` and `unlink` events change no wire; a warning says so. Other events arrive, handlers run between two calls.
        - Routines are the objects that you made: what they set is there afterwards.
        - `tap()`, `statistics()` and the API see nothing of it.

        Call it on the thread whose debugger you use; other threads must leave the pipe alone meanwhile.

        :param messages: how many messages each source makes, at the most.
        :param timeout: seconds after which no source makes another one. A call of `main_logic` is not interrupted.
        :returns: what every routine and wire has done.
        :raises WiresValidation, RoutineError, SharedMemoryFull: as `build()` does.
        :raises PipeStateError: when the pipe is built, or is running so already.

        >>> from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine
        >>> class Numbers(SourceRoutine):
        ...     def main_logic(self):
        ...         return self.meta.sequence
        >>> class Sum(DestinationRoutine):
        ...     total = 0
        ...     def main_logic(self, number):
        ...         self.total += number            # breakpoint() here stops in this terminal
        >>> pipe, total = Pipe(), Sum("sum")
        >>> pipe.create_flow("both", True, Numbers("numbers"), total)
        >>> pipe.run_inline(messages=5).wires["numbers", "sum"].received, total.total
        (5, 10)
        """
        return self._run_inline(lambda: self._plan(replicated=False), messages, timeout)

    def _run_inline(
        self,
        make_plan: Callable[[], Plan],
        messages: int | None = None,
        timeout: float | None = None,
        private: Collection[str] = (),
    ) -> PipeStatistics:
        """Runs a plan of this pipe inline.

        :param private: routines that get copies of all frames.
        """
        from pipert_shm.testing.inline import run_inline  # only a debugging session pays for it

        with self._building:
            self._require_alive("run_inline")
            if self._session is not None or self._is_building or self._is_inline:
                raise PipeStateError("run_inline(): the pipe is built, or runs already: make another one")
            self.check()
            plan = make_plan()
            audience = audience_of(plan)
            early = [audience.address(*event) for event in self._early]
            if self._has_own_logger:
                log_to_terminal(self.logger)
            try:
                self._is_inline = self._ran_inline = True
                return run_inline(plan, audience, self.logger, self.name, early, messages, timeout, private)
            finally:
                self._is_inline = False

    def _plan(self, *, replicated: bool = True) -> Plan:
        plan = self._blueprint.plan(replicated=replicated)
        plan.auto_pacing, plan.memory_budget = self._auto_pacing, self._memory_budget
        return plan

    def _build(self) -> None:
        plan = self._plan()
        audience = audience_of(plan)
        early = [audience.address(*event) for event in self._early]
        occupy_standard_files()
        if self._has_own_logger:
            log_to_terminal(self.logger)  # before the flows are forked, which have its level from here
        sweep_stale()
        exits.remember_main()
        self._owner = os.getpid()  # from here on: the processes that are forked have it, too
        with interrupts_deferred():  # half a pipe could neither be joined nor killed
            session = Session(plan, audience, self.name, self._made_from, self.logger, self._grace, self._stop_on_failure)
            session.launch()
            session.serve(STRUCTURE, partial(_structure_of, weakref.ref(self)))
            for kind, handler in self._handlers.items():
                session.serve(kind, handler)
            session.serve(TRACE, _tracer_of(weakref.ref(session)))
            self._session = session
            self._blueprint.mark_built()
            note_start(self)
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
        self._session = None
        self._blueprint.mark_unbuilt()
        note_end(self)

    def _announce(self) -> None:
        """Shows the pipe to those handlers of the logger that want its structure, such as a Cockpit's."""
        for handler in self.logger.handlers:
            if getattr(handler, "takes_structure", False):
                extra = {"pipe_creation": True, "pipe": weakref.ref(self)}
                arguments = (self.logger.name, logging.INFO, __file__, 0, "%s", (self.get_pipe_structure(),), None)
                handler.handle(self.logger.makeRecord(*arguments, extra=extra))

    # ---- events ----------------------------------------------------------------------------------

    # longer than 40 lines: its docstring is the reference
    def notify_event(
        self,
        event_name: str,
        specific_flow_routines: dict[str, Iterable[str]] | None = None,
        specific_routine: str | None = None,
        **event_parameters: Any,
    ) -> None:
        """Notifies routines of an event. Returns when it is on its way; events arrive in the order of notification.

        Events that are notified before `build()` are kept until then.

        Two events change the wires of a running pipe; each is addressed to the sender. `link` (LINK_EVENT_NAME) takes
        `link_routine_name` and, like a `Wire`, `policy`, `capacity` and `timeout`; `unlink` (UNLINK_EVENT_NAME) takes
        `unlink_routine_name`. The sender changes over between two messages, in the order of events: later messages go over the
        new wire, and earlier ones still arrive over the old one.

        - A setting that is not given is that of the wire that joined the two before, else the pipe's. A queue holds at most as
          many messages as the longest at `build()`, or 16. There is room for 4,096 wires that `build()` did not know of.
        - An unlinked wire is an ended stream: a routine ends when its last wire is drained. Link another one first. A routine
          that has ended takes nothing from a new wire until it is started.
        - If the sender is waiting for room on a wire when that is unlinked, the message is dropped and counted as `ended`.
        - A receiver forwards frames from a new wire as copies, not by reference.

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
        :param specific_routine: the name of one routine, in any flow.
        :param event_parameters: each handler gets those that it takes. They have to pickle.
        :raises UnknownEvent: when no addressed routine handles it, a parameter is missing, or a built-in event has one
            that neither it nor a handler takes.
        :raises UnknownTarget: when there is no such flow or routine.
        :raises PayloadError: when the parameters are larger than 1 MiB, nested deeper than 100 levels, or don't pickle.
        :raises PipeStateError: when the pipe has ended.
        :raises WiresValidation, ValueError: when a wire can't be linked: it would make a cycle, or lead to a source; the two
            are wired already; a flow has failed; a setting is out of range; or there is no room left. (When a routine notifies
            it, the error is logged and counted as that routine's instead.)
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
        flows, wires = len(self._blueprint.new_flows()), len(self._blueprint.new_wires())
        if (flows or wires) and not self._is_building:
            self.logger.warning("%d flows and %d wires are not in the pipe yet: call build() once more", flows, wires)

    def restart_flow(self, flow: str) -> None:
        """Kills the flow's process with SIGKILL and starts a new one; the rest of the pipe goes on.

        Returns when that is on its way. The pipe recovers as from a crash, whatever the flow's restart policy: messages in hand
        are lost and counted, messages that wait for the flow are kept, and its routines run `setup()` but not `cleanup()`. It
        does not count towards `max_restarts`.

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
        names = (flow,) if flow in session.plan.flows else session.plan.replicas.get(flow, ())
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
        """Waits until every routine has ended (`EndOfStream`) or the pipe was killed, and its processes and memory are gone.

        Ctrl-C kills the pipe, and `join` returns when that is done.

        :param to_kill: kill it first.
        :raises PipeFailed: when a routine failed for good or a flow's process died.
        :raises PipeStateError: when it is not built; or was never started, and is not to be killed.
        """
        with interrupts_held():  # a second Ctrl-C comes while the first ends the pipe
            try:
                self._join(to_kill)
            finally:
                if self._joined:
                    with suppress(KeyboardInterrupt), interrupts_allowed():  # the pipe has ended; a client lacks its answer
                        for control in list(self._controls):
                            control.finish()

    def _join(self, to_kill: bool = False) -> None:
        """Waits as `join` does, but not for the servers that control the pipe."""
        session = self._built()
        check_flag("to_kill", to_kill)
        session.require_no_handler("join()")
        if to_kill or not session.plan.flows:  # all were removed, so it would never end
            session.kill()
        elif not (self._can_end or self._controls) and not session.outcome.over.is_set() and self._never_ran():
            raise PipeStateError(
                "join(): the pipe was never started, so it would never end: call notify_event(START_EVENT_NAME) first, or "
                "join(to_kill=True)"
            )
        try:
            with interrupts_allowed():
                session.outcome.over.wait()
        except KeyboardInterrupt:
            session.relay.logger.info("interrupted: the pipe is killed")
        session.end()
        note_end(self)
        self._joined = True
        if session.outcome.causes:
            raise PipeFailed(session.outcome.causes, dict(session.outcome.exit_codes))

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_foreign():
            return  # a process that was forked within the block leaves it
        if self._session is None:
            if error is None and not (self._was_started or self._ran_inline):
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
        if "_owner" not in vars(self):
            return f"{type(self).__name__}(its __init__ is not done)"
        graph = self._blueprint
        of = f"{len(graph.flows)} flows, {graph.count_routines()} routines, {len(graph.wires)} wires"
        return f"{type(self).__name__}({self.logger.name!r}: {of}, {self._situation()})"

    def _situation(self) -> str:
        """The pipe's state in a few words, such as `2 running`. Raises nothing."""
        if self._is_foreign():
            return f"of process {self._owner}"
        session = self._session
        if session is None:
            return "not built"
        if session.gone.is_set():
            return "failed" if session.outcome.causes else "ended"
        try:
            states = Counter(routine.state for routine in self.statistics().routines.values())
        except (ValueError, LookupError, OSError, PipeStateError) as error:  # its memory is damaged, or just going
            return f"its state can't be read: {describe(error)}"
        return ", ".join(f"{count} {state}" for state, count in states.items())

    def __str__(self) -> str:
        """The pipe, and a line for each routine and wire."""
        if "_owner" not in vars(self):
            return repr(self)
        return "\n\n".join([repr(self), *map(str, self._blueprint.tables())])

    def _repr_html_(self) -> str:
        from html import escape

        tables = self._blueprint.tables() if "_owner" in vars(self) else []
        return "".join([f"<code>{escape(repr(self))}</code>", *(table.html() for table in tables)])

    def get_pipe_structure(self) -> dict[str, list[Any]]:
        """The routines with their flows and events, and the events of the whole pipe: those that a Cockpit offers.

        >>> from pipert_shm import DestinationRoutine, Pipe, SourceRoutine
        >>> pipe = Pipe()
        >>> pipe.create_flow("flow", True, SourceRoutine("camera"), DestinationRoutine("screen"))
        >>> pipe.get_pipe_structure()["Routines"][0]
        {'flow_name': 'flow', 'routine_name': 'camera', 'events': ['start', 'stop', 'unlink']}
        >>> pipe.get_pipe_structure()["Events"]
        ['start', 'stop', 'kill']
        """
        return self._blueprint.structure()

    @property
    def flows(self) -> dict[str, Flow]:
        """The flows that were created, by name."""
        flows = list(self._blueprint.flows.items())  # another thread may add one
        return {name: Flow(name, {routine.name: routine for routine in spec.routines}) for name, spec in flows}

    @property
    def _flows(self) -> dict[str, list[Routine]]:
        """The routines of each flow, for people's own tools, which found them under this name before `flows` was there."""
        return {name: list(flow.routines.values()) for name, flow in self.flows.items()}

    def get_event_notify(self) -> Callable[..., None]:
        """The method `notify_event`, to be passed to other code."""
        return self.notify_event

    def statistics(self) -> PipeStatistics:
        """The counters of every routine, wire and flow. Reading them costs the flows nothing; it works after the end, too.

        :raises PipeStateError: when the pipe is not built.
        """
        session = self._built()
        return read_statistics(session.segment.process, *session.plan.directory())

    def tap(self, routine: Routine | str) -> Tap:
        """An iterator over the newest outputs of a routine, in this process. For notebooks, previews and tests.

        Waits until the routine sends to it, which begins between two calls of its `main_logic`; at most a minute.

        :raises UnknownTarget: when there is no such routine.
        :raises PipeStateError: when the pipe is not built or has ended, all taps are in use, or the routine sends nothing.
        """
        session = self._built()
        if not isinstance(routine, Routine | str):
            raise TypeError(f"tap() takes a routine or the name of one, not {shown(routine)}")
        name = routine if isinstance(routine, str) else routine.name
        planned = session.plan.find(name)
        if planned is None:
            raise UnknownTarget("routine", name, session.plan.present)
        if planned.role is Role.DESTINATION:
            raise PipeStateError(f"routine {name!r} sends nothing that could be tapped: tap the one that sends to it")
        return session.tap(name)

    def trace(self, path: str | os.PathLike[str], seconds: float = 5.0) -> TraceReport:
        """Writes what becomes of every frame in the next seconds to a file, for https://ui.perfetto.dev. See `tracing`.

        :param path: of the file, such as `yard.pftrace`.
        """
        check_seconds("seconds", seconds, positive=True)
        with self.tracing(path) as report:
            self._built().gone.wait(seconds)
        return report

    def _trace(self, seconds: float) -> tuple[TraceReport, bytes]:
        """The content of such a file, for who sends it elsewhere."""
        session = self._built()
        if session.gone.is_set():
            raise PipeStateError("trace(): the pipe has ended")
        from pipert_shm.trace.recording import recording

        with recording(session) as (report, content):
            session.gone.wait(seconds)
        return report, content[0]

    def tracing(self, path: str | os.PathLike[str], *, events: int = 65_536) -> AbstractContextManager[TraceReport]:
        """Traces the pipe while the `with` block lasts, and writes the trace to a file, for https://ui.perfetto.dev.

        The trace has a row for each routine and each wire: calls of `main_logic` with their spans (`Routine.span`), loans,
        sends, waits for messages, room and slots, queues, drops with their reasons, errors, commands, events, and flows that
        died and came back. Arrows follow a frame from routine to routine. It needs the extra `trace`.

        It may begin before the start and end after the pipe's end. A flow that is restarted meanwhile goes on in the trace.

        :param path: of the file. One that is there is overwritten.
        :param events: that each process keeps, at least: the newest ones, in 40 bytes of /dev/shm each. A frame makes three to
            ten in each flow. The report, and the trace, say how many are missing.
        :returns: a context manager. It gives a report, which is complete when the block has ended.
        :raises ImportError: when the extra `trace` is missing.
        :raises OSError: when the file can't be written.
        :raises PipeStateError: when the pipe is not built or has ended, or is being traced already.
        :raises ValueError: when there can't be so many events.

        >>> import tempfile
        >>> from pipert_shm import START_EVENT_NAME, DestinationRoutine, EndOfStream, Pipe, SourceRoutine
        >>> class Numbers(SourceRoutine):
        ...     def main_logic(self):
        ...         if self.meta.sequence == 3:
        ...             raise EndOfStream
        ...         return self.meta.sequence
        >>> class Screen(DestinationRoutine):
        ...     def main_logic(self, number): ...
        >>> pipe = Pipe(policy="block")
        >>> pipe.create_flow("both", True, Numbers("numbers"), Screen("screen"))
        >>> pipe.build()
        >>> with tempfile.NamedTemporaryFile(suffix=".pftrace") as file, pipe.tracing(file.name) as report:
        ...     pipe.notify_event(START_EVENT_NAME)
        ...     pipe.join()
        >>> report.lost, report.missing
        ({}, [])
        """
        session = self._built()
        if session.gone.is_set():
            raise PipeStateError("tracing(): the pipe has ended")
        from pipert_shm.trace.recording import recording_to  # only who traces pays for it

        return recording_to(session, path, events)

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
        if not (self._was_started or self._controls) and not session.outcome.over.is_set() and self._never_ran():
            self.logger.warning(
                "nothing ran: the pipe was built, but never started; call notify_event(START_EVENT_NAME) after build()"
            )

    # ---- servers that control it -----------------------------------------------------------------

    def _attach(self, control: Control) -> None:
        """Lets a server control the pipe; the program then waits at its end until its clients end the pipe."""
        with self._building:
            self._controls.append(control)
            if self._session is not None:
                control.begin(self._session)
        wait_for_served()

    def _detach(self, control: Control) -> None:
        if control in self._controls:
            self._controls.remove(control)


def _defaults(
    network: QueueNetwork | None,
    logger: object,
    data_transmitter: DataTransmitter | None,
    policy: Policy | None,
    capacity: int | None,
    timeout: float | None,
) -> Defaults:
    """The settings of wires that give none, from a pipe's arguments."""
    if network is not None and not isinstance(network, QueueNetwork):
        text = f"network must be a QueueNetwork, not {shown(network)}; give settings by name: {RIGHT_CALL}"
        if isinstance(network, str):
            text += f"; its records get a name by a logger: Pipe(logger=logging.getLogger({shown(network)}))"
        raise TypeError(text)
    if logger is not None and not isinstance(logger, logging.Logger):
        raise TypeError(f"logger must be a logging.Logger, not {shown(logger)}; give settings by name: {RIGHT_CALL}")
    check_transmitter(data_transmitter, RIGHT_CALL)
    check_queue(policy, capacity, timeout)
    if network is not None and (policy, capacity, timeout) != (None, None, None):
        raise ValueError("give either network or policy, capacity and timeout")
    transmitter = data_transmitter or SharedMemoryTransmitter()
    if network is not None:
        return Defaults(network.policy, network.capacity, network.timeout, transmitter)
    return Defaults(policy or "drop_oldest", int(capacity or 2), None if timeout is None else float(timeout), transmitter)


def check_pipe(call: str, pipe: object) -> None:
    """:raises TypeError: when it is not a pipe."""
    if not isinstance(pipe, Pipe):
        raise TypeError(f"{call} takes a pipe, not {shown(pipe)}")


def _structure_of(pipe: Callable[[], Pipe | None], body: bytes) -> bytes:
    """The answer to an attached process that asks for the structure."""
    its = pipe()
    if its is None:
        raise PipeStateError("the pipe has ended")
    return json.dumps(its.get_pipe_structure()).encode()


def _named(name: str | None, logger: logging.Logger) -> tuple[str, bool]:
    """A pipe's name, and whether somebody has given it one."""
    if name is not None:
        return check_name("a pipe", name), True
    return (logger.name, True) if logger.name != DEFAULT_NAME else (_program(), False)


def _tracer_of(session: weakref.ref[Session]) -> Handler:
    """Traces the pipe for attached processes. What that takes is loaded when the first one asks."""
    traces: Traces | None = None

    def answer(body: bytes) -> bytes:
        nonlocal traces
        if traces is None:
            from pipert_shm.trace.answers import Traces

            traces = Traces(session)
        return traces.answer(body)

    return answer


def _program() -> str:
    """The name of the program's file, or of the package that it is the main module of."""
    path = Path(sys.argv[0] if sys.argv else "")
    return (path.parent.name if path.stem == "__main__" else path.stem) or DEFAULT_NAME
