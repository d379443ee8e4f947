"""Log records: from the flows' loggers to the one that was given to the pipe, in the parent.

A flow formats a record and sends it without waiting; where there is no room, the record is lost and counted against the
routine.
"""

from __future__ import annotations

import base64
import json
import logging
import traceback
from datetime import datetime, timezone
from typing import Any

import numpy as np

from pipert_shm.channel import Channel
from pipert_shm.pictures import encoded, scaled

LONGEST_TEXT = 32_000
WIDEST_PICTURE = 320  # pixels
QUALITY = 70  # of JPEG

_KEPT = ("name", "levelno", "levelname", "created", "msecs", "pathname", "filename", "module", "lineno", "funcName", "process")


class ForwardingHandler(logging.Handler):
    """Sends records to the parent; never blocks.

    :param lost: called once for each record that could not be sent.
    """

    def __init__(self, channel: Channel, flow: str, routine: str, lost: Any) -> None:
        super().__init__()
        self._channel = channel
        self._context = {"processName": flow, "threadName": routine, "flow": flow, "routine": routine}
        self._lost = lost

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {name: getattr(record, name) for name in _KEPT}
        try:
            fields["msg"] = _shortened(record.getMessage())
            if record.exc_info and record.exc_info[0] is not None:
                fields["exc_text"] = _shortened("".join(traceback.format_exception(*record.exc_info)).rstrip())
            fields["sequence"] = getattr(record, "sequence", None)
            fields["image_base64"] = getattr(record, "image_base64", None)
            self._channel.send({**fields, **self._context})
        except BlockingIOError:
            self._lost()
        except OSError:
            self._lost()  # the parent is gone, and with it everyone who would read this
        except Exception:
            self.handleError(record)  # as every handler of the standard library: a bad format string


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
        extra = sorted(told.keys() - _STANDARD - fields.keys() - set(_OURS))
        fields |= {name: told[name] for name in (*_OURS, *extra) if told.get(name) is not None}
        return json.dumps(fields, default=str, ensure_ascii=False)


_OURS = ("flow", "routine", "sequence", "exception")
_STANDARD = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName", "image_base64"}


def as_picture(frame: np.ndarray) -> str | None:
    """A frame as a JPEG in base64, at most 320 pixels wide; None for what is no picture, or too much of one for a record."""
    try:
        text = base64.b64encode(encoded(scaled(frame, WIDEST_PICTURE)[0], QUALITY)).decode()
    except ValueError:
        return None
    return text if len(text) <= LONGEST_TEXT else None


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}… ({len(text):,} characters)"


def forwarding_logger(name: str, handler: ForwardingHandler) -> logging.Logger:
    """The logger of this name, its records going to the parent only. Levels are inherited as ever."""
    logger = logging.getLogger(name)
    logger.handlers = [handler]
    logger.propagate = False
    return logger


def replay(fields: dict[str, Any]) -> None:
    """Gives a record that came from a flow to the parent's logger of its name."""
    record = logging.makeLogRecord(fields)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
