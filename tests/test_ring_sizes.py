"""Frames whose size changes: rings that are outgrown, and rings of a declared size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm import START_EVENT_NAME, DestinationRoutine, EndOfStream, Pipe, SourceRoutine
from pipert_shm.shm.segments import SHM
from placing import SHAPE, copied, mapped, run
from routines import Forward, Frames, Record, Sink, chain, one_value, received
from waiting import Board


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
