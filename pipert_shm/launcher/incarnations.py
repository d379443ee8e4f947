"""The incarnations of all edges: which holder bit each has, and which still have to be drained or swept."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container

from pipert_shm import binding
from pipert_shm.errors import SharedMemoryFull
from pipert_shm.graph.bits import BITS
from pipert_shm.graph.model import EdgePlan, Plan, RoutinePlan
from pipert_shm.shm.rings import open_every_ring, remove_if_free, remove_unpublished
from pipert_shm.shm.segments import ControlSegment

WITHOUT_BIT = (binding.SWEPT, binding.GIVEN_UP)  # states in which no slot has an incarnation's bit
OF_THE_GONE = (binding.SENDER_DEAD, binding.SWEEPING)


class Incarnations:
    """The table of incarnations. Only the launcher has it, and gives out holder bits after build()."""

    def __init__(self, segment: ControlSegment, plan: Plan, logger: logging.Logger) -> None:
        self._logger = logger
        self._segment = segment
        self._plan = plan
        self._all = segment.process.incarnations()  # those that are in use, or were
        self._of: dict[int, list[int]] = {edge.number: [edge.first_incarnation] for edge in plan.edges}
        self._reach: dict[int, frozenset[int]] = {edge.number: plan.routines[edge.sender].reach for edge in plan.edges}
        self._opened = {number: number for numbers in self._of.values() for number in numbers}  # in which order
        self._unswept: Counter[int] = Counter()  # by incarnation: sweeps that its sender was asked for and has not done
        self._retired: list[int] = []

    def __getitem__(self, number: int) -> binding.Incarnation:
        return self._all[number]

    def of(self, edge: EdgePlan) -> list[int]:
        """The incarnations that an edge's receiver reads, oldest first: those to drain, and the live one."""
        return self.numbers_of(edge.number)

    def numbers_of(self, edge: int) -> list[int]:
        """The same, by the edge's number."""
        numbers = self._of.get(edge, [])
        for number in list(numbers):
            if self._all[number].state == binding.SWEPT:
                self._all[number].state = binding.FREE
                numbers.remove(number)
        return numbers

    def live(self, edge: EdgePlan) -> int | None:
        """The incarnation that the edge's sender sends on."""
        numbers = self.of(edge)
        return numbers[-1] if numbers and self._all[numbers[-1]].state == binding.LIVE else None

    def is_attachable(self, number: int) -> bool:
        """Whether a receiver may attach to it: the slots of a dead receiver are swept."""
        return number not in self._unswept

    def forget(self, edge: int) -> None:
        """Forgets an edge that has none."""
        self._of.pop(edge, None)
        self._reach.pop(edge, None)

    def forget_reach(self, edge: int, routine: int) -> bool:
        """Takes a routine that has no ring any more out of what an edge's messages can name; whether it was there."""
        reach = self._reach.get(edge, frozenset())
        if routine not in reach:
            return False
        self._reach[edge] = reach - {routine}
        return True

    def open(self, edge: EdgePlan, sender: RoutinePlan) -> int | None:
        """A new incarnation, with a bit that is unused wherever its messages can go. None when no bit or record is free now."""
        bit, number = self._spare(edge, sender)
        if bit is None or number is None:
            return None
        self._reach[edge.number] = sender.reach
        for numbers in self._of.values():
            if number in numbers:
                numbers.remove(number)
        self._all[number].format(edge.number, bit)
        self._of.setdefault(edge.number, []).append(number)
        self._opened[number] = 1 + max(self._opened.values(), default=0)
        return number

    def free_bits(self, sender: RoutinePlan, *, alone: bool = False) -> int:
        """How many bits are unused wherever a routine's messages can go.

        :param alone: whether to count as unused also those of senders that are gone.
        """
        return len(BITS) - len(self._used(sender, (*WITHOUT_BIT, *OF_THE_GONE) if alone else WITHOUT_BIT))

    def can_open(self, edge: EdgePlan, sender: RoutinePlan) -> bool:
        """Whether `open` would succeed."""
        return None not in self._spare(edge, sender)

    def _spare(self, edge: EdgePlan, sender: RoutinePlan) -> tuple[int | None, int | None]:
        """A free bit and the number of a free incarnation; None for what is not free."""
        used = set() if edge.local else self._used(sender)
        bit = 0 if edge.local else next((bit for bit in BITS if bit not in used), None)
        number = next((i.number for i in self._all if i.state in (binding.FREE, binding.SWEPT)), None)
        return bit, self._one_more() if number is None else number

    def _used(self, sender: RoutinePlan, but: Container[int] = WITHOUT_BIT) -> set[int]:
        """The bits that are used somewhere where a routine's messages can go."""
        used: set[int] = set()
        for other, numbers in self._of.items():
            if self._reach[other] & sender.reach:
                used.update(self._all[number].bit for number in numbers if self._all[number].state not in but)
        return used - {0}

    def provide(self, count: int) -> None:
        """Has at least so many records, if there is room.

        :raises SharedMemoryFull: when there is no memory for them.
        """
        process = self._segment.process
        while len(self._all) < min(count, process.room.incarnations):
            number = len(self._all)
            self._segment.take("incarnation", number)
            process.note_used(process.edges_used, number + 1)
            self._all.append(binding.Incarnation(process, number))

    def _one_more(self) -> int | None:
        """The number of an incarnation that was never used; None when there is no room or no memory for it."""
        number = len(self._all)
        try:
            self.provide(number + 1)
        except SharedMemoryFull as error:
            self._logger.error("%s", error)
        return number if number < len(self._all) else None

    def withdraw(self, edge: EdgePlan, number: int) -> None:
        """Takes back one that was opened just now, before any flow heard of it."""
        self._all[number].state = binding.FREE
        self._of[edge.number].remove(number)

    def note_sender_death(self, edge: EdgePlan) -> None:
        """Marks what a dead sender left, for the receiver to drain. Within a flow both ends are dead, and all is dropped."""
        binding.EdgeRecord(self._segment.process, edge.number).settle_tickets()
        for number in self.of(edge):
            self._all[number].recover_handing()
            if edge.local:
                self._all[number].recover()
            elif self._all[number].state == binding.LIVE:
                self._all[number].state = binding.SENDER_DEAD

    def note_receiver_death(self, edge: EdgePlan, *, sender_lives: bool) -> list[int]:
        """Sweeps for a dead receiver where no sender is alive; the incarnations that the sender has to sweep."""
        asked = []
        for number in self.of(edge):
            if sender_lives and self._all[number].state == binding.LIVE:
                self._unswept[number] += 1
                asked.append(number)
            else:
                self.recover_receiver(number)
        return asked

    def recover_receiver(self, number: int) -> None:
        """Sweeps for a dead receiver, in the place of a sender that is dead, too."""
        self._all[number].recover_receiver()
        del self._unswept[number]

    def note_recovered(self, number: int) -> bool:
        """The sender has swept for a dead receiver; whether that was the last sweep that it was asked for."""
        if number not in self._unswept:
            return False  # the incarnation was given up meanwhile
        self._unswept[number] -= 1
        swept = self._unswept[number] <= 0
        if swept:
            del self._unswept[number]
        return swept

    def unswept_of(self, edge: EdgePlan) -> list[int]:
        """The incarnations that the edge's sender was asked to sweep, and has not."""
        return [number for number in self.of(edge) if number in self._unswept]

    def undrained(self) -> list[int]:
        """Those that receivers still have to drain, and whose senders have nothing more to do for them; oldest first."""
        numbers = [number for edge in self._plan.edges if not edge.local for number in self.of(edge)]
        dead = (n for n in numbers if self._all[n].state == binding.SENDER_DEAD and n not in self._unswept)
        return sorted(dead, key=self._opened.__getitem__)

    def reaches(self, number: int, sender: RoutinePlan) -> bool:
        """Whether its bit stands, perhaps, where a routine's messages go."""
        return bool(self._reach[self._all[number].edge] & sender.reach)

    def take_back(self, number: int) -> bool:
        """Drops what a receiver that may live leaves of an undrained one; whether its bit is free now.

        :raises OSError: when a ring can't be opened.
        """
        open_every_ring(self._segment)
        return self._all[number].take_back()

    @property
    def retired_bytes(self) -> int:
        """The memory of rings of dead routines that are not free yet."""
        geometry = map(self._segment.process.ring_geometry, self._retired)
        return sum(binding.ring_bytes(*its) for its in geometry if its.slots)

    def give_up(self, edge: EdgePlan) -> None:
        """Drops all messages of an edge whose ends are both dead, and whose receiver is not restarted."""
        for number in self.of(edge):
            self.abandon(number)

    def abandon(self, number: int) -> None:
        """Drops the messages of an incarnation that nobody uses any more, and clears its bit in every ring.

        :raises OSError: when one can't be opened.
        """
        open_every_ring(self._segment)
        self._all[number].recover()
        del self._unswept[number]

    def give_up_dead(self, edge: EdgePlan) -> list[int]:
        """Drops what earlier senders left for a receiver that has failed for good; the incarnations of the living sender."""
        living = []
        for number in self.of(edge):
            if self._all[number].state == binding.LIVE:
                living.append(number)
            else:
                self.abandon(number)
        return living

    def retire_rings(self, routine: RoutinePlan) -> None:
        """Takes over the rings of a routine whose process is dead. They are removed when nobody holds a slot of them."""
        process = self._segment.process
        remove_unpublished(self._segment, routine.number)
        for ring in open_every_ring(self._segment):
            if process.ring_owner(ring) == routine.number and ring not in self._retired:
                process.recover_owner(ring)
                self._retired.append(ring)

    def ring_owners(self) -> set[int]:
        """The numbers of the routines that have rings, or have left some."""
        process = self._segment.process
        serials = map(process.serial, process.rings())
        return {binding.serial_owner(serial) for serial in serials if serial}

    def remove_retired(self) -> bool:
        """Removes the retired rings that are free by now; whether some are left."""
        self._retired = [ring for ring in self._retired if not remove_if_free(self._segment, ring)]
        return bool(self._retired)
