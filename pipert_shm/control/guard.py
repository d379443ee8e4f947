"""What keeps a failure to itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipert_shm.errors import describe
from pipert_shm.masking import masked


@contextmanager
def contained(logger: logging.Logger, what: str) -> Iterator[None]:
    """Logs an exception in the block, with its traceback, and goes on behind it."""
    try:
        yield
    except Exception as error:
        report(logger, error, "%s: %s", what, describe(error))


def report(logger: logging.Logger, error: BaseException, text: str, *arguments: object) -> None:
    """Logs an error with its traceback; without, where that can't be told. Raises nothing: it is what guards call last."""
    for exc_info in (error, None):
        try:
            logger.error(text, *arguments, exc_info=exc_info)
        except BaseException:  # of users' parts of logging: anything
            continue
        return
    tell(text, *arguments)


def tell(text: str, *arguments: object) -> None:
    """Writes a warning where logging does for whoever has not configured it: for what no handler can be asked to take."""
    if logging.lastResort is not None:
        with suppress(BaseException):  # standard error is closed: there is nobody to tell
            told = masked(text % arguments if arguments else text)
            logging.lastResort.handle(logging.LogRecord(__name__, logging.WARNING, __file__, 0, told, (), None))
