"""Where a stream's frames come from: a tap, or a routine that has them in hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pipert_shm.data import Meta
from pipert_shm.streaming.pictures import Shown
from pipert_shm.tap import Tap


class TapFeed:
    """The frames that a tap gives.

    :param picture: what is to be seen of a payload. It raises ValueError when that is nothing.
    """

    def __init__(self, tap: Tap, picture: Callable[[Any, Meta], Shown]) -> None:
        self._tap = tap
        self._picture = picture

    def read(self, timeout: float) -> Shown:
        """See `Feed.read`."""
        payload = self._tap.read(timeout)
        assert self._tap.meta is not None
        return self._picture(payload, self._tap.meta)

    def close(self) -> None:
        """Closes the tap."""
        self._tap.close()


class NewestFrame:
    """A place for one frame of each camera: a newer one takes the place of one that nobody has read, so that no put waits.

    A frame is copied where the reader is busy with another one. So no more than one slot of shared memory is held.

    Attributes:
        replaced: how many frames were replaced before somebody read them.
        refused: how many came while nobody was there to read them.
    """

    def __init__(self) -> None:
        self.replaced = self.refused = 0
        self._changed = threading.Condition()
        self._shown: dict[str, Shown] = {}
        self._is_open = self._is_awaited = False

    def open(self) -> NewestFrame:
        """Begins to take frames; returns itself, as a feed."""
        self._is_open = True
        return self

    def put(self, shown: Shown) -> None:
        """Puts a frame there."""
        with self._changed:
            if not self._is_open:
                self.refused += 1
                return
            self.replaced += shown.origin in self._shown
            is_next = self._is_awaited and self._shown.keys() <= {shown.origin}
            self._shown[shown.origin] = shown if is_next else shown._replace(frame=shown.frame.copy())
            self._changed.notify()

    def read(self, timeout: float) -> Shown:
        """See `Feed.read`."""
        with self._changed:
            self._is_awaited = True
            self._changed.wait_for(lambda: self._shown or not self._is_open, timeout)
            self._is_awaited = False
            if self._shown:
                return self._shown.pop(next(iter(self._shown)))
        if not self._is_open:
            raise StopIteration
        raise TimeoutError

    def close(self) -> None:
        """Takes no more frames, and gives the last one back."""
        with self._changed:
            self._is_open, self._shown = False, {}
            self._changed.notify()
