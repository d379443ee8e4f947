"""Items that have numbers, where numbers may be missing: those of items that were removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class Numbered(Generic[T]):
    """Items by number. To iterate gives the items, in the order in which they were added.

    :param items: they get the numbers from 0 on.

    >>> letters = Numbered("abc")
    >>> del letters[1]
    >>> list(letters), letters[2], 1 in letters, letters.free()
    (['a', 'c'], 'c', False, 1)
    """

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = dict(enumerate(items))

    def __getitem__(self, number: int) -> T:
        """:raises KeyError: when no item has the number."""
        return self._items[number]

    def __setitem__(self, number: int, item: T) -> None:
        self._items[number] = item

    def __delitem__(self, number: int) -> None:
        del self._items[number]

    def __contains__(self, number: int) -> bool:
        return number in self._items

    def __iter__(self) -> Iterator[T]:
        return iter(self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Numbered({self._items})"

    def get(self, number: int) -> T | None:
        """The item of a number; None when there is none."""
        return self._items.get(number)

    def numbers(self) -> list[int]:
        """The numbers that have an item, in order."""
        return sorted(self._items)

    def free(self) -> int:
        """The least number that no item has."""
        return next(number for number in count() if number not in self._items)

    def copy(self) -> Numbered[T]:
        """Another one with the same items."""
        copied: Numbered[T] = Numbered()
        copied._items = dict(self._items)
        return copied
