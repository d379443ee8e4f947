"""Videos that the system's GStreamer reads: files, RTSP, and pipelines; its pictures beside PyAV's."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import av
import cv2
import numpy as np
import pytest

import streams
from media import bikes, frames_of
from pipert_shm import START_EVENT_NAME, Pipe, VideoError, VideoSource
from pipert_shm.data import Format
from pipert_shm.system import forked
from pipert_shm.video.capture import Source, is_pipeline
from pipert_shm.video.fit import Wanted
from pipert_shm.video.pyav import PyAVCapture
from routines import Record, chain, received
from streams import FPS, Server, free_port, listens, serve_rtsp
from waiting import eventually

try:
    from pipert_shm.video.gstreamer import GStreamerCapture
except ImportError as missing:
    pytest.skip(str(missing), allow_module_level=True)

T = TypeVar("T")
CLOSE = 38.0  # dB, between two backends' pictures of the same frame
ROI = (7, 5, 64, 48)
SIZES = [(320, 240), (178, 100), (854, 480), (177, 99), (33, 17)]


def apart(work: Callable[[], T]) -> T:
    """Does it in a process of its own, since no flow that is forked from one that has started GStreamer can use it."""
    results, ours = os.pipe()

    def be_child() -> NoReturn:
        try:
            told = pickle.dumps((work(), None))
        except BaseException as error:
            traceback.print_exc()
            told = pickle.dumps((None, error))
        with open(ours, "wb") as out:
            out.write(told)
        os._exit(0)

    child = forked.fork(be_child)
    os.close(ours)
    with open(results, "rb") as back:
        said = back.read()
    os.waitpid(child, 0)
    assert said, "the process died"
    result, error = pickle.loads(said)
    if error is not None:
        raise error
    value: T = result
    return value


def frames_by_gstreamer(source: Source, wanted: Wanted, count: int = 1000, **options: Any) -> list[np.ndarray]:
    def read() -> list[np.ndarray]:
        with_gstreamer = GStreamerCapture(source, wanted, **options)
        found = list(frames_in(with_gstreamer, wanted, count))
        with_gstreamer.close()
        return found

    return apart(read)


def frames_by_pyav(source: Path, wanted: Wanted, count: int = 1000) -> list[np.ndarray]:
    capture = PyAVCapture(source, wanted)
    found = list(frames_in(capture, wanted, count))
    capture.close()
    return found


def frames_in(capture: Any, wanted: Wanted, count: int) -> Iterator[np.ndarray]:
    for _ in range(count):
        if not capture.grab():
            return
        out = np.full(capture.shape, 77, wanted.dtype)
        assert capture.retrieve(out) is out
        yield out


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(np.iinfo(one.dtype).max ** 2 / error))


def write_clip(path: Path, pixels: str, size: tuple[int, int], codec: str = "ffv1", **options: Any) -> Path:
    """Three frames of a real clip."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
        for number, frame in enumerate(frames_of(bikes(), 3)):
            picture = av.VideoFrame.from_ndarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), format="bgr24")
            picture = picture.reformat(format=pixels)
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


# ---- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("format", ["bgr", "rgb", "gray", "i420", "nv12"])
def test_pictures_are_those_of_pyav(tmp_path: Path, format: Format, size: tuple[int, int]) -> None:
    """Whatever the width of their rows in memory, whole or in part, at their size or another."""
    clip = write_clip(tmp_path / "clip.mkv", "yuv420p", size)
    wishes = [Wanted(format), Wanted(format, size=(90, 60))]
    if min(size) > 60:
        part = (8, 6, 64, 48) if format in ("i420", "nv12") else ROI
        wishes += [Wanted(format, roi=part), Wanted(format, roi=part, size=(48, 32)), Wanted(format, roi=part, size=(128, 96))]
    if format in ("bgr", "rgb", "gray"):
        wishes.append(Wanted(format, size=(61, 47)))
    for wanted in wishes:
        ours, theirs = frames_by_gstreamer(clip, wanted), frames_by_pyav(clip, wanted)
        assert len(ours) == len(theirs) == 3
        print(wanted, [round(psnr(*p), 1) for p in zip(ours, theirs)])
