"""Waiting for conditions, and words that a test shares with the processes it forks."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

T = TypeVar("T")

PATIENCE = 20.0  # seconds after which a condition counts as never met


def eventually(condition: Callable[[], bool], what: str = "the condition", timeout: float = PATIENCE) -> None:
    """Returns as soon as the condition holds.

    :raises AssertionError: when it does not within `timeout` seconds.
    """
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited > timeout:
            raise AssertionError(f"{what} was not met within {timeout} s")
        time.sleep(min(0.001 + waited / 20, 0.02))  # what has taken long may take 5 % more: to look costs CPU that others need


class Board:
    """Integers, all 0 at first, that this process and every process forked from it see and set.

    Each cell should have one writer. Usable as a routine's attribute: it crosses forks, and needs no clean-up.
    """

    def __init__(self, cells: int = 16) -> None:
        self._cells = np.frombuffer(mmap.mmap(-1, 8 * cells), np.int64)

    def __getitem__(self, cell: int) -> int:
        return int(self._cells[cell])

    def __setitem__(self, cell: int, value: int) -> None:
        self._cells[cell] = value

    def add(self, cell: int, value: int = 1) -> None:
        self._cells[cell] += value

    def wait(self, cell: int, least: int = 1, timeout: float = PATIENCE) -> None:
        """Returns as soon as the cell is at least `least`."""
        eventually(lambda: self[cell] >= least, f"cell {cell} >= {least} (it is {self[cell]})", timeout)


def at_rest(look: Callable[[], T], seconds: float = 0.3) -> T:
    """Returns what is seen when it is the same again after this time."""
    seen = look()
    while True:
        time.sleep(seconds)
        again = look()
        if again == seen:
            return again
        seen = again
