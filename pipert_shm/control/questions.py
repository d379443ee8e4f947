"""Questions to another process, and their answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

OPEN = object()  # in place of an answer that has not come


class Questions:
    """The open questions, by number. Any thread.

    :param turn_away: disposes of an answer that nobody waits for any more.
    """

    def __init__(self, turn_away: Callable[[Any], None]) -> None:
        self._turn_away = turn_away
        self._changed = threading.Condition()
        self._asked = 0
        self._answers: dict[int, Any] = {}
        self._closed = False

    def __len__(self) -> int:
        """How many are open."""
        return len(self._answers)

    def _open(self) -> int:
        with self._changed:
            self._asked += 1
            self._answers[self._asked] = OPEN
            return self._asked

    def ask(self, send: Callable[[int], None], patience: float | None) -> Any:
        """Asks a question, and waits. Gives the answer, or `OPEN` when none came in time, or none will come.

        :param send: sends the question, with the number that it gets.
        :param patience: seconds to wait; None: as long as it takes.
        :raises Exception: what `send` raises.
        """
        number = self._open()
        try:
            send(number)
            with self._changed:
                self._changed.wait_for(lambda: self._answers[number] is not OPEN or self._closed, patience)
        except BaseException:
            self._turn_away(self._withdraw(number))
            raise
        return self._withdraw(number)

    def put(self, send: Callable[[int], None]) -> int:
        """Asks a question whose answer `look` gives; its number. It is open until it is withdrawn.

        :param send: as in `ask`.
        :raises Exception: what `send` raises.
        """
        number = self._open()
        try:
            send(number)
        except BaseException:
            self._turn_away(self._withdraw(number))
            raise
        return number

    def look(self, number: int, patience: float) -> Any:
        """The answer to a question, which is then withdrawn; `OPEN` when it has not come in so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._answers[number] is not OPEN or self._closed, patience)
            if self._answers[number] is OPEN and not self._closed:
                return OPEN
            return self._withdraw(number)

    def _withdraw(self, number: int) -> Any:
        """Closes a question; its answer, or `OPEN`."""
        with self._changed:
            return self._answers.pop(number)

    def answer(self, number: int, answer: object) -> None:
        """Gives an answer to the thread that waits for it."""
        with self._changed:
            awaited = number in self._answers
            if awaited:
                self._answers[number] = answer
                self._changed.notify_all()
        if not awaited:
            self._turn_away(answer)

    def close(self) -> None:
        """Ends all waiting: there will be no more answers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
