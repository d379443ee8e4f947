"""The order of messages after a flow that has replicas.

Each message to such a flow gets a ticket: a number that its sender counts up. A replica sends one result per ticket, or a
tombstone where there is no result. After the flow, a result is let through when its ticket follows the last one, or when no
earlier one can come any more. The edge to each replica tells that: it says which ticket was announced last, and which one the
replica is done with.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

Tickets = Callable[[], tuple[int, int]]

_UNKNOWN = -1  # stands for the edges of a stream that is not known yet


class TicketOrder(Generic[K, T]):
    """Holds results back until it is their turn.

    :param lanes: by stream (one sender to one flow): for each edge on which a replica's results come, a function that reads two
        tickets: the one announced last to that replica, and the one that it is done with.
    :param most: results of one edge that should be held back at most.

    Attributes:
        lanes: as they were given last.
    """

    def __init__(self, lanes: Mapping[K, Mapping[int, Tickets]], most: int) -> None:
        self._most = most
        self._held: dict[K, list[tuple[int, int, int, T]]] = {}
        self._added = 0  # sorts results of one ticket
        self._last: dict[K, int] = {}
        self._count: Counter[int] = Counter()
        self.lanes: dict[K, Mapping[int, Tickets]] = {}
        self.go_by(lanes)

    def go_by(self, lanes: Mapping[K, Mapping[int, Tickets]]) -> None:
        """Goes by these lanes from now on. A stream that is not among them is forgotten when nothing of it is held back."""
        known = [stream for stream, held in self._held.items() if held and stream in self.lanes]
        kept = {*lanes, *(stream for stream, held in self._held.items() if held)}
        self.lanes = {stream: lanes.get(stream, {}) for stream in (*lanes, *known)}
        self._held = {stream: self._held.get(stream, []) for stream in kept}
        self._last = {stream: self._last.get(stream, 0) for stream in kept}

    def add(self, stream: K, ticket: int, edge: int, item: T) -> bool:
        """Holds one more result back; True when its edge has enough of them: take no more from it for now.

        The result of a stream that is not known waits until that is told of by `go_by`.
        """
        self._added += 1
        heapq.heappush(self._held.setdefault(stream, []), (ticket, self._added, edge, item))
        self._count[edge] += 1
        return self._count[edge] >= self._most

    def pop(self) -> tuple[int, T] | None:
        """The next result whose turn has come for certain, and its edge; None when there is none."""
        for stream, held in self._held.items():
            if held and held[0][0] <= self._last.get(stream, 0) + 1:
                return self.release(stream)
        return None

    def waiting(self) -> list[K]:
        """The streams with results that are held back, the one with the lowest ticket first."""
        streams = [stream for stream, held in self._held.items() if held]
        return sorted(streams, key=lambda stream: self._held[stream][0][0])

    def free(self) -> dict[K, set[int]]:
        """Those of them whose next result no earlier one can precede, unless it is in a queue to here already.

        Each has the edges with these queues. It stays so until a result is added or released, though lanes may look otherwise
        later: as soon as an idle replica gets a later ticket, its edge says that it could still yield an earlier one.
        """
        return {stream: self._unread(stream) for stream in self.waiting() if not self._blocking(stream)}

    def needed(self, free: Mapping[K, set[int]]) -> set[int]:
        """The edges on which results come that others wait for.

        :param free: what `free` said.
        """
        return set().union(*(free[one] if one in free else self._blocking(one) for one in self.waiting()))

    def _blocking(self, stream: K) -> list[int]:
        """The edges on which an earlier result than a stream's next one may still be sent."""
        if stream not in self.lanes:
            return [_UNKNOWN]
        before = self._held[stream][0][0] - 1
        tickets = ((edge, *read()) for edge, read in self.lanes[stream].items())
        return [edge for edge, announced, done in tickets if done < min(announced, before)]

    def _unread(self, stream: K) -> set[int]:
        """The edges on which one may be in the queue already.

        A replica sends the results of a stream in order: there is nothing behind one that is held back.
        """
        return set(self.lanes[stream]) - {edge for _, _, edge, _ in self._held[stream]}

    def release(self, stream: K) -> tuple[int, T]:
        """The next result of a stream, and its edge."""
        ticket, _, edge, item = heapq.heappop(self._held[stream])
        self._last[stream] = max(ticket, self._last.get(stream, 0))
        self._count[edge] -= 1
        return edge, item
