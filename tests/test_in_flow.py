"""Within a flow each receiver gets its own of a payload, with read-only arrays; what lies in a slot is not copied."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loop import Flow
from pipert_shm import (
    START_EVENT_NAME,
    BasicTransmitter,
    BatchRoutine,
    Data,
    DataTransmitter,
    DestinationRoutine,
    EndOfStream,
    FrameData,
    Join,
    MiddleRoutine,
    Pipe,
    SharedMemoryTransmitter,
    SourceRoutine,
    Wire,
)
from routines import Forward, Frames, Record, one_value, received
from test_zero_copy import place
from waiting import Board

SHAPE = (60, 80, 3)
NBYTES = 60 * 80 * 3


@dataclass
class Reading(Data):
    frame: Any
    boxes: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Slotted:
    frame: Any
    boxes: list[Any]


class Plain:
    def __init__(self, frame: Any, boxes: list[Any]) -> None:
        self.frame = frame
        self.boxes = boxes


class Framed(FrameData):
    def __init__(self, frame: Any, boxes: list[Any]) -> None:
        super().__init__()
        self.frame = frame
        self.boxes = boxes

    def get_frame(self) -> np.ndarray:
        frame: np.ndarray = self.frame
        return frame


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
by_transmitters = pytest.mark.parametrize(
    "transmitter", [SharedMemoryTransmitter(), BasicTransmitter()], ids=["shared", "basic"]
)
where = pytest.mark.parametrize(("near", "far"), [(2, 0), (2, 1)], ids=["in the flow", "in it and elsewhere"])


def assert_read_only(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.setflags(write=True)


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
        bare[0].shape = (NBYTES,)  # of its own array alone
        assert bare[1].shape == SHAPE
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


# ---- what does not pickle ------------------------------------------------------------------------


@dataclass
class WithLock(Data):
    lock: Any
    boxes: list[int]
    frame: np.ndarray


@pytest.mark.parametrize(
    "thing",
    [threading.Lock, threading.Event, lambda: (n for n in range(3)), lambda: lambda: 1],
    ids=["lock", "event", "generator", "lambda"],
)
def test_what_does_not_pickle_is_passed_by_reference(thing: Callable[[], Any], caplog: pytest.LogCaptureFixture) -> None:
    """Alone, in containers and in dataclasses, whose other parts are each receiver's own all the same."""
    shared, frame = thing(), np.full(SHAPE, 7, np.uint8)
    with caplog.at_level(logging.WARNING), Flow(near=2) as flow:
        assert all(got is shared for got in flow.trip(shared))
        in_dict = flow.trip({"thing": shared, "boxes": [1], "frame": frame})
        in_dataclass = flow.trip(WithLock(shared, [1], frame))
        frame[...] = 9
        for first, second, *parts in (
            (in_dict[0]["boxes"], in_dict[1]["boxes"], *(got["thing"] for got in in_dict), *(got["frame"] for got in in_dict)),
            (
                in_dataclass[0].boxes,
                in_dataclass[1].boxes,
                *(got.lock for got in in_dataclass),
                *(got.frame for got in in_dataclass),
            ),
        ):
            assert first is not second
            assert parts[0] is parts[1] is shared
            for got in parts[2:]:
                assert (got == 7).all()
                assert_read_only(got)
        del in_dict, in_dataclass, parts, got
    assert len(caplog.records) == 1
    assert "does not pickle" in caplog.text
    assert "'sender'" in caplog.text


def test_loans_in_what_is_passed_by_reference_turn_read_only() -> None:
    class Holder:
        def __init__(self, frame: np.ndarray) -> None:
            self.frame, self.lock = frame, threading.Lock()

    with Flow() as flow:
        frame = flow.loan(SHAPE)
        holder = Holder(frame)
        (got,) = flow.trip(holder)
        assert got is holder
        assert not frame.flags.writeable
        del frame, holder, got


def test_an_object_that_fails_to_load_costs_its_message(caplog: pytest.LogCaptureFixture) -> None:
    with Flow(near=1) as flow:
        flow.send(Unloadable())
        with pytest.raises(ValueError, match="not today"):
            flow.receive()
        assert flow.trip(5) == [5]


class Unloadable:
    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("not today")


