"""What both routines of a wire between hosts have in common: their settings, and how they are told to stop."""

from __future__ import annotations

from typing import Any

from pipert_shm.errors import UnknownEvent
from pipert_shm.events import (
    KILL_EVENT_NAME,
    PEER_FAILED_EVENT_NAME,
    PEER_RETURNED_EVENT_NAME,
    STOP_EVENT_NAME,
    check_name,
    events,
)
from pipert_shm.hosts.carrier import Hub
from pipert_shm.hosts.line import Line
from pipert_shm.routine import Routine

_ADVICE = {
    "died": "it died, and is there again",
    "unreachable": "it can't be reached: the link is cut, the host is down, or its flow has failed for good; it goes on trying",
    "ended": "it has ended",
}


class Remote(Routine):
    """One end of a wire between two hosts; see `RemoteSender` and `RemoteReceiver`."""

    replicable = False

    def __init__(self, name: str | None, key: str, hub: Hub) -> None:
        super().__init__(name)
        self.key = check_name("a wire between hosts", key)
        if set(self.key) & set("*$#?"):
            raise ValueError(f"a wire between hosts can't be called {key!r}: *, $, # and ? have a meaning for Zenoh")
        self._hub = hub
        self._line: Line | None = None
        self._stopping = False

    @events(STOP_EVENT_NAME)
    def _told_to_stop(self) -> None:
        self._interrupt()

    @events(KILL_EVENT_NAME)
    def _told_to_end(self) -> None:
        self._interrupt()

    def _interrupt(self) -> None:
        """Ends a wait in `main_logic`."""
        self._stopping = True
        line = self._line
        if line is not None:
            with line.changed:
                line.changed.notify_all()

    def _tell(self, reason: str) -> None:
        """Tells of a loss, or of a return: a log record, and the event for those routines that handle it."""
        told: dict[str, Any] = {"flow": self.key, "routines": []}
        if reason == "returned":
            self._logger.warning("the other end of the wire %r can be reached again", self.key)
            event = PEER_RETURNED_EVENT_NAME
        else:
            self._logger.warning("the other end of the wire %r is gone: %s", self.key, _ADVICE[reason])
            event, told["reason"] = PEER_FAILED_EVENT_NAME, reason
        try:
            self.notify_event(event, **told)
        except UnknownEvent:
            return  # no routine of this pipe wants to know

    def _close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()
