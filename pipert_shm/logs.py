"""Log records: from the flows' loggers to the one that was given to the pipe, in the parent.

A flow formats a record and sends it without waiting; where there is no room, the record is lost and counted. The parent
replays records on a thread of their own, so a handler that blocks, raises or calls the pipe holds up nothing but records.
"""

from __future__ import annotations

import base64
import json
import logging
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import numpy as np

from pipert_shm import system
from pipert_shm.control.channel import PACKET_BYTES, Channel, packets_of
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.messages import Record
from pipert_shm.errors import LONGEST_TEXT, PipeStateError, describe, shortened
from pipert_shm.pictures import encoded, scaled

WIDEST_PICTURE = 320  # pixels
QUALITY = 70  # of JPEG
TEXT_LIMITS = (LONGEST_TEXT, 8_000, 1_000)  # of a record's texts and extra fields, tried until it fits into a packet
LAST_WORDS = 2.0  # seconds that handlers get, after the end of a pipe, for the records that wait for them
BETWEEN_RECORDS = 2.0  # seconds that a handler may hold up a fork of this process

_KEPT = (
    "name", "levelno", "levelname", "created", "msecs", "relativeCreated", "pathname", "filename", "module", "lineno",
    "funcName", "process", "thread", "taskName",
)  # fmt: skip
_TEXTS = ("msg", "exc_text", "stack_info")


class ForwardingHandler(logging.Handler):
    """Sends records to the parent; never blocks.

    :param lost: called once for each record that could not be sent. Without it, the next record that can be sent tells how many
        were lost.
    """

    def __init__(self, channel: Channel, flow: str, routine: str, lost: Callable[[], object] | None = None) -> None:
        super().__init__()
        self._channel = channel
        self._context = {"processName": flow, "threadName": routine, "flow": flow, "routine": routine}
        self._lost = lost
        self._untold = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields, extra = _taken_apart(record)
            if self._untold:
                fields["msg"] = f"{fields['msg']} ({self._untold} log records before this one were lost: nobody took them)"
            self._channel.send_packet(_packet(fields, extra, self._context))
            self._untold = 0
        except PipeStateError:  # a process that a routine forked: no part of the pipe
            if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
                logging.lastResort.handle(record)
        except OSError:  # no room, or the parent is gone, and with it everyone who would read this
            if self._lost is not None:
                self._lost()
            else:
                self._untold += 1
        except Exception:
            self.handleError(record)  # as every handler of the standard library: a bad format string


