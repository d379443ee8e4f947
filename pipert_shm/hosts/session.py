"""Sessions of Zenoh: how one reaches the hub or another host. No other module imports zenoh."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipert_shm.errors import HostsError, shown
from pipert_shm.extras import to_install
from pipert_shm.hosts.access import NOBODY, Admitted, access_control, check_host_name
from pipert_shm.hosts.certificates import Identity, identity_of
from pipert_shm.hosts.refusals import why_refused

_INVITED = re.compile(r"[^#]+#([2-9]|[1-9]\d{1,5})")
LEASE_S = 2.0  # of silence after which the link counts as cut
OPEN_S = 3.0  # that an attempt to connect takes at the most
_ENDS_IN_PORT = re.compile(r"\w+/.*[^:/]:\d{1,5}([?#].*)?")
_last_session_in: int | None = None  # the process that has opened one, or the one that this was forked from
ROUTING = {
    "transport/link/tx/queue/size/data": 16,
    "transport/link/rx/buffer_size": 1 << 20,
    "transport/link/tx/queue/congestion_control/block/wait_before_close": int(LEASE_S * 1e6),
}
"""Where frames go through. More room than Zenoh gives by itself: a large message takes fewer turns of its threads, and a third
less processor time. And a `put()` that a cut holds up waits for as long as it takes to notice that, not for 5 s."""

SHORTEST_WAIT, LONGEST_WAIT = 0.1, 1.0  # seconds between two attempts to connect


@dataclass(frozen=True, slots=True)
class Hub:
    """How a routine reaches the other host.

    Two routines meet at one address, where one of them, or a Zenoh router, listens. With `tls/` the other three are needed.

    :param connect: the address to connect to, such as `tcp/10.0.0.7:7447` or `tls/hub.example:7447`.
    :param listen: the address to listen at, in its place.
    :param ca: file with the certificate of the authority that both ends trust. Others are refused.
    :param certificate, key: files with this end's certificate, and its private key.
    :param host: the name of this host; with `tls/` that of the certificate.
    :param peer: the name of the host that the other end is on. A listener with `tls/` lets in that one only; after a revocation
        of it say `NAME#2`, with the number of its newest invitation: the earlier ones are shut out.
    :raises ValueError: when they don't fit together.
    """

    connect: str | None = None
    listen: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    host: str | None = None
    peer: str | None = None

    def __post_init__(self) -> None:
        if (self.connect is None) == (self.listen is None):
            raise ValueError("give either connect= or listen=, an address such as 'tcp/10.0.0.7:7447'")
        kind = self.address.split("/")[0]
        if kind not in ("tcp", "tls") or not _ENDS_IN_PORT.fullmatch(self.address):
            raise ValueError(f"an address is 'tcp/HOST:PORT' or 'tls/HOST:PORT', not {shown(self.address)}")
        for name in filter(None, (self.host, self.peer_name)):
            check_host_name(name)
        if self.peer is not None and "#" in self.peer and not _INVITED.fullmatch(self.peer):
            raise ValueError(f"peer={self.peer!r}: after '#' comes the number of an invitation, from 2, such as 'edge-1#2'")
        if kind == "tcp" and self.host is None and self.peer is not None:
            raise ValueError("give host=, too: without a certificate nothing says what this host is called")
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

    @property
    def peer_name(self) -> str | None:
        """The name of the other host, without the number of an invitation."""
        return None if self.peer is None else self.peer.partition("#")[0]

    def ends(self, identity: Identity | None) -> tuple[str, str]:
        """The names of this host and of the other end's in keys."""
        if self.peer_name is None:
            return NOBODY, NOBODY
        return (identity.host if identity else self.host) or NOBODY, self.peer_name

    def why_refused(self) -> str:
        """Why nobody can connect to it; empty if that is not known."""
        own = (self.certificate, self.key) if self.certificate and self.key else None
        return why_refused(self.address.partition("/")[2], self.ca, own)

    def identify(self) -> Identity | None:
        """Whose certificate it has; None without one.

        :raises ImportError: when `cryptography` is not installed.
        :raises HostsError: when a file can't be read, the files don't fit together, or they are another host's.
        """
        if self.ca is None or self.certificate is None or self.key is None:
            return None
        identity = identity_of(self.ca, self.certificate, self.key)
        if self.host not in (None, identity.host):
            raise HostsError(
                f"the certificate {self.certificate!r} is that of the host {identity.host!r}, not of {self.host!r}"
            )
        return identity


def load_zenoh() -> Any:
    """The package.

    :raises ImportError: when it is not installed.
    :raises HostsError: in a process that was forked from one that has had a session: it would hang.
    """
    if _last_session_in not in (None, os.getpid()):
        raise HostsError(
            "this process was forked from one that has had a session of Zenoh (a RemotePipe, say), and can open none: build a "
            "pipe with wires between hosts before that, or in another process"
        )
    try:
        import zenoh
    except ModuleNotFoundError as error:
        raise ImportError(f"wires between hosts need Zenoh ({error}): {to_install('hosts')}") from error
    return zenoh


def configured(hub: Hub, more: Mapping[str, Any] = {}) -> Any:
    """The configuration of a session: a client of the address that it connects to, or a router where it listens.

    :param more: further settings, by their paths.
    """
    global _last_session_in
    config = load_zenoh().Config()
    _last_session_in = os.getpid()  # whoever asks for the configuration opens one
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
        "transport/unicast/open_timeout": int(OPEN_S * 1000),  # TCP tries again ever more rarely: a new attempt comes sooner
        "transport/shared_memory/enabled": False,
    }
    if hub.ca is not None:
        if hub.listen is not None and hub.peer is not None:
            settings["access_control"] = access_control([Admitted(hub.peer_name or "", hub.peer)])
        side = "connect" if hub.listen is None else "listen"
        settings |= {
            "transport/link/tls/root_ca_certificate": str(Path(hub.ca).absolute()),
            "transport/link/tls/enable_mtls": True,
            f"transport/link/tls/{side}_certificate": str(Path(hub.certificate or "").absolute()),
            f"transport/link/tls/{side}_private_key": str(Path(hub.key or "").absolute()),
        }
    for key, value in (settings | dict(more)).items():
        config.insert_json5(key, json.dumps(value))
    return config


def text_of(error: Exception) -> str:
    """What Zenoh says, without the place in its source."""
    return str(error).split(" at /")[0].strip()
