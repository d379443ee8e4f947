"""Makes, opens, locks, lists and sweeps shared-memory segments.

A pipe has one control segment, `/dev/shm/pipert-<id>-c`, and one segment per ring, `/dev/shm/pipert-<id>-<serial>`. While it
is traced, each of its processes has one more, `/dev/shm/pipert-<id>-t<number>` (shm/tracing.py). The id is random, and serials
and numbers only grow, so no name is used twice. Every process of a pipe keeps a shared lock (an open file
description lock) on the control segment; the kernel lets go of it when the process dies, however it dies. A pipe whose
control segment can be locked exclusively has no process left, and `sweep_stale()` removes it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import posix_ipc

from pipert_shm import binding
from pipert_shm.errors import SharedMemoryFull
from pipert_shm.shm.needs import Needs
from pipert_shm.system import calls
from pipert_shm.system.descriptors import Reserve

SHM = Path("/dev/shm")
PREFIX = "pipert-"
CONTROL = "c"
TRACE = "t"
SEGMENT = re.compile(PREFIX + r"([0-9a-f]{12})-(c|t?[0-9]+)")
MODE = 0o600
PAGE = mmap.PAGESIZE

_FLOCK = struct.Struct("hhqqi4x")


def new_pipe_id() -> str:
    """A random id for a new pipe: 12 hexadecimal digits."""
    return os.urandom(6).hex()


def segment_name(pipe_id: str, part: str | int) -> str:
    """The name of a pipe's segment, as shm_open wants it: with a slash before it.

    :param part: CONTROL, a ring's serial, or TRACE and a number.
    """
    return f"/{PREFIX}{pipe_id}-{part}"


def open_file(name: str) -> int:
    """Opens a segment to read it like a file. Returns a descriptor.

    :raises OSError: FileNotFoundError when it is gone, another one when it is not ours to read, or no regular file.
    """
    # Somebody may have put a pipe there, which would keep us waiting, or a link, which would lead us elsewhere.
    fd = calls.open_file(SHM / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a segment", name)
    return fd


def free_bytes() -> int:
    """Bytes that are free in /dev/shm now."""
    status = calls.space(SHM)
    free: int = status.f_bavail * status.f_frsize
    return free


def create_segment(
    name: str, size: int, purpose: str, needs: Callable[[], Needs] | None = None, memory: int | None = None
) -> int:
    """Makes a segment, mode 0600, with all of its memory. Returns its file descriptor.

    :param memory: bytes at its beginning that get memory, if not all do.
    :param needs: what the whole pipe needs, for the error; by default this segment alone.
    :raises SharedMemoryFull: when /dev/shm has less than `size` bytes left. Nothing is left behind then.
    :raises OSError: when /dev/shm can't be written to.
    """
    try:
        segment = calls.open_shared(name, posix_ipc.O_CREX, mode=MODE)
    except PermissionError as error:
        raise OSError(errno.EACCES, f"can't create {name} in {SHM}, which is not ours to write to: {error}") from error
    except OSError as error:
        raise OSError(error.errno or errno.EMFILE, f"can't create {name} in {SHM}: {error}") from error
    fd: int = segment.fd
    try:
        calls.truncate(fd, size)
        # Memory that is allocated now can't turn into a SIGBUS later.
        calls.allocate(fd, 0, size if memory is None else memory)
    except OSError as error:
        free = free_bytes() + os.fstat(fd).st_blocks * 512
        segment.close_fd()
        unlink(name)
        if error.errno != errno.ENOSPC:
            raise
        raise SharedMemoryFull(purpose, size, free, (needs() if needs else Needs((), size)).shm_size) from error
    return fd


def unlink(name: str) -> None:
    """Removes a segment, if it is still there."""
    try:
        calls.unlink_shared(name)
    except posix_ipc.ExistentialError:
        return  # another process was faster


def unlink_pipe(pipe_id: str, *, keep_traces: bool = False) -> None:
    """Removes every segment of a pipe, the control segment last. Mapped memory stays valid.

    :param keep_traces: spares what its processes noted for a trace, which somebody is going to read.
    """
    control = segment_name(pipe_id, CONTROL)
    kept = f"{PREFIX}{pipe_id}-{TRACE}" if keep_traces else None
    for name in calls.listing(SHM):
        if name.startswith(f"{PREFIX}{pipe_id}-") and f"/{name}" != control and not (kept and name.startswith(kept)):
            unlink(f"/{name}")
    unlink(control)


def has_segments(pipe_id: str) -> bool:
    """Whether a pipe still has its control segment, which goes last. Needs no file descriptor."""
    return calls.exists(SHM / segment_name(pipe_id, CONTROL)[1:])


def _lock(fd: int, kind: int) -> bool:
    try:
        calls.lock(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def pipe_ids() -> list[str]:
    """The ids of the pipes that have segments, alive or not."""
    return sorted({match[1] for match in map(SEGMENT.fullmatch, calls.listing(SHM)) if match})


def is_stale(pipe_id: str) -> bool:
    """Whether no process of this pipe is left. To ask disturbs nobody. A pipe that we may not open counts as alive."""
    try:
        fd = open_file(segment_name(pipe_id, CONTROL)[1:])
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind: int = _FLOCK.unpack(calls.lock(fd, fcntl.F_OFD_GETLK, query))[0]
        return kind == fcntl.F_UNLCK
    finally:
        os.close(fd)


def _remove_if_stale(pipe_id: str) -> bool:
    """Removes a pipe if no process of it is left. Returns whether it did: it leaves segments that are not ours to write to."""
    if not is_stale(pipe_id):
        return False
    segment = None
    try:
        with suppress(posix_ipc.ExistentialError):
            segment = calls.open_shared(segment_name(pipe_id, CONTROL))
        # Remove only under the lock: a process that is just making this pipe either has the lock, or finds the segment gone.
        if segment is not None and not _lock(segment.fd, fcntl.F_WRLCK):
            return False
        unlink_pipe(pipe_id)
    except OSError:
        return False
    finally:
        if segment is not None:
            segment.close_fd()
    return True


def sweep_stale() -> list[str]:
    """Removes the segments of pipes without a living process. Returns their ids.

    Pipes that run stay, and so do other users' pipes.
    """
    return [pipe_id for pipe_id in pipe_ids() if _remove_if_stale(pipe_id)]


def _map_control(pipe_id: str, size: int) -> int:
    """Maps a control segment by a file description of its own; its address.

    A mapping keeps its file description open, in forked children too. If that were the one that is locked, forked children
    would keep the lock.
    """
    segment = calls.open_shared(segment_name(pipe_id, CONTROL))
    try:
        return calls.map_memory(segment.fd, size)
    finally:
        segment.close_fd()


class ControlSegment:
    """A pipe's control segment, mapped here and locked as in use by this process.

    Forked children inherit the mapping but not the lock: each process of a pipe opens its own.

    Attributes:
        process: the memory that this process has mapped of the pipe.
        reserve: file descriptors to make and open rings with when no other is free.
        needs: what the pipe needs, as far as it is known before its first frames, for errors.
    """

    def __init__(self, pipe_id: str, fd: int, address: int, size: int) -> None:
        self.pipe_id = pipe_id
        self.size = size
        self._fd = fd
        self._taken: set[tuple[binding.Kind, int]] = set()
        self._address = address
        self.reserve = Reserve(0)
        self.process = binding.Process(address, size)
        self.needs: Callable[[], Needs] = lambda: Needs((), size)

    @classmethod
    def create(
        cls,
        room: binding.ControlSize,
        budget: int,
        about: bytes = b"",
        needs: Callable[[], Needs] | None = None,
        used: binding.ControlSize | None = None,
    ) -> ControlSegment:
        """Makes the segment of a new pipe.

        :param budget: bytes that rings may take.
        :param about: a text to stand behind the records, for `pipert-shm ls`.
        :param needs: what the whole pipe needs, for errors; by default this segment alone.
        :param used: how many of the records are used at once; by default all. Others get memory by `take`.
        :raises ValueError: when a pipe can't have so many records.
        :raises SharedMemoryFull: when /dev/shm is too small for it.
        :raises OSError: when /dev/shm can't be written to.
        """
        records = room.bytes_needed()
        if not records:
            raise ValueError("the pipe has too many routines, wires or messages in its queues")
        size = records + len(about)
        while True:
            pipe_id = new_pipe_id()
            memory = None if used is None else room.head_bytes()
            fd = create_segment(segment_name(pipe_id, CONTROL), size, "the pipe's control segment", needs, memory)
            try:
                # Between creation and lock, a sweep may have locked or removed it as stale. Then make another one.
                if not _lock(fd, fcntl.F_RDLCK) or not os.fstat(fd).st_nlink:
                    os.close(fd)
                    unlink(segment_name(pipe_id, CONTROL))
                    continue
                binding.guard(fd)
                address = _map_control(pipe_id, size)
                room.format(address, budget)
                segment = cls(pipe_id, fd, address, size)
                segment.needs = needs or segment.needs
                if used is not None:
                    segment._take_first(used)
                segment.make_room(about)
                calls.write_at(fd, about, records)
                return segment
            except BaseException:
                binding.unguard(fd)
                os.close(fd)
                unlink(segment_name(pipe_id, CONTROL))
                raise

    @classmethod
    def open(cls, pipe_id: str) -> ControlSegment:
        """Opens the segment of a pipe, as one more process of it.

        :raises posix_ipc.ExistentialError: when the pipe is gone.
        """
        segment = calls.open_shared(segment_name(pipe_id, CONTROL))
        _lock(segment.fd, fcntl.F_RDLCK)
        binding.guard(segment.fd)
        return cls(pipe_id, segment.fd, _map_control(pipe_id, segment.size), segment.size)

    @classmethod
    def look_in(cls, pipe_id: str) -> ControlSegment:
        """Opens the segment of a pipe without its lock: it does not count as in use by this process, which is no part of it.

        :raises posix_ipc.ExistentialError: when the pipe is gone.
        """
        segment = calls.open_shared(segment_name(pipe_id, CONTROL))
        try:
            return cls(pipe_id, -1, calls.map_memory(segment.fd, segment.size), segment.size)
        finally:
            segment.close_fd()

    def _take_first(self, used: binding.ControlSize) -> None:
        """Gives memory to the first records of each kind."""
        counts: dict[binding.Kind, int] = {
            "flow": used.flows,
            "routine": used.routines,
            "edge": used.edges,
            "incarnation": used.incarnations,
        }
        for kind, count in counts.items():
            for number in range(count):
                self.take(kind, number)
        self.process.note_used(used.edges, used.incarnations)

    def take(self, kind: binding.Kind, number: int) -> None:
        """Gives memory to a record, before anybody touches it. It keeps that for good, also when another one gets the number.

        :raises SharedMemoryFull: when there is no memory for it.
        :raises LookupError: when the segment has no room for so many.
        """
        if (kind, number) in self._taken:
            return
        offset, size = self.process.extent(kind, number)
        self._allocate(offset, size, f"the pipe's control segment, for one more {kind},")
        self._taken.add((kind, number))

    @property
    def taken_bytes(self) -> int:
        """Bytes of its memory: not all of it has some."""
        return os.fstat(self._fd).st_blocks * 512

    def make_room(self, about: bytes) -> None:
        """Allocates memory for such a text, so that `tell` can't fail.

        :raises SharedMemoryFull: when there is no memory for it.
        """
        self._allocate(self.process.records_bytes(), len(about), "the pipe's control segment, for more names,")

    def _allocate(self, offset: int, size: int, purpose: str) -> None:
        if not size:
            return
        try:
            calls.allocate(self._fd, offset, size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise SharedMemoryFull(purpose, size, free_bytes(), self.needs().shm_size) from error

    def tell(self, about: bytes) -> None:
        """Replaces the text behind the records, for `pipert-shm ls`."""
        start = self.process.records_bytes()
        calls.write_at(self._fd, about.ljust(os.fstat(self._fd).st_size - start, b"\0"), start)

    def close(self) -> None:
        """Gives up the lock. The mapping stays, for counters and for views that outlive the pipe."""
        if self._fd >= 0:
            binding.unguard(self._fd)
            os.close(self._fd)
            self._fd = -1

    def unmap(self) -> bool:
        """Unmaps everything. Returns False, with nothing done, while a view of a slot lives."""
        if not self.process.close():
            return False
        address, self._address = self._address, 0  # first: after a Ctrl-C in the midst it must not be unmapped again
        if address:
            binding.unmap(address, self.size)
        return True
