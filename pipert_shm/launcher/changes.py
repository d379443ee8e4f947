"""Changes that the parent makes to a running pipe in steps: other routines for flows, and waits until they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from pipert_shm.control.channel import Received
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.messages import (
    Answer,
    AwaitRuns,
    Changing,
    Extended,
    LetEnd,
    Message,
    ParametersSet,
    Replace,
    SetParameters,
    SetUp,
    StateChanged,
)
from pipert_shm.errors import FlowDied, PipertError, PipeStateError, RoutineError, UnknownTarget, WiresValidation, describe
from pipert_shm.graph.model import RoutinePlan
from pipert_shm.graph.replacement import Replacement
from pipert_shm.launcher.fork_server import ForkServer
from pipert_shm.launcher.lifecycle import Lifecycle
from pipert_shm.launcher.parent import Parent
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.launcher.servers import Servers
from pipert_shm.launcher.undrained import Undrained
from pipert_shm.shm.states import EndReason

OFF_TRIAL = 5.0  # seconds that a flow which dies in a change waits for its restart besides


class _Wait:
    """What is waited for: until flows run.

    :param set_up: whether for `setup()`, too, of each routine that is to run.

    Attributes:
        missing: the flows that don't run yet.
    """

    def __init__(self, flows: frozenset[Flow], set_up: bool) -> None:
        self.flows = flows
        self.set_up = set_up
        self.missing: set[Flow] = set()


class Changes:
    """Makes the steps of a change, and knows what each of them waits for.

    :param end: ends a flow's process, so that a new one takes its place.
    :param tell_attached: sends a message to all attached processes.
    """

    def __init__(
        self,
        parent: Parent,
        roster: Roster,
        undrained: Undrained,
        lifecycle: Lifecycle,
        servers: Servers,
        end: Callable[[Flow], object],
        tell_attached: Callable[[Message], object],
    ) -> None:
        self._parent = parent
        self._roster = roster
        self._undrained = undrained
        self._lifecycle = lifecycle
        self._servers = servers
        self._end = end
        self._tell_attached = tell_attached
        self._number = 0  # of the change
        self._held: list[RoutinePlan] = []  # routines that are kept from ending
        self._set_up: dict[int, int] = {}  # by a routine's `origin`: the last run whose setup() has returned
        self._causes: dict[int, str] = {}  # likewise: why it has failed
        self._waits: dict[int, _Wait] = {}  # by question
        self._on_trial: set[Flow] = set()  # since the change began
        self._settings: dict[int, Flow] = {}  # by question

    def serve(self, table: Dispatch) -> None:
        """Adds the handlers of the parent's messages to a table."""
        table.on_received(Changing, self._change)
        table.on_received(Replace, self._replace)
        table.on_received(AwaitRuns, self._await_runs)
        table.on_received(SetParameters, self._set_parameters)

    def serve_flow(self, table: Dispatch) -> None:
        """Adds the handlers of a flow's messages to its table."""
        table.on(StateChanged, self._note_state)
        table.on(SetUp, self._note_set_up)
        table.on_received(ParametersSet, self._note_parameters)

    # ---- beginning and end -----------------------------------------------------------------------

    def _change(self, message: Changing, received: Received) -> None:
        if message.on:
            try:
                self._require_bits(message)
            except WiresValidation as error:
                self._parent.refuse(received.question, error)
                return
            self._lifecycle.changing = True
            self._number += 1
            for item in map(self._roster.plan.find, message.held):
                if item is not None:
                    self._held.append(item)
                    self._roster.records[item.number].hold(self._number)
        else:
            held, self._held = self._held, []
            self._on_trial.clear()
            for item in held:
                if self._roster.plan.find(item.name) is item:
                    self._let_end(item)
            self._lifecycle.end_change()
        self._parent.tell(Answer(), received.question)

    def _require_bits(self, message: Changing) -> None:
        """Has the holder bits free that the change takes, before anything is cut.

        :raises WiresValidation: when there are not enough.
        """
        plan = self._roster.plan
        needs: Counter[int] = Counter()
        for flow in map(self._roster.flows.get, message.restarted):
            for item in flow.routines if flow is not None else ():
                needs[item.number] += sum(not edge.local for edge in item.outs)
        for name, receivers in message.linked:
            sender = plan.find(name)
            if sender is not None:
                needs[sender.number] += receivers
        for number, bits in needs.items():
            if not self._undrained.can_have(plan.routines[number], bits):
                raise WiresValidation(
                    f"{plan.name_of(number)!r} has no holder bits left for {bits} more receivers, as long as frames of earlier "
                    f"processes are kept"
                )

    def _let_end(self, item: RoutinePlan) -> None:
        """Lets a routine end that was held, as soon as its process has heard of its wires."""
        flow = self._roster.flows[item.flow]
        if flow.up:
            self._roster.send(flow, LetEnd(item.name, self._number))
        else:
            self._roster.records[item.number].hold(0)

    # ---- other routines --------------------------------------------------------------------------

    def _replace(self, message: Replace, received: Received) -> None:
        server: ForkServer | None = None
        try:
            if received.trouble:
                raise OSError(24, f"the pipe's launcher has no room for other routines ({received.trouble})")
            self._lifecycle.require_life("nothing can be changed")
            flows = [self._flow(name) for name in message.replacement.flows]
            if received.fds:
                known = {item.number: item.generation for item in self._roster.plan.routines}
                server = self._servers.make(received.fds, message.fork_server, known)
            self._take_in(message.replacement, flows, server)
        except Exception as error:
            if server is not None:
                self._servers.drop(server)
            self._parent.refuse(received.question, error)
            return
        self._servers.end_unused()
        self._parent.tell(Answer(), received.question)

    def _flow(self, name: str) -> Flow:
        flow = self._roster.flows.get(name)
        if flow is None:
            raise UnknownTarget("flow", name, list(self._roster.flows))
        if flow.failed:
            raise PipeStateError(f"flow {name!r} has failed for good, and can't get other routines")
        return flow

    def _take_in(self, replacement: Replacement, flows: Iterable[Flow], server: ForkServer | None) -> None:
        plan = self._roster.plan
        for flow in flows:
            for item, other in zip(flow.routines, replacement.flows[flow.name], strict=True):
                item.routine, item.logic = other.routine, other.logic
            flow.server = server or flow.server
        plan.restarts.update(replacement.restarts)
        plan.processes.update(replacement.processes)
        self._lifecycle.audience = replacement.audience
        for flow in self._roster.flows.values():
            if flow.up:
                self._roster.send(flow, Extended(plan.names, replacement.audience))
        self._tell_attached(Extended(plan.names, replacement.audience))
        for flow in flows:
            if flow.name in replacement.now:
                flow.deaths.clear()  # those of other routines
                self._end(flow)

    # ---- until they run --------------------------------------------------------------------------

    def _await_runs(self, message: AwaitRuns, received: Received) -> None:
        flows = frozenset(self._roster.flows[name] for name in message.flows)
        self._waits[received.question] = _Wait(flows, message.set_up)
        self._on_trial.update(flows)
        for flow in flows:
            self._look_for(received.question, flow)
        self._answer_if_all_run(received.question)

    def look(self, flow: Flow) -> None:
        """Answers what has come about, since something of the flow has changed."""
        for question in list(self._waits):
            self._look_for(question, flow)
            self._answer_if_all_run(question)

    def _look_for(self, question: int, flow: Flow) -> None:
        wait = self._waits.get(question)
        if wait is None or flow not in wait.flows:
            return
        failure = self._failure_of(flow, wait.set_up)
        if failure is not None:
            self._give_up(question, failure)
        elif self._runs(flow, wait.set_up):
            wait.missing.discard(flow)
        else:
            wait.missing.add(flow)

    def _answer_if_all_run(self, question: int) -> None:
        wait = self._waits.get(question)
        if wait is not None and not wait.missing:
            del self._waits[question]
            self._parent.tell(Answer(), question)

    def _give_up(self, question: int, failure: PipertError) -> None:
        del self._waits[question]
        self._parent.refuse(question, failure)

    def _runs(self, flow: Flow, set_up: bool) -> bool:
        """Whether it has the process that it is to have, and each routine that is to run has done its `setup()`."""
        if not flow.ready or flow.doom is not EndReason.NONE:
            return False
        return not set_up or all(
            not self._lifecycle.is_wanted(item.name) or self._set_up.get(item.origin) == self._lifecycle.run_of(item.number)
            for item in flow.routines
        )

    def _failure_of(self, flow: Flow, set_up: bool) -> PipertError | None:
        if flow.failed:
            return flow.died()
        for item in flow.routines if set_up else ():
            if self._lifecycle.has_failed(item.number) and flow.doom is EndReason.NONE:
                cause = self._causes.get(item.origin, "it has failed; its log says why")
                return RoutineError(item.name, cause.replace(f" of routine {item.name!r}", "", 1))
        return None

    def _note_state(self, message: StateChanged) -> None:
        self._lifecycle.note_state(message)
        if message.cause:
            self._causes[self._roster.plan.routines[message.routine].origin] = message.cause
        self.look(self._roster.flow_at(message.routine))

    def _note_set_up(self, message: SetUp) -> None:
        self._set_up[self._roster.plan.routines[message.routine].origin] = message.run
        self.look(self._roster.flow_at(message.routine))

    def note_down(self, flow: Flow) -> None:
        """Notes that a flow has lost its process, or got none."""
        for item in flow.routines:
            self._set_up.pop(item.origin, None)
            self._causes.pop(item.origin, None)
            if item not in self._held:  # a LetEnd may be lost with the process
                self._roster.records[item.number].hold(0)
        for question in [question for question, asked in self._settings.items() if asked is flow]:
            del self._settings[question]
            self._parent.tell(Answer(), question)  # the next process begins with these parameters
        for wait in self._waits.values():
            wait.missing |= wait.flows & {flow}
        if flow.ended_by is EndReason.ORDER:
            return
        if self._lifecycle.changing and flow in self._on_trial and flow.restart_at is not None:
            flow.restart_at += OFF_TRIAL  # it is put back before, or replaced
        for question in [question for question, wait in self._waits.items() if wait.set_up and flow in wait.flows]:
            how = str(flow.died()) if flow.ended_by is not EndReason.START else f"flow {flow.name!r} can't be started"
            self._give_up(question, FlowDied(flow.name, flow.exit_code, how.removeprefix(f"flow {flow.name!r} ")))

    # ---- parameters ------------------------------------------------------------------------------

    def _set_parameters(self, message: SetParameters, received: Received) -> None:
        flow = self._roster.flow_of(message.routine)
        if flow is None:
            self._parent.refuse(received.question, UnknownTarget("routine", message.routine, self._roster.plan.present))
        elif not flow.up:
            self._parent.tell(Answer(), received.question)
        else:
            self._settings[received.question] = flow
            self._roster.send(flow, message, received.question)

    def _note_parameters(self, message: ParametersSet, received: Received) -> None:
        if self._settings.pop(received.question, None) is None:
            return
        if message.why:
            self._parent.refuse(received.question, RoutineError(message.routine, message.why))
        else:
            self._parent.tell(Answer(), received.question)

    def fail(self, question: int, error: Exception) -> None:
        """A flow could not read a question, or its answer can't be read here."""
        if self._settings.pop(question, None) is not None:
            self._parent.refuse(question, PipeStateError(f"parameters are not set: {describe(error)}"))
