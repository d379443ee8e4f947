"""The parent's thread that gives the flows' log records to the parent's loggers.

It is a thread of its own, so that a handler that blocks, raises or calls the pipe delays nothing but records.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipert_shm.control.channel import Channel
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.guard import report, tell
from pipert_shm.control.logs import PARENT, ForwardingHandler
from pipert_shm.control.messages import Record
from pipert_shm.errors import describe
from pipert_shm.system import calls

LAST_WORDS = 2.0  # seconds that handlers get, after the end of a pipe, for the records that wait for them
BETWEEN_RECORDS = 2.0  # seconds that a handler may hold up a fork of this process


class LogRelay:
    """Receives records on a thread of its own, and gives each to the parent's logger of its name.

    :param channel: the end that records come from.
    :param own: an end that this process sends its own records by.
    :param logger: the pipe's.

    Attributes:
        logger: logs as the pipe's logger does, but does not wait for its handlers. Any thread.
    """

    def __init__(self, channel: Channel, own: Channel, logger: logging.Logger) -> None:
        self._channel = channel
        own.set_blocking(False)
        self._own = own
        self.logger = logging.Logger(logger.name, logger.getEffectiveLevel())
        self.logger.addHandler(ForwardingHandler(own, PARENT, "MainThread"))
        self._logger = logger
        self._table = Dispatch("the relay of log records", self.logger)
        self._table.on(Record, self._hand_over)
        self._busy = threading.Lock()
        self._since: float | None = None  # when the handlers got the record in hand
        self._thread = threading.Thread(target=self._run, name=f"{logger.name}-logs", daemon=True)

    def start(self) -> None:
        """:raises OSError: when the system has no thread left."""
        calls.start_thread(self._thread)

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the relay's, which calls the log handlers."""
        return threading.current_thread() is self._thread

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """For a fork: waits until no handler is at work, so that their locks are free in the child; 2 s at most."""
        rests = self._busy.acquire(timeout=BETWEEN_RECORDS)
        try:
            yield
        finally:
            if rests:
                self._busy.release()

    def _run(self) -> None:
        while True:
            received = self._channel.receive_patiently(lambda error: self._complain("log records can't be received now", error))
            if received is None:
                return
            with self._busy:
                self._since = time.monotonic()
                self._table.deliver(received)
                self._since = None

    def _hand_over(self, record: Record) -> None:
        try:
            _replay(record)
        except BaseException as error:
            # A handler or filter of the user's raised. That must not end this thread, nor go unsaid.
            self._complain("a log handler failed", error)

    def _complain(self, what: str, error: BaseException) -> None:
        report(self._logger, error, "%s", what)

    def fall_silent(self) -> None:
        """Closes this process's own end. From now on `logger` writes warnings to standard error."""
        self._own.close()
        self.logger.handlers = [] if logging.lastResort is None else [logging.lastResort]

    def finish(self, grace: float) -> None:
        """After the launcher's end: waits until the handlers have had all records, but not for one that takes too long.

        :param grace: seconds that flows may take to end.
        """
        self.fall_silent()
        begun = time.monotonic()
        while self._thread.is_alive() and time.monotonic() < begun + grace + LAST_WORDS and not self._is_held_up(begun):
            self._thread.join(0.05)
        if not self._thread.is_alive():
            self._channel.close()
        else:
            tell(
                "a handler of the logger %r does not return: the records after the one that it has are lost", self._logger.name
            )

    def _is_held_up(self, begun: float) -> bool:
        since = self._since
        return since is not None and time.monotonic() - max(since, begun) > LAST_WORDS


def _replay(message: Record) -> None:
    """Gives a record that came from a flow to the parent's logger of its name."""
    fields: dict[str, Any] = dict(message.fields)
    for name, data in message.extra.items():
        try:
            fields[name] = pickle.loads(data)
        except BaseException as error:  # a __setstate__ may raise anything
            fields[name] = f"(can't be unpickled here: {describe(error)})"
    record = logging.makeLogRecord(fields)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
