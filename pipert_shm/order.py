"""The order of messages after a flow that has replicas.

Each message that is sent to such a flow gets a ticket, the sender's count. Replicas send one result per ticket, or a tombstone
where there is none. After the flow, a result is let through when its ticket follows the last one, or when no earlier one can
come any more: the edge to each replica says which ticket was pushed last, and which one the replica is done with.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

Tickets = Callable[[], tuple[int, int]]


class Order(Generic[T]):
    """Holds results back until it is their turn.

    :param lanes: by the number of each sender: for each replica, what reads the ticket that was pushed to it last, and the one
        that it is done with.
    :param most: results of one edge that may be held back.
    """

    def __init__(self, lanes: dict[int, list[Tickets]], most: int) -> None:
        self._lanes = lanes
        self._most = most
        self._held: dict[int, list[tuple[int, int, int, T]]] = {sender: [] for sender in lanes}
        self._added = 0  # sorts results of one ticket
        self._last = dict.fromkeys(lanes, 0)
        self._count: Counter[int] = Counter()

    def add(self, sender: int, ticket: int, edge: int, item: T) -> bool:
        """One more result. Whether this edge has as many held back as it may: take no more from it for now."""
        self._added += 1
        heapq.heappush(self._held[sender], (ticket, self._added, edge, item))
        self._count[edge] += 1
        return self._count[edge] >= self._most

    def pop(self) -> tuple[int, T] | None:
        """The next result whose turn it is for certain, and its edge."""
        for sender, held in self._held.items():
            if held and held[0][0] <= self._last[sender] + 1:
                return self.release(sender)
        return None

    def waiting(self) -> list[int]:
        """The senders of which some results are held back, that of the lowest ticket first."""
        senders = [sender for sender, held in self._held.items() if held]
        return sorted(senders, key=lambda sender: self._held[sender][0][0])

    def free(self) -> list[int]:
        """Of those, the senders whose next result nothing earlier can come before, but for what is pushed here already."""
        return [sender for sender in self.waiting() if not self._is_blocked(sender)]

    def _is_blocked(self, sender: int) -> bool:
        before = self._held[sender][0][0] - 1
        return any(done < min(pushed, before) for pushed, done in (read() for read in self._lanes[sender]))

    def release(self, sender: int) -> tuple[int, T]:
        """The next result of a sender, and its edge."""
        ticket, _, edge, item = heapq.heappop(self._held[sender])
        self._last[sender] = max(ticket, self._last[sender])
        self._count[edge] -= 1
        return edge, item
