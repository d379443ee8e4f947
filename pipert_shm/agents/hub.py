"""The hub: a Zenoh router that agents and wires between hosts connect to. It keeps nothing: it may be restarted at any time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import watchfiles

from pipert_shm.errors import HostsError
from pipert_shm.hosts.authority import HOSTS, Authority
from pipert_shm.hosts.session import ROUTING, Hub, configured, load_zenoh, text_of

LATE_MS = 1000  # after so long without an event it looks all the same: for what changed before it began to
CLOSING_S = 2.0  # that the end waits for the session, which hangs sometimes where links are bad


class Router:
    """A router in this process. A context manager, which listens in its block.

    :param hub: where it listens (`listen=`), with its certificate for `tls/`.
    :param rights: what certificates may do, for Zenoh's `access_control`; None: whoever gets in may do all.
    :raises ImportError: when Zenoh is not installed.
    :raises HostsError: when a file can't be read, or it can't listen there.
    """

    def __init__(self, hub: Hub, rights: Mapping[str, Any] | None, logger: logging.Logger) -> None:
        zenoh = load_zenoh()
        hub.identify()
        try:
            self._session = zenoh.open(configured(hub, ROUTING | ({"access_control": rights} if rights else {})))
        except zenoh.ZError as error:
            raise HostsError(f"can't listen at {hub.listen!r}: {text_of(error)}") from error
        logger.info("the hub listens at %s", hub.listen)

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *_: object) -> None:
        closing = threading.Thread(target=self._session.close, name="hub-close", daemon=True)
        closing.start()
        closing.join(CLOSING_S)


def run_for_invited(folder: Path, listen: str | None, over: threading.Event, logger: logging.Logger) -> None:
    """Runs a router for the hosts that an authority has invited, until `over` is set.

    Zenoh reads its rules once, so the router is opened anew when somebody is invited or revoked. All connect again.

    :param folder: of the authority.
    :param listen: where it listens; by default at the port of the invitations, at every address.
    :raises HostsError: when there is no authority, or it can't listen there.
    """
    while not over.is_set():
        now = _seen(folder / HOSTS)
        authority = Authority(folder)
        files = authority.files()
        address = listen or f"tls/0.0.0.0:{authority.hub.rpartition(':')[2]}"
        hub = Hub(listen=address, ca=files["ca"], certificate=files["certificate"], key=files["key"])
        with Router(hub, authority.access_control(), logger):
            logger.info("it lets in %s", ", ".join(one.name for one in authority.hosts if not one.is_revoked) or "nobody yet")
            looks = watchfiles.watch(folder, stop_event=over, yield_on_timeout=True, rust_timeout=LATE_MS, recursive=False)
            for _ in looks:
                if _seen(folder / HOSTS) != now:
                    break


def _seen(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns
