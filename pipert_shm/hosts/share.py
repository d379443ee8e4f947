"""Divides a stream among hosts that run replicas of one flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipert_shm.routine import MiddleRoutine

_SPREAD = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: consecutive numbers, and every n-th, land far apart


def share_of(sequence: int, of: int) -> int:
    """Which share a message belongs to. Regular patterns, such as every second number, are spread evenly, too.

    >>> [share_of(sequence, 2) for sequence in range(6)]
    [0, 1, 0, 1, 0, 0]
    """
    return ((sequence * _SPREAD) & (1 << 64) - 1) * of >> 64


class Share(MiddleRoutine):
    """Passes on the messages that belong to some shares of a stream, and leaves out the others.

    Where replicas of a flow run on several hosts, each message goes to one of the hosts: those with the other shares get the
    rest. Which message belongs to which share hangs on `meta.sequence`.

    :param of: how many shares there are.
    :param numbers: those that pass, from 0.
    """

    def __init__(self, name: str | None = None, *, of: int, numbers: Sequence[int]) -> None:
        super().__init__(name)
        if of < 1 or not numbers or not all(0 <= number < of for number in numbers):
            raise ValueError(f"of={of!r}, numbers={numbers!r}: give some of the numbers from 0 to {of - 1}")
        self._of, self._numbers = of, frozenset(numbers)

    def main_logic(self, data: Any) -> Any:
        """The message; None where it belongs to another share."""
        return data if share_of(self.meta.sequence, self._of) in self._numbers else None
