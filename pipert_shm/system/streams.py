"""Standard output and error. A program may have none: if it was started with `>&-`, by a daemon, or without a console."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

from pipert_shm.display.masking import masked


def flush_output() -> None:
    """Writes out what Python has buffered, as far as the streams take it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(Exception):  # the stream or its other end may be closed, or it is an object of the user's
                stream.flush()


def say(text: str) -> None:
    """Writes a line to standard error, if there is one. Secrets in it are masked."""
    if sys.stderr is not None:  # with None, print() would write to standard output
        with suppress(OSError, ValueError):
            print(masked(text), file=sys.stderr)


def occupy_standard_files() -> None:
    """Opens /dev/null as each of the descriptors 0 to 2 that is closed.

    Else the next file to be opened, perhaps a channel, would get the messages that native libraries write to standard error.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free, which is `fd`
            os.set_inheritable(fd, True)


def give_c_another_stderr(fd: int) -> None:
    """Makes descriptor 2 write to `fd` from now on, without ever waiting.

    Python's own sys.stderr still writes to where it did. If no descriptor is free, nothing changes.

    :param fd: the end of a pipe to write to. Output that the pipe has no room for is lost.
    """
    with suppress(OSError):
        before = os.dup(2)
        for stream in {id(stream): stream for stream in (sys.stderr, sys.__stderr__)}.values():
            buffer = getattr(stream, "buffer", None)
            raw = getattr(buffer, "raw", buffer)  # python -u has no buffer in between
            if isinstance(raw, io.FileIO) and not raw.closed and raw.fileno() == 2:
                # Change the stream itself, since log handlers hold on to it.
                raw.__init__(before, "wb", closefd=False)  # type: ignore[misc]
        os.set_blocking(fd, False)
        os.dup2(fd, 2)
