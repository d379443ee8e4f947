"""The system calls that may fail, each under a name of its own.

The launcher, the flows' control threads, fork servers and the parent's session call these, and nothing else of `os`, `socket`
or `posix_ipc` that can fail. So this module is the list of what can fail, and tests/errno_points.py makes each of these calls
fail in each of these processes, with each error number that it may return.
"""

from __future__ import annotations

import errno
import fcntl
import os
import selectors
import signal
import socket
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

import posix_ipc

from pipert_shm import binding

fork = os.fork
pidfd_open = os.pidfd_open
send_signal = signal.pidfd_send_signal
signal_thread = binding.signal_thread
pipe = os.pipe
read = os.read
open_file = os.open
allocate = os.posix_fallocate
truncate = os.ftruncate
write_at = os.pwrite
lock = fcntl.fcntl
space = os.statvfs
listing = os.listdir
map_memory = binding.map_shared
make_directory = os.mkdir
cpus_of = os.sched_getaffinity
set_cpus = os.sched_setaffinity

CHANNEL_BYTES = 1 << 20  # how much each end of a channel may have sent that the other has not received yet

_SO_PEERPIDFD = 77  # since Linux 6.5
_CREDENTIALS = struct.Struct("iii")  # pid, user, group


def wait_for_exit(pid: int) -> int:
    """Waits until a child has ended; its exit code, or minus the number of the signal that ended it.

    :raises ChildProcessError: when this process has no such child, or somebody else in it has waited for it.
    """
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def open_shared(name: str, flags: int = 0, mode: int = 0o600) -> posix_ipc.SharedMemory:
    """Opens a segment, or makes one. PermissionError is an OSError here, as everywhere else.

    :raises posix_ipc.ExistentialError: when it does not exist, or, if it is to be made, when it exists already.
    """
    try:
        return posix_ipc.SharedMemory(name, flags, mode=mode)
    except posix_ipc.PermissionsError as error:
        raise PermissionError(errno.EACCES, f"{name} in /dev/shm is not ours: {error}") from error


def unlink_shared(name: str) -> None:
    """Removes a segment's name. PermissionError is an OSError here, as everywhere else.

    :raises posix_ipc.ExistentialError: when it does not exist.
    """
    try:
        posix_ipc.unlink_shared_memory(name)
    except posix_ipc.PermissionsError as error:
        raise PermissionError(errno.EACCES, f"{name} in /dev/shm is not ours: {error}") from error


def channel_ends() -> tuple[socket.socket, socket.socket]:
    """Two connected ends of a SOCK_SEQPACKET pair."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHANNEL_BYTES)
    return ends


def listen_at(path: str) -> socket.socket:
    """Makes a SOCK_SEQPACKET socket that listens at a path. This user alone may connect to it; to accept does not block.

    For a process with one thread: the umask is that of the process.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen()
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def accept(listener: socket.socket) -> socket.socket:
    """The end of the next connection.

    :raises BlockingIOError: when nobody waits.
    """
    end, _ = listener.accept()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHANNEL_BYTES)
    return end


def connect(path: str) -> socket.socket:
    """Connects to the socket that listens at a path.

    :raises ConnectionRefusedError: when nobody listens any more.
    """
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHANNEL_BYTES)
        end.connect(path)
    except BaseException:
        end.close()
        raise
    return end


def peer_of(end: socket.socket) -> tuple[int, int]:
    """The process that has connected, and its user."""
    pid, user, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, user


def peer_pidfd(end: socket.socket) -> int:
    """The pidfd of the process that has connected.

    :raises OSError: ENOPROTOOPT where the kernel has no such thing.
    """
    return end.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)


def duplicate(end: socket.socket) -> socket.socket:
    """Another descriptor of the same end of a channel."""
    return end.dup()


def send(end: socket.socket, packet: bytes, fds: Iterable[int] = ()) -> None:
    """Sends one packet, with file descriptors if there are any."""
    fds = list(fds)
    if fds:
        socket.send_fds(end, [packet], fds)
    else:
        end.send(packet)


def receive(end: socket.socket, size: int, most_fds: int) -> tuple[bytes, list[int], int]:
    """Receives one packet: its bytes, the file descriptors that came with it, and the flags of recvmsg."""
    packet, fds, flags, _ = socket.recv_fds(end, size, most_fds, socket.MSG_CMSG_CLOEXEC)
    return packet, list(fds), flags


def start_thread(thread: threading.Thread) -> None:
    """Starts a thread.

    :raises OSError: when the system has no room for one more.
    """
    try:
        thread.start()
    except RuntimeError as error:  # Python's name for EAGAIN
        raise OSError(errno.EAGAIN, str(error)) from error


def wait(selector: selectors.BaseSelector, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
    """Waits for one of the files that a selector watches. Returns those that are ready, none after `timeout` seconds."""
    return selector.select(timeout)


def exists(path: Path) -> bool:
    """Whether a file exists."""
    return path.exists()


def set_niceness(niceness: int) -> None:
    """Sets the niceness of the calling thread, which threads that it starts later inherit.

    :raises PermissionError: when it is less than the present one, and this process may not lower it.
    """
    os.setpriority(os.PRIO_PROCESS, 0, niceness)


def process_file(pid: int, name: str) -> str:
    """What the system tells of a process in a file of /proc/PID.

    :raises ProcessLookupError, FileNotFoundError: when there is no such process.
    """
    file = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 1 << 16).decode(errors="replace")
    finally:
        os.close(file)
