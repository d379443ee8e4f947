"""Forks a pipe's processes, and does what each of them does first and last: signals, output, exit."""

from __future__ import annotations

import os
import resource
import signal
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

from pipert_shm.system import calls
from pipert_shm.system.streams import flush_output

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # each of these ends a pipe, whichever of its processes gets it


pid = os.getpid()  # of this process: to read it is faster than to ask the system


def _note_fork() -> None:
    global pid
    pid = os.getpid()


os.register_at_fork(after_in_child=_note_fork)


def fork(be_child: Callable[[], NoReturn]) -> int:
    """Forks a child, which runs `be_child` and never returns from it. Returns the child's pid.

    :raises OSError: when the system has no process or no memory left for a child.
    """
    flush_output()
    if _has_handlers:  # this is a launcher or a fork server: it has one thread, and its handlers suit the child, too
        return _fork(be_child)
    with warnings.catch_warnings():
        # Python warns of a fork beside other threads, since the child might need a lock that one of them holds. A launcher and
        # a fork server run only our own code, on one thread.
        warnings.simplefilter("ignore", DeprecationWarning)
        # The child should get no signal before it has its own handlers. begin() unblocks them there.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDING})
        try:
            return _fork(be_child)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _fork(be_child: Callable[[], NoReturn]) -> int:
    child = calls.fork()
    if child == 0:
        be_child()
    return child


_on_ending: Callable[[int], object] | None = None
_has_handlers = False  # whether begin() ran here or in a process that forked this one: it takes a while, so it runs once


def begin(on_ending: Callable[[int], object] | None) -> None:
    """Sets up the signals of a forked process: it leaves Ctrl-C to the parent, and drops the parent's own handlers.

    :param on_ending: called with the number of a signal that should end the pipe. With None such signals do nothing: this
        process ends when the one that it obeys does. A signal that is ignored already, as under nohup, stays ignored.
    """
    global _on_ending, _has_handlers
    _on_ending = on_ending
    signal.set_wakeup_fd(-1)
    if not _has_handlers:
        _has_handlers = True
        ignored = [number for number in ENDING if signal.getsignal(number) is signal.SIG_IGN]
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):  # a handler of the program's own, which is not for this process
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
    """Ends this process as the signal would have, so that its parent sees why, but without a core dump."""
    try:
        flush_output()
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    finally:
        os._exit(128 + number)  # in case the signal is blocked or ignored


def exit_process(status: int) -> NoReturn:
    """Ends a forked process. Its output is written, but the parent's exit handlers do not run."""
    try:
        flush_output()
    finally:
        os._exit(status)


def end_if_stray(home: int, error: BaseException | None) -> None:
    """Ends this process if user code forked it from `home`, so that it does not go on as a second flow.

    :param home: the pid of the process that the caller belongs to.
    :param error: see `end_stray`.
    """
    if pid != home:
        end_stray(error)


def end_stray(error: BaseException | None) -> NoReturn:
    """Ends a process that user code forked, with the status that its return or its exception says.

    :param error: the exception that the user code ended with, None if it returned.
    """
    status = 0 if error is None else 1
    try:
        if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
            status = error.code or 0
        elif error is not None:
            traceback.print_exception(error)
        flush_output()
    finally:  # even if its streams fail, it must not go on as the process that it was forked from
        os._exit(status & 0xFF)
