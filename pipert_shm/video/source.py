"""The routine that sends the frames of a video."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np

from pipert_shm.errors import EndOfStream, NoFreeSlot
from pipert_shm.extras import to_install
from pipert_shm.data import FORMATS, Format
from pipert_shm.graph.needs import OwnFrames
from pipert_shm.limits import is_number
from pipert_shm.routine import SourceRoutine
from pipert_shm.video.capture import Capture, ImageFolder, OpenCVCapture, Source, is_device, is_folder, shown
from pipert_shm.video.fit import Wanted
from pipert_shm.video.formats import is_planar, shape_of
from pipert_shm.video.live import LiveReader
from pipert_shm.video.opencv import VideoError, is_utf8
from pipert_shm.video.timing import Playback, Thinning

Backend = Literal["auto", "opencv", "pyav"]
Transport = Literal["tcp", "udp"]

PATIENCE = 0.2
"""The longest wait for a frame in one call of `main_logic`, in seconds, so that the routine stops soon."""


def _is_live(source: Source) -> bool:
    return is_device(source) or ("://" in str(source) and not str(source).startswith("file://"))


class VideoSource(SourceRoutine):
    """Sends the frames of a video as (height, width, 3) uint8 arrays, BGR, decoded straight into shared memory.

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

    Counters are `connected` (0 or 1), `reconnects`, and the frames that were `skipped` (also by `fps`), `late` and
    `damaged`.

    :param source: a file's path, a folder of images, a stream's URL, or a camera's number or device file.
    :param backend: the decoder. `pyav` (the extra `pyav`) says why a stream can't be opened, and can take RTSP
        by UDP, but copies each frame once.
    :param live: whether the source is a live stream; None decides by the source. Give False for a URL of a file.
    :param loop: begins a file again when it ends.
    :param realtime: plays a file at its own speed.
    :param fps: the most frames a second to send; the others are skipped. A folder of images plays at this rate, or at 25.
    :param size: width and height, in pixels, to scale frames to. Proportions are not kept. A camera is asked for this size.
    :param roi: left, top, width and height, in pixels, of the part of each frame to send. It is cut out before scaling.
    :param transport: `tcp` or `udp`, for RTSP. OpenCV takes TCP, or what OPENCV_FFMPEG_CAPTURE_OPTIONS says.
    :param reconnect: False makes a live stream that can't be opened an error, and ends the stream when it is lost.
    :param timeout: seconds of silence after which a URL counts as lost.
    :raises ValueError: when an option is out of range, or does not go with the others.
    :raises ImportError: when the backend is not installed; the error says what to install.

    >>> gate = VideoSource("rtsp://admin:secret@10.0.0.5/stream1", "gate", fps=10, size=(640, 360))
    >>> clip = VideoSource("walk.mp4", "clip", realtime=True, loop=True)
    >>> stills = VideoSource("frames/", "stills", fps=5)

    A source belongs to one pipe. Only its own thread may call `main_logic`.
    """

    counter_names = ("connected", "reconnects", "skipped", "late", "damaged")

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
    ) -> None:
        super().__init__(name)
        self.source = source
        self.live = _is_live(source) if live is None else live
        _check(source, self.live, backend, loop, realtime, fps, transport, timeout)
        self._wanted = _checked_wanted(format, bits, roi, size)
        self._backend = backend
        self._loop = loop
        self._realtime = realtime
        self._fps = fps
        self._transport = transport
        self._reconnect = reconnect
        self._timeout = timeout
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
        self.counters["connected"] = 0
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
        )
        if not self._reconnect and self._reader.await_shape(3 * self._timeout) is None and self._reader.failure is not None:
            raise self._reader.failure

    def main_logic(self) -> np.ndarray | None:
        """Returns the next frame; None when none has come within 0.2 s.

        :raises NoFreeSlot: when every slot of shared memory is in use; the frame is lost.
        :raises EndOfStream: after the last frame.
        :raises VideoError: when the frame does not contain the wanted part.
        """
        return self._read_live(self._reader) if self._reader is not None else self._read_file()

    def cleanup(self) -> None:
        """Closes the video."""
        if self._reader is not None:
            self._reading_still = self._reader.close()
            self._reader = None
        if self._capture is not None:
            self._capture.close()
            self._capture = None
            self.counters["connected"] = 0

    def _own_frames(self, received: int, *, look: bool) -> OwnFrames | None:
        if not look:
            return None
        capture = self._open()
        capture.close()
        info = capture.info
        why = f"{info.width}x{info.height}, {self._wanted.format}: {shown(self.source)}"
        return OwnFrames(math.prod(capture.shape) * self._wanted.dtype.itemsize, why) if info.width else None

    def _open(self) -> Capture:
        if is_folder(self.source):
            return ImageFolder(self.source, self._wanted, fps=self._fps or 25.0)
        if self._backend == "pyav" or (self._backend == "auto" and _prefers_pyav(self.source)) or not self._is_for_opencv():
            return self._open_by_pyav()
        capture = OpenCVCapture(self.source, self._wanted, timeout=self._timeout, live=self.live)
        if not self._is_interlaced(capture):
            return capture
        capture.close()
        if find_spec("av") is None:
            raise VideoError(
                shown(self.source),
                f"{shown(self.source)!r} is interlaced, and OpenCV can't convert that; {to_install('pyav')}, which "
                f"reads it, or convert it: ffmpeg -i IN -vf yadif OUT",
            )
        self._logger.info("%r is interlaced, which OpenCV can't convert: it is read by PyAV", shown(self.source))
        return self._open_by_pyav()

    def _is_for_opencv(self) -> bool:
        """Whether OpenCV takes the source's name. A name that is not UTF-8 crashes it.

        :raises VideoError: when it does not, and PyAV, which takes any name, is not installed.
        """
        if isinstance(self.source, int) or is_utf8(os.fspath(self.source)):
            return True
        if find_spec("av") is None or is_device(self.source):
            raise VideoError(
                shown(self.source),
                f"the name {shown(self.source)!r} is not UTF-8, and OpenCV can't open such a file: rename it, or "
                f"{to_install('pyav')}, which reads it",
            )
        self._logger.info("the name %r is not UTF-8, which OpenCV can't open: it is read by PyAV", shown(self.source))
        return False

    def _open_by_pyav(self) -> Capture:
        from pipert_shm.video.pyav import PyAVCapture

        assert not isinstance(self.source, int), "_check has seen to that"
        return PyAVCapture(
            self.source,
            self._wanted,
            timeout=self._timeout,
            live=self.live,
            transport=self._transport,
            logger=self._logger,
        )

    def _is_interlaced(self, capture: OpenCVCapture) -> bool:
        told = capture.interlaced
        if told is not None or isinstance(self.source, int) or self.live or find_spec("av") is None:
            return bool(told)
        from pipert_shm.video.pyav import begins_interlaced

        return begins_interlaced(self.source)

    def _connect(self) -> Capture:
        capture = self._open()
        if capture.info.frames and str(self.source).startswith("http"):
            self._logger.warning(
                "%r has an end (after %d frames), but is read as a live stream: give live=False to get every frame",
                shown(self.source),
                capture.info.frames,
            )
        return capture

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
        self._capture = self._open()
        self.counters["connected"] = 1
        self._thinning = None if self._fps is None or is_folder(self.source) else Thinning(self._fps)
        self._playback = Playback() if self._realtime else None
        self._read = 0
        self._damaged = 0
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
            if not capture.grab():
                self._end(capture)
                return False
            damaged, self._damaged = capture.damaged - self._damaged, capture.damaged
            if damaged:
                self._note_damage(damaged)
            self._read += 1 + damaged
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


def _check(
    source: Source,
    live: bool,
    backend: str,
    loop: bool,
    realtime: bool,
    fps: float | None,
    transport: str,
    timeout: float,
) -> None:
    """:raises ValueError: when an option is out of range, or does not go with the others."""
    text = "" if isinstance(source, int) else os.fspath(source)
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {get_args(Backend)}, not {backend!r}")
    if backend == "pyav":
        if is_device(source):
            raise ValueError(f"a camera ({source}) is read by OpenCV: leave backend='pyav' away")
        import pipert_shm.video.pyav  # noqa: F401  (a missing package is an error now)
    if live and (loop or realtime):
        raise ValueError(f"{'loop' if loop else 'realtime'} is for files, and {shown(source)!r} is a live stream; live=False?")
    if fps is not None and not (is_number(fps) and 0 < fps < float("inf")):
        raise ValueError(f"fps must be positive, or None for all frames, not {fps!r}")
    if transport not in get_args(Transport):
        raise ValueError(f"transport must be one of {get_args(Transport)}, not {transport!r}")
    if transport != "tcp" and not (backend == "pyav" and text.startswith(("rtsp://", "rtsps://"))):
        raise ValueError(f"transport={transport!r} is for an rtsp:// URL with backend='pyav'")
    if not 0 < timeout < 3600:
        raise ValueError(f"timeout must be more than 0 and less than 3600 seconds, not {timeout}")


def _checked_wanted(format: Format, bits: int, roi: tuple[int, int, int, int] | None, size: tuple[int, int] | None) -> Wanted:
    """:raises ValueError: when an option is out of range, or does not go with the others."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    if bits not in (8, 16) or (bits == 16 and is_planar(format)):
        raise ValueError(f"bits must be 8, or 16 with format 'bgr', 'rgb' or 'gray', not {bits!r} with {format!r}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size must be (width, height), at least (1, 1), not {size}")
    if roi is not None and (len(roi) != 4 or min(roi) < 0 or min(roi[2:]) < 1):
        raise ValueError(f"roi must be (left, top, width, height), at least (0, 0, 1, 1), not {roi}")
    for name, numbers in ("size", size), ("roi", roi):
        if is_planar(format) and any(number % 2 for number in numbers or ()):
            raise ValueError(f"{name} must have even numbers with format {format!r}, not {numbers}")
    return Wanted(format, bits, roi and (roi[0], roi[1], roi[2], roi[3]), size and (size[0], size[1]))


def _prefers_pyav(source: Source) -> bool:
    """Whether PyAV reads a source better than OpenCV, and is there. The table in docs/performance.md shows why."""
    return not is_device(source) and find_spec("av") is not None


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
