"""The routine that sends the frames of a video."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipert_shm.binding import now_ns
from pipert_shm.data import Format
from pipert_shm.errors import EndOfStream, NoFreeSlot
from pipert_shm.errors import shown as quoted
from pipert_shm.events import events
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.limits import is_number
from pipert_shm.video.capture import Capture, Source, is_device, is_folder, is_pipeline, shown
from pipert_shm.video.decoding import Decoding, SkipFrame, SkipLoopFilter
from pipert_shm.video.fit import Wanted
from pipert_shm.video.footage.source import KeepsFootage
from pipert_shm.video.formats import shape_of
from pipert_shm.video.hops import note_grab
from pipert_shm.video.live import LiveReader
from pipert_shm.video.opening import Backend, Opening, Transport
from pipert_shm.video.timing import Playback, Thinning

if TYPE_CHECKING:
    from pipert_shm.video.idle import Idling

PATIENCE = 0.2
"""The longest wait for a frame in one call of `main_logic`, in seconds, so that the routine stops soon."""


def is_live(source: Source) -> bool:
    """Whether the source is a live stream, by what it is called."""
    if is_device(source) or is_pipeline(source):
        return True
    return "://" in str(source) and not str(source).startswith("file://")


class VideoSource(KeepsFootage):
    """Sends the frames of a video, decoded straight into shared memory: BGR in (height, width, 3) uint8 unless told otherwise.

    **Files and folders of images** are read as fast as the wires take the frames, or at their own speed (`realtime`). The
    stream ends with the video. Damaged frames are left out, counted and logged.

    **Live streams** are cameras and URLs (RTSP, HTTP MJPEG, MPEG-TS …). A thread reads them all the time. A frame that comes
    while the routine is busy is skipped, so frames are never old, however slow the receivers are. A stream that is lost (it
    ends, fails, or is silent for `timeout`) is opened again, after 0.25 s at first and then up to 10 s, until it is back,
    perhaps with frames of another size. Frames that are older than two gaps between frames when they are decoded, since they
    piled up while the stream was opened or the process stood still, are passed over as late.

    `self.meta` tells receivers the source's name (`origin`), when a live frame came (`captured_ns`, `capture_time`; if its
    stamp says that it should have come earlier, that time), its position in the video (`pts`, seconds), and where the camera or
    the file tells, when it was seen by their clock (`wall_clock`, seconds since the epoch).

    In a trace of the pipe, `capture` is the time that it waited for data, `decode` that of the decoder, and `convert` the way
    from there to shared memory. OpenCV and GStreamer don't tell the first two apart: there both are `capture`.

    Counters are `connected` (0 or 1), `reconnects`, `idle` (0 or 1), and the frames that were `late`, `damaged` or `skipped`
    (by `fps`, too, and those that were not decoded). With `footage` they are also `clips` and `segments` (files that were
    written), `cut_clips` (those of the clips that lack something), `lost_clips`, and `unrecorded` (packets that are missing in
    the continuous recording).

    :param source: a file's path, a folder of images, a stream's URL, a camera's number or device file, or a pipeline of
        GStreamer's that ends in an appsink, such as `v4l2src ! video/x-raw,format=NV12 ! appsink`.
    :param backend: the decoder. `auto` takes PyAV (the extra `pyav`) for files and URLs if it is installed, GStreamer for a
        pipeline, and OpenCV for all else. PyAV and GStreamer, which the system must have, take RTSP by UDP as well.
    :param format: `bgr`, `rgb`, `gray` (height, width), or planar, as cameras have it: `i420` or `nv12` (height · 3/2, width).
    :param bits: 16 sends uint16, in `bgr`, `rgb` or `gray`. The source must have more than 8 bits a channel.
    :param live: whether the source is a live stream; None decides by the source. Give False for a URL of a file. A pipeline
        is live.
    :param loop: begins a file again when it ends.
    :param realtime: plays a file at its own speed.
    :param fps: the most frames a second to send; the others are skipped. A folder of images plays at this rate, or at 25.
    :param size: width and height, in pixels, to scale frames to. Proportions are not kept. A camera is asked for this size.
    :param roi: left, top, width and height, in pixels, of the part of each frame to send. It is cut out before scaling.
    :param transport: `tcp` or `udp`, for RTSP. OpenCV takes TCP, or what OPENCV_FFMPEG_CAPTURE_OPTIONS says.
    :param reconnect: False makes a live stream that can't be opened an error, and ends the stream when it is lost.
    :param timeout: seconds of silence after which a URL counts as lost.
    :param threads: of the decoder; by default as many as there are processors for a file, and those that delay nothing for a
        live stream.
    :param skip_frame: `noref` leaves out pictures that no other needs, where a stream has such (B-frames); `nokey` leaves out
        all but key frames, at 0.06 of the cost.
    :param skip_loop_filter: pictures of which the edges between blocks are not smoothed: `noref`, `nokey` or `all`, at about
        0.9 of the cost. These, and those that build on them, are coarser until the next key frame.
    :param low_delay: True makes the decoder give each picture at once. In a stream with B-frames they come out of order then.
    :param hwaccel: hardware to decode with: `auto` for what there is, or FFmpeg's name, such as `cuda`, `vaapi` or `qsv`. What
        can't be used is logged, and the CPU decodes.
    :param idle: seconds. When nothing has moved in the picture for so long, only key frames are decoded and sent, until
        something moves in one of them, or the event `ACTIVE` comes: `pipe.notify_event("ACTIVE", specific_routine="gate")`.
        Then it goes on at once with all frames.
    :param footage: keeps the packets as the camera sends them, and writes clips of events (`record_clip`) and continuous
        recordings to files: `{"directory": "/var/lib/footage", "clips": {"before": 5, "after": 5}, "continuous": {"days": 7}}`.
        See docs/how-to/footage.md. For PyAV only.
    :raises TypeError: when the source is no path, URL or number, or footage no dict.
    :raises ValueError: when an option is out of range, or does not go with the others.
    :raises ImportError: when the backend is not installed; the error says what to install.

    >>> gate = VideoSource("rtsp://admin:secret@10.0.0.5/stream1", "gate", fps=10, size=(640, 360))
    >>> clip = VideoSource("walk.mp4", "clip", realtime=True, loop=True)
    >>> stills = VideoSource("frames/", "stills", fps=5)

    A source belongs to one pipe. Only its own thread may call `main_logic`.
    """

    counter_names = ("connected", "reconnects", "skipped", "late", "damaged", "idle")

    # longer than 40 lines: the options take half of them
    def __init__(
        self,
        source: Source,
        name: str | None = None,
        *,
        backend: Backend = "auto",
        format: Format = "bgr",
        bits: Literal[8, 16] = 8,
        live: bool | None = None,
        loop: bool = False,
        realtime: bool = False,
        fps: float | None = None,
        size: tuple[int, int] | None = None,
        roi: tuple[int, int, int, int] | None = None,
        transport: Transport = "tcp",
        reconnect: bool = True,
        timeout: float = 5.0,
        threads: int | None = None,
        skip_frame: SkipFrame | None = None,
        skip_loop_filter: SkipLoopFilter | None = None,
        low_delay: bool | None = None,
        hwaccel: str | None = None,
        idle: float | None = None,
        footage: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(source, bool) or not isinstance(source, int | str | os.PathLike):
            raise TypeError(f"source must be a path, a URL, or a camera's number, not {quoted(source)}")
        super().__init__(name, footage)
        self.source = source
        self.live = is_live(source) if live is None else live
        self._wanted = Wanted(format, bits, roi, size)
        decoding = Decoding(threads, skip_frame, skip_loop_filter, low_delay, hwaccel, idle)
        self._opening = Opening(
            source, self.live, backend, self._wanted, decoding, transport, timeout, fps, footage is not None
        )
        self._opening.check()
        if self.live and (loop or realtime):
            what = "loop" if loop else "realtime"
            raise ValueError(f"{what} is for files, and {shown(source)!r} is a live stream; live=False?")
        if footage is not None and not (self.live or realtime):
            raise ValueError(f"footage is kept of live streams, and of files with realtime=True, not of {shown(source)!r}")
        if fps is not None and not (is_number(fps) and 0 < fps < float("inf")):
            raise ValueError(f"fps must be positive, or None for all frames, not {fps!r}")
        self._loop = loop
        self._realtime = realtime
        self._fps = fps
        self._reconnect = reconnect
        self._timeout = timeout
        self._idle = idle
        self._idling: Idling | None = None
        self._capture: Capture | None = None
        self._reader: LiveReader | None = None
        self._reading_still: threading.Thread | None = None
        if size is not None:
            self.declare_output(shape_of(format, *size), self._wanted.dtype)
        if self.live and fps is not None:
            self.set_const_fps(fps)

    def setup(self) -> None:
        """Opens a file. A live stream is opened by its thread, as soon as it can be reached.

        :raises VideoError: when a file, or a live stream with `reconnect=False`, can't be opened.
        """
        self.counters["connected"] = self.counters["idle"] = 0
        if self._idle is not None:
            from pipert_shm.video.idle import Idling  # heavy: it needs PyAV

            self._idling = Idling(shown(self.source), self._idle)
        self._begin_footage()
        if not self.live:
            self._begin()
            return
        self._reader = LiveReader(
            shown(self.source),
            self._connect,
            self.counters,
            self._logger,
            reconnect=self._reconnect,
            after=self._reading_still,
            note=self._note_span,
        )
        if not self._reconnect and self._reader.await_shape(3 * self._timeout) is None and self._reader.failure is not None:
            raise self._reader.failure

    def main_logic(self) -> np.ndarray | None:
        """Returns the next frame; None when none has come within 0.2 s.

        :raises NoFreeSlot: when every slot of shared memory is in use; the frame is lost.
        :raises EndOfStream: after the last frame.
        :raises VideoError: when the frame does not contain the wanted part.
        """
        frame = self._read_live(self._reader) if self._reader is not None else self._read_file()
        if self._idling is not None:
            self.counters["idle"] = self._idling.idle
        return frame

    @events("ACTIVE")
    def stay_active(self) -> None:
        """Makes an idle stream go on with all frames at once, and for as long as if something had moved."""
        if self._idling is None:
            self._logger.info("it is always active, since it has no idle=")
        else:
            self._idling.wake()

    def cleanup(self) -> None:
        """Closes the video."""
        if self._reader is not None:
            self._reading_still = self._reader.close()
            self._reader = None
        if self._capture is not None:
            self._capture.close()
            self._capture = None
            self.counters["connected"] = 0
        self._end_footage()

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames | None:
        if not look:
            return None
        capture = self._open()
        capture.close()
        info = capture.info
        why = f"{info.width}x{info.height}, {self._wanted.format.upper()}: {shown(self.source)}"
        return OwnFrames(math.prod(capture.shape) * self._wanted.dtype.itemsize, why) if info.width else None

    def _sent_format(self, received: Format | None) -> Format | None:
        return self._wanted.format

    def _open(self, needless: Callable[[float], bool] | None = None) -> Capture:
        return self._opening.open(self._logger, needless, self._idling, self._footage)

    def _connect(self) -> Capture:
        capture = self._open(self._nobody_waits)
        if capture.info.frames and str(self.source).startswith("http"):
            self._logger.warning(
                "%r has an end (after %d frames), but is read as a live stream: give live=False to get every frame",
                shown(self.source),
                capture.info.frames,
            )
        return capture

    def _nobody_waits(self, at: float) -> bool:
        return self._reader is None or not self._reader.is_awaited

    # ---- live streams ----------------------------------------------------------------------------

    def _read_live(self, reader: LiveReader) -> np.ndarray | None:
        shape = reader.await_shape(PATIENCE)
        live = None
        if shape is not None:
            try:
                live = reader.read(self.loan(shape, self._wanted.dtype), PATIENCE)
            except NoFreeSlot:
                if reader.pass_over(PATIENCE):
                    raise
        if live is None:
            if reader.over:
                raise EndOfStream
            return None
        meta = self.meta
        meta.captured_ns, meta.pts, meta.wall_clock = live.captured_ns, live.pts, live.wall_clock
        meta.describe(self._wanted.format, len(live.frame))
        return live.frame

    # ---- files -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._capture is not None:
            self._capture.close()
        self._thinning = thinning = None if self._fps is None or is_folder(self.source) else Thinning(self._fps)
        self._capture = self._open(None if thinning is None else thinning.passes_over)
        self.counters["connected"] = 1
        self._playback = Playback() if self._realtime else None
        self._read = 0
        self._damaged = self._left_out = 0
        self._in_hand = False

    def _read_file(self) -> np.ndarray | None:
        assert self._capture is not None, "setup() comes first"
        if not self._in_hand:
            self._in_hand = self._grab(self._capture)
            if not self._in_hand:
                return None
        if self._playback is not None and (left := self._playback.left(self._capture.pts)) > 0:
            time.sleep(min(left, PATIENCE))
            if left > PATIENCE:
                return None
        self._in_hand = False
        out = self.loan(self._capture.shape, self._wanted.dtype)
        with self.span("convert"):
            frame = self._capture.retrieve(out)
        if frame is None:
            self._note_damage(1)
            return None
        if self._capture.shape != out.shape:
            self._logger.warning("frames of %s come instead of %s; the first of them is copied", self._capture.shape, out.shape)
        meta = self.meta
        meta.pts, meta.wall_clock = self._capture.pts, self._capture.wall_clock
        meta.describe(self._wanted.format, len(frame))
        return frame

    def _grab(self, capture: Capture) -> bool:
        """Moves on to the next wanted frame; False if it has not come to one in 0.2 s."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            begun_ns = now_ns()
            got = capture.grab()
            note_grab(self._note_span, begun_ns, capture.came_ns)
            damaged, self._damaged = capture.damaged - self._damaged, capture.damaged
            if damaged:
                self._note_damage(damaged)
            left_out, self._left_out = capture.left_out - self._left_out, capture.left_out
            self.counters["skipped"] += left_out
            self._read += got + damaged + left_out
            if not got:
                self._end(capture)
                return False
            if self._thinning is None or self._thinning.takes(capture.pts):
                return True
            self.counters["skipped"] += 1
        return False

    def _note_damage(self, frames: int) -> None:
        self.counters["damaged"] += frames
        self._logger.warning("%d damaged frames of %r, before %d, are left out", frames, shown(self.source), self._read + 1)

    def _end(self, capture: Capture) -> None:
        announced = capture.info.frames
        if announced - self._read > max(1.0, capture.info.fps):
            self._logger.warning(
                "%r ended after %d frames, not the %d that its header tells of: it may be cut or damaged",
                shown(self.source),
                self._read,
                announced,
            )
        if not self._loop or not self._read:
            raise EndOfStream
        self._begin()


