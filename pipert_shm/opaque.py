"""Users' objects in control messages: they travel as bytes, and only the process that needs them unpickles them."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from pipert_shm.errors import PayloadError, PipeStateError, describe

DEEPEST = 100  # levels of dicts, lists, tuples and sets


def pack(what: str, value: object, limit: int) -> bytes:
    """Pickles a value, so that other processes can pass it on unread.

    :param what: what the value is, for the error's text, such as "the parameters of the event 'zoom'".
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


def portable(error: Exception) -> bytes:
    """An exception as bytes. One that does not pickle becomes a PipeStateError with its text."""
    try:
        return pickle.dumps(error, 5)
    except Exception:
        return pickle.dumps(PipeStateError(describe(error)), 5)


def unpack(data: bytes) -> Any:
    """The value again. It may raise anything, since unpickling runs the code of users' classes."""
    return pickle.loads(data)


def _is_deep(value: object) -> bool:
    """Whether containers are nested more than `DEEPEST` deep. Each is looked into once, in the order in which pickle goes."""
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
    """The items of a container, read by its base class, since a subclass may have changed the methods."""
    if isinstance(container, dict):
        return chain.from_iterable(dict.items(container))
    kind: Any = next(kind for kind in (list, tuple, set, frozenset) if isinstance(container, kind))
    items: Iterable[object] = kind.__iter__(container)
    return items


def _culprit(value: object, error: Exception) -> tuple[str, str]:
    """The entry of a dict that does not pickle, or nothing if it is not known, and the reason."""
    for name, part in dict.items(value) if isinstance(value, dict) else ():
        try:
            pickle.dumps(part, 5)
        except Exception as own:
            return f"{name!r}", f"it does not pickle: {describe(own)}"
    return "", f"it does not pickle: {describe(error)}"
