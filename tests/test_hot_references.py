"""References: after thousands of messages on each path in C, errors included, no object has one too many or too few."""

from __future__ import annotations

import gc
import operator
import struct
import sys
import sysconfig
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from hot_ends import SHAPE, Across, Hot, Stop, Within
from pipert_shm import Meta, binding
from pipert_shm.binding import hot
from pipert_shm.errors import PayloadError
from pipert_shm.shm.slots import Stopping

MESSAGES = 10_000
WARM_UP = 300
SLACK = 150  # blocks, or references, that the interpreter may keep for itself; a leak has at least one for each round: some 400

# A debug interpreter counts all references. Where NumPy was not compiled for it, its own are not counted.
count_all: Callable[[], int] = getattr(sys, "gettotalrefcount", lambda: 0)
COUNTS_ALL = str(sysconfig.get_config_var("SOABI")) in sys.modules["numpy._core._multiarray_umath"].__file__  # type: ignore[operator]


@dataclass
class Seen:
    frame: np.ndarray
    boxes: np.ndarray


class BadToUnpickle:
    def __reduce__(self) -> Any:
        return operator.truediv, (1, 0)


def by_python(ends: Hot) -> None:
    ends.send_in_python(ends.frame(1))
    ends.take_in_python()


def by_python_with_a_stamp(ends: Hot) -> None:
    ends.send_in_python(ends.frame(1), ends.meta(pts=0.5, hops=bytes(48)))
    ends.take_in_python()


def by_c(ends: Hot) -> None:
    ends.send_in_c(ends.frame(1))
    assert ends.take_in_c() == 1


def by_c_and_somebody_looks(ends: Hot) -> None:
    ends.send_in_c(ends.frame(1))

    def look(frame: np.ndarray) -> None:
        ends.receiver.meta = Meta.received(ends.names, 1, ends.receiver.raw())
        assert ends.receiver.meta.sequence >= 0

    assert ends.take_in_c(handle=look) == 1
    ends.receiver.meta = None


def from_python_to_c(ends: Hot) -> None:
    ends.send_in_python(ends.frame(1))
    assert ends.take_in_c() == 1


def from_c_to_python(ends: Hot) -> None:
    ends.send_in_c(ends.frame(1))
    ends.take_in_python()


def what_is_not_for_c(ends: Hot) -> None:
    ends.send_in_c()
    if isinstance(ends, Within):  # elsewhere C takes it
        ends.send_in_python({"no": "array"})
        assert ends.receiver.run(None, False, 0, 0, 0) == binding.FOUND
        ends.boxes[0].accept(ends.receiver.status)
        ends.boxes[0].take()


def pickled(ends: Hot) -> None:
    """By C where it leaves the flow, by Python within it."""
    kept = [
        Seen(ends.frame(1), np.arange(5.0)),
        {"plain": np.zeros(SHAPE, np.uint8), "class": Seen},
        "text",
        [ends.frame(2)[1:]],
    ]
    for payload in kept:
        if isinstance(ends, Within):
            ends.send_in_python(payload)
            ends.take_in_python()
        else:
            ends.send_in_c(payload)
            ends.take_in_c()


def does_not_pickle(ends: Hot) -> None:
    if isinstance(ends, Within):
        return
    payload = [ends.frame(1), threading.Lock()]
    assert ends.send_in_c(payload) == binding.REFUSED
    assert isinstance(ends.sender.take_error(), PayloadError)
    ends.sender.take_result()
    ends.send_in_python([ends.frame(1), BadToUnpickle()])
    assert ends.receiver.run(None, False, 0, 0, 0) == binding.FOUND
    ends.boxes[0].accept(ends.receiver.status)
    try:  # pytest.raises makes a cycle, which would keep the frames
        ends.boxes[0].take()
    except ZeroDivisionError:
        return
    raise AssertionError("it unpickled")


def main_logic_raises(ends: Hot) -> None:
    def main_logic(*frames: np.ndarray) -> None:
        raise Stop

    with pytest.raises(Stop):
        ends.sender.run(main_logic, True, ends.outbox.ring, 0, 0)
    ends.send_in_c(ends.frame(1))
    with pytest.raises(Stop):
        ends.receiver.run(main_logic, False, 0, 0, 0)
    assert ends.receiver.take_payload() is not None


