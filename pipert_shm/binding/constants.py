"""The numbers that C and Python agree on, asked of the compiled part, and the clock that both use.

The headers in csrc/ say what each of them means.
"""

from __future__ import annotations

import time

from pipert_shm.binding.native import ffi, lib

OK: int = lib.PSHM_OK
NOTICE: int = lib.PSHM_NOTICE
TIMED_OUT: int = lib.PSHM_TIMED_OUT
CLOSED: int = lib.PSHM_CLOSED
UNMAPPED: int = lib.PSHM_UNMAPPED
FULL: int = lib.PSHM_FULL
PROTOCOL: int = lib.PSHM_PROTOCOL
DRAINED: int = lib.PSHM_DRAINED
LOST: int = lib.PSHM_LOST
ARRAY: int = lib.PSHM_ARRAY
LAYOUTS: int = lib.PSHM_LAYOUTS
HEAD_SHIFT: int = lib.PSHM_HEAD_SHIFT

RINGS: int = lib.PSHM_RINGS
ROUTINES: int = lib.PSHM_ROUTINES  # of a pipe, taps included
OUTS: int = lib.PSHM_OUTS
INS: int = lib.PSHM_INS
BUCKETS: int = lib.PSHM_BUCKETS
COUNTERS: int = lib.PSHM_COUNTERS
MESSAGE_BYTES: int = lib.PSHM_MESSAGE_BYTES
GUARDED: int = lib.PSHM_GUARDED
OFFSET_BITS: int = lib.PSHM_OFFSET_BITS
OFFSET_MASK: int = lib.PSHM_OFFSET_MASK
MOST_SLOTS: int = lib.PSHM_SLOTS  # of a ring
LAST_BIT: int = lib.PSHM_LAST_BIT  # holder bits of edges are numbered 1 to this
HOLDERS: int = lib.PSHM_HOLDERS  # bits of a slot that say who holds it
NO_SLOT: int = lib.PSHM_NO_SLOT
DESCRIPTOR_BYTES: int = ffi.sizeof("uint64_t")  # of each of its payload slots
MESSAGE_HEAD_BYTES: int = ffi.sizeof("pshm_message")  # what a message takes of its slot before its payload slots and body

POLICIES: dict[str, int] = {
    "drop_oldest": lib.PSHM_POLICY_DROP_OLDEST,
    "drop_newest": lib.PSHM_POLICY_DROP_NEWEST,
    "block": lib.PSHM_POLICY_BLOCK,
}
REASONS: dict[str, int] = {
    "oldest": lib.PSHM_REASON_OLDEST,
    "newest": lib.PSHM_REASON_NEWEST,
    "timeout": lib.PSHM_REASON_TIMEOUT,
    "no_slot": lib.PSHM_REASON_NO_SLOT,
    "ended": lib.PSHM_REASON_ENDED,
    "stopped": lib.PSHM_REASON_STOPPED,
    "error": lib.PSHM_REASON_ERROR,
    "crash": lib.PSHM_REASON_CRASH,
    "expired": lib.PSHM_REASON_EXPIRED,
    "join": lib.PSHM_REASON_JOIN,
}

FOREVER: int = lib.PSHM_FOREVER

FREE: int = lib.PSHM_FREE
LIVE: int = lib.PSHM_LIVE
SENDER_DEAD: int = lib.PSHM_SENDER_DEAD
SWEPT: int = lib.PSHM_SWEPT
SWEEPING: int = lib.PSHM_SWEEPING
TAKING_BACK: int = lib.PSHM_TAKING_BACK
GIVEN_UP: int = lib.PSHM_GIVEN_UP

BUCKET_NS: list[int] = [lib.pshm_histogram_value(bucket) for bucket in range(BUCKETS)]


# CLOCK_MONOTONIC, ns: the clock of all time stamps, the same in every process of the machine. It is not read in C, since a call
# into C lets go of the GIL, which a busy thread may then keep for a while.
now_ns = time.monotonic_ns
