"""Taps: edges from a routine to the parent or to an attached process, which can be made and closed while the pipe runs."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple, Protocol

from pipert_shm import binding
from pipert_shm.control.guard import contained
from pipert_shm.control.messages import AddTap, Message, RemoveTap, TapEnded, TapMade, TapRefused
from pipert_shm.errors import PipeStateError, SharedMemoryFull
from pipert_shm.graph.model import EdgePlan, RoutinePlan
from pipert_shm.launcher.footprint import TapPlaces
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.roster import Roster
from pipert_shm.routine import Role
from pipert_shm.transmitters import SharedMemoryTransmitter

MOST_EACH = 8  # taps of one attached process
IN_PLACE = 1  # taps of attached processes that may keep a frame of a ring; further ones get copies


class Owner(Protocol):
    """Who has taps: the parent, or an attached process."""

    def tell(self, message: Message, question: int = 0) -> None:
        """Sends a message."""

    def refuse(self, question: int, error: Exception) -> None:
        """Answers a question with an exception."""


class _Owned(NamedTuple):
    edge: EdgePlan
    owner: Owner


class _Asked(NamedTuple):
    """A question of an owner's, which waits for the sender."""

    question: int
    number: int  # of the question to the sender's flow


class Taps:
    """Makes and ends taps.

    :param places: the records for them: the first few are the parent's, the others those of attached processes.
    """

    def __init__(self, roster: Roster, incarnations: Incarnations, places: TapPlaces, parent: Owner) -> None:
        self._roster = roster
        self._incarnations = incarnations
        self._places = places
        self._parent = parent
        self._numbers = count(1)
        self._taps: dict[int, EdgePlan] = {}
        self._owned: dict[int, _Owned] = {}  # by edge, until no slot has its bit
        self._asked: dict[int, _Asked] = {}  # by edge, until the sender answers
        self._answered: dict[int, int] = {}  # by edge: the question that the tap is the answer to
        self._unread: set[int] = set()  # edges whose owner does not have the tap, so that nobody drains them
        self._ending: set[int] = set()  # edges that the sender was told to let go of
        self._unswept: set[int] = set()  # edges that the system had no descriptor to clear for

    def of(self, sender: int) -> list[EdgePlan]:
        """The taps of a routine."""
        return [tap for tap in self._taps.values() if tap.sender == sender]

    # ---- making ----------------------------------------------------------------------------------

    def make(self, owner: Owner, question: int, name: str) -> None:
        """Asks a routine's flow for a tap. Its answer goes to the owner.

        :raises PipeStateError: when the routine does not run, sends nothing, or has no place for one more.
        """
        item, flow = self._roster.plan.find(name), self._roster.flow_of(name)
        if item is None or flow is None or not flow.up:
            raise _refusal(f"routine {name!r} does not run")
        if item.role is Role.DESTINATION:
            raise _refusal(f"routine {name!r} sends nothing that could be tapped: tap the one that sends to it")
        place = self._place_for(owner)
        self._check_room(owner, item)
        edge = EdgePlan(
            number=self._places.edge + place,
            sender=item.number,
            receiver=self._places.routine + place,
            policy="drop_oldest",
            capacity=1,
            timeout=None,
            transmitter=SharedMemoryTransmitter(),
            local=False,
            tap=True,
            borrow_cap=self._borrow_cap(owner, item),
        )
        try:
            self._roster.segment.take("routine", edge.receiver)
            self._roster.segment.take("edge", edge.number)
        except SharedMemoryFull as error:
            raise _refusal(str(error)) from None
        edge.format(self._roster.edge_record(edge), item.reach)
        number = self._incarnations.open(edge, item)
        if number is None:
            raise _no_bit(name)
        self._taps[edge.number] = edge
        self._owned[edge.number] = _Owned(edge, owner)
        self._asked[edge.number] = asked = _Asked(question, next(self._numbers))
        self._roster.send(flow, AddTap(name, edge, self._incarnations[number].name), asked.number)

    def _place_for(self, owner: Owner) -> int:
        """:raises PipeStateError: when there is none."""
        own, first = self._places.taps, self._places.edge
        if owner is self._parent:
            places, why = range(own), f"all {own} taps of the pipe are in use; close one"
        else:
            places = range(own, own + self._places.attached)
            why = f"all {self._places.attached} taps of attached processes are in use"
            if len(self._edges_of(owner)) >= MOST_EACH:
                raise _refusal(f"this process has {MOST_EACH} taps already, or keeps frames of theirs; close one")
        place = next((place for place in places if self._is_unused(first + place)), None)
        if place is None:
            raise _refusal(why)
        return place

    def _is_unused(self, edge: int) -> bool:
        """Whether a tap's place is free: no sender uses it, and no view of its messages is alive."""
        if edge in self._taps or self._incarnations.numbers_of(edge):
            return False
        self._owned.pop(edge, None)
        return True

    def _check_room(self, owner: Owner, item: RoutinePlan) -> None:
        """Leaves the routine a place for its wires, and the flows that send to the same rings the bits for a restart.

        :raises PipeStateError: when there is no room for an attached process.
        """
        if len(item.outs) + len(self.of(item.number)) >= binding.OUTS:
            raise _refusal(f"routine {item.name!r} sends to {binding.OUTS} receivers already")
        if owner is not self._parent and self._incarnations.free_bits(item) <= self._bits_for_restarts(item):
            raise _no_bit(item.name)

    def _bits_for_restarts(self, item: RoutinePlan) -> int:
        """How many holder bits the flow needs that sends on most wires to where this routine's messages go."""
        plan = self._roster.plan

        def wires_of(sender: RoutinePlan) -> int:
            return sum(not edge.local for edge in sender.outs) if sender.reach & item.reach else 0

        return max(sum(map(wires_of, routines)) for routines in plan.flows.values())

    def _borrow_cap(self, owner: Owner, item: RoutinePlan) -> int:
        """How many frames the owner may keep in their slots. The rings have room for one tap that does so, or a few."""
        if owner is self._parent:
            return 1
        keeping = [
            other.edge
            for other in list(self._owned.values())
            if other.owner is not self._parent and other.edge.borrow_cap and not self._is_unused(other.edge.number)
        ]
        return int(sum(not self._reach_of(edge).isdisjoint(item.reach) for edge in keeping) < IN_PLACE)

    def _reach_of(self, edge: EdgePlan) -> frozenset[int]:
        plan = self._roster.plan
        sender = plan.routines.get(edge.sender) or plan.leaving.get(edge.sender)
        return frozenset() if sender is None else sender.reach

    def note_made(self, message: TapMade) -> None:
        """The routine sends to the tap from now on."""
        edge = message.edge.number
        asked = self._asked.pop(edge, None)
        if asked is not None:
            self._answered[edge] = asked.question
            self._owned[edge].owner.tell(message, asked.question)

    def fail(self, number: int, error: Exception) -> None:
        """The routine's flow could not read the question, or the launcher could not read its answer."""
        edge = next((edge for edge, asked in self._asked.items() if asked.number == number), None)
        if edge is not None:
            asked = self._asked.pop(edge)
            self._owned[edge].owner.refuse(asked.question, _refusal(str(error)))
            self._unread.add(edge)
            self._remove(edge)

    def withdraw(self, owner: Owner, question: int) -> None:
        """Ends a tap because its owner could not read the answer to its question."""
        for edge, answered in self._answered.items():
            if answered == question and self._owned[edge].owner is owner:
                self._unread.add(edge)
                self._remove(edge)

    def note_refused(self, message: TapRefused) -> None:
        """The routine can't send to the tap."""
        tap, asked = self._taps.pop(message.edge, None), self._asked.pop(message.edge, None)
        owned = self._owned.get(message.edge)
        self._unread.discard(message.edge)
        self._ending.discard(message.edge)
        if tap is not None:
            self._clear(message.edge)
        if asked is not None and owned is not None:
            owned.owner.refuse(asked.question, _refusal(message.why))

    # ---- ending ----------------------------------------------------------------------------------

    def end(self, owner: Owner, edge: int) -> None:
        """Ends a tap that its owner has closed. Those of others stay."""
        owned = self._owned.get(edge)
        if owned is not None and owned.owner is owner:
            self._remove(edge)

    def end_all(self, owner: Owner) -> None:
        """Ends all taps of an owner that takes nothing more."""
        for edge in self._edges_of(owner):
            if self._asked.pop(edge, None) is not None:
                self._unread.add(edge)  # it has not got the tap
            self._remove(edge)

    def _remove(self, edge: int) -> None:
        """Tells the sender once: its second answer could come when another tap has the place."""
        tap = self._taps.get(edge)
        if tap is not None and edge not in self._ending:  # else it ended with its routine's process
            self._ending.add(edge)
            sender = self._roster.plan.name_of(tap.sender)
            self._roster.send(self._roster.flow_at(tap.sender), RemoveTap(sender, edge))

    def note_ended(self, message: TapEnded) -> None:
        """The routine does not send to the tap any more."""
        tap = self._taps.pop(message.edge, None)
        if tap is not None:
            owner = self._owned[message.edge].owner
            self._forget(message.edge)
            owner.tell(message)

    def _forget(self, edge: int) -> None:
        """Nobody sends to the tap any more."""
        self._ending.discard(edge)
        self._answered.pop(edge, None)
        if edge in self._unread:
            self._unread.remove(edge)
            self._clear(edge)

    def lose(self, tap: EdgePlan) -> None:
        """Ends a tap whose routine's process is dead. The owner may make another."""
        self._roster.edge_record(tap).fail_sender()
        del self._taps[tap.number]
        owner, asked = self._owned[tap.number].owner, self._asked.pop(tap.number, None)
        self._forget(tap.number)
        owner.tell(TapEnded(tap.number))
        if asked is not None:
            self._clear(tap.number)  # the owner has no tap yet that could drain it
            owner.refuse(asked.question, _refusal(f"routine {self._roster.plan.name_of(tap.sender)!r} died just now"))

    # ---- the death of an owner -------------------------------------------------------------------

    def abandon(self, owner: Owner) -> None:
        """Takes back all that a dead process held by its taps, as soon as nobody sends to them any more."""
        for edge in self._edges_of(owner):
            self._asked.pop(edge, None)
            if edge in self._taps:
                self._unread.add(edge)
                self._remove(edge)
                continue
            with contained(self._roster.logger, "what a dead process held can't be given back now; it is tried again"):
                self._clear(edge)

    def holds(self, owner: Owner) -> bool:
        """Whether an owner has taps, or keeps frames of some that it had."""
        return bool(self._edges_of(owner))

    def _edges_of(self, owner: Owner) -> list[int]:
        edges = [edge for edge, owned in self._owned.items() if owned.owner is owner]
        return [edge for edge in edges if not self._is_unused(edge)]

    def _clear(self, edge: int) -> None:
        """Drops what waits on a tap that nobody reads, and clears its bit in every ring."""
        self._unswept.discard(edge)
        try:
            for number in self._incarnations.numbers_of(edge):
                self._incarnations.abandon(number)
        except OSError:
            self._unswept.add(edge)
            raise

    @property
    def has_unswept(self) -> bool:
        """Whether some taps of dead processes could not be cleared yet."""
        return bool(self._unswept)

    def sweep(self) -> None:
        """Tries again to clear them.

        :raises OSError: when the system still has no descriptor for it.
        """
        for edge in list(self._unswept):
            self._clear(edge)


def _refusal(why: str) -> PipeStateError:
    return PipeStateError(f"can't tap: {why}")


def _no_bit(name: str) -> PipeStateError:
    return _refusal(f"routine {name!r} has no holder bit left for one more receiver")
