"""Lets signals wait for a better moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from pipert_shm.system import forked


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Lets Ctrl-C, and other signals that end a pipe, wait for the end of the block.

    A signal that the program has no handler for still ends it at once. Outside the main thread, which alone gets signals, this
    does nothing.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *forked.ENDING)}
    if not _is_main_thread():
        yield
        return
    came: list[int] = []
    deferred = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in deferred:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in reversed(deferred.items()):  # SIGINT last: a Ctrl-C in the midst would leave others as they are
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


class _Held:
    """Where Ctrl-C may raise now, and whether one came elsewhere."""

    def __init__(self) -> None:
        self._is_open = False
        self._came = False

    def note(self, number: int, frame: object) -> None:
        if not self._is_open:
            self._came = True
            return
        self._is_open = False  # what handles the first one is not interrupted by the second
        raise KeyboardInterrupt

    def __enter__(self) -> None:
        self._is_open = True
        if self._came:
            self._is_open = self._came = False
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        self._is_open = False


_held: _Held | None = None


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Within the block Ctrl-C raises KeyboardInterrupt where `interrupts_allowed` says so, and nowhere else.

    One that comes elsewhere is raised at the next such place. One that comes after the last is dropped: the block is for code
    that ends a pipe, which is what it asks for. Where the program has a handler of its own for SIGINT, and outside the main
    thread, this does nothing.
    """
    global _held
    if not _is_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    _held = held = _Held()
    signal.signal(signal.SIGINT, held.note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _held = None


def interrupts_allowed() -> AbstractContextManager[None]:
    """A place in a block of `interrupts_held` where Ctrl-C may raise KeyboardInterrupt: once, and the place is left."""
    if _held is None or not _is_main_thread():
        return nullcontext()
    return _held
