"""The connection of an agent to its hub: opened in the background, and again by Zenoh whenever it is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from pipert_shm.errors import HostsError
from pipert_shm.hosts.session import LONGEST_WAIT, SHORTEST_WAIT, Hub, configured, load_zenoh, text_of

CLOSING_S = 2.0  # that the end waits for the session, which hangs sometimes where links are bad


class Link:
    """A session, as soon as the hub answers.

    :param opened: called once with the session, on a thread of its own.
    :raises ImportError: when Zenoh is not installed.
    :raises HostsError: when a file of the hub's can't be read.
    """

    def __init__(self, hub: Hub, opened: Callable[[Any], None], logger: logging.Logger) -> None:
        self._zenoh = load_zenoh()
        hub.identify()
        self._hub, self._opened, self._logger = hub, opened, logger
        self._closing = threading.Event()
        self._session: Any = None
        self._thread = threading.Thread(target=self._open, name="agent-connect", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        wait, warned = SHORTEST_WAIT, False
        while not self._closing.is_set():
            try:
                session = self._zenoh.open(configured(self._hub))
            except self._zenoh.ZError as error:
                if not warned:
                    self._logger.warning(
                        "can't reach the hub at %s yet: %s; it goes on trying",
                        self._hub.address,
                        self._hub.why_refused() or text_of(error),
                    )
                warned = True
                self._closing.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                self._session = session
                if not self._closing.is_set():
                    self._logger.info("connected to the hub at %s", self._hub.address)
                    self._opened(session)
                return

    def close(self) -> None:
        """Disconnects."""
        self._closing.set()
        self._thread.join(CLOSING_S)
        if self._session is not None:
            close_in_time(self._session)


def close_in_time(session: Any) -> None:
    """Closes a session, or leaves it to the end of the process."""
    closing = threading.Thread(target=session.close, name="hosts-close", daemon=True)
    closing.start()
    closing.join(CLOSING_S)


def open_now(hub: Hub) -> Any:
    """A session with a hub that answers now.

    :raises HostsError: when it does not, or a file can't be read.
    """
    zenoh = load_zenoh()
    hub.identify()
    try:
        return zenoh.open(configured(hub))
    except zenoh.ZError as error:
        raise HostsError(
            f"can't reach the hub at {hub.address}: {hub.why_refused() or text_of(error)}; is `pipert-shm hub` up there?"
        ) from None
