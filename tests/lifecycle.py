"""What the tests of a pipe's life share: a source that counts from run to run, and the states that routines are in."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import Any

from pipert_shm import EndOfStream, Pipe, SourceRoutine
from routines import Forward, received
from waiting import Board, eventually

GATE, TAKEN = 0, 1
SETUPS, CLEANUPS = 2, 3


def state(pipe: Pipe, *routines: str) -> set[str]:
    """The states that these routines (by default all) are in."""
    statistics = pipe.statistics().routines
    return {statistics[name].state for name in routines or statistics}


def reaches(pipe: Pipe, wanted: str, *routines: str) -> None:
    eventually(lambda: state(pipe, *routines) == {wanted}, f"{routines or 'all'} being {wanted}")


class Counting(SourceRoutine):
    """Sends 0, 1, 2, … up to `count` (None: for ever), going on from run to run; counts setups and clean-ups."""

    def __init__(self, name: str, count: int | None, board: Board | None = None) -> None:
        super().__init__(name)
        self.count = count
        self.board = board or Board()
        self.next = 0

    def setup(self) -> None:
        self.board.add(SETUPS)

    def cleanup(self) -> None:
        self.board.add(CLEANUPS)

    def main_logic(self) -> Any:
        if self.next == self.count:
            raise EndOfStream
        self.next += 1
        return self.next - 1


def numbers(path: Path) -> list[int]:
    return [message.value for message in received(path)]


def sleep_for_ever() -> None:
    while True:
        time.sleep(1000)


def hold_the_interpreter() -> None:
    """Not even the flow's control thread runs any more."""
    ctypes.PyDLL(None).sleep(1000)


class Pids(Forward):
    """Puts its process's number on the board, and forwards."""

    def __init__(self, name: str, board: Board, cell: int) -> None:
        super().__init__(name)
        self.board = board
        self.cell = cell

    def setup(self) -> None:
        self.board[self.cell] = os.getpid()


MIDDLE_PID = 8
