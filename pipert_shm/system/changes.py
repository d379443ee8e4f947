"""Waits until something is made or renamed in a directory."""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Iterable
from pathlib import Path

_CREATE, _MOVED_TO = 0x100, 0x80
_CLOEXEC, _NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK


class Changes:
    """Watches directories by inotify. It is a context manager.

    :raises OSError: when the system has no descriptor or no watch left for it.
    """

    def __init__(self, directories: Iterable[Path]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = _checked(libc.inotify_init1(_CLOEXEC | _NONBLOCK))
        try:
            for directory in directories:
                _checked(libc.inotify_add_watch(self._fd, os.fsencode(directory), ctypes.c_uint32(_CREATE | _MOVED_TO)))
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Changes:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)

    def wait(self, seconds: float) -> bool:
        """Waits until something was made since the last call, or since the beginning; False when nothing was in this time."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        changed = bool(poll.poll(seconds * 1000))
        if changed:
            os.read(self._fd, 1 << 16)
        return changed


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"can't watch a directory: {os.strerror(number)}")
    return result
