"""Event parameters as bytes: what is too large, too deep or does not pickle is told by name, and nothing else happens."""

from __future__ import annotations

import pickle
import sys
import threading
from collections import OrderedDict
from typing import Any, NamedTuple, NoReturn

import pytest

from pipert_shm import PayloadError
from pipert_shm.opaque import DEEPEST, pack, unpack

LIMIT = 1000


class Point(NamedTuple):
    x: Any
    y: Any


class Chained:
    """Nested as objects are, which is not counted, but which pickle recurses into."""

    def __init__(self, inner: object) -> None:
        self.inner = inner


class Refuses:
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not today")


def nested(levels: int, kind: Any = list) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = {"in": value} if kind is dict else kind([value])
    return value


@pytest.mark.parametrize(
    "value", [{}, {"factor": 2}, {"a": [1, (2, {3})]}, {"p": Point(1, [2])}, {"o": OrderedDict(a=1)}, {"text": "\ud800"}]
)
def test_what_is_packed_is_unpacked(value: dict[str, Any]) -> None:
    assert unpack(pack("it", value, LIMIT)) == value


@pytest.mark.parametrize("kind", [list, dict, tuple, frozenset])
def test_as_deep_as_may_be_and_a_level_more(kind: Any) -> None:
    assert unpack(pack("it", nested(DEEPEST, kind), LIMIT)) == nested(DEEPEST, kind)
    with pytest.raises(PayloadError, match=r"^it can't be sent.*more than 100 levels") as caught:
        pack("it", nested(DEEPEST + 1, kind), LIMIT)
    assert (caught.value.limit, caught.value.size) == (DEEPEST, None)


def test_a_level_more_is_found_wherever_it_is() -> None:
    deep = nested(DEEPEST)
    for value in ([deep], [1, 2, deep], [[], [[]], deep], {"a": {}, "b": deep}, {"a": Point(1, deep)}):
        with pytest.raises(PayloadError, match="levels"):
            pack("it", value, 10 * LIMIT)


@pytest.mark.parametrize("levels", [5_000, 100_000])
def test_deeper_than_pickle_can_go(levels: int) -> None:
    with pytest.raises(PayloadError, match="nested too deep"):
        pack("it", nested(levels), 1 << 30)
    chain: object = None
    for _ in range(100_000):  # Python 3.14 pickles 5,000
        chain = Chained(chain)
    with pytest.raises(PayloadError, match="nested too deep"):
        pack("it", {"chain": chain}, 1 << 30)
    while isinstance(chain, Chained):  # taken apart: the end of so long a chain of objects recurses, too
        chain = chain.inner


def test_cycles_and_what_is_there_twice() -> None:
    ring: list[Any] = []
    ring.append([ring, ring])
    assert len(unpack(pack("it", ring, LIMIT))) == 1
    shared: list[Any] = []
    for _ in range(60):
        shared = [shared, shared]  # 2 to the 60 ways through it
    assert len(unpack(pack("it", shared, LIMIT))) == 2


def test_a_byte_more_than_may_be() -> None:
    room = LIMIT - len(pickle.dumps(b"x" * 500, 5)) + 500
    assert len(pack("it", b"x" * room, LIMIT)) == LIMIT
    with pytest.raises(
        PayloadError, match=r"^it can't be sent to another process: 1,001 bytes, and 1,000 is the limit"
    ) as caught:
        pack("it", b"x" * (room + 1), LIMIT)
    assert (caught.value.size, caught.value.limit) == (LIMIT + 1, LIMIT)


@pytest.mark.parametrize(
    ("value", "field", "says"),
    [
        ({"fine": 1, "lock": threading.Lock()}, "'lock'", "cannot pickle '_thread.lock' object"),
        ({"fine": 1, "other": [Refuses()]}, "'other'", "RuntimeError: not today"),
        ([lambda: 0], "", "pickle"),
        ({Refuses(): 1}, "", "not today"),
    ],
)
def test_what_does_not_pickle(value: Any, field: str, says: str) -> None:
    with pytest.raises(PayloadError) as caught:
        pack("it", value, LIMIT)
    assert says in str(caught.value)
    assert caught.value.field == field
    assert field in str(caught.value)
    assert (caught.value.size, caught.value.limit) == (None, None)


def test_the_walk_needs_no_stack() -> None:
    """What the caller has left of the stack does not decide what is too deep."""
    frames = 0
    frame: Any = sys._getframe()
    while frame is not None:
        frames, frame = frames + 1, frame.f_back
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(frames + 60)
    try:
        with pytest.raises(PayloadError, match="levels"):
            pack("it", nested(DEEPEST + 1), LIMIT)
    finally:
        sys.setrecursionlimit(before)
