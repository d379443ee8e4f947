"""The last packets of a stream: in memory, bounded in seconds and bytes."""

from __future__ import annotations

from collections import deque
from itertools import islice

from pipert_shm.video.footage.kept import Kept


class Roll:
    """The last packets, each with a number. It begins with a key frame. Pure logic; one thread at a time.

    :param seconds: how old the first key frame must be at least, as long as there is room.
    :param most_bytes: of all packets. The oldest go first, up to the next key frame.

    Attributes:
        end: number of the packet that comes next.
        seconds: see the parameter. It may be set.
        unread: packets from this number on stay longer than `seconds`, as long as there is room.
        crowded_out: how many packets went that should have stayed.
    """

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self.seconds = seconds
        self._most_bytes = most_bytes
        self._packets: deque[Kept] = deque()
        self._keys: deque[int] = deque()  # numbers of key frames
        self._bytes = 0
        self.end = self.crowded_out = 0
        self.unread: int | None = None

    @property
    def begin(self) -> int:
        """Number of the first packet that is there."""
        return self.end - len(self._packets)

    @property
    def bytes(self) -> int:
        """How many bytes the packets have."""
        return self._bytes

    def __getitem__(self, number: int) -> Kept:
        return self._packets[number - self.begin]

    def add(self, packet: Kept) -> None:
        """Takes the next packet. Those before the first key frame are of no use."""
        if not self._packets and not packet.is_key:
            return
        if packet.is_key:
            self._keys.append(self.end)
        self._packets.append(packet)
        self._bytes += len(packet.data)
        self.end += 1
        if packet.is_key:
            self._let_go(packet.came_ns - round(self.seconds * 1e9))
        while self._bytes > self._most_bytes and self._packets:
            self.crowded_out += self._drop_first()

    def _let_go(self, before_ns: int) -> None:
        """Drops what comes before the last key frame that is old enough."""
        while len(self._keys) > 1 and self[self._keys[1]].came_ns <= before_ns:
            if self.unread is not None and self._keys[1] > self.unread:
                return
            self._drop_first()

    def _drop_first(self) -> int:
        """Drops the first key frame and what builds on it; returns how many packets these were."""
        until = self._keys[1] if len(self._keys) > 1 else self.end
        dropped = until - self.begin
        for _ in range(dropped):
            self._bytes -= len(self._packets.popleft().data)
        self._keys.popleft()
        return dropped

    def since(self, number: int) -> list[Kept]:
        """The packets from this number on that are there."""
        return list(islice(self._packets, max(0, number - self.begin), None))

    def key_before(self, came_ns: int) -> int | None:
        """Number of the last key frame that came no later than this; the first one, if all came later; None without any."""
        if not self._keys:
            return None
        found = self._keys[0]
        for number in self._keys:
            if self[number].came_ns > came_ns:
                break
            found = number
        return found
