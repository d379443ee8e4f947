"""Reads videos with the system's GStreamer: the youngest frames, and whatever it has drivers and hardware decoders for."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipert_shm.binding import now_ns
from pipert_shm.video import gst as g
from pipert_shm.video.capture import MOST_DAMAGED, WHOLE, Source, VideoInfo, cannot_open, shown
from pipert_shm.video.fit import Wanted
from pipert_shm.video.gst_pipeline import MOST_QUEUED, Pipeline
from pipert_shm.video.opencv import VideoError
from pipert_shm.video.raw import Picture, RawScaler

_TURNS = {"rotate-90": 3, "rotate-180": 2, "rotate-270": 1}
_PACKED = {"GRAY8": "gray", "GRAY16_LE": "gray", "BGR": "bgr", "RGB": "rgb"}
_PACKED |= {"BGRx": "bgrx", "BGRA": "bgrx", "RGBx": "rgbx", "RGBA": "rgbx"}
_ACROSS = {"I420": (2, 2), "Y42B": (2, 1), "Y444": (1, 1)}
_IN_TURNS = {"YUY2": (0, 1, 3), "UYVY": (1, 0, 2)}  # places of Y, U and V in the four bytes of two pixels

BETWEEN = 0.05
"""Seconds between two looks at the errors while a video is being opened."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How pictures lie in buffers, as their caps say.

    Attributes:
        format: GStreamer's name.
        full: whether they use the full range of values.
    """

    format: str
    width: int
    height: int
    fps: float
    full: bool
    offsets: tuple[int, ...]
    strides: tuple[int, ...]

    def picture(self, data: Any, meta: Any) -> Picture:
        """The picture in a buffer, as views.

        :param data: the buffer's bytes.
        :param meta: what the buffer says of its layout; NULL if nothing.
        """
        offsets = self.offsets if meta == g.ffi.NULL else tuple(meta.offset)
        strides = self.strides if meta == g.ffi.NULL else tuple(meta.stride)

        def plane(number: int, height: int, *row: int, dtype: str = "u1") -> np.ndarray:
            size = np.dtype(dtype).itemsize
            inner = [size * int(np.prod(row[place + 1 :])) for place in range(len(row))]
            return np.ndarray((height, *row), dtype, data, offsets[number], (strides[number], *inner))

        width, height = self.width, self.height
        if self.format in _PACKED:
            kind = _PACKED[self.format]
            channels = () if kind == "gray" else (len(self.format),)
            whole = plane(0, height, width, *channels, dtype="<u2" if "16" in self.format else "u1")
            return Picture(kind, (whole,), self.full)
        if self.format in _IN_TURNS:
            y, u, v = _IN_TURNS[self.format]
            pairs = plane(0, height, (width + 1) // 2, 4)
            return Picture("i420", (plane(0, height, width, 2)[..., y % 2], pairs[..., u], pairs[..., v]), self.full)
        planes: tuple[np.ndarray, ...]
        if self.format == "NV12":
            planes = plane(0, height, width), plane(1, (height + 1) // 2, (width + 1) // 2, 2)
        else:
            across, down = _ACROSS[self.format]
            small = -(-height // down), -(-width // across)
            planes = plane(0, height, width), plane(1, *small), plane(2, *small)
        packed = None
        ours = (0, width * height, width * height * 5 // 4)[: len(planes)]
        is_even = self.format in ("I420", "NV12") and width % 2 == height % 2 == 0
        if is_even and offsets[: len(planes)] == ours and all(each.flags.c_contiguous for each in planes):
            packed = np.ndarray((height * 3 // 2, width), np.uint8, data)
        return Picture("nv12" if self.format == "NV12" else "i420", planes, self.full, packed)


class GStreamerCapture:
    """A file, a stream, a camera, or a pipeline that ends in an appsink, read by the system's GStreamer.

    It is opened in the process that reads it: GStreamer does not survive a fork.

    :param timeout: seconds of silence after which the video is given up.
    :param live: of frames that come faster than they are taken, the newest is kept.
    :param transport: `tcp` or `udp`, for RTSP.
    :raises VideoError: when the source can't be opened; the error says why.
    """

    def __init__(
        self,
        source: Source,
        wanted: Wanted = WHOLE,
        *,
        timeout: float = 5.0,
        live: bool = False,
        transport: str = "tcp",
        logger: logging.Logger | None = None,
    ) -> None:
        self._source = source
        self._name = shown(source)
        self._timeout = timeout
        self._logger = logger
        self._live = live
        self._scaler = RawScaler(self._name, wanted, logger)
        self._turns = 0
        self._sample = self._caps = g.ffi.NULL
        self._layout: Layout | None = None
        self._zero: float | None = None
        self._ahead = False
        self._failure: VideoError | None = None
        self.pts: float | None = None
        self.came_ns: int | None = None
        self.waited: float | None = None
        self.wall_clock: float | None = None
        self.damaged = self.left_out = self._grabbed = 0
        self.stopped = False  # it need not be looked at: each frame ends a `grab`
        self._pipeline = Pipeline(source, wanted, timeout=timeout, live=live, transport=transport)
        try:
            self._pipeline.start()
            self._await_first()
            layout = self._look()
            self._ahead = True
        except BaseException:
            self.close()
            raise
        frames = 0 if live else round(self._pipeline.seconds() * layout.fps)
        width, height = self._size(layout)
        self.info = VideoInfo(width, height, layout.fps, frames)
        self.shape: tuple[int, ...] = self._scaler.shape((layout.width, layout.height), self._turns)

    def _size(self, layout: Layout) -> tuple[int, int]:
        return (layout.height, layout.width) if self._turns % 2 else (layout.width, layout.height)

    def grab(self) -> bool:
        """See `Capture.grab`."""
        if self._ahead:
            self._ahead = False
            return True
        for _ in range(MOST_DAMAGED):
            if not self._pull():
                return False
            buffer = g.gst.gst_sample_get_buffer(self._sample)
            if not buffer.object.flags & g.CORRUPTED:
                layout = self._look()
                self.shape = self._scaler.shape((layout.width, layout.height), self._turns)
                return True
            self.damaged += 1
        raise VideoError(self._name, f"can't read on in {self._name!r}: {MOST_DAMAGED} damaged frames in a row")

    def _await_first(self) -> None:
        """Waits for the first frame.

        :raises VideoError: when none comes; the error says why.
        """
        until = time.monotonic() + self._timeout
        while not self._take(BETWEEN):  # before there is a stream, errors don't wake the sink
            self._heed(False, opening=True)
            if g.app.gst_app_sink_is_eos(self._pipeline.sink):
                raise cannot_open(self._source, "it ends without a frame")
            if time.monotonic() > until:
                raise cannot_open(self._source, f"no frame within {self._timeout:g} s")
        self._grabbed += 1
        self._heed(True)

    def _pull(self) -> bool:
        """Takes the next sample; False at the end.

        :raises VideoError: when none comes; the error says why.
        """
        rendered = self._pipeline.rendered() if self._live else 0
        begun, worked = time.monotonic(), time.process_time()
        got = self._take(self._timeout)
        # GStreamer's threads decode meanwhile, so the time that they work is no wait for data.
        self.waited = max(0.0, time.monotonic() - begun - (time.process_time() - worked))
        if got:
            newer = MOST_QUEUED if self._live else 0
            while newer and self._take(0):
                newer -= 1
                self.waited = 0.0
            self._grabbed += 1
            # What the sink has counted has come; at most what came since is counted too little.
            self.left_out = max(self.left_out, rendered - self._grabbed)
            self._heed(True)
            return True
        self._heed(False)
        if g.app.gst_app_sink_is_eos(self._pipeline.sink):
            return False
        raise VideoError(self._name, f"{self._name!r} fell silent for {self._timeout:g} s")

    def _take(self, timeout: float) -> bool:
        """Takes the next sample, if one comes within this time (seconds); else the one before stays."""
        sample = g.app.gst_app_sink_try_pull_sample(self._pipeline.sink, int(timeout * 1e9))
        if sample == g.ffi.NULL:
            return False
        self.came_ns = now_ns()
        self._let_go()
        self._sample = sample
        return True

    def _heed(self, got: bool, *, opening: bool = False) -> None:
        """Looks at what GStreamer has said meanwhile. An error waits until the frames before it have been taken.

        :param got: whether there is such a frame.

        :raises VideoError: when an error has ended the stream.
        """
        for message in g.messages(self._pipeline.bus, g.ERROR | g.WARNING | g.TAG | g.ELEMENT | g.LATENCY | g.QOS):
            if message.type == g.ERROR:
                self._failure = self._failure or self._pipeline.explained(message, opening=opening)
            elif message.type == g.TAG:
                self._turns = _TURNS.get(message.text, self._turns)
            elif message.type == g.QOS:
                self.damaged += 1
            elif message.type != g.WARNING:
                self._pipeline.heed(message)
            elif self._logger is not None and "elayed linking" not in message.text:  # that is about the sound
                self._logger.warning("%s of %r: %s", message.element, self._name, f"{message.text} {message.detail}".strip())
        if self._failure is not None and not got:
            raise self._failure

    def _look(self) -> Layout:
        """Looks at the sample that was taken."""
        buffer, caps = g.gst.gst_sample_get_buffer(self._sample), g.gst.gst_sample_get_caps(self._sample)
        if caps != self._caps or self._layout is None:
            self._layout = self._read_caps(caps)
        seconds = None
        if buffer.pts != g.NEVER:
            place = g.gst.gst_segment_to_stream_time(g.gst.gst_sample_get_segment(self._sample), g.TIME, buffer.pts)
            seconds = None if place == g.NEVER else place / 1e9
        if self._zero is None:
            self._zero = seconds
        self.pts = None if seconds is None or self._zero is None else seconds - self._zero
        stamp = g.gst.gst_buffer_get_reference_timestamp_meta(buffer, _ntp())
        self.wall_clock = None if stamp == g.ffi.NULL else stamp.timestamp / 1e9 - g.NTP_TO_UNIX
        return self._layout

    def _read_caps(self, caps: Any) -> Layout:
        info = g.ffi.new("GstVideoInfo *")
        if caps == g.ffi.NULL or not g.video.gst_video_info_from_caps(info, caps):
            raise VideoError(self._name, f"{self._name!r} gives no raw video")
        self._forget_caps()
        self._caps = g.gst.gst_mini_object_ref(caps)
        format = g.text(info.format.name)
        fps = info.fps_n / info.fps_d if info.fps_n > 0 and info.fps_d > 0 else 0.0
        # Of what does not tell its matrix, as most cameras, GStreamer forgets the range too. It is the first number of four.
        colours = g.text(g.gst.gst_structure_get_string(g.gst.gst_caps_get_structure(caps, 0), b"colorimetry"))
        full = info.range == 1 or colours.startswith("1:")
        return Layout(format, info.width, info.height, fps, full, tuple(info.offset), tuple(info.stride))

    def retrieve(self, out: np.ndarray | None = None) -> np.ndarray:
        """See `Capture.retrieve`."""
        assert self._layout is not None, "grab() comes first"
        buffer, bytes = g.gst.gst_sample_get_buffer(self._sample), g.ffi.new("GstMapInfo *")
        if not g.gst.gst_buffer_map(buffer, bytes, g.READ):
            raise VideoError(self._name, f"a frame of {self._name!r} can't be read: it is not in this computer's memory")
        try:
            data = g.ffi.buffer(bytes.data, bytes.size)
            picture = self._layout.picture(data, g.video.gst_buffer_get_video_meta(buffer))
            return self._scaler.fill(picture, self._turns, out)
        finally:
            g.gst.gst_buffer_unmap(buffer, bytes)

    def _let_go(self) -> None:
        if self._sample != g.ffi.NULL:
            g.gst.gst_mini_object_unref(self._sample)
            self._sample = g.ffi.NULL

    def _forget_caps(self) -> None:
        if self._caps != g.ffi.NULL:
            g.gst.gst_mini_object_unref(self._caps)
            self._caps = g.ffi.NULL

    def close(self) -> None:
        """See `Capture.close`."""
        self._let_go()
        self._forget_caps()
        self._pipeline.close()


_reference: Any = None


def _ntp() -> Any:
    global _reference
    if _reference is None:
        _reference = g.gst.gst_caps_from_string(b"timestamp/x-ntp")
    return _reference
