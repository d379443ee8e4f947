"""The thread between a routine's end of the protocol and its carrier, and who is at the other end."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from pipert_shm.hosts.carrier import FAREWELL, Carrier, Heard, Hub, Presence, Refused, Role
from pipert_shm.hosts.messages import Bye, Said, pack, unpack
from pipert_shm.hosts.pieces import LARGEST_MESSAGE, Landing, Pieces, size_of

RESTART_S = 0.7  # within which a flow that died is there again; what is not, is unreachable
TOKEN_BITS = 62

Tell = Callable[[str], None]


def name_of_end(routine: str) -> str:
    """How an end is called in the log of the other one."""
    return f"{routine!r} of {socket.gethostname()} (process {os.getpid()})"


def new_token() -> int:
    """A number that no other end has."""
    return secrets.randbits(TOKEN_BITS) + 1


class Line(ABC):
    """One end of a wire between hosts. It has a thread, which says what the protocol has to say, and hears.

    Sleepers on `changed` are woken after each change; it also guards the protocol's state, for any thread.

    :param tell: called with `died`, `unreachable` or `ended` when the other end is gone; and with `returned` when one is there
        again that was told to be unreachable.
    :param end: this end's token; 0 for one drawn at random.
    :param most: bytes of a message that comes.

    Attributes:
        landing: where the arrays of a message that is coming may go.
        damaged: messages that were left out, as they could not be read, or no end of this version sends them.
        too_large: those that were left out for their size.
    """

    def __init__(
        self,
        hub: Hub,
        key: str,
        role: Role,
        tell: Tell,
        logger: logging.Logger,
        end: int = 0,
        most: int = LARGEST_MESSAGE,
    ) -> None:
        self.end = end or new_token()
        self.changed = threading.Condition()
        self._tell, self._logger, self._key = tell, logger, key
        self._has_heard = self._poked = self._closing = self._sending = False
        self._present: set[int] = set()
        self._parting: set[int] = set()
        self._gone: tuple[int, float] | None = None  # whose loss is to be told, unless another comes by then
        self._is_lost = False  # whether it was told to be unreachable, and none is there since
        self._news: list[str] = []
        self.damaged = self.too_large = 0
        self.landing = Landing(self.changed)
        self.carrier = Carrier(hub, key, role, self.end, self._listen, Pieces(most, self.landing), logger)
        self._thread = threading.Thread(target=self._run, name="hosts-line", daemon=True)
        self._thread.start()

    # ---- what the protocol of an end does, with `changed` in hand ----------------------------------

    @abstractmethod
    def hear(self, said: Said, arrived_ns: int) -> None:
        """Takes what the other end says."""

    @abstractmethod
    def say(self) -> Iterable[tuple[Said, Any]]:
        """Yields what there is to send, each with its body."""

    def appeared(self, now: float) -> None:  # noqa: B027
        """Another process is at the other end."""

    def left(self, end: int, now: float) -> None:  # noqa: B027
        """One of several processes at the other end is gone."""

    def vanished(self) -> None:  # noqa: B027
        """Nobody is at the other end."""

    def deadline(self) -> float | None:
        """When `wake` wants to be called (`time.monotonic`); None for never."""
        return None

    def wake(self, now: float) -> None:  # noqa: B027
        """The time has come."""

    @property
    def present(self) -> frozenset[int]:
        """Tokens of the other ends that are there."""
        return frozenset(self._present)

    # ---- for the routine's thread ------------------------------------------------------------------

    def poke(self) -> None:
        """There may be something to send. With `changed` in hand."""
        self._poked = True
        self.changed.notify_all()

    def close(self) -> None:
        """Says goodbye, and ends."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        self._thread.join(FAREWELL)  # it waits where the link is cut, for as long as Zenoh does
        self.carrier.close(pack(Bye(self.end)))

    def begin(self) -> bool:
        """Whether the caller may send in place of this thread, until it calls `_done`. With `changed` in hand."""
        if self._sending or self._poked or self._closing:
            return False
        self._sending = True
        return True

    def _done(self) -> None:
        with self.changed:
            self._sending = False
            self.poke()

    # ---- the threads -------------------------------------------------------------------------------

    def _listen(self, event: Heard | Refused | Presence) -> None:
        with self.changed:
            self._take(event)
            self._has_heard = True
            self.changed.notify_all()

    def _run(self) -> None:
        while not self._closing:
            with self.changed:
                self.changed.wait_for(lambda: self._has_heard or self._poked or self._closing, self._patience())
                self._has_heard = self._poked = False
                now = time.monotonic()
                if self._gone is not None and now >= self._gone[1]:
                    self._gone = None
                    self._is_lost = True
                    self._news.append("unreachable")
                self.wake(now)
                out = [] if self._sending else [(pack(said), body) for said, body in self.say()]
                self._sending = self._sending or bool(out)
                news, self._news = self._news, []
                self.changed.notify_all()
            for head, body in out:
                self.carrier.send(head, body)
            if out:
                self._done()
            for reason in news:
                self._tell(reason)

    def _patience(self) -> float | None:
        times = [at for at in (self.deadline(), self._gone[1] if self._gone else None) if at is not None]
        return max(min(times) - time.monotonic(), 0) if times else None

    def _take(self, event: Heard | Refused | Presence) -> None:
        if isinstance(event, Presence):
            self._note_presence(event.end, event.is_there)
            return
        if isinstance(event, Refused):
            self._note_damage(event.why, is_too_large=event.is_too_large)
            return
        try:
            said = unpack(event.head, event.body, size_of(event.body))
        except ValueError as error:
            self._note_damage(str(error), is_too_large=False)
            return
        if isinstance(said, Bye):
            if self._gone is not None and self._gone[0] == said.end:
                self._gone = None
                self._news.append("ended")
            else:
                self._parting.add(said.end)
        else:
            self.hear(said, event.arrived_ns)

    def _note_damage(self, what: str, *, is_too_large: bool) -> None:
        self.too_large += is_too_large
        self.damaged += not is_too_large
        count = self.too_large if is_too_large else self.damaged
        if count.bit_count() == 1:  # the first, the second, the fourth, and so on: another version may send many
            self._logger.warning("the wire %r between hosts carries %s; it is left out (%d so far)", self._key, what, count)

    def _note_presence(self, end: int, is_there: bool) -> None:
        if is_there == (end in self._present):
            return
        if is_there:
            self._present.add(end)
            if self._gone is not None and self._gone[0] != end:
                self._news.append("died")
            elif self._is_lost:
                self._news.append("returned")
            self._gone = None
            self._is_lost = False
            self._logger.info("the other end of the wire %r is there", self._key)
            self.appeared(time.monotonic())
            return
        self._present.discard(end)
        if self._present:
            self.left(end, time.monotonic())
            return
        self.vanished()
        if end in self._parting:
            self._parting.discard(end)
            self._news.append("ended")
        else:
            self._gone = end, time.monotonic() + RESTART_S
