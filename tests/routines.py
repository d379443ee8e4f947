"""Routines that the tests are made of, and a record of what destinations got."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipert_shm import START_EVENT_NAME, DestinationRoutine, EndOfStream, MiddleRoutine, Pipe, Routine, SourceRoutine, Wire
from waiting import Board


class Received(NamedTuple):
    """One message as a destination got it."""

    origin: str
    sequence: int
    value: Any


class Items(SourceRoutine):
    """Sends what a list made before `build()` holds, then ends."""

    def __init__(self, name: str, items: Iterable[Any]) -> None:
        super().__init__(name)
        self.items = list(items)
        self.next = 0

    def main_logic(self) -> Any:
        if self.next == len(self.items):
            raise EndOfStream
        self.next += 1
        return self.items[self.next - 1]


class Frames(SourceRoutine):
    """Sends `count` frames (None: for ever), the pixels of number n all being n % 251; in loans, or as plain arrays."""

    def __init__(self, name: str, count: int | None, shape: tuple[int, ...] = (64, 64, 3), *, loan: bool = False) -> None:
        super().__init__(name)
        self.count = count
        self.shape = shape
        self.loaning = loan
        self.next = 0

    def main_logic(self) -> Any:
        if self.next == self.count:
            raise EndOfStream
        frame = self.loan(self.shape) if self.loaning else np.empty(self.shape, np.uint8)
        frame[...] = self.next % 251
        self.next += 1
        return frame


class Burst(SourceRoutine):
    """Sends message after message as the board's cell says how many, then waits for more."""

    def __init__(self, name: str, board: Board, cell: int) -> None:
        super().__init__(name)
        self.board = board
        self.cell = cell

    def main_logic(self) -> np.ndarray:
        self.board.wait(self.cell, self.meta.sequence + 1, timeout=60)
        return np.full((48, 64, 3), self.meta.sequence, np.uint8)


class Forward(MiddleRoutine):
    """Sends on what it gets."""

    def main_logic(self, data: Any) -> Any:
        return data


class Apply(MiddleRoutine):
    """Sends on what a function makes of what it gets."""

    def __init__(self, name: str, function: Callable[[Any], Any]) -> None:
        super().__init__(name)
        self.function = function

    def main_logic(self, data: Any) -> Any:
        return self.function(data)


class Sink(DestinationRoutine):
    """Takes everything; counts on a board's cell, if it has one."""

    def __init__(self, name: str, board: Board | None = None, cell: int = 0) -> None:
        super().__init__(name)
        self.board = board
        self.cell = cell

    def main_logic(self, data: Any) -> None:
        if self.board is not None:
            self.board.add(self.cell)


class Record(DestinationRoutine):
    """Writes what it gets, or what `digest` makes of that, to a file: `received(path)` reads it in any process."""

    def __init__(self, name: str, path: Path, digest: Callable[[Any], Any] | None = None) -> None:
        super().__init__(name)
        self.path = path
        self.digest = digest

    def setup(self) -> None:
        self.file = self.path.open("ab")

    def main_logic(self, data: Any) -> None:
        value = data if self.digest is None else self.digest(data)
        pickle.dump(tuple(Received(self.meta.origin, self.meta.sequence, value)), self.file)

    def cleanup(self) -> None:
        self.file.close()


def received(path: Path) -> list[Received]:
    """What a `Record` wrote so far, in order."""
    messages: list[Received] = []
    if not path.exists():
        return messages
    with path.open("rb") as file:
        while file.peek():
            messages.append(Received(*pickle.load(file)))
    return messages


class Gated(DestinationRoutine):
    """Takes message number n (from 1) only when the board's `gate` cell is at least n; counts those it took in `taken`."""

    def __init__(self, name: str, board: Board, gate: int, taken: int) -> None:
        super().__init__(name)
        self.board = board
        self.gate = gate
        self.taken = taken

    def main_logic(self, data: Any) -> None:
        self.board.wait(self.gate, self.board[self.taken] + 1, timeout=60)
        self.board.add(self.taken)


def chain(pipe: Pipe, *routines: Routine, flow: str = "{}", **options: Any) -> None:
    """Puts each routine in a flow of its own, named after it, and wires each to the next."""
    for routine in routines:
        pipe.create_flow(flow.format(routine.name), False, routine, **options)
    pipe.link(*(Wire(a, b) for a, b in pairwise(routines)))


@contextmanager
def running(pipe: Pipe, *routines: Routine) -> Iterator[Pipe]:
    """A pipe that is started, with these routines in a chain if there are any; it is killed in the end."""
    chain(pipe, *routines)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    try:
        yield pipe
    finally:
        pipe.join(to_kill=True)


def one_value(frame: np.ndarray) -> int:
    """The value that all of a frame's elements have."""
    values = np.unique(frame)
    assert len(values) == 1, f"a torn frame: {values}"
    return int(values[0])
