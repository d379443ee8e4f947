"""Makes a change of a running pipe, step by step. Where a step fails, all is put back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from pipert_shm.applying.shape import Pair
from pipert_shm.applying.work import Setting, Values, Work, place_of, wires_of
from pipert_shm.errors import Fault, FlowDied, NotApplied, PipeStateError, RoutineError, WiresValidation, describe
from pipert_shm.events import START_EVENT_NAME, UPDATE_FPS_NAME
from pipert_shm.graph.blueprint import FlowSpec
from pipert_shm.graph.replacement import FlowChange, plan_replacement
from pipert_shm.parent.session import Session
from pipert_shm.pipe import Pipe
from pipert_shm.pipeline_file.reader import Where
from pipert_shm.routine import Routine
from pipert_shm.wire import Wire

AT_REST = ("built", "stopped")  # states of a routine that was not started yet, or that somebody has stopped


class Change:
    """One change of a pipe.

    :param patience: seconds that the `setup()` of new routines may take.
    """

    def __init__(self, pipe: Pipe, session: Session, work: Work, patience: float) -> None:
        self._pipe = pipe
        self._session = session
        self._work = work
        self._patience = patience
        self._where: Where = ()  # the section that the step at hand is about
        self._undo: list[Callable[[], None]] = []
        self._wires = wires_of(pipe._blueprint)
        states = {name: its.state for name, its in pipe.statistics().routines.items()}
        self._at_rest = {name for name, state in states.items() if state in AT_REST}
        self._is_started = pipe._started or len(self._at_rest) < len(states)  # by an attached process, perhaps

    def make(self) -> None:
        """Makes it.

        :raises NotApplied: when a step fails, and all was put back.
        :raises PipeStateError: when the pipe ends meanwhile.
        """
        mark, held = self._session.outcome.mark(), self._held()
        try:
            self._session.changes.begin(held, self._replicas_of(self._work.difference.replaced), self._linked())
        except WiresValidation as error:
            self._where = ("wires",)
            raise NotApplied(self._fault(error), []) from error
        try:
            self._advance()
        except BaseException as error:
            if self._session.gone.is_set():
                raise PipeStateError("the pipe has ended while it was changed") from error
            failures = self._put_back()
            replaced = self._replicas_of(self._work.difference.replaced)  # the others' failures go with their flows
            numbers = [item.number for name in replaced for item in self._session.plan.flows[name]]
            self._session.outcome.forget(replaced, numbers, since=mark)
            if not isinstance(error, Exception):
                raise
            raise NotApplied(self._fault(error), failures) from error
        finally:
            with suppress(PipeStateError):  # it has ended
                self._session.changes.end()

    def _held(self) -> tuple[str, ...]:
        """The routines that stay, and lose wires, or may find them ended since a routine before them fails."""
        difference, flow_of = self._work.difference, self._work.difference.before.flow_of
        gone = {*difference.removed, *difference.rebuilt}
        receivers = {receiver for _, receiver in self._work.wires_before}
        receivers |= {to for sender, to in difference.before.wires if flow_of[sender] in {*gone, *difference.replaced}}
        plan = self._session.plan
        names = (receiver for receiver in receivers if flow_of.get(receiver) not in gone)
        return tuple(one for name in names for one in plan.replicas.get(name, (name,)))

    def _linked(self) -> Counter[str]:
        """The routines that stay, and to how many receivers in other flows each of them is to be linked."""
        difference, replicas = self._work.difference, self._session.plan.replicas
        flows, flow_of = difference.after.flows, difference.after.flow_of
        linked: Counter[str] = Counter()
        for sender, receiver in difference.linked:
            if flow_of[sender] != flow_of[receiver] and flow_of[sender] not in {*difference.added, *difference.rebuilt}:
                for one in replicas.get(sender, (sender,)):
                    linked[one] += flows[flow_of[receiver]].replicas
        return linked

    def _fault(self, error: Exception) -> Fault:
        where: Where = self._where
        if isinstance(error, RoutineError):
            where = ("routines", error.routine.partition("#")[0])
            text = str(error).removeprefix(f"routine {error.routine!r}: ")
        elif isinstance(error, FlowDied):
            where, text = ("flows", error.flow.partition("#")[0]), f"{error}, before setup() of its routines was done"
        else:
            text = describe(error)
        return self._work.after.fault(where, text)

    # ---- on and back -----------------------------------------------------------------------------

    def _advance(self) -> None:
        work, difference = self._work, self._work.difference
        kept = [name for name in work.flows if name in work.flows_before and name not in difference.rebuilt]
        replaced = tuple(difference.replaced)
        if kept:
            self._undo.append(lambda: self._take_back(kept, replaced))
            self._put({name: work.flows[name] for name in kept}, replaced)
            # before there are flows that don't run yet: they would drain nothing, and the new processes need holder bits
            self._session.changes.await_up(self._replicas_of(replaced), self._patience)
        for routine, setting in work.settings.items():
            self._undo.append(lambda routine=routine: self._set(routine, work.settings_before[routine]))  # type: ignore[misc]
            self._set(routine, setting)
        self._rewire()
        flows = (*replaced, *difference.added, *difference.rebuilt)
        self._start(flows)
        self._session.changes.await_runs(self._replicas_of(flows), self._patience)

    def _put_back(self) -> list[str]:
        """Undoes all that was done, the last step first; what could not be undone, in words."""
        failures = []
        for step in (*reversed(self._undo), self._run_again):
            try:
                step()
            except Exception as error:
                failures.append(describe(error))
        return failures

    def _run_again(self) -> None:
        """Starts what was put back, and waits until it runs."""
        difference, changes = self._work.difference, self._session.changes
        changed = (*difference.replaced, *difference.removed, *difference.rebuilt)
        flows = [name for name in changed if name in self._pipe._blueprint.flows]
        self._start(name for name in flows if name not in difference.replaced)  # these drain what holds up the others
        changes.await_up(self._replicas_of(flows), self._patience)
        self._start(flows)
        changes.await_runs(self._replicas_of(flows), self._patience)

    # ---- the steps -------------------------------------------------------------------------------

    def _put(self, specs: Mapping[str, FlowSpec], now: Iterable[str]) -> None:
        """Puts other routines into flows.

        :param now: the flows that get a new process at once.
        """
        pipe, session = self._pipe, self._session
        self._where = ("flows", next(iter(specs)))
        for name, spec in specs.items():
            pipe._adopt(name, *spec.routines)
        changes = {
            name: FlowChange({routine.name: routine for routine in spec.routines}, spec.restart, spec.process)
            for name, spec in specs.items()
        }
        transmitters = [its["data_transmitter"] for its in self._work.wires.values()]
        plan, audience, replacement = plan_replacement(session.plan, changes, tuple(now), transmitters)
        session.changes.replace(plan, replacement)
        session.plan, session.audience = plan, audience
        for name, spec in specs.items():
            pipe._blueprint.replace(name, spec)

    def _take_back(self, kept: Iterable[str], now: Iterable[str]) -> None:
        """Puts the earlier routines into flows again. A flow that has failed for good meanwhile is built anew."""
        states = self._pipe.statistics().flows
        failed = [name for name in kept if any(states[one].state == "failed" for one in self._replicas_of([name]))]
        rest = {name: self._work.flows_before[name] for name in kept if name not in failed}
        if rest:
            self._put(rest, [name for name in now if name in rest])
        for name in failed:
            routines = {routine.name for routine in self._work.flows_before[name].routines}
            self._remove(name)
            wires = {pair: its for pair, its in self._wires.items() if routines.intersection(pair)}
            self._make({name: self._work.flows_before[name]}, wires)

    def _set(self, routine: str, setting: Setting) -> None:
        """Sets parameters, and the rate, of a routine that runs."""
        self._where = ("routines", routine)
        if setting.fps is not None:
            self._pipe._notify(UPDATE_FPS_NAME, None, routine, {"fps": setting.fps}, only_if_built=True)
        if setting.values:
            for one in self._session.plan.replicas.get(routine, (routine,)):
                self._session.changes.set_parameters(one, setting.values)

    def _rewire(self) -> None:
        """Unlinks and removes what goes, and makes what comes."""
        work, difference = self._work, self._work.difference
        for pair in difference.cut:
            self._where = ("wires",)
            self._unlink(pair)
            self._undo.append(lambda pair=pair: self._make({}, {pair: work.wires_before[pair]}))  # type: ignore[misc]
        gone = (*difference.removed, *difference.rebuilt)
        if gone:
            cut = {pair: its for pair, its in work.wires_before.items() if pair not in difference.cut}
            self._where = ("flows",)
            self._remove(*gone)  # together: a join goes with those that it joins
            self._undo.append(lambda: self._make({name: work.flows_before[name] for name in gone}, cut))
        fresh = (*difference.added, *difference.rebuilt)
        if fresh or work.wires:
            self._make({name: work.flows[name] for name in fresh}, work.wires)
            self._undo.append(self._unmake)

    def _make(self, flows: Mapping[str, FlowSpec], wires: Mapping[Pair, Values]) -> None:
        """Adds flows and wires: all of them, or none."""
        pipe = self._pipe
        missing = {name: spec for name, spec in flows.items() if name not in pipe._blueprint.flows}
        try:
            for name, spec in missing.items():
                self._where = ("flows", name)
                _create(pipe, name, spec)
            by_name = {routine.name: routine for flow in pipe.flows.values() for routine in flow.routines.values()}
            for (one, other), options in wires.items():
                self._where = place_of(self._work.after, (one, other))
                pipe.link(Wire(by_name[one], by_name[other], **options))
            pipe.build()
        except BaseException:
            pipe._blueprint.forget_new()
            raise

    def _unmake(self) -> None:
        """Takes away the flows and wires that were made."""
        difference = self._work.difference
        fresh = (*difference.added, *difference.rebuilt)
        names = {routine.name for name in fresh for routine in self._work.flows[name].routines}
        for pair in self._work.wires:
            if not names.intersection(pair):
                self._unlink(pair)
        if fresh:
            self._remove(*fresh)

    def _unlink(self, pair: Pair) -> None:
        by_name = self._by_name()
        self._pipe.unlink(by_name[pair[0]], by_name[pair[1]])

    def _remove(self, *names: str) -> None:
        self._pipe.remove_flow(*names, receivers_wait=True)

    def _by_name(self) -> dict[str, Routine]:
        return {name: routine for flow in self._pipe.flows.values() for name, routine in flow.routines.items()}

    def _start(self, flows: Iterable[str]) -> None:
        """Starts the routines of flows, but not those that somebody has stopped. In a pipe that is not started, none."""
        if not self._is_started:
            return
        plan, replaced = self._session.plan, self._replicas_of(self._work.difference.replaced)
        starting: dict[str, Iterable[str]] = {}
        for name in self._replicas_of(flows):
            resting = self._at_rest if name in replaced else ()
            members = [item.name for item in plan.flows[name] if item.name not in resting]
            if members:
                starting[name] = members
        if starting:
            self._pipe._notify(START_EVENT_NAME, starting, None, {})

    def _replicas_of(self, flows: Iterable[str]) -> tuple[str, ...]:
        """The flows as the launcher knows them."""
        replicas = self._session.plan.replicas
        return tuple(one for name in flows for one in replicas.get(name, (name,)))


def _create(pipe: Pipe, name: str, spec: FlowSpec) -> None:
    for routine in spec.routines:
        routine.flow_name = routine._notifier = None
    pipe.create_flow(
        name,
        False,
        *spec.routines,
        replicas=spec.replicas,
        ordered=spec.ordered,
        restart=spec.restart.policy,
        max_restarts=spec.restart.limit,
        restart_window=spec.restart.window,
        max_rss=spec.process.max_rss,
        cpus=spec.process.cpus,
        nice=spec.process.nice,
    )
