"""STOP and START in the midst of a stream: nothing is lost, and each run has its setup() and its cleanup()."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from lifecycle import CLEANUPS, GATE, SETUPS, TAKEN, Counting, numbers, reaches, state
from pipert_shm import START_EVENT_NAME, STOP_EVENT_NAME, MiddleRoutine, Pipe
from routines import Forward, Gated, Record, Sink, chain, one_value, received
from waiting import Board, eventually


def test_nothing_is_lost_over_a_pause(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block")
    source, record = Counting("source", 3000, board), Record("record", tmp_path / "r")
    chain(pipe, source, Forward("middle"), record)
    pipe.build()
    assert state(pipe) == {"built"}
    for run in range(1, 6):
        pipe.notify_event(START_EVENT_NAME)
        board.wait(SETUPS, run)
        eventually(lambda run=run: pipe.statistics().routines["record"].received >= 100 * run)  # type: ignore[misc]
        pipe.notify_event(STOP_EVENT_NAME)
        board.wait(CLEANUPS, run)
        reaches(pipe, "stopped")
        assert (board[SETUPS], board[CLEANUPS]) == (run, run)
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(3000))
    assert [message.sequence for message in received(tmp_path / "r")] == list(range(3000))


def test_stops_and_starts_in_quick_succession(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", 2000), Forward("middle"), Record("record", tmp_path / "r"))
    pipe.build()
    for _ in range(40):
        pipe.notify_event(START_EVENT_NAME)
        pipe.notify_event(STOP_EVENT_NAME)
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(2000))


def test_a_pause_finds_the_sender_blocked(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, source := Counting("source", 50), gated := Gated("gated", board, GATE, TAKEN))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().wires["source", "gated"].sent == 4)  # in hand, two that wait, and one that is stuck
    pipe.notify_event(STOP_EVENT_NAME, specific_routine=source.name)
    reaches(pipe, "stopped", "source")
    assert state(pipe, "gated") == {"running"}
    board[GATE] = 3
    eventually(lambda: board[TAKEN] == 3)  # the stuck one stays with its sender
    pipe.notify_event(START_EVENT_NAME, {source.flow_name or "": []})
    board[GATE] = 1000
    pipe.join()
    wire = pipe.statistics().wires["source", gated.name]
    assert (wire.sent, wire.received, wire.lost, wire.waiting) == (50, 50, 0, 0)


def test_sequence_numbers_stay_unique_when_a_blocked_sender_is_interrupted(tmp_path: Path) -> None:
    class Slow(Record):
        def main_logic(self, data: Any) -> None:
            board.wait(GATE)
            super().main_logic(data)

    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, source := Counting("source", 30), Slow("slow", tmp_path / "r"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().wires["source", "slow"].sent == 4)
    for _ in range(3):
        with pipe.tap(source):
            pass
    board[GATE] = 1
    pipe.join()
    assert [(message.value, message.sequence) for message in received(tmp_path / "r")] == [(n, n) for n in range(30)]


def test_a_single_routine_is_stopped_and_started(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", 500), middle := Forward("middle"), Record("record", tmp_path / "r"))
    pipe.build()
    for routine in ("source", "record"):
        pipe.notify_event(START_EVENT_NAME, specific_routine=routine)
    reaches(pipe, "running", "source", "record")
    assert state(pipe, "middle") == {"built"}
    for _ in range(5):
        middle.notify_event(START_EVENT_NAME, {"middle": ["middle"]})
        reaches(pipe, "running", "middle")
        middle.notify_event(STOP_EVENT_NAME, {"middle": ["middle"]})
        reaches(pipe, "stopped", "middle")
        assert "stopped" not in state(pipe, "source", "record")
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(500))


def test_a_start_of_what_runs_changes_nothing(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, source := Counting("source", None, board), Sink("sink"))
    pipe.build()
    for _ in range(5):
        source.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["sink"].received > 100)
    assert board[SETUPS] == 1
    pipe.join(to_kill=True)
    assert (board[SETUPS], board[CLEANUPS]) == (1, 1)


def test_a_stop_before_the_start() -> None:
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", 5, board), Sink("sink"))
    pipe.build()
    pipe.notify_event(STOP_EVENT_NAME)
    reaches(pipe, "stopped")
    assert board[SETUPS] == 0
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert pipe.statistics().routines["sink"].received == 5


def test_a_message_whose_main_logic_was_called_out_of_a_wait_for_a_slot_is_not_lost(tmp_path: Path) -> None:
    """STOP finds main_logic waiting in loan(), all three slots being held: after START it gets the message again."""
    board = Board()

    class Loans(MiddleRoutine):
        def main_logic(self, data: int) -> np.ndarray:
            board[4] = data
            frame = self.loan((5_000_000,))
            frame[...] = data
            return frame

    class Slow(Record):
        def main_logic(self, data: Any) -> None:
            board.wait(GATE)
            super().main_logic(data)

    pipe = Pipe(policy="block", capacity=8, memory_budget=17_000_000)
    chain(pipe, Counting("source", 20), Loans("loans"), Slow("slow", tmp_path / "r", one_value))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: board[4] == 3, "the fourth loan")  # it waits
    pipe.notify_event(STOP_EVENT_NAME, specific_routine="loans")
    reaches(pipe, "stopped", "loans")
    board[GATE] = 1
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(20))
    assert pipe.statistics().routines["loans"].errors == 0


def test_const_fps_does_not_hold_up_a_stop_or_a_kill() -> None:
    pipe = Pipe(policy="block")
    source, sink = Counting("source", None), Sink("sink")
    source.set_const_fps(0.001)
    sink.set_const_fps(0.001)
    chain(pipe, source, sink)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["sink"].received == 1)
    started = time.monotonic()
    pipe.notify_event(STOP_EVENT_NAME)
    reaches(pipe, "stopped")
    pipe.notify_event(START_EVENT_NAME)
    reaches(pipe, "running")
    pipe.join(to_kill=True)
    assert time.monotonic() - started < 3
