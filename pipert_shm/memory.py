"""Shared-memory segments, and the rings in them.

A pipe has one control segment, `/dev/shm/pipert-<id>-c`, and one segment per ring, `/dev/shm/pipert-<id>-<serial>`. The id
is random and serials only grow, so no name is ever used twice. Every process of a pipe keeps a shared lock (an open file
description lock) on the control segment; the kernel lets go of it when the process dies, however it dies. A pipe whose
control segment can be locked exclusively has no process left, and `sweep_stale()` removes it.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import posix_ipc

from pipert_shm import native, system
from pipert_shm.descriptors import Reserve, is_shortage, remedy
from pipert_shm.errors import NoFreeSlot, SharedMemoryFull

SHM = Path("/dev/shm")
PREFIX = "pipert-"
CONTROL = "c"
SEGMENT = re.compile(PREFIX + r"([0-9a-f]{12})-(c|[0-9]+)")
MODE = 0o600
PAGE = mmap.PAGESIZE
MESSAGE_SLOT_BYTES = 4096
FEWEST_SLOTS = 3
GROWTH = 1.5
IN_FLOW_SHARE = 4  # a ring of frames that stay in their flow takes at most one in so many of the bytes that are left
RETRY_NS = 100_000_000  # between tries to make or open a ring that there was no file descriptor for

_FLOCK = struct.Struct("hhqqi4x")


def new_pipe_id() -> str:
    return os.urandom(6).hex()


def _name(pipe_id: str, part: str | int) -> str:
    return f"/{PREFIX}{pipe_id}-{part}"


def open_file(name: str) -> int:
    """Opens a segment to look at it; nothing but a regular file is one.

    :raises OSError: FileNotFoundError when it is gone, another one when it is not ours to read.
    """
    # Not to be kept waiting by a pipe, nor sent elsewhere by a link, that somebody put there.
    fd = system.open_file(SHM / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a segment", name)
    return fd


def free_bytes() -> int:
    """What /dev/shm has free now."""
    status = system.space(SHM)
    free: int = status.f_bavail * status.f_frsize
    return free


def create_segment(name: str, size: int, purpose: str) -> int:
    """Makes a segment, mode 0600, with all of its memory, and returns its file descriptor.

    :raises SharedMemoryFull: when /dev/shm has less than `size` bytes left; nothing is left behind then.
    :raises OSError: when /dev/shm can't be written to.
    """
    try:
        segment = system.open_shared(name, posix_ipc.O_CREX, mode=MODE)
    except PermissionError as error:
        raise OSError(errno.EACCES, f"can't create {name} in {SHM}, which is not ours to write to: {error}") from error
    except OSError as error:
        raise OSError(error.errno or errno.EMFILE, f"can't create {name} in {SHM}: {error}") from error
    fd: int = segment.fd
    try:
        system.truncate(fd, size)
        # Memory that is promised now can't turn into a SIGBUS later.
        system.allocate(fd, 0, size)
    except OSError as error:
        free = free_bytes() + os.fstat(fd).st_blocks * 512
        segment.close_fd()
        _unlink(name)
        if error.errno != errno.ENOSPC:
            raise
        raise SharedMemoryFull(purpose, size, free) from error
    return fd


def _unlink(name: str) -> None:
    try:
        system.unlink_shared(name)
    except posix_ipc.ExistentialError:
        return  # somebody else was faster: it is gone, which is all that was wanted


def unlink_pipe(pipe_id: str) -> None:
    """Removes every segment of a pipe from /dev/shm, the control segment last. Mapped memory stays valid."""
    control = _name(pipe_id, CONTROL)
    for name in system.listing(SHM):
        if name.startswith(f"{PREFIX}{pipe_id}-") and f"/{name}" != control:
            _unlink(f"/{name}")
    _unlink(control)


def has_segments(pipe_id: str) -> bool:
    """Whether a pipe has any still, in /dev/shm. Needs no file descriptor."""
    return system.exists(SHM / _name(pipe_id, CONTROL)[1:])


def _lock(fd: int, kind: int) -> bool:
    try:
        system.lock(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def pipe_ids() -> list[str]:
    """The pipes that have segments in /dev/shm, alive or not."""
    return sorted({match[1] for match in map(SEGMENT.fullmatch, system.listing(SHM)) if match})


def is_stale(pipe_id: str) -> bool:
    """Whether no process of this pipe is left. A look that disturbs nobody; what we may not open counts as alive."""
    try:
        fd = open_file(_name(pipe_id, CONTROL)[1:])
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind: int = _FLOCK.unpack(system.lock(fd, fcntl.F_OFD_GETLK, query))[0]
        return kind == fcntl.F_UNLCK
    finally:
        os.close(fd)


def _remove_if_stale(pipe_id: str) -> bool:
    """Whether it was, and could be removed: what is not ours to write to stays."""
    if not is_stale(pipe_id):
        return False
    segment = None
    try:
        with suppress(posix_ipc.ExistentialError):
            segment = system.open_shared(_name(pipe_id, CONTROL))
        # With the lock in hand: whoever is just making this pipe either has it, or finds that the segment is gone.
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
    """Removes what pipes without a living process left in /dev/shm; their ids. Pipes that run, and other users', stay."""
    return [pipe_id for pipe_id in pipe_ids() if _remove_if_stale(pipe_id)]


