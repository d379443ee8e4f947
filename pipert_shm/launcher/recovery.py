"""What a flow's death means for the memory that it used: who clears what, and in which order.

docs/reliability.md says why this is right, step by step.
"""

from __future__ import annotations

from pipert_shm import native
from pipert_shm.control.messages import AddIn, ReceiverDied, ReceiverFailed, RemoveIn, SenderDied
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.links import Links
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.launcher.taps import Taps
from pipert_shm.plan import EdgePlan


class Recovery:
    """Sees to it that what dead processes held is let go of, by whoever can."""

    def __init__(self, roster: Roster, incarnations: Incarnations, links: Links, taps: Taps) -> None:
        self._roster = roster
        self._incarnations = incarnations
        self._links = links
        self._taps = taps
        self._retired = False

    def retire(self, flow: Flow) -> None:
        """Takes note of the rings of a dead flow. May be repeated; nothing else of the recovery asks the system for anything.

        :raises OSError: when the system does not let us look at them now.
        """
        for item in flow.routines:
            self._incarnations.retire_rings(item)
        self._retired = True

    @property
    def has_retired(self) -> bool:
        """Whether rings of dead routines wait for their last slots."""
        return self._retired

    def remove_retired(self) -> None:
        """Removes those that are free by now."""
        if self._retired:
            self._retired = self._incarnations.remove_retired()

    def mark(self, flow: Flow) -> None:
        """Marks all of a dead flow's incarnations, before anything of it starts again, and asks others for their part."""
        records = self._roster.records
        for item in flow.routines:
            records[item.number].count_crash()
        for item in flow.routines:
            for edge in [*self._links.outs(item), *self._taps.of(item.number)]:
                self._mark_sent(edge)
        for item in flow.routines:
            for edge in self._links.ins(item):
                if not edge.local:
                    self._mark_received(edge)
        # Whoever sleeps may have been about to be rung by the dead one, which had made room or freed a slot just then.
        for record in records:
            record.ring()

    def _mark_sent(self, edge: EdgePlan) -> None:
        unswept = self._incarnations.unswept_of(edge)
        self._incarnations.note_sender_death(edge)
        for number in unswept:
            self._incarnations.recover_receiver(number)
        for number in unswept[:1]:
            self.attach(number)  # the next receiver, if it is up already, drains it
        if not edge.tap and self._roster.flow_at(edge.receiver).failed:
            self._incarnations.give_up(edge)
        if edge.tap:
            self._taps.lose(edge)
        native.RoutineRecord(self._roster.segment.process, edge.receiver).ring()
        if not edge.tap and not edge.local:
            self.tell_sender_died(edge.receiver)

    def tell_sender_died(self, receiver: int) -> None:
        """Without asking its flag: the sender may have died between its push and its ring."""
        self._roster.send(self._roster.flow_at(receiver), SenderDied(self._roster.plan.names[receiver]))

    def _mark_received(self, edge: EdgePlan) -> None:
        sender = self._roster.flow_at(edge.sender)
        for number in self._incarnations.note_receiver_death(edge, sender_lives=sender.up):
            self._roster.send(sender, ReceiverDied(self._roster.plan.names[edge.sender], number))

    def note_recovered(self, number: int) -> None:
        """A sender has swept what its dead receiver held."""
        if self._incarnations.note_recovered(number):
            self.attach(number)

    def attach(self, number: int) -> None:
        """Nothing of a dead receiver is left on the incarnation: the next one may attach, if it is up already.

        Not before an earlier one of the same edge, and those that waited behind it follow.
        """
        roster = self._roster
        edge = roster.plan.edges[self._incarnations[number].edge]
        fit = self._links.fit(edge)
        for ready in fit[fit.index(number) :] if number in fit else ():
            roster.send(
                roster.flow_at(edge.receiver), AddIn(roster.plan.names[edge.receiver], edge.without_transmitter(), ready)
            )
        self.forget(edge)

    def forget(self, edge: EdgePlan) -> None:
        """Tells the receiver's process that the edge is unlinked, once it has all that there is to drain."""
        receiver = self._roster.flow_at(edge.receiver)
        if receiver.up and self._links.must_forget(edge):
            self._roster.send(receiver, RemoveIn(self._roster.plan.names[edge.receiver], edge.number))

    def reopen_outs(self, flow: Flow) -> list[tuple[EdgePlan, int]] | None:
        """Fresh incarnations for what a flow sends that is to be forked again; None when there is no bit to spare now."""
        opened: list[tuple[EdgePlan, int]] = []
        for item in flow.routines:
            for edge in item.outs:
                if self._incarnations.live(edge) is not None:
                    continue
                number = self._incarnations.open(edge, item)
                if number is None:
                    for other, unused in opened:
                        self._incarnations.withdraw(other, unused)
                    self._give_up_undrained()
                    return None
                if self._roster.state_of(item.number).over:
                    self._incarnations[number].close()
                opened.append((edge, number))
        return opened

    def _give_up_undrained(self) -> None:
        """No bit is left for a restart: what dead senders sent to flows that are down is lost, counted, and its bits are free.

        Else two deaths can wait for each other: the receiver's restart for a bit, and its sender's old one for the receiver.
        """
        for edge in self._roster.plan.edges:
            if not edge.local and not self._roster.flow_at(edge.receiver).up:
                self._incarnations.give_up_dead(edge)

    def give_up(self, flow: Flow) -> None:
        """The flow does not come back: its neighbours go on without it."""
        roster = self._roster
        for item in flow.routines:
            for edge in self._links.outs(item):
                roster.edge_record(edge).fail_sender()
                if roster.flow_at(edge.receiver).failed:
                    self._incarnations.give_up(edge)
                roster.records[edge.receiver].ring()
            for edge in self._links.ins(item):
                roster.edge_record(edge).receiver_ended = True
                sender = roster.flow_at(edge.sender)
                if not sender.up:
                    self._incarnations.give_up(edge)
                elif not edge.local:
                    for number in self._incarnations.give_up_dead(edge):
                        roster.send(sender, ReceiverFailed(roster.plan.names[edge.sender], number))
                roster.records[edge.sender].ring()