def a_payload_that_nobody_takes(ends: Hot) -> None:
    """After an error; the next run lets go of it."""

    def main_logic(frame: np.ndarray) -> None:
        raise Stop

    ends.send_in_c(ends.frame(1), ends.frame(2))
    for _ in range(2):
        with pytest.raises(Stop):
            ends.receiver.run(main_logic, False, 0, 0, 0)
    ends.boxes[0]._port.notify()
    assert ends.receiver.run(main_logic, False, 0, 0, 0) == binding.FOUND
    ends.boxes[0]._port.noticed()


def an_impossible_meta(ends: Hot) -> None:
    for wrong in (
        {"captured_ns": -1},
        {"captured_ns": "noon"},
        {"pts": "late"},
        {"pts": 10**400},
        {"hops": "none"},
        {"hops": bytes(1000)},
    ):
        with pytest.raises((ValueError, TypeError, OverflowError)):
            ends.send_in_python(ends.frame(1), ends.meta(**wrong))
    for name, value in (("sequence", None), ("sequence", 1 << 64), ("origin_number", 1 << 32)):
        meta = ends.meta()
        setattr(meta, name, value)
        with pytest.raises(ValueError, match=f"meta.{name} must be from 0 to"):
            ends.send_in_python(ends.frame(1), meta)
        waiting = [ends.frame(1)]

        def main_logic(meta: Meta = meta, waiting: list[np.ndarray] = waiting) -> np.ndarray:
            ends.sender.meta = meta
            return waiting.pop()

        assert ends.sender.run(main_logic, True, 0, 0, 0) == binding.RESULT  # Python is to tell
        ends.sender.take_result()
    ends.sender.meta = None


def one_that_is_too_old(ends: Hot) -> None:
    ends.receiver.limit_age(0, 1)
    ends.boxes[0]._max_age_ns[0] = 1
    ends.send_in_python(ends.frame(1), ends.meta(captured_ns=1))
    assert ends.receiver.run(None, False, 0, 0, 0) == binding.FOUND
    assert ends.boxes[0].accept(ends.receiver.status) not in (binding.OK, binding.TIMED_OUT)


def a_queue_that_is_full(ends: Hot) -> None:
    """The routine is called out of its wait; the send goes on later."""
    for number in range(4):
        ends.send_in_c(ends.frame(number))
    waiting = [ends.frame(4)]

    def main_logic() -> np.ndarray:
        ends.out.notify()
        return waiting.pop()

    assert ends.sender.run(main_logic, True, ends.outbox.ring, 0, 0) == binding.SENT
    with pytest.raises(Stopping):
        ends.outbox.finish(ends.sender.status)
    ends.out.noticed()
    for _ in range(4):
        ends.take_in_python()
    ends.outbox.flush()
    ends.take_in_python()


def wrong_arguments(ends: Hot) -> None:
    path = ends.sender
    calls: list[Callable[[], object]] = [
        lambda: path.send(),
        lambda: path.send([], ends.meta(), 0, 0),
        lambda: path.send(["no array"], None, 0, 0),
        lambda: path.send(["no array"], ends.meta(), -1, 0),
        lambda: path.send(["no array"], ends.meta(), 0, "none"),
        lambda: path.learn(99, (1,), np.dtype("u1")),
        lambda: path.learn(7, (-1,), np.dtype("u1")),
        lambda: path.learn(7, (1, "x"), np.dtype("u1")),
        lambda: path.learn(7, (1,), "u1"),
        lambda: path.describe((1,) * 5, None, b"text"),
        lambda: path.take(0),
        lambda: path.take("x"),
        lambda: path.adopt(b"short"),
        lambda: path.adopt("text"),
        lambda: path.adopt(bytes(1000)),
        lambda: path.limit_age(256, 0),
        lambda: path.receive_within(256, {}),
        lambda: path.send_on(0, 0, 0, {}, None),
        lambda: path.send_on(0, 0, 0, None),
        lambda: path.decode_with(None),
        lambda: path.begin_pickle(0, 0, 0, {}),
        lambda: path.pickle_by(None),
        lambda: path.pickle_form((1,), "u1", b""),
        lambda: path.persistent_load(5),
        lambda: path.persistent_load((99, 0, b"")),
        lambda: path.persistent_load((b"12", -1, b"")),
        lambda: path.run(),
        lambda: hot.array(0, (1 << 62, 1 << 62), np.dtype("u1")),
        lambda: hot.array(0, (1,) * 9, np.dtype("u1")),
        lambda: hot.lease(0, -1, False),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError, LookupError, OverflowError, AttributeError, struct.error)):
            call()
    assert path.share(ends.frame().T, 1) is None
    assert path.share("no array", 1) is None


