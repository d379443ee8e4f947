"""Taps: edges from a routine to the parent, which come and go while the pipe runs."""

from __future__ import annotations

from collections.abc import Callable

from pipert_shm.control.messages import AddTap, Message, RemoveTap, TapEnded, TapMade, TapRefused
from pipert_shm.errors import PipeStateError
from pipert_shm.launcher.incarnations import Incarnations
from pipert_shm.launcher.roster import Roster
from pipert_shm.plan import EdgePlan
from pipert_shm.transmit import SharedMemoryTransmitter


class Taps:
    """The taps that there are, and those that were asked for.

    :param places: (first routine number, how many, first edge number) of the records that are kept for taps.
    :param tell: sends the parent a message, and the number of the question that it answers.
    :param answer: answers a question with an error.
    """

    def __init__(
        self,
        roster: Roster,
        incarnations: Incarnations,
        places: tuple[int, int, int],
        tell: Callable[[Message, int], None],
        answer: Callable[[int, Exception], None],
    ) -> None:
        self._roster = roster
        self._incarnations = incarnations
        self._places = places
        self._tell = tell
        self._answer = answer
        self._taps: dict[int, EdgePlan] = {}
        self._asked: dict[int, int] = {}  # by edge, the question that the sender has not answered

    def of(self, sender: int) -> list[EdgePlan]:
        """The taps of a routine."""
        return [tap for tap in self._taps.values() if tap.sender == sender]

    def make(self, question: int, name: str) -> None:
        """Makes one, which the routine's process then answers for.

        :raises PipeStateError: when there can't be one.
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
        self._roster.send(flow, AddTap(name, edge, number))

    def _is_unused(self, edge: int) -> bool:
        """Whether a tap's place is free: its last sender is done with it, and no view of it lives."""
        return edge not in self._taps and not self._incarnations.numbers_of(edge)

    def note_made(self, message: TapMade) -> None:
        """The routine sends to it."""
        question = self._asked.pop(message.edge.number, None)
        if question is not None:
            self._tell(message, question)

    def note_refused(self, message: TapRefused) -> None:
        """The routine can't send to it."""
        tap, question = self._taps.pop(message.edge, None), self._asked.pop(message.edge, None)
        if tap is not None:
            self._incarnations.give_up(tap)
        if question is not None:
            self._answer(question, _refusal(message.why))

    def note_ended(self, message: TapEnded) -> None:
        """The routine has let go of it."""
        if self._taps.pop(message.edge, None) is not None:
            self._tell(message, 0)

    def end(self, edge: int) -> None:
        """The parent wants it no more."""
        tap = self._taps.get(edge)
        if tap is not None:  # else it ended with its routine's process
            sender = self._roster.plan.names[tap.sender]
            self._roster.send(self._roster.flow_at(tap.sender), RemoveTap(sender, edge))

    def lose(self, tap: EdgePlan) -> None:
        """Its routine's process is dead, and the tap ends with it; whoever reads it may tap again."""
        self._roster.edge_record(tap).fail_sender()
        del self._taps[tap.number]
        self._tell(TapEnded(tap.number), 0)
        question = self._asked.pop(tap.number, None)
        if question is not None:
            self._incarnations.give_up(tap)  # there is no tap yet that could drain it
            self._answer(question, _refusal(f"routine {self._roster.plan.names[tap.sender]!r} died just now"))


def _refusal(why: str) -> PipeStateError:
    return PipeStateError(f"can't tap: {why}")