def _taken_apart(record: logging.LogRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record's own fields, as plain values, and those that users gave it."""
    fields: dict[str, Any] = {name: getattr(record, name, None) for name in _KEPT}
    fields["msg"] = record.getMessage()
    fields["exc_text"] = record.exc_text
    if record.exc_info and record.exc_info[0] is not None:
        fields["exc_text"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    fields["stack_info"] = record.stack_info
    return fields, {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _packet(fields: dict[str, Any], extra: dict[str, Any], context: dict[str, str]) -> bytes:
    packet = b""
    for limit in TEXT_LIMITS:
        texts = {name: shortened(fields[name], limit) for name in _TEXTS if fields[name] is not None}
        plain = {
            name: value if isinstance(value, int | float) or value is None else str(value) for name, value in fields.items()
        }
        packed = {str(name): _pickled(value, limit) for name, value in extra.items()}
        packets = packets_of(Record({**plain, **texts, **context}, packed))
        packet = packets[0]
        if len(packets) == 1:
            return packet
    raise ValueError(f"a log record with {len(extra)} extra fields does not fit into {PACKET_BYTES:,} bytes")


def _plain(value: object) -> str | int | float | None:
    return value if isinstance(value, int | float) or value is None else str(value)


def _pickled(value: object, limit: int) -> bytes:
    """A field that a user gave to a record; where it can't be pickled, or is too large, what can be said of it."""
    try:
        data = pickle.dumps(value, 5)
    except BaseException as error:  # of a stranger's __reduce__: anything
        data = pickle.dumps(f"(a {type(value).__name__} that does not pickle: {shortened(describe(error), 200)})")
    if len(data) > 2 * limit:
        return pickle.dumps(f"(a {type(value).__name__} of {len(data):,} bytes: too large for a log record)")
    return data


class JsonFormatter(logging.Formatter):
    """Makes a line of JSON of each record, for what collects logs; give it to any handler of the pipe's logger.

    The fields are `time` (ISO 8601, UTC), `level`, `logger`, `message`, `process` (its id), and where they are known `flow`,
    `routine`, `sequence` (of the message that the routine was at work on) and `exception`; then what the record was given by
    `extra`, as text where JSON has no form for it. Any thread.

    >>> import logging
    >>> from pipert_shm import JsonFormatter
    >>> record = logging.makeLogRecord({"name": "Pipe", "levelname": "INFO", "msg": "fps: %s", "args": (25,)})
    >>> record.created, record.process = 0.0, 7
    >>> print(JsonFormatter().format(record))
    {"time": "1970-01-01T00:00:00.000+00:00", "level": "INFO", "logger": "Pipe", "message": "fps: 25", "process": 7}
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        told = {**vars(record), "exception": record.exc_text}
        extra = sorted(told.keys() - _STANDARD - fields.keys() - {*_OURS, "image_base64"})
        fields |= {name: told[name] for name in (*_OURS, *extra) if told.get(name) is not None}
        return json.dumps(fields, default=str, ensure_ascii=False)


_OURS = ("flow", "routine", "sequence", "exception")
_STANDARD = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}


def as_picture(frame: np.ndarray) -> str | None:
    """A frame as a JPEG in base64, at most 320 pixels wide; None for what is no picture, or too much of one for a record."""
    try:
        text = base64.b64encode(encoded(scaled(frame, WIDEST_PICTURE)[0], QUALITY)).decode()
    except ValueError:
        return None
    return text if len(text) <= LONGEST_TEXT else None


def forwarding_logger(name: str, handler: ForwardingHandler) -> logging.Logger:
    """The logger of this name, its records going to the parent only, whose filters see them. Levels are inherited as ever."""
    logger = logging.getLogger(name)
    logger.handlers, logger.filters = [handler], []
    logger.propagate = False
    return logger


class LogRelay:
    """Gives the records that come from the flows to the parent's loggers of their names, on a thread of its own.

    :param channel: the end that records come from.
    :param own: this process's end of the others', for what it has to say itself.
    :param logger: the pipe's.

    Attributes:
        logger: logs what the pipe's logger would, without waiting for its handlers. Any thread.
    """

    def __init__(self, channel: Channel, own: Channel, logger: logging.Logger) -> None:
        self._channel = channel
        own.set_blocking(False)
        self._own = own
        self.logger = logging.Logger(logger.name, logger.getEffectiveLevel())
        self.logger.addHandler(ForwardingHandler(own, "MainProcess", "MainThread"))
        self._logger = logger
        self._table = Dispatch("the relay of log records", self.logger)
        self._table.on(Record, self._hand_over)
        self._busy = threading.Lock()
        self._since: float | None = None  # when the handlers got the record that they are at work on
        self._thread = threading.Thread(target=self._run, name=f"{logger.name}-logs", daemon=True)

    def start(self) -> None:
        """:raises OSError: when the system has no thread left."""
        system.start_thread(self._thread)

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the relay's: a log handler's."""
        return threading.current_thread() is self._thread

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """For a fork of this process: no handler is at work, unless one takes too long, so that its locks are free there."""
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
            # A handler or filter of the user's raised, which must neither end this thread nor be silent.
            self._complain("a log handler failed", error)

    def _complain(self, what: str, error: BaseException) -> None:
        try:
            self._logger.error("%s", what, exc_info=error)
        except BaseException as other:
            tell("%s: %s; and it could not be logged: %s", what, describe(error), describe(other))

    def fall_silent(self) -> None:
        """Closes this process's own end: `logger` is heard no more."""
        self._own.close()
        self.logger.handlers = [] if logging.lastResort is None else [logging.lastResort]

    def finish(self, grace: float) -> None:
        """After the end of the launcher: waits until handlers have had all records. One that takes too long is not waited for.

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


def tell(text: str, *arguments: object) -> None:
    """Writes a warning where logging does for whoever has not configured it: for what no handler can be asked to take."""
    if logging.lastResort is not None:
        fields = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": text, "args": arguments}
        logging.lastResort.handle(logging.makeLogRecord(fields))


def _replay(message: Record) -> None:
    """Gives a record that came from a flow to the parent's logger of its name."""
    fields: dict[str, Any] = dict(message.fields)
    for name, data in message.extra.items():
        try:
            fields[name] = pickle.loads(data)
        except BaseException as error:  # of a stranger's __setstate__: anything
            fields[name] = f"(can't be unpickled here: {describe(error)})"
    record = logging.makeLogRecord(fields)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
