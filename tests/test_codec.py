"""Any payload arrives equal to what was sent, and arrays arrive read-only."""

from __future__ import annotations

import copyreg
import dataclasses
import pickle
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from loop import Loop
from pipert_shm import (
    START_EVENT_NAME,
    BasicTransmitter,
    Data,
    DataTransmitter,
    DestinationRoutine,
    PayloadError,
    Pipe,
    SharedMemoryTransmitter,
)
from routines import Items, chain
from waiting import Board


def same(one: Any, other: Any) -> bool:
    """Equality that looks into arrays (dtype, shape, every element, nan like nan) and into everything that may hold them."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ma.MaskedArray):
        return same(np.asarray(one.data), np.asarray(other.data)) and same(np.asarray(one.mask), np.asarray(other.mask))
    if isinstance(one, np.ndarray):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        if one.dtype.hasobject:
            return all(same(a, b) for a, b in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
        if one.dtype.names is not None:
            return all(same(one[name], other[name]) for name in one.dtype.names)
        if one.dtype.char in "gGTV":  # padding between elements, or what they say is kept elsewhere
            return repr(one.tolist()) == repr(other.tolist())
        return bool(one.tobytes() == other.tobytes())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return repr(one) == repr(other) if isinstance(one, float | complex | np.generic) else bool(one == other)


@dataclass
class Reading(Data):
    frame: Any = None
    parts: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Box:
    corner: tuple[int, int]
    crop: np.ndarray


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and same(self.value, other.value)

    __hash__ = None  # type: ignore[assignment]


class WithBuffer:
    """Gives pickle a buffer of its own, out of band: what pandas and pyarrow do."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WithBuffer) and self.data == other.data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return WithBuffer, (pickle.PickleBuffer(self.data),)


