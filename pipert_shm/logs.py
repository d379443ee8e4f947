"""Log records: from the flows' loggers to the one that was given to the pipe, in the parent.

A flow formats a record and sends it without waiting; where there is no room, the record is lost and counted. The parent
replays records on a thread of their own, so a handler that blocks, raises or calls the pipe holds up nothing but records.
"""

from __future__ import annotations

import base64
import json
import logging
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from typing import Any

import numpy as np

from pipert_shm import system
from pipert_shm.control.channel import Channel, packets_of
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.guard import report, tell
from pipert_shm.control.messages import Record
from pipert_shm.errors import LONGEST_TEXT, PipeStateError, describe, shortened
from pipert_shm.masking import masked
from pipert_shm.pictures import encoded, scaled

PICTURE_SIZES = (320, 160, 80)  # pixels of the longer side, tried until a picture fits into a record
QUALITIES = (70, 45, 20)  # of JPEG, likewise
PARENT = "MainProcess"  # what the parent is called in records, as multiprocessing calls it
PIPE_INFRASTRUCTURE = 5  # PipeRT2's level below DEBUG
TERMINAL_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
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
        self._is_parent = flow == PARENT

    def emit(self, record: logging.LogRecord) -> None:
        """Raises nothing but Ctrl-C: it is what everything else that fails is told by."""
        try:
            packet = _packet(record, self._context, self._untold)
            self._channel.send_packet(packet)
            self._untold = 0
        except PipeStateError:  # a process that a routine forked: no part of the pipe
            tell("%s", _text_of(record))
        except OSError:  # no room, or the parent is gone, and with it everyone who would read this
            self._lose()
        except BaseException as error:  # of what users log: anything
            self._lose()
            if isinstance(error, KeyboardInterrupt) and self._is_parent:
                raise  # Ctrl-C, which only the parent gets, and which ends its pipe
            tell("a log record could not be sent: %s", describe(error))

    def _lose(self) -> None:
        if self._lost is not None:
            self._lost()
        else:
            self._untold += 1


def _packet(record: logging.LogRecord, context: dict[str, str], untold: int) -> bytes:
    """The record as one packet, without secrets. Its texts are shortened until it fits; then it goes without what users gave it
    beside them.
    """
    fields: dict[str, Any] = {name: _plain(getattr(record, name, None)) for name in _KEPT}
    texts = {"msg": _text_of(record), "exc_text": _traceback_of(record), "stack_info": _plain(record.stack_info)}
    if untold:
        texts["msg"] = f"{texts['msg']} ({untold} log records before this one were lost: nobody took them)"
    extra = {str(name): value for name, value in vars(record).items() if name not in _STANDARD}
    for limit in (*TEXT_LIMITS, 0):
        told = {name: shortened(text, limit or TEXT_LIMITS[-1]) for name, text in texts.items() if isinstance(text, str)}
        if not limit:
            told["msg"] += f" (without its {len(extra)} extra fields, which are too large)"
        packed = {name: _pickled(value, limit) for name, value in extra.items()} if limit else {}
        packets = packets_of(Record({**fields, **told, **context}, packed))
        if len(packets) == 1:
            break
    return packets[0]


def _plain(value: object) -> str | int | float | None:
    """A field without what a subclass of its type may be beyond that: the parent makes no classes of users'."""
    if value is None or isinstance(value, int):
        return None if value is None else int(value)
    return float(value) if isinstance(value, float) else str.__str__(str(value))


def _text_of(record: logging.LogRecord) -> str:
    return str.__str__(record.getMessage())


def _traceback_of(record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[1] is None:
        return None if record.exc_text is None else str.__str__(record.exc_text)
    try:
        return "".join(traceback.format_exception(*record.exc_info)).rstrip()
    except BaseException as failure:  # of what users raise: anything
        return f"{describe(record.exc_info[1])} (its traceback can't be told: {type(failure).__name__})"


def _pickled(value: object, limit: int) -> bytes:
    """A field that a user gave to a record; where it can't be pickled, or is too large, what can be said of it."""
    try:
        data = pickle.dumps(masked(value) if type(value) is str else value, 5)
    except BaseException as error:  # of a stranger's __reduce__: anything
        data = pickle.dumps(f"(a {type(value).__name__} that does not pickle: {shortened(describe(error), 200)})")
    if len(data) > 2 * limit:
        return pickle.dumps(f"(a {type(value).__name__} of {len(data):,} bytes: too large for a log record)")
    return data


class TerminalHandler(logging.Handler):
    """Writes records to standard error for as long as the root logger has no handler of the program's. Any thread.

    What routines log is written with time and name. Of what the pipe itself logs, warnings are written as they are, which is
    what logging does for a program that has not configured it.

    :param name: the pipe's logger's.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._of_routines, self._of_pipe = logging.Formatter(TERMINAL_FORMAT), logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Raises nothing: where standard error is closed there is nobody to tell."""
        is_own = record.name == self._name
        if logging.getLogger().handlers or sys.stderr is None or (is_own and record.levelno < logging.WARNING):
            return
        try:
            sys.stderr.write((self._of_pipe if is_own else self._of_routines).format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def log_to_terminal(logger: logging.Logger) -> None:
    """Makes a pipe's own logger, which nobody has configured, show what routines log from the level INFO on."""
    if not logger.hasHandlers():
        logger.addHandler(TerminalHandler(logger.name))
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


def with_plog(logger: logging.Logger) -> logging.Logger:
    """The logger, with the method `plog` that PipeRT2's loggers have: it logs below DEBUG, as the framework's own."""
    logging.addLevelName(PIPE_INFRASTRUCTURE, "PIPE_INFRASTRUCTURE")
    setattr(logger, "plog", partial(logger.log, PIPE_INFRASTRUCTURE))  # noqa: B010 - loggers have no such attribute by their type
    return logger


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
    """A frame as a JPEG in base64, small enough for a record: at most 320 pixels on its longer side, of less quality where it
    has much detail, and smaller still where that is not enough. None for what is no picture.
    """
    try:
        for longest in PICTURE_SIZES:
            height, width = frame.shape[:2]
            picture, _ = scaled(frame, max(1, longest * width // max(height, width, 1)))
            for quality in QUALITIES:
                text = base64.b64encode(encoded(picture, quality)).decode()
                if len(text) <= LONGEST_TEXT:
                    return text
    except ValueError:  # OpenCV's errors are none; what it can't encode is said so by `encoded`
        return None
    return None


def shield_records() -> None:
    """In a forked process: makes plain records where the factory that the program has set can make none."""
    made = logging.getLogRecordFactory()

    def make(*arguments: Any, **options: Any) -> logging.LogRecord:
        try:
            return made(*arguments, **options)
        except Exception:
            return logging.LogRecord(*arguments, **options)

    if made is not logging.LogRecord:
        logging.setLogRecordFactory(make)


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
        self.logger.addHandler(ForwardingHandler(own, PARENT, "MainThread"))
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
        report(self._logger, error, "%s", what)

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
