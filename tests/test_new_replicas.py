"""Flows with replicas come to a pipe that runs, and go: in order, and nothing beside them is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from growing import moves
from killing import kill_flows, running
from pipert_shm import START_EVENT_NAME, DestinationRoutine, MiddleRoutine, Pipe, SourceRoutine, Wire
from test_remove import possessions
from waiting import Board, eventually

BACK, TAKEN = 0, 1  # cells of each origin: messages behind a later one, and all
OF_ORIGIN = 3


class Camera(SourceRoutine):
    """Sends frames with their number in them, for ever."""

    def main_logic(self) -> np.ndarray:
        frame = self.loan((64,), np.int64)
        frame[:] = self.meta.sequence
        return frame


class Uneven(MiddleRoutine):
    """Now fast, now slow; and it has no result for one message in eight."""

    def setup(self) -> None:
        self.dice = random.Random(self.name)

    def main_logic(self, frame: np.ndarray) -> np.ndarray | None:
        time.sleep(self.dice.choice((0, 0, 0.0005, 0.003)))
        return None if frame[0] % 8 == 5 else frame


class InOrder(DestinationRoutine):
    """Counts on the board, for each camera by the digit in its name, what comes, and what comes behind a later one."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, frame: np.ndarray) -> None:
        first = OF_ORIGIN * int(self.meta.origin[-1])
        number = int(frame[0]) + 1
        if number <= self.board[first + 2]:
            self.board.add(first + BACK)
        self.board[first + 2] = number
        self.board.add(first + TAKEN)


class Whole(DestinationRoutine):
    """Counts what is missing on a wire that loses nothing."""

    def __init__(self, name: str, board: Board, cell: int) -> None:
        super().__init__(name)
        self.board, self.cell = board, cell
        self.next = 0

    def main_logic(self, frame: np.ndarray) -> None:
        self.board.add(self.cell, int(frame[0]) - self.next)
        self.next = int(frame[0]) + 1


MISSING = 40


@contextmanager
def yard() -> Iterator[tuple[Pipe, Board, list[Camera], InOrder]]:
    """Two cameras; the first one's film; and who restores the order, who gets the second camera's frames as they come."""
    board = Board(50)
    pipe = Pipe(policy="block", capacity=3, grace_period=3)
    cameras, film, last = [Camera("camera0"), Camera("camera1")], Whole("film", board, MISSING), InOrder("last", board)
    for routine in (*cameras, film, last):
        routine.set_const_fps(400)
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(cameras[0], film), Wire(cameras[1], last))
    with running(pipe):
        moves(pipe, "camera1", "last")
        yield pipe, board, cameras, last
        assert board[MISSING] == 0
        assert pipe.statistics().wires["camera0", "film"].lost == 0
        pipe.join(to_kill=True)


def add_workers(pipe: Pipe, worker: Any, *wires: Wire, replicas: int = 3, ordered: bool = True) -> None:
    pipe.create_flow("workers", False, worker, replicas=replicas, ordered=ordered)
    pipe.link(*wires)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)


def taken(board: Board, origin: int, more: int) -> None:
    """Until so many more messages of a camera have come to the end."""
    before = board[OF_ORIGIN * origin + TAKEN]
    eventually(lambda: board[OF_ORIGIN * origin + TAKEN] >= before + more, f"{more} results of camera {origin}")


def test_ordered_replicas_come_and_go_and_keep_the_order() -> None:
    """The routine that restores the order runs on all the while; it learns of each flow, and lets go of what each leaves."""
    with yard() as (pipe, board, (camera, _), last):
        pids = {name: flow.pid for name, flow in pipe.statistics().flows.items()}
        for replicas in (3, 2, 4):
            worker = Uneven("worker")
            add_workers(pipe, worker, Wire(camera, worker), Wire(worker, last), replicas=replicas)
            taken(board, 0, 60)
            assert {name for name in pipe.statistics().routines if "#" in name} == {f"worker#{n}" for n in range(replicas)}
            pipe.remove_flow("workers", receivers_wait=True)
        taken(board, 1, 10)
        assert {name: flow.pid for name, flow in pipe.statistics().flows.items()} == pids
        assert board[BACK] == 0


def test_senders_and_receivers_of_ordered_replicas_come_and_go() -> None:
    with yard() as (pipe, board, cameras, last):
        worker = Uneven("worker")
        add_workers(pipe, worker, Wire(cameras[0], worker), Wire(worker, last))
        taken(board, 0, 30)
        for number in (2, 3):
            late = Camera(f"camera{number}")
            late.set_const_fps(400)
            pipe.create_flow(late.name, False, late)
            pipe.link(Wire(late, worker))
            pipe.build()
            pipe.notify_event(START_EVENT_NAME)
            taken(board, number, 60)
            taken(board, 0, 10)
        kill_flows(pipe, "workers#1")
        taken(board, 3, 30)
        other = Board(50)
        pipe.create_flow("other", False, second := InOrder("other", other))
        pipe.link(Wire(worker, second))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        taken(other, 3, 30)
        pipe.remove_flow("camera3")
        pipe.remove_flow("last")
        taken(other, 2, 30)
        pipe.remove_flow("workers", "camera2", receivers_wait=True)
        assert [board[OF_ORIGIN * n + BACK] + other[OF_ORIGIN * n + BACK] for n in (0, 2, 3)] == [0, 0, 0]


def test_a_chain_of_replicas_without_order_gets_wires_from_those_that_run() -> None:
    with yard() as (pipe, _, cameras, last):
        first, second = Uneven("first"), Uneven("second")
        pipe.create_flow("workers", True, first, second, replicas=2)
        pipe.link(*(Wire(camera, first, policy="drop_oldest") for camera in cameras), Wire(second, last))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        for one in ("first#0", "first#1"):
            moves(pipe, "camera0", one)
        assert {wire for wire in pipe.statistics().wires if wire[0].startswith("first")} == {
            ("first#0", "second#0"),
            ("first#1", "second#1"),
        }
        pipe.unlink(cameras[1], first)
        pipe.notify_event("stop", specific_routine="first")
        eventually(lambda: pipe.statistics().routines["first#1"].state == "stopped")
        pipe.notify_event("start", {"workers": ["first"]})
        moves(pipe, "second#1", "last")


def come_and_go(rounds: int) -> None:
    """So many times, replicas are added and removed; then the pipe has what it had before."""
    with yard() as (pipe, board, (camera, _), last):
        before = None
        for number in range(rounds):
            worker = Uneven("worker")
            add_workers(
                pipe, worker, Wire(camera, worker), Wire(worker, last), replicas=2 + number % 3, ordered=number % 4 != 3
            )
            if number % 4 != 3:
                taken(board, 0, 5)
            pipe.remove_flow("workers", receivers_wait=True)
            if number == min(3, rounds // 2):
                eventually(lambda: possessions(pipe).rings == 4, "an end of old rings")
                before = possessions(pipe)
        eventually(lambda: possessions(pipe) == before, "an end of all that the replicas had")
        moves(pipe, "camera1", "last")


def test_replicas_that_come_and_go_leave_nothing() -> None:
    """`python tests/test_new_replicas.py 200` does it more often."""
    come_and_go(8)


if __name__ == "__main__":
    import sys

    come_and_go(int(sys.argv[1]))
