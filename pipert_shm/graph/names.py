"""The names of a pipe's routines, as messages are labelled with them."""

from __future__ import annotations

from collections.abc import Iterable

MOST_PAST = 1024  # routines that were removed and whose names are kept
_NUMBER = 0xFFFF


def number_of(origin: int) -> int:
    """The number of a routine, from that which its messages carry."""
    return origin & _NUMBER


class Names(dict[int, str]):
    """Names by the number of a routine, and by the number that its messages carry: `RoutinePlan.origin`.

    The second kind is also there of routines that were removed, of the last thousand. A number that is not known gets a name,
    too, so that a message which has been on its way for so long is never taken for another routine's.
    """

    past: tuple[int, ...] = ()  # the numbers in messages of those that were removed, in order

    def changed(self, new: Names, gone: Iterable[int]) -> Names:
        """The names after some routines have come, and some have gone.

        :param gone: the numbers that the messages of these carry. Their names are kept for a while.
        """
        names = Names({**self, **new})
        names.past = (*self.past, *gone)
        for origin in names.past[:-MOST_PAST]:
            names.pop(origin, None)
        names.past = names.past[-MOST_PAST:]
        return names

    def __missing__(self, number: int) -> str:
        return f"routine {number_of(number)}"
