"""Films whose pictures have numbers, what a camera would send of them, and a look at clips that were made of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from pipert_shm.binding import now_ns
from pipert_shm.shm.counters import Counters
from pipert_shm.video.footage.footage import Footage
from pipert_shm.video.footage.settings import FootageSettings
from pipert_shm.video.footage.source import FOOTAGE_COUNTERS
from rtp_pieces import number_in, pictures

FPS, GOP, COUNT = 30, 15, 120

OPTIONS = {
    "libx264": {"preset": "ultrafast", "x264-params": "bframes=2:b-pyramid=normal:scenecut=0"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=3:scenecut=0:open-gop=0"},
    "mjpeg": {},
}


def film(path: Path, codec: str = "libx264", count: int = COUNT, size: tuple[int, int] = (320, 240), gop: int = GOP) -> Path:
    """Writes a film with a number in each picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=OPTIONS[codec])
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        for number, picture in enumerate(pictures(count)):
            scaled = cv2.resize(picture, size).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(scaled, format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copied(path: Path, target: Path) -> Path:
    """The same film in another container."""
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    return target


@cache
def pictures_of(path: Path) -> dict[int, bytes]:
    """The luma of each picture of a film, by its number."""
    with av.open(str(path)) as container:
        return {number_in(frame.to_ndarray(format="bgr24")): bytes(frame.planes[0]) for frame in container.decode(video=0)}


@contextmanager
def footage(directory: Path, **settings: Any) -> Iterator[tuple[Footage, Counters]]:
    """What keeps the packets of the camera `gate`, in this process."""
    counters = Counters(FOOTAGE_COUNTERS)
    kept = Footage(FootageSettings.of({"directory": directory, **settings}), "gate", counters, logging.getLogger("gate"))
    try:
        yield kept, counters
    finally:
        kept.close()


def feed(kept: Footage, path: Path, *, began_ns: int | None = None, part: range = range(COUNT)) -> int:
    """Sends a film as if it had come until now, or from a moment on, at its own pace; returns when it began.

    :param part: of the packets; what does not begin with the first one goes on with a film that was begun.
    """
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if began_ns is None:
            began_ns = now_ns() - COUNT * 1_000_000_000 // FPS
        if not part.start:
            kept.begin(stream)
        for place, packet in enumerate(container.demux(stream)):
            if packet.size and place in part:
                kept.keep(packet, began_ns + place * 1_000_000_000 // FPS, None)
    return began_ns


def checked(path: Path, source: Path) -> list[int]:
    """The numbers of a clip's pictures; its form is checked, and its pictures are those of the film, bit for bit."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        rate = container.streams.video[0].average_rate
    assert packets[0].is_keyframe, "it begins with a key frame"
    assert all(a.dts < b.dts for a, b in pairwise(packets))  # type: ignore[operator]
    assert all(packet.dts <= packet.pts for packet in packets)  # type: ignore[operator]
    numbers = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            numbers.append(number_in(frame.to_ndarray(format="bgr24")))
            assert bytes(frame.planes[0]) == pictures_of(source)[numbers[-1]], "it is not encoded anew"
    assert len(numbers) == len(packets), "each picture can be decoded"
    assert numbers == sorted(numbers)
    assert rate is not None
    capture = cv2.VideoCapture(str(path))
    assert sum(capture.grab() for _ in range(len(numbers) + 1)) == len(numbers), "OpenCV reads it, too"
    capture.release()
    return numbers