def test_tensors_on_devices_are_passed_by_reference() -> None:
    torch = pytest.importorskip("torch")
    there, here = torch.empty(3, device="meta"), torch.ones(3)
    with Flow(near=2) as flow:
        first, second = flow.trip({"there": there, "here": here})
        assert first["there"] is second["there"] is there
        first["here"][0] = 5
        assert second["here"][0] == here[0] == 1


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


# ---- in pipes ------------------------------------------------------------------------------------


class Reusing(SourceRoutine):
    """Fills the same buffer, and the same dict, again and again."""

    def setup(self) -> None:
        self.data: dict[str, Any] = {"frame": np.zeros(SHAPE, np.uint8), "boxes": []}

    def main_logic(self) -> Any:
        n = self.meta.sequence
        if n == 20:
            raise EndOfStream
        self.data["frame"][...] = n
        self.data["boxes"].append(n)
        return self.data


class Spoiling(MiddleRoutine):
    """Writes into what it gets as far as it can."""

    def main_logic(self, data: Any) -> Any:
        try:
            data["frame"][...] = 255
            wrote = True
        except ValueError:
            wrote = False
        data["boxes"].append(self.name)
        return {"wrote": wrote, **data}


def digest(data: Any) -> tuple[int, list[Any], Any]:
    return one_value(data["frame"]), data["boxes"][-2:], data.get("wrote")


def run(pipe: Pipe) -> None:
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()


@by_transmitters
def test_siblings_and_a_source_that_reuses_its_buffer(tmp_path: Path, transmitter: DataTransmitter) -> None:
    basic = transmitter.in_band
    pipe = Pipe(policy="block", data_transmitter=transmitter)
    source, a, b = Reusing("source"), Spoiling("a"), Spoiling("b")
    records = [Record(name, tmp_path / name, digest) for name in ("ra", "rb", "rs")]
    pipe.create_flow("all", False, source, a, b, *records)
    pipe.link(Wire(source, (a, b, records[2])), Wire(a, records[0]), Wire(b, records[1]))
    run(pipe)
    for name, writer in (("ra", "a"), ("rb", "b")):
        expected = [(255 if basic else n, [n, writer], basic) for n in range(20)]
        assert [message.value for message in received(tmp_path / name)] == expected
    assert [message.value for message in received(tmp_path / "rs")] == [(n, [n - 1, n][n == 0 :], None) for n in range(20)]
    assert {routine.errors for routine in pipe.statistics().routines.values()} == {0}


def test_what_is_forwarded_in_a_flow_is_not_copied(tmp_path: Path) -> None:
    """A frame from another flow, and one that its own source loaned, through two routines, into the flow and out of it."""

    class Placing(DestinationRoutine):
        def __init__(self, name: str) -> None:
            super().__init__(name)

        def main_logic(self, data: Any) -> None:
            assert_read_only(data["frame"])
            assert place(data["frame"]) == data["place"]

    class Wrap(MiddleRoutine):
        def main_logic(self, data: np.ndarray) -> Any:
            return {"frame": data, "place": place(data), "sibling": "in the flow"}

    for apart in (True, False):
        pipe = Pipe(policy="block")
        camera = Frames("camera", 20, SHAPE, loan=True)
        wrap, middle, near, far = Wrap("wrap"), Forward("middle"), Placing("near"), Placing("far")
        pipe.create_flow("near", False, *(() if apart else (camera,)), wrap, middle, near)
        if apart:
            pipe.create_flow("camera", False, camera)
        pipe.create_flow("far", False, far)
        pipe.link(Wire(camera, wrap), Wire(wrap, middle), Wire(middle, (near, far)))
        run(pipe)
        statistics = pipe.statistics()
        assert [(statistics.routines[name].received, statistics.routines[name].errors) for name in ("near", "far")] == [
            (20, 0)
        ] * 2
        assert {routine.copied_bytes for routine in statistics.routines.values()} == {0}
        assert {wire.private_bytes for wire in statistics.wires.values()} == {0}


class Batched(BatchRoutine):
    def main_logic(self, batch: list[Any]) -> list[Any]:
        for data in batch:
            assert_read_only(data["frame"])
            data["boxes"].append("batch")
        return batch


