"""Zenoh as the carrier: a session of one routine, opened in its flow's process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from pipert_shm.binding import now_ns
from pipert_shm.errors import HostsError, describe
from pipert_shm.hosts.access import key_of
from pipert_shm.hosts.certificates import warn_of_end
from pipert_shm.hosts.memory import keep_freed_memory
from pipert_shm.hosts.pieces import MOST_PIECE, Body, Pieces, TooLarge, told_of_piece
from pipert_shm.hosts.session import LONGEST_WAIT, ROUTING, SHORTEST_WAIT, configured, load_zenoh, text_of
from pipert_shm.hosts.session import Hub as Hub

FAREWELL = 1.0  # seconds that the end waits for a thread
LONGEST_CLOSE = 12.0  # seconds that Zenoh takes to close a session whose link is cut, at the most
LONGEST_END = 20  # digits of an end's token
QUEUED = 32  # samples that Zenoh keeps for us, each of two pieces at the most
SETTINGS = ROUTING | {"transport/link/rx/max_message_size": 2 * MOST_PIECE}
"""Of the sessions of wires. No sender sends larger pieces, so nobody makes this end keep more."""

Role = Literal["sender", "receiver"]


class Heard(NamedTuple):
    """What came from the other end: a head, and a body in pieces."""

    head: bytes
    body: Body
    arrived_ns: int


class Refused(NamedTuple):
    """Something came that no end of ours sends, or that is too large; `why`, for people."""

    why: str
    is_too_large: bool


class Presence(NamedTuple):
    """The other end came or went."""

    end: int
    is_there: bool


Listener = Callable[[Heard | Refused | Presence], None]


_closing: list[threading.Thread] = []  # those that close sessions of this process


class Carrier:
    """A session, connected in the background, and again whenever the link is lost.

    :param key: of the wire; both ends have the same.
    :param end: this end's token.
    :param listener: called on other threads.
    :param pieces: puts together what comes.
    :raises ImportError: when Zenoh is not installed.
    :raises HostsError: when the files of `hub` can't be read, or nobody can listen at its address.
    """

    def __init__(
        self, hub: Hub, key: str, role: Role, end: int, listener: Listener, pieces: Pieces, logger: logging.Logger
    ) -> None:
        zenoh = load_zenoh()
        keep_freed_memory()
        identity = hub.identify()
        warn_of_end(identity, logger)
        me, peer = hub.ends(identity)
        other = "receiver" if role == "sender" else "sender"
        self._said, self._heard = key_of(me, peer, "wire", key, role), key_of(peer, me, "wire", key, other)
        self._zenoh: Any = zenoh
        self._hub, self._role, self._end = hub, role, end
        self._listener, self._pieces, self._logger = listener, pieces, logger
        self._closing = threading.Event()
        self._session: Any = None
        self._declared: list[Any] = []
        self._publisher: Any = None
        self._sent = 0
        self._threads: list[threading.Thread] = []
        if hub.listen is not None:
            for earlier in list(_closing):
                earlier.join(LONGEST_CLOSE)  # it may have the address still
            try:
                self._set_up(zenoh.open(configured(hub, SETTINGS)))
            except zenoh.ZError as error:
                raise HostsError(f"can't listen at {hub.listen!r}: {text_of(error)}") from error
        else:
            self._start("connect", self._connect)

    def _start(self, name: str, run: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=run, args=arguments, name=f"hosts-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _connect(self) -> None:
        """Opens the session as soon as somebody answers. After that Zenoh connects again by itself."""
        wait = SHORTEST_WAIT
        warned = False
        while not self._closing.is_set():
            try:
                session = self._zenoh.open(configured(self._hub, SETTINGS))
            except self._zenoh.ZError as error:
                if not warned:
                    why = self._hub.why_refused() or text_of(error)
                    self._logger.warning("can't connect to %s yet: %s; it goes on trying", self._hub.address, why)
                warned = True
                self._closing.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                if self._closing.is_set():
                    session.close()
                else:
                    self._set_up(session)
                return

    def _set_up(self, session: Any) -> None:
        """Declares everything. The token comes last: who sees it may send."""
        zenoh = self._zenoh
        self._session = session
        what = session.declare_subscriber(self._heard, zenoh.handlers.FifoChannel(QUEUED))
        self._declared.append(what)
        self._start("hear", self._hear, what.handler)
        self._publisher = session.declare_publisher(
            self._said,
            congestion_control=zenoh.CongestionControl.BLOCK if self._role == "sender" else zenoh.CongestionControl.DROP,
            priority=zenoh.Priority.DATA if self._role == "sender" else zenoh.Priority.REAL_TIME,
            express=self._role == "receiver",
        )
        liveliness = session.liveliness()
        others = liveliness.declare_subscriber(f"{self._heard}/alive/*", zenoh.handlers.FifoChannel(QUEUED), history=True)
        self._declared += [others, liveliness.declare_token(f"{self._said}/alive/{self._end}")]
        self._start("watch", self._watch, others.handler)

    def _hear(self, handler: Any) -> None:
        with suppress(self._zenoh.ZError):  # at the end
            while True:
                sample = handler.recv()
                told = b"" if sample.attachment is None else sample.attachment.to_bytes()
                try:
                    heard = self._pieces.add(told, sample.payload.to_bytes())
                except ValueError as error:
                    self._listener(Refused(str(error), isinstance(error, TooLarge)))
                    continue
                if heard is not None:
                    self._listener(Heard(*heard, now_ns()))
                del sample, heard  # while it waits for the next one

    def _watch(self, handler: Any) -> None:
        with suppress(self._zenoh.ZError):
            while True:
                sample = handler.recv()
                name = str(sample.key_expr).rsplit("/", 1)[1]
                if name.isdecimal() and len(name) <= LONGEST_END:
                    self._listener(Presence(int(name), sample.kind == self._zenoh.SampleKind.PUT))

    def hold(self, pieces: Iterable[bytes]) -> list[Any]:
        """The pieces in Zenoh's memory, so that sending them again copies nothing."""
        return [self._zenoh.ZBytes(piece) for piece in pieces]

    def send(self, head: bytes, body: Sequence[Any] = ()) -> None:
        """Sends, or loses it where there is no link. It waits while the link is congested."""
        self.stream(head, body or (b"",), len(body) or 1)

    def stream(self, head: bytes, pieces: Iterable[Any], count: int) -> None:
        """The same with pieces that are made one by one."""
        if self._publisher is None:
            return
        self._sent = (self._sent + 1) & 0xFFFFFFFF
        place = 0
        try:
            for piece in pieces:
                self._publisher.put(piece, attachment=told_of_piece(self._sent, place, count, head))
                place += 1
                del piece  # its memory is for the next one, and is in the processor's cache
        except self._zenoh.ZError as error:
            self._logger.debug("not sent: %s", describe(error))  # the protocol sends it again, or counts it

    def close(self, farewell: bytes) -> None:
        """Says a last thing, and ends the session, within a second or two.

        Zenoh takes 10 s to close one whose link is cut or loses much, and it may wedge. It is left to do so on a thread that
        keeps no process alive.
        """
        self._closing.set()
        thread = threading.Thread(target=self._shut, args=(farewell,), name="hosts-close", daemon=True)
        _closing.append(thread)
        thread.start()
        thread.join(FAREWELL)
        if thread.is_alive():
            self._logger.info("the connection to %s does not close yet; it goes on to", self._hub.address)
        else:
            _closing.remove(thread)

    def _shut(self, farewell: bytes) -> None:
        for thread in [thread for thread in self._threads if thread.name == "hosts-connect"]:
            thread.join(FAREWELL)  # it may be waiting for a host that does not answer; it ends later
        if self._session is not None:
            self.send(farewell)
            for declared in reversed(self._declared):
                with suppress(self._zenoh.ZError):  # of a session that has failed
                    declared.undeclare()
            with suppress(self._zenoh.ZError):
                self._session.close()
        for thread in self._threads:
            thread.join(FAREWELL)
