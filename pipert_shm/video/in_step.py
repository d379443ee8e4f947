"""Lets the replays of one recording go in step, also in several flows: in the order that was recorded, and on one clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from pipert_shm.binding import now_ns
from pipert_shm.shm.states import State

BEGIN_S = 10.0
"""Seconds in which the other replays must have begun. One that has not is no longer waited for."""

ENDED = (1 << 40) - 1  # the number of the next message where there is none

# The words of a place.
POSITION = 0
OFFSET = 1
_SENT_BITS = 8
_RUN_BITS = 16


class Place(Protocol):
    """What a replay shows to the others: words in memory that all processes of the pipe see. Only the replay writes them."""

    @property
    def state(self) -> int:
        """The replay's `State`."""

    def step(self, word: int) -> int:
        """One of its words, 64 bits."""

    def set_step(self, word: int, value: int) -> None:
        """Sets one. Its own thread only."""

    def ring(self) -> None:
        """Wakes the replay, if it waits for its turn."""


class Alone:
    """The place of a replay that no other one sees."""

    state: int = State.RUNNING

    def __init__(self) -> None:
        self._words = [0, 0]

    def step(self, word: int) -> int:
        """See `Place`, as for the others."""
        return self._words[word]

    def set_step(self, word: int, value: int) -> None:
        """See `Place`."""
        self._words[word] = value

    def ring(self) -> None:
        """Nobody waits."""


class Position(NamedTuple):
    """How far a replay is. It is one word, so that it is never seen half written.

    Attributes:
        run: from a start of the replays to their end; those that go in step have the same. 0: it has never begun.
        number: of the message that it sends next, among all of the recording.
        sent: the lowest bits of how many messages it had sent when it came to that one.
    """

    run: int
    number: int
    sent: int

    @classmethod
    def of(cls, place: Place) -> Position:
        """Where a replay is."""
        word = place.step(POSITION)
        return cls(word >> 48, word >> _SENT_BITS & ENDED, word & (1 << _SENT_BITS) - 1)

    def show(self, place: Place) -> None:
        """Shows it to the others."""
        place.set_step(POSITION, self.run << 48 | self.number << _SENT_BITS | self.sent)

    @property
    def is_between(self) -> bool:
        """Whether a run has begun, and not ended."""
        return self.run > 0 and self.number != ENDED


class InStep:
    """Says when it is a replay's turn. The replay's thread only.

    Each replay shows the number of its next message. It is due when those of all others are larger. Nobody waits for a replay
    that has ended, has failed or was stopped, or that has not begun in time. One whose process has died is waited for, until
    the next process goes on where it was.

    :param name: the replay's.
    :param own: its place.
    :param others: those of the other replays, by name.
    :param sent: how many messages the replay has sent, in all lives of its process.
    """

    def __init__(self, name: str, own: Place, others: Mapping[str, Place], sent: Callable[[], int]) -> None:
        self._name = name
        self._own = own
        self._others = others
        self._sent = sent
        self._run = 0  # it has not begun
        self._until = 0.0
        self._missing: set[str] = set()  # those that are not waited for any more until they begin

    def enter(self) -> int:
        """The replay begins: the number of the first message that it sends. All others wait for it."""
        own = Position.of(self._own)
        others = {name: Position.of(place) for name, place in self._others.items()}
        under_way = [at.run for name, at in others.items() if at.is_between and State(self._others[name].state).active]
        self._until = time.monotonic() + BEGIN_S
        self._missing.clear()
        if own.is_between and (not under_way or own.run in under_way):  # an earlier process died in this run
            self._run = own.run
            return own.number + (own.sent != self._sent_now)
        last = max([own.run, *(at.run for at in others.values())])
        self._run = max(under_way, default=last % ((1 << _RUN_BITS) - 1) + 1)
        self._own.set_step(OFFSET, 0)
        self.stand(0)
        return 0

    @property
    def _sent_now(self) -> int:
        return self._sent() & (1 << _SENT_BITS) - 1

    def stand(self, number: int) -> None:
        """Says the number of the replay's next message; `ENDED` where there is none."""
        if not self._run:
            return  # there was nothing to begin with
        Position(self._run, number, self._sent_now).show(self._own)
        for place in self._others.values():
            at = Position.of(place)
            if at.run == self._run and at.number <= number:
                place.ring()

    def may_go(self) -> bool:
        """Whether it is the replay's turn. Of two that send the same message, the one whose name comes first has it first."""
        own = Position.of(self._own).number, self._name
        return not any(self._is_before(name, place, own) for name, place in self._others.items())

    def _is_before(self, name: str, place: Place, own: tuple[int, str]) -> bool:
        at, state = Position.of(place), State(place.state)
        if at.run != self._run:
            return name not in self._missing and not state.over
        self._missing.discard(name)
        return at.number != ENDED and state.active and (at.number, name) < own

    def take_missing(self) -> list[str]:
        """The replays that have not begun in time. They are not waited for until they begin."""
        if time.monotonic() < self._until:
            return []
        missing = [
            name
            for name, place in self._others.items()
            if name not in self._missing and Position.of(place).run != self._run and not State(place.state).over
        ]
        self._missing.update(missing)
        return missing

    def offset_ns(self, captured_ns: int) -> int:
        """Between the recording's clock and ours. It is set by the message that goes first, which is captured now.

        :param captured_ns: by the recording's clock.
        """
        places = [self._own, *(place for place in self._others.values() if Position.of(place).run == self._run)]
        found = next((word for place in places if (word := place.step(OFFSET))), 0)
        offset = found - (1 << 64) if found >> 63 else found
        if not found:
            offset = now_ns() - captured_ns or 1
        self._own.set_step(OFFSET, offset & (1 << 64) - 1)
        return offset
