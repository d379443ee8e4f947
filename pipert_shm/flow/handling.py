"""The thread on which a flow calls its routines' event handlers, and starts and stops them, in the order of events.

It is not the control thread, so a handler that takes long, or hangs, delays nothing but the events behind it.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipert_shm import binding
from pipert_shm.binding import trace
from pipert_shm.control.guard import contained
from pipert_shm.control.messages import Handled, HandleEvent, ParametersSet, SetParameters, StartRoutines
from pipert_shm.errors import describe
from pipert_shm.events import (
    KILL_EVENT_NAME,
    LOG_DATA,
    PEER_FAILED_EVENT_NAME,
    PEER_RETURNED_EVENT_NAME,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UPDATE_FPS_NAME,
    Event,
    accepted,
    handlers_of,
)
from pipert_shm.flow.commands import Start, Stop
from pipert_shm.flow.runner import Runner
from pipert_shm.frozen import Frozen
from pipert_shm.opaque import unpack
from pipert_shm.parameters import setters_of
from pipert_shm.shm import tracing
from pipert_shm.system import calls, forked
from pipert_shm.system.descriptors import advised


class Setting(Frozen):
    """An order to set parameters, and the number of the question that it is."""

    order: SetParameters
    question: int


Orders = StartRoutines | HandleEvent | Setting


class Handling:
    """Carries out StartRoutines, HandleEvent and SetParameters. Its public methods are for the control thread.

    Its own thread is started when the first event comes that has handlers of the user's.

    :param report: tells the launcher.
    """

    def __init__(self, flow: str, runners: Mapping[str, Runner], report: Callable[..., None], logger: logging.Logger) -> None:
        self._flow = flow
        self._logger = logger
        self._runners = runners
        self._report = report
        self._home = forked.pid
        self._orders: deque[Orders] = deque()
        self._runs = dict.fromkeys(runners, 0)  # the last run of each that was ordered
        self._changed = threading.Condition()
        self._ending = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, order: Orders) -> None:
        """Takes an order, to be carried out after the earlier ones.

        :raises LookupError: when it is for a routine that is not in this flow; then nothing of it is done.
        """
        names = _names_in(order)
        strangers = [name for name in names if name not in self._runners]
        if strangers:
            raise LookupError(f"there is no routine {strangers[0]!r} in this flow")
        if self._thread is None and not (self._calls_handlers(order) and self._has_started()):
            self._do(order)
            return
        with self._changed:
            self._orders.append(order)
            self._changed.notify()

    def _calls_handlers(self, order: Orders) -> bool:
        if isinstance(order, Setting):
            return True
        event = START_EVENT_NAME if isinstance(order, StartRoutines) else order.event.name
        kinds = {type(self._runners[name].routine) for name in _names_in(order)}
        return event == UPDATE_FPS_NAME or any(event in handlers_of(kind) for kind in kinds)

    def _has_started(self) -> bool:
        """Starts the thread. Where the system has none left, handlers are called on the control thread."""
        thread = threading.Thread(target=self._serve, name="events", daemon=True)
        try:
            calls.start_thread(thread)
        except OSError as error:
            text = "handlers of events hold up flow %r while they run, for want of a thread: %s"
            self._logger.error(text, self._flow, advised(error))
            return False
        self._thread = thread
        return True

    def end(self, patience: float) -> int:
        """Carries out the orders so far, then calls the handlers of `kill`, and ends. Returns how many orders are left undone.

        :param patience: seconds that this may take. Then all orders that are left are dropped, except the handlers of `kill`.
        """
        self.put(HandleEvent(Event(KILL_EVENT_NAME, tuple(self._runners)), 0))
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._thread is None or self._ended.wait(patience):
            return 0
        with self._changed:
            undone = max(0, len(self._orders) - 1)
            while len(self._orders) > 1:
                self._orders.popleft()
        return undone

    def await_end(self, patience: float) -> None:
        """Waits for the handlers of `kill` to return, at most so many seconds."""
        if self._thread is not None:
            self._ended.wait(patience)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._orders) or self._ending)
                if not self._orders:
                    break
                order = self._orders.popleft()
            with contained(self._logger, f"an order of the launcher's to flow {self._flow!r}"):
                self._do(order)
        self._ended.set()

    def _do(self, order: Orders) -> None:
        if isinstance(order, StartRoutines):
            self._start(order)
        elif isinstance(order, Setting):
            self._set(order.order, order.question)
        else:
            self._deliver(order)

    def _set(self, order: SetParameters, question: int) -> None:
        """Calls the methods that set the parameters. A failure counts as the routine's error, and is told to who asked."""
        runner, why = self._runners[order.routine], ""
        runner.record.begin_handler()
        try:
            setters = setters_of(type(runner.routine))
            for name, value in unpack(order.packed).items():
                getattr(runner.routine, setters[name])(value)
        except BaseException as error:
            forked.end_if_stray(self._home, error)
            runner.record.count_error()
            runner.failures.tell("parameters can't be set", error)
            why = describe(error)
        finally:
            runner.record.end_handler()
            self._report(ParametersSet(order.routine, why), question)
        forked.end_if_stray(self._home, None)

    def _start(self, order: StartRoutines) -> None:
        """Starts the runs that no earlier order has started: an order may come twice."""
        for name, run in order.runs:
            if run > self._runs[name]:
                self._runs[name] = run
                self._runners[name].command(Start(run))
                self._handle(Event(START_EVENT_NAME, (name,)))

    def _deliver(self, order: HandleEvent) -> None:
        try:
            if order.event.name == STOP_EVENT_NAME:
                for name in order.event.routines:
                    self._runners[name].command(Stop())
            self._handle(order.event)
        finally:
            if order.cost:
                self._report(Handled(order.cost))

    def _handle(self, event: Event) -> None:
        """Calls the handlers of the event; built-in ones first. A failure counts as that routine's error."""
        for name in event.routines:
            runner = self._runners[name]
            runner.record.begin_handler()
            began_ns = binding.now_ns()
            try:
                self._handle_for(runner, event)
            except BaseException as error:
                forked.end_if_stray(self._home, error)
                runner.record.count_error()
                runner.failures.tell(f"event {event.name!r} failed", error)
            finally:
                runner.record.end_handler()
                if tracing.on:
                    shown = tracing.name_index(event.name)
                    tracing.note(trace.EVENT, runner.number, other=shown, began_ns=began_ns)
            forked.end_if_stray(self._home, None)

    def _handle_for(self, runner: Runner, event: Event) -> None:
        methods: Iterable[str] = handlers_of(type(runner.routine)).get(event.name, ())
        if event.name == LOG_DATA:
            runner.payload_log.switch()
            runner.wake()
        elif event.name == UPDATE_FPS_NAME:
            runner.routine.set_const_fps(**event.parameters())
        params = event.parameters() if methods else {}
        for method in methods:
            self._call(runner, getattr(runner.routine, method), event.name, params)

    @staticmethod
    def _call(runner: Runner, handler: Callable[..., Any], name: str, params: dict[str, Any]) -> None:
        taken = accepted(inspect.signature(handler), params)
        ignored = sorted(set(params) - set(taken))
        if ignored and name not in (
            PEER_FAILED_EVENT_NAME,
            PEER_RETURNED_EVENT_NAME,
        ):  # its parameters are ours: a handler takes those that it wants
            text = "%s: event %r: its handler takes no %s"
            runner.routine._logger.warning(text, runner.failures.who, name, ", ".join(ignored))
        handler(**taken)


def _names_in(order: Orders) -> tuple[str, ...]:
    if isinstance(order, Setting):
        return (order.order.routine,)
    return order.event.routines if isinstance(order, HandleEvent) else tuple(name for name, _ in order.runs)
