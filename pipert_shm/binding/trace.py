"""Rings of events, which a process writes while somebody traces its pipe: see csrc/trace.h."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pipert_shm.binding.native import _hot, ffi, lib

EVENTS: int = lib.PSHM_TRACE_EVENTS  # the most of a ring
NAMES: int = lib.PSHM_TRACE_NAMES
NAME_BYTES: int = lib.PSHM_TRACE_NAME_BYTES
NOBODY: int = lib.PSHM_TRACE_NOBODY  # in place of a routine or a flow
NO_FRAME: int = lib.PSHM_TRACE_NO_FRAME  # in place of an origin

CALL: int = lib.PSHM_TRACE_CALL
MEMBER: int = lib.PSHM_TRACE_MEMBER
DECODE: int = lib.PSHM_TRACE_DECODE
RECEIVE: int = lib.PSHM_TRACE_RECEIVE
SEND: int = lib.PSHM_TRACE_SEND
LOAN: int = lib.PSHM_TRACE_LOAN
WAIT: int = lib.PSHM_TRACE_WAIT
ROOM: int = lib.PSHM_TRACE_ROOM
SLOT: int = lib.PSHM_TRACE_SLOT
REST: int = lib.PSHM_TRACE_REST
DROP: int = lib.PSHM_TRACE_DROP
DISCARD: int = lib.PSHM_TRACE_DISCARD
TAKEN: int = lib.PSHM_TRACE_TAKEN
TOKEN: int = lib.PSHM_TRACE_TOKEN
LOST: int = lib.PSHM_TRACE_LOST
SPAN: int = lib.PSHM_TRACE_SPAN
THREAD: int = lib.PSHM_TRACE_THREAD
COMMAND: int = lib.PSHM_TRACE_COMMAND
EVENT: int = lib.PSHM_TRACE_EVENT
ERROR: int = lib.PSHM_TRACE_ERROR
FLOW: int = lib.PSHM_TRACE_FLOW

# note(kind, detail, routine, other, origin, sequence, began_ns, ended_ns): an event, if this process is traced. Any thread.
note: Any = _hot.trace
NoSpan: Any = _hot.NoSpan  # a context manager that does nothing

_FIELDS = ffi.typeof("pshm_trace_event").fields
LAYOUT = np.dtype([(name, f"u{ffi.sizeof(field.type)}") for name, field in _FIELDS])


class TraceHead(NamedTuple):
    """Whose ring it is.

    Attributes:
        flow: its number; NOBODY: the launcher's.
        serial: of the trace.
        begun_ns: when it was made.
        turns: how many events were ever begun.
        names: that events refer to, by index; empty where none was given.
    """

    flow: int
    pid: int
    serial: int
    begun_ns: int
    turns: int
    names: tuple[str, ...]


def trace_bytes(cells: int) -> int:
    """Bytes of a ring; 0 when no ring can have so many cells."""
    size: int = lib.pshm_trace_bytes(cells)
    return size


def format_trace(address: int, cells: int, flow: int, pid: int, serial: int) -> None:
    """Writes the head of a fresh, zeroed ring."""
    lib.pshm_trace_format(ffi.cast("void *", address), cells, flow, pid, serial)


def begin_trace(address: int, cells: int) -> None:
    """Has the events of this process go to this ring, until `end_trace`."""
    lib.pshm_trace_begin(ffi.cast("void *", address), cells)


def end_trace() -> None:
    """Has them go nowhere. Returns when no thread writes to the ring any more."""
    lib.pshm_trace_end()


def name_event(index: int, text: bytes) -> None:
    """Gives a name of this process's ring its text. Before an event that refers to it."""
    lib.pshm_trace_name(index, text, len(text))


def read_trace(address: int, size: int) -> tuple[TraceHead, np.ndarray]:
    """A ring's head, and its whole events, of `LAYOUT`, the oldest first.

    :raises ValueError: when there is no ring of this version.
    """
    memory = ffi.cast("void *", address)
    cells = lib.pshm_trace_cells(memory, size)
    if not cells:
        raise ValueError("not a ring of events of this version")
    events = np.empty(cells, LAYOUT)
    turns = ffi.new("uint64_t *")
    found = lib.pshm_trace_read(memory, cells, ffi.from_buffer("pshm_trace_event *", events), cells, turns)
    head = ffi.cast("pshm_trace_head *", address)
    raw = bytes(ffi.buffer(head.name))
    names = tuple(raw[at : at + NAME_BYTES].split(b"\0")[0].decode(errors="replace") for at in range(0, len(raw), NAME_BYTES))
    return TraceHead(head.flow, head.pid, head.serial, head.begun_ns, turns[0], names), events[:found]
