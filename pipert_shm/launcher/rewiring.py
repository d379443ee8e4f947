"""Links and unlinks wires while the pipe runs: by the events `link` and `unlink`, and by a later build()."""

from __future__ import annotations

from pipert_shm import binding
from pipert_shm.control.messages import ExpectIn, InOrder, LinkOut, UnlinkOut, WantSlots
from pipert_shm.errors import WiresValidation
from pipert_shm.events import Event, Wiring
from pipert_shm.graph.extension import NewWire
from pipert_shm.graph.model import EdgePlan, RoutinePlan
from pipert_shm.graph.replicas import settle_order
from pipert_shm.launcher.edge_table import EdgeTable
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.recovery import Recovery
from pipert_shm.launcher.roster import Roster


class Rewiring:
    """Changes the wires, and tells the flows at both ends."""

    def __init__(self, roster: Roster, incarnations: Incarnations, edges: EdgeTable, recovery: Recovery) -> None:
        self._roster = roster
        self._incarnations = incarnations
        self._edges = edges
        self._recovery = recovery
        self._sizes: dict[int, tuple[int, int]] = {}
        self._note_sizes()

    def _note_sizes(self) -> list[RoutinePlan]:
        """Notes how many slots each routine should have; the routines where that has changed since the last call."""
        sizes = {item.number: (item.slots, item.message_slots) for item in self._roster.plan.routines}
        changed = [
            item for item in self._roster.plan.routines if self._sizes.get(item.number) not in (None, sizes[item.number])
        ]
        self._sizes = sizes
        return changed

    def link(self, event: Event) -> None:
        """Links each of the addressed routines to the receiver that the event names.

        :raises WiresValidation, ValueError: when one can't be linked; none is linked then.
        """
        wiring = _wiring_of(event)
        linked: list[RoutinePlan] = []
        try:
            for name in event.routines:
                sender = self._roster.plan.get(name)
                self._connect(sender, wiring)
                linked.append(sender)
        except Exception:
            for sender in linked:
                self._disconnect(sender, wiring.receiver)
            raise

    def _connect(self, sender: RoutinePlan, wiring: Wiring) -> None:
        receiver = self._roster.plan.get(wiring.receiver)
        for item in (sender, receiver):
            flow = self._roster.flows[item.flow]
            if flow.failed or flow.leaves:
                why = "is being removed" if flow.leaves else "has failed for good"
                raise WiresValidation(f"{item.routine.name!r} can't be linked: its flow {item.flow!r} {why}")
        live = self._roster.flows[sender.flow].up
        wire = NewWire(sender.routine.name, wiring.receiver, wiring.policy, wiring.capacity, wiring.timeout)
        edge = self._edges.link(wire, live=live)
        self._edges.settle([edge])
        self.resize()
        self.announce(edge)

    def announce(self, edge: EdgePlan) -> None:
        """Tells both ends of a new edge, if their flows are up."""
        roster = self._roster
        receiver, sender = roster.flow_at(edge.receiver), roster.flow_at(edge.sender)
        if receiver.up and self._edges.must_expect(edge):
            roster.send(receiver, ExpectIn(roster.plan.name_of(edge.receiver), edge.number))
        for held in self._edges.let_go(edge.receiver):
            self._recovery.forget(held)
        number = self._incarnations.live(edge)
        if number is not None:  # else the restart of the sender opens one
            self._recovery.attach(number)
            roster.send(sender, LinkOut(roster.plan.name_of(edge.sender), edge.without_transmitter(), number))

    def unlink(self, event: Event) -> None:
        """Unlinks each of the addressed routines from the receiver that the event names."""
        receiver = _wiring_of(event).receiver
        for name in event.routines:
            self._disconnect(self._roster.plan.get(name), receiver)

    def _disconnect(self, sender: RoutinePlan, receiver: str) -> None:
        roster = self._roster
        edges = [self._edges.unlink(sender, one) for one in roster.plan.replicas.get(receiver, (receiver,))]
        if not any(edges):
            roster.logger.warning("unlink: there is no wire from %r to %r", sender.routine.name, receiver)
        for edge in edges:
            if edge is None:
                continue
            number = self._incarnations.live(edge)
            if roster.flows[sender.flow].up and number is not None:
                roster.send(roster.flows[sender.flow], UnlinkOut(sender.routine.name, edge.number, number))
            self._recovery.forget(edge)
        self.resize()

    def end_unlinked(self, number: int) -> None:
        """The sender has stopped using the incarnation of an unlinked edge. It is drained like that of a dead sender.

        :raises LookupError: when it belongs to no unlinked edge.
        """
        edge = self._roster.plan.edges[self._incarnations[number].edge]
        is_wire = edge.linked and number == self._incarnations.live(edge)
        if is_wire or number not in self._incarnations.of(edge) or self._incarnations[number].state != binding.LIVE:
            raise LookupError(f"incarnation {number} belongs to no wire that was unlinked")
        if self._roster.flow_at(edge.receiver).failed:
            self._incarnations.abandon(number)
            return
        self._incarnations[number].state = binding.SENDER_DEAD
        self._roster.records[edge.receiver].ring()
        self._recovery.tell_sender_died(edge.receiver)

    def reorder(self) -> None:
        """Tells routines what the order of results takes, where that has changed. Before they hear of new wires."""
        before = {item.number: (item.lanes, item.restores) for item in self._roster.plan.routines}
        settle_order(self._roster.plan, self._edges.may_bring)
        for item in self._roster.plan.routines:
            if before[item.number] != (item.lanes, item.restores):
                self._roster.send(self._roster.flow_at(item.number), InOrder(item.name, item.lanes, item.restores))

    def resize(self) -> None:
        """Tells senders how many slots they should have now."""
        for item in self._note_sizes():
            message = WantSlots(item.routine.name, item.slots, item.message_slots)
            self._roster.send(self._roster.flow_at(item.number), message)


def _wiring_of(event: Event) -> Wiring:
    if event.wiring is None:
        raise ValueError(f"the event {event.name!r} does not say which wire it is about")
    return event.wiring
