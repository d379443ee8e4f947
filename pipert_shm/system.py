"""The system calls that may fail in the processes that hold a pipe together, each by its own name, in one place.

The launcher, the flows' control threads, fork servers and the parent's session call these, and nothing of `os`, `socket` or
`posix_ipc` that can fail beside them. So one can read here what can fail, and the errno points (tests/errno_points.py) make
each of these calls fail in each of these processes with each error number that it may return.
"""

from __future__ import annotations

import errno
import fcntl
import os
import selectors
import signal
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

import posix_ipc

from pipert_shm import native

fork = os.fork
waitpid = os.waitpid
pidfd_open = os.pidfd_open
send_signal = signal.pidfd_send_signal
pipe = os.pipe
read = os.read
open_file = os.open
allocate = os.posix_fallocate
truncate = os.ftruncate
write_at = os.pwrite
lock = fcntl.fcntl
space = os.statvfs
listing = os.listdir
map_memory = native.map_shared


def open_shared(name: str, flags: int = 0, mode: int = 0o600) -> posix_ipc.SharedMemory:
    """Opens a segment, or makes one. PermissionError is an OSError here, as everywhere else.

    :raises posix_ipc.ExistentialError: when there is none, or, where it is to be made, one.
    """
    try:
        return posix_ipc.SharedMemory(name, flags, mode=mode)
    except posix_ipc.PermissionsError as error:
        raise PermissionError(errno.EACCES, f"{name} in /dev/shm is not ours: {error}") from error


def unlink_shared(name: str) -> None:
    """Removes a segment's name. PermissionError is an OSError here, as everywhere else.

    :raises posix_ipc.ExistentialError: when there is none.
    """
    try:
        posix_ipc.unlink_shared_memory(name)
    except posix_ipc.PermissionsError as error:
        raise PermissionError(errno.EACCES, f"{name} in /dev/shm is not ours: {error}") from error


def channel_ends(buffer_bytes: int) -> tuple[socket.socket, socket.socket]:
    """Two connected ends of a SOCK_SEQPACKET pair, each with room for so much that is sent and not received."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    return ends


def duplicate(end: socket.socket) -> socket.socket:
    """Another descriptor of the same end."""
    return end.dup()


def send(end: socket.socket, packet: bytes, fds: Iterable[int] = ()) -> None:
    """Sends one packet, and descriptors with it."""
    fds = list(fds)
    if fds:
        socket.send_fds(end, [packet], fds)
    else:
        end.send(packet)


def receive(end: socket.socket, size: int, most_fds: int) -> tuple[bytes, list[int], int]:
    """One packet, the descriptors that came with it, and the flags of recvmsg."""
    packet, fds, flags, _ = socket.recv_fds(end, size, most_fds, socket.MSG_CMSG_CLOEXEC)
    return packet, list(fds), flags


def start_thread(thread: threading.Thread) -> None:
    """Starts a thread.

    :raises OSError: when the system has no room for one more.
    """
    try:
        thread.start()
    except RuntimeError as error:  # which Python makes of EAGAIN
        raise OSError(errno.EAGAIN, str(error)) from error


def wait(selector: selectors.BaseSelector, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
    """What can be read or written, of what a selector watches."""
    return selector.select(timeout)


def exists(path: Path) -> bool:
    """Whether there is such a file."""
    return path.exists()
