"""EndOfStream: what waits is drained, receivers end after their senders, and a later START begins again."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from lifecycle import CLEANUPS, GATE, SETUPS, Counting, numbers, reaches, state
from pipert_shm import START_EVENT_NAME, EndOfStream, MiddleRoutine, Pipe, Wire
from routines import Forward, Record, Sink, chain, received
from waiting import Board, eventually


def test_the_end_drains_what_waits(tmp_path: Path) -> None:
    board = Board()

    class Slow(Record):
        def main_logic(self, data: Any) -> None:
            board.wait(GATE)
            super().main_logic(data)

    pipe = Pipe(policy="block", capacity=50)
    chain(pipe, Counting("source", 40), Forward("middle"), Slow("slow", tmp_path / "r"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    reaches(pipe, "ended", "source", "middle")
    reaches(pipe, "running", "slow")
    board[GATE] = 1
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(40))
    assert state(pipe) == {"ended"}


def test_a_receiver_ends_when_all_of_its_senders_have(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block")
    short, long, record = Counting("short", 5), Counting("long", 5), Record("record", tmp_path / "r")

    class Waits(Forward):
        def setup(self) -> None:
            board.wait(GATE)

    waits = Waits("waits")
    for routine in (short, long, waits, record):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(short, record), Wire(long, waits), Wire(waits, record))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    reaches(pipe, "ended", "short")
    eventually(lambda: pipe.statistics().routines["record"].received == 5)
    assert state(pipe, "record") == {"running"}
    board[GATE] = 1
    pipe.join()
    assert sorted(numbers(tmp_path / "r")) == sorted(2 * list(range(5)))


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_what_last_words_raise_is_an_error_of_the_routine_and_its_run_ends_as_any(error: type[BaseException]) -> None:
    board = Board()

    class Fails(Forward):
        def _at_end(self) -> None:
            raise error("in the last words")

        def cleanup(self) -> None:
            board.add(CLEANUPS)

    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", 3), Fails("fails"), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    found = pipe.statistics().routines
    assert state(pipe) == {"ended"}
    assert (found["fails"].errors, found["sink"].received, board[CLEANUPS]) == (1, 3, 1)


@pytest.mark.parametrize("across", [False, True], ids=["within", "across"])
def test_the_end_from_a_middle_routine(tmp_path: Path, across: bool) -> None:
    class Enough(MiddleRoutine):
        def main_logic(self, data: int) -> int:
            if data == 7:
                raise EndOfStream
            return data

    pipe = Pipe(policy="block")
    routines = (Counting("source", 100), Enough("enough"), Record("record", tmp_path / "r"))
    if across:
        chain(pipe, *routines)
    else:
        pipe.create_flow("flow", True, *routines)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(7))
    wire = pipe.statistics().wires["source", "enough"]
    assert (wire.sent, wire.received, wire.dropped["ended"]) == (100, 8, 92)


def test_clean_up_comes_before_the_end_is_seen(tmp_path: Path) -> None:
    class Closes(Counting):
        def cleanup(self) -> None:
            board.wait(GATE)
            super().cleanup()

    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Closes("closes", 3, board), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["sink"].received == 3)
    assert state(pipe) == {"running"}
    board[GATE] = 1
    pipe.join()
    assert board[CLEANUPS] == 1


class Again(Counting):
    """From the beginning at each run; its first message of the second run only when the gate is open."""

    def setup(self) -> None:
        super().setup()
        self.next = 0

    def main_logic(self) -> Any:
        if self.board[SETUPS] == 2 and self.next == 1:
            self.board.wait(GATE)
        return super().main_logic()


def test_a_start_after_the_end_starts_again(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Again("again", 10, board), Forward("middle"), Record("record", tmp_path / "r"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    reaches(pipe, "ended")
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["record"].received == 11)
    joining = threading.Thread(target=pipe.join)
    joining.start()  # it must wait for the end of the second run, though there was an end before
    joining.join(timeout=0.3)
    assert joining.is_alive()
    board[GATE] = 1
    joining.join()
    assert numbers(tmp_path / "r") == 2 * list(range(10))
    sequences = [message.sequence for message in received(tmp_path / "r")]
    assert sequences == list(range(20))


def test_many_ends_and_starts(tmp_path: Path) -> None:
    class Again(Counting):
        def setup(self) -> None:
            self.next = 0

    pipe = Pipe(policy="block")
    chain(pipe, Again("again", 10), Forward("middle"), Record("record", tmp_path / "r"))
    pipe.build()
    for run in range(1, 8):
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda run=run: pipe.statistics().routines["record"].received == 10 * run)  # type: ignore[misc]
        reaches(pipe, "ended")
    pipe.join()
    assert numbers(tmp_path / "r") == 7 * list(range(10))
