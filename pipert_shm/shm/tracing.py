"""What this process notes while somebody traces its pipe, and the ring that it goes to.

A ring is a segment of its own, `/dev/shm/pipert-<id>-t<number>`. The process makes it when the trace begins, and removes it
when it is told that the trace has ended. That of a dead process is removed by who traces. While nobody traces, `on` is False,
and nothing is noted.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from pipert_shm import binding
from pipert_shm.binding import trace
from pipert_shm.shm.segments import TRACE, create_segment, segment_name, unlink
from pipert_shm.system import calls

on = False
"""Whether this process is traced. Read by whoever has something to note."""

OTHERS = "(other names)"  # where a ring has no room for more

_lock = threading.Lock()
_ring: tuple[str, int, int] | None = None  # name, address and bytes
_names: dict[str, int] = {}


def ring_part(number: int) -> str:
    """The last part of the name of a ring's segment."""
    return f"{TRACE}{number}"


def begin(pipe_id: str, number: int, cells: int, flow: int, serial: int) -> None:
    """Makes a ring, and has the events of this process go there. An earlier ring is let go of.

    :param number: no other ring of the pipe has it.
    :param flow: the number of this process's flow; `trace.NOBODY`: the launcher.
    :param serial: of the trace.
    :raises SharedMemoryFull, OSError: when the ring can't be made; then this process is not traced.
    :raises ValueError: when no ring can have so many cells.
    """
    global on, _ring
    end()
    size = trace.trace_bytes(cells)
    if not size:
        raise ValueError(f"a ring can't have {cells} events")
    name = segment_name(pipe_id, ring_part(number))
    fd = create_segment(name, size, "the ring of a trace")
    try:
        address = calls.map_memory(fd, size)
    except OSError:
        unlink(name)
        raise
    finally:
        os.close(fd)
    trace.format_trace(address, cells, flow, os.getpid(), serial)
    with _lock:
        _names.clear()
        _ring = name, address, size
        trace.begin_trace(address, cells)
        on = True


def end() -> None:
    """Has this process's events go nowhere, and removes the ring."""
    global on, _ring
    with _lock:
        ring, _ring, on = _ring, None, False
        if ring is not None:
            name, *memory = ring
            trace.end_trace()
            binding.unmap(*memory)
            unlink(name)


def _forget() -> None:
    """In a forked child, which is not traced: see csrc/fork.c."""
    global on, _lock, _ring
    ring, _ring, on, _lock = _ring, None, False, threading.Lock()
    if ring is not None:
        binding.unmap(*ring[1:])


os.register_at_fork(after_in_child=_forget)


def name_index(name: str) -> int:
    """The index by which events of this process refer to a name."""
    index = _names.get(name)
    if index is not None:
        return index
    with _lock:
        index = _names.get(name, len(_names))
        if index >= trace.NAMES - 1:
            name, index = OTHERS, trace.NAMES - 1
        if name not in _names:
            trace.name_event(index, _fitting(name))
            _names[name] = index
    return index


def _fitting(name: str) -> bytes:
    text = name.encode(errors="replace")[: trace.NAME_BYTES - 1]
    return text.decode(errors="ignore").encode()  # no half of a character


def note(
    kind: int,
    routine: int,
    *,
    other: int = 0,
    detail: int = 0,
    origin: int = trace.NO_FRAME,
    sequence: int = 0,
    began_ns: int = 0,
    ended_ns: int = 0,
) -> None:
    """Notes an event, if this process is traced. Any thread."""
    if on:
        with suppress(OverflowError):  # of numbers that no frame has, which somebody wrote into a meta
            trace.note(kind, detail, routine, other, origin, sequence, began_ns, ended_ns)