def _map_control(pipe_id: str, size: int) -> int:
    """Maps it by a file description of its own. A mapping keeps what it was made by open, in forked children too: with the
    lock's, the lock would be theirs as well.
    """
    segment = system.open_shared(_name(pipe_id, CONTROL))
    try:
        return system.map_memory(segment.fd, size)
    finally:
        segment.close_fd()


class ControlSegment:
    """A pipe's control segment, mapped here and locked as in use by this process.

    Forked children inherit the mapping but not the lock: each process of a pipe opens its own.

    Attributes:
        reserve: file descriptors to make and open rings with where no other is free.
    """

    def __init__(self, pipe_id: str, fd: int, address: int, size: int) -> None:
        self.pipe_id = pipe_id
        self.size = size
        self._fd = fd
        self._address = address
        self.reserve = Reserve(0)
        self.process = native.Process(address, size)

    @classmethod
    def create(cls, room: native.ControlSize, budget: int, about: bytes = b"") -> ControlSegment:
        """Makes the segment of a new pipe.

        :param budget: bytes that rings may take.
        :param about: a text that follows the records, for `pipert-shm ls`.
        :raises ValueError: when there is no room for so much in a pipe.
        :raises SharedMemoryFull: when /dev/shm is too small for it.
        :raises OSError: when /dev/shm can't be written to.
        """
        records = room.bytes_needed()
        if not records:
            raise ValueError("the pipe has too many routines, wires or messages in its queues")
        size = records + len(about)
        while True:
            pipe_id = new_pipe_id()
            fd = create_segment(_name(pipe_id, CONTROL), size, "the pipe's control segment")
            try:
                # Somebody who looked for stale pipes between creation and lock may have it locked, or removed: then a new one.
                if not _lock(fd, fcntl.F_RDLCK) or not os.fstat(fd).st_nlink:
                    os.close(fd)
                    _unlink(_name(pipe_id, CONTROL))
                    continue
                native.guard(fd)
                system.write_at(fd, about, records)
                address = _map_control(pipe_id, size)
                room.format(address, budget)
                return cls(pipe_id, fd, address, size)
            except BaseException:
                native.unguard(fd)
                os.close(fd)
                _unlink(_name(pipe_id, CONTROL))
                raise

    @classmethod
    def open(cls, pipe_id: str) -> ControlSegment:
        """:raises posix_ipc.ExistentialError: when there is no such pipe."""
        segment = system.open_shared(_name(pipe_id, CONTROL))
        _lock(segment.fd, fcntl.F_RDLCK)
        native.guard(segment.fd)
        return cls(pipe_id, segment.fd, _map_control(pipe_id, segment.size), segment.size)

    def make_room(self, about: bytes) -> None:
        """Makes sure that `tell` of so much will do.

        :raises SharedMemoryFull: when there is no memory for it.
        """
        size = self.process.records_bytes() + len(about)
        try:
            system.allocate(self._fd, 0, size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise SharedMemoryFull("the pipe's control segment, for more names,", size, free_bytes()) from error

    def tell(self, about: bytes) -> None:
        """Writes another text behind the records, for `pipert-shm ls`; not a shorter one."""
        system.write_at(self._fd, about, self.process.records_bytes())

    def close(self) -> None:
        """Lets go of the lock. The mapping stays, for counters and for views that outlive the pipe."""
        if self._fd >= 0:
            native.unguard(self._fd)
            os.close(self._fd)
            self._fd = -1

    def unmap(self) -> bool:
        """Unmaps everything. False, and nothing done, while a view of a slot lives."""
        if not self.process.close():
            return False
        if self._address:
            native.unmap(self._address, self.size)
            self._address = 0
        return True


def _page_up(size: int) -> int:
    return -(-size // PAGE) * PAGE


def create_ring(segment: ControlSegment, owner: int, slots: int, slot_bytes: int, purpose: str, *, mapped: bool = True) -> int:
    """Makes a ring for routine number `owner`; its number.

    It gets `slots` slots where the pipe's budget and /dev/shm allow, else as many as there is room for.

    :param mapped: map it here, writable. A mapping keeps the memory, also when the ring is gone: only who uses it should.
    :raises SharedMemoryFull: when there is no room for the fewest that work.
    :raises OSError: when it can't be made, for want of a file descriptor for example; nothing is left behind then.
    """
    process = segment.process
    slot_bytes = _page_up(slot_bytes)
    left, unused = process.memory_left(), free_bytes()
    free, of_budget = min(left, unused), left < unused
    head = native.ring_bytes(slots, slot_bytes) - slots * slot_bytes
    fitting = min(slots, max(0, free - head) // slot_bytes)
    fewest = min(slots, FEWEST_SLOTS)
    if fitting < fewest:
        needed = head + fewest * slot_bytes
        raise SharedMemoryFull(f"{purpose} ({fewest} slots of {slot_bytes:,} bytes)", needed, free, of_budget=of_budget)
    size = native.ring_bytes(fitting, slot_bytes)
    claimed = process.claim_ring(owner)
    if claimed is None:
        raise SharedMemoryFull(f"{purpose} (the pipe has {native.RINGS} rings already)", size, 0)
    ring, serial = claimed

    def make() -> None:
        fd = create_segment(_name(segment.pipe_id, serial), size, purpose)
        try:
            address = system.map_memory(fd, PAGE)
            native.format_ring(address, ring, owner, fitting, slot_bytes)
            native.unmap(address, PAGE)
            if mapped:
                process.map_ring(ring, serial, fd, size, writable=True)
        except BaseException:
            _unlink(_name(segment.pipe_id, serial))
            raise
        finally:
            os.close(fd)

    try:
        if not process.spend(ring, size):
            raise SharedMemoryFull(purpose, size, process.memory_left(), of_budget=True)
        segment.reserve.help(make)
    except BaseException:
        process.release_ring(ring)
        raise
    process.publish_ring(ring)
    return ring


def open_ring(segment: ControlSegment, ring: int, *, writable: bool = False) -> None:
    """Maps a published ring here.

    :raises LookupError: when there is no such ring.
    :raises OSError: when it can't be mapped, for want of a file descriptor for example; it can be tried again.
    """
    serial = segment.process.serial(ring)
    if not serial:
        raise LookupError(f"a message names ring {ring}, which does not exist")

    def map_it() -> None:
        fd = system.open_file(SHM / _name(segment.pipe_id, serial)[1:], os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            segment.process.map_ring(ring, serial, fd, os.fstat(fd).st_size, writable=writable)
        finally:
            os.close(fd)

    try:
        segment.reserve.help(map_it)
    except FileNotFoundError:
        raise LookupError(f"ring {ring} (serial {serial}) is gone, with its pipe") from None


def open_every_ring(segment: ControlSegment) -> list[int]:
    """Maps every ring of the pipe here, for recovery; their numbers.

    :raises OSError: see `open_ring`.
    """
    rings = []
    for ring in range(native.RINGS):
        if not segment.process.serial(ring):
            continue
        if segment.process.ring_owner(ring) is None:
            try:
                open_ring(segment, ring)
            except LookupError:
                continue  # it went meanwhile, which it does only when nobody holds a slot of it
        rings.append(ring)
    return rings


def remove_unpublished(segment: ControlSegment, owner: int) -> None:
    """Gives back the places of rings that a routine which died was just making, or just removing. The launcher only."""
    process = segment.process
    while serial := process.unclaim_ring(owner):
        _unlink(_name(segment.pipe_id, serial))
    for ring in range(native.RINGS):
        serial = process.serial(ring)
        if serial and serial & 0xFFFF == owner and not system.exists(SHM / _name(segment.pipe_id, serial)[1:]):
            process.release_ring(ring)


def remove_if_free(segment: ControlSegment, ring: int) -> bool:
    """Unlinks a ring that will not be allocated from any more, if every slot of it is free; whether it was.

    Its owner only, or the launcher when that is dead.
    """
    process = segment.process
    slots, _ = process.ring_geometry(ring)
    if not slots or process.used_slots(ring):
        return False
    serial = process.serial(ring)
    _unlink(_name(segment.pipe_id, serial))
    process.release_ring(ring)
    process.prune()
    return True


class Stopping(BaseException):
    """Unwinds a routine that waits when it is wanted elsewhere, or is to stop; never reaches user code's caller.

    No `Exception`: user code that catches those around `loan()` is not to take it for a failure of the loan.
    """


class Slots:
    """The payload slots of one routine: where it loans from and packs into. The routine's thread only.

    A payload larger than the slots makes the routine move to a ring of larger slots, and more wires to one of more slots; the
    old ring goes as soon as the last of its slots is free.

    :param slots: how many slots the ring gets where memory allows.
    :param purpose: what the ring is, for errors.

    Attributes:
        ring: its number, -1 while there is none.
        needed_elsewhere: slots that receivers in other processes may hold.
        settled: whether it is as it should be, for payloads of the size that was fitted last: no older one is left.
    """

    def __init__(self, segment: ControlSegment, port: native.Port, number: int, name: str, slots: int, purpose: str) -> None:
        self._segment = segment
        self._port = port
        self._number = number
        self._name = name
        self._purpose = purpose
        self._wanted = slots
        self.settled = False
        self._tried = 0  # as many were wanted when the ring was made
        self._retry_ns = 0  # when more slots may be asked for again
        self.ring = -1
        self._slot_bytes = 0
        self._old: list[int] = []
        self.edge_names: dict[int, str] = {}
        self.needed_elsewhere = 0

    def want(self, slots: int) -> None:
        """Says how many slots the ring should have from now on."""
        self._wanted = slots
        self.settled = False

    def adopt(self, ring: int, slot_bytes: int) -> None:
        """Uses a ring that was made for this routine at build time."""
        if self._segment.process.ring_owner(ring) is None:
            open_ring(self._segment, ring, writable=True)
        self.ring, self._slot_bytes, self._tried = ring, _page_up(slot_bytes), self._wanted

    def fit(self, size: int) -> None:
        """Moves to another ring if the present one is too small.

        :raises SharedMemoryFull: when there is no memory for slots of that size.
        :raises OSError: when there is no file descriptor for it; it can be tried again.
        """
        if self._old:
            self._drop_old()
        if size > self._slot_bytes:
            self._move(size if not self._slot_bytes else max(size, int(self._slot_bytes * GROWTH)))
        elif self._wanted > self._tried and native.now_ns() >= self._retry_ns:
            self._add_slots()
        self.settled = not self._old and self._wanted <= self._tried

    def _add_slots(self) -> None:
        """Moves to a ring of more slots, where that can be had: else the present one will have to do."""
        before, self._tried = self._tried, self._wanted
        if native.ring_bytes(self._wanted, self._slot_bytes) > min(self._segment.process.memory_left(), free_bytes()):
            return
        with suppress(SharedMemoryFull):  # it was taken just now
            try:
                self._move(self._slot_bytes)
            except OSError as error:
                if not is_shortage(error):
                    raise
                self._tried, self._retry_ns = before, native.now_ns() + RETRY_NS

    def _move(self, slot_bytes: int) -> None:
        try:
            ring = create_ring(self._segment, self._number, self._wanted, slot_bytes, self._purpose)
        except OSError as error:
            if not is_shortage(error):
                raise
            why = f"can't make {self._purpose}, of slots of {_page_up(slot_bytes):,} bytes: {os.strerror(error.errno or 0)}"
            raise OSError(error.errno, f"{why}; {remedy(error)}") from error
        if self.ring >= 0:
            self._old.append(self.ring)
        self.ring, self._slot_bytes, self._tried = ring, _page_up(slot_bytes), self._wanted
        self._drop_old()

    def _drop_old(self) -> None:
        self._old = [ring for ring in self._old if not remove_if_free(self._segment, ring)]

    def reserve(self, size: int, outs: int) -> tuple[int, int]:
        """A free slot of at least `size` bytes: its descriptor and address, under one lease of the caller's.

        Short of slots, by the policies of `outs`: the oldest unread message of a drop_oldest wire gives way, a block wire
        waits.

        :raises NoFreeSlot: when all slots are held and the policies don't wait, or waited long enough.
        :raises SharedMemoryFull: when there is no memory for slots of that size.
        :raises Stopping: when the routine is stopped meanwhile.
        """
        self.fit(size)
        status, descriptor, address = self._port.reserve(outs, self.ring)
        if status == native.OK:
            return descriptor, address
        if status == native.NOTICE:
            raise Stopping("there is no free slot, and the routine is not to wait for one")
        holders = self._segment.process.holders(self.ring) or []
        raise NoFreeSlot(self._name, len(holders), self.count_holders(holders))

    def reserve_now(self, size: int) -> tuple[int, int] | None:
        """As `reserve`, for what stays in the flow: None where there is no free slot. Waits for nothing, and drops nothing.

        It makes a ring only where that leaves most of the pipe's memory to those whose frames leave their flows.
        """
        if size > self._slot_bytes:
            now = native.now_ns()
            if now < self._retry_ns or not self._is_affordable(size):
                self._retry_ns = max(self._retry_ns, now + RETRY_NS)
                return None
            try:
                self.fit(size)
            except (SharedMemoryFull, OSError) as error:
                if not (isinstance(error, SharedMemoryFull) or is_shortage(error)):
                    raise
                self._retry_ns = now + RETRY_NS
                return None
        elif not self.settled:
            self.fit(size)
        if self.leaves_too_few():
            return None
        status, descriptor, address = self._port.reserve(0, self.ring)
        return (descriptor, address) if status == native.OK else None

    def _is_affordable(self, size: int) -> bool:
        """Whether a ring of such slots would take no more than a part of what memory is left."""
        wanted = native.ring_bytes(self._wanted, _page_up(int(size * GROWTH)))
        return wanted <= min(self._segment.process.memory_left(), free_bytes()) // IN_FLOW_SHARE

    def count_holders(self, holders: Iterable[int]) -> dict[str, int]:
        """How many slots each holder keeps, by name."""
        counts: Counter[str] = Counter()
        for bits in holders:
            for bit in range(32):
                if bits >> bit & 1:
                    name = f"{self._name} (being written, or a loan)" if bit == 0 else self.edge_names.get(bit, f"bit {bit}")
                    counts[name] += 1
        return dict(counts)

    def loan(self, shape: tuple[int, ...], dtype: np.dtype[np.generic], outs: int) -> np.ndarray:
        """A writable array in a slot; released when it dies, or sent where it lies."""
        size = math.prod(shape) * dtype.itemsize
        _, address = self.reserve(max(size, 1), outs)
        return np.ndarray(shape, dtype, native.loan(address, max(size, 1)))

    def loan_now(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.ndarray:
        """As `loan`, for what stays in the flow: a plain array where there is no free slot."""
        size = max(math.prod(shape) * dtype.itemsize, 1)
        reserved = self.reserve_now(size)
        return np.empty(shape, dtype) if reserved is None else np.ndarray(shape, dtype, native.loan(reserved[1], size))

    def leaves_too_few(self) -> bool:
        """Whether views in this process stand on so many slots that too few are left for receivers elsewhere.

        Those here may have a third of a ring that got fewer slots than it should have.
        """
        if not self.needed_elsewhere or self.ring < 0:
            return False
        slots, _ = self._segment.process.ring_geometry(self.ring)
        return self._segment.process.leased_slots(self.ring) > max(slots - self.needed_elsewhere, slots // 3)
