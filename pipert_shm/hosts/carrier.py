"""Zenoh as the carrier: a session of one routine, opened in its flow's process. No other module imports zenoh."""

from __future__ import annotations

import json
import logging
import os
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipert_shm.binding import now_ns
from pipert_shm.errors import HostsError, describe, shown
from pipert_shm.extras import to_install

LEASE_S = 2.0  # of silence after which the link counts as cut
SHORTEST_WAIT, LONGEST_WAIT = 0.1, 1.0  # seconds between two attempts to connect
FAREWELL = 1.0  # seconds that the end waits for a thread
QUEUED = 128  # samples that Zenoh keeps for us
_PIECE = struct.Struct("<IHH")  # the number of a message, the place of this piece in it, and how many there are
Role = Literal["sender", "receiver"]


@dataclass(frozen=True, slots=True)
class Hub:
    """How a routine reaches the other host.

    Two routines meet at one address, where one of them, or a Zenoh router, listens. With `tls/` the other three are needed.

    :param connect: the address to connect to, such as `tcp/10.0.0.7:7447` or `tls/hub.example:7447`.
    :param listen: the address to listen at, in its place.
    :param ca: file with the certificate of the authority that both ends trust. Others are refused.
    :param certificate, key: files with this end's certificate, and its private key.
    :raises ValueError: when they don't fit together.
    """

    connect: str | None = None
    listen: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if (self.connect is None) == (self.listen is None):
            raise ValueError("give either connect= or listen=, an address such as 'tcp/10.0.0.7:7447'")
        kind = self.address.split("/")[0]
        if kind not in ("tcp", "tls") or ":" not in self.address:
            raise ValueError(f"an address is 'tcp/HOST:PORT' or 'tls/HOST:PORT', not {shown(self.address)}")
        files = {"ca": self.ca, "certificate": self.certificate, "key": self.key}
        if kind == "tls" and None in files.values():
            missing = ", ".join(name for name, path in files.items() if path is None)
            raise ValueError(f"{self.address!r} needs ca=, certificate= and key=; there is no {missing}")
        if kind == "tcp" and any(files.values()):
            raise ValueError(
                f"{self.address!r} is not encrypted, so ca=, certificate= and key= would protect nothing: use 'tls/…'"
            )

    @property
    def address(self) -> str:
        """The address, of either kind."""
        return self.connect or self.listen or ""

    def check_files(self) -> None:
        """:raises HostsError: when a certificate or key can't be read."""
        for name in ("ca", "certificate", "key"):
            path = getattr(self, name)
            if path is not None and not os.access(path, os.R_OK):
                raise HostsError(f"{name}: {os.fspath(path)!r} can't be read: check that it is there, and that this user may")


class Heard(NamedTuple):
    """What came from the other end: a head, and a body in pieces."""

    head: bytes
    body: Sequence[Any]
    arrived_ns: int


class Presence(NamedTuple):
    """The other end came or went."""

    end: int
    is_there: bool


Listener = Callable[[Heard | Presence], None]


