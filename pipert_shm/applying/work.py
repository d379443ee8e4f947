"""What a change of a running pipe takes, worked out and checked before anything of the pipe is touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from itertools import starmap
from typing import Any

from pipert_shm.applying.difference import Detail, Difference, between, fixed
from pipert_shm.applying.shape import Pair, same, shape_of
from pipert_shm.errors import ConfigError, PayloadError, PipertError, PipeStateError, RoutineError
from pipert_shm.events import LARGEST_PARAMETERS
from pipert_shm.graph.blueprint import Blueprint, FlowSpec
from pipert_shm.graph.model import Plan, Restart
from pipert_shm.graph.process_settings import ProcessSettings
from pipert_shm.graph.replacement import why_not
from pipert_shm.opaque import pack
from pipert_shm.parameters import setters_of
from pipert_shm.pipe import Pipe
from pipert_shm.pipeline_file.loading import ACROSS_HOSTS, PipelineFile
from pipert_shm.pipeline_file.reader import Where
from pipert_shm.pipeline_file.schema import FlowSettings, WireSettings
from pipert_shm.routine import Routine
from pipert_shm.wire import Wire

Values = dict[str, Any]  # of parameters, by name


@dataclass(frozen=True, slots=True)
class Setting:
    """What is set in a routine that runs.

    Attributes:
        values: of parameters that have a setter.
        fps: the most calls a second; None: as they are.
    """

    values: Values = field(default_factory=dict)
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """A change, worked out.

    Attributes:
        difference: what is done.
        after: the file.
        flows: those that differ, as they will be.
        flows_before: those that differ or go, as they are.
        settings: what is set in routines that run.
        settings_before: the same, as it is.
        wires: the arguments of the wires that are made.
        wires_before: those of the wires that go.
    """

    after: PipelineFile
    difference: Difference
    flows: Mapping[str, FlowSpec]
    flows_before: Mapping[str, FlowSpec]
    settings: Mapping[str, Setting]
    settings_before: Mapping[str, Setting]
    wires: Mapping[Pair, Values]
    wires_before: Mapping[Pair, Values]


class Planner:
    """Works a change out. One thread.

    :raises ConfigError: when the file does not fit, or asks for what can't be changed while the pipe runs.
    """

    def __init__(self, pipe: Pipe, plan: Plan, before: PipelineFile, after: PipelineFile) -> None:
        self._pipe = pipe
        self._plan = plan
        self._before = before
        self._after = after
        self._shapes = shape_of(before.settings), shape_of(after.settings)
        self._running = {routine.name: routine for spec in pipe._blueprint.flows.values() for routine in spec.routines}
        self._wires = wires_of(pipe._blueprint)
        states = {name: flow.state for name, flow in pipe.statistics().flows.items()}
        self._failed = {
            name
            for name in self._shapes[0].flows
            if any(states.get(one) == "failed" for one in plan.replicas.get(name, (name,)))
        }
        self._made: dict[str, Routine] = {}

    def plan(self, *, refuse: bool = True) -> Work:
        """The work, checked.

        :param refuse: whether it is an error if the file asks for what can't be changed while the pipe runs.
        """
        self._check_alike()
        if refuse:
            self._refuse(fixed(*self._shapes))
        self._make(flow for flow in self._after.settings.flows if self._differs(flow))  # all at once, to tell all faults
        difference = between(*self._shapes, self._is_settable, self._is_rebuilt, self._joins, self._failed)
        self._make((*difference.rebuilt, *difference.replaced))
        work = self._work(difference)
        self._check(work)
        return work

    def _differs(self, flow: str) -> bool:
        """Whether the file says something else of a flow, or of its routines."""
        before, after = self._shapes
        its = after.flows[flow]
        routines = ((before.routines.get(name), after.routines[name]) for name in its.routines)
        return not (flow in before.flows and same(before.flows[flow], its) and all(starmap(same, routines)))

    def _make(self, flows: Iterable[str]) -> None:
        """Makes the routines of flows, as they will be."""
        members = (routine for flow in flows for routine in self._after.settings.flows[flow].routines)
        self._made |= self._after.make_routines([routine for routine in members if routine not in self._made])

    def _is_settable(self, routine: str, parameter: str) -> bool:
        running = self._running.get(routine)
        if running is None or parameter not in setters_of(type(running)):
            return False
        for file in (self._before, self._after):
            if parameter not in file.settings.routines[routine].parameters and _default_of(type(running), parameter) is _NONE:
                return False
            try:
                pack("a parameter", self._value(file, routine, parameter), LARGEST_PARAMETERS)
            except PayloadError:  # it can't be sent to the flow
                return False
        return True

    def _value(self, file: PipelineFile, routine: str, parameter: str) -> Any:
        given = file.arguments[routine]
        return given[parameter] if parameter in given else _default_of(type(self._running[routine]), parameter)

    def _is_rebuilt(self, flow: str) -> bool:
        """Whether a flow can't just get other routines."""
        self._make([flow])
        names = self._plan.replicas.get(flow, (flow,))
        if names[0] not in self._plan.flows:
            return True
        items = self._plan.flows[names[0]]
        return any(why_not(item, self._made[_plain(item.name, flow in self._plan.replicas)]) for item in items)

    def _joins(self, routine: str) -> bool:
        """Whether a routine that runs joins its inputs."""
        return self._running[routine].join is not None

    def _flows_of(self, routines: Mapping[str, Any]) -> Iterator[str]:
        flow_of = self._shapes[1].flow_of
        return (flow_of[routine] for routine in routines)

    # ---- refusals --------------------------------------------------------------------------------

    def _refuse(self, details: Iterable[Detail]) -> None:
        faults = [
            self._after.fault(detail.where, f"{detail.change}: not while the pipe runs; put it back, or run the file afresh")
            for detail in details
        ]
        if faults:
            raise ConfigError(sorted(faults, key=lambda fault: fault.line))

    def _check_alike(self) -> None:
        """:raises PipeStateError: when the pipe is not what its file says, so that it can't be compared with another."""
        blueprint, shape = self._pipe._blueprint, self._shapes[0]
        differing = sorted(blueprint.flows.keys() ^ shape.flows.keys())
        differing += sorted(f"{one} -> {other}" for one, other in self._wires.keys() ^ shape.wires.keys())
        if differing:
            raise PipeStateError(
                f"flows or wires were added or removed by other means than the file ({', '.join(differing)}): run it afresh"
            )

    @contextmanager
    def _blamed(self, *where: str | int) -> Iterator[None]:
        try:
            yield
        except ConfigError:
            raise
        except RoutineError as error:
            raise ConfigError([self._after.fault(("routines", error.routine), str(error))]) from error
        except (PipertError, ValueError) as error:
            raise ConfigError([self._after.fault(where, str(error))]) from error

    # ---- the work --------------------------------------------------------------------------------

    def _work(self, difference: Difference) -> Work:
        gone = (*difference.removed, *difference.rebuilt)
        fresh = (*difference.added, *difference.rebuilt)
        kept = dict.fromkeys((*difference.replaced, *self._flows_of(difference.live), *difference.eased))
        flows = {name: self._spec(name, self._after.settings.flows[name]) for name in (*fresh, *kept)}
        blueprint = self._pipe._blueprint
        flows_before = {name: blueprint.flows[name] for name in (*gone, *kept)}
        lost = {routine.name for name in gone for routine in blueprint.flows[name].routines}
        wires_before = {pair: its for pair, its in self._wires.items() if pair in difference.cut or lost.intersection(pair)}
        after, live = difference.after, difference.live
        return Work(
            self._after,
            difference,
            flows,
            flows_before,
            {name: self._setting(self._after, name, details, self._made[name]) for name, details in live.items()},
            {name: self._setting(self._before, name, details, self._running[name]) for name, details in live.items()},
            {pair: self._wire(pair, after.wires[pair]) for pair in difference.linked},
            wires_before,
        )

    def _spec(self, name: str, its: FlowSettings) -> FlowSpec:
        with self._blamed("flows", name):
            routines = tuple(self._made.get(routine) or self._running[routine] for routine in its.routines)
            restart = Restart(its.restart, its.max_restarts, its.restart_window)
            return FlowSpec(
                routines, its.replicas, its.ordered, restart, ProcessSettings(its.max_rss, its.cpus, its.nice).plain()
            )

    def _setting(self, file: PipelineFile, name: str, details: tuple[Detail, ...], routine: Routine) -> Setting:
        values = {
            parameter: self._value(file, name, parameter)
            for parameter in (str(detail.where[-1]) for detail in details if detail.where[-2] == "parameters")
        }
        return Setting(values, routine._const_fps if any(detail.where[-1] == "fps" for detail in details) else None)

    def _wire(self, pair: Pair, its: WireSettings) -> Values:
        """The arguments of a wire that is made. Its transmitter is the one that its ends know, if it is like that."""
        options = its.model_dump(exclude={"source", "destinations", "data_transmitter", *ACROSS_HOSTS})
        earlier = self._shapes[0].wires.get(pair)
        if earlier is not None and same(earlier.data_transmitter, its.data_transmitter):
            return {**options, "data_transmitter": self._wires[pair]["data_transmitter"]}
        return {**options, "data_transmitter": self._after.make_transmitter(place_of(self._after, pair))}

    def _check(self, work: Work) -> None:
        """Checks the whole graph as it will be, as `build()` does.

        :raises ConfigError: when it does not fit.
        """
        blueprint, difference = self._pipe._blueprint, work.difference
        future = Blueprint(blueprint.defaults)
        gone = {*difference.removed, *difference.rebuilt}
        future.flows = {name: work.flows.get(name, spec) for name, spec in blueprint.flows.items() if name not in gone}
        future.flows |= work.flows
        by_name = {routine.name: routine for spec in future.flows.values() for routine in spec.routines}
        pairs = {pair: its for pair, its in self._wires.items() if pair not in work.wires_before} | dict(work.wires)
        with self._blamed("wires"):
            future.wires = [Wire(by_name[one], by_name[other], **options) for (one, other), options in pairs.items()]
            future.plan()


def place_of(file: PipelineFile, pair: Pair) -> Where:
    """The section of a file that makes a wire."""
    for number, wire in enumerate(file.settings.wires):
        if wire.source == pair[0] and pair[1] in wire.destinations:
            return "wires", number
    flow = next((name for name, its in file.settings.flows.items() if pair[0] in its.routines), None)
    return ("wires",) if flow is None else ("flows", flow)


class _Nothing: ...


_NONE = _Nothing()


def _default_of(kind: type, parameter: str) -> Any:
    """A parameter's default value; `_NONE` where it has none."""
    try:
        found = signature(kind).parameters[parameter].default
    except (KeyError, TypeError, ValueError):
        return _NONE
    return _NONE if found is signature(kind).empty else found


def _plain(name: str, replicated: bool) -> str:
    return name.rpartition("#")[0] if replicated else name


def wires_of(blueprint: Blueprint) -> dict[Pair, Values]:
    """The settings that the wires of a pipe were made with, as arguments, by pair."""
    names = ("data_transmitter", "policy", "capacity", "timeout", "max_age")
    return {
        (wire.source.name, to.name): {name: getattr(wire, name) for name in names}
        for wire in blueprint.wires
        for to in wire.destinations
    }
