"""Stop and kill, whatever a routine waits for: nothing is lost by a stop, and cleanup() is always called."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from killing import await_states
from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    BatchRoutine,
    EndOfStream,
    Join,
    MiddleRoutine,
    Pipe,
    SourceRoutine,
    Wire,
)
from routines import Forward, Gated, Record, Sink, received
from waiting import Board, eventually

CLEANUPS, GATE, TAKEN, LOANS, SWALLOWED = range(5)
CAPACITY = 3
GRACE = 10.0  # long enough to tell what ended by itself from what was killed
SHAPE = (32, 32, 3)


def cleaned(cls: type[Any]) -> type[Any]:
    """The same class of routine, with a board on which it counts its cleanups."""

    class Cleaned(cls):  # type: ignore[misc]
        def __init__(self, board: Board, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.its_board = board

        def cleanup(self) -> None:
            super().cleanup()
            self.its_board.add(CLEANUPS)

    return Cleaned


class Batches(BatchRoutine):
    def main_logic(self, batch: list[Any]) -> list[Any]:
        return batch


class Both(MiddleRoutine):
    join = Join(by="seq", depth=100)

    def main_logic(self, data: dict[str, Any]) -> Any:
        return next(iter(data.values()))


class Loans(SourceRoutine):
    """Makes frames in loans, and keeps them all: it waits for a slot soon, in one loan of many."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.kept: list[Any] = []
        self.board = Board()

    def main_logic(self) -> Any:
        self.board[LOANS] += 1
        self.kept.append(self.loan(SHAPE))
        return self.kept[-1]


class Stubborn(Loans):
    """Takes every exception of a loan for a failure of the loan, and goes on without."""

    def main_logic(self) -> Any:
        try:
            return super().main_logic()
        except Exception:
            self.board.add(SWALLOWED)
            return None


