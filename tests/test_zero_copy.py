"""Frames are written once: forwarded where they lie, valid as long as any view lives, and given back when the last one dies."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loop import Loop
from pipert_shm import (
    START_EVENT_NAME,
    DestinationRoutine,
    EndOfStream,
    MiddleRoutine,
    NoFreeSlot,
    Pipe,
    SharedMemoryTransmitter,
    SourceRoutine,
    Wire,
)
from pipert_shm.memory import SHM
from routines import Apply, Forward, Frames, Items, Record, Sink, chain, one_value, received
from waiting import Board, eventually

SHAPE = (120, 160, 3)
NBYTES = 120 * 160 * 3


def place(array: np.ndarray) -> tuple[str, int] | None:
    """The segment that an array's first element lies in, and where in it: the same in every process. None: private memory."""
    address: int = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, _, _, *path = line.split(maxsplit=5)
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= address < last and path and path[0].startswith("/dev/shm/pipert-"):
            return path[0].split()[0], address - first + int(offset, 16)
    return None


def mapped() -> set[str]:
    """The segments that are mapped here."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[5] for line in lines if "/dev/shm/pipert-" in line}


class Placed(Frames):
    """Sends each frame with the place that it was loaned in."""

    def main_logic(self) -> Any:
        frame = super().main_logic()
        return {"frame": frame, "place": place(frame)}


def run(pipe: Pipe) -> None:
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()


def copied(pipe: Pipe) -> dict[str, int]:
    return {name: routine.copied_bytes for name, routine in pipe.statistics().routines.items()}


def private(pipe: Pipe) -> int:
    return sum(wire.private_bytes for wire in pipe.statistics().wires.values())


# ---- forwarded, not copied -----------------------------------------------------------------------


def test_a_loan_travels_where_it_lies(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    source = Placed("source", 30, SHAPE, loan=True)
    record = Record("record", tmp_path / "r", lambda data: (place(data["frame"]), data["place"], one_value(data["frame"])))
    chain(pipe, source, Forward("one"), Forward("two"), record)
    run(pipe)
    got = [message.value for message in received(tmp_path / "r")]
    assert [value for _, _, value in got] == list(range(30))
    assert all(arrived is not None and arrived == loaned for arrived, loaned, _ in got)
    assert set(copied(pipe).values()) == {0}
    assert private(pipe) == 0


def test_a_plain_array_is_copied_once(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    keep_place = Apply("middle", lambda frame: {"frame": frame, "place": place(frame)})
    record = Record("record", tmp_path / "r", lambda data: (place(data["frame"]), data["place"]))
    chain(pipe, Frames("source", 30, SHAPE), keep_place, record)
    run(pipe)
    assert copied(pipe) == {"source": 30 * NBYTES, "middle": 0, "record": 0}
    assert private(pipe) == 0
    assert all(arrived is not None and arrived == before for _, _, (arrived, before) in received(tmp_path / "r"))


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "crop": lambda frame: frame[10:90, 20:140],
    "channel": lambda frame: frame[..., 1],
    "BGR to RGB": lambda frame: frame[..., ::-1],
    "reversed": lambda frame: frame[::-1, ::-1],
    "transposed": lambda frame: frame.transpose(2, 1, 0),
    "strided": lambda frame: frame[::2, 1::3],
    "flat": lambda frame: frame.reshape(-1),
    "as 32 bits": lambda frame: frame.reshape(-1).view("<u4"),
    "broadcast": lambda frame: np.broadcast_to(frame[:1], (120, 160, 3)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_travel_by_reference(tmp_path: Path, name: str) -> None:
    view = VIEWS[name]
    frames = [np.random.default_rng(n).integers(0, 256, SHAPE, np.uint8) for n in range(6)]
    pipe = Pipe(policy="block")
    middle = Apply("middle", lambda frame: {"alone": view(frame), "place": place(view(frame))})
    last = Apply("last", lambda data: data["alone"] if place(data["alone"]) == data["place"] else None)
    chain(pipe, Items("source", frames), middle, last, Record("record", tmp_path / "r", np.ndarray.tolist))
    run(pipe)
    assert copied(pipe) == {"source": 6 * NBYTES, "middle": 0, "last": 0, "record": 0}
    assert [message.value for message in received(tmp_path / "r")] == [view(frame).tolist() for frame in frames]


def test_receivers_of_one_frame_share_it(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    source = Placed("source", 30, SHAPE, loan=True)
    records = [
        Record(f"r{n}", tmp_path / f"r{n}", lambda data: place(data["frame"]) == data["place"] and one_value(data["frame"]))
        for n in range(3)
    ]
    chain(pipe, source)
    for record in records:
        pipe.create_flow(record.name, False, record)
    pipe.link(Wire(source, records))
    run(pipe)
    for record in records:
        assert [message.value for message in received(record.path)] == list(range(30))
    assert set(copied(pipe).values()) == {0}


def test_a_diamond_across_flows(tmp_path: Path) -> None:
    """The same slot comes to one receiver on three ways, each with a hold of its own."""
    pipe = Pipe(policy="block")
    source, left, right = Frames("source", 40, SHAPE, loan=True), Forward("left"), Apply("right", lambda frame: frame[::-1])
    record = Record("record", tmp_path / "r", one_value)
    for routine in (source, left, right, record):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, (left, right, record)), Wire(left, record), Wire(right, record))
    run(pipe)
    assert sorted(message.value for message in received(tmp_path / "r")) == sorted(3 * list(range(40)))
    assert set(copied(pipe).values()) == {0}


class Gate(Forward):
    """Forwards once the board's first cell is set."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: Any) -> Any:
        self.board.wait(0)
        return data


