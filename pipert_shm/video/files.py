"""Files that are written: their names, what is there already, and what is left of them when the disk is full."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

ROOM = 1 << 17
"""Bytes below which a disk counts as full: what it takes to end a file properly."""


def free_name(path: Path) -> Path:
    """The path itself, if nothing is there, else the first of `out-1.mp4`, `out-2.mp4` … that is free."""
    if not os.path.lexists(path):
        return path
    return next(free for number in count(1) if not os.path.lexists(free := path.with_stem(f"{path.stem}-{number}")))


def set_aside(path: Path) -> None:
    """Keeps what an earlier run, or a process that died, has written there, under another name: `out.mp4` as `out-1.mp4`."""
    if path.is_file() and path.stat().st_size:
        path.rename(free_name(path))


def has_room(path: Path, wanted: int = ROOM) -> bool:
    """Whether the disk that a file lies on has so many bytes left for this user."""
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize >= wanted


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Writes all of it, or raises: a disk that fills takes a part, and says so only the next time.

    :raises OSError: when the disk is full, say; what it took of the data stands there.
    """
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(fd, left) :]


class Appender:
    """A file that whole records are appended to: one that can't be written is taken back, and the next may be.

    Several processes may append to the same file, as long as all of them do only that.

    :raises OSError: when it can't be made, or written to.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def append(self, record: bytes) -> None:
        """Writes a record, in one piece if the system takes it as one.

        :raises OSError: when the disk is full, say; nothing of the record stands there then.
        """
        before = os.fstat(self._fd).st_size
        written = os.write(self._fd, record)
        if written == len(record):
            return
        try:
            write_all(self._fd, memoryview(record)[written:])
        except OSError:
            os.ftruncate(self._fd, before)
            raise

    def close(self) -> None:
        """Ends it."""
        os.close(self._fd)
