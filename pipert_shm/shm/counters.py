"""A routine's own counters, which every process of the pipe can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from pipert_shm import binding


class Words(Protocol):
    """Where the counts stand: in shared memory or in a list."""

    def __getitem__(self, index: int, /) -> int:
        """The count at an index."""

    def __setitem__(self, index: int, value: int, /) -> None:
        """Sets the count at an index."""


class Counters(Mapping[str, int]):
    """A routine's own counters, `self.counters`: unsigned integers by name, 0 at first.

    In a running pipe they stand in shared memory: `pipe.statistics().routines[name].counters` reads them at any time, and they
    outlive the routine's process. Each should be set by one thread of the routine's process; any may read.

    :param names: at most 16, no two alike.
    :raises ValueError: when they are not.

    >>> counters = Counters(("faces", "crowded"))
    >>> counters["faces"] += 3
    >>> counters["crowded"] = 1
    >>> dict(counters)
    {'faces': 3, 'crowded': 1}
    """

    def __init__(self, names: tuple[str, ...], words: Words | None = None) -> None:
        if isinstance(names, str) or len(names) > binding.COUNTERS or len(set(names)) < len(names):
            raise ValueError(f"counter_names must be a tuple of at most {binding.COUNTERS} different names, not {names!r}")
        self._places = {name: place for place, name in enumerate(names)}
        self._words: Words = [0] * len(names) if words is None else words

    def __getitem__(self, name: str) -> int:
        return self._words[self._places[name]]

    def __setitem__(self, name: str, value: int) -> None:
        if name not in self._places:
            raise KeyError(f"there is no counter {name!r}: add it to the class's counter_names")
        self._words[self._places[name]] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"Counters({dict(self)})"