def test_to_the_same_flow_and_across_a_wire_is_one_write(tmp_path: Path) -> None:
    """All of them stand on the same memory, and the one in the flow can write to it as little as the others."""
    sent: dict[int, tuple[str, int] | None] = {}

    class Source(SourceRoutine):
        def main_logic(self) -> Any:
            if self.meta.sequence == 20:
                raise EndOfStream
            frame = self.loan(SHAPE)
            frame[...] = self.meta.sequence
            sent[self.meta.sequence] = place(frame)
            return frame

    class Near(DestinationRoutine):
        def main_logic(self, data: np.ndarray) -> None:
            assert sent[self.meta.sequence] == place(data) is not None
            with pytest.raises(ValueError, match="WRITEABLE"):
                data.setflags(write=True)
            assert one_value(data) == self.meta.sequence

    source, near = Source("source"), Near("near")
    far = Record("far", tmp_path / "r", lambda frame: (place(frame) is not None, one_value(frame)))
    pipe = Pipe(policy="block", capacity=1)
    pipe.create_flow("both", True, source, near)
    pipe.create_flow("far", False, far)
    pipe.link(Wire(source, far))
    run(pipe)
    assert [message.value for message in received(tmp_path / "r")] == [(True, n) for n in range(20)]
    near_statistics = pipe.statistics().routines["near"]
    assert (near_statistics.received, near_statistics.errors) == (20, 0)
    assert copied(pipe)["source"] == private(pipe) == 0


def test_through_a_flow_of_several_routines(tmp_path: Path) -> None:
    """What waits between the routines of one flow, all of them full here, is no hoard: it is neither copied nor warned of."""
    board = Board()
    pipe = Pipe(policy="block")
    source = Placed("source", 60, SHAPE, loan=True)
    middles = [Forward(f"m{n}") for n in range(4)]
    gate = Gate("gate", board)
    record = Record("record", tmp_path / "r", lambda data: (place(data["frame"]) == data["place"], one_value(data["frame"])))
    pipe.create_flow("a", False, source)
    pipe.create_flow("b", True, *middles)
    pipe.create_flow("c", False, gate)
    pipe.create_flow("d", False, record)
    pipe.link(Wire(source, middles[0]), Wire(middles[-1], gate), Wire(gate, record))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)

    def full() -> bool:
        wires = pipe.statistics().wires
        return all(wire.waiting == wire.capacity for names, wire in wires.items() if names != ("gate", "record"))

    eventually(full, "all queues being full")
    board[0] = 1
    pipe.join()
    assert [message.value for message in received(tmp_path / "r")] == [(True, n) for n in range(60)]
    assert private(pipe) == 0
    assert set(copied(pipe).values()) == {0}


