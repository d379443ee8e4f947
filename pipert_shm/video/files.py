"""Files that are written: their names, what is there already, and what is left of them when the disk is full."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from itertools import count
from pathlib import Path

ROOM = 1 << 17
"""Bytes below which a disk counts as full: what it takes to end a file properly."""


def free_name(path: Path) -> Path:
    """The path itself, if nothing is there, else the first of `out-1.mp4`, `out-2.mp4` … that is free."""
    return next(name for name in _names(path) if not os.path.lexists(name))


class NewFile:
    """A new file, which no other writer has: the first of `out.mp4`, `out-1.mp4` … that is free.

    It is locked (`flock`) until it is closed.

    :raises OSError: when it can't be made.

    Attributes:
        fd: of the file, for reading and writing.
        path: that it has.
        removed: whether it was, when it was closed.
    """

    def __init__(self, path: Path) -> None:
        self.fd, self.path = _claim(path)
        self.removed = False

    def rename(self, path: Path) -> None:
        """Calls it otherwise, as this or as the next name that is free."""
        self.path = moved(self.path, path)

    def close(self) -> None:
        """Ends it. One that nothing was written to is removed."""
        try:
            if not os.fstat(self.fd).st_size and self.path.is_file():
                self.path.unlink()
                self.removed = True
        finally:
            os.close(self.fd)


def set_aside(path: Path) -> None:
    """Keeps what an earlier run, or a process that died, has written there, under another name: `out.mp4` as `out-1.mp4`.

    What another writer has in hand is left alone.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        moved(path, path)  # it may be renamed all the same
        return
    except FileNotFoundError:
        return  # another writer was faster
    try:
        if _is_mine(fd, path):
            moved(path, path)
    finally:
        os.close(fd)


def _names(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_stem(f"{path.stem}-{number}") for number in count(1))


def _is_empty(path: Path) -> bool:
    return path.is_file() and not path.stat().st_size


def _claim(path: Path) -> tuple[int, Path]:
    """Opens and locks the first of `out.mp4`, `out-1.mp4` … that is not there, or is empty and no writer's."""
    for name in _names(path):
        if name != path and os.path.lexists(name) and not _is_empty(name):
            continue
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if _is_mine(fd, name) and not os.fstat(fd).st_size:
                return fd, name
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise AssertionError("there is always another name")


def _is_mine(fd: int, path: Path) -> bool:
    """Locks the file, if no other writer has it; whether it is still the one of that name."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return True
    if not locked(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
        return False
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def moved(path: Path, wanted: Path) -> Path:
    """Renames a file to the first name that is free, which is taken first, so that no other writer does; returns it."""
    fd, name = _claim(wanted)
    try:
        path.rename(name)
    except OSError:
        name.unlink()
        raise
    finally:
        os.close(fd)
    return name


def locked(fd: int, how: int) -> bool:
    """Locks a file (`flock`), or unlocks it; False when another has it. On a disk that knows no locks nobody else has it."""
    try:
        fcntl.flock(fd, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):  # EBADF: NFS, of one open to read
            raise
    return True


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
        """Writes a record, in one piece, while no other process appends.

        :raises OSError: when the disk is full, say; nothing of the record stands there then.
        """
        locked(self._fd, fcntl.LOCK_EX)  # else half a record may be followed by another writer's, and be taken back with it
        try:
            before = os.fstat(self._fd).st_size
            try:
                write_all(self._fd, record)
            except OSError:
                os.ftruncate(self._fd, before)
                raise
        finally:
            locked(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Ends it."""
        os.close(self._fd)
