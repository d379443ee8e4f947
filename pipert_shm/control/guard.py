"""What keeps a failure to itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pipert_shm.errors import describe


@contextmanager
def contained(logger: logging.Logger, what: str) -> Iterator[None]:
    """Logs an exception in the block, with its traceback, and goes on behind it."""
    try:
        yield
    except Exception as error:
        logger.error("%s: %s", what, describe(error), exc_info=error)
