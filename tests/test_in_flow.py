"""Within a flow each receiver gets its own of a payload, with read-only arrays; what lies in a slot is not copied."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from loop import Flow
from pipert_shm import DataTransmitter
from placing import place
from routines import one_value
from within import NBYTES, SHAPE, Framed, Plain, Reading, Slotted, assert_read_only, by_transmitters

# How a frame and a list are put together, and taken apart again.
KINDS: dict[str, tuple[Callable[[Any, list[Any]], Any], Callable[[Any], tuple[Any, list[Any]]]]] = {
    "dict": (lambda frame, boxes: {"f": frame, "b": boxes}, lambda p: (p["f"], p["b"])),
    "list": (lambda frame, boxes: [frame, boxes], lambda p: (p[0], p[1])),
    "tuple": (lambda frame, boxes: (frame, boxes), lambda p: (p[0], p[1])),
    "nested": (lambda frame, boxes: {"a": [{"f": (frame,)}], "b": {"c": boxes}}, lambda p: (p["a"][0]["f"][0], p["b"]["c"])),
    "dataclass": (Reading, lambda p: (p.frame, p.boxes)),
    "dataclass with slots": (Slotted, lambda p: (p.frame, p.boxes)),
    "object": (Plain, lambda p: (p.frame, p.boxes)),
    "FrameData": (Framed, lambda p: (p.frame, p.boxes)),
}
of_kinds = pytest.mark.parametrize("kind", KINDS)
where = pytest.mark.parametrize(("near", "far"), [(2, 0), (2, 1)], ids=["in the flow", "in it and elsewhere"])


@of_kinds
@where
@by_transmitters
@pytest.mark.parametrize("side", [4, 60], ids=["small", "large"])
def test_each_receiver_has_its_own(kind: str, near: int, far: int, transmitter: DataTransmitter, side: int) -> None:
    """Whatever the sender and a sibling write afterwards, the others don't see it."""
    make, parts = KINDS[kind]
    frame, boxes = np.full((side, 80, 3), 7, np.uint8), [1]
    with Flow(transmitter, near=near, far=far) as flow:
        flow.send(make(frame, boxes))
        frame[...] = 9
        boxes.append(2)
        for payload in flow.receive():
            got, list_got = parts(payload)
            assert (got == 7).all()
            assert list_got == [1]
            list_got.append(3)
            if transmitter.in_band:
                got[...] = 8
            else:
                assert_read_only(got)
        del payload, got, list_got


@where
@pytest.mark.parametrize("dtype", ["u1", "f4", ">i2", "M8[s]", "U3", "V7", [("x", "i4"), ("y", "f8")]])
@pytest.mark.parametrize(
    "shape_of",
    [lambda a: a, lambda a: a.T, lambda a: a[::2, ::-1], lambda a: a[:0], lambda a: a[0, 0], np.asfortranarray],
    ids=["whole", "transposed", "strided", "empty", "one", "fortran"],
)
@pytest.mark.parametrize("loan", [True, False], ids=["loan", "plain"])
def test_arrays_of_every_kind(near: int, far: int, dtype: Any, shape_of: Callable[[Any], Any], loan: bool) -> None:
    with Flow(near=near, far=far) as flow:
        whole = flow.loan((80, 100), dtype) if loan else np.empty((80, 100), dtype)
        whole[...] = np.arange(8000).reshape(80, 100).astype("u1").astype(dtype)
        array = np.asarray(shape_of(whole))
        expected = array.copy()
        for wrapped in (False, True):
            for payload in flow.trip([array] if wrapped else array):
                got = payload[0] if wrapped else payload
                assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
                assert np.array_equal(got, expected)
                assert not got.flags.writeable
        del whole, array, payload, got