def video_sources(sources: Iterable[Source], name: str = "camera", **options: Any) -> list[VideoSource]:
    """Makes a `VideoSource` for each of several videos. Their names are camera-0, camera-1 and so on.

    :param sources: paths, URLs, or camera numbers.
    :param name: the beginning of the names.
    :param options: options of `VideoSource`, the same for all.
    :raises ValueError: when there is no source, or an option is wrong.

    One detector for all, with each camera in a process of its own:

    >>> from pipert_shm import BatchRoutine, Pipe, Wire
    >>> cameras = video_sources(["rtsp://10.0.0.5/1", "rtsp://10.0.0.6/1"], fps=10, size=(640, 360))
    >>> detector = BatchRoutine("detector", batch_size=len(cameras), max_wait=0.05)
    >>> pipe = Pipe()
    >>> pipe.create_flow("detect", False, detector)
    >>> for camera in cameras:
    ...     pipe.create_flow(camera.name, False, camera)
    ...     pipe.link(Wire(camera, detector))
    >>> [camera.name for camera in cameras]
    ['camera-0', 'camera-1']
    """
    cameras = [VideoSource(source, f"{name}-{place}", **options) for place, source in enumerate(sources)]
    if not cameras:
        raise ValueError("there must be at least one source")
    return cameras
