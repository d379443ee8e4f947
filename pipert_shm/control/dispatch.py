"""A table of a receiver's handlers, by kind of message, and one guard around them all."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from pipert_shm.control.channel import Received, close_all
from pipert_shm.control.guard import contained, report
from pipert_shm.control.messages import Message
from pipert_shm.errors import describe

M = TypeVar("M", bound=Message)
OnFailure = Callable[[Received, Exception], object]


class Dispatch:
    """A receiver's table of handlers.

    A message that can't be read, that has no handler, or whose handler fails is dropped and logged.

    :param who: the receiver, for the log.
    :param on_failure: called with a message that is dropped, and why; so that a question is answered all the same.

    Attributes:
        dropped: how many messages were dropped, by kind.
    """

    def __init__(self, who: str, logger: logging.Logger, on_failure: OnFailure | None = None) -> None:
        self._who = who
        self._logger = logger
        self._on_failure = on_failure
        self._handlers: dict[type[Message], Callable[[Any, Received], object]] = {}
        self.dropped: Counter[str] = Counter()

    def on(self, kind: type[M], handler: Callable[[M], object]) -> None:
        """Sets the handler of a kind."""
        self._handlers[kind] = lambda message, _: handler(message)

    def on_received(self, kind: type[M], handler: Callable[[M, Received], object]) -> None:
        """The same, for a handler that needs the question's number, or the descriptors that came along.

        It owns those that it takes out of `fds`; the rest is closed.
        """
        self._handlers[kind] = handler

    def handles(self) -> set[type[Message]]:
        """The kinds that it has a handler for."""
        return set(self._handlers)

    def deliver(self, received: Received) -> None:
        """Calls the handler. Raises nothing."""
        message = received.message
        handler = None if message is None else self._handlers.get(type(message))
        try:
            if message is None:
                raise ValueError(received.trouble)
            if handler is None:
                raise LookupError(f"{self._who} takes none of these")
            handler(message, received)
        except Exception as error:
            self.dropped[received.kind] += 1
            text = "%s: a message came to nothing (%s): %s; it is dropped (%d of this kind so far)"
            told = self._who, received.kind, describe(error), self.dropped[received.kind]
            if handler is None:
                self._logger.error(text, *told)
            else:
                report(self._logger, error, text, *told)
            if self._on_failure is not None:
                with contained(self._logger, "what follows from that"):
                    self._on_failure(received, error)
        finally:
            close_all(received.fds)
