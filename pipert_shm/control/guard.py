"""Guards: they log a failure, so that it ends nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipert_shm.display.masking import masked
from pipert_shm.errors import describe


@contextmanager
def contained(logger: logging.Logger, what: str) -> Iterator[None]:
    """Logs an exception that the block raises, with its traceback, and goes on after the block."""
    try:
        yield
    except Exception as error:
        report(logger, error, "%s: %s", what, describe(error))


def report(logger: logging.Logger, error: BaseException, text: str, *arguments: object) -> None:
    """Logs an error with its traceback, or without it where that can't be written. Raises nothing: guards call it last."""
    for exc_info in (error, None):
        try:
            logger.error(text, *arguments, exc_info=exc_info)
        except BaseException:  # users' handlers and filters may raise anything
            continue
        return
    tell(text, *arguments)


def tell(text: str, *arguments: object) -> None:
    """Writes a warning to standard error, as logging does where it is not configured. For what no log handler can take."""
    if logging.lastResort is not None:
        with suppress(BaseException):  # standard error is closed: there is nobody to tell
            told = masked(text % arguments if arguments else text)
            logging.lastResort.handle(logging.LogRecord(__name__, logging.WARNING, __file__, 0, told, (), None))
