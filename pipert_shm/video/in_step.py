"""Lets several replays of one recording go in step: in the order that was recorded, and on one clock."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable

from pipert_shm.binding import now_ns

BEGIN_S = 10.0
"""Seconds in which the other replays must have begun. One that has not is no longer waited for."""

NOT_BEGUN = -1
ENDED = math.inf


class InStep:
    """Says whose message is next. Safe to use from any thread.

    Each replay says the number of its next message. It is due when those of all others are larger. A replay that has ended, or
    was stopped, is not waited for.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next: dict[str, float] = {}
        self._threads: dict[str, int] = {}
        self._until = 0.0
        self._offset_ns: int | None = None

    def enter(self, name: str, others: Iterable[str]) -> None:
        """A replay begins. The first one to begin makes all wait for the others."""
        with self._changed:
            if all(number == ENDED for number in self._next.values()):
                self._next = dict.fromkeys(others, NOT_BEGUN)
                self._until = time.monotonic() + BEGIN_S
                self._offset_ns = None
            self.stand(name, 0)

    def stand(self, name: str, number: float) -> None:
        """Says the number of a replay's next message; `ENDED` where there is none."""
        with self._changed:
            self._next[name] = number
            self._threads[name] = threading.get_ident()
            self._changed.notify_all()

    def is_due(self, name: str, patience: float) -> bool:
        """Whether it is a replay's turn. It waits for its turn for so many seconds.

        It does not wait for a replay on the same thread: that has to be called before it can go on.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._may_go(name) or not self._may_wait(name), patience)
            return self._may_go(name)

    def take_missing(self, name: str) -> list[str]:
        """The replays that have not begun in time. They are not waited for any longer."""
        with self._changed:
            if time.monotonic() < self._until:
                return []
            missing = [other for other in self._before(name) if self._next[other] == NOT_BEGUN]
            for other in missing:
                self._next[other] = ENDED
            return missing

    def offset_ns(self, captured_ns: int) -> int:
        """Between the recording's clock and ours. It is set by the message that goes first, which is captured now.

        :param captured_ns: by the recording's clock.
        """
        with self._changed:
            if self._offset_ns is None:
                self._offset_ns = now_ns() - captured_ns
            return self._offset_ns

    def _before(self, name: str) -> list[str]:
        """Those that come before a replay. Of two that send the same message, the one whose name comes first."""
        own = self._next[name], name
        return [other for other, number in self._next.items() if (number, other) < own]

    def _may_go(self, name: str) -> bool:
        return not self._before(name)

    def _may_wait(self, name: str) -> bool:
        here = threading.get_ident()
        return all(self._threads.get(other) != here for other in self._before(name))
