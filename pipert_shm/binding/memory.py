"""Memory by its address: mapped segments, buffers on slots, and descriptors that forked children don't get."""

from __future__ import annotations

import errno
import math
import mmap
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from pipert_shm.binding import hot
from pipert_shm.binding.constants import GUARDED
from pipert_shm.binding.native import ffi, lib

Memory: TypeAlias = Any  # a C pointer


def guard(fd: int) -> None:
    """Closes `fd` in every child that is forked from now on.

    :raises OSError: when too many are kept out already.
    """
    if not lib.pshm_guard(fd):
        raise OSError(
            errno.EMFILE, f"can't keep file descriptor {fd} out of forked children: {GUARDED:,} others are kept out already"
        )


def unguard(fd: int) -> None:
    """Takes `guard` back. To be called before `fd` is closed, since its number is used again."""
    lib.pshm_unguard(fd)


def map_shared(fd: int, size: int, *, writable: bool = True) -> int:
    """Maps a segment and returns its address.

    :raises OSError: when the kernel refuses.
    """
    access = lib.PROT_READ | lib.PROT_WRITE if writable else lib.PROT_READ
    address = lib.mmap(ffi.NULL, size, access, lib.MAP_SHARED, fd, 0)
    if int(ffi.cast("intptr_t", address)) == -1:
        raise OSError(ffi.errno, os.strerror(ffi.errno))
    return int(ffi.cast("uintptr_t", address))


def unmap(address: int, size: int) -> None:
    """Unmaps what `map_shared` mapped."""
    lib.munmap(ffi.cast("void *", address), size)


_NO_RESERVE = 0x4000  # MAP_NORESERVE: Python has no name for it before 3.13


class Copy:
    """A private copy of the beginning of a segment, aligned to a page. The segment itself is neither mapped nor changed."""

    __slots__ = ("_address", "memory")

    def __init__(self, data: bytes, size: int = 0) -> None:
        """:param size: the fewest bytes that it has. Those past `data` are 0."""
        self.memory = mmap.mmap(-1, max(size, len(data), 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
        self.memory[: len(data)] = data
        self._address = ffi.from_buffer(self.memory)

    @classmethod
    def of_file(cls, fd: int, size: int) -> Copy:
        """A copy of a file. Of what has no memory in it, nothing is read."""
        copy, at = cls(b"", size), 0
        while at < size:
            try:
                begin = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # which says that only a hole is left
                    raise
                break
            at = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
            data = os.pread(fd, max(0, at - begin), begin)
            copy.memory[begin : begin + len(data)] = data
        return copy

    @property
    def address(self) -> int:
        return int(ffi.cast("uintptr_t", self._address))


def loan(address: int, size: int) -> memoryview:
    """A writable buffer on a slot of one's own ring. It takes over one lease, which ends with the last view, on any thread."""
    return memoryview(hot.lease(address, size, True))


def loan_array(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """The same as an array, which begins at that address."""
    if len(shape) <= hot.AXES:
        array: np.ndarray = hot.array(address, shape, dtype)
        return array
    return np.ndarray(shape, dtype, loan(address, max(math.prod(shape) * dtype.itemsize, 1)))


def is_slot(base: object) -> bool:
    """Whether an array with this base lies in a slot, or in a part of one."""
    return isinstance(base.obj if isinstance(base, memoryview) else base, hot.Lease)


# memory_of(array): the memory of a C-contiguous array. It keeps the array alive.
memory_of: Callable[[np.ndarray], Memory] = ffi.from_buffer


def address_of(memory: Memory) -> int:
    """The address of what a C pointer points to."""
    return int(ffi.cast("uintptr_t", memory))


def memory_at(address: int) -> Memory:
    """The memory at an address. It keeps nothing alive."""
    return ffi.cast("void *", address)


def writable_memory(address: int, size: int) -> memoryview:
    """A writable buffer that owns nothing. It is valid while the caller holds the slot."""
    return memoryview(ffi.buffer(ffi.cast("void *", address), size))
