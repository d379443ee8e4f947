"""Writes packets to an MP4 file as they are."""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from pipert_shm.video.files import NewFile, free_name
from pipert_shm.video.footage.kept import TICKS, Form, Kept, Run
from pipert_shm.video.movie import MP4, GrowingFile

_BASE = Fraction(1, TICKS)

PART = ".part"
"""What the name of a file ends with that is being written."""

_OPTIONS = {
    **MP4,
    "frag_duration": "1000000",
    "frag_size": str(1 << 20),
    "flush_packets": "1",
}  # a kill costs what came within a second


class DecodeTimes:
    """Says when pictures have to be decoded, where a stream tells only when they are shown. In the order of decoding.

    The stamps are those of the pictures, in order of time, so many places later as pictures change places at most. The first
    ones get stamps before the first picture.

    :param depth: how many pictures stand before one that is shown earlier, at most.
    :param step: ticks from one picture to the next.
    """

    def __init__(self, depth: int, step: int) -> None:
        self._depth = depth
        self._step = step
        self._waiting: list[int] = []
        self._given = 0

    def of(self, pts: int) -> int:
        """When the next picture has to be decoded, if it is shown then."""
        heapq.heappush(self._waiting, pts)
        self._given += 1
        if self._given > self._depth:
            return heapq.heappop(self._waiting)
        return pts if not self._depth else self._waiting[0] - (self._depth - self._given + 1) * self._step


@dataclass(slots=True)
class Span:
    """What a file has.

    Attributes:
        frames: how many pictures.
        first_ns: when the first of them came, had it come as fast as the fastest (CLOCK_MONOTONIC, ns).
        seconds: how long it plays.
        clock: when the first was captured by the camera's clock, seconds since the epoch; None if the camera does not tell.
    """

    frames: int = 0
    first_ns: int = 0
    seconds: float = 0.0
    clock: float | None = None

    @property
    def last_ns(self) -> int:
        """When it ends."""
        return self.first_ns + round(self.seconds * 1e9)


class PacketFile:
    """A file that packets are written to. Its name ends with `.part` until it is whole. One thread at a time.

    :param path: where it will be, or at the next free name.
    :param first: the first packet, a key frame, which `add` must be called with.
    :raises OSError: when the file can't be made.

    Attributes:
        path: where it will be, and is once it is whole.
        span: what it has so far.
    """

    def __init__(self, path: Path, first: Kept) -> None:
        assert first.is_key
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._new = NewFile(path.with_name(path.name + PART))
        self._file = GrowingFile(self._new)
        self.span = Span(first_ns=first.came_ns, clock=first.clock)
        self._form: Form = first.run.form
        self._begin(first.run, first.pts)
        self._last_dts: int | None = None
        self._last_pts = 0
        self._began_ns = first.came_ns
        self._failed = False
        try:
            self._container = av.open(self._file, "w", format="mp4", options=_OPTIONS)
            self._stream = self._container.add_stream_from_template(self._form.template, opaque=True)
            self._stream.time_base = _BASE
            if self._form.codec == "hevc":
                self._stream.codec_context.codec_tag = "hvc1"  # else players of one maker's show nothing
        except BaseException:
            os.ftruncate(self._new.fd, 0)
            self._new.close()
            raise

    @property
    def part(self) -> Path:
        """Where it is now."""
        return self._new.path

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its pictures, in pixels."""
        return self._form.size

    def _begin(self, run: Run, zero: int) -> None:
        self._run, self._zero, self._key_pts = run, zero, zero
        self._times = DecodeTimes(run.depth, run.step)

    def takes(self, packet: Kept) -> bool:
        """Whether the packet can stand in this file. A run begins with a key frame."""
        return packet.run is self._run or (packet.is_key and packet.run.form.fits(self._form))

    def add(self, packet: Kept) -> bool:
        """Writes a packet that it takes; False for one that comes too late to be decoded in time, which is not written.

        :raises OSError: for example when the disk is full. Nothing more can be written then, and `end` keeps what was.
        """
        if packet.run is not self._run:
            elapsed = round((packet.came_ns - self._began_ns) * TICKS / 1e9)
            run = packet.run
            self._begin(run, packet.pts - max(elapsed, self._last_pts + run.step * (1 + run.depth)))
            self._key_pts = packet.pts
        pts = packet.pts - self._zero
        if packet.pts < self._key_pts:
            return True  # it is shown before the first key frame, and builds on pictures that are not there
        dts = self._times.of(pts) if packet.dts is None else packet.dts - self._zero
        if self._last_dts is not None:
            dts = max(dts, self._last_dts + 1)
        if dts - pts > self._run.step // 2:
            return False
        pts = max(pts, dts)  # two pictures have the same stamp
        made = av.Packet(packet.data)
        made.stream, made.time_base, made.is_keyframe = self._stream, _BASE, packet.is_key
        made.pts, made.dts = pts, dts
        try:
            self._container.mux_one(made)
            self._file.note_whole()
        except BaseException:
            self._failed = True
            raise
        self._last_dts = dts
        self._note(packet, pts)
        return True

    def _note(self, packet: Kept, pts: int) -> None:
        span = self.span
        self._last_pts = max(pts, self._last_pts)
        span.frames += 1
        span.seconds = self._last_pts * span.frames / max(1, span.frames - 1) / TICKS
        span.first_ns = min(span.first_ns, packet.came_ns - round(pts * 1e9 / TICKS))

    def end(self, path: Path | None = None) -> Path | None:
        """Ends the file and gives it its name. What was written before a failure can be played.

        :param path: its name, if another than it was begun with.
        :returns: where it is; None if there is no picture in it, and no file.
        :raises OSError: when the disk is full; the file has its name all the same.
        """
        failure: OSError | None = None
        try:
            self._container.close()
        except (OSError, av.error.FFmpegError) as error:
            failure = error if isinstance(error, OSError) else OSError(5, str(error))
        if failure is not None or self._failed:
            self._file.restore()
        try:
            if not os.fstat(self._new.fd).st_size or not self.span.frames:
                os.ftruncate(self._new.fd, 0)
                return None
            try:
                os.fdatasync(self._new.fd)  # before it has its name: after a power cut there is no half a file
            except OSError as error:
                failure = failure or error
            # Not by a name that is claimed first, as videos are: a kill in between would leave an empty file that looks whole.
            wanted = path or self.path
            wanted.parent.mkdir(parents=True, exist_ok=True)  # another hour than it was begun in, or the clock has stepped
            self.path = free_name(wanted)
            self.part.rename(self.path)
        finally:
            self._new.close()
        if failure is not None and not self._failed:
            raise failure
        return self.path
