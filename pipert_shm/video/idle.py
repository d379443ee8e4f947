"""Says when a camera's picture has been still for so long that its key frames will do."""

from __future__ import annotations

import threading

import av
import numpy as np

from pipert_shm.video.fit import Wanted
from pipert_shm.video.opencv import cv2
from pipert_shm.video.swscale import Scaler

LOOK_S = 0.5
"""Seconds between two looks at the picture while every frame is decoded."""

CELLS = 80, 44
"""Columns and rows of cells, whose mean brightness is compared."""

CHANGED = 12
"""Levels, of 255, by which a cell's brightness has changed if something moves in it. Noise and compression change it less."""

MOST_CHANGED = 7
"""Cells that may have changed while nothing moves."""


class Idling:
    """Whether a stream is idle: nothing has moved, and nobody has asked for it, for some seconds of its own time.

    The stream's thread calls all but `wake`, which any thread may call.

    :param name: of the video, for errors.
    :param after: seconds.
    """

    def __init__(self, name: str, after: float) -> None:
        self._after = after
        self._scaler = Scaler(name, Wanted("gray", size=CELLS))
        self._woken = threading.Event()
        self._still_since: float | None = None
        self._looked_at = 0.0
        self._seen: np.ndarray | None = None
        self.idle = False

    def wake(self) -> None:
        """Makes the stream active for as long as if something had moved now."""
        self._woken.set()

    def is_idle(self, now: float) -> bool:
        """Whether the stream is idle.

        :param now: its position, in seconds.
        """
        if self._woken.is_set() or self._still_since is None or now < self._still_since:
            self._woken.clear()
            self._still_since = now
        self.idle = now - self._still_since >= self._after
        return self.idle

    def look(self, frame: av.VideoFrame, now: float) -> None:
        """Looks whether something has moved since the last look. While the stream is active it looks now and then."""
        if not self.idle and 0 <= now - self._looked_at < LOOK_S and self._seen is not None:
            return
        self._looked_at = now
        seen, self._seen = self._seen, self._scaler.fill(frame, None)
        if seen is not None and np.count_nonzero(cv2.absdiff(seen, self._seen) > CHANGED) > MOST_CHANGED:
            self._still_since = now

    def close(self) -> None:
        """Frees what it has."""
        self._scaler.close()