def test_fan_out_into_one_flow_maps_a_ring_once(tmp_path: Path) -> None:
    """Six threads of one process meet the same new ring at once, again and again; each keeps what it got."""

    class Keep(DestinationRoutine):
        def setup(self) -> None:
            self.kept: list[np.ndarray] = []

        def main_logic(self, data: np.ndarray) -> None:
            self.kept = [*self.kept[-1:], data]
            for frame in self.kept:
                one_value(frame)

    for _ in range(10):
        pipe = Pipe(policy="block")
        source = Items("source", [np.full((n, 100), n, np.uint8) for n in range(60, 64)])
        sinks = [Keep(f"k{n}") for n in range(6)]
        pipe.create_flow("a", False, source)
        pipe.create_flow("b", False, *sinks)
        pipe.link(Wire(source, sinks))
        run(pipe)
        assert {routine.errors for routine in pipe.statistics().routines.values()} == {0}


def test_a_frame_that_is_sent_again_while_it_is_still_held(tmp_path: Path) -> None:
    """The wire can't hold a slot twice: the second time it is a copy, and counted."""

    class Window(MiddleRoutine):
        before: np.ndarray | None = None

        def main_logic(self, data: np.ndarray) -> Any:
            window = [frame for frame in (self.before, data) if frame is not None]
            self.before = data
            return window

    pipe = Pipe(policy="block")
    record = Record("record", tmp_path / "r", lambda window: [one_value(frame) for frame in window])
    chain(pipe, Frames("source", 20, SHAPE, loan=True), Window("window"), record)
    run(pipe)
    assert [message.value for message in received(tmp_path / "r")] == [[0], *([n - 1, n] for n in range(1, 20))]


# ---- loans ---------------------------------------------------------------------------------------


def test_a_loan_that_is_never_sent_is_given_back() -> None:
    with Loop(slots=4) as loop:
        for _ in range(20):
            first, second = loop.loan((5000,)), loop.loan((5000,))
            assert place(first) != place(second)
        assert loop.held_slots() == 2
        del first, second
        assert loop.held_slots() == 0


def test_a_source_that_often_throws_its_loan_away(tmp_path: Path) -> None:
    class Picky(Frames):
        def main_logic(self) -> Any:
            frame = super().main_logic()
            return frame if self.next % 5 == 0 else None

    pipe = Pipe(policy="block")
    chain(pipe, Picky("picky", 200, SHAPE, loan=True), Record("record", tmp_path / "r", one_value))
    run(pipe)
    assert [message.value for message in received(tmp_path / "r")] == [n % 251 for n in range(4, 200, 5)]


def test_loans_that_are_all_kept_are_told_by_holder() -> None:
    with Loop(slots=6) as loop:
        kept = [loop.loan((5000,)) for _ in range(6)]
        with pytest.raises(NoFreeSlot, match=r"'sender'.*holds 6") as caught:
            loop.loan((5000,))
        assert (caught.value.routine, caught.value.slots, sum(caught.value.holders.values())) == ("sender", 6, 6)
        kept.pop()
        assert loop.loan((5000,)).shape == (5000,)
        kept.clear()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (4097,)])
