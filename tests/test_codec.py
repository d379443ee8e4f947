"""Any payload arrives equal to what was sent."""

from __future__ import annotations

import copyreg
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from loop import Loop
from payloads import BIG, DTYPES, LAYOUTS, PAYLOADS, WAYS, Plain, WithBuffer, expected, filled, same, subclasses
from pipert_shm import BasicTransmitter, DataTransmitter, SharedMemoryTransmitter


@pytest.fixture(params=WAYS)
def any_loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    """A loop, by each way of travelling."""
    with Loop(WAYS[request.param]()) as loop:
        yield loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as loop:
        yield loop


# ---- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_layout(any_loop: Loop, dtype: Any) -> None:
    for name, layout in LAYOUTS.items():
        array = layout(filled(dtype, (48, 60)))
        for payload in (array, {"array": array, "again": [array]}):
            assert same(any_loop.trip(payload), expected(payload, any_loop)), name
    assert any_loop.held_slots() == 0


@pytest.mark.parametrize("dtype", ["S0", "U0", "V0", []], ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (0,)])
def test_elements_of_no_size(any_loop: Loop, dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.lib.stride_tricks.as_strided(np.zeros((), np.dtype(dtype)), shape) if shape else np.zeros((), np.dtype(dtype))
    assert same(any_loop.trip(array), array)
    assert same(any_loop.trip([array]), [array])


def test_as_many_dimensions_as_there_can_be(any_loop: Loop) -> None:
    array = np.arange(2.0).reshape((1,) * 31 + (2,))
    assert same(any_loop.trip(array), array)
    array = np.arange(5000.0).reshape((1,) * 31 + (5000,))
    assert same(any_loop.trip(array), array)
    assert same(any_loop.trip([array]), [array])


@pytest.mark.parametrize("size", [3, 3000])
def test_variable_width_strings(any_loop: Loop, size: int) -> None:
    array = np.array([f"string {'x' * n}" for n in range(size)], np.dtypes.StringDType())
    assert same(any_loop.trip(array), array)


def test_dtypes_that_others_define(any_loop: Loop) -> None:
    """Their `dtype.str` is that of a void of the same size."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        for size in (3, 9000):
            array = np.arange(size).astype(dtype)
            assert same(any_loop.trip(array), array)
            assert same(any_loop.trip([array]), [array])


@pytest.mark.parametrize("size", [5, 5000])
def test_subclasses_of_ndarray(any_loop: Loop, size: int) -> None:
    for array in subclasses(size):
        assert same(any_loop.trip(array), array)
        assert same(any_loop.trip({"a": [array]}), {"a": [array]})


def test_matrix(any_loop: Loop) -> None:
    numbers = np.arange(5000).reshape(50, 100)
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(numbers)
    arrived = any_loop.trip(matrix)
    assert same(np.asarray(arrived), np.asarray(matrix))
    assert type(arrived) is np.matrix


# ---- everything else -----------------------------------------------------------------------------


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads(any_loop: Loop, payload: str) -> None:
    assert same(any_loop.trip(PAYLOADS[payload]), PAYLOADS[payload])
    assert any_loop.held_slots() == 0


def test_bytearrays_arrive_writable(loop: Loop) -> None:
    arrived = loop.trip([bytearray(BIG), WithBuffer(BIG)])
    arrived[0][0] = arrived[1].data[0] = 99
    assert (arrived[0][0], arrived[1].data[0]) == (99, 99)


@pytest.mark.parametrize("size", [3, 9000])
def test_the_same_array_twice_stays_one(any_loop: Loop, size: int) -> None:
    array = np.arange(size, dtype=np.uint8)
    one, (two, three) = any_loop.trip([array, [array, array.copy()]])
    assert one is two
    assert one is not three
    cycle: list[Any] = [array]
    cycle.append(cycle)
    arrived = any_loop.trip(cycle)
    assert arrived[1] is arrived
    arrived.clear()  # so that it dies now


def test_a_user_s_own_reducer_is_respected(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loop.trip(Plain(1)).value == 1
    for how in ("reduced", "otherwise"):

        def reduce(plain: Plain, how: str = how) -> tuple[Any, ...]:
            return Plain, ((how, plain.value),)

        monkeypatch.setitem(copyreg.dispatch_table, Plain, reduce)
        assert same(loop.trip(Plain(1)).value, (how, 1))


@pytest.mark.parametrize("count", [31, 32, 33, 40])
def test_more_referenced_slots_than_a_message_names(count: int) -> None:
    with Loop(slots=64) as loop:
        loans = [loop.loan((5000,)) for _ in range(count)]
        for number, loan in enumerate(loans):
            loan[...] = number
        arrived = loop.trip(loans)
        assert [np.unique(array).tolist() for array in arrived] == [[n] for n in range(count)]
        del arrived, loans, loan
        assert loop.held_slots() == 0


def test_many_small_crops_of_one_frame_are_sent_by_reference(loop: Loop) -> None:
    frame = loop.loan((480, 640, 3))
    frame[...] = np.random.default_rng(1).integers(0, 256, frame.shape, np.uint8)
    original = frame.copy()
    crops = [(n, frame[n : n + 40, 2 * n : 2 * n + 40]) for n in range(50)]
    arrived = loop.trip({"frame": frame, "crops": crops})
    assert same(arrived["frame"], original)
    for n, crop in arrived["crops"]:
        assert same(crop, original[n : n + 40, 2 * n : 2 * n + 40])
    assert loop.copied_bytes < 20_000  # the pickle itself; the crops alone are 240,000


# ---- large things that are no arrays -------------------------------------------------------------


LARGE = 4_000_000


@pytest.mark.parametrize("transmitter", [SharedMemoryTransmitter(), BasicTransmitter()], ids=["shared", "basic"])
@pytest.mark.parametrize(
    "thing",
    [b"\1" * LARGE, bytearray(b"\2" * LARGE), "text" * (LARGE // 4), np.full(LARGE, 3, np.uint8)],
    ids=["bytes", "bytearray", "text", "array"],
)
def test_large_things_are_copied_once_to_be_sent(transmitter: DataTransmitter, thing: Any) -> None:
    """Straight into the slot. (A text is encoded before.)"""
    payload = {"first": thing, "small": 1, "again": [thing, b"x" * 100_000]}
    with Loop(transmitter) as loop:
        assert same(loop.trip(payload), payload)  # the ring is made
        tracemalloc.start()
        loop.send(payload)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < LARGE / 4 or isinstance(thing, str)
        assert same(loop.receive(), payload)
