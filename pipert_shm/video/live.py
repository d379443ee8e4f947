"""Reads live streams on a thread that never waits for the routine, so that the routine always gets the newest frame."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import numpy as np

from pipert_shm.binding import now_ns
from pipert_shm.shm.counters import Counters
from pipert_shm.system.queueing import QueueTime
from pipert_shm.video.capture import Capture
from pipert_shm.video.hops import NoteSpan, note_grab, note_nothing
from pipert_shm.video.lateness import Lateness, data_wait
from pipert_shm.video.opencv import VideoError
from pipert_shm.video.timing import StreamClock

SHORTEST_WAIT = 0.25
LONGEST_WAIT = 10.0
"""Seconds between two attempts to connect: the wait doubles from the first to the second until a frame comes."""

FAREWELL = 1.0
"""Seconds that `close` waits for the thread, which may be waiting for a silent stream."""


class Live(NamedTuple):
    """A frame of a live stream.

    Attributes:
        frame: the array.
        captured_ns: when it was captured (CLOCK_MONOTONIC, ns).
        pts: position in the stream, in seconds.
        wall_clock: when it was captured by the camera's clock, in seconds since the epoch.
    """

    frame: np.ndarray
    captured_ns: int
    pts: float | None
    wall_clock: float | None


class LiveReader:
    """Reads a stream all the time, and connects again when the stream is lost.

    It keeps no frame: one that comes while nobody waits in `read` is skipped, and one that is late is never handed over.
    Public methods are for one thread.

    :param name: of the stream, for the log.
    :param connect: opens the stream.
    :param counters: where `connected`, `reconnects`, `skipped`, `late` and `damaged` are counted.
    :param reconnect: whether to connect again after a loss; otherwise the stream ends.
    :param after: a thread of an earlier reader, which must end first.
    :param changed: what is notified of each frame; None for one of the reader's own.
    :param note: notes for a trace when a frame was captured, decoded and converted.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Capture],
        counters: Counters,
        logger: logging.Logger,
        *,
        reconnect: bool,
        after: threading.Thread | None = None,
        changed: threading.Condition | None = None,
        note: NoteSpan = note_nothing,
    ) -> None:
        self._note = note
        self._name = name
        self._connect = connect
        self._counters = counters
        self._logger = logger
        self._reconnect = reconnect
        self._after = after
        self._closing = threading.Event()
        self._capture: Capture | None = None
        self._changed = threading.Condition() if changed is None else changed
        self._shape: tuple[int, ...] | None = None
        self._wanted: np.ndarray | None = None
        self._filling = False
        self._filled: Live | None = None
        self._grabbed = 0
        self._over = False
        self._captured_ns = 0
        self._warned = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._serve, name="reader", daemon=True)
        self._thread.start()

    # ---- for the routine's thread --------------------------------------------------------------------

    def await_shape(self, timeout: float) -> tuple[int, ...] | None:
        """Returns the shape of the array that `read` wants; None if the stream was not opened within this time (seconds)."""
        with self._changed:
            self._changed.wait_for(lambda: self._shape is not None or self._over, timeout)
            return self._shape

    def read(self, out: np.ndarray, timeout: float) -> Live | None:
        """Returns the next frame, in `out` if that has the right shape; None if no frame comes within this time (seconds)."""
        with self._changed:
            self._wanted = out
            self._changed.wait_for(lambda: (self._wanted is None and not self._filling) or self._over, timeout)
            self._wanted = None
            self._changed.wait_for(lambda: not self._filling)
            filled, self._filled = self._filled, None
            return filled

    def pass_over(self, timeout: float) -> bool:
        """Skips the next frame; False if no frame comes within this time (seconds)."""
        with self._changed:
            before = self._grabbed
            self._changed.wait_for(lambda: self._grabbed > before or self._over, timeout)
            return self._grabbed > before

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for a frame in `read`."""
        return self._wanted is not None

    @property
    def over(self) -> bool:
        """Whether the stream has ended for good."""
        return self._over

    @property
    def failure(self) -> Exception | None:
        """The last error of the stream, if there was one."""
        return self._failure

    def close(self) -> threading.Thread | None:
        """Ends the reader. Returns its thread if that still waits for a silent stream; it ends later."""
        self._closing.set()
        if self._capture is not None:
            self._capture.stopped = True
        self._thread.join(FAREWELL)
        return self._thread if self._thread.is_alive() else None

    # ---- the thread ------------------------------------------------------------------------------

    def _serve(self) -> None:
        if self._after is not None:
            self._after.join()
        delay = SHORTEST_WAIT / 2
        connected_before = False
        while not self._closing.is_set():
            seen = self._grabbed
            try:
                self._capture = capture = self._connect()
                try:
                    self._counters["connected"] = 1
                    self._counters["reconnects"] += connected_before
                    connected_before = True
                    self._read_on(capture)
                finally:
                    self._counters["connected"] = 0
                    self._capture = None
                    capture.close()
            except Exception as error:
                if self._closing.is_set():
                    break  # nobody waits for the stream any more
                self._failure = error
                delay = SHORTEST_WAIT if self._grabbed > seen else min(2 * delay, LONGEST_WAIT)
                again = f"; trying again in {delay:g} s" if self._reconnect else ""
                self._logger.warning("%s%s", error, again, exc_info=None if isinstance(error, VideoError) else error)
            if not self._reconnect:
                break
            self._closing.wait(delay)
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _read_on(self, capture: Capture) -> None:
        """Reads until the reader is closed.

        :raises VideoError: when the stream is lost.
        """
        self._logger.info("connected: frames of %dx%d", capture.info.width, capture.info.height)
        self._expect(capture.shape)
        with closing(QueueTime()) as queue_time:
            self._read_frames(capture, queue_time)

    def _read_frames(self, capture: Capture, queue_time: QueueTime) -> None:
        came_ns = now_ns()
        clock: StreamClock | None = None
        lateness = Lateness()
        damaged = left_out = 0
        while not self._closing.is_set():
            last_ns, begun_ns, worked, queued = came_ns, now_ns(), time.thread_time(), queue_time.seconds()
            if not capture.grab():
                silence = (now_ns() - last_ns) / 1e9
                raise VideoError(self._name, f"{self._name!r} is lost, {silence:.1f} s after its last frame")
            came_ns = capture.came_ns or now_ns()
            now = now_ns()
            note_grab(self._note, begun_ns, capture.came_ns)
            # OpenCV does not tell how long it waited. It decodes in this thread.
            waited = (now - begun_ns) / 1e9 - (time.thread_time() - worked) if capture.waited is None else capture.waited
            passed_over = capture.left_out - left_out
            waited = data_wait(waited, queue_time.seconds() - queued, passed_over)
            self._note_damage(capture.damaged - damaged)
            self._counters["skipped"] += passed_over
            damaged, left_out = capture.damaged, capture.left_out
            lag, is_late = lateness.judge(capture.pts, came_ns / 1e9, waited, (now - came_ns) / 1e9)
            self._warn_if_hopeless(lateness, lag)
            # The lag is estimated, frame by frame; those of a backlog would go back in time where it jumps.
            captured_ns = self._captured_ns = max(self._captured_ns + 1, came_ns - round(lag * 1e9))
            if not is_late and clock is None:
                clock = StreamClock()
            pts = capture.pts if clock is None else clock.place(capture.pts, captured_ns)
            self._hand_over(capture, captured_ns, pts, is_late=is_late)

    def _warn_if_hopeless(self, lateness: Lateness, lag: float) -> None:
        if lateness.is_hopeless and not self._warned:
            self._warned = True
            self._logger.warning(
                "%r comes faster than this machine decodes it: its frames are %.1f s old when they are handed over. Take a "
                "stream with smaller or fewer pictures from the camera, or have fewer of them decoded by skip_frame=",
                self._name,
                lag,
            )

    def _hand_over(self, capture: Capture, captured_ns: int, pts: float | None, *, is_late: bool) -> None:
        """Fills the array of a `read` that waits, if there is one."""
        with self._changed:
            self._grabbed += 1
            self._changed.notify_all()
            if is_late:
                self._counters["late"] += 1
                return
            out = self._claim(capture, captured_ns)
            if out is None:
                return
        frame = None
        begun_ns = now_ns()
        try:
            frame = capture.retrieve(out)
            self._note("convert", begun_ns, now_ns())
            if frame is not None and out.shape != capture.shape:
                self._logger.warning("frames of %s come instead of %s; the first of them is copied", capture.shape, out.shape)
        finally:
            with self._changed:
                if frame is not None:
                    self._shape = capture.shape
                self._settle(out, None if frame is None else Live(frame, captured_ns, pts, capture.wall_clock))
                self._changed.notify_all()
        self._note_damage(frame is None)

    def _claim(self, capture: Capture, captured_ns: int) -> np.ndarray | None:
        """The array for the frame that was grabbed; None, which is counted, if nobody wants it. The lock is held."""
        out, self._wanted = self._wanted, None
        self._filling = out is not None
        if out is None:
            self._counters["skipped"] += 1
        return out

    def _settle(self, out: np.ndarray, live: Live | None) -> None:
        """Takes what was claimed: the frame, or None for a damaged one. The lock is held."""
        self._filling = False
        if live is None:
            self._wanted = out
        else:
            self._filled = live

    def _note_damage(self, frames: int) -> None:
        if frames:
            self._counters["damaged"] += frames
            self._logger.warning("%d damaged frames of %r are left out", frames, self._name)

    def _expect(self, shape: tuple[int, ...]) -> None:
        with self._changed:
            self._shape = shape
            if self._wanted is not None and self._wanted.shape != self._shape:
                self._wanted = None  # its `read` must come back with another array
            self._changed.notify_all()
