"""The routines of a plan in this process: the shared memory of a real pipe, and a runner for each that is stepped by hand."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from pipert_shm import binding
from pipert_shm.control.attachment import Attachment
from pipert_shm.graph.model import EdgePlan, Plan
from pipert_shm.graph.sizing import assign_slots
from pipert_shm.launcher.footprint import make_rings, make_segment
from pipert_shm.message.types import LocalMessages
from pipert_shm.routine import Notifier, Routine
from pipert_shm.shm.counters import Counters
from pipert_shm.shm.segments import ControlSegment, sweep_stale, unlink_pipe
from pipert_shm.shm.states import FlowState, State
from pipert_shm.statistics import PipeStatistics, read_statistics
from pipert_shm.system.interrupts import interrupts_deferred
from pipert_shm.testing.running import Host, InlineHandling, InlineRunner

_lingering: list[ControlSegment] = []  # of stages that are closed, under views that live


def unmap_lingering() -> None:
    """Unmaps what closed stages left mapped because views of it lived, where they live no longer."""
    seen: list[ControlSegment] = []
    with interrupts_deferred():
        while _lingering:
            segment = _lingering.pop()  # first: what an interrupt comes between is left mapped, and not unmapped twice
            if not segment.unmap():
                seen.append(segment)
        _lingering.extend(seen)


class Stage:
    """All routines of a plan, ready to be stepped. Every flow has mappings of its own, as its process would have.

    Its queues drop nothing and expire nothing: a routine is only stepped while there is room for what it sends. Only the thread
    that makes it may use it. Make it with interrupts deferred, so that a Ctrl-C finds one that can be closed.

    :param plan: changed by it.
    :param name: of the pipe, for people.
    :param notifiers: what each routine notifies events by, by its name.
    :param private: routines that get copies of all frames.
    :raises SharedMemoryFull: when there is too little memory; nothing is left behind then.

    Attributes:
        runners: by the routine's name.
        handling: calls handlers of events, and commands runs and stops.
    """

    def __init__(
        self,
        plan: Plan,
        name: str,
        logger: logging.Logger,
        notifiers: Mapping[str, Notifier],
        *,
        private: Collection[str] = (),
    ) -> None:
        unmap_lingering()
        sweep_stale()
        self.plan = plan
        self.runners: dict[str, InlineRunner] = {}
        self._undo = ExitStack()
        with ExitStack() as undo:
            undo.callback(self._undo.close)
            self._make(name, notifiers, private)
            undo.pop_all()
        self.handling = InlineHandling(self.runners, logger)

    def _make(self, name: str, notifiers: Mapping[str, Notifier], private: Collection[str]) -> None:
        plan = self.plan
        for edge in plan.edges:
            _let_nothing_drop(edge, plan)
        assign_slots(plan)
        for edge in plan.edges:
            if plan.routines[edge.receiver].name in private:
                edge.borrow_cap = 0
        self._segment = make_segment(plan, name)
        self._undo.callback(_let_go, self._segment)
        self._undo.callback(unlink_pipe, self._segment.pipe_id)
        rings = make_rings(plan.routines, self._segment)
        for number, flow in enumerate(plan.flows):
            segment = ControlSegment.open(self._segment.pipe_id)
            segment.needs = self._segment.needs
            self._undo.callback(_let_go, segment)
            self._undo.callback(self.runners.clear)
            binding.FlowRecord(segment.process, number).note_start(FlowState.RUNNING, os.getpid())
            host = Host(plan, segment)
            local: dict[int, LocalMessages] = {}
            for item in plan.flows[flow]:
                attachment = Attachment(
                    outs={edge.number: edge.first_incarnation for edge in item.outs},
                    ins={edge.number: [binding.Incarnation(segment.process, edge.first_incarnation).name] for edge in item.ins},
                    rings=rings,
                    leaving=[],
                )
                self._undo.enter_context(_lent(item.routine, notifiers[item.name]))
                self.runners[item.name] = InlineRunner(host, item, local, attachment, is_private=item.name in private)

    def statistics(self) -> PipeStatistics:
        """What every routine and wire has done so far."""
        return read_statistics(self._segment.process, *self.plan.directory())

    def end(self, error: BaseException | None = None) -> None:
        """Ends what runs, with `cleanup()`.

        :param error: what ended it early. What a `cleanup()` raises is logged then.
        :raises BaseException: what a `cleanup()` raised, the first one, after the others have run.
        """
        first = error
        for runner in self.runners.values():
            if not runner.state.active:
                continue
            try:
                runner.end(State.STOPPED)
            except BaseException as failure:
                if first is None:
                    first = failure
                else:
                    runner.routine._logger.error("%s: cleanup failed, too", runner.failures.who, exc_info=failure)
        if first is not None and error is None:
            raise first

    def close(self) -> None:
        """Gives all memory back, but what views stand on that live: that goes with them, see `unmap_lingering`.

        Ctrl-C waits until it is done, but one may come before it begins: so call it once more in a `finally`.
        """
        with interrupts_deferred():
            try:
                if self.runners:  # else it is closed
                    for runner in self.runners.values():
                        runner.discard()
                    for number in range(len(self.plan.flows)):
                        binding.FlowRecord(self._segment.process, number).note_start(FlowState.ENDED, 0)
            finally:
                self._undo.close()


def _let_nothing_drop(edge: EdgePlan, plan: Plan) -> None:
    """Makes a wire wait for ever, and hold what one call of its ends takes or makes."""
    edge.policy, edge.timeout, edge.max_age = "block", None, None
    edge.capacity = max(edge.capacity, plan.routines[edge.sender].batch, plan.routines[edge.receiver].batch)


def _let_go(segment: ControlSegment) -> None:
    segment.close()
    if not segment.unmap():
        _lingering.append(segment)


@contextmanager
def _lent(routine: Routine, notifier: Notifier) -> Iterator[None]:
    """In the block a routine is of a stage; afterwards it is as it was, and its counters stay as they are."""
    before = routine._notifier
    routine._notifier = notifier
    try:
        yield
    finally:
        routine._notifier, routine._runtime = before, None
        if routine.counter_names:
            routine.counters = Counters(routine.counter_names, list(routine.counters.values()))
