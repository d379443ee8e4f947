"""What users send along with a control message: bytes, which only the process that asked for them unpickles."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from pipert_shm.errors import PayloadError, describe

DEEPEST = 100  # levels of dicts, lists, tuples and sets


def pack(what: str, value: object, limit: int) -> bytes:
    """A value as bytes that can be passed on unread.

    :param what: what it is, for the error's text, such as "the parameters of the event 'zoom'".
    :param limit: the most bytes that it may take.
    :raises PayloadError: when it is too large, nested too deep, or does not pickle.
    """
    try:
        data = pickle.dumps(value, 5)
        deep = _is_deep(value)
    except RecursionError:
        deep = True
    except Exception as error:
        raise PayloadError("", *_culprit(value, error), what=what) from error
    if deep:
        raise PayloadError("", "", f"nested too deep: more than {DEEPEST} levels", limit=DEEPEST, what=what)
    if len(data) > limit:
        reason = f"{len(data):,} bytes, and {limit:,} is the limit; send large data over a wire"
        raise PayloadError("", "", reason, size=len(data), limit=limit, what=what)
    return data


def unpack(data: bytes) -> Any:
    """The value again. It may raise anything: what is unpickled runs the code of its own classes."""
    return pickle.loads(data)


def _is_deep(value: object) -> bool:
    """Whether containers stand more than `DEEPEST` deep in it. Each is looked into once, in the order that pickle takes."""
    seen: set[int] = set()
    levels: list[Iterator[object]] = [iter((value,))]
    while levels:
        for item in levels[-1]:
            if isinstance(item, dict | list | tuple | set | frozenset) and id(item) not in seen:
                seen.add(id(item))
                levels.append(iter(_items(item)))
                break
        else:
            levels.pop()
        if len(levels) > DEEPEST + 1:
            return True
    return False


def _items(container: Any) -> Iterable[object]:
    """What is in it, read past what a subclass may have made of its methods."""
    if isinstance(container, dict):
        return chain.from_iterable(dict.items(container))
    kind: Any = next(kind for kind in (list, tuple, set, frozenset) if isinstance(container, kind))
    items: Iterable[object] = kind.__iter__(container)
    return items


def _culprit(value: object, error: Exception) -> tuple[str, str]:
    """Which entry of a dict does not pickle, where that can be told, and why."""
    for name, part in dict.items(value) if isinstance(value, dict) else ():
        try:
            pickle.dumps(part, 5)
        except Exception as own:
            return f"{name!r}", f"it does not pickle: {describe(own)}"
    return "", f"it does not pickle: {describe(error)}"
