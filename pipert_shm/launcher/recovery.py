"""Recovers the memory that dead flows used: which process clears what, and in which order.

docs/reliability.md gives the reasons, step by step.
"""

from __future__ import annotations

from pipert_shm import binding
from pipert_shm.control.messages import AddIn, ReceiverDied, ReceiverFailed, RemoveIn, SenderDied
from pipert_shm.graph.model import EdgePlan
from pipert_shm.launcher.edge_table import EdgeTable
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.roster import Flow, Roster
from pipert_shm.launcher.taps import Taps
from pipert_shm.launcher.undrained import Undrained


class Recovery:
    """Has everything that a dead process held released: by the launcher, or by the flow at the other end of an edge."""

    def __init__(self, roster: Roster, incarnations: Incarnations, undrained: Undrained, edges: EdgeTable, taps: Taps) -> None:
        self._roster = roster
        self._undrained = undrained
        self._incarnations = incarnations
        self._edges = edges
        self._taps = taps
        self._retired = False

    def retire(self, flow: Flow) -> None:
        """Takes over the rings of a dead flow. May be repeated. It is the one step of the recovery that makes system calls.

        :raises OSError: when the rings can't be opened now.
        """
        for item in flow.routines:
            self._incarnations.retire_rings(item)
        self._retired = True

    @property
    def has_retired(self) -> bool:
        """Whether rings of dead routines wait for their last slots, or what dead processes held to be cleared."""
        return self._retired or self._taps.has_unswept

    def remove_retired(self) -> None:
        """Removes the rings that are free by now, and clears what could not be cleared before."""
        if self._taps.has_unswept:
            self._taps.sweep()
        if self._retired:
            self._retired = self._incarnations.remove_retired()

    def mark(self, flow: Flow) -> None:
        """Marks all incarnations of a dead flow, before it is restarted, and asks the flows beside it to do their part."""
        records = self._roster.records
        for item in flow.routines:
            records[item.number].count_crash()
        for item in flow.routines:
            for edge in [*self._edges.outs(item), *self._taps.of(item.number)]:
                self._mark_sent(edge)
        for item in flow.routines:
            for edge in self._edges.ins(item):
                if not edge.local:
                    self._mark_received(edge)
        # The dead process may have made room or freed a slot, and died before it rang the routine that waits for that.
        self._ring_all()

    def part(self, flow: Flow) -> None:
        """Ends all edges of a flow that was removed and is dead. What it sent is drained; what waits for it is dropped."""
        for item in flow.routines:
            self._roster.records[item.number].count_crash()
        for item in flow.routines:
            for edge in [*self._edges.outs(item), *self._taps.of(item.number)]:
                self._mark_sent(edge)
            for edge in self._edges.ins(item):
                edge.held = False
                self._take_back(edge)
        numbers = {item.number for item in flow.routines}
        for edge in self._roster.plan.edges:
            if edge.sender in numbers:  # also if it was drained meanwhile, or long ago
                self.forget(edge)
        self._ring_all()

    def _ring_all(self) -> None:
        for record in self._roster.records.values():
            record.ring()

    def _mark_sent(self, edge: EdgePlan) -> None:
        unswept = self._incarnations.unswept_of(edge)
        self._incarnations.note_sender_death(edge)
        for number in unswept:
            self._incarnations.recover_receiver(number)
        for number in unswept[:1]:
            self.attach(number)  # the next process of the receiver, if it is up already, drains it
        if not edge.tap and self._roster.flow_at(edge.receiver).failed:
            self._incarnations.give_up(edge)
        if edge.tap:
            self._taps.lose(edge)
        binding.RoutineRecord(self._roster.segment.process, edge.receiver).ring()
        if not edge.tap and not edge.local:
            self.tell_sender_died(edge.receiver)

    def tell_sender_died(self, receiver: int) -> None:
        """Tells a receiver to look at its queues, in any case: the sender may have died between its push and its ring."""
        self._roster.send(self._roster.flow_at(receiver), SenderDied(self._roster.plan.name_of(receiver)))

    def _mark_received(self, edge: EdgePlan) -> None:
        sender = self._roster.flow_at(edge.sender)
        for number in self._incarnations.note_receiver_death(edge, sender_lives=sender.up):
            self._roster.send(sender, ReceiverDied(self._roster.plan.name_of(edge.sender), number))

    def note_recovered(self, number: int) -> None:
        """A sender has swept the slots that its dead receiver held."""
        if self._incarnations.note_recovered(number):
            self.attach(number)

    def attach(self, number: int) -> None:
        """Lets the receiver's process attach to an incarnation, which is free of what a dead receiver held.

        It waits behind earlier incarnations of its edge that are not free yet; later ones that waited for it follow.
        """
        roster = self._roster
        edge = roster.plan.edges[self._incarnations[number].edge]
        attachable = self._edges.attachable(edge)
        for ready in attachable[attachable.index(number) :] if number in attachable else ():
            told = AddIn(roster.plan.name_of(edge.receiver), edge.without_transmitter(), self._incarnations[ready].name)
            roster.send(roster.flow_at(edge.receiver), told)
        self.forget(edge)

    def forget(self, edge: EdgePlan) -> None:
        """Tells the receiver's process that the edge is unlinked, as soon as it has all incarnations that it has to drain."""
        receiver = self._roster.flow_at(edge.receiver)
        if receiver.up and self._edges.must_forget(edge):
            self._roster.send(receiver, RemoveIn(self._roster.plan.name_of(edge.receiver), edge.number))

    def reopen_outs(self, flow: Flow) -> list[tuple[EdgePlan, int]] | None:
        """Opens incarnations for all edges that a restarted flow sends on. None when no holder bit is free now."""
        opened: list[tuple[EdgePlan, int]] = []
        for item in flow.routines:
            for edge in item.outs:
                if self._incarnations.live(edge) is not None:
                    continue
                self._undrained.make_room(item)
                number = self._incarnations.open(edge, item)
                if number is None:
                    for other, unused in opened:
                        self._incarnations.withdraw(other, unused)
                    return None
                if self._roster.state_of(item.number).over:
                    self._incarnations[number].close()
                opened.append((edge, number))
        return opened

    def give_up(self, flow: Flow) -> None:
        """Ends all edges of a flow that has failed for good."""
        roster = self._roster
        for item in flow.routines:
            for edge in self._edges.outs(item):
                roster.edge_record(edge).fail_sender()
                if roster.flow_at(edge.receiver).failed:
                    self._incarnations.give_up(edge)
                roster.records[edge.receiver].ring()
            for edge in self._edges.ins(item):
                self._take_back(edge)

    def _take_back(self, edge: EdgePlan) -> None:
        """Drops what waits for a receiver that is dead for good."""
        roster = self._roster
        roster.edge_record(edge).receiver_ended = True
        sender = roster.flow_at(edge.sender)
        if not sender.up:
            self._incarnations.give_up(edge)
        elif not edge.local:
            for number in self._incarnations.give_up_dead(edge):
                roster.send(sender, ReceiverFailed(roster.plan.name_of(edge.sender), number))
        roster.records[edge.sender].ring()
