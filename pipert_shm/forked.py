"""What every process that the pipe forks does first and last: its signals, its streams, its exit."""

from __future__ import annotations

import os
import resource
import signal
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

from pipert_shm import system
from pipert_shm.streams import flush_output

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # which end a pipe, wherever they arrive


pid = os.getpid()  # of this process, without asking the system each time


def _note_fork() -> None:
    global pid
    pid = os.getpid()


os.register_at_fork(after_in_child=_note_fork)


def fork(be_child: Callable[[], NoReturn]) -> int:
    """The child's pid; the child does not return from `be_child`.

    :raises OSError: when the system has no process or no memory left for it.
    """
    flush_output()
    if _has_handlers:  # a launcher or a fork server: one thread, and handlers that suit the child, too
        return _fork(be_child)
    with warnings.catch_warnings():
        # Forking a process with threads is unsafe for what the child then shares with them; a launcher and a fork server only
        # run code of their own, on one thread.
        warnings.simplefilter("ignore", DeprecationWarning)
        # The child has no handlers before it has set its own; begin() lifts this there.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDING})
        try:
            return _fork(be_child)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _fork(be_child: Callable[[], NoReturn]) -> int:
    child = system.fork()
    if child == 0:
        be_child()
    return child


_on_ending: Callable[[int], object] | None = None
_has_handlers = False  # which a process that we are forked from has set; that takes a while


def begin(on_ending: Callable[[int], object] | None) -> None:
    """In a forked process: Ctrl-C is for the parent, and the parent's own handlers are not for us.

    :param on_ending: called with the number of a signal that is to end the pipe. None: such signals do nothing here, since this
        process ends when the one does that it obeys. One that is ignored already, as under nohup, stays so.
    """
    global _on_ending, _has_handlers
    _on_ending = on_ending
    signal.set_wakeup_fd(-1)
    if not _has_handlers:
        _has_handlers = True
        ignored = [number for number in ENDING if signal.getsignal(number) is signal.SIG_IGN]
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):  # the program's: what it is for is the program's matter
                signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in ENDING:
            if number not in ignored:
                signal.signal(number, _note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, *ENDING})


def _note(number: int, frame: object) -> None:
    if _on_ending is not None:
        _on_ending(number)


def end_by(number: int) -> NoReturn:
    """Ends this process as the signal would have, so that whoever waits for it sees why; but without a core dump."""
    try:
        flush_output()
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    finally:
        os._exit(128 + number)  # it is blocked, or ignored


def exit_process(status: int) -> NoReturn:
    """Ends a forked process without the parent's exit handlers, but with its output written."""
    try:
        flush_output()
    finally:
        os._exit(status)


def end_if_stray(home: int, error: BaseException | None) -> None:
    """Ends this process if it is not `home`: user code has forked it, and nobody in it goes on as what that one is.

    :param home: the `pid` of the process that the caller belongs to.
    :param error: as of `end_stray`.
    """
    if pid != home:
        end_stray(error)


def end_stray(error: BaseException | None) -> NoReturn:
    """Ends this process, which user code forked, as its return or its exception says."""
    status = 0 if error is None else 1
    try:
        if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
            status = error.code or 0
        elif error is not None:
            traceback.print_exception(error)
        flush_output()
    finally:  # it must not go on as what it was forked from, whatever its streams do
        os._exit(status & 0xFF)
