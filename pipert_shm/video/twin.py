"""Two streams of one camera, a large and a small one, as one source: each message has a picture of both, of the same moment."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipert_shm.data import Format
from pipert_shm.errors import EndOfStream, NoFreeSlot
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.limits import is_number
from pipert_shm.shm.counters import Counters
from pipert_shm.video.capture import Capture, Source, shown
from pipert_shm.video.decoding import Decoding
from pipert_shm.video.fit import Wanted
from pipert_shm.video.footage.source import KeepsFootage
from pipert_shm.video.formats import shape_of
from pipert_shm.video.hops import NoteSpan
from pipert_shm.video.live import Live, LiveReader
from pipert_shm.video.opening import Backend, Opening, Transport
from pipert_shm.video.pairing import MAIN, NAMES, SIDES, SUB, Pair, Pairs, Stamp
from pipert_shm.video.source import PATIENCE, is_live
from pipert_shm.video.twin_frame import TwinFrame

if TYPE_CHECKING:
    from pipert_shm.video.footage.footage import Footage

ALIGNMENT = 64
"""Bytes: the second picture in a slot begins at a multiple of these, as an array of its own would."""

HOPELESS = 300
"""Frames without a partner in a row after which the log tells of the tolerance."""


def _bytes_of(shape: tuple[int, ...]) -> int:
    """Bytes of a slot that a picture takes, if another one lies behind it."""
    return -(-math.prod(shape) // ALIGNMENT) * ALIGNMENT


class _SideCounters(Counters):
    """What is counted of one stream. It is added to the routine's counters, but for `connected`, which stands there by side.

    :param lock: for those counters, which several threads add to.
    """

    def __init__(self, side: int, routine: Counters, lock: threading.Condition) -> None:
        super().__init__(("connected", "reconnects", "skipped", "late", "damaged"))
        self._connected = f"connected_{NAMES[side]}"
        self._routine = routine
        self._lock = lock

    def __setitem__(self, name: str, value: int) -> None:
        with self._lock:
            if name == "connected":
                self._routine[self._connected] = value
            else:
                self._routine[name] += value - self[name]
            super().__setitem__(name, value)


class _Stream(LiveReader):
    """Reads one of the two streams. Its frames go to the pairs."""

    def __init__(
        self,
        side: int,
        opening: Opening,
        pairs: Pairs,
        counters: Counters,
        logger: logging.Logger,
        *,
        reconnect: bool,
        after: threading.Thread | None,
        note: NoteSpan,
        footage: Footage | None,
    ) -> None:
        self._side = side
        self._footage = footage
        self._opening = opening
        self._pairs = pairs
        self._left_out = 0
        self._stands: tuple[float, Stamp] | None = None  # position and stamp of the last frame
        super().__init__(
            shown(opening.source),
            self._open,
            counters,
            logger,
            reconnect=reconnect,
            after=after,
            changed=pairs.changed,
            note=note,
        )

    def _open(self) -> Capture:
        return self._opening.open(self._logger, self._is_needless, footage=self._footage)

    def _is_needless(self, at: float) -> bool:
        """Whether the picture at this position will have no partner."""
        if self._stands is None:
            return False
        position, stamp = self._stands
        with self._changed:
            return self._pairs.is_needless(self._side, stamp.moved(at - position))

    def _read_on(self, capture: Capture) -> None:
        try:
            super()._read_on(capture)
        finally:
            with self._changed:
                self._pairs.lose(self._side)
                self._changed.notify_all()

    def _expect(self, shape: tuple[int, ...]) -> None:
        self._left_out, self._stands = 0, None
        super()._expect(shape)
        with self._changed:
            self._pairs.expect(self._side, shape)
            self._changed.notify_all()

    def _claim(self, capture: Capture, captured_ns: int) -> np.ndarray | None:
        stamp = Stamp(captured_ns, capture.wall_clock)
        self._stands = None if capture.pts is None else (capture.pts, stamp)
        left_out, self._left_out = capture.left_out - self._left_out, capture.left_out
        return self._pairs.claim(self._side, stamp, capture.shape, left_out)

    def _settle(self, out: np.ndarray, live: Live | None) -> None:
        self._pairs.settle(self._side, out, live)


class TwinSource(KeepsFootage):
    """Sends pictures of two live streams of one camera in step: a small one to look at, and a large one of the same moment.

    Each message is a `TwinFrame`. Detectors take the small picture of it; `ToMain` goes over to the large one. Both are decoded
    straight into one slot of shared memory.

    Two frames are a pair if they were captured within `tolerance` of each other: by the camera's clock, if both streams tell of
    it (RTSP cameras do, by their reports), else by when they came. What has no partner is `unpaired`. If one stream has more
    frames than the other, there are as many pairs as the slower one has frames, and the others are mostly not even converted.

    While one stream is lost, nothing is sent: no message has one picture only. The stream is opened again as a `VideoSource`'s
    is, and the log says what is missing.

    `self.meta` tells of the small picture: `pts`, `wall_clock` and `format`. `captured_ns` is that of the older one.

    Counters are `connected_main` and `connected_sub` (0 or 1), and for both streams together `reconnects`, and the frames that
    were `unpaired`, `skipped` (they came while the routine was busy, or were not decoded), `late` or `damaged`.

    :param main: URL of the large stream, or another live source that `VideoSource` takes.
    :param sub: of the small one.
    :param tolerance: seconds; by default half the time between two frames of the faster stream. Give more for a camera whose
        two encoders don't look at the same moment.
    :param main_format: of the large picture: `bgr`, `rgb`, `gray`, `i420` or `nv12`.
    :param sub_format: of the small one.
    :param main_size: width and height to scale the large picture to.
    :param sub_size: width and height to scale the small one to.
    :param fps: the most pairs a second.
    :param backend: the decoder, as for `VideoSource`; so are `transport`, `timeout` (s) and `hwaccel`.
    :param reconnect: False makes a stream that can't be opened an error, and ends the source when one of them is lost.
    :param footage: keeps the packets of the main stream, as for `VideoSource`.
    :raises ValueError: when an option is out of range, or does not go with the others.
    :raises ImportError: when the backend is not installed; the error says what to install.

    >>> gate = TwinSource("rtsp://10.0.0.5/main", "rtsp://10.0.0.5/sub", "gate", main_format="i420", fps=10)
    """

    counter_names = (*("connected_main", "connected_sub", "reconnects", "skipped", "late", "damaged", "unpaired"),)

    # longer than 40 lines: the options take half of them
    def __init__(
        self,
        main: Source,
        sub: Source,
        name: str | None = None,
        *,
        tolerance: float | None = None,
        main_format: Format = "bgr",
        sub_format: Format = "bgr",
        main_size: tuple[int, int] | None = None,
        sub_size: tuple[int, int] | None = None,
        fps: float | None = None,
        backend: Backend = "auto",
        transport: Transport = "tcp",
        reconnect: bool = True,
        timeout: float = 5.0,
        hwaccel: str | None = None,
        footage: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, footage)
        if tolerance is not None and not (is_number(tolerance) and 0 < tolerance < float("inf")):
            raise ValueError(f"tolerance must be more than 0 seconds, or None, not {tolerance!r}")
        if fps is not None and not (is_number(fps) and 0 < fps < float("inf")):
            raise ValueError(f"fps must be positive, or None for all frames, not {fps!r}")
        if main == sub:
            raise ValueError(f"main and sub are the same stream, {shown(main)!r}: give the camera's small one as sub")
        wanted = Wanted(main_format, size=main_size), Wanted(sub_format, size=sub_size)
        self._openings: list[Opening] = []
        for source, its in zip((main, sub), wanted, strict=True):
            if not is_live(source):
                raise ValueError(f"a TwinSource reads live streams, and {shown(source)!r} is none: a VideoSource reads files")
            decoding = Decoding(hwaccel=hwaccel)
            self._openings.append(Opening(source, True, backend, its, decoding, transport, timeout, None, footage is not None))
            self._openings[-1].check()
        self._formats = main_format, sub_format
        self._tolerance = tolerance
        self._fps = fps
        self._reconnect = reconnect
        self._timeout = timeout
        self._streams: list[_Stream] = []
        self._reading_still: list[threading.Thread | None] = [None, None]
        if main_size is not None and sub_size is not None:
            self.declare_output((_bytes_of(shape_of(main_format, *main_size)) + math.prod(shape_of(sub_format, *sub_size)),))
        if fps is not None:
            self.set_const_fps(fps)

    def setup(self) -> None:
        """Begins to read both streams. Each is opened by a thread of its own, as soon as it can be reached.

        :raises VideoError: when one can't be opened, with `reconnect=False`.
        """
        self._pairs = Pairs(self.counters, self._tolerance)
        self._has_sent = self._is_lost = self._warned = False
        self._unpaired = self.counters["unpaired"]
        self._begin_footage()
        for side in SIDES:
            counters = _SideCounters(side, self.counters, self._pairs.changed)
            counters["connected"] = 0
            stream = _Stream(
                side,
                self._openings[side],
                self._pairs,
                counters,
                self._logger,
                reconnect=self._reconnect,
                after=self._reading_still[side],
                note=self._note_span,
                footage=self._footage if side == MAIN else None,
            )
            self._streams.append(stream)
        for stream in [] if self._reconnect else self._streams:
            if stream.await_shape(3 * self._timeout) is None and stream.failure is not None:
                raise stream.failure

    def main_logic(self) -> TwinFrame | None:
        """Returns the next pair; None when none has come within 0.2 s.

        :raises NoFreeSlot: when every slot of shared memory is in use; a pair is lost.
        :raises EndOfStream: when a stream has ended, with `reconnect=False`.
        """
        found = self._next()
        if found is None:
            if any(stream.over for stream in self._streams):
                raise EndOfStream
            self._tell_of_none()
            return None
        main, sub = found
        meta = self.meta
        meta.captured_ns, meta.pts, meta.wall_clock = min(main.captured_ns, sub.captured_ns), sub.pts, sub.wall_clock
        meta.describe(self._formats[SUB], len(sub.frame))
        self._tell_of_a_pair()
        return TwinFrame(sub.frame, main.frame, self._formats[MAIN])

    def cleanup(self) -> None:
        """Closes both streams."""
        self._reading_still = [stream.close() for stream in self._streams]
        self._streams = []
        with self._pairs.changed:
            self._pairs.clear()
        self._end_footage()

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames | None:
        if not look:
            return None
        captures: list[Capture] = []
        try:
            for opening in self._openings:
                captures.append(opening.open(self._logger))
        finally:
            for capture in captures:
                capture.close()
        main, sub = captures
        if not (main.info.width and sub.info.width):
            return None
        what = " and ".join(f"{each.info.width}x{each.info.height}" for each in captures)
        return OwnFrames(_bytes_of(main.shape) + math.prod(sub.shape), f"{what}: {shown(self._openings[MAIN].source)}")

    def _sent_format(self, received: Format | None) -> Format | None:
        return self._formats[SUB]

    # ---- pairs -----------------------------------------------------------------------------------

    def _next(self) -> tuple[Live, Live] | None:
        """The next pair; None when none has come within 0.2 s."""
        pairs, until = self._pairs, time.monotonic() + PATIENCE
        self._may_add = True
        with pairs.changed:
            pairs.await_pair()
        try:
            while True:
                with pairs.changed:
                    pairs.changed.wait_for(
                        lambda: pairs.is_any_complete or self._lacks_room or self._is_over,
                        max(0.0, until - time.monotonic()),
                    )
                    found = pairs.take()
                    if found is not None or self._is_over or time.monotonic() >= until:
                        return found
                    if not self._lacks_room:
                        continue
                    (main, sub), is_first = pairs.shapes, pairs.has_none
                assert main is not None
                assert sub is not None
                self._may_add = self._add(main, sub, is_first)
        finally:
            with pairs.changed:
                pairs.leave(1 / self._const_fps if self._const_fps else 0.0)

    @property
    def _lacks_room(self) -> bool:
        return self._may_add and self._pairs.lack_room

    @property
    def _is_over(self) -> bool:
        return any(stream.over for stream in self._streams)

    def _add(self, main: tuple[int, ...], sub: tuple[int, ...], is_first: bool) -> bool:
        """Opens one more pair; False if there is no slot for it, and none is needed.

        :param is_first: whether there is no other. Further ones are only for streams that come one after the other.
        :raises NoFreeSlot: when there is no slot for the first.
        """
        begin = _bytes_of(main)
        shape, dtype = (begin + math.prod(sub),), np.dtype(np.uint8)
        try:
            if is_first or self._runtime is None:
                room = self.loan(shape, dtype)
            else:
                room = self._runtime.loan(shape, dtype, wait=False)
        except NoFreeSlot:
            if is_first and self._streams[SUB].pass_over(PATIENCE):
                raise
            return False
        pair = Pair(room[: math.prod(main)].reshape(main), room[begin:].reshape(sub))
        with self._pairs.changed:
            self._pairs.add(pair)
        return True

    # ---- what is told ----------------------------------------------------------------------------

    def _tell_of_a_pair(self) -> None:
        if self._is_lost:
            self._logger.info("both streams are there again")
        self._has_sent, self._is_lost = True, False
        self._unpaired = self.counters["unpaired"]

    def _tell_of_none(self) -> None:
        """Says in the log, once, why nothing is sent."""
        lost = [shown(self._openings[side].source) for side in SIDES if not self._pairs.connected[side]]
        if lost:
            self._unpaired = self.counters["unpaired"]
            if self._has_sent and not self._is_lost:
                self._is_lost = True
                self._logger.warning(
                    "nothing is sent until %s %s back", " and ".join(map(repr, lost)), ("is", "are")[len(lost) - 1]
                )
        elif self._tolerance is not None and self.counters["unpaired"] - self._unpaired >= HOPELESS and not self._warned:
            self._warned = True
            self._logger.warning(
                "of %d frames none had a partner within %g s (tolerance): the nearest ones were %.3f s apart",
                HOPELESS,
                self._tolerance,
                self._pairs.nearest,
            )
