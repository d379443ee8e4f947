"""Keeps file descriptors in reserve, and says what to do when none is free."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pipert_shm import binding
from pipert_shm.errors import describe

T = TypeVar("T")

RESERVED = 4  # by a flow: one is needed to open a ring, and other threads may take the rest meanwhile

_REMEDIES = {
    errno.EMFILE: "close files, or raise the limit of {limit} open files a process (ulimit -n)",
    errno.ENFILE: "close files, or raise the machine's limit of open files (sysctl fs.file-max)",
    errno.ENOMEM: "free memory, or raise the limit of mappings (sysctl vm.max_map_count)",
}


def is_shortage(error: OSError) -> bool:
    """Whether a call failed for want of descriptors or memory, so that it may work later."""
    return error.errno in _REMEDIES


def remedy(error: OSError) -> str:
    """What to do about a shortage."""
    return _REMEDIES[error.errno or 0].format(limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def advised(error: Exception) -> str:
    """Why a system call failed, and what to do about it if that is known."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EAGAIN:
        return f"{describe(error)}; end processes, or raise the limits of processes (ulimit -u, sysctl kernel.threads-max)"
    return f"{describe(error)}; {remedy(error)}" if isinstance(error, OSError) and is_shortage(error) else describe(error)


class Reserve:
    """File descriptors that a process keeps for when no other is free. Safe to use from any thread.

    Make it before anything else: then their numbers are low, and below any limit that is set later. Forked children don't have
    them.

    :param count: how many to keep. If fewer are free, it keeps those, and tries again after each use.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[int] = []
        self._lock = threading.Lock()
        self._home = os.getpid()
        self._take()

    def __len__(self) -> int:
        """How many descriptors it keeps now."""
        return len(self._held)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Frees them for the block, and takes them back afterwards. One thread at a time."""
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
        """Calls `action`, and again with the reserve freed if no descriptor was free. `action` should leave none open.

        :raises OSError: when it fails for another reason, or with the reserve freed, too.
        """
        try:
            return action()
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        with self.lent():
            return action()

    def close(self) -> None:
        """Closes them for good."""
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
            binding.guard(fd)
            self._held.append(fd)

    def _give(self) -> None:
        while self._held:
            fd = self._held.pop()
            binding.unguard(fd)
            os.close(fd)