class Carrier:
    """A session, connected in the background, and again whenever the link is lost.

    :param key: of the wire; both ends have the same.
    :param end: this end's token.
    :param listener: called on other threads.
    :raises ImportError: when Zenoh is not installed.
    :raises HostsError: when the files of `hub` can't be read, or nobody can listen at its address.
    """

    def __init__(self, hub: Hub, key: str, role: Role, end: int, listener: Listener, logger: logging.Logger) -> None:
        try:
            import zenoh
        except ModuleNotFoundError as error:
            raise ImportError(f"wires between hosts need Zenoh ({error}): {to_install('hosts')}") from error
        hub.check_files()
        self._zenoh: Any = zenoh
        self._hub, self._key, self._role, self._end = hub, key, role, end
        self._listener, self._logger = listener, logger
        self._closing = threading.Event()
        self._session: Any = None
        self._declared: list[Any] = []
        self._publisher: Any = None
        self._sent = 0
        self._threads: list[threading.Thread] = []
        if hub.listen is not None:
            try:
                self._set_up(zenoh.open(self._config()))
            except zenoh.ZError as error:
                raise HostsError(f"can't listen at {hub.listen!r}: {_text(error)}") from error
        else:
            self._start("connect", self._connect)

    def _start(self, name: str, run: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=run, args=arguments, name=f"hosts-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _config(self) -> Any:
        hub, config = self._hub, self._zenoh.Config()
        settings: dict[str, Any] = {
            "mode": "client" if hub.listen is None else "router",
            "listen/endpoints": [] if hub.listen is None else [hub.listen],
            "connect/endpoints": [] if hub.connect is None else [hub.connect],
            "connect/timeout_ms": 0,
            "connect/retry": {"period_init_ms": 100, "period_max_ms": 500, "period_increase_factor": 2},
            "scouting/multicast/enabled": False,
            "scouting/gossip/enabled": False,
            "scouting/delay": 0,
            "transport/link/tx/lease": int(LEASE_S * 1000),
            "transport/shared_memory/enabled": False,
        }
        if hub.ca is not None:
            side = "connect" if hub.listen is None else "listen"
            settings |= {
                "transport/link/tls/root_ca_certificate": str(Path(hub.ca).absolute()),
                "transport/link/tls/enable_mtls": True,
                f"transport/link/tls/{side}_certificate": str(Path(hub.certificate or "").absolute()),
                f"transport/link/tls/{side}_private_key": str(Path(hub.key or "").absolute()),
            }
        for key, value in settings.items():
            config.insert_json5(key, json.dumps(value))
        return config

    def _connect(self) -> None:
        """Opens the session as soon as somebody answers. After that Zenoh connects again by itself."""
        wait = SHORTEST_WAIT
        warned = False
        while not self._closing.is_set():
            try:
                session = self._zenoh.open(self._config())
            except self._zenoh.ZError as error:
                if not warned:
                    self._logger.warning("can't connect to %s yet: %s; it goes on trying", self._hub.address, _text(error))
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
        zenoh, key = self._zenoh, f"pipert_shm/{self._key}"
        other = "receiver" if self._role == "sender" else "sender"
        self._session = session
        what = session.declare_subscriber(f"{key}/to-{self._role}", zenoh.handlers.FifoChannel(QUEUED))
        self._declared.append(what)
        self._start("hear", self._hear, what.handler)
        self._publisher = session.declare_publisher(
            f"{key}/to-{other}",
            congestion_control=zenoh.CongestionControl.BLOCK if self._role == "sender" else zenoh.CongestionControl.DROP,
            priority=zenoh.Priority.DATA if self._role == "sender" else zenoh.Priority.REAL_TIME,
            express=self._role == "receiver",
        )
        liveliness = session.liveliness()
        others = liveliness.declare_subscriber(f"{key}/alive/{other}/*", zenoh.handlers.FifoChannel(QUEUED), history=True)
        self._declared += [others, liveliness.declare_token(f"{key}/alive/{self._role}/{self._end}")]
        self._start("watch", self._watch, others.handler)

    def _hear(self, handler: Any) -> None:
        whole = Pieces()
        with suppress(self._zenoh.ZError):  # at the end
            while True:
                sample = handler.recv()
                told = b"" if sample.attachment is None else sample.attachment.to_bytes()
                heard = whole.add(told, sample.payload)
                if heard is not None:
                    self._listener(Heard(*heard, now_ns()))

    def _watch(self, handler: Any) -> None:
        with suppress(self._zenoh.ZError):
            while True:
                sample = handler.recv()
                name = str(sample.key_expr).rsplit("/", 1)[1]
                if name.isdecimal():
                    self._listener(Presence(int(name), sample.kind == self._zenoh.SampleKind.PUT))

    def hold(self, pieces: Iterable[bytes]) -> list[Any]:
        """The pieces in Zenoh's memory, so that sending them again copies nothing."""
        return [self._zenoh.ZBytes(piece) for piece in pieces]

    def send(self, head: bytes, body: Sequence[Any] = ()) -> None:
        """Sends, or loses it where there is no link. It waits while the link is congested."""
        if self._publisher is None:
            return
        pieces = body or (b"",)
        self._sent = (self._sent + 1) & 0xFFFFFFFF
        try:
            for place, piece in enumerate(pieces):
                told = _PIECE.pack(self._sent, place, len(pieces)) + (b"" if place else head)
                self._publisher.put(piece, attachment=told)
        except self._zenoh.ZError as error:
            self._logger.debug("not sent: %s", describe(error))  # the protocol sends it again, or counts it

    def close(self) -> None:
        """Ends the session."""
        self._closing.set()
        for thread in [thread for thread in self._threads if thread.name == "hosts-connect"]:
            thread.join(FAREWELL)  # it may be waiting for a host that does not answer; it ends later
        if self._session is not None:
            for declared in reversed(self._declared):
                declared.undeclare()
            self._session.close()
        for thread in self._threads:
            thread.join(FAREWELL)


class Pieces:
    """Puts messages together again. One of which a piece is missing is left out, as if the link had lost it whole."""

    def __init__(self) -> None:
        self._head = b""
        self._number = -1
        self._pieces: list[Any] = []

    def add(self, told: bytes, piece: Any) -> tuple[bytes, Sequence[Any]] | None:
        """Takes a piece; returns the head and the pieces of the message that it ends."""
        if len(told) < _PIECE.size:
            return told, ()  # of another program, which `unpack` tells
        number, place, count = _PIECE.unpack_from(told)
        if count == 1:
            return told[_PIECE.size :], (piece,)
        if place == 0:
            self._number, self._head, self._pieces = number, told[_PIECE.size :], []
        elif number != self._number or place != len(self._pieces):
            self._pieces = []
            return None
        self._pieces.append(piece)
        if len(self._pieces) < count:
            return None
        pieces, self._pieces = self._pieces, []
        return self._head, pieces


def _text(error: Exception) -> str:
    """What Zenoh says, without the place in its source."""
    return str(error).split(" at /")[0].strip()