def test_a_loan_is_passed_where_it_lies() -> None:
    with Flow(near=3) as flow:
        frame = flow.loan(SHAPE)
        frame[...] = 7
        there = place(frame)
        bare, in_dict = flow.trip(frame), flow.trip({"f": frame, "crop": frame[10:20]})
        assert there is not None
        assert {place(got) for got in bare} == {place(got["f"]) for got in in_dict} == {there}
        assert not frame.flags.writeable
        for got in bare:
            assert_read_only(got)
        assert flow.counters["copied_bytes"] == 0
        assert flow.held_slots() == 1
        assert bare[0] is not bare[1], "each has an array of its own"
        del frame, bare, in_dict, got
        assert flow.held_slots() == 0


@where
def test_a_plain_array_is_written_once_for_all(near: int, far: int) -> None:
    with Flow(near=near, far=far) as flow:
        got = flow.trip(np.full(SHAPE, 7, np.uint8))
        again = flow.trip({"f": np.full(SHAPE, 7, np.uint8)})
        assert len({place(one) for one in got}) == len({place(one["f"]) for one in again}) == 1
        assert place(got[0]) is not None
        assert flow.counters["copied_bytes"] == 2 * NBYTES
        del got, again
        assert flow.held_slots() == 0


def test_what_nobody_can_change_is_shared() -> None:
    payloads = [None, True, 5, 1.5, 2j, "a text", b"bytes" * 1000, ..., range(3), object()]
    with Flow(near=2) as flow:
        for payload in payloads:
            assert all(got is payload for got in flow.trip(payload))
        assert flow.counters["in_band_bytes"] == 0


def test_the_same_array_twice_stays_one() -> None:
    array = np.full(SHAPE, 7, np.uint8)
    with Flow(near=2) as flow:
        for got in flow.trip([array, array]):
            assert got[0] is got[1]
        del got


# ---- slots that are short ------------------------------------------------------------------------


def test_within_a_flow_nobody_waits_for_a_slot() -> None:
    """Receivers may keep as much as they like: past the ring it lies in memory of the process, as it is."""
    with Flow(near=2, slots=4) as flow:
        kept = [flow.trip(np.full(SHAPE, n, np.uint8)) for n in range(30)]
        loans = [flow.loan(SHAPE) for _ in range(3)]
        for frame in loans:
            frame[...] = 100
        kept += [flow.trip(frame) for frame in loans]
        assert [[one_value(got) for got in pair] for pair in kept] == [[n, n] for n in (*range(30), *[100] * 3)]
        for pair in kept:
            for got in pair:
                assert_read_only(got)
        assert {place(got) is None for pair in kept for got in pair} == {True, False}
        del kept, loans, frame, pair, got
        assert place(flow.trip(np.zeros(SHAPE, np.uint8))[0]) is not None  # again, now that slots are free


def test_frames_that_stay_in_a_flow_take_little_of_a_small_memory() -> None:
    """The ring would take more than its part of what the pipe may have: that is for frames that leave their flows."""
    with Flow(near=1, budget=16 * NBYTES) as flow:
        loan = flow.loan(SHAPE)
        assert place(loan) is None
        loan[...] = 7
        (got,) = flow.trip(loan)
        assert_read_only(got)
        loan[...] = 8
        assert one_value(got) == 7


@pytest.mark.parametrize("loan", [True, False], ids=["loan", "plain"])
def test_a_hoarder_in_the_flow_takes_no_slots_from_others(loan: bool, caplog: pytest.LogCaptureFixture) -> None:
    kept = []
    with caplog.at_level(logging.WARNING), Flow(near=1, far=1, slots=16) as flow:
        for number in range(40):
            frame = flow.loan(SHAPE) if loan else np.empty(SHAPE, np.uint8)
            frame[...] = number
            near, far = flow.trip(frame)
            assert one_value(far) == number
            assert place(far) is not None
            kept.append(near)
            del far, near, frame
        assert [one_value(frame) for frame in kept] == list(range(40))
        for frame in kept:
            assert_read_only(frame)
        del frame, kept
    assert len(caplog.records) == 1
    assert "private copies" in caplog.text
