"""Flows of several routines in whole pipes: siblings, forwarding, batches, joins, replicas and taps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipert_shm import (
    START_EVENT_NAME,
    BatchRoutine,
    DataTransmitter,
    DestinationRoutine,
    EndOfStream,
    Join,
    MiddleRoutine,
    Pipe,
    SourceRoutine,
    Wire,
)
from placing import place
from routines import Forward, Frames, Record, one_value, received
from waiting import Board
from within import SHAPE, assert_read_only, by_transmitters


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
