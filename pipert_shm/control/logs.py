"""Log records, from the processes of a pipe to the parent.

A process formats a record and sends it without waiting. Where there is no room, the record is lost, and counted.
"""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable
from typing import Any

from pipert_shm.control.channel import Channel, packets_of
from pipert_shm.control.guard import tell
from pipert_shm.control.messages import Record
from pipert_shm.display.masking import masked
from pipert_shm.errors import LONGEST_TEXT, PipeStateError, describe, shortened

PARENT = "MainProcess"  # what the parent is called in records, as multiprocessing calls it
TEXT_LIMITS = (LONGEST_TEXT, 8_000, 1_000)  # of a record's texts and extra fields, tried until it fits into a packet
STANDARD_FIELDS = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}  # of a record; others are extra

_KEPT = (
    "name", "levelno", "levelname", "created", "msecs", "relativeCreated", "pathname", "filename", "module", "lineno",
    "funcName", "process", "thread", "taskName",
)  # fmt: skip


class ForwardingHandler(logging.Handler):
    """Sends records to the parent; never blocks.

    :param lost: called for each record that could not be sent. Without it, the next one that is sent says how many were lost.
    """

    def __init__(self, channel: Channel, flow: str, routine: str, lost: Callable[[], object] | None = None) -> None:
        super().__init__()
        self._channel = channel
        self._context = {"processName": flow, "threadName": routine, "flow": flow, "routine": routine}
        self._lost = lost
        self._untold = 0
        self._is_parent = flow == PARENT

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a record. Raises nothing but KeyboardInterrupt: all other code reports its failures by this."""
        try:
            packet = _packet(record, self._context, self._untold)
            self._channel.send_packet(packet)
            self._untold = 0
        except PipeStateError:  # in a process that a routine forked, which is no part of the pipe
            tell("%s", _text_of(record))
        except OSError:  # no room, or the parent is gone, so nobody would read this
            self._lose()
        except BaseException as error:  # what users log may raise anything
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
    """The record as one packet, its secrets masked. Texts are shortened until it fits; then its extra fields are left out.

    :param untold: how many records were lost before this one.
    """
    fields: dict[str, Any] = {name: _plain(getattr(record, name, None)) for name in _KEPT}
    texts = {"msg": _text_of(record), "exc_text": _traceback_of(record), "stack_info": _plain(record.stack_info)}
    if untold:
        texts["msg"] = f"{texts['msg']} ({untold} log records before this one were lost: nobody took them)"
    extra = {str(name): value for name, value in vars(record).items() if name not in STANDARD_FIELDS}
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
    """A field as a plain int, float or str, even if it is of a user's subclass: the parent loads no classes of users."""
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
    except BaseException as failure:  # users' exceptions may raise anything
        return f"{describe(record.exc_info[1])} (its traceback can't be told: {type(failure).__name__})"


def _pickled(value: object, limit: int) -> bytes:
    """A user's field, pickled; where it does not pickle, or is too large, a text that says so."""
    try:
        data = pickle.dumps(masked(value) if type(value) is str else value, 5)
    except BaseException as error:  # a __reduce__ may raise anything
        data = pickle.dumps(f"(a {type(value).__name__} that does not pickle: {shortened(describe(error), 200)})")
    if len(data) > 2 * limit:
        return pickle.dumps(f"(a {type(value).__name__} of {len(data):,} bytes: too large for a log record)")
    return data


def shield_records() -> None:
    """In a forked process: falls back to plain records when the program's own record factory fails."""
    made = logging.getLogRecordFactory()

    def make(*arguments: Any, **options: Any) -> logging.LogRecord:
        try:
            return made(*arguments, **options)
        except Exception:
            return logging.LogRecord(*arguments, **options)

    if made is not logging.LogRecord:
        logging.setLogRecordFactory(make)


def forwarding_logger(name: str, handler: ForwardingHandler) -> logging.Logger:
    """The logger of this name; its records go to the parent only, where filters see them. It inherits its level as usual."""
    logger = logging.getLogger(name)
    logger.handlers, logger.filters = [handler], []
    logger.propagate = False
    return logger
