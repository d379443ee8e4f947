"""Standard output and error, which a program need not have: started with `>&-`, by a daemon, or without a console."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

from pipert_shm.masking import masked


def flush_output() -> None:
    """Writes out what Python holds back, as far as there is somebody to take it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(Exception):  # the other end is closed, or the stream is, or it is something of the user's
                stream.flush()


def say(text: str) -> None:
    """Writes a line to standard error, without the secrets in it, if there is one."""
    if sys.stderr is not None:  # print() would take standard output then
        with suppress(OSError, ValueError):
            print(masked(text), file=sys.stderr)


def occupy_standard_files() -> None:
    """Opens /dev/null as each of the descriptors 0 to 2 that is closed.

    Else the next thing to be opened, a channel perhaps, would be what native libraries write their messages to.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is this one
            os.set_inheritable(fd, True)


def give_c_another_stderr(fd: int) -> None:
    """What is written to descriptor 2 goes to `fd` from now on, and never waits.

    What Python writes to its stderr goes where it went. Where no descriptor is left, all stays as it is.

    :param fd: an end of a pipe. What it has no room for is lost.
    """
    with suppress(OSError):
        before = os.dup(2)
        for stream in {id(stream): stream for stream in (sys.stderr, sys.__stderr__)}.values():
            buffer = getattr(stream, "buffer", None)
            raw = getattr(buffer, "raw", buffer)  # python -u has no buffer in between
            if isinstance(raw, io.FileIO) and not raw.closed and raw.fileno() == 2:
                # In place: log handlers, say, hold on to the stream.
                raw.__init__(before, "wb", closefd=False)  # type: ignore[misc]
        os.set_blocking(fd, False)
        os.dup2(fd, 2)
