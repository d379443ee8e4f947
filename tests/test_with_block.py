"""`with Pipe() as pipe`: the end of the block is the end of the pipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifecycle import CLEANUPS, SETUPS, Counting, numbers, state
from pipert_shm import START_EVENT_NAME, STOP_EVENT_NAME, Pipe
from routines import Record, Sink, chain
from waiting import Board, eventually


def test_leaving_the_block_waits_for_the_end(tmp_path: Path) -> None:
    with Pipe(policy="block") as pipe:
        chain(pipe, Counting("source", 500), Record("record", tmp_path / "r"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    assert numbers(tmp_path / "r") == list(range(500))
    assert state(pipe) == {"ended"}


def test_leaving_the_block_by_an_exception_kills() -> None:
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", None, board), Sink("sink"))

    def body() -> None:
        with pipe:
            pipe.build()
            pipe.notify_event(START_EVENT_NAME)
            eventually(lambda: board[SETUPS] == 1)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        body()
    assert board[CLEANUPS] == 1
    assert state(pipe) == {"stopped"}


def test_leaving_the_block_unbuilt() -> None:
    with Pipe() as pipe:
        chain(pipe, Counting("source", 1), Sink("sink"))
    with pytest.raises(LookupError), Pipe() as pipe:
        raise LookupError


@pytest.mark.timeout(20)
@pytest.mark.parametrize("stopped", [False, True])
def test_leaving_the_block_with_nothing_to_wait_for(stopped: bool) -> None:
    """Never started, or stopped: nobody is left who could start it."""
    with Pipe() as pipe:
        chain(pipe, Counting("source", None), Sink("sink"))
        pipe.build()
        if stopped:
            pipe.notify_event(START_EVENT_NAME)
            pipe.notify_event(STOP_EVENT_NAME)
