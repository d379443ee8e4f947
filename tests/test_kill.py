"""KILL: at any time, and with routines that do not return."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import CLEANUPS, GATE, SETUPS, TAKEN, Counting, hold_the_interpreter, reaches, sleep_for_ever
from pipert_shm import KILL_EVENT_NAME, START_EVENT_NAME, STOP_EVENT_NAME, DestinationRoutine, Pipe, Routine
from routines import Gated, Sink, chain
from waiting import Board, eventually


@pytest.mark.parametrize("when", ["built", "running", "blocked", "stopped", "ended"])
def test_a_kill_at_any_time(when: str) -> None:
    board = Board()
    pipe = Pipe(policy="block", grace_period=3)
    if when == "blocked":
        receiver: Routine = Gated("receiver", board, GATE, TAKEN)
    else:
        receiver = Sink("receiver")
    chain(pipe, Counting("source", 50 if when == "ended" else None, board), receiver)
    pipe.build()
    if when != "built":
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().wires["source", "receiver"].sent >= 4)
    if when == "stopped":
        pipe.notify_event(STOP_EVENT_NAME)
    if when in ("stopped", "ended"):
        reaches(pipe, when)
    if when == "blocked":
        pipe.notify_event(KILL_EVENT_NAME)
        reaches(pipe, "stopped", "source")
        board[GATE] = 1000
    started = time.monotonic()
    pipe.join(to_kill=True)
    assert time.monotonic() - started < 2
    assert board[CLEANUPS] == board[SETUPS] == (when != "built")


@pytest.mark.parametrize("how", [sleep_for_ever, hold_the_interpreter])
@pytest.mark.parametrize("where", ["main_logic", "setup", "cleanup"])
def test_a_routine_that_does_not_return_is_killed_after_the_grace_period(
    caplog: pytest.LogCaptureFixture, where: str, how: Callable[[], None]
) -> None:
    class Stuck(DestinationRoutine):
        def setup(self) -> None:
            if where == "setup":
                board[TAKEN] = 1
                how()

        def main_logic(self, data: Any) -> None:
            board[TAKEN] = 1
            if where == "main_logic":
                how()

        def cleanup(self) -> None:
            if where == "cleanup":
                how()

    board = Board()
    pipe = Pipe(policy="block", grace_period=0.5)
    chain(pipe, Counting("source", None, board), Stuck("stuck"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(TAKEN)
    eventually(lambda: board[SETUPS] == 1)
    started = time.monotonic()
    pipe.join(to_kill=True)
    assert 0.5 <= time.monotonic() - started < 2.5
    assert "flow 'stuck' did not end within 0.5 s and is killed" in caplog.messages
    assert board[CLEANUPS] == 1  # the other flow ended in its own time