class WorseThanNone:
    """Pickles, but does not unpickle."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ArithmeticError("this can't be loaded")


# ---- what there is to send -----------------------------------------------------------------------

STRUCTURED = np.dtype([("id", "<u2"), ("box", "<f4", (4,)), ("name", "S5"), ("when", "M8[us]")])
PADDED = np.dtype([("flag", "?"), ("value", "f8")], align=True)
NESTED = np.dtype([("inner", PADDED), ("more", [("a", ">i4"), ("b", "c16")])])

DTYPES = [
    *("?", "b", "B", "h", "H", "i", "I", "q", "Q", "e", "f", "d", "g", "F", "D", "G"),
    *(">i2", ">u4", ">i8", ">f2", ">f4", ">f8", ">c16", ">U3", ">M8[ms]"),
    *("U1", "U7", "S1", "S9", "V7", "M8[D]", "M8[ns]", "m8[s]", "M8", "O"),
    *(STRUCTURED, PADDED, NESTED),
]


def filled(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array of any dtype, its elements different where they can be."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    if dtype.hasobject:
        values = np.empty(count, object)
        values[:] = [(n, f"object {n}") for n in range(count)]
        return values.reshape(shape)
    if dtype.kind in "SU":
        return np.array([str(n)[-dtype.itemsize :] for n in range(count)], dtype).reshape(shape)
    if dtype.kind in "Mm":
        return np.arange(count, dtype=np.int64).astype(dtype).reshape(shape)
    if dtype.kind == "V":
        array = np.zeros(count, dtype)
        for name in dtype.names or ():
            array[name] = filled(dtype[name].base, (count, *dtype[name].shape))
        if not dtype.names:
            array[:] = [bytes([n % 251] * dtype.itemsize) for n in range(count)]
        return array.reshape(shape)
    return (np.arange(count) % 113).astype(dtype).reshape(shape)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "transposed": np.transpose,
    "strided": lambda array: array[::2, 1::3],
    "reversed": lambda array: array[::-1, ::-1],
    "cropped": lambda array: array[2:-2, 3:-1],
    "column": lambda array: array[:, 3],
    "swapped": lambda array: np.swapaxes(array.reshape(array.shape[0], -1, 2), 0, 2),
    "broadcast": lambda array: np.broadcast_to(array[0], array.shape),
    "empty": lambda array: array[:0],
    "0-d": lambda array: array[0, 0, ...].copy().reshape(()),
    "new axes": lambda array: array[None, :, None],
}


WAYS: dict[str, Callable[[], DataTransmitter]] = {
    "default": SharedMemoryTransmitter,
    "everything": lambda: SharedMemoryTransmitter(1),  # no array so small that it goes in band
    "in band": BasicTransmitter,
}


def expected(payload: Any, loop: Loop) -> Any:
    """In band a payload arrives as pickle makes it: numpy's turns some arrays to the machine's byte order."""
    return pickle.loads(pickle.dumps(payload, 5)) if isinstance(loop.transmitter, BasicTransmitter) else payload


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
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
        for size in (3, 9000):
            array = np.arange(size).astype(dtype)
            assert same(any_loop.trip(array), array)
            assert same(any_loop.trip([array]), [array])


def subclasses(size: int) -> list[np.ndarray]:
    plain = np.arange(size * 2.0).reshape(2, size)
    records = np.zeros(size, STRUCTURED).view(np.recarray)
    records.id = np.arange(size)
    masked = np.ma.MaskedArray(plain, mask=plain % 3 == 0)
    return [records, masked, np.ndarray.__new__(Tagged, (size,), dtype=np.int32, buffer=np.arange(size, dtype=np.int32))]


class Tagged(np.ndarray):
    """A subclass with nothing to it."""


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

BIG = bytes(range(256)) * 100
ARRAY = np.arange(6000, dtype=np.uint16).reshape(60, 100)

PAYLOADS: dict[str, Any] = {
    "number": 7,
    "huge number": 10**5000,
    "float": -0.0,
    "empty": [],
    "text": "naïve café",
    "big text": "ß" * 40_000,
    "bytes": BIG,
    "bytearray": bytearray(BIG),
    "set": {1, 2, 3},
    "fraction": Fraction(1, 3),
    "scalar": np.float32(1.5),
    "moment": np.datetime64("2026-11-24T12:00"),
    "nested": [[ARRAY, [ARRAY[::2], [ARRAY.T]]], {"k": (ARRAY[1:3], "x")}],
    "dataclass": Reading(ARRAY, [Box((1, 2), ARRAY[:40]), Box((3, 4), ARRAY[:1])]),
    "plain object": Plain([ARRAY, 1]),
    "many small": [np.full(3, n) for n in range(300)],
    "many large": [np.full(5000, n, np.uint8) for n in range(100)],
    "buffer": WithBuffer(BIG),
    "small buffer": WithBuffer(b"abc"),
    "buffer and array": {"b": WithBuffer(BIG), "a": ARRAY, "c": [WithBuffer(BIG[::-1])]},
    "class": Fraction,
    "function": pickle.dumps,
}


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


# ---- generated payloads --------------------------------------------------------------------------

scalars = st.one_of(npst.scalar_dtypes(), npst.array_dtypes(max_size=3, allow_subarrays=True))
arrays = npst.arrays(scalars, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7))


@st.composite
def laid_out(draw: st.DrawFn) -> np.ndarray:
    """An array, or a view of one; sometimes repeated until it is large."""
    array: np.ndarray = draw(arrays)
    if array.ndim and array.size and draw(st.booleans()):
        array = np.concatenate([array] * draw(st.integers(2, 40)))
    if draw(st.booleans()):
        array = array.transpose(draw(st.permutations(range(array.ndim))))
    if array.ndim and draw(st.booleans()):
        array = array[draw(npst.basic_indices(array.shape, allow_ellipsis=True, allow_newaxis=True))]
    if draw(st.booleans()):
        array = np.asfortranarray(array)
    return np.asarray(array)


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.builds(lambda data, times: data * times, st.binary(min_size=1, max_size=4), st.integers(1000, 5000)),
    st.builds(lambda data, times: bytearray(data * times), st.binary(max_size=4), st.integers(1000, 5000)),
    laid_out(),
)
payloads = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=5), inner, max_size=5),
        st.builds(Reading, inner, st.lists(inner, max_size=3)),
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60)
@given(payload=payloads)
def test_generated_payloads(way: str, payload: Any) -> None:
    with Loop(WAYS[way]()) as loop:
        assert same(loop.trip(payload), expected(payload, loop))
        assert loop.held_slots() == 0


class Expect(DestinationRoutine):
    """Compares what comes with a list made before `build()`."""

    def __init__(self, name: str, expected: list[Any]) -> None:
        super().__init__(name)
        self.expected = expected
        self.board = Board()

    def main_logic(self, data: Any) -> None:
        self.board.add(0 if same(data, self.expected[self.meta.sequence]) else 1)


def across_processes(payloads: list[Any]) -> None:
    pipe = Pipe(policy="block")
    expect = Expect("expect", payloads)
    chain(pipe, Items("items", payloads), expect)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    statistics = pipe.statistics()
    assert (expect.board[0], expect.board[1]) == (len(payloads), 0)
    assert {name: routine.errors for name, routine in statistics.routines.items()} == {"items": 0, "expect": 0}


def test_all_of_it_across_processes() -> None:
    across_processes(
        [
            *(value for value in PAYLOADS.values() if value is not None),
            *(LAYOUTS[layout](filled(dtype, (48, 60))) for dtype in DTYPES for layout in LAYOUTS),
            *subclasses(5),
            *subclasses(5000),
        ]
    )


@settings(max_examples=15)
@given(st.lists(payloads.filter(lambda payload: payload is not None), max_size=5))
def test_generated_payloads_across_processes(payloads: list[Any]) -> None:
    across_processes(payloads)


# ---- read-only for good --------------------------------------------------------------------------


def assert_read_only(array: np.ndarray) -> None:
    """No way that numpy knows of makes it, or what it stands on, writable."""
    link: Any = array
    while isinstance(link, np.ndarray):
        assert not link.flags.writeable
        with pytest.raises(ValueError, match=r"WRITEABLE|read-only"):
            link.flags.writeable = True
        with pytest.raises(ValueError, match=r"WRITEABLE|read-only"):
            link.setflags(write=True)
        with pytest.raises(ValueError, match="read-only"):
            link[...] = 0
        link = link.base
    assert memoryview(link).readonly
    if array.size and array.dtype.kind not in "MmV":
        view = memoryview(array)  # type: ignore[arg-type]
        assert view.readonly
        assert not np.asarray(view).flags.writeable
        with pytest.raises(ValueError, match=r"WRITEABLE|read-only"):
            np.asarray(view).flags.writeable = True


@pytest.mark.parametrize("size", [10, 100])
@pytest.mark.parametrize("dtype", ["B", ">f8", "M8[us]", STRUCTURED], ids=str)
def test_received_arrays_are_read_only(loop: Loop, dtype: Any, size: int) -> None:
    for layout in LAYOUTS.values():
        array = layout(filled(dtype, (size, 60)))
        for arrived in (loop.trip(array), loop.trip({"k": array})["k"]):
            assert_read_only(arrived)
            assert_read_only(arrived.view())
            assert same(arrived, array)


def test_referenced_and_private_arrays_are_read_only_too() -> None:
    with Loop(borrow_cap=1) as loop:
        loan = loop.loan((90, 100))
        loan[...] = 5
        kept = loop.trip([loan, loan[10:60, ::2]])
        for array in kept:
            assert_read_only(array)
        private = loop.trip(np.full((90, 100), 6, np.uint8))  # past the cap
        assert_read_only(private)
        assert np.unique(private).tolist() == [6]
        del loan, kept, array, private


def test_a_loan_that_was_sent_is_read_only_at_its_sender(loop: Loop) -> None:
    loan = loop.loan((90, 100))
    loan[...] = 5
    loop.send({"inside": [loan]})
    assert not loan.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        loan[0, 0] = 1
    assert loop.receive()["inside"][0][0, 0] == 5


@pytest.mark.parametrize("size", [3, 9000])
@pytest.mark.parametrize("frozen", [False, True], ids=["writable", "read-only"])
def test_basic_transmitter_gives_writable_copies(size: int, frozen: bool) -> None:
    """Also of an array that its sender got from elsewhere, and can't write to."""
    array = np.asfortranarray(np.arange(2 * size).reshape(2, size))
    array.setflags(write=not frozen)
    with Loop(BasicTransmitter()) as loop:
        for arrived in (loop.trip([array])[0], loop.trip(array), loop.trip([array[:, ::2]])[0]):
            arrived[0, 0] = 77
    assert array[0, 0] == 0


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


