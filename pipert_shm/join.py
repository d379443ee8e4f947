"""Joins: a routine gets messages of several inputs that belong together in one call."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pipert_shm.errors import shown
from pipert_shm.limits import LONGEST_WAIT, check_count, is_number

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Join:
    """Makes `main_logic` get one message of each input, that belong together. Set it as `join` of the routine.

    `main_logic` gets a dict of payloads by sender's name, in the order of the wires. Replicas count as one sender, by the name
    that they share, and should be `ordered`. The result inherits the meta of the first wire's message, with the oldest capture
    time of all.

    The messages of each input have to come in order. A message is dropped, and counted as `join` on its wire, when another
    input has passed it without a partner; when it comes out of order; when more than `depth` messages of its input wait; and
    when the routine ends, fails or is killed. A stop drops none. If there are several possible partners, the oldest are taken.

    :param by: `seq`: the same sequence number (of one source, or of sources that number in step); `time`: captured within
        `tolerance` of each other.
    :param tolerance: seconds, for `time`.
    :param depth: messages of each input that may wait for partners; `build()` raises it to as many as a `BatchRoutine`
        on one of the paths may delay. Their frames are held, so memory is set aside for them.
    :raises ValueError: when an argument is out of range.

    >>> from pipert_shm import Join, MiddleRoutine
    >>> class Overlay(MiddleRoutine):
    ...     join = Join(by="seq")
    ...     def main_logic(self, data):
    ...         return data["camera"], data["detector"]
    """

    by: Literal["seq", "time"] = "seq"
    tolerance: float = 0.0
    depth: int = 8

    def __post_init__(self) -> None:
        if self.by not in ("seq", "time"):
            raise ValueError(f"by must be 'seq' or 'time', not {shown(self.by)}: Join(by=\"time\", tolerance=0.02)")
        if not is_number(self.tolerance) or abs(self.tolerance) > LONGEST_WAIT:
            raise ValueError(f"tolerance must be a number of seconds, up to {LONGEST_WAIT:,.0f}, not {shown(self.tolerance)}")
        check_count("depth", self.depth)
        if (self.tolerance > 0) != (self.by == "time"):
            raise ValueError(
                f"tolerance (s) is more than 0 with by='time', and 0 with 'seq'; not {self.tolerance} with {self.by!r}"
            )


class Matcher(Generic[T]):
    """Finds messages that belong together.

    :param inputs: a key for each input, in order.
    :param tolerance: how far apart the keys of partners may be.
    """

    def __init__(self, inputs: Iterable[Hashable], tolerance: float, depth: int) -> None:
        self._waiting: dict[Hashable, deque[tuple[float, T]]] = {name: deque() for name in inputs}
        self._newest: dict[Hashable, float] = dict.fromkeys(self._waiting, float("-inf"))
        self._tolerance = tolerance
        self._depth = depth

    def add(self, name: Hashable, key: float, item: T) -> list[tuple[Hashable, T]]:
        """Adds a message. Returns the messages that have no partner now, to be dropped; it may be one of them."""
        if key <= self._newest[name]:
            return [(name, item)]
        self._newest[name] = key
        self._waiting[name].append((key, item))
        dropped = self._drop_hopeless()
        if len(self._waiting[name]) > self._depth:
            dropped.append((name, self._waiting[name].popleft()[1]))
        return dropped

    def match(self) -> list[T] | None:
        """One message of each input, that belong together; None if there are none yet. Call it after each `add`."""
        if not all(self._waiting.values()):
            return None
        # Nothing that waits is hopeless, so the first ones are within the tolerance.
        return [waiting.popleft()[1] for waiting in self._waiting.values()]

    def clear(self) -> list[tuple[Hashable, T]]:
        """Removes all messages that wait, and returns them, to be dropped."""
        dropped = [(name, item) for name, waiting in self._waiting.items() for _, item in waiting]
        for waiting in self._waiting.values():
            waiting.clear()
        return dropped

    def _drop_hopeless(self) -> list[tuple[Hashable, T]]:
        dropped: list[tuple[Hashable, T]] = []
        while True:
            # The smallest key that each input has, or can still get; the largest of these is what all partners must reach.
            reached = max(waiting[0][0] if waiting else self._newest[name] for name, waiting in self._waiting.items())
            hopeless = [
                name for name, waiting in self._waiting.items() if waiting and waiting[0][0] < reached - self._tolerance
            ]
            if not hopeless:
                return dropped
            for name in hopeless:
                dropped.append((name, self._waiting[name].popleft()[1]))