@pytest.mark.parametrize("dtype", ["u1", "f8", ">i4", "M8[s]", "?"])
def test_loans_of_any_shape(shape: tuple[int, ...], dtype: str) -> None:
    with Loop() as loop:
        loan = loop.loan(shape, dtype)
        assert (loan.shape, loan.dtype, loan.flags.writeable) == (shape, np.dtype(dtype), True)
        loan[...] = np.ones(shape).astype(dtype)
        arrived = loop.trip(loan)
        assert np.array_equal(arrived, np.ones(shape).astype(dtype))
        del loan, arrived


@pytest.mark.parametrize("wired", ["within the flow only", "out of it too", "out of it by another transmitter"])
def test_a_loan_that_stays_in_its_flow(tmp_path: Path, wired: str) -> None:
    pipe = Pipe(policy="block")
    source = Frames("source", 20, SHAPE, loan=True)
    near = Record("near", tmp_path / "near", lambda frame: (one_value(frame), frame.flags.writeable))
    far = Record("far", tmp_path / "far", one_value)
    if wired == "within the flow only":
        pipe.create_flow("a", True, source, near)
    else:
        pipe.create_flow("a", True, source, near)
        pipe.create_flow("b", False, far)
        pipe.link(Wire(source, far, data_transmitter=None if wired == "out of it too" else SharedMemoryTransmitter()))
    run(pipe)
    assert [message.value[0] for message in received(tmp_path / "near")] == list(range(20))
    if wired != "within the flow only":
        assert not any(message.value[1] for message in received(tmp_path / "near"))
        assert [message.value for message in received(tmp_path / "far")] == list(range(20))
        assert set(copied(pipe).values()) == {0}


def test_a_loan_outside_a_pipe_is_a_plain_array() -> None:
    loan = Frames("alone", 1).loan((3, 4), "f4")
    assert (loan.shape, loan.dtype.str, place(loan)) == ((3, 4), "<f4", None)


# ---- views keep a frame alive --------------------------------------------------------------------


def test_a_slot_is_free_as_soon_as_the_last_view_died() -> None:
    with Loop() as loop:
        loan = loop.loan((100, 100))
        loan[...] = 9
        arrived = loop.trip(loan)
        del loan
        assert loop.held_slots() == 1
        views = [arrived[3:5], arrived.T, memoryview(arrived)[:1], np.asarray(arrived).reshape(-1)[::7]]
        del arrived
        while views:
            assert loop.held_slots() == 1
            views.pop()
        assert loop.held_slots() == 0


def test_arrays_of_one_message_share_its_slot_s_life() -> None:
    with Loop() as loop:
        arrived = loop.trip([np.full(5000, n, np.uint8) for n in range(5)])
        assert loop.held_slots() == 1
        last = arrived.pop(2)
        del arrived
        assert loop.held_slots() == 1
        assert one_value(last) == 2
        del last
        assert loop.held_slots() == 0


def test_many_small_new_arrays_take_one_slot() -> None:
    with Loop() as loop:
        crops = [np.full((64, 64, 3), n, np.uint8) for n in range(50)]
        arrived = loop.trip(crops)
        assert loop.held_slots() == 1
        assert loop.copied_bytes == sum(crop.nbytes for crop in crops)
        assert [one_value(crop) for crop in arrived] == list(range(50))
        del arrived


def test_dlpack_and_the_buffer_protocol_stand_on_the_slot() -> None:
    """Any framework's tensor does: it is the memory, and it keeps the slot."""
    with Loop() as loop:
        arrived = loop.trip(np.full((100, 100, 3), 7, np.uint8))
        where = place(arrived)
        buffer = memoryview(arrived)
        assert (buffer.readonly, buffer.shape, buffer.format) == (True, (100, 100, 3), "B")
        tensor = np.from_dlpack(arrived[10:20, ::2])
        assert not tensor.flags.writeable
        assert tensor.shape == (10, 50, 3)
        assert where is not None
        assert place(tensor) == (where[0], where[1] + 3000)
        del arrived, buffer
        assert loop.held_slots() == 1
        assert one_value(tensor) == 7
        del tensor
        assert loop.held_slots() == 0


