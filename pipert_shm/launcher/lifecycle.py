"""Delivers events, and keeps track of which routines are to run: starts, stops and the end of the pipe."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipert_shm.control import messages
from pipert_shm.control.messages import Ended, Failed, HandleEvent, Message, StartRoutines, StateChanged
from pipert_shm.errors import PipeStateError, WiresValidation
from pipert_shm.events import (
    KILL_EVENT_NAME,
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UNLINK_EVENT_NAME,
    Audience,
    Event,
)
from pipert_shm.graph.model import RoutinePlan
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.rewiring import Rewiring
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.shm.states import FlowState, State

MOST_UNHANDLED = 16 << 20  # bytes of events that a flow was sent and has not handled
EVENT_BYTES = 512  # what an event costs besides its parameters


class Lifecycle:
    """Delivers events in one order for all flows, and knows the wanted and the actual state of each routine.

    :param tell: sends the parent a message.
    :param grace: seconds that a flow has to end in, before SIGKILL.
    :param stop_on_failure: whether the whole pipe ends when a routine or a flow has failed for good.

    Attributes:
        audience: the routines that can be addressed, and the events that they handle.
        kill_by: when flows that still run get SIGKILL, as of time.monotonic(); None while the pipe is not to end.
        starts: how many starts the parent has requested.
        refused: how many events were refused, since a flow had too many unhandled ones.
        changing: a change is being made in steps; until it has ended nothing that fails ends the pipe, nor is it over.
    """

    def __init__(
        self,
        roster: Roster,
        incarnations: Incarnations,
        rewiring: Rewiring,
        audience: Audience,
        tell: Callable[[Message], None],
        grace: float,
        stop_on_failure: bool,
    ) -> None:
        self.audience = audience
        self._roster = roster
        self._incarnations = incarnations
        self._rewiring = rewiring
        self._tell = tell
        self._grace = grace
        self._stop_on_failure = stop_on_failure
        self._wanted: set[str] = set()
        self._stopped: set[str] = set()  # routines that were ever told to stop
        self._runs: dict[int, int] = {}  # by routine number, like the next
        self._states: dict[int, State] = {}
        self.kill_by: float | None = None
        self.starts = 0
        self.refused = 0
        self.changing = False
        self.admit()

    def admit(self) -> None:
        """Takes in routines that were added to the plan."""
        for item in self._roster.plan.routines:
            self._runs.setdefault(item.number, 0)
            self._states.setdefault(item.number, State.BUILT)

    def dismiss(self, flow: Flow) -> None:
        """Forgets the routines of a flow that was removed."""
        for item in flow.routines:
            del self._runs[item.number], self._states[item.number]
            self._wanted.discard(item.name)
            self._stopped.discard(item.name)

    @property
    def ending(self) -> bool:
        """Whether the pipe is to end."""
        return self.kill_by is not None

    def require_life(self, what: str) -> None:
        """Checks that the pipe is not to end.

        :param what: what can't be done else, for the error.
        :raises PipeStateError: when the pipe is to end.
        """
        if self.ending:
            raise PipeStateError(f"the pipe has ended; {what}")

    # ---- events ----------------------------------------------------------------------------------

    def deliver(self, event: Event, note_taken: Callable[[], object] = lambda: None) -> None:
        """Does what an event asks for, and sends it to the flows of the routines that it addresses.

        :param note_taken: called when the event is accepted, before any flow hears of it.
        :raises PipeStateError: when the pipe has ended, or one of the flows has too many unhandled events.
        :raises WiresValidation, ValueError: when a wire can't be linked. In each case nothing is done.
        """
        if event.name == KILL_EVENT_NAME:
            note_taken()
            self.kill()
            return
        unknown = [name for name in event.routines if self._roster.flow_of(name) is None]
        if unknown:
            raise WiresValidation(f"the event {event.name!r} is addressed to {unknown[0]!r}, and there is no such routine")
        cost = EVENT_BYTES + len(event.params)
        groups = self._roster.by_flow(event.routines)
        for flow, _ in groups:
            self._require_room(flow, event, cost)
        if event.name == LINK_EVENT_NAME:
            self.require_life("nothing can be linked")
            self._rewiring.link(event)
        elif event.name == UNLINK_EVENT_NAME:
            self._rewiring.unlink(event)
        elif event.name == STOP_EVENT_NAME:
            self._wanted.difference_update(event.routines)
            self._stopped.update(event.routines)
        note_taken()
        if event.name == START_EVENT_NAME:
            self._start(event.routines)
            return
        for flow, names in groups:
            self.send_event(flow, Event(event.name, names, event.params, event.wiring))

    def _require_room(self, flow: Flow, event: Event, cost: int) -> None:
        if flow.up and flow.unhandled + cost > MOST_UNHANDLED:
            self.refused += 1
            raise PipeStateError(
                f"flow {flow.name!r} has not handled {flow.unhandled:,} bytes of events yet (the limit is {MOST_UNHANDLED:,}), "
                f"and takes no {event.name!r} now ({self.refused} refused so far): does a handler of one of its routines hang?"
            )

    def send_event(self, flow: Flow, event: Event) -> None:
        """Sends an event to one flow. When the flow has no process now, logs which routines miss the event."""
        cost = EVENT_BYTES + len(event.params)
        if flow.up:
            flow.unhandled += cost
            self._roster.send(flow, HandleEvent(event, cost))
            return
        missing = [name for name in event.routines if event.name in self.audience.handlers.get(name, ())]
        if missing:
            state = "has failed" if flow.failed else "is being restarted"
            self._roster.logger.warning(
                "event %r does not reach %s: flow %r %s", event.name, ", ".join(missing), flow.name, state
            )

    # ---- starts ----------------------------------------------------------------------------------

    def _start(self, names: tuple[str, ...]) -> None:
        """Starts the routines that don't run. Reopens ended streams first, so that no receiver sees an old end."""
        groups = self._roster.by_flow(names)
        items = [item for flow, members in groups for item in flow.routines if item.name in members]
        starting = [item for item in items if self._can_start(item)]
        for item in starting:
            state = self._roster.state_of(item.number)
            if state is State.FAILED:
                self._tell(Failed(f"routine {item.number}", ""))  # it gets another try
            if state.over:
                self._reopen(item)
        for item in starting:
            self._wanted.add(item.routine.name)
            self._runs[item.number] += 1
            self._states[item.number] = State.RUNNING
        if starting:
            self._tell(messages.Started())
        new = {item.number for item in starting}
        for flow, members in groups:
            its = [item for item in flow.routines if item.name in members and (item.number in new or self._is_deaf(item))]
            runs = tuple((item.routine.name, self._runs[item.number]) for item in its)
            if runs and flow.ready:  # else `start_again` follows
                self._roster.send(flow, StartRoutines(runs))

    def _is_deaf(self, item: RoutinePlan) -> bool:
        """Whether it is to run and does not: an earlier start was lost, and is sent again."""
        return item.name in self._wanted and self._roster.state_of(item.number) in (State.BUILT, State.STOPPED)

    def _can_start(self, item: RoutinePlan) -> bool:
        runs = item.routine.name in self._wanted and not self._roster.state_of(item.number).over
        flow = self._roster.flows[item.flow]
        return not runs and not flow.failed and not flow.leaves

    def _reopen(self, item: RoutinePlan) -> None:
        for edge in item.outs:
            live = self._incarnations.live(edge)
            if live is not None:
                self._incarnations[live].reopen()
        for edge in item.ins:
            self._roster.edge_record(edge).receiver_ended = False
        self._roster.records[item.number].state = State.STOPPED

    def start_again(self, flow: Flow) -> None:
        """Starts the routines of a restarted flow that ran, or were to run, when it died."""
        self._tell(Failed(f"flow {flow.name}", ""))  # an earlier process could not come up, but this one has
        runs = []
        for item in flow.routines:
            name, state = item.routine.name, self._roster.state_of(item.number)
            if name in self._wanted and not state.over:
                self._runs[item.number] += 1
                runs.append((name, self._runs[item.number]))
            elif not state.over and (state is not State.BUILT or name in self._stopped):
                self._roster.records[item.number].state = State.STOPPED  # it was told to stop while it had no process
        if runs:
            self._roster.send(flow, StartRoutines(tuple(runs)))

    # ---- states ----------------------------------------------------------------------------------

    def look_at(self, flow: Flow) -> None:
        """Reads the states of a flow's routines from their records, since a message of the flow was lost."""
        for item in flow.routines:
            state = self._roster.state_of(item.number)
            if state.over and state is not self._states[item.number]:
                cause = f"routine {item.routine.name!r} failed; its log says why" if state is State.FAILED else ""
                self.note_state(StateChanged(item.number, self._runs[item.number], state, cause))

    def note_state(self, message: StateChanged) -> None:
        """Notes a routine's new state.

        :raises LookupError: when there is no such routine.
        """
        number, state = message.routine, State(message.state)
        if number not in self._states:
            raise LookupError(f"there is no routine {number}")
        if message.run < self._runs[number]:
            return  # it is about a run before the last start
        self._states[number] = state
        if message.cause and not self._roster.flow_at(number).leaves:
            self._tell(Failed(f"routine {number}", message.cause))
            self._stop_if_failed()
        if state.over:
            self._wanted.discard(self._roster.plan.routines[number].routine.name)
            self.tell_if_ended()

    def fail(self, flow: Flow) -> None:
        """Marks all routines of a flow that is given up as failed."""
        self._stop_if_failed()
        for item in flow.routines:
            self._roster.records[item.number].state = State.FAILED
            self.note_state(StateChanged(item.number, self._runs[item.number], State.FAILED, ""))

    def tell_if_ended(self) -> None:
        """Tells the parent when no routine runs or will run. A pipe without routines waits for new ones."""
        if not self.changing and self._states and all(state.over for state in self._states.values()):
            self._tell(Ended(self.starts))

    def _stop_if_failed(self) -> None:
        if self._stop_on_failure and not self.changing:
            self.kill()

    def end_change(self) -> None:
        """A change has ended: what has failed meanwhile, and is still there, counts now."""
        self.changing = False
        if State.FAILED in self._states.values():
            self._stop_if_failed()
        self.tell_if_ended()

    def is_wanted(self, routine: str) -> bool:
        """Whether a routine is to run."""
        return routine in self._wanted

    def has_failed(self, number: int) -> bool:
        """Whether a routine has failed, as far as its flow has told."""
        return self._states[number] is State.FAILED

    def run_of(self, number: int) -> int:
        """The number of a routine's last run that was ordered."""
        return self._runs[number]

    # ---- the end ---------------------------------------------------------------------------------

    def kill(self) -> None:
        """Asks every flow to end. Those that don't end within the grace period are killed later."""
        if self.kill_by is not None:
            return
        self.kill_by = time.monotonic() + self._grace
        for flow in self._roster.flows.values():
            if not flow.up:
                self.note_end(flow)
            flow.restart_at = flow.recover_at = None
            self._roster.send(flow, messages.Kill())

    def note_end(self, flow: Flow) -> None:
        """Marks a flow as ended: it has no process any more, and gets none, since the pipe ends."""
        if flow.failed:
            return
        flow.record.note_death(FlowState.ENDED, flow.exit_code, flow.ended_by, restarting=False)
        for item in flow.routines:
            record = self._roster.records[item.number]
            if self._roster.state_of(item.number).active:  # it was killed during a run
                record.count_crash()
                record.state = State.STOPPED
