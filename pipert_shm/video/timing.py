"""Frames in the time of their video: one at a time as they are due, fewer of them, or where they go in another one."""

from __future__ import annotations

import time

MOST_LATE = 1.0
MOST_OFF = 2.0
LONGEST_GAP = 60.0


class Playback:
    """When frames are due that are played at the speed of their time stamps.

    A delay of up to a second is made up for; past that, and where time stamps jump (back, or by more than a minute), the rest
    is played that much later.
    """

    def __init__(self) -> None:
        self._zero: float | None = None
        self._last = 0.0

    def left(self, pts: float | None) -> float:
        """Seconds until a frame is due, at most 0 when it is."""
        if pts is None:
            return 0.0
        now = time.monotonic()
        if self._zero is None or not 0 <= pts - self._last <= LONGEST_GAP or now - self._zero - pts > MOST_LATE:
            self._zero = now - pts
        self._last = pts
        return self._zero + pts - now


class StreamClock:
    """Where in a live stream frames stand, by its own stamps as long as they go as fast as the time.

    Some streams have no stamps of their own: of MJPEG over HTTP, FFmpeg counts frames and takes them for 25 a second. What is
    recorded by such stamps plays too fast or too slowly, so once they are 2 s off it is the time of arrival that counts.

    >>> clock = StreamClock()
    >>> [round(clock.place(number / 25, number * 10**8), 2) for number in (0, 1, 2, 50, 51)]  # ten frames a second
    [0.0, 0.04, 0.08, 5.0, 5.1]
    """

    def __init__(self) -> None:
        self._zero: float | None = None  # of the stamps, by the time of arrival
        self._by_arrival = False

    def place(self, pts: float | None, came_ns: int) -> float | None:
        """Seconds from the start of the stream.

        :param pts: what the stream says.
        :param came_ns: when the frame came, CLOCK_MONOTONIC.
        """
        if pts is None:
            return None
        came = came_ns / 1e9
        if self._zero is None:
            self._zero = came - pts
        self._by_arrival = self._by_arrival or abs(came - pts - self._zero) > MOST_OFF
        return came - self._zero if self._by_arrival else pts


class Thinning:
    """Which frames of a video to take so that it has at most `fps` in a second of its own time.

    >>> thinning = Thinning(10)
    >>> [number for number in range(10) if thinning.takes(number / 25)]
    [0, 3, 5, 8]
    """

    def __init__(self, fps: float) -> None:
        self._gap = 1 / fps
        self._next = float("-inf")
        self._last = 0.0

    def takes(self, pts: float | None) -> bool:
        """Whether the frame that stands there in the video is one of them."""
        if pts is None:
            return True
        if pts < self._last:
            self._next = pts  # it begins anew
        self._last = pts
        if pts < self._next - 1e-6:
            return False
        self._next = (self._next if pts - self._next < self._gap else pts) + self._gap
        return True


class Timeline:
    """Where in a video that is written each frame of a stream goes, so that it plays as fast as the stream did.

    Where time stamps jump (back, or by more than a minute: a stream that was lost, a file that begins anew), and where there
    are none, a frame comes `1 / fps` after the one before.

    >>> timeline = Timeline(25)
    >>> [round(timeline.place(pts), 2) for pts in (7.0, 7.1, 7.2, 0.0, 0.5, None)]
    [0.0, 0.1, 0.2, 0.24, 0.74, 0.78]
    """

    def __init__(self, fps: float) -> None:
        self._interval = 1 / fps
        self._at: float | None = None
        self._pts: float | None = None

    def place(self, pts: float | None) -> float:
        """Seconds from the start of what is written, more than those of the frame before.

        :param pts: where in its stream the frame stands, seconds.
        """
        gap = self._interval
        if pts is not None and self._pts is not None and 0 < pts - self._pts <= LONGEST_GAP:
            gap = pts - self._pts
        self._pts = pts
        self._at = 0.0 if self._at is None else self._at + gap
        return self._at
