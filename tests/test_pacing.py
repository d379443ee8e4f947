"""Auto pacing: what would only be dropped is not made. And fixed rates."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipert_shm import START_EVENT_NAME, STOP_EVENT_NAME, Pipe, SourceRoutine, Wire
from routines import Forward, Frames, Gated, Record, Sink, chain, received
from waiting import Board, eventually

GATE, TAKEN, MADE = 0, 1, 2
CAPACITY = 2


class Counted(SourceRoutine):
    """Numbers, as fast as it may; how many on the board."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self) -> int:
        self.board.add(MADE)
        return self.board[MADE]


def paced(**options: Any) -> Pipe:
    return Pipe(auto_pacing_mechanism=True, capacity=CAPACITY, **options)


def rests(pipe: Pipe, *names: str) -> bool:
    """Whether each of these routines sleeps in the kernel, by its thread's state."""
    flows = pipe.statistics().flows
    states = []
    for name in names:
        pid = flows[name].pid
        for task in Path(f"/proc/{pid}/task").iterdir():
            if (task / "comm").read_text().strip() == name:
                states.append((task / "wchan").read_text())
    return all("futex" in state for state in states)


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "block"])
@pytest.mark.parametrize("across", [True, False], ids=["across", "within"])
def test_a_source_makes_what_its_receiver_takes_and_no_more(policy: Any, across: bool) -> None:
    board = Board()
    pipe = paced(policy=policy)
    source, gated = Counted("source", board), Gated("gated", board, GATE, TAKEN)
    if across:
        chain(pipe, source, gated)
    else:
        pipe.create_flow("flow", True, source, gated)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    for taken in range(1, 40):
        board.wait(MADE, taken + CAPACITY)  # in hand, and in the queue
        assert board[MADE] <= taken + CAPACITY, "it made what there was no room for"
        board[GATE] = taken
        board.wait(TAKEN, taken)
    board[GATE] = 1 << 60
    pipe.join(to_kill=True)
    assert pipe.statistics().wires["source", "gated"].dropped["oldest"] == 0


def test_the_slowest_sets_the_pace_of_all_before_it() -> None:
    board = Board()
    pipe = paced()
    chain(pipe, Counted("source", board), Forward("one"), Forward("two"), Gated("gated", board, GATE, TAKEN))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    # full queues all the way, and one in the last hand: the middle ones take nothing that they could not pass on
    everywhere = 3 * CAPACITY + 1
    for taken in range(1, 40):
        board.wait(MADE, taken + everywhere - 1)
        assert board[MADE] <= taken + everywhere - 1
        board[GATE] = taken
        board.wait(TAKEN, taken)
    board[GATE] = 1 << 60
    pipe.join(to_kill=True)
    assert [wire.lost - wire.dropped["stopped"] - wire.dropped["ended"] for wire in pipe.statistics().wires.values()] == [
        0,
        0,
        0,
    ]


def test_the_faster_of_two_receivers_sets_the_pace(tmp_path: Path) -> None:
    """The slower one gets what there is room for; the rest is counted."""
    board = Board()
    pipe = paced()
    source, slow, fast = Frames("source", 200, (8, 8)), Gated("slow", board, GATE, TAKEN), Record("fast", tmp_path / "r", len)
    chain(pipe, source)
    for receiver in (slow, fast):
        pipe.create_flow(receiver.name, False, receiver)
    pipe.link(Wire(source, slow), Wire(source, fast, policy="block"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: len(received(tmp_path / "r")) == 200)
    board[GATE] = 1 << 60
    pipe.join()
    wires = pipe.statistics().wires
    assert (wires["source", "fast"].received, wires["source", "fast"].lost) == (200, 0)
    assert wires["source", "slow"].dropped["oldest"] == 200 - 1 - CAPACITY


def test_without_it_a_source_does_not_wait() -> None:
    board = Board()
    pipe = Pipe(capacity=CAPACITY)
    chain(pipe, Counted("source", board), Gated("gated", board, GATE, TAKEN))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(MADE, 1000)
    board[GATE] = 1 << 60
    pipe.join(to_kill=True)


def test_a_tap_does_not_set_the_pace() -> None:
    board = Board()
    pipe = paced()
    source = Counted("source", board)
    chain(pipe, source, Gated("gated", board, GATE, TAKEN))
    pipe.build()
    with pipe.tap(source) as tap:
        pipe.notify_event(START_EVENT_NAME)
        for taken in range(1, 10):
            board.wait(MADE, taken + CAPACITY)
            assert next(iter(tap)) <= board[MADE]
            assert board[MADE] == taken + CAPACITY
            board[GATE] = taken
            board.wait(TAKEN, taken)
    board[GATE] = 1 << 60
    pipe.join(to_kill=True)


def test_a_resting_source_is_stopped_and_started() -> None:
    board = Board()
    pipe = paced()
    chain(pipe, Counted("source", board), Gated("gated", board, GATE, TAKEN))
    pipe.build()
    for _ in range(3):
        pipe.notify_event(START_EVENT_NAME, specific_routine="source")
        eventually(lambda: pipe.statistics().routines["source"].state == "running")
        board.wait(MADE, CAPACITY)
        eventually(lambda: rests(pipe, "source"))
        pipe.notify_event(STOP_EVENT_NAME, specific_routine="source")
        eventually(lambda: pipe.statistics().routines["source"].state == "stopped")
    assert board[MADE] == CAPACITY
    pipe.join(to_kill=True)


def _is_another(pipe: Pipe, pid: int) -> bool:
    return pipe.statistics().flows["sink"].pid not in (0, pid)


def test_a_source_goes_on_after_its_receiver_s_death() -> None:
    board = Board()
    pipe = paced()
    chain(pipe, Counted("source", board), Sink("sink", board, TAKEN), flow="{}")
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    for _ in range(3):
        board.wait(TAKEN, board[TAKEN] + 50)
        pid = pipe.statistics().flows["sink"].pid
        os.kill(pid, signal.SIGKILL)
        eventually(partial(_is_another, pipe, pid))
        board.wait(TAKEN, board[TAKEN] + 50)
    pipe.join(to_kill=True)


def test_a_source_goes_on_when_its_receiver_has_ended() -> None:
    board = Board()
    pipe = paced()
    chain(pipe, Counted("source", board), Gated("gated", board, GATE, TAKEN), max_restarts=0)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(MADE, 1 + CAPACITY)
    os.kill(pipe.statistics().flows["gated"].pid, signal.SIGKILL)
    board.wait(MADE, 1000)
    with pytest.raises(Exception, match="gated"):
        pipe.join(to_kill=True)
    assert pipe.statistics().wires["source", "gated"].dropped["ended"] >= 900
