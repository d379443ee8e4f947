"""Frames are written once, and forwarded where they lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm import START_EVENT_NAME, DestinationRoutine, EndOfStream, MiddleRoutine, Pipe, SourceRoutine, Wire
from placing import NBYTES, SHAPE, Placed, copied, place, private, run
from routines import Apply, Forward, Frames, Items, Record, chain, one_value, received
from waiting import Board, eventually


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
