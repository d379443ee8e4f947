"""The hub: a Zenoh router that agents and wires between hosts connect to. It keeps nothing: it may be restarted at any time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from pipert_shm.errors import HostsError
from pipert_shm.hosts.session import Hub, configured, load_zenoh, text_of

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
            self._session = zenoh.open(configured(hub, {"access_control": rights} if rights else {}))
        except zenoh.ZError as error:
            raise HostsError(f"can't listen at {hub.listen!r}: {text_of(error)}") from error
        logger.info("the hub listens at %s", hub.listen)

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *_: object) -> None:
        closing = threading.Thread(target=self._session.close, name="hub-close", daemon=True)
        closing.start()
        closing.join(CLOSING_S)
