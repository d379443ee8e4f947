"""Flows and wires of a later build(): taken into the running pipe as a whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipert_shm.attachment import Attachment
from pipert_shm.control.messages import Extended, ForkFlow
from pipert_shm.errors import WiresValidation
from pipert_shm.footprint import make_rings
from pipert_shm.growth import Growth, NewWire
from pipert_shm.launcher.fork_server import ForkServer
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.lifecycle import Lifecycle
from pipert_shm.launcher.links import Links
from pipert_shm.launcher.rewiring import Rewiring
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.plan import EdgePlan, Plan

Rings = dict[int, tuple[int, int]]


class Extension:
    """What is added to a running pipe.

    :param most_routines: that there are records for.
    """

    def __init__(
        self,
        roster: Roster,
        incarnations: Incarnations,
        links: Links,
        rewiring: Rewiring,
        lifecycle: Lifecycle,
        most_routines: int,
    ) -> None:
        self._roster = roster
        self._incarnations = incarnations
        self._links = links
        self._rewiring = rewiring
        self._lifecycle = lifecycle
        self._most_routines = most_routines
        self._unborn: set[str] = set()
        self._when_born: Callable[[], object] | None = None

    def take_in(self, growth: Growth, server: ForkServer | None, launch: Callable[[Flow, Rings], None]) -> None:
        """Takes new flows into the pipe, and has them forked.

        :raises Exception: when it can't be; nothing has changed then.
        """
        edges, rings = self._take_in(growth)
        self._lifecycle.audience = growth.audience
        running = [flow for flow in self._roster.flows.values() if flow.up]
        new = [self._roster.add(name, routines, server) for name, routines in growth.flows.items()]
        self._lifecycle.admit()
        self._unborn = {flow.name for flow in new}
        for flow in running:
            self._roster.send(flow, Extended(self._roster.plan.names, growth.audience))
        self._rewiring.resize()
        for edge in edges:
            self._rewiring.announce(edge)
        for flow in new:
            launch(flow, rings)

    def when_born(self, action: Callable[[], object]) -> None:
        """Calls the action as soon as all of the new flows are up, or have failed."""
        self._when_born = action
        self._tell_if_born()

    def note_up(self, flow: Flow) -> None:
        """A flow is up, or has failed."""
        self._unborn.discard(flow.name)
        self._tell_if_born()

    def _tell_if_born(self) -> None:
        if not self._unborn and self._when_born is not None:
            action, self._when_born = self._when_born, None
            action()

    def _take_in(self, growth: Growth) -> tuple[list[EdgePlan], Rings]:
        """The new wires, and the rings of routines that declared an output."""
        self._lifecycle.require_life("nothing can be built")
        self._check(growth)
        plan, segment = self._roster.plan, self._roster.segment
        routines, edges, flows = len(plan.routines), list(plan.edges), list(plan.flows)
        new: list[EdgePlan] = []
        try:
            plan.flows.update(growth.flows)
            plan.restarts.update(growth.restarts)
            plan.routines += [item for items in growth.flows.values() for item in items]
            _assign_reach(plan, routines, growth.wires)
            for wire in growth.wires:
                new.append(self._link(wire, routines))
            rings = make_rings(plan.routines[routines:], segment)
        except Exception:
            for item in plan.routines[routines:]:
                self._incarnations.retire_rings(item)
            self._incarnations.remove_retired()
            for edge in reversed(new):
                self._links.take_back(edge, edges[edge.number] if edge.number < len(edges) else None)
            del plan.routines[routines:]
            for name in [name for name in plan.flows if name not in flows]:
                del plan.flows[name], plan.restarts[name]
            raise
        return new, rings

    def _link(self, wire: NewWire, first_new: int) -> EdgePlan:
        plan = self._roster.plan
        sender, receiver = plan.get(wire.sender), plan.get(wire.receiver)
        return self._links.link(
            sender,
            receiver,
            wire.policy,
            wire.capacity,
            wire.timeout,
            live=sender.number >= first_new or self._roster.flows[sender.flow].up,
            max_age=wire.max_age,
            own_transmitter=wire.own_transmitter,
            joins=receiver.number >= first_new,
        )

    def _check(self, growth: Growth) -> None:
        plan, control = self._roster.plan, self._roster.segment.process.control
        more = sum(map(len, growth.flows.values()))
        for what, there, added, most in (
            ("flows", len(plan.flows), len(growth.flows), control.flows),
            ("routines", len(plan.routines), more, self._most_routines),
        ):
            if there + added > most:
                raise WiresValidation(f"the running pipe has {there} {what} and room for {most}; {added} more are too many")
        for wire in growth.wires:
            for name in (wire.sender, wire.receiver):
                flow = self._roster.flow_of(name)
                if flow is not None and flow.failed:
                    raise WiresValidation(f"{name!r} can't be wired: its flow {flow.name!r} has failed for good")

    def order_for(self, flow: Flow, server: ForkServer, attachment: Attachment) -> ForkFlow:
        """What a fork server has to know of the present wires to fork a flow."""

        def plain(edges: list[EdgePlan]) -> list[EdgePlan]:
            return [edge.without_transmitter() for edge in edges]

        return ForkFlow(
            flow.name,
            [replace(item, ins=[], outs=[]) for item in self._roster.plan.routines[server.known :]],
            {item.number: plain(item.ins) for item in flow.routines},
            {item.number: plain(item.outs) for item in flow.routines},
            {item.number: item.reach for item in flow.routines},
            {item.number: item.slots for item in flow.routines},
            replace(attachment, leaving=plain(attachment.leaving)),
            self._lifecycle.audience,
        )


def _assign_reach(plan: Plan, first: int, wires: list[NewWire]) -> None:
    """Of the routines from number `first` on. Those that were there keep theirs: the bits by it are in use."""
    for item in plan.routines[first:]:
        item.reach = frozenset({item.number})
    for _ in plan.routines[first:]:  # no chain of them is longer
        for wire in wires:
            receiver = plan.get(wire.receiver)
            if receiver.number >= first:
                receiver.reach |= plan.get(wire.sender).reach
