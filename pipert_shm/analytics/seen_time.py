"""The time for which a camera was seen: what durations are measured by."""

from __future__ import annotations

from typing import Literal

from pipert_shm.data import Meta

Clock = Literal["capture", "video"]
CLOCKS: tuple[Clock, ...] = ("capture", "video")


class SeenTime:
    """Adds up the time between a camera's frames, and leaves out what nobody has seen.

    Frames that lie further apart than `max_gap` seconds come from a camera that has stalled, or was lost. Of that time only
    `max_gap` counts, so nobody is taken to be absent, or to stay, while nothing is seen. A frame that is older than the one
    before adds nothing.

    :param clock: `capture`: when frames were captured, by a clock that never steps. `video`: their position in their video.
    :param max_gap: seconds.

    Attributes:
        now: seconds, from 0 at the first frame.

    >>> seen = SeenTime("capture", 2.0)
    >>> [seen.add(at) for at in (100.0, 100.5, 160.5, 160.4, 161.0)]
    [0.0, 0.5, 2.5, 2.5, 3.1]
    """

    def __init__(self, clock: Clock, max_gap: float) -> None:
        self.now = 0.0
        self._clock = clock
        self._max_gap = max_gap
        self._before: float | None = None

    def add(self, at: float) -> float:
        """Adds a frame of this time, in seconds; returns `now`."""
        if self._before is not None:
            self.now = round(self.now + min(max(0.0, at - self._before), self._max_gap), 9)
        self._before = at
        return self.now

    def look(self, meta: Meta) -> float:
        """Adds a frame; returns `now`.

        :raises ValueError: when its position in the video is to be used, and its source has set none.
        """
        if self._clock == "capture":
            return self.add(meta.captured_ns / 1e9)
        if meta.pts is None:
            raise ValueError(f"clock: video needs meta.pts, and {meta.origin!r} has set none: take clock: capture")
        return self.add(meta.pts)
