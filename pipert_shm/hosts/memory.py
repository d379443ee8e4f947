"""The memory that a wire's pieces are copied through, kept from one message to the next."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # as in <malloc.h>
LARGEST_KEPT = 32 << 20  # bytes of a block; the C library takes no more
MOST_KEPT = 64 << 20  # bytes that are free at the end of a heap


def keep_freed_memory() -> bool:
    """Has this process keep some memory that it freed. Returns False where the C library has no such setting (musl).

    Each piece of a message is copied to memory of its own, which is freed when it has gone. By itself the C library may give
    that back to the kernel each time: then each page of the next piece costs a fault, 2,300 for a raw 1080p frame at its
    sender, and as much time as all copies together.
    """
    libc = ctypes.CDLL(None)
    try:
        set_to = libc.mallopt
    except AttributeError:
        return False
    return bool(set_to(MMAP_THRESHOLD, LARGEST_KEPT) and set_to(TRIM_THRESHOLD, MOST_KEPT))
