"""The graph as the user has put it together, before `build()` plans it: flows, wires, and the pipe's defaults."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

from pipert_shm.display.tables import Table
from pipert_shm.errors import PipertError, UnknownTarget, WiresValidation, shown
from pipert_shm.events import EVENTS_OF_A_ROUTINE, KILL_EVENT_NAME, LIFECYCLE_EVENTS, handlers_of
from pipert_shm.frozen import Frozen
from pipert_shm.graph.checks import check_names
from pipert_shm.graph.model import Defaults, Plan, Restart
from pipert_shm.graph.plan import make_plan
from pipert_shm.graph.process_settings import ProcessSettings
from pipert_shm.limits import check_count, check_flag
from pipert_shm.routine import Routine
from pipert_shm.transmitters import DataTransmitter
from pipert_shm.wire import Wire, check_transmitter


class FlowSpec(Frozen):
    """A flow as it was created: its routines, how many processes run them, what each may take, its restart policy, its host."""

    routines: tuple[Routine, ...]
    replicas: int = 1
    ordered: bool = False
    restart: Restart = Restart()
    process: ProcessSettings = ProcessSettings()
    host: str | Mapping[str, str] | None = None  # another one that runs it, or the labels that such a host has


class Blueprint:
    """The flows and wires of a pipe. Those past the last `mark_built` wait for the next `build()`.

    Not safe for several threads, but each dict and list may be copied by another thread.
    """

    def __init__(self, defaults: Defaults) -> None:
        self.defaults = defaults
        self.flows: dict[str, FlowSpec] = {}
        self.wires: list[Wire] = []
        self._built_flows = self._built_wires = 0

    def add_flow(self, name: str, spec: FlowSpec, auto_wire: bool, data_transmitter: DataTransmitter | None) -> None:
        """Adds a flow, and with `auto_wire` the wires from each of its routines to the next.

        :raises PipertError: when a name is taken, there is no routine, or one is in a flow already.
        :raises TypeError: when `auto_wire`, a routine or the transmitter is of another type.
        :raises ValueError: when a number is out of range.
        """
        call = f"create_flow({name!r}, True, first, second)"
        try:
            check_flag("auto_wire", auto_wire)
        except TypeError as error:
            raise TypeError(f"{error}; routines come after it: {call}") from None
        check_flag("ordered", spec.ordered)
        if name in self.flows:
            raise PipertError(f"there is a flow {name!r} already")
        if not spec.routines:
            raise PipertError(f"flow {name!r} has no routines: {call}")
        check_count(f"flow {name!r}: replicas", spec.replicas)
        check_transmitter(data_transmitter, f"create_flow({name!r}, True, first, second, replicas=2)")
        for routine in spec.routines:
            _check_routine(name, routine, call)
        check_names({**self._members(), name: spec.routines})
        self.flows[name] = spec
        if auto_wire:
            self.wires += [Wire(one, other, data_transmitter) for one, other in pairwise(spec.routines)]

    def add_wires(self, wires: tuple[Wire, ...]) -> None:
        """Adds all of the wires, or none.

        :raises TypeError: when one of them is not a wire.
        """
        for wire in wires:
            if not isinstance(wire, Wire):
                raise TypeError(
                    f"link() takes wires, one by one, not {shown(wire)}: pipe.link(Wire(camera, screen), Wire(camera, disk))"
                )
        self.wires += wires

    def plan(self, *, replicated: bool = True) -> Plan:
        """The whole graph, checked.

        :param replicated: whether a flow with replicas is planned as so many; else as one.
        :raises WiresValidation, RoutineError, ValueError: when the graph, a routine or a wire does not fit.
        """
        if not replicated:
            return make_plan(self._members(), self.wires, self.defaults)
        replicas = {name: spec.replicas for name, spec in self.flows.items()}
        ordered = [name for name, spec in self.flows.items() if spec.ordered]
        plan = make_plan(self._members(), self.wires, self.defaults, replicas, ordered)
        for name, spec in self.flows.items():
            for one in plan.replicas.get(name, (name,)):
                plan.restarts[one], plan.processes[one] = spec.restart, spec.process
        return plan

    def mark_built(self) -> None:
        """Notes that all flows and wires are in the pipe."""
        self._built_flows, self._built_wires = len(self.flows), len(self.wires)

    def mark_unbuilt(self) -> None:
        """Notes that no flow or wire is in the pipe: `build()` failed."""
        self._built_flows = self._built_wires = 0

    def built_flows(self) -> dict[str, FlowSpec]:
        """The flows that are in the pipe."""
        return dict(islice(self.flows.items(), self._built_flows))

    def new_flows(self) -> dict[str, FlowSpec]:
        """The flows that wait for `build()`."""
        return dict(islice(self.flows.items(), self._built_flows, None))

    def new_wires(self) -> list[Wire]:
        """The wires that wait for `build()`."""
        return self.wires[self._built_wires :]

    def forget_new(self) -> None:
        """Removes the flows and wires that wait for `build()`; the routines can go into other flows."""
        del self.wires[self._built_wires :]
        for name, spec in self.new_flows().items():
            del self.flows[name]
            for routine in spec.routines:
                routine.flow_name = routine._notifier = None

    def replace(self, name: str, spec: FlowSpec) -> None:
        """Puts routines of the same names in the place of those that a flow has, and in the wires."""
        others = {routine.name: routine for routine in spec.routines}
        old = {id(routine): others[routine.name] for routine in self.flows[name].routines}
        self.flows[name] = spec
        self.wires = [wire.between(old) for wire in self.wires]

    def require_flows(self, names: Collection[str]) -> None:
        """:raises UnknownTarget: when one of these flows is not there."""
        for name in names:
            if name not in self.flows:
                raise UnknownTarget("flow", name, list(self.flows))

    def require_wires(self, source: Routine, destinations: Collection[Routine]) -> None:
        """:raises WiresValidation: when the source is not wired to one of these."""
        wired = {id(to) for wire in self.wires if wire.source is source for to in wire.destinations}
        for to in destinations:
            if id(to) not in wired:
                raise WiresValidation(f"there is no wire from {source.name!r} to {to.name!r}")

    def remove_flows(self, names: Collection[str]) -> None:
        """Removes flows, with their wires; the routines can go into other flows."""
        self._built_flows -= sum(name in names for name in islice(self.flows, self._built_flows))
        routines = [routine for name in names for routine in self.flows[name].routines]
        gone = set(map(id, routines))
        self._rewire(
            lambda wire: () if id(wire.source) in gone else tuple(to for to in wire.destinations if id(to) not in gone)
        )
        self.flows = {name: spec for name, spec in self.flows.items() if name not in names}
        for routine in routines:
            routine.flow_name = routine._notifier = None

    def remove_wires(self, source: Routine, destinations: Collection[Routine]) -> list[Routine]:
        """Removes the wires between these; the receivers of those that are built."""
        gone = set(map(id, destinations))
        built = [to for wire in self.wires[: self._built_wires] if wire.source is source for to in wire.destinations]
        self._rewire(
            lambda wire: (
                wire.destinations if wire.source is not source else tuple(to for to in wire.destinations if id(to) not in gone)
            )
        )
        return [to for to in built if id(to) in gone]

    def _rewire(self, destinations_of: Callable[[Wire], tuple[Routine, ...]]) -> None:
        """Gives each wire other destinations, and removes those that have none."""
        wires, built = [], 0
        for number, wire in enumerate(self.wires):
            destinations = destinations_of(wire)
            if destinations:
                wires.append(wire if destinations == wire.destinations else wire.to(destinations))
                built += number < self._built_wires
        self.wires, self._built_wires = wires, built

    def is_built(self, flow: str) -> bool:
        """Whether a flow is in the pipe, and does not wait for `build()`."""
        return flow in islice(self.flows, self._built_flows)

    def structure(self) -> dict[str, list[Any]]:
        """The routines and events, as `Pipe.get_pipe_structure` returns them."""
        routines = [
            {
                "flow_name": flow,
                "routine_name": routine.name,
                "events": sorted({*handlers_of(type(routine)), *EVENTS_OF_A_ROUTINE} - {KILL_EVENT_NAME}),
            }
            for flow, routine in self._rows()
        ]
        return {"Routines": routines, "Events": list(LIFECYCLE_EVENTS)}

    def tables(self) -> list[Table]:
        """A line for each routine, and one for each wire."""
        routines = [[flow, routine.name, type(routine).__name__] for flow, routine in self._rows()]
        settings = [(wire, wire.settings(self.defaults.queue)) for wire in list(self.wires)]
        wires = [
            [f"{wire.source.name} -> {to.name}", queue.policy, str(queue.capacity)]
            for wire, queue in settings
            for to in wire.destinations
        ]
        tables = Table(["flow", "routine", "class"], routines), Table(["wire", "policy", "capacity"], wires)
        return [table for table in tables if table.rows]

    def count_routines(self) -> int:
        """How many routines there are in all flows."""
        return len(self._rows())

    def _rows(self) -> list[tuple[str, Routine]]:
        flows = list(self.flows.items())  # another thread may add one
        return [(name, routine) for name, spec in flows for routine in spec.routines]

    def _members(self) -> dict[str, Sequence[Routine]]:
        return {name: spec.routines for name, spec in self.flows.items()}


def _check_routine(flow: str, routine: object, call: str) -> None:
    if not isinstance(routine, Routine):
        raise TypeError(f"flow {flow!r}: {shown(routine)} is not a Routine{_what_instead(routine, call)}")
    if not hasattr(routine, "_notifier"):
        raise PipertError(f"flow {flow!r}: {type(routine).__name__}.__init__ does not call super().__init__()")
    if routine.flow_name is not None:
        raise PipertError(f"routine {routine.name!r} is in flow {routine.flow_name!r} already")


def _what_instead(given: object, call: str) -> str:
    """A hint for the error that refuses something other than a routine."""
    if isinstance(given, type) and issubclass(given, Routine):
        return f", but a class of them: make one of it, such as {given.__name__}('camera')"
    if isinstance(given, list | tuple | set):
        return f"; routines are given one by one: {call}"
    if isinstance(given, Wire):
        return "; wires are given to link(): pipe.link(wire)"
    if callable(given):
        return "; of a function one is made by from_callable(function)"
    return f": {call}"
