"""Where other processes find a pipe's launcher: a socket for each pipe, in a directory that its user alone may enter.

The socket is called by the pipe's id. So names of pipes need no register: the control segments have them.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path

from pipert_shm.shm.segments import has_segments
from pipert_shm.system import calls

FOLDER = "pipert_shm"
YOUNG = 60.0  # seconds in which a socket that is just being made gets its name
_NAME = re.compile(r"([0-9a-f]{12})(\.new)?")


def directory() -> Path:
    """The directory for the pipes of this process: below `$XDG_RUNTIME_DIR` where that is the user's own, else in /tmp."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        with suppress(OSError):
            if os.stat(runtime).st_uid == os.geteuid():
                return Path(runtime, FOLDER)
    return Path("/tmp", f"{FOLDER}-{os.geteuid()}")


def open_directory(path: Path, *, create: bool = False) -> int:
    """Opens such a directory; its descriptor.

    :param create: whether to make it where it does not exist.
    :raises OSError: when it does not exist, is no directory, or others than this user may enter it.
    """
    if create:
        with suppress(FileExistsError):
            calls.make_directory(path, 0o700)
    fd = calls.open_file(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        os.close(fd)
        whose = f"its owner is user {status.st_uid}, its mode {status.st_mode & 0o777:o}"
        raise PermissionError(
            errno.EACCES,
            f"{path} is not for this user alone ({whose}): remove it, or name a directory of yours by XDG_RUNTIME_DIR",
        )
    return fd


def listen(path: Path, pipe_id: str) -> socket.socket:
    """Listens for those who attach to a pipe. For a process with one thread, since it sets the umask for a moment.

    :param path: the directory, which is made where it does not exist.
    :raises OSError: when the directory or the socket can't be made, or the directory is not this user's alone.
    """
    fd = open_directory(path, create=True)
    try:
        # by the descriptor, so that it is the directory that was looked at, and no path is too long; under another name until
        # it listens, so that nobody takes it for that of a dead launcher
        listener = calls.listen_at(f"/proc/self/fd/{fd}/{pipe_id}.new")
        try:
            os.rename(f"{pipe_id}.new", pipe_id, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            listener.close()
            raise
        return listener
    finally:
        os.close(fd)


def connect(path: Path, pipe_id: str) -> socket.socket:
    """Connects to a pipe's launcher.

    :raises OSError: when nobody listens there, or the directory is not this user's alone.
    """
    fd = open_directory(path)
    try:
        return calls.connect(f"/proc/self/fd/{fd}/{pipe_id}")
    finally:
        os.close(fd)


def remove(path: Path, pipe_id: str) -> None:
    """Removes a pipe's socket, if it is still there."""
    with suppress(OSError):  # it is swept later
        os.unlink(path / pipe_id)


def sweep(path: Path) -> list[str]:
    """Removes the sockets of pipes whose launcher is dead. Returns the ids.

    :raises OSError: when the directory can't be read, or is not this user's alone.
    """
    swept = []
    try:
        fd = open_directory(path)
    except FileNotFoundError:
        return []
    try:
        for name in calls.listing(fd):
            match = _NAME.fullmatch(name)
            if match is not None and not has_segments(match[1]) and _is_dead(fd, name):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=fd)
                swept.append(match[1])
    finally:
        os.close(fd)
    return swept


def _is_dead(fd: int, name: str) -> bool:
    """Whether nobody listens there. The pipe may have its segments in another container's /dev/shm, so those don't say it."""
    try:
        if name.endswith(".new"):
            return time.time() - os.stat(name, dir_fd=fd).st_mtime > YOUNG
        calls.connect(f"/proc/self/fd/{fd}/{name}").close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
