"""Arrays like one that came before: the receiver knows their layout, and asks C for no more than where they lie."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from loop import Loop
from pipert_shm import START_EVENT_NAME, DestinationRoutine, Pipe, SharedMemoryTransmitter, SourceRoutine, Wire, binding
from pipert_shm.data import Meta
from pipert_shm.message.inbox import SKIPPED
from waiting import eventually

SHAPE = (40, 50, 3)


def frame(loop: Loop, value: int, shape: tuple[int, ...] = SHAPE, dtype: Any = np.uint8) -> np.ndarray:
    array = loop.loan(shape, dtype)
    array[...] = value
    return array


def dropped(loop: Loop) -> dict[str, int]:
    counts = binding.EdgeRecord(loop.segment.process, 0).dropped()
    return {reason: count for reason, count in counts.items() if count}


def test_more_layouts_than_are_remembered() -> None:
    kinds = [((40 + number, 50, 3), dtype) for number in range(binding.LAYOUTS) for dtype in (np.uint8, np.float32)]
    with Loop(slots=8) as loop:
        for turn in range(3):
            for number, (shape, dtype) in enumerate(kinds):
                got = loop.trip(frame(loop, turn + number, shape, dtype))
                assert (got.shape, got.dtype, got.flags.writeable) == (shape, dtype, False)
                assert (got == turn + number).all()
                del got
        assert loop.copied_bytes == 0
        assert loop.held_slots() == 0


def test_equal_bytes_of_another_layout() -> None:
    with Loop() as loop:
        for shape in [SHAPE, SHAPE[::-1], SHAPE, (6000,), SHAPE[::-1], (6000,)]:
            assert loop.trip(frame(loop, 1, shape)).shape == shape


def test_one_that_is_a_part_of_a_slot() -> None:
    with Loop() as loop:
        for start in (0, 7, 7, 3):
            whole = frame(loop, 0, (60, 50, 3))
            whole[start : start + 40] = 9
            assert (loop.trip(whole[start : start + 40]) == 9).all()
            del whole


def test_a_view_of_it_keeps_the_slot() -> None:
    with Loop() as loop:
        for value in range(3):
            got = loop.trip(frame(loop, value))
            view = got[3:, ::2]
            del got
            assert (view == value).all()
            with pytest.raises(ValueError, match="WRITEABLE"):
                view.flags.writeable = True
            assert loop.held_slots() == 1
            del view
            assert loop.held_slots() == 0


def test_what_is_known_of_the_message() -> None:
    with Loop() as loop:
        for number in range(3):
            before = binding.now_ns()
            loop.outbox.send([frame(loop, number)], Meta(("a", "b"), 0, number, before, pts=number / 25))
            meta = loop.receive_message()[1]
            same = copy.copy(meta)  # before anybody looked
            for one in (meta, same):
                assert (one.sequence, one.captured_ns, one.pts, one.ticket) == (number, before, number / 25, None)
                (hop,) = one.hops
                assert before <= hop.sent_ns <= hop.received_ns <= binding.now_ns()
            with pytest.raises(AttributeError, match="'Meta' object has no attribute 'colour'"):
                meta.colour  # noqa: B018


class Inverting(SharedMemoryTransmitter):
    """Gives a receiver the negative; falls over a black one."""

    def receive(self) -> Callable[[Any], Any]:
        def invert(data: np.ndarray) -> np.ndarray:
            if not data.any():
                raise ValueError("it is black")
            return 255 - data

        return invert


def test_a_transmitter_that_changes_and_fails() -> None:
    with Loop(Inverting()) as loop:
        for value in (1, 2):
            assert (loop.trip(frame(loop, value)) == 255 - value).all()
        loop.send(frame(loop, 0))
        with pytest.raises(ValueError, match="it is black"):
            loop.receive()
        assert dropped(loop) == {"error": 1}
        assert loop.held_slots() == 0
        assert (loop.trip(frame(loop, 3)) == 252).all()


def test_one_that_is_too_old() -> None:
    with Loop(max_age=60) as loop:
        for value in (1, 2):
            assert (loop.trip(frame(loop, value)) == value).all()
        loop.outbox.send([frame(loop, 3)], Meta(("a", "b"), 0, 3, binding.now_ns() - 61_000_000_000))
        assert loop.inbox.receive(0) == SKIPPED
        assert dropped(loop) == {"expired": 1}
        assert loop.held_slots() == 0
        assert (loop.trip(frame(loop, 4)) == 4).all()


def test_those_that_nobody_takes() -> None:
    with Loop() as loop:
        loop.trip(frame(loop, 1))
        for value in (2, 3):
            loop.send(frame(loop, value))
        loop.inbox.end()
        assert dropped(loop) == {"ended": 2}
        assert loop.held_slots() == 0


def test_over_the_share_it_is_a_copy() -> None:
    with Loop(slots=8, borrow_cap=2) as loop:
        kept = [loop.trip(frame(loop, value)) for value in range(4)]
        assert [int(one[0, 0, 0]) for one in kept] == [0, 1, 2, 3]
        assert loop.held_slots() == 2
        kept.clear()


class Once(SourceRoutine):
    """Sends one frame, and no more."""

    def main_logic(self) -> np.ndarray | None:
        if self.meta.sequence:
            threading.Event().wait(0.05)
            return None
        return self.loan(SHAPE)


class Slow(DestinationRoutine):
    """Takes its time over each frame."""

    TIME_S = 0.2

    def main_logic(self, data: np.ndarray) -> None:
        time.sleep(self.TIME_S)


def test_to_wait_for_a_message_is_not_to_be_busy() -> None:
    source, sink = Once("source"), Slow("sink")
    pipe = Pipe()
    for routine in (source, sink):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, sink))
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["sink"].busy_s > 0)
        until = time.monotonic() + 1
        eventually(lambda: time.monotonic() > until)
        pipe.join(to_kill=True)
    assert Slow.TIME_S <= pipe.statistics().routines["sink"].busy_s < Slow.TIME_S + 0.5