def test_torch_tensors_stand_on_the_slot() -> None:
    torch = pytest.importorskip("torch")
    with Loop() as loop:
        arrived = loop.trip(np.full((100, 100, 3), 7, np.uint8))
        tensor = torch.from_dlpack(arrived)
        assert tensor.data_ptr() == arrived.__array_interface__["data"][0]
        del arrived
        assert loop.held_slots() == 1
        assert int(tensor.min()) == int(tensor.max()) == 7
        del tensor
        assert loop.held_slots() == 0


def test_the_last_view_may_die_on_any_thread() -> None:
    with Loop(slots=8) as loop:
        for _ in range(50):
            frames = [loop.trip(np.full(5000, n, np.uint8)) for n in range(3)]
            threads = [threading.Thread(target=list.clear, args=([frames.pop()],)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            del threads, thread
            assert loop.held_slots() == 0


def test_a_forked_child_releases_nothing() -> None:
    with Loop(slots=3) as loop:
        arrived = loop.trip(np.full(5000, 7, np.uint8))
        pid = os.fork()
        if pid == 0:
            del arrived
            os._exit(loop.held_slots() != 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert loop.held_slots() == 1
        for n in range(10):
            assert one_value(loop.trip(np.full(5000, n, np.uint8))) == n
        assert one_value(arrived) == 7
        del arrived
        assert loop.held_slots() == 0


class Keeper(DestinationRoutine):
    """Keeps views of some frames that it got, checks all of them at each message, and ends after `until` messages."""

    def __init__(self, name: str, keep: int, until: int, board: Board) -> None:
        super().__init__(name)
        self.keep = keep
        self.until = until
        self.board = board

    def setup(self) -> None:
        self.kept: deque[tuple[int, np.ndarray]] = deque(maxlen=self.keep)

    def main_logic(self, data: np.ndarray) -> None:
        number = self.meta.sequence % 251
        self.kept.append((number, data[3:9, ::2]))
        for wanted, view in self.kept:
            if one_value(view) != wanted:
                self.board.add(1)
        self.board.add(0)
        if self.board[0] == self.until:
            raise EndOfStream


@pytest.mark.parametrize("loan", [True, False], ids=["loaned", "copied"])
@pytest.mark.parametrize("keep", [1, 2, 5])
def test_kept_views_never_change_while_the_sender_goes_on(keep: int, loan: bool) -> None:
    board = Board()
    pipe = Pipe(grace_period=2)
    chain(pipe, Frames("source", None, (40, 50, 3), loan=loan), Forward("middle"), Keeper("keeper", keep, 400, board))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["keeper"].state == "ended", "400 messages")
    pipe.join(to_kill=True)
    assert (board[0], board[1]) == (400, 0)
    assert pipe.statistics().routines["keeper"].errors == 0


# ---- the borrow cap ------------------------------------------------------------------------------


class Hoarder(DestinationRoutine):
    """Keeps everything, and looks through it at the end."""

    def setup(self) -> None:
        self.hoard: list[tuple[int, np.ndarray]] = []

    def main_logic(self, data: np.ndarray) -> None:
        self.hoard.append((self.meta.sequence, data))

    def cleanup(self) -> None:
        assert [one_value(frame) for _, frame in self.hoard] == [number % 251 for number, _ in self.hoard]
        self._logger.info("%d frames are as they were", len(self.hoard))


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest"])
def test_a_hoarder_starves_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture, policy: Any) -> None:
    caplog.set_level("INFO")
    pipe = Pipe(policy="block")
    source = Frames("source", 300, (60, 60, 3), loan=True)
    hoarder, record = Hoarder("hoarder"), Record("record", tmp_path / "r", one_value)
    for routine in (source, hoarder, record):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, hoarder, policy=policy), Wire(source, record))
    run(pipe)
    assert [message.value for message in received(tmp_path / "r")] == [n % 251 for n in range(300)]
    wires = pipe.statistics().wires
    assert wires["source", "record"].private_bytes == 0
    hoarded = wires["source", "hoarder"]
    assert hoarded.sent == 300 == hoarded.received + hoarded.lost
    assert hoarded.dropped["no_slot"] == 0
    if policy == "block":
        assert hoarded.received == 300
    assert hoarded.received < 4 or hoarded.private_bytes > 0
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "'source'" in warnings[0]
    assert f"{hoarded.received} frames are as they were" in caplog.messages