class Joined(MiddleRoutine):
    join = Join(by="seq")

    def main_logic(self, data: dict[str, Any]) -> Any:
        frames = [one["frame"] for one in data.values()]
        boxes = [one["boxes"] for one in data.values()]
        boxes[0].append("join")
        return {"frame": frames[0], "boxes": [len(box) for box in boxes]}


def test_batches_and_joins_in_a_flow(tmp_path: Path) -> None:
    pipe = Pipe(policy="block", capacity=4)
    source, batch, other, join = (
        Reusing("source"),
        Batched("batch", batch_size=4, max_wait=0.01),
        Forward("other"),
        Joined("join"),
    )
    record = Record("record", tmp_path / "r", digest)
    pipe.create_flow("all", False, source, batch, other, join, record)
    pipe.link(Wire(source, (batch, other)), Wire(batch, join), Wire(other, join), Wire(join, record))
    run(pipe)
    # The batch's is one longer, and the join's own the one that it got first.
    assert [message.value for message in received(tmp_path / "r")] == [(n, [n + 3, n + 1], None) for n in range(20)]
    assert {routine.errors for routine in pipe.statistics().routines.values()} == {0}


def test_replicas_of_a_flow_of_several_routines(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    source, first, second = Reusing("source"), Spoiling("first"), Spoiling("second")
    record = Record("record", tmp_path / "r", digest)
    pipe.create_flow("camera", False, source)
    pipe.create_flow("work", True, first, second, replicas=2, ordered=True)
    pipe.create_flow("record", False, record)
    pipe.link(Wire(source, first), Wire(second, record))
    run(pipe)
    values = [message.value for message in received(tmp_path / "r")]
    assert [value[0] for value in values] == list(range(20))
    assert all(value[1][0].startswith("first") and value[1][1].startswith("second") for value in values)


def test_a_tap_changes_nothing_in_a_flow(tmp_path: Path) -> None:
    """Also where it can't be given what it taps."""
    board = Board()

    class Source(SourceRoutine):
        def main_logic(self) -> Any:
            board.wait(0)
            if self.meta.sequence == 20:
                raise EndOfStream
            return {"frame": np.full(SHAPE, self.meta.sequence, np.uint8), "lock": threading.Lock()}

    pipe = Pipe(policy="block")
    source, record = Source("source"), Record("record", tmp_path / "r", lambda data: one_value(data["frame"]))
    pipe.create_flow("all", True, source, record)
    pipe.build()
    with pipe.tap(source):
        pipe.notify_event(START_EVENT_NAME)
        board[0] = 1
        pipe.join()
    assert [message.value for message in received(tmp_path / "r")] == list(range(20))
    assert pipe.statistics().routines["source"].errors == 0


def test_a_tap_and_a_sibling_see_the_same(tmp_path: Path) -> None:
    board = Board()

    class Gate(DestinationRoutine):
        def main_logic(self, data: Any) -> None:
            board.wait(0)
            data["boxes"].append("mine")
            assert_read_only(data["frame"])

    pipe = Pipe(policy="block")
    source = Reusing("source")
    pipe.create_flow("all", True, source, Gate("gate"))
    pipe.build()
    with pipe.tap(source) as tap:
        pipe.notify_event(START_EVENT_NAME)
        data = next(iter(tap))
        board[0] = 1
        pipe.join()
        assert digest(data) == (data["boxes"][-1], data["boxes"][-2:], None)
        assert "mine" not in data["boxes"]
        del data
    assert {routine.errors for routine in pipe.statistics().routines.values()} == {0}


def test_the_transmitter_s_own_functions_get_their_own(tmp_path: Path) -> None:
    class Tagging(DataTransmitter):
        def transmit(self) -> Callable[[Any], Any]:
            return lambda data: {**data, "tags": []}

        def receive(self) -> Callable[[Any], Any]:
            def tag(data: Any) -> Any:
                data["tags"].append("received")
                return data

            return tag

    pipe = Pipe(policy="block", data_transmitter=Tagging())
    source = Reusing("source")
    records = [Record(name, tmp_path / name, lambda data: (one_value(data["frame"]), data["tags"])) for name in ("a", "b")]
    pipe.create_flow("all", False, source, *records)
    pipe.link(Wire(source, records))
    run(pipe)
    for name in ("a", "b"):
        assert [message.value for message in received(tmp_path / name)] == [(n, ["received"]) for n in range(20)]
