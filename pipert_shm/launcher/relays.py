"""Questions of attached processes that the parent answers: they are passed on as bytes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from pipert_shm.control.messages import Message, Relay, Relayed
from pipert_shm.errors import PipeStateError
from pipert_shm.launcher.taps import Owner

FIRST = 1 << 31  # number of a question to the parent; those of the parent's own are lower
MOST_OPEN = 16  # questions of one process that the parent has not answered


class Relays:
    """Passes questions on to the parent, and its answers back.

    :param tell: sends the parent a message, with the number of the question that it is.
    """

    def __init__(self, tell: Callable[[Message, int], None]) -> None:
        self._tell = tell
        self._numbers = count(FIRST)
        self._open: dict[int, tuple[Owner, int]] = {}  # by number: who asked, and that one's number

    def ask(self, owner: Owner, question: int, message: Relay) -> None:
        """Passes a question on.

        :raises PipeStateError: when the process has too many open questions.
        """
        if sum(asker is owner for asker, _ in self._open.values()) >= MOST_OPEN:
            raise PipeStateError(f"{MOST_OPEN} questions of this process are not answered yet")
        number = next(self._numbers)
        self._open[number] = owner, question
        self._tell(message, number)

    def answer(self, number: int, message: Relayed) -> None:
        """Passes an answer back, if the one who asked is still there."""
        asked = self._open.pop(number, None)
        if asked is not None:
            asked[0].tell(message, asked[1])

    def fail(self, number: int, why: str) -> bool:
        """Answers a question that can't be read, or whose answer can't. False: it is none of these."""
        asked = self._open.pop(number, None)
        if asked is not None:
            asked[0].refuse(asked[1], PipeStateError(why))
        return asked is not None

    def forget(self, owner: Owner) -> None:
        """Forgets the questions of a process that is gone."""
        self._open = {number: asked for number, asked in self._open.items() if asked[0] is not owner}
