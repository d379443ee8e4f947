"""A frame's capture, decoding and conversion, as spans of a trace: see `Routine.span`."""

from __future__ import annotations

from collections.abc import Callable

from pipert_shm.binding import now_ns

NoteSpan = Callable[[str, int, int], None]
"""Notes what was done, from one moment to another one."""


def note_nothing(name: str, began_ns: int, ended_ns: int) -> None:
    """Notes nothing, where no pipe runs."""


def note_grab(note: NoteSpan, begun_ns: int, came_ns: int | None) -> None:
    """Notes a `Capture.grab` that has just returned: it waited for data, and then decoded it.

    :param begun_ns: when it was called.
    :param came_ns: when the last data of the frame came; None where nobody knows, and all of it is shown as `capture`.
    """
    ended_ns = now_ns()
    decoded_from = ended_ns if came_ns is None else min(max(begun_ns, came_ns), ended_ns)
    if decoded_from > begun_ns:
        note("capture", begun_ns, decoded_from)
    if ended_ns > decoded_from:
        note("decode", decoded_from, ended_ns)