class Trickle(SourceRoutine):
    """Some numbers, and then nothing for now: a stream that goes on."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(name)
        self.count = count

    def main_logic(self) -> Any:
        if self.meta.sequence < self.count:
            return self.meta.sequence
        time.sleep(0.01)
        return None


def made(pipe: Pipe, *routines: Any) -> None:
    for routine in routines:
        pipe.create_flow(routine.name, False, routine)


def waiting(pipe: Pipe, sender: str, receiver: str) -> int:
    return pipe.statistics().wires[sender, receiver].waiting


def start(pipe: Pipe, *names: str) -> None:
    for name in names:
        pipe.notify_event(START_EVENT_NAME, specific_routine=name)


# ---- what a routine can wait for: each leaves routine "it" there ---------------------------------


def in_a_batch(pipe: Pipe, board: Board) -> None:
    it = cleaned(Batches)(board, "it", batch_size=CAPACITY + 2, max_wait=3600)
    source, sink = Trickle("source", CAPACITY), Sink("sink")
    made(pipe, source, it, sink)
    pipe.link(Wire(source, it), Wire(it, sink))
    pipe.build()
    start(pipe, "source", "it")
    eventually(lambda: pipe.statistics().routines["it"].received == CAPACITY, "a part of a batch")


def in_a_batch_before_a_full_wire(pipe: Pipe, board: Board) -> None:
    """A batch is handled, a part of the next is gathered, and there is no room for that."""
    it = cleaned(Batches)(board, "it", batch_size=CAPACITY, max_wait=3600)
    source, sink = Trickle("source", CAPACITY + 1), Sink("sink")
    made(pipe, source, it, sink)
    pipe.link(Wire(source, it), Wire(it, sink))
    pipe.build()
    start(pipe, "source", "it")
    eventually(lambda: waiting(pipe, "it", "sink") == CAPACITY, "a full wire")
    eventually(lambda: pipe.statistics().routines["it"].received == CAPACITY + 1, "a part of a batch")


def in_a_join(pipe: Pipe, board: Board) -> None:
    it = cleaned(Both)(board, "it")
    one, other, sink = Trickle("one", CAPACITY), Trickle("other", 0), Sink("sink")
    made(pipe, one, other, it, sink)
    pipe.link(Wire(one, it), Wire(other, it), Wire(it, sink))
    pipe.build()
    start(pipe, "one", "other", "it")
    eventually(lambda: pipe.statistics().routines["it"].received == CAPACITY, "messages without partners")


def in_a_send(pipe: Pipe, board: Board) -> None:
    it = cleaned(Forward)(board, "it")
    source, sink = Trickle("source", CAPACITY + 2), Sink("sink")
    made(pipe, source, it, sink)
    pipe.link(Wire(source, it), Wire(it, sink))
    pipe.build()
    start(pipe, "source", "it")
    eventually(lambda: pipe.statistics().wires["it", "sink"].sent == CAPACITY + 1, "a message too many")


def in_a_loan(pipe: Pipe, board: Board, kind: type[Any] = Loans) -> None:
    it = cleaned(kind)(board, "it")
    it.board = board
    sink = Sink("sink")
    made(pipe, it, sink)
    pipe.link(Wire(it, sink, capacity=64))
    pipe.build()
    start(pipe, "it", "sink")

    def waits() -> bool:
        loans = board[LOANS]
        time.sleep(0.05)  # as long as it gets loans, it gets some within that
        return loans > 0 and loans == board[LOANS]

    eventually(waits, "a loan that waits")


def in_a_loan_of_code_that_catches_everything(pipe: Pipe, board: Board) -> None:
    in_a_loan(pipe, board, Stubborn)


def in_a_rest(pipe: Pipe, board: Board) -> None:
    it, sink = cleaned(Trickle)(board, "it", 10), Sink("sink")
    it.set_const_fps(0.001)
    made(pipe, it, sink)
    pipe.link(Wire(it, sink))
    pipe.build()
    start(pipe, "it", "sink")
    eventually(lambda: pipe.statistics().routines["sink"].received == 1, "the first message")


def in_a_choice_of_replicas(pipe: Pipe, board: Board) -> None:
    it, gated = cleaned(Trickle)(board, "it", 100), Gated("gated", board, GATE, TAKEN)
    pipe.create_flow("it", False, it)
    pipe.create_flow("many", False, gated, replicas=2)
    pipe.link(Wire(it, gated))
    pipe.build()
    start(pipe, "it")
    eventually(lambda: sum(waiting(pipe, "it", f"gated#{n}") for n in (0, 1)) == 2 * CAPACITY, "full wires")


SITUATIONS: list[Callable[[Pipe, Board], None]] = [
    in_a_batch,
    in_a_batch_before_a_full_wire,
    in_a_join,
    in_a_send,
    in_a_loan,
    in_a_loan_of_code_that_catches_everything,
    in_a_rest,
    in_a_choice_of_replicas,
]


@pytest.fixture(params=SITUATIONS, ids=lambda situation: situation.__name__)
def situation(request: pytest.FixtureRequest) -> Callable[[Pipe, Board], None]:
    made: Callable[[Pipe, Board], None] = request.param
    return made


def lossless() -> Pipe:
    return Pipe(policy="block", capacity=CAPACITY, grace_period=GRACE)


def test_a_stop_is_heeded(situation: Callable[[Pipe, Board], None]) -> None:
    board, pipe = Board(), lossless()
    situation(pipe, board)
    pipe.notify_event(STOP_EVENT_NAME)
    await_states(pipe, it="stopped")
    assert board[CLEANUPS] == 1
    pipe.join(to_kill=True)
    assert (board[CLEANUPS], board[SWALLOWED]) == (1, 0)


def test_a_kill_is_heeded_and_cleans_up(situation: Callable[[Pipe, Board], None]) -> None:
    board, pipe = Board(), lossless()
    situation(pipe, board)
    board[GATE] = 100
    began = time.monotonic()
    pipe.join(to_kill=True)
    assert time.monotonic() - began < GRACE / 2
    assert (board[CLEANUPS], board[SWALLOWED]) == (1, 0)


def test_a_kill_right_after_a_stop_cleans_up(situation: Callable[[Pipe, Board], None]) -> None:
    board, pipe = Board(), lossless()
    situation(pipe, board)
    board[GATE] = 100
    pipe.notify_event(STOP_EVENT_NAME)
    pipe.join(to_kill=True)
    assert board[CLEANUPS] == 1


# ---- nothing is lost -----------------------------------------------------------------------------


class Numbered(SourceRoutine):
    """So many frames, in loans, the pixels of each all of its number's lowest byte."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(name)
        self.count = count

    def main_logic(self) -> Any:
        if self.meta.sequence == self.count:
            raise EndOfStream
        frame = self.loan(SHAPE)
        frame[...] = self.meta.sequence % 251
        return frame


