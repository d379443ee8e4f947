"""Routines whose every frame says which message it belongs to, and that check it at each step, in processes that may die."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipert_shm import BatchRoutine, DestinationRoutine, EndOfStream, MiddleRoutine, SourceRoutine, writable
from pipert_shm.data import Meta
from waiting import Board

STYLES = ("forward", "view", "extend", "crop", "copy", "write", "loan")
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
        self._last: Meta | None = None

    def check(self, data: Any, meta: Meta) -> np.ndarray:
        """The frame in a payload that is as it should be."""
        frames, numbers = (data["frames"], data["numbers"]) if isinstance(data, dict) else ([data], [])
        wanted = pattern(meta.origin, meta.sequence)
        for frame in frames:
            assert (frame == wanted).all(), f"torn: {meta.origin} {meta.sequence}: {np.unique(frame)}, not {wanted}"
        for array in numbers:
            assert (array == meta.sequence).all(), f"torn: {meta.origin} {meta.sequence}: {np.unique(array)}"
        if meta is not self._last:  # else main_logic is called with it again, after a stop
            self.note((meta.origin, *(hop.routine for hop in meta.hops)), meta.sequence)
            self._last = meta
        first: np.ndarray = frames[0]
        return first

    def note(self, way: tuple[str, ...], sequence: int) -> None:
        """One more message, that came by this way."""
        cell = self._paths[way]
        last = self._board[cell] - 1
        assert sequence > last, f"out of order: {way} {sequence} came after {last}"
        self._board[cell] = sequence + 1
        self._board.add(cell + 1)


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
    """Checks what it gets, and sends on: the same, a view, more, two parts, a copy, the same memory written anew, or a loan.

    Where it joins, every part is checked, and the first one goes on.
    """

    def __init__(self, name: str, style: str, checks: Checks) -> None:
        super().__init__(name)
        self.style = style
        self.checks = checks

    def main_logic(self, data: Any) -> Any:
        if self.join is None:
            return turn(self, data, self.checks.check(data, self.meta), self.meta)
        check_joined(self.checks, data, self.metas)
        first = next(iter(data.values()))
        return turn(self, first, first["frames"][0] if isinstance(first, dict) else first, self.metas[0])


class BatchStep(BatchRoutine):
    """The same, of batches."""

    def __init__(self, name: str, style: str, checks: Checks, *, batch_size: int, max_wait: float) -> None:
        super().__init__(name, batch_size=batch_size, max_wait=max_wait)
        self.style = style
        self.checks = checks

    def main_logic(self, batch: list[Any]) -> list[Any]:
        pairs = zip(batch, self.metas, strict=True)
        return [turn(self, data, self.checks.check(data, meta), meta) for data, meta in pairs]


def turn(routine: Step | BatchStep, data: Any, frame: np.ndarray, meta: Meta) -> Any:
    """What a payload becomes, by the routine's style."""
    if routine.style == "forward":
        return data
    if routine.style == "view":
        return frame[1:]
    if routine.style == "extend":
        return {"frames": [frame], "numbers": [np.full(3000, meta.sequence, np.int32)]}
    if routine.style == "crop":
        return {"frames": [frame[2:-2, ::2], frame[::-1]], "numbers": []}
    if routine.style == "copy":
        return frame.copy()
    if routine.style == "write":
        value = int(frame.flat[0])
        drawing = writable(frame)
        drawing[...] = 255 - value  # whoever else has this memory sees it
        drawing[...] = value
        return drawing
    loan = routine.loan(frame.shape)
    loan[...] = frame
    return loan


def check_joined(checks: Checks, data: dict[str, Any], metas: list[Meta]) -> None:
    """Checks each part, and that they belong together."""
    assert len(data) == len(metas)
    assert len({(meta.origin, meta.sequence) for meta in metas}) == 1, f"joined: {[(m.origin, m.sequence) for m in metas]}"
    for (name, part), meta in zip(data.items(), metas, strict=True):
        sender = meta.hops[-2].routine if len(meta.hops) > 1 else meta.origin
        assert name == sender.split("#")[0], f"joined as from {name}, it came from {sender}"
        checks.check(part, meta)


class Screen(DestinationRoutine):
    """Checks what it gets."""

    def __init__(self, name: str, checks: Checks) -> None:
        super().__init__(name)
        self.checks = checks

    def main_logic(self, data: Any) -> None:
        if self.join is not None:
            check_joined(self.checks, data, self.metas)
        else:
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