# ---- what can't be sent --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        (threading.Lock(), "data (lock)"),
        ({"fine": 1, "culprit": threading.Lock()}, "data['culprit']"),
        ([1, [2, {"k": (3, threading.Lock())}]], "data[1][1]['k'][1]"),
        (Reading(ARRAY, [Plain(threading.Lock())]), "data.parts[0].value"),
        (lambda: 1, "data (function)"),
        (np.array([1, threading.Lock()], object), "data"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_unpicklable_payloads_are_told_by_routine_and_field(loop: Loop, payload: Any, where: str) -> None:
    with pytest.raises(PayloadError) as caught:
        loop.send(payload)
    assert caught.value.routine == "sender"
    assert caught.value.field.startswith(where), caught.value.field
    assert "'sender'" in str(caught.value)
    assert where in str(caught.value)
    assert loop.held_slots() == 0
    assert loop.trip([1, ARRAY])[0] == 1


def test_unpicklable_after_a_frame_was_referenced(loop: Loop) -> None:
    loan = loop.loan((100, 100))
    loan[...] = 3
    with pytest.raises(PayloadError, match=r"data\[1\]"):
        loop.send([loan, threading.Lock()])
    assert loop.trip(loan)[0, 0] == 3
    del loan
    assert loop.held_slots() == 0


def test_the_routine_goes_on_after_an_unpicklable_payload(caplog: pytest.LogCaptureFixture) -> None:
    items = [1, Reading(ARRAY, [threading.Lock()]), 2, {"k": lambda: 0}, 3]
    pipe = Pipe(policy="block")
    expect = Expect("expect", items)
    chain(pipe, Items("items", items), expect)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    statistics = pipe.statistics()
    wire = statistics.wires["items", "expect"]
    assert (wire.sent, wire.received, wire.dropped["error"], wire.waiting) == (5, 3, 2, 0)
    assert statistics.routines["items"].errors == 2
    assert expect.board[0] == 3
    records = [record for record in caplog.records if record.name == "Pipe.items.items"]
    assert ["data.parts[0]" in record.getMessage() for record in records] == [True, False]
    assert ["data['k']" in record.getMessage() for record in records] == [False, True]


def test_the_receiver_goes_on_after_a_payload_that_does_not_load(caplog: pytest.LogCaptureFixture) -> None:
    items = [1, [ARRAY, WorseThanNone()], 2]
    pipe = Pipe(policy="block")
    expect = Expect("expect", items)
    chain(pipe, Items("items", items), expect)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    statistics = pipe.statistics()
    wire = statistics.wires["items", "expect"]
    assert (wire.sent, wire.received, wire.dropped["error"], wire.waiting) == (3, 2, 1, 0)
    assert statistics.routines["expect"].errors == 1
    assert expect.board[0] == 2
    (record,) = (record for record in caplog.records if record.name == "Pipe.expect.expect")
    assert "ArithmeticError: this can't be loaded" in record.getMessage()
