"""Large pages for what a test process has loaded, since tests fork it thousands of times.

A fork copies the page tables of its parent's memory: with pages of 4 KB that takes 16 ms for what a worker has loaded when it
has collected the suite, and a pipe forks four times. With pages of 2 MB it takes half of that.
"""

from __future__ import annotations

import ctypes
import mmap

SIZE = 2 << 20
MADV_COLLAPSE = 25  # Linux 6.1

_settled = 0


def collapse() -> None:
    """Moves this process's own memory into large pages, as far as the kernel has some and does that at all."""
    libc = ctypes.CDLL(None)
    global _settled
    with open("/proc/self/maps") as maps:
        areas = [line.split() for line in maps]
    for addresses, access, _, _, inode, *name in areas:
        start, end = (int(address, 16) for address in addresses.split("-"))
        start, end = -(-start // SIZE) * SIZE, end // SIZE * SIZE
        if access == "rw-p" and inode == "0" and name in ([], ["[heap]"]) and start < end:
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_COLLAPSE)
    _settled = _own()


def grown() -> int:
    """Bytes of this process's own memory that have come since."""
    return _own() - _settled


def _own() -> int:
    with open("/proc/self/statm") as statm:
        _, resident, shared, *_ = map(int, statm.read().split())
    return (resident - shared) * mmap.PAGESIZE
