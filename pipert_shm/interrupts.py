"""Signals that come at a bad moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipert_shm import forked


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Lets Ctrl-C, and other signals that end a pipe, wait for the end of the block.

    Those that the program has no handler for end it as ever. Outside the main thread, which alone gets signals, does nothing.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *forked.ENDING)}
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    deferred = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in deferred:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in deferred.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
