"""Waits for descriptors, until a moment; and gives the actions that belong to those that are ready."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from typing import Protocol

from pipert_shm.control.channel import RETRY
from pipert_shm.system import calls

Action = Callable[[], object]


class HasFd(Protocol):
    """Anything that has a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""


class Watch:
    """Keeps the actions for when a descriptor can be read or written. Uses poll(), which needs no descriptor itself."""

    def __init__(self) -> None:
        self._selector = selectors.PollSelector()

    def add(self, fd: HasFd | int, on_readable: Action, on_writable: Action | None = None) -> None:
        self._selector.register(fd, selectors.EVENT_READ, (on_readable, on_writable))

    def drop(self, fd: HasFd | int) -> None:
        """Forgets a descriptor, if it is watched. Before it is closed."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def want_room(self, fd: HasFd | int, wanted: bool) -> None:
        """Sets whether to wait until it can be written to, too."""
        key = self._selector.get_map().get(fd)
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        if key is not None and key.events != mask:
            self._selector.modify(fd, mask, key.data)

    def wait(self, until: float | None) -> list[Action]:
        """The actions of the descriptors that are ready.

        :param until: returns an empty list at this time, as of time.monotonic(); None: waits for ever.
        :raises OSError: when the system has no memory for the wait.
        """
        timeout = None if until is None else max(0.0, until - time.monotonic())
        actions: list[Action] = []
        try:
            ready = calls.wait(self._selector, timeout)
        except OSError:
            time.sleep(RETRY)  # the next try may fail at once, too
            raise
        for key, mask in ready:
            on_readable, on_writable = key.data
            if mask & selectors.EVENT_READ:
                actions.append(self._still(key.fd, on_readable))
            if mask & selectors.EVENT_WRITE and on_writable is not None:
                actions.append(self._still(key.fd, on_writable))
        return actions

    def _still(self, fd: int, action: Action) -> Action:
        """The action, which does nothing if an earlier one of the same round has dropped the descriptor."""

        def act() -> None:
            key = self._selector.get_map().get(fd)
            if key is not None and action in key.data:
                action()

        return act
