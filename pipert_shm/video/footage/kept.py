"""What is kept of a stream: its packets, and what they have in common."""

from __future__ import annotations

import io
import logging
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import av

from pipert_shm.video.footage.parameter_sets import sets_in

TICKS = 90_000
"""Ticks in a second: the unit of all stamps here, and of cameras."""

CODECS = ("h264", "hevc", "mjpeg", "mpeg4", "av1", "vp9", "mpeg2video")
"""What an MP4 file takes."""

DEEPEST = 16  # pictures that may stand before one that is shown earlier, at most, in any codec


class Form:
    """How packets are to be decoded. Packets of the same form may stand in one file, one after the other.

    :param stream: of a container that is open; or a stream that was made of one.
    :param sets: parameter sets with start codes that the packets had, and the container may not know.

    Attributes:
        codec: FFmpeg's name.
        extradata: what a decoder needs to begin.
        size: width and height in pixels.
    """

    def __init__(self, stream: av.VideoStream, sets: bytes = b"") -> None:
        # FFmpeg frees a stream with its container. This one is kept open for its stream alone, and nothing is written to it.
        self._holder = av.open(io.BytesIO(), "w", format="mp4")
        self.template: av.VideoStream = self._holder.add_stream_from_template(stream, opaque=True)
        context = self.template.codec_context
        self.codec = context.name
        self.size = context.width, context.height
        if sets and sets != context.extradata:
            context.extradata = sets
        self.extradata = bytes(context.extradata or b"")

    @property
    def has_start_codes(self) -> bool:
        """Whether units begin with start codes, and parameter sets may stand in packets; else with their length."""
        return self.extradata[:1] != b"\1"

    def with_sets(self, sets: bytes, packet: bytes) -> Form:
        """The form of a stream that goes on with these parameter sets.

        :param packet: a key frame, which tells the size of the pictures.
        """
        form = Form(self.template, sets)
        decoder = form.decoder()
        frames: list[av.VideoFrame] = []
        with suppress(av.error.FFmpegError):  # it is damaged, and has the size that is known
            frames = decoder.decode(av.Packet(packet)) or decoder.decode(None)
        if frames:
            form.size = frames[0].width, frames[0].height
            form.template.codec_context.width, form.template.codec_context.height = form.size
        return form

    def decoder(self) -> av.VideoCodecContext:
        """A decoder for such packets."""
        context = av.CodecContext.create(self.codec, "r")
        assert isinstance(context, av.VideoCodecContext)
        context.extradata = self.extradata or None
        context.thread_count = 1
        return context

    def fits(self, other: Form) -> bool:
        """Whether packets of both forms may stand in one file."""
        return (self.codec, self.size, self.extradata) == (other.codec, other.size, other.extradata)


class Run:
    """A part of a stream without a break: all stamps of its packets count from the same moment.

    Attributes:
        form: of its packets.
        depth: how many pictures stand before one that is shown earlier, at most, as far as is known.
    """

    def __init__(self, form: Form, depth: int) -> None:
        self.form = form
        self.depth = depth
        self._recent: list[int] = []

    def note(self, pts: int) -> None:
        """Takes the stamp of the next packet, where the stream does not say when it has to be decoded."""
        deeper = sum(earlier > pts for earlier in self._recent)
        self.depth = max(self.depth, deeper)
        self._recent = [*self._recent[1 - DEEPEST :], pts]

    @property
    def step(self) -> int:
        """Ticks from one picture to the next, as far as is known."""
        shown = sorted(self._recent)
        return min((b - a for a, b in pairwise(shown) if b > a), default=TICKS // 30)


class Kept(NamedTuple):
    """A packet.

    Attributes:
        data: a picture.
        pts: when it is shown, in ticks.
        dts: when it is decoded, in ticks; None where nobody says.
        is_key: whether decoding can begin with it.
        came_ns: when it came (CLOCK_MONOTONIC, ns).
        clock: when it was captured by the camera's clock, seconds since the epoch; None if it does not tell.
        run: to which it belongs.
    """

    data: bytes
    pts: int
    dts: int | None
    is_key: bool
    came_ns: int
    clock: float | None
    run: Run


BREAK_S = 10.0
"""Seconds by which stamps may go back, or run ahead of the clock. Else the stream counts as begun anew. That they stand still
is no break: a stream that was held up sends the rest later."""


LARGEST = 1 << 56
FARTHEST = 3600 * TICKS
"""Ticks between the stamps of a packet from which on these are damaged. An MP4 file has 31 bits for them."""


class Keeping:
    """Makes what is kept of the packets of one connection. One thread at a time.

    :param stream: of a container that is open.
    """

    def __init__(self, stream: av.VideoStream, logger: logging.Logger) -> None:
        self._logger = logger
        # As two whole numbers: fractions of Python took two thirds of the time that a packet takes here.
        self._ticks, self._units = ((stream.time_base or Fraction(1, TICKS)) * TICKS).as_integer_ratio()
        self._has_order = stream.codec_context.has_b_frames
        self._run = Run(Form(stream), 2 if self._has_order else 0)
        self._last: Kept | None = None
        self._sets = b""

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec."""
        return self._run.form.codec

    def of(self, packet: av.Packet[Any], came_ns: int, clock: float | None) -> Kept | None:
        """What is kept of a packet; None of one that has no stamp, or a damaged one.

        :param came_ns: when it came.
        :param clock: when it was captured by the camera's clock.
        """
        if packet.pts is None or not packet.size:
            return None
        pts = packet.pts * self._ticks // self._units
        dts = None if packet.dts is None else packet.dts * self._ticks // self._units
        if abs(pts) > LARGEST or (dts is not None and not abs(pts - dts) < FARTHEST):
            return None  # FFmpeg's writer breaks down on such stamps, and the process with it
        data = bytes(packet)
        if packet.is_keyframe:
            self._look(data)
        last = self._last
        if last is not None and not -BREAK_S < (gap := (pts - last.pts) / TICKS) < (came_ns - last.came_ns) / 1e9 + BREAK_S:
            self._logger.info("its stamps go on %.1f s away from where they were: it counts as begun anew", gap)
            self._run = Run(self._run.form, self._run.depth)
        if dts is None:
            self._run.note(pts)
        self._last = Kept(data, pts, dts, packet.is_keyframe, came_ns, clock, self._run)
        return self._last

    def _look(self, data: bytes) -> None:
        """Begins another run where the camera sends other parameter sets than before."""
        form = self._run.form
        sets = sets_in(form.codec, data) if form.has_start_codes else b""
        if not sets or sets == self._sets:
            return
        is_first, self._sets = not self._sets, sets
        fresh = form.with_sets(sets, data)
        if is_first and self._last is None:
            self._run = Run(fresh, self._run.depth)
        elif not fresh.fits(form):
            self._run = Run(fresh, 2 if self._has_order else 0)