class Halves(MiddleRoutine):
    """Makes a frame of each frame, in a loan."""

    def main_logic(self, data: np.ndarray) -> np.ndarray:
        half = self.loan((SHAPE[0] // 2, *SHAPE[1:]))
        half[...] = data[::2]
        return half


COUNT = 600


def diamond(path: Path) -> tuple[Pipe, str]:
    pipe = lossless()
    source, slow, quick, both, record = (
        Numbered("source", COUNT),
        Halves("slow"),
        Forward("quick"),
        Both("both"),
        Record("record", path),
    )
    made(pipe, source, slow, quick, both, record)
    pipe.link(Wire(source, (slow, quick)), Wire(slow, both), Wire(quick, both), Wire(both, record))
    return pipe, "record"


def batches(path: Path) -> tuple[Pipe, str]:
    pipe = lossless()
    source, batch, record = Numbered("source", COUNT), Batches("batch", batch_size=5, max_wait=0.001), Record("record", path)
    made(pipe, source, batch, record)
    pipe.link(Wire(source, batch), Wire(batch, record))
    return pipe, "record"


class Odd(BatchRoutine):
    """Has no result for every third message."""

    def main_logic(self, batch: list[Any]) -> list[Any]:
        return [None if meta.sequence % 3 == 0 else data for data, meta in zip(batch, self.metas, strict=True)]


def ordered_batches(path: Path) -> tuple[Pipe, str]:
    pipe = lossless()
    source, batch, record = Numbered("source", COUNT), Odd("batch", batch_size=5, max_wait=0.001), Record("record", path)
    made(pipe, source, record)
    pipe.create_flow("batch", False, batch, replicas=2, ordered=True)
    pipe.link(Wire(source, batch), Wire(batch, record))
    return pipe, "record"


@pytest.mark.parametrize("graph", [diamond, batches, ordered_batches], ids=lambda graph: graph.__name__)
def test_stops_lose_nothing(graph: Callable[[Path], tuple[Pipe, str]], tmp_path: Path) -> None:
    pipe, last = graph(tmp_path / "r")
    pipe.build()
    rounds = 0
    while pipe.statistics().routines[last].state != "ended":
        before = pipe.statistics().routines[last].received
        pipe.notify_event(START_EVENT_NAME)

        def moved(before: int = before) -> bool:
            now = pipe.statistics().routines[last]
            return now.received >= before + 7 or now.state == "ended"

        eventually(moved, "some messages")
        pipe.notify_event(STOP_EVENT_NAME)
        eventually(
            lambda: all(r.state in ("stopped", "ended") for r in pipe.statistics().routines.values()), "a stop of everything"
        )
        rounds += 1
        assert rounds < COUNT
    pipe.join(to_kill=True)
    assert rounds > 5
    sequences = [message.sequence for message in received(tmp_path / "r")]
    wanted = [n for n in range(COUNT) if graph is not ordered_batches or n % 3]
    assert sequences == wanted
    statistics = pipe.statistics()
    assert not {(wire, reason) for wire, c in statistics.wires.items() for reason, count in c.dropped.items() if count}
    assert not any(routine.errors for routine in statistics.routines.values())
