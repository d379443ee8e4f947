"""The lives of a pipe's edges, as the launcher keeps them: who has which bit, and what is still to be drained or swept."""

from __future__ import annotations

from collections import Counter

from pipert_shm import native
from pipert_shm.memory import ControlSegment, open_every_ring, remove_if_free, remove_unpublished
from pipert_shm.plan import BITS, EdgePlan, Plan, RoutinePlan


class Incarnations:
    """The table of incarnations. The launcher only; it is the one process that gives out bits after build()."""

    def __init__(self, segment: ControlSegment, plan: Plan) -> None:
        self._segment = segment
        self._plan = plan
        self._all = segment.process.incarnations()
        self._of: dict[int, list[int]] = {edge.number: [edge.first_incarnation] for edge in plan.edges}
        self._reach: dict[int, frozenset[int]] = {edge.number: plan.routines[edge.sender].reach for edge in plan.edges}
        self._unswept: Counter[int] = Counter()  # how often each sender was asked to recover a receiver, and has not answered
        self._retired: list[int] = []

    def __getitem__(self, number: int) -> native.Incarnation:
        return self._all[number]

    def of(self, edge: EdgePlan) -> list[int]:
        """The incarnations of an edge that its receiver has to do with, oldest first: those to drain, and the live one."""
        return self.numbers_of(edge.number)

    def numbers_of(self, edge: int) -> list[int]:
        """The same, by the edge's number."""
        numbers = self._of.get(edge, [])
        for number in list(numbers):
            if self._all[number].state == native.SWEPT:
                self._all[number].state = native.FREE
                numbers.remove(number)
        return numbers

    def live(self, edge: EdgePlan) -> int | None:
        """The incarnation that the edge's sender sends on."""
        numbers = self.of(edge)
        return numbers[-1] if numbers and self._all[numbers[-1]].state == native.LIVE else None

    def is_fit(self, number: int) -> bool:
        """Whether a receiver may attach to it: nothing of a dead one is left on it."""
        return number not in self._unswept

    def open(self, edge: EdgePlan, sender: RoutinePlan) -> int | None:
        """A new incarnation, with a bit that nobody has where its messages can go; None when there is none to spare now."""
        bit, number = self._spare(edge, sender)
        if bit is None or number is None:
            return None
        self._reach[edge.number] = sender.reach
        for numbers in self._of.values():
            if number in numbers:
                numbers.remove(number)
        self._all[number].format(edge.number, bit)
        self._of.setdefault(edge.number, []).append(number)
        return number

    def can_open(self, edge: EdgePlan, sender: RoutinePlan) -> bool:
        """Whether `open` would give one."""
        return None not in self._spare(edge, sender)

    def _spare(self, edge: EdgePlan, sender: RoutinePlan) -> tuple[int | None, int | None]:
        """A bit, and an incarnation's number."""
        used: set[int] = set()
        for other, numbers in self._of.items():
            if self._reach[other] & sender.reach:
                used.update(self._all[number].bit for number in numbers if self._all[number].state != native.SWEPT)
        bit = 0 if edge.local else next((bit for bit in BITS if bit not in used), None)
        return bit, next((i.number for i in self._all if i.state in (native.FREE, native.SWEPT)), None)

    def withdraw(self, edge: EdgePlan, number: int) -> None:
        """Takes back one that was opened just now, and that nobody knows of."""
        self._all[number].state = native.FREE
        self._of[edge.number].remove(number)

    def note_sender_death(self, edge: EdgePlan) -> None:
        """The edge's sender is dead. Its receiver drains what is there; within a flow both ends are dead, and all is lost."""
        native.EdgeRecord(self._segment.process, edge.number).settle_tickets()
        for number in self.of(edge):
            if edge.local:
                self._all[number].recover()
            elif self._all[number].state == native.LIVE:
                self._all[number].state = native.SENDER_DEAD

    def note_receiver_death(self, edge: EdgePlan, *, sender_lives: bool) -> list[int]:
        """The edge's receiver is dead. Recovers what only we can; returns the incarnations that the sender has to recover."""
        asked = []
        for number in self.of(edge):
            if sender_lives and self._all[number].state == native.LIVE:
                self._unswept[number] += 1
                asked.append(number)
            else:
                self.recover_receiver(number)
        return asked

    def recover_receiver(self, number: int) -> None:
        """In the place of a sender that is dead."""
        self._all[number].recover_receiver()
        del self._unswept[number]

    def note_recovered(self, number: int) -> bool:
        """The sender has swept what its dead receiver held; whether that was the last sweep that it was asked for."""
        if number not in self._unswept:
            return False  # it was given up meanwhile
        self._unswept[number] -= 1
        fit = self._unswept[number] <= 0
        if fit:
            del self._unswept[number]
        return fit

    def unswept_of(self, edge: EdgePlan) -> list[int]:
        """Those that the edge's sender was asked to recover, and has not."""
        return [number for number in self.of(edge) if number in self._unswept]

    def give_up(self, edge: EdgePlan) -> None:
        """Both ends are dead and the receiver does not come back: nobody will drain it."""
        for number in self.of(edge):
            self.abandon(number)

    def abandon(self, number: int) -> None:
        """Nobody sends on it, and nobody will drain it: its bit is cleared in every ring that there is now.

        :raises OSError: when one can't be opened.
        """
        open_every_ring(self._segment)
        self._all[number].recover()
        del self._unswept[number]

    def give_up_dead(self, edge: EdgePlan) -> list[int]:
        """The receiver does not come back, but the sender lives: gives up what earlier senders left, and returns the rest."""
        living = []
        for number in self.of(edge):
            if self._all[number].state == native.LIVE:
                living.append(number)
            else:
                self.abandon(number)
        return living

    def retire_rings(self, routine: RoutinePlan) -> None:
        """The rings of a routine whose process is dead: they go when nobody holds a slot of them any more."""
        process = self._segment.process
        remove_unpublished(self._segment, routine.number)
        for ring in open_every_ring(self._segment):
            if process.ring_owner(ring) == routine.number and ring not in self._retired:
                process.recover_owner(ring)
                self._retired.append(ring)

    def remove_retired(self) -> bool:
        """Removes the retired rings that are free by now; whether there are others."""
        self._retired = [ring for ring in self._retired if not remove_if_free(self._segment, ring)]
        return bool(self._retired)
