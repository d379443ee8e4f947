"""Standard output and error, which a program need not have: started with `>&-`, by a daemon, or without a console."""

from __future__ import annotations

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
