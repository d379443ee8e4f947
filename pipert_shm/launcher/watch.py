"""What the launcher waits for: descriptors, and moments."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from typing import Protocol

from pipert_shm import system
from pipert_shm.control.channel import RETRY

Action = Callable[[], object]


class HasFd(Protocol):
    """Anything that has a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""


class Watch:
    """Calls what belongs to a descriptor when that can be read, or written to. By poll(), which needs no descriptor itself."""

    def __init__(self) -> None:
        self._selector = selectors.PollSelector()

    def add(self, fd: HasFd | int, on_readable: Action, on_writable: Action | None = None) -> None:
        self._selector.register(fd, selectors.EVENT_READ, (on_readable, on_writable))

    def drop(self, fd: HasFd | int) -> None:
        """Forgets a descriptor, if it is watched. Before it is closed."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def want_room(self, fd: HasFd | int, wanted: bool) -> None:
        """Whether to call when it can be written to."""
        key = self._selector.get_map().get(fd)
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        if key is not None and key.events != mask:
            self._selector.modify(fd, mask, key.data)

    def wait(self, until: float | None) -> list[Action]:
        """What there is to do, by `time.monotonic()` at the latest; None: as long as it takes."""
        timeout = None if until is None else max(0.0, until - time.monotonic())
        actions: list[Action] = []
        try:
            ready = system.wait(self._selector, timeout)
        except OSError:
            time.sleep(RETRY)  # it fails again at once, perhaps
            raise
        for key, mask in ready:
            on_readable, on_writable = key.data
            if mask & selectors.EVENT_READ:
                actions.append(self._still(key.fd, on_readable))
            if mask & selectors.EVENT_WRITE and on_writable is not None:
                actions.append(self._still(key.fd, on_writable))
        return actions

    def _still(self, fd: int, action: Action) -> Action:
        """The action, unless an earlier one of the same round made it meaningless."""

        def act() -> None:
            key = self._selector.get_map().get(fd)
            if key is not None and action in key.data:
                action()

        return act
