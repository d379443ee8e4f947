"""Time stamps of frames: when to play them, which to leave out, and where they go in a video that is written."""

from __future__ import annotations

import time

MOST_LATE = 1.0
MOST_OFF = 2.0
LONGEST_GAP = 60.0


class Playback:
    """Says when frames are due, so that they play at the speed of their time stamps.

    A delay of up to a second is made up for. After a longer one, and after a jump of the time stamps (back, or by more than a
    minute), the rest plays later.
    """

    def __init__(self) -> None:
        self._zero: float | None = None
        self._last = 0.0

    def left(self, pts: float | None) -> float:
        """Seconds until a frame is due; 0 or less when it is due."""
        if pts is None:
            return 0.0
        now = time.monotonic()
        if self._zero is None or not 0 <= pts - self._last <= LONGEST_GAP or now - self._zero - pts > MOST_LATE:
            self._zero = now - pts
        self._last = pts
        return self._zero + pts - now


class StreamClock:
    """Positions of frames in a live stream, by its own stamps as long as these run as fast as the clock.

    Some streams have no stamps: for MJPEG over HTTP, FFmpeg counts frames and assumes 25 a second. A recording with such stamps
    would play too fast or too slowly. So once the stamps are 2 s off, the time of arrival counts.

    >>> clock = StreamClock()
    >>> [round(clock.place(number / 25, number * 10**8), 2) for number in (0, 1, 2, 50, 51)]  # ten frames a second
    [0.0, 0.04, 0.08, 5.0, 5.1]
    """

    def __init__(self) -> None:
        self._zero: float | None = None  # of the stamps, by the time of arrival
        self._by_arrival = False

    def place(self, pts: float | None, came_ns: int) -> float | None:
        """Seconds from the start of the stream.

        :param pts: the stream's own stamp, seconds.
        :param came_ns: time of arrival, CLOCK_MONOTONIC.
        """
        if pts is None:
            return None
        came = came_ns / 1e9
        if self._zero is None:
            self._zero = came - pts
        self._by_arrival = self._by_arrival or abs(came - pts - self._zero) > MOST_OFF
        return came - self._zero if self._by_arrival else pts


class Thinning:
    """Chooses frames of a video so that there are at most `fps` in a second of the video's own time.

    >>> thinning = Thinning(10)
    >>> [number for number in range(10) if thinning.takes(number / 25)]
    [0, 3, 5, 8]
    """

    def __init__(self, fps: float) -> None:
        self._gap = 1 / fps
        self._next = float("-inf")
        self._last = 0.0

    def takes(self, pts: float | None) -> bool:
        """Whether to take the frame at this position."""
        if pts is None:
            return True
        if pts < self._last:
            self._next = pts  # it begins anew
        self._last = pts
        if pts < self._next - 1e-6:
            return False
        self._next = (self._next if pts - self._next < self._gap else pts) + self._gap
        return True

    def passes_over(self, pts: float) -> bool:
        """Whether it will not take the frame at this position, whichever frames come before it."""
        return pts < self._next - 1e-6


class Timeline:
    """Positions for the frames of a stream in a video that is written, so that it plays as fast as the stream did.

    A frame comes `1 / fps` after the one before if it has no time stamp, or if the stamps jump: back, or by more than a minute,
    as after a lost stream or in a loop.

    >>> timeline = Timeline(25)
    >>> [round(timeline.place(pts), 2) for pts in (7.0, 7.1, 7.2, 0.0, 0.5, None)]
    [0.0, 0.1, 0.2, 0.24, 0.74, 0.78]
    """

    def __init__(self, fps: float) -> None:
        self._interval = 1 / fps
        self._at: float | None = None
        self._pts: float | None = None

    def place(self, pts: float | None) -> float:
        """Seconds from the start of the written video, later than the frame before.

        :param pts: the frame's position in its stream, seconds.
        """
        gap = self._interval
        if pts is not None and self._pts is not None and 0 < pts - self._pts <= LONGEST_GAP:
            gap = pts - self._pts
        self._pts = pts
        self._at = 0.0 if self._at is None else self._at + gap
        return self._at