def forms_that_change(ends: Hot) -> None:
    """More of them than either end remembers."""
    for number in range(12):
        for _ in range(2):
            ends.send_in_python(ends.frame(number, (40 + number, 64, 3), np.dtype("u1" if number % 2 else "i1")))
            ends.take_in_python()


def to_nobody(ends: Hot) -> None:
    """Evicted by the next one, or sent to a routine that has ended: nobody asks for it."""
    process, inbox = ends.segment.process, ends.boxes[0]
    process_edge = binding.EdgeRecord(process, 0)
    process_edge.receiver_ended = True
    ends.send_in_python(ends.frame(1))
    waiting = [ends.frame(2)]
    outcome = ends.sender.run(waiting.pop, True, ends.outbox.ring, 0, 0) if ends.tables else None
    if outcome is not None:
        assert outcome == binding.SENT
        ends.outbox.finish(ends.sender.status)
    inbox.begin()


PATHS: list[Callable[[Any], None]] = [
    by_python,
    by_python_with_a_stamp,
    by_c,
    by_c_and_somebody_looks,
    from_python_to_c,
    from_c_to_python,
    what_is_not_for_c,
    pickled,
    does_not_pickle,
    main_logic_raises,
    a_payload_that_nobody_takes,
    an_impossible_meta,
    one_that_is_too_old,
    a_queue_that_is_full,
    wrong_arguments,
    forms_that_change,
    to_nobody,
]
MESSAGES_OF: dict[Callable[[Any], None], int] = {
    an_impossible_meta: 12,
    a_queue_that_is_full: 5,
    wrong_arguments: 24,
    forms_that_change: 24,
}


class Counts:
    """Of all that a leak would show in."""

    def __init__(self, things: list[Any]) -> None:
        gc.collect()
        self.references = [sys.getrefcount(thing) for thing in things]
        self.blocks = sys.getallocatedblocks()
        self.total = count_all() if COUNTS_ALL else 0

    def growth(self, before: Counts) -> dict[str, int]:
        """The largest change of a reference count, and of the other two."""
        apart = [now - then for now, then in zip(self.references, before.references, strict=True)]
        return {
            "references": max(apart, key=abs),
            "blocks": self.blocks - before.blocks,
            "total": self.total - before.total,
        }


@pytest.mark.parametrize("kind", [Across, Within])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_nothing_grows(path: Callable[[Any], None], kind: type[Any]) -> None:
    with kind() as ends:
        things: list[Any] = [
            None,
            True,
            0,
            dict,
            bytes,
            tuple,
            np.dtype("u1"),
            np.dtype("i1"),
            np.ndarray,
            hot.Lease,
            hot.HotPath,
        ]
        things += ["view", "sequence", "captured_ns", "raw_hops", type(ends.sender.send)]  # names that C looks up
        things += [ends.names, ends.sender, ends.receiver, ends.outbox, *ends.tables]
        rounds = MESSAGES // MESSAGES_OF.get(path, 1)
        for _ in range(WARM_UP):
            path(ends)
        before = Counts(things)
        for _ in range(rounds):
            path(ends)
        growth = Counts(things).growth(before)
        print(path.__name__, kind.__name__, growth)
        del things
        assert all(abs(by) < SLACK for by in growth.values()), growth
        assert not any(ends.tables)
        assert ends.held_slots() == 0
