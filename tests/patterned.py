"""Routines whose every frame says which message it belongs to, and that check it at each step, in processes that may die."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipert_shm import DestinationRoutine, EndOfStream, MiddleRoutine, SourceRoutine
from waiting import Board

STYLES = ("forward", "extend", "crop", "copy", "loan")
SHAPE = (48, 64, 3)


def pattern(origin: str, sequence: int) -> int:
    """The value of every pixel of a frame."""
    return (sum(origin.encode()) + sequence) % 251


class Checks:
    """Checks payloads, and their order by the way they came; what it saw last outlives its process.

    :param paths: the ways that messages can come, each with its cell on the board: last number seen, and how many.
    """

    def __init__(self, board: Board, paths: dict[tuple[str, ...], int]) -> None:
        self._board = board
        self._paths = paths

    def check(self, data: Any, meta: Any) -> np.ndarray:
        """The frame in a payload that is as it should be."""
        frames, numbers = (data["frames"], data["numbers"]) if isinstance(data, dict) else ([data], [])
        wanted = pattern(meta.origin, meta.sequence)
        for frame in frames:
            assert (frame == wanted).all(), f"torn: {meta.origin} {meta.sequence}: {np.unique(frame)}, not {wanted}"
        for array in numbers:
            assert (array == meta.sequence).all(), f"torn: {meta.origin} {meta.sequence}: {np.unique(array)}"
        cell = self._paths[(meta.origin, *(hop.routine for hop in meta.hops))]
        last = self._board[cell] - 1
        assert meta.sequence > last, f"out of order: {meta.origin} {meta.sequence} came after {last}"
        self._board[cell] = meta.sequence + 1
        self._board.add(cell + 1)
        first: np.ndarray = frames[0]
        return first


class Camera(SourceRoutine):
    """Sends patterned frames, larger ones from the thirtieth of each life on."""

    def __init__(self, name: str, shape: tuple[int, ...], *, loaning: bool) -> None:
        super().__init__(name)
        self.shape = shape
        self.loaning = loaning
        self.made = 0

    def main_logic(self) -> np.ndarray:
        self.made += 1
        shape = self.shape if self.made < 30 else (self.shape[0] * 2, *self.shape[1:])
        frame = self.loan(shape) if self.loaning else np.empty(shape, np.uint8)
        frame[...] = pattern(self.name, self.meta.sequence)
        return frame


class Step(MiddleRoutine):
    """Checks what it gets, and sends on: the same, more, a part, a copy, or a loan."""

    def __init__(self, name: str, style: str, checks: Checks) -> None:
        super().__init__(name)
        self.style = style
        self.checks = checks

    def main_logic(self, data: Any) -> Any:
        frame = self.checks.check(data, self.meta)
        if self.style == "forward":
            return data
        if self.style == "extend":
            return {"frames": [frame], "numbers": [np.full(3000, self.meta.sequence, np.int32)]}
        if self.style == "crop":
            return {"frames": [frame[2:-2, ::2], frame[::-1]], "numbers": []}
        if self.style == "copy":
            return frame.copy()
        loan = self.loan(frame.shape)
        loan[...] = frame
        return loan


class Screen(DestinationRoutine):
    """Checks what it gets."""

    def __init__(self, name: str, checks: Checks) -> None:
        super().__init__(name)
        self.checks = checks

    def main_logic(self, data: Any) -> None:
        self.checks.check(data, self.meta)


class Numbers(SourceRoutine):
    """Sends frames with the numbers 0 to `count` - 1, then waits in `main_logic` for the board's `gate`, and ends.

    :param sent: the cell that it sets when it has sent all.
    """

    def __init__(self, name: str, board: Board, count: int, gate: int, sent: int) -> None:
        super().__init__(name)
        self.board = board
        self.count = count
        self.gate = gate
        self.sent = sent

    def main_logic(self) -> np.ndarray:
        if self.meta.sequence == self.count:
            self.board[self.sent] = 1
            self.board.wait(self.gate, timeout=60)
            raise EndOfStream
        return np.full(SHAPE, pattern(self.name, self.meta.sequence), np.uint8)
