"""Two pipes in one program, and a pipe on another thread than the main one."""

from __future__ import annotations

import threading
from pathlib import Path

from lifecycle import GATE, TAKEN, Counting, numbers
from pipert_shm import START_EVENT_NAME, Pipe
from routines import Forward, Frames, Gated, Items, Record, Sink, chain, one_value
from waiting import Board


def test_two_pipes_at_once(tmp_path: Path) -> None:
    pipes = []
    for number in range(2):
        pipe = Pipe(policy="block")
        record = Record("record", tmp_path / f"r{number}", one_value)
        chain(pipe, Frames("source", 200, loan=True), Forward("middle"), record)
        pipes.append(pipe)
    for pipe in pipes:
        pipe.build()
    for pipe in pipes:
        pipe.notify_event(START_EVENT_NAME)
    for pipe in reversed(pipes):
        pipe.join()
    for number in range(2):
        assert numbers(tmp_path / f"r{number}") == list(range(200))


def test_one_pipe_dies_and_the_other_goes_on(tmp_path: Path) -> None:
    first, second = Pipe(policy="block"), Pipe(policy="block")
    chain(first, Counting("source", None), Sink("sink"))
    board = Board()
    chain(second, Items("source", range(20)), gated := Gated("gated", board, GATE, TAKEN))
    first.build()
    second.build()
    for pipe in (first, second):
        pipe.notify_event(START_EVENT_NAME)
    board.wait(GATE, 0)
    first.join(to_kill=True)
    board[GATE] = 100
    second.join()
    assert (board[TAKEN], gated.flow_name) == (20, "gated")


def test_built_and_joined_on_another_thread(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", 100), Record("record", tmp_path / "r"))

    def work() -> None:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert numbers(tmp_path / "r") == list(range(100))
