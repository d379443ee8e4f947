"""File descriptors: a few that a process keeps in reserve, and what to say when none is free."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pipert_shm import native
from pipert_shm.errors import describe

T = TypeVar("T")

RESERVED = 4  # of a flow: one is needed to open a ring, the others are for threads that take one meanwhile

_REMEDIES = {
    errno.EMFILE: "close files, or raise the limit of {limit} open files a process (ulimit -n)",
    errno.ENFILE: "close files, or raise the machine's limit of open files (sysctl fs.file-max)",
    errno.ENOMEM: "free memory, or raise the limit of mappings (sysctl vm.max_map_count)",
}


def is_shortage(error: OSError) -> bool:
    """Whether the same may work later, when descriptors or memory are free again."""
    return error.errno in _REMEDIES


def remedy(error: OSError) -> str:
    """What to do about a shortage."""
    return _REMEDIES[error.errno or 0].format(limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def advised(error: Exception) -> str:
    """What a system call failed of, and what to do about it where that is known."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EAGAIN:
        return f"{describe(error)}; end processes, or raise the limits of processes (ulimit -u, sysctl kernel.threads-max)"
    return f"{describe(error)}; {remedy(error)}" if isinstance(error, OSError) and is_shortage(error) else describe(error)


class Reserve:
    """Descriptors that a process holds so as to have some when no other is free. Any thread.

    Make it first of all: their numbers are then below whatever the limit is lowered to. Forked children don't have them.

    :param count: how many; fewer where so many can't be had, until the next use.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[int] = []
        self._lock = threading.Lock()
        self._home = os.getpid()
        self._take()

    def __len__(self) -> int:
        """How many it holds now."""
        return len(self._held)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Frees them for what is done in the block, and takes them back afterwards. One thread at a time."""
        if os.getpid() != self._home:
            yield
            return
        with self._lock:
            self._give()
            try:
                yield
            finally:
                self._take()

    def help(self, action: Callable[[], T]) -> T:
        """Does it; again with the reserve, where it fails since no descriptor is free. It should leave none open."""
        try:
            return action()
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        with self.lent():
            return action()

    def close(self) -> None:
        """Gives them up for good."""
        with self._lock:
            self._count = 0
            self._give()

    def _take(self) -> None:
        while len(self._held) < self._count:
            try:
                fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                if not is_shortage(error):
                    raise
                return
            native.guard(fd)
            self._held.append(fd)

    def _give(self) -> None:
        while self._held:
            fd = self._held.pop()
            native.unguard(fd)
            os.close(fd)
