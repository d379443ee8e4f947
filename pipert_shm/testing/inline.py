"""A whole pipe on the calling thread, one routine after the other: for a debugger."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

from pipert_shm.control.messages import HandleEvent, StartRoutines
from pipert_shm.events import (
    KILL_EVENT_NAME,
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    UNLINK_EVENT_NAME,
    Audience,
    Event,
)
from pipert_shm.graph.model import Plan
from pipert_shm.limits import check_count, check_seconds
from pipert_shm.routine import Role
from pipert_shm.shm.states import State
from pipert_shm.statistics import PipeStatistics
from pipert_shm.system.interrupts import interrupts_deferred
from pipert_shm.testing.running import InlineRunner
from pipert_shm.testing.stage import Stage


def run_inline(
    plan: Plan,
    audience: Audience,
    logger: logging.Logger,
    name: str,
    early: Iterable[Event],
    messages: int | None,
    timeout: float | None,
    private: Collection[str] = (),
) -> PipeStatistics:
    """Runs a plan to its end: see `Pipe.run_inline`.

    :param early: events that are delivered first.
    :param private: routines that get copies of all frames.
    """
    if messages is not None:
        check_count("messages", messages)
    if timeout is not None:
        check_seconds("timeout", timeout)
    run: _Run | None = None
    try:
        with interrupts_deferred():  # a Ctrl-C comes when there is a stage to close
            run = _Run(plan, audience, logger, name, private)
        run.begin(early)
        run.go(messages, None if timeout is None else time.monotonic() + timeout)
        run.end()
        return run.stage.statistics()
    except BaseException as error:
        if run is not None:
            run.stage.end(error)
        raise
    finally:
        if run is not None:
            try:
                run.stage.close()
            finally:
                run.stage.close()  # a Ctrl-C may have come before the first one began


class _Run:
    """One run of a plan in this process.

    What comes next is decided so: an event that was notified; else the routine farthest from the sources that can do something;
    else the next source in turn. So a message has gone all the way before the next one is made. A batch is handled when it is
    full, or when a turn of all sources has brought nothing more for it.
    """

    def __init__(self, plan: Plan, audience: Audience, logger: logging.Logger, name: str, private: Collection[str]) -> None:
        self._audience = audience
        self._logger = logger
        self._events: deque[Event] = deque()
        self._runs = 0
        self._killed = False
        notifiers = {item.name: partial(self._notify, item.name) for item in plan.routines}
        self.stage = Stage(plan, name, logger, notifiers, private=private)
        distance = _distances(plan)
        runners = sorted(self.stage.runners.values(), key=lambda runner: -distance[runner.plan.number])
        self._sources = deque(runner for runner in runners if runner.plan.role is Role.SOURCE)
        self._others = [runner for runner in runners if runner.plan.role is not Role.SOURCE]
        self._due: set[str] = set()  # of those that take batches: whose batch is not waited for any longer
        self._arrived: dict[str, int] = {}  # how many messages each routine had been sent a turn ago
        self._stepped: set[str] = set()  # sources that had a step in this turn

    # ---- events ----------------------------------------------------------------------------------

    def begin(self, early: Iterable[Event]) -> None:
        """Delivers what was notified before, and starts all routines."""
        self._events.extend(early)
        self._events.append(Event(START_EVENT_NAME, self._audience.address(START_EVENT_NAME, None, None, {}).routines))

    def _notify(
        self,
        routine: str,
        event_name: str,
        flow_routines: dict[str, Iterable[str]] | None,
        specific_routine: str | None,
        params: dict[str, Any],
        *,
        only_if_built: bool = False,
    ) -> None:
        self._events.append(self._audience.address(event_name, flow_routines, specific_routine, params))

    def _deliver(self, event: Event) -> None:
        if event.name == KILL_EVENT_NAME:
            self._killed = True
        elif event.name == START_EVENT_NAME:
            self._runs += 1
            # those that are stopping, too: they are started when they have stopped
            others = [name for name in event.routines if self.stage.runners[name].state is not State.RUNNING]
            self.stage.handling.put(StartRoutines(tuple((name, self._runs) for name in others)))
        else:
            if event.name in (LINK_EVENT_NAME, UNLINK_EVENT_NAME):
                self._logger.warning("the event %r changes no wire in run_inline()", event.name)
            self.stage.handling.put(HandleEvent(event, 0))

    # ---- turns -----------------------------------------------------------------------------------

    def go(self, messages: int | None, deadline: float | None) -> None:
        """Runs until nothing is left to do."""
        while not self._killed:
            if self._events:
                self._deliver(self._events.popleft())
            elif deadline is not None and time.monotonic() >= deadline and self._end_sources():
                continue
            elif not (self._step_others() or self._step_source(messages) or self._make_batches_due()):
                for runner in self.stage.runners.values():
                    runner.require_sent()
                break

    def end(self) -> None:
        """Calls the handlers of `kill`, and ends what runs."""
        runners = {} if self._killed else self.stage.runners
        waiting = [name for name, runner in runners.items() if runner.state is State.RUNNING]
        stopped = [name for name, runner in runners.items() if runner.state is State.STOPPED and runner.waiting]
        self.stage.handling.put(HandleEvent(Event(KILL_EVENT_NAME, tuple(self.stage.runners)), 0))
        self.stage.end()
        if waiting:
            text = "run_inline() ends, though %s had not: what they wait for is stopped"
            self._logger.warning(text, ", ".join(map(repr, waiting)))
        for name in stopped:
            self._logger.warning("run_inline() ends, and %r is left stopped, with messages that wait for it", name)

    def _step_others(self) -> bool:
        """A step of the routine farthest from the sources that has something to do."""
        for runner in self._others:
            if self._may_step(runner) and runner.step():
                self._due.discard(runner.plan.name)
                return True
        return False

    def _may_step(self, runner: InlineRunner) -> bool:
        """Whether a step would not tear a batch apart."""
        return runner.is_occupied or runner.plan.name in self._due or runner.waiting >= runner.plan.batch

    def _step_source(self, messages: int | None) -> bool:
        """A step of the next source that can do something."""
        for _ in range(len(self._sources)):
            source = self._sources[0]
            self._sources.rotate(-1)
            if messages is not None and source.state is State.RUNNING and source.made >= messages:
                source.end(State.ENDED)
                return True
            if source.step():
                self._due.clear()
                self._note_turn(source)
                return True
        return False

    def _note_turn(self, source: InlineRunner) -> None:
        """After a turn of all sources: a batch that has got nothing by it is not waited for any longer."""
        self._stepped.add(source.plan.name)
        if not all(other.plan.name in self._stepped for other in self._sources if other.state is State.RUNNING):
            return
        self._stepped.clear()
        for runner in self._others:
            name = runner.plan.name
            if runner.waiting and runner.arrived == self._arrived.get(name):
                self._due.add(name)
            self._arrived[name] = runner.arrived

    def _make_batches_due(self) -> bool:
        """No source can go on: no batch is waited for. False when that was so before."""
        names = {runner.plan.name for runner in self._others if runner.plan.batch} - self._due
        self._due |= names
        return bool(names)

    def _end_sources(self) -> bool:
        """Ends the sources that run, also those that were started again; False when there is none."""
        active = [source for source in self._sources if source.state.active]
        for source in active:
            source.end(State.ENDED)
        return bool(active)


def _distances(plan: Plan) -> dict[int, int]:
    """Of each routine, by number: the most wires from a source to it."""
    distances: dict[int, int] = {}

    def measure(number: int) -> int:
        if number not in distances:
            distances[number] = max((measure(edge.sender) + 1 for edge in plan.routines[number].ins), default=0)
        return distances[number]

    for item in plan.routines:
        measure(item.number)
    return distances
