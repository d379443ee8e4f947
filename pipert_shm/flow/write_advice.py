"""Advice for errors that come from writing to a received frame, which is read-only."""

from __future__ import annotations

import itertools
import linecache
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import CodeType, FrameType, MemberDescriptorType, ModuleType, TracebackType
from typing import Any

import numpy as np

from pipert_shm import binding
from pipert_shm.errors import text_of

ADVICE = (
    " (received frames are read-only, since others read the same memory: write to a `writable(frame)` instead, as in "
    "`from pipert_shm import writable; drawing = writable(frame)`)"
)
DEEPEST = 4  # levels of containers and attributes that are looked into
MOST_LOOKS = 500  # at values, for one error
MOST_CAUSES = 5

# NumPy: "assignment destination is read-only", "cannot set WRITEABLE flag"; OpenCV: "provided NumPy array marked as readonly",
# before 4.5 "Layout of the output array img is incompatible"; buffers: "cannot modify read-only memory", "underlying buffer is
# not writable", "must be read-write bytes-like object"; PyTorch: "The given NumPy array is not writable".
_REFUSAL = re.compile(r"read-only|readonly|WRITEABLE flag|not writ(e?)able|read-write|Layout of the output array")
_WORD = re.compile(r"[^\W\d]\w*")


def advice(error: BaseException, payloads: Iterable[object]) -> str:
    """The advice, to be added to the text of an error, if that is a refused write to a received frame; else an empty text.

    :param payloads: what the call that failed was given.
    """
    try:
        refused = any(
            _is_ours(array, payloads) for cause in _causes(error) if _refuses(cause) for array in _suspects(cause.__traceback__)
        )
    except Exception:  # users' types may raise anything; the error itself is logged all the same
        return ""
    return ADVICE if refused else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(MOST_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__


def _refuses(error: BaseException) -> bool:
    of_opencv = type(error).__module__ == "cv2"
    return (of_opencv or isinstance(error, ValueError | TypeError | BufferError | Warning)) and bool(
        _REFUSAL.search(text_of(error))
    )


def _suspects(trace: TracebackType | None) -> Iterator[np.ndarray]:
    """The read-only arrays within reach of the expression that raised."""
    if trace is None:
        return
    while trace.tb_next is not None:
        trace = trace.tb_next
    words = _words_at(trace)
    for array in _arrays_in(list(_values(trace.tb_frame, words)), words):
        if not array.flags.writeable:
            yield array


def _values(frame: FrameType, words: frozenset[str]) -> Iterator[object]:
    for name, value in frame.f_locals.items():
        if not words or name in words:
            yield value
    for name in words.difference(frame.f_locals):
        if name in frame.f_globals:
            yield frame.f_globals[name]


def _words_at(trace: TracebackType) -> frozenset[str]:
    """The words of the expression that raised; none without the source."""
    code = trace.tb_frame.f_code
    place = _place_in(code, trace.tb_lasti)
    if place is None:
        return frozenset()
    first, last, begin, end = place
    lines = [linecache.getline(code.co_filename, line, trace.tb_frame.f_globals).encode() for line in range(first, last + 1)]
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][begin:]
    return frozenset(_WORD.findall(b"".join(lines).decode(errors="replace")))


def _place_in(code: CodeType, instruction: int) -> tuple[int, int, int, int] | None:
    first, last, begin, end = next(itertools.islice(code.co_positions(), instruction // 2, None), (None,) * 4)
    return None if first is None or last is None or begin is None or end is None else (first, last, begin, end)


def _arrays_in(values: list[object], words: frozenset[str]) -> Iterator[np.ndarray]:
    """The arrays among these values and in them, level by level.

    :param words: names. A container or an object that has keys or attributes of these names is looked into there only.
    """
    looks = 0
    for _ in range(DEEPEST):
        inner: list[object] = []
        for value in values:
            looks += 1
            if looks > MOST_LOOKS:
                return
            if isinstance(value, memoryview):
                value = value.obj
            if isinstance(value, np.ndarray):
                yield value
            else:
                inner += _parts_of(value, words)
        values = inner


def _parts_of(value: object, words: frozenset[str]) -> Iterable[object]:
    if isinstance(value, list | tuple | set | frozenset):
        return itertools.islice(value, MOST_LOOKS)
    if isinstance(value, type | ModuleType):
        return ()
    named: Mapping[Any, Any] = value if type(value) is dict else _attributes_of(value)
    chosen = [part for name, part in named.items() if isinstance(name, str) and name in words]
    return chosen or itertools.islice(named.values(), MOST_LOOKS)


def _attributes_of(value: object) -> dict[str, object]:
    """An object's attributes as they are stored. No property or `__getattr__` is called: that is the user's code."""
    attributes: dict[str, object] = {}
    for kind in type(value).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, MemberDescriptorType):
                with suppress(AttributeError):  # it is not set
                    attributes[name] = member.__get__(value)
    return attributes | getattr(value, "__dict__", {})


def _is_ours(array: np.ndarray, payloads: Iterable[object]) -> bool:
    """Whether an array lies in a slot, or in the memory of the payloads."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if binding.is_slot(base):
        return True
    return any(np.may_share_memory(array, other) for other in _arrays_in(list(payloads), frozenset()))
