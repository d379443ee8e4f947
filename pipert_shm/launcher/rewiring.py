"""Wires that come and go while the pipe runs, by the events `link` and `unlink`, and by a later build()."""

from __future__ import annotations

from pipert_shm import native
from pipert_shm.control.messages import ExpectIn, LinkOut, UnlinkOut, WantSlots
from pipert_shm.errors import WiresValidation
from pipert_shm.events import Event, Wiring
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.links import Links
from pipert_shm.launcher.recovery import Recovery
from pipert_shm.launcher.roster import Roster
from pipert_shm.plan import EdgePlan, RoutinePlan


class Rewiring:
    """Changes to the wires, and who has to be told of them."""

    def __init__(self, roster: Roster, incarnations: Incarnations, links: Links, recovery: Recovery) -> None:
        self._roster = roster
        self._incarnations = incarnations
        self._links = links
        self._recovery = recovery
        self._sizes: dict[int, tuple[int, int]] = {}
        self._note_sizes()

    def _note_sizes(self) -> list[RoutinePlan]:
        """Takes note of how many slots each routine should have; those where that has changed."""
        sizes = {item.number: (item.slots, item.message_slots) for item in self._roster.plan.routines}
        changed = [
            item for item in self._roster.plan.routines if self._sizes.get(item.number) not in (None, sizes[item.number])
        ]
        self._sizes = sizes
        return changed

    def link(self, event: Event) -> None:
        """Links each of the routines that are addressed.

        :raises WiresValidation, ValueError: when one can't be; none is linked then.
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
            if self._roster.flows[item.flow].failed:
                raise WiresValidation(f"{item.routine.name!r} can't be linked: its flow {item.flow!r} has failed for good")
        live = self._roster.flows[sender.flow].up
        edge = self._links.link(sender, receiver, wiring.policy, wiring.capacity, wiring.timeout, live=live)
        self.resize()
        self.announce(edge)

    def announce(self, edge: EdgePlan) -> None:
        """Tells both ends of a new wire, as far as they are up."""
        roster = self._roster
        receiver, sender = roster.flow_at(edge.receiver), roster.flow_at(edge.sender)
        if receiver.up and self._links.must_expect(edge):
            roster.send(receiver, ExpectIn(roster.plan.names[edge.receiver], edge.number))
        number = self._incarnations.live(edge)
        if number is not None:  # else the sender's restart opens it
            self._recovery.attach(number)
            roster.send(sender, LinkOut(roster.plan.names[edge.sender], edge.without_transmitter(), number))

    def unlink(self, event: Event) -> None:
        """Unlinks each of the routines that are addressed."""
        receiver = _wiring_of(event).receiver
        for name in event.routines:
            self._disconnect(self._roster.plan.get(name), receiver)

    def _disconnect(self, sender: RoutinePlan, receiver: str) -> None:
        roster = self._roster
        edges = [self._links.unlink(sender, one) for one in roster.plan.copies.get(receiver, (receiver,))]
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
        """The sender is done with the incarnation of a wire that was unlinked. It is drained like that of a dead one.

        :raises LookupError: when there is no such one.
        """
        edge = self._roster.plan.edges[self._incarnations[number].edge]
        is_wire = edge.linked and number == self._incarnations.live(edge)
        if is_wire or number not in self._incarnations.of(edge) or self._incarnations[number].state != native.LIVE:
            raise LookupError(f"incarnation {number} is not of a wire that was unlinked")
        if self._roster.flow_at(edge.receiver).failed:
            self._incarnations.abandon(number)
            return
        self._incarnations[number].state = native.SENDER_DEAD
        self._roster.records[edge.receiver].ring()
        self._recovery.tell_sender_died(edge.receiver)

    def resize(self) -> None:
        """Tells senders how many slots they should have now."""
        for item in self._note_sizes():
            message = WantSlots(item.routine.name, item.slots, item.message_slots)
            self._roster.send(self._roster.flow_at(item.number), message)


def _wiring_of(event: Event) -> Wiring:
    if event.wiring is None:
        raise ValueError(f"the event {event.name!r} does not say which wire it is about")
    return event.wiring
