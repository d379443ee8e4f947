"""Adds the flows and wires of a later build() to the running pipe: all of them, or none."""

from __future__ import annotations

from collections.abc import Callable, Container

from pipert_shm import binding
from pipert_shm.control.messages import Extended
from pipert_shm.errors import WiresValidation
from pipert_shm.graph.extension import Growth, NewWire
from pipert_shm.graph.model import EdgePlan, Plan, RoutinePlan, names_of
from pipert_shm.launcher.edge_table import EdgeTable
from pipert_shm.launcher.footprint import make_rings
from pipert_shm.launcher.fork_server import ForkServer
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.lifecycle import Lifecycle
from pipert_shm.launcher.rewiring import Rewiring
from pipert_shm.launcher.roster import Flow, Roster

Rings = dict[int, tuple[int, int]]


class Extension:
    """Adds flows and wires to the running pipe, one build after the other.

    :param most_routines: how many routines the control segment has records for.
    """

    def __init__(
        self,
        roster: Roster,
        incarnations: Incarnations,
        edges: EdgeTable,
        rewiring: Rewiring,
        lifecycle: Lifecycle,
        most_routines: int,
    ) -> None:
        self._roster = roster
        self._incarnations = incarnations
        self._edges = edges
        self._rewiring = rewiring
        self._lifecycle = lifecycle
        self._most_routines = most_routines
        self._unborn: set[str] = set()
        self._when_born: Callable[[], object] | None = None

    def take_in(self, growth: Growth, server: ForkServer | None, launch: Callable[[Flow, Rings], None]) -> None:
        """Adds flows and wires, and starts the new flows.

        :param server: the fork server that holds the new routines.
        :param launch: starts a flow.
        :raises WiresValidation, PipeStateError, SharedMemoryFull, OSError: when they can't be added. Nothing has changed then.
        """
        edges, rings = self._take_in(growth)
        self._lifecycle.audience = growth.audience
        running = [flow for flow in self._roster.flows.values() if flow.up]
        names = names_of(item for items in growth.flows.values() for item in items)
        news = Extended(names, growth.audience.only(growth.flows))
        new = [self._roster.add(name, routines, server) for name, routines in growth.flows.items()]
        self._lifecycle.admit()
        self._unborn = {flow.name for flow in new}
        for flow in running:
            self._roster.send(flow, news)
        self._rewiring.reorder()
        self._rewiring.resize()
        for edge in edges:
            self._rewiring.announce(edge)
        for flow in new:
            launch(flow, rings)

    def when_born(self, action: Callable[[], object]) -> None:
        """Calls the action as soon as each new flow is up, or has failed."""
        self._when_born = action
        self._tell_if_born()

    def note_up(self, flow: Flow) -> None:
        """Notes that a flow is up, or has failed."""
        self._unborn.discard(flow.name)
        self._tell_if_born()

    def _tell_if_born(self) -> None:
        if not self._unborn and self._when_born is not None:
            action, self._when_born = self._when_born, None
            action()

    def _take_in(self, growth: Growth) -> tuple[list[EdgePlan], Rings]:
        """Adds them to the plan; the edges of the new wires, and the rings of routines that declared an output."""
        self._lifecycle.require_life("nothing can be built")
        self._check(growth)
        plan, segment = self._roster.plan, self._roster.segment
        edges, added = plan.edges.copy(), [item for items in growth.flows.values() for item in items]
        numbers = {item.number for item in added}
        new: list[EdgePlan] = []
        try:
            plan.flows.update(growth.flows)
            plan.restarts.update(growth.restarts)
            plan.processes.update(growth.processes)
            plan.flow_numbers.update(growth.numbers)
            plan.replicas.update(growth.replicas)
            for number in growth.numbers.values():
                segment.take("flow", number)
            for item in added:
                segment.take("routine", item.number)
                plan.routines[item.number] = item
                binding.RoutineRecord(segment.process, item.number).clear()  # a routine that was removed may have had it
            _assign_reach(plan, added, growth.wires)
            for wire in growth.wires:
                new.append(self._link(wire, numbers))
            self._edges.settle(new)
            rings = make_rings(added, segment)
        except Exception:
            for item in added:
                self._incarnations.retire_rings(item)
            self._incarnations.remove_retired()
            for edge in reversed(new):
                self._edges.take_back(edge, edges.get(edge.number))
            self._edges.settle(())
            for number in numbers & set(plan.routines.numbers()):
                del plan.routines[number]
            for name in growth.flows:
                del plan.flows[name], plan.restarts[name], plan.processes[name], plan.flow_numbers[name]
            for name in growth.replicas:
                del plan.replicas[name]
            raise
        return new, rings

    def _link(self, wire: NewWire, new: Container[int]) -> EdgePlan:
        plan = self._roster.plan
        sender, receiver = plan.get(wire.sender), plan.get(wire.receiver)
        live = sender.number in new or self._roster.flows[sender.flow].up
        return self._edges.link(wire, live=live, joins=receiver.number in new)

    def _check(self, growth: Growth) -> None:
        plan, room = self._roster.plan, self._roster.segment.process.room
        more = sum(map(len, growth.flows.values()))
        for what, there, added, most in (
            ("flows", len(plan.flows), len(growth.flows), room.flows),
            ("routines", len(plan.routines) + len(plan.leaving), more, self._most_routines),
        ):
            if there + added > most:
                raise WiresValidation(f"the running pipe has {there} {what} and room for {most}; {added} more are too many")
        for wire in growth.wires:
            for name in (wire.sender, wire.receiver):
                flow = self._roster.flow_of(name)
                if flow is not None and flow.failed:
                    raise WiresValidation(f"{name!r} can't be wired: its flow {flow.name!r} has failed for good")


def _assign_reach(plan: Plan, new: list[RoutinePlan], wires: list[NewWire]) -> None:
    """Sets the reach of the new routines. Earlier ones keep theirs, since bits were given out by it."""
    by_name = {item.name: item for item in new}
    for item in new:
        item.reach = frozenset({item.number})
    changed = True
    while changed:
        changed = False
        for wire in wires:
            receiver = by_name.get(wire.receiver)
            if receiver is not None and not (reach := plan.get(wire.sender).reach) <= receiver.reach:
                receiver.reach |= reach
                changed = True
