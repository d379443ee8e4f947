"""Output files: free names, files of earlier runs, and writes that leave nothing half done when the disk is full."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from itertools import count
from pathlib import Path

ROOM = 1 << 17
"""Free bytes below which a disk counts as full: a file needs some to be ended properly."""


def free_name(path: Path) -> Path:
    """Returns the path itself if it is free, else the first of `out-1.mp4`, `out-2.mp4` … that is."""
    return next(name for name in _names(path) if not os.path.lexists(name))


class NewFile:
    """A new file of one writer: the first of `out.mp4`, `out-1.mp4` … that is free. It is locked (`flock`) until it is closed.

    :raises OSError: when the file can't be made.

    Attributes:
        fd: its descriptor, for reading and writing.
        path: its path.
        removed: whether `close()` removed it.
    """

    def __init__(self, path: Path) -> None:
        self.fd, self.path = _claim(path)
        self.removed = False

    def rename(self, path: Path) -> None:
        """Renames it to this path, or to the next free name."""
        self.path = moved(self.path, path)

    def close(self) -> None:
        """Closes the file, and removes it if it is empty."""
        try:
            if not os.fstat(self.fd).st_size and self.path.is_file():
                self.path.unlink()
                self.removed = True
        finally:
            os.close(self.fd)


def set_aside(path: Path, logger: logging.Logger) -> None:
    """Renames the file of an earlier run, or of a process that died, and logs its new name: `out.mp4` becomes `out-1.mp4`.

    A file that another writer has open stays where it is, and so does an empty one.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        _keep(path, logger)  # a file that can't be opened can be renamed all the same
        return
    except FileNotFoundError:
        return  # another writer was faster
    try:
        if _is_mine(fd, path):
            _keep(path, logger)
    finally:
        os.close(fd)


def _keep(path: Path, logger: logging.Logger) -> None:
    logger.info("%s was there before; it is kept as %s", path, moved(path, path))


def _names(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_stem(f"{path.stem}-{number}") for number in count(1))


def _is_empty(path: Path) -> bool:
    return path.is_file() and not path.stat().st_size


def _claim(path: Path) -> tuple[int, Path]:
    """Opens and locks the first of `out.mp4`, `out-1.mp4` … that does not exist, or is empty and not in use."""
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
    """Locks the file; False if another writer has it, or if the path has become another file."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return True
    if not locked(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
        return False
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def moved(path: Path, wanted: Path) -> Path:
    """Renames a file to the first free name, and returns that. The name is claimed first, so no other writer takes it."""
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
    """Locks a file (`flock`), or unlocks it; False when another process has locked it. True on a disk without locks."""
    try:
        fcntl.flock(fd, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):  # EBADF: NFS, of one open to read
            raise
    return True


def has_room(path: Path, wanted: int = ROOM) -> bool:
    """Whether the disk of a file has so many bytes free for this user."""
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize >= wanted


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Writes all of the data: a disk that fills up takes a part, and reports an error only at the next write.

    :raises OSError: for example when the disk is full; a part of the data may have been written.
    """
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(fd, left) :]


class Appender:
    """A file that whole records are appended to. A record that can't be written leaves nothing in the file.

    Several processes may append to the same file, if they all use this class.

    :raises OSError: when the file can't be made or opened.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def append(self, record: bytes) -> None:
        """Writes a record while no other process appends.

        :raises OSError: for example when the disk is full; nothing of the record is left in the file.
        """
        locked(self._fd, fcntl.LOCK_EX)  # else taking back half a record could take back another writer's record, too
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
        """Closes the file."""
        os.close(self._fd)
