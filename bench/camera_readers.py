"""Loops that read a camera without this project: each yields arrays whose first rows and columns are the picture.

A reader ends with the stream. What it yields is valid until the next one, unless `KEEPS` has it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from .camera_clips import Clip

Reader = Callable[[str, Clip], Iterator[np.ndarray]]
SYSTEMS = "/usr/lib/python3/dist-packages"  # where Debian has `gi`


def by_cv2(url: str, clip: Clip, threads: int = 1) -> Iterator[np.ndarray]:
    """BGR. A new array each time.

    :param threads: of the decoder; 0: as OpenCV has it. One costs the least, and is the youngest.
    """
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"
    import cv2

    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, (cv2.CAP_PROP_N_THREADS, threads) if threads else ())
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield frame


def by_cv2_default(url: str, clip: Clip) -> Iterator[np.ndarray]:
    """As most people use it."""
    return by_cv2(url, clip, threads=0)


def by_pyav(url: str, clip: Clip, loop_filter: bool = True) -> Iterator[np.ndarray]:
    """The plane of luma, a view of the decoder's memory, which stays valid."""
    import av

    with av.open(url, options={"rtsp_transport": "tcp"}, timeout=10) as container:
        stream = container.streams.video[0]
        if not loop_filter:
            stream.codec_context.options = {"skip_loop_filter": "all"}
        for frame in container.decode(stream):
            plane = frame.planes[0]
            yield np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def by_pyav_unfiltered(url: str, clip: Clip) -> Iterator[np.ndarray]:
    return by_pyav(url, clip, loop_filter=False)


def ffmpeg_command(url: str, options: Mapping[str, str]) -> list[str]:
    """The command that writes I420 to standard output.

    :param options: of the input.
    """
    given = [word for name, value in options.items() for word in (f"-{name}", value)]
    opened = ["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", *given, "-rtsp_transport", "tcp", "-i", url]
    return [*opened, "-an", "-threads", "2", "-f", "rawvideo", "-pix_fmt", "yuv420p", "pipe:"]


def by_ffmpeg(url: str, clip: Clip) -> Iterator[np.ndarray]:
    """I420, out of the pipe of an `ffmpeg`. The same array each time."""
    frame = np.empty((clip.height * 3 // 2, clip.width), np.uint8)
    with subprocess.Popen(ffmpeg_command(url, {}), stdout=subprocess.PIPE, bufsize=0) as ffmpeg:
        assert ffmpeg.stdout is not None
        try:
            while read_whole(ffmpeg.stdout.fileno(), frame.data.cast("B")):
                yield frame
        finally:
            ffmpeg.kill()


def read_whole(descriptor: int, memory: memoryview) -> bool:
    """Fills memory; False at the end of the file."""
    while memory:
        count = os.readv(descriptor, [memory])
        if not count:
            return False
        memory = memory[count:]
    return True


class _MapInfo(ctypes.Structure):
    """GstMapInfo."""

    _fields_ = (
        ("memory", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("maxsize", ctypes.c_size_t),
        ("user_data", ctypes.c_void_p * 4),
        ("reserved", ctypes.c_void_p * 4),
    )


def by_gstreamer(url: str, clip: Clip) -> Iterator[np.ndarray]:
    """I420, out of an appsink: the buffer's own memory, mapped by ctypes, since `gi` makes two copies of it."""
    if SYSTEMS not in sys.path:
        sys.path.append(SYSTEMS)
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstApp", "1.0")
    from gi.repository import Gst, GstApp  # noqa: F401  GstApp gives the appsink its methods

    Gst.init(None)
    library = ctypes.CDLL("libgstreamer-1.0.so.0")
    library.gst_buffer_map.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    library.gst_buffer_unmap.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    codec = clip.codec
    pipeline = Gst.parse_launch(
        f"rtspsrc location={url} protocols=tcp latency=0 ! rtp{codec}depay ! {codec}parse ! avdec_{codec} max-threads=1 ! "
        "videoconvert n-threads=1 ! video/x-raw,format=I420 ! appsink name=sink max-buffers=2 drop=true sync=false"
    )
    sink = pipeline.get_by_name("sink")
    pipeline.set_state(Gst.State.PLAYING)
    info = _MapInfo()
    try:
        while True:
            sample = sink.try_pull_sample(10 * Gst.SECOND)
            if sample is None:
                return
            buffer = hash(sample.get_buffer())  # its address
            if not library.gst_buffer_map(buffer, ctypes.byref(info), 1):
                raise RuntimeError("a buffer of GStreamer's can't be mapped")
            memory = (ctypes.c_uint8 * info.size).from_address(info.data)
            yield np.frombuffer(memory, np.uint8).reshape(-1, info.size // (clip.height * 3 // 2))
            library.gst_buffer_unmap(buffer, ctypes.byref(info))
    finally:
        pipeline.set_state(Gst.State.NULL)


PACKAGES = "python3-gi gstreamer1.0-libav gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gir1.2-gst-plugins-base-1.0"
KEEPS = (by_cv2, by_cv2_default, by_pyav, by_pyav_unfiltered)


def missing(reader: Reader) -> str:
    """What is not installed of what a reader needs, and how to install it; empty where all is there."""
    if (
        reader is by_gstreamer
        and subprocess.run([sys.executable, "-c", _TRY, SYSTEMS], capture_output=True, check=False).returncode
    ):
        return f"not installed: GStreamer for this Python: apt-get install {PACKAGES}"
    if reader is by_ffmpeg and shutil.which("ffmpeg") is None:
        return "not installed: ffmpeg: apt-get install ffmpeg"
    return ""


_TRY = """
import sys
sys.path.append(sys.argv[1])
import gi
gi.require_version("Gst", "1.0"); gi.require_version("GstApp", "1.0")
from gi.repository import Gst
Gst.init(None)
sys.exit(not all(Gst.ElementFactory.find(name) for name in ("rtspsrc", "rtph264depay", "h264parse", "avdec_h264", "appsink")))
"""
