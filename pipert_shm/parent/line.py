"""The parent's line to the launcher: it sends messages, and questions that wait for an answer."""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pipert_shm.control.channel import Channel, Received
from pipert_shm.control.messages import Message
from pipert_shm.control.questions import OPEN, Questions
from pipert_shm.errors import PipeStateError, describe

PATIENCE = 30.0  # seconds that the launcher may take to answer by itself
LONG_PATIENCE = 60.0  # seconds, when it has to wait for flows to be forked, or for a routine to finish a call
FOR_EACH_FLOW = 0.5  # seconds besides, for each of many flows that are forked, or end, one after the other on a busy machine


class Deferred(Exception):
    """A signal's handler asked in the middle of another send: the question goes out after that, and nobody waits for it."""


class Unanswered(PipeStateError):
    """The launcher's answer came too late, or can't be read."""


class HungUp(PipeStateError):
    """The launcher is gone, or has hung up, without an answer."""


class Line:
    """Sends to the launcher, from any thread. The listener's thread gives the answers.

    :param gone: set when the launcher has ended.
    :param turn_away: lets go of an answer that nobody waits for any more.
    """

    def __init__(self, gone: threading.Event, turn_away: Callable[[Any], None]) -> None:
        self._gone = gone
        self._questions = Questions(turn_away)
        self._lock = threading.RLock()  # a signal's handler may send in the midst of a send
        self._closed = False

    def open(self, logger: logging.Logger) -> Channel:
        """Makes the channel; the launcher's end of it.

        :raises OSError: when the system has no file descriptor left for it.
        """
        self._logger = logger
        self._channel, theirs = Channel.pair()
        self._channel.keep()
        return theirs

    def use(self, channel: Channel, logger: logging.Logger) -> None:
        """Takes a channel that is connected already."""
        self._logger = logger
        self._channel = channel.keep()

    def stop_hearing(self) -> None:
        """Makes `hear` give None, on whatever thread it waits."""
        with self._lock:
            if not self._closed:
                with suppress(OSError):  # the launcher has hung up: it gives that anyway
                    self._channel.stop_receiving()

    def close(self) -> bool:
        """Closes the channel; False when it was closed already."""
        with self._lock:
            was_open, self._closed = not self._closed, True
            if was_open:
                self._channel.close()
            return was_open

    def hear(self) -> Received | None:
        """The launcher's next message; None when its end is closed. The listener's thread only."""
        return self._channel.receive_patiently(
            lambda error: self._logger.error("the launcher can't be heard now: %s; it is tried again", describe(error))
        )

    def tell(self, message: Message, question: int = 0, fds: Sequence[int] = ()) -> bool:
        """Sends a message; False if this thread is sending another one already, after which it goes out."""
        with self._lock:
            if self._closed:
                return True
            try:
                return self._channel.send(message, question, tuple(fds))
            except ConnectionError:
                self._logger.debug("the launcher is gone: %s was not sent", type(message).__name__)
                return True

    def ask(self, message: Message, whom: str, *, handing_over: Sequence[Channel] = (), patience: float | None = None) -> Any:
        """The launcher's answer. Any thread but the listener's, which hears it.

        :param whom: who has to answer, for the error when nobody does.
        :param handing_over: ends of channels that are the launcher's from now on, and closed here.
        :param patience: seconds after which no answer is an error.
        :raises Exception: when the answer is an exception.
        :raises Unanswered: when no answer came in time, or it can't be read.
        :raises PipeStateError: when the pipe has ended.
        :raises Deferred: when nobody can wait for the answer here; the message goes out all the same.
        """

        def send(number: int) -> None:
            try:
                if not self._gone.is_set() and not self.tell(message, number, [end.fileno() for end in handing_over]):
                    raise Deferred
            finally:
                for end in handing_over:
                    end.close()

        answer = self._questions.ask(send, patience)
        if answer is OPEN and not self._gone.is_set():
            raise Unanswered(f"{whom} has not answered for {patience:g} s")
        return self._given(answer)

    def put(self, message: Message) -> int:
        """Asks a question whose answer `look` gives; its number.

        :raises Deferred: as `ask` does.
        """

        def send(number: int) -> None:
            if not self._gone.is_set() and not self.tell(message, number):
                raise Deferred

        return self._questions.put(send)

    def look(self, number: int, patience: float) -> Any:
        """The answer to such a question; `OPEN` when it has not come in so many seconds, and may come yet.

        :raises Exception: when the answer is an exception.
        :raises PipeStateError: when the pipe has ended.
        """
        answer = self._questions.look(number, patience)
        return OPEN if answer is OPEN and not self._gone.is_set() else self._given(answer)

    def _given(self, answer: Any) -> Any:
        if answer is OPEN:
            raise HungUp("the pipe has ended")
        if isinstance(answer, bytes):  # unpickled on the thread that asked: the listener runs no users' code
            raise error_of(answer)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def answer(self, question: int, answer: object) -> None:
        """Gives an answer to the thread that waits for it. The listener's thread only."""
        self._questions.answer(question, answer)

    def end(self) -> None:
        """The launcher has ended: no question is answered any more."""
        self._questions.close()


def error_of(error: bytes) -> Exception:
    """The exception that is the launcher's answer."""
    try:
        answer = pickle.loads(error)
    except Exception as failure:
        answer = f"why can't be read here: {describe(failure)}"
    return answer if isinstance(answer, Exception) else PipeStateError(f"the launcher refuses; {answer}")
