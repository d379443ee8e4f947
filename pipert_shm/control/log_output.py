"""How log records look: on the terminal, as JSON, and through PipeRT2's `plog`."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pipert_shm.control.logs import STANDARD_FIELDS

PIPE_INFRASTRUCTURE = 5  # PipeRT2's level below DEBUG
TERMINAL_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_OURS = ("flow", "routine", "sequence", "exception")


class TerminalHandler(logging.Handler):
    """Writes records to standard error, as long as the program has given the root logger no handler. Any thread.

    Records of routines are written with time and name. Of the pipe's own, only warnings are written, as bare texts: so does
    logging where it is not configured.

    :param name: the pipe's logger's.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._of_routines, self._of_pipe = logging.Formatter(TERMINAL_FORMAT), logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record. Raises nothing: where standard error is closed, nobody can be told."""
        is_own = record.name == self._name
        if logging.getLogger().handlers or sys.stderr is None or (is_own and record.levelno < logging.WARNING):
            return
        try:
            sys.stderr.write((self._of_pipe if is_own else self._of_routines).format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def log_to_terminal(logger: logging.Logger) -> None:
    """Makes a pipe's logger write to the terminal from level INFO on, unless the program has configured logging."""
    if not logger.hasHandlers():
        logger.addHandler(TerminalHandler(logger.name))
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


def with_plog(logger: logging.Logger) -> logging.Logger:
    """The logger, with the method `plog` of PipeRT2's loggers: it logs below DEBUG, where the framework's own records are."""
    logging.addLevelName(PIPE_INFRASTRUCTURE, "PIPE_INFRASTRUCTURE")
    setattr(logger, "plog", partial(logger.log, PIPE_INFRASTRUCTURE))  # noqa: B010 - loggers have no such attribute by their type
    return logger


class JsonFormatter(logging.Formatter):
    """Formats each record as a line of JSON, for a log collector; give it to any handler of the pipe's logger. Any thread.

    The fields are `time` (ISO 8601, UTC), `level`, `logger`, `message` and `process` (its id). Where they are known, `flow`,
    `routine`, `sequence` (of the message that the routine was handling) and `exception` follow. Last come the fields that the
    record was given by `extra`, as text where JSON has no form for them.

    >>> import logging
    >>> from pipert_shm import JsonFormatter
    >>> record = logging.makeLogRecord({"name": "Pipe", "levelname": "INFO", "msg": "fps: %s", "args": (25,)})
    >>> record.created, record.process = 0.0, 7
    >>> print(JsonFormatter().format(record))
    {"time": "1970-01-01T00:00:00.000+00:00", "level": "INFO", "logger": "Pipe", "message": "fps: 25", "process": 7}
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line break."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        told = {**vars(record), "exception": record.exc_text}
        extra = sorted(told.keys() - STANDARD_FIELDS - fields.keys() - {*_OURS, "image_base64"})
        fields |= {name: told[name] for name in (*_OURS, *extra) if told.get(name) is not None}
        return json.dumps(fields, default=str, ensure_ascii=False)
