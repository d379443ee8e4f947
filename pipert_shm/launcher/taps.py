"""Taps: edges from a routine to the parent, which can be made and closed while the pipe runs."""

from __future__ import annotations

from collections.abc import Callable

from pipert_shm.control.messages import AddTap, Message, RemoveTap, TapEnded, TapMade, TapRefused
from pipert_shm.errors import PipeStateError
from pipert_shm.graph.model import EdgePlan
from pipert_shm.launcher.footprint import TapPlaces
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.roster import Roster
from pipert_shm.transmitters import SharedMemoryTransmitter


class Taps:
    """Makes and ends taps.

    :param tell: sends the parent a message, with the number of the question that it answers.
    :param answer: answers a question with an error.
    """

    def __init__(
        self,
        roster: Roster,
        incarnations: Incarnations,
        places: TapPlaces,
        tell: Callable[[Message, int], None],
        answer: Callable[[int, Exception], None],
    ) -> None:
        self._roster = roster
        self._incarnations = incarnations
        self._places = places
        self._tell = tell
        self._answer = answer
        self._taps: dict[int, EdgePlan] = {}
        self._asked: dict[int, int] = {}  # by edge: the parent's question, until the sender answers it
        self._answered: dict[int, int] = {}  # by question: the edge of the tap that was made
        self._unread: set[int] = set()  # edges whose tap the parent does not have, so that nobody drains them

    def of(self, sender: int) -> list[EdgePlan]:
        """The taps of a routine."""
        return [tap for tap in self._taps.values() if tap.sender == sender]

    def make(self, question: int, name: str) -> None:
        """Asks a routine's flow for a tap. Its answer goes to the parent.

        :raises PipeStateError: when the routine does not run, or has no place for one more.
        """
        item, flow = self._roster.plan.find(name), self._roster.flow_of(name)
        if item is None or flow is None or not flow.up:
            raise _refusal(f"routine {name!r} does not run")
        first_routine, count, first_edge = self._places
        place = next((place for place in range(count) if self._is_unused(first_edge + place)), None)
        if place is None:
            raise _refusal(f"all {count} taps of the pipe are in use; close one")
        edge = EdgePlan(
            number=first_edge + place,
            sender=item.number,
            receiver=first_routine + place,
            policy="drop_oldest",
            capacity=1,
            timeout=None,
            transmitter=SharedMemoryTransmitter(),
            local=False,
            tap=True,
            borrow_cap=1,
        )
        edge.format(self._roster.edge_record(edge), item.reach)
        number = self._incarnations.open(edge, item)
        if number is None:
            raise _refusal(f"routine {name!r} has no holder bit left for one more receiver")
        self._taps[edge.number] = edge
        self._asked[edge.number] = question
        self._roster.send(flow, AddTap(name, edge, number), question)

    def _is_unused(self, edge: int) -> bool:
        """Whether a tap's place is free: no sender uses it, and no view of its messages is alive."""
        return edge not in self._taps and not self._incarnations.numbers_of(edge)

    def note_made(self, message: TapMade) -> None:
        """The routine sends to the tap from now on."""
        question = self._asked.pop(message.edge.number, None)
        if question is not None:
            self._answered[question] = message.edge.number
            self._tell(message, question)

    def fail(self, question: int, error: Exception) -> None:
        """The routine's flow could not read the question, or the launcher could not read its answer."""
        edge = next((edge for edge, asked in self._asked.items() if asked == question), None)
        if edge is not None:
            del self._asked[edge]
            self._answer(question, _refusal(str(error)))
            self._unread.add(edge)
            self.end(edge)

    def withdraw(self, question: int) -> None:
        """Ends a tap because the parent could not read the answer to its question."""
        edge = self._answered.get(question)
        if edge is not None:
            self._unread.add(edge)
            self.end(edge)

    def note_refused(self, message: TapRefused) -> None:
        """The routine can't send to the tap."""
        tap, question = self._taps.pop(message.edge, None), self._asked.pop(message.edge, None)
        self._unread.discard(message.edge)
        if tap is not None:
            self._incarnations.give_up(tap)
        if question is not None:
            self._answer(question, _refusal(message.why))

    def note_ended(self, message: TapEnded) -> None:
        """The routine does not send to the tap any more."""
        tap = self._taps.pop(message.edge, None)
        if tap is not None:
            self._forget(tap)
            self._tell(message, 0)

    def _forget(self, tap: EdgePlan) -> None:
        if tap.number in self._unread:
            self._unread.remove(tap.number)
            self._incarnations.give_up(tap)
        self._answered = {question: edge for question, edge in self._answered.items() if edge != tap.number}

    def end(self, edge: int) -> None:
        """Ends a tap that the parent has closed."""
        tap = self._taps.get(edge)
        if tap is not None:  # else it ended with its routine's process
            sender = self._roster.plan.name_of(tap.sender)
            self._roster.send(self._roster.flow_at(tap.sender), RemoveTap(sender, edge))

    def lose(self, tap: EdgePlan) -> None:
        """Ends a tap whose routine's process is dead. The parent may make another."""
        self._roster.edge_record(tap).fail_sender()
        del self._taps[tap.number]
        self._forget(tap)
        self._tell(TapEnded(tap.number), 0)
        question = self._asked.pop(tap.number, None)
        if question is not None:
            self._incarnations.give_up(tap)  # the parent has no tap yet that could drain it
            self._answer(question, _refusal(f"routine {self._roster.plan.name_of(tap.sender)!r} died just now"))


def _refusal(why: str) -> PipeStateError:
    return PipeStateError(f"can't tap: {why}")