# ---- sizes that change ---------------------------------------------------------------------------


@pytest.mark.parametrize("loan", [True, False], ids=["loaned", "copied"])
def test_the_resolution_changes_mid_stream(tmp_path: Path, loan: bool) -> None:
    heights = [*range(10, 30), *[400] * 20, *[15] * 20, *[900] * 10, *[10, 1200] * 10, 3000]

    class Camera(SourceRoutine):
        number = 0

        def main_logic(self) -> Any:
            if self.number == len(heights):
                raise EndOfStream
            shape = (heights[self.number], 500)
            frame = self.loan(shape) if loan else np.empty(shape, np.uint8)
            frame[...] = self.number % 251
            self.number += 1
            return frame

    pipe = Pipe(policy="block")
    record = Record("record", tmp_path / "r", lambda frame: (len(frame), one_value(frame)))
    chain(pipe, Camera("camera"), Forward("middle"), record)
    run(pipe)
    assert [message.value for message in received(tmp_path / "r")] == [(height, n) for n, height in enumerate(heights)]
    for wire in pipe.statistics().wires.values():
        assert (wire.received, wire.lost, wire.private_bytes) == (len(heights), 0, 0)


def test_rings_that_are_outgrown_go(tmp_path: Path) -> None:
    """Their memory as well as their names, in the sender, which never receives, and in the receiver."""
    board = Board()

    class Growing(SourceRoutine):
        def main_logic(self) -> Any:
            number = board[0]
            if number == 40:
                board[1] = len(rings_mapped())
                board.wait(2)
                raise EndOfStream
            board[0] = number + 1
            return np.full(5000 + 5000 * number, number, np.uint8)

    class Last(DestinationRoutine):
        def main_logic(self, data: np.ndarray) -> None:
            board[3] = len(rings_mapped())

    at_first = mapped()

    def rings_mapped() -> set[str]:
        return mapped() - at_first

    pipe = Pipe(policy="block")
    chain(pipe, Growing("growing"), Last("last"))
    pipe.build()
    assert pipe._session is not None
    pipe.notify_event(START_EVENT_NAME)
    board.wait(1)
    segments = list(SHM.glob(f"pipert-{pipe._session.segment.pipe_id}-*"))
    board[2] = 1
    pipe.join()
    assert pipe.statistics().wires["growing", "last"].received == 40
    # control, messages, the ring in use, and an old one or two that wait for their last reader
    assert len(segments) <= 5, segments
    assert board[1] <= 6
    assert board[3] <= 6


def test_a_ring_that_was_declared_too_small_is_replaced(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    source = Frames("source", 20, SHAPE, loan=True)
    source.declare_output((10, 10))
    chain(pipe, source, Record("record", tmp_path / "r", one_value))
    run(pipe)
    assert [message.value for message in received(tmp_path / "r")] == list(range(20))
    assert set(copied(pipe).values()) == {0}


def test_a_declared_ring_is_the_one_that_is_used(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    source = Frames("source", 20, SHAPE, loan=True)
    source.declare_output(SHAPE)
    chain(pipe, source, Sink("sink"))
    before = set(Path("/dev/shm").glob("pipert-*"))
    pipe.build()
    sizes = {path.stat().st_size for path in set(Path("/dev/shm").glob("pipert-*")) - before}
    assert any(size > 2 * np.prod(SHAPE) for size in sizes)  # the ring: there before anything ran
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert pipe.statistics().wires["source", "sink"].received == 20
