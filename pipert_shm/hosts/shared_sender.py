"""Divides a stream among hosts by who has least to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipert_shm.binding import now_ns
from pipert_shm.hosts.sender import PATIENCE, RemoteSender


class SharedSender(RemoteSender):
    """Sends each message to one of several hosts, on which replicas of one flow run.

    Its flow has as many replicas as there are hosts, and each replica sends to the host of its number. A message goes to the
    replica that has the least to do, as with all replicas. One whose host gives no credit, or can't be reached, takes none. So
    a host gets as much as it handles, and the others get the rest. Only when no host takes any does the policy of the wire
    before this routine decide.

    With `drop_oldest`, a message that waits for a host which can't be reached is dropped after `max_age`, or a second.

    :param ends: for each host its name (`peer`), and the `key` of the wire to it.
    :param settings: as of `RemoteSender`, but for `key` and `peer`.
    :raises ValueError: as of `RemoteSender`; or when there are no ends.
    """

    replicable = True

    def __init__(self, name: str | None = None, *, ends: Sequence[Mapping[str, str]], **settings: Any) -> None:
        if not ends or any(set(end) != {"key", "peer"} for end in ends):
            raise ValueError(f"ends={ends!r}: give one end or several, each a dict with `key` and `peer`")
        super().__init__(ends[0]["key"], name, peer=ends[0]["peer"], **settings)
        self._ends = [dict(end) for end in ends]

    def setup(self) -> None:
        """Connects to the host of this replica in the background."""
        end = self._ends[int(self.name.rpartition("#")[2]) if len(self._ends) > 1 else 0]
        self.key = end["key"]
        self._hub = replace(self._hub, peer=end["peer"])
        super().setup()

    def main_logic(self, data: Any) -> None:
        """Waits until the host is there, and sends a message, or drops it.

        :raises PayloadError: when it holds what can't go to another host.
        """
        line = self._line
        assert line is not None, "setup() comes first"
        patience = None
        if not self._is_lossless:
            age = (now_ns() - self.meta.captured_ns) / 1e9
            patience = max(PATIENCE if self._max_age is None else self._max_age - age, 0)
        with line.changed:
            line.changed.wait_for(lambda: line.machine.is_connected or self._stopping, patience)
        super().main_logic(data)
