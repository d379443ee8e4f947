"""Waits for the pipes that still run when the program ends, or kills them."""

from __future__ import annotations

import atexit
import functools
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipert_shm.errors import PipeFailed, shortened
from pipert_shm.system import exits
from pipert_shm.system.interrupts import interrupts_allowed, interrupts_held

if TYPE_CHECKING:
    from pipert_shm.pipe import Pipe

QUIET_S = 1.0  # how long a pipe is waited for before a warning says so

_running: set[Pipe] = set()


def note_start(pipe: Pipe) -> None:
    """Notes that a pipe runs, and that the end of the program has to wait for it or kill it."""
    _running.add(pipe)


def note_end(pipe: Pipe) -> None:
    """Notes that a pipe has ended."""
    _running.discard(pipe)
    if not _running:
        exits.forget_main()


@functools.cache
def wait_for_served() -> None:
    """Makes the end of the program wait for pipes that are served while their servers work as ever: before exit handlers run,
    `concurrent.futures`, and with it asyncio's threads, has stopped taking work. It is called at that moment by a function of
    `threading` that has no public name; where that is missing, these pipes are waited for with the others.
    """
    import concurrent.futures.thread  # noqa: F401 - what registers later is called earlier

    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        register(_end_served_pipes)


def _end_served_pipes() -> None:
    _end(pipe for pipe in list(_running) if pipe._controls)


@atexit.register
def _end_pipes() -> None:
    """Waits for the pipes that still run when the program is done; kills them when something has ended it early."""
    _end(list(_running))


def _end(pipes: Iterable[Pipe]) -> None:
    why_killed = exits.why_ended_early()
    for pipe in pipes:
        if pipe._is_foreign():
            continue
        with interrupts_held():
            try:
                _end_one(pipe, why_killed)
            except PipeFailed as failure:
                pipe.logger.error(str(failure))
            except SystemExit:  # of a signal's handler of the program's: it wants an end now
                why_killed = "sys.exit() has ended the program"
                _end_one(pipe, why_killed)


def _end_one(pipe: Pipe, why_killed: str) -> None:
    """Waits for a pipe when the program is done, or kills it.

    :param why_killed: what ended the program early; empty: nothing did.
    :raises PipeFailed: as `join` does.
    """
    session = pipe._built()
    if session.outcome.over.is_set():
        pipe.join()
        return
    try:
        if why_killed:
            session.relay.logger.warning("%s: its pipe is killed", why_killed)
        elif not (pipe._started or pipe._controls):  # nobody is left who could start it
            pipe._warn_if_never_ran()
        else:
            with interrupts_allowed():
                is_over = session.outcome.over.wait(QUIET_S)
            if not is_over:
                _tell_what_runs(pipe)
            pipe.join()
            return
    except KeyboardInterrupt:
        session.relay.logger.info("interrupted: the pipe is killed")
    pipe.join(to_kill=True)


def _tell_what_runs(pipe: Pipe) -> None:
    running = [routine.name for routine in pipe.statistics().routines.values() if routine.state == "running"]
    pipe._built().relay.logger.warning(
        "the program is done, and waits for its pipe to end (running: %s%s); Ctrl-C ends it",
        shortened(", ".join(running), 500) or "nothing",
        ", and clients may control it" if pipe._controls else "",
    )
