"""The taps of a running pipe, by the number of their edge."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pipert_shm.control.messages import TapMade
from pipert_shm.graph.names import Names
from pipert_shm.shm.segments import ControlSegment
from pipert_shm.tap import Tap


class Taps:
    """Makes taps and ends them, on the listener's thread.

    :param names: of the routines whose messages may come, by the number that these carry.
    :param untap: takes the wire of a tap away, given its edge's number.
    """

    def __init__(self, segment: ControlSegment, names: Names, untap: Callable[[int], None], logger: logging.Logger) -> None:
        self._segment = segment
        self._names = names
        self.untap = untap
        self._logger = logger
        self._taps: dict[int, Tap] = {}

    def __len__(self) -> int:
        return len(self._taps)

    def __contains__(self, edge: int) -> bool:
        return edge in self._taps

    def all(self) -> list[Tap]:
        """Those that have not ended."""
        return list(self._taps.values())

    def make(self, message: TapMade) -> Tap:
        """The tap that the launcher has made a wire for."""
        edge = message.edge
        tap = Tap(self._segment, edge, message.incarnation, self._names, self.untap, self._logger)
        self._taps[edge.number] = tap  # its end, which may be told of next, finds it here
        return tap

    def know(self, names: Names) -> None:
        """Tells all taps, and those to come, the names of the routines whose messages may come. Any thread."""
        self._names = names  # before the look at the taps: one that is made meanwhile knows them
        for tap in list(self._taps.values()):
            tap.know(names)

    def end(self, edge: int) -> None:
        """Ends a tap whose wire is gone, and gives the edge back."""
        tap = self._taps.get(edge)
        if tap is not None:
            try:
                tap.end()
                tap.release()
            finally:
                del self._taps[edge]  # last: who sees that it is gone finds its place given back

    def end_all(self) -> None:
        """Makes every reader stop: the pipe has ended."""
        for tap in list(self._taps.values()):
            tap.end()
