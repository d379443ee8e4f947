"""Interlaced videos, files in odd places and files with odd names, as sources."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pytest

from media import bikes, frames_of
from pipert_shm import EndOfStream
from pipert_shm.video import VideoError, VideoInfo, VideoSource
from pipert_shm.video.interlaced import says_interlaced
from pipert_shm.video.opening import Backend

WIDTH, HEIGHT, COUNT = 160, 128, 8


class Kind(NamedTuple):
    """How a clip is encoded."""

    codec: str
    suffix: str
    options: dict[str, str]


INTERLACED = {
    "H.264 in MP4": Kind("libx264", ".mp4", {"x264-params": "interlaced=1:tff=1"}),
    "H.264 in MPEG-TS": Kind("libx264", ".ts", {"x264-params": "interlaced=1:bff=1"}),
    "H.264 baseline-like": Kind("libx264", ".mkv", {"x264-params": "interlaced=1:tff=1:cabac=0:8x8dct=0"}),
    "H.264 4:2:2": Kind("libx264", ".mp4", {"x264-params": "interlaced=1:tff=1", "profile": "high422"}),
    "MPEG-2": Kind("mpeg2video", ".ts", {"flags": "+ildct+ilme"}),
    "MPEG-2 in MKV": Kind("mpeg2video", ".mkv", {"flags": "+ildct+ilme"}),
    "MPEG-4": Kind("mpeg4", ".mp4", {"flags": "+ildct+ilme"}),
    "MPEG-4 in AVI": Kind("mpeg4", ".avi", {"flags": "+ildct+ilme"}),
}
PROGRESSIVE = {
    "H.264": Kind("libx264", ".mp4", {}),
    "H.264 in MPEG-TS": Kind("libx264", ".ts", {}),
    "H.264 baseline": Kind("libx264", ".mp4", {"profile": "baseline"}),
    "MPEG-2": Kind("mpeg2video", ".ts", {}),
    "MPEG-1": Kind("mpeg1video", ".mpg", {}),
    "MPEG-4": Kind("mpeg4", ".avi", {}),
}


def level(number: int) -> int:
    return 40 + 20 * number


def encoded(folder: Path, kind: Kind) -> Path:
    path = folder / f"clip{kind.suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(kind.codec, rate=25, options=kind.options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuv422p" if "422" in kind.options.get("profile", "") else "yuv420p"
        for number in range(COUNT):
            picture = np.full((HEIGHT, WIDTH, 3), level(number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        container.mux(stream.encode())
    return path


def levels(source: VideoSource) -> list[float]:
    source.setup()
    found = []
    try:
        while True:
            frame = source.main_logic()
            if frame is not None:
                found.append(float(frame.mean()))
    except EndOfStream:
        return found
    finally:
        source.cleanup()


@pytest.mark.parametrize("name", INTERLACED)
def test_interlaced_videos_come_as_they_are(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        found = levels(VideoSource(encoded(tmp_path, INTERLACED[name]), backend="opencv"))
    assert found == pytest.approx([level(number) for number in range(COUNT)], abs=8)
    assert caplog.text.count("is interlaced, which OpenCV can't convert: it is read by PyAV") == 1


@pytest.mark.parametrize("name", PROGRESSIVE)
def test_others_are_read_by_opencv(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        found = levels(VideoSource(encoded(tmp_path, PROGRESSIVE[name]), backend="opencv"))
    assert found == pytest.approx([level(number) for number in range(COUNT)], abs=8)
    assert "interlaced" not in caplog.text


@pytest.mark.parametrize("name", INTERLACED)
def test_without_pyav_they_are_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encoded(tmp_path, INTERLACED[name])
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    source = VideoSource(path)
    with pytest.raises(VideoError, match=r"is interlaced, and OpenCV can't convert that; pip install .*\[pyav\]'"):
        source.setup()
    source.cleanup()


@pytest.mark.parametrize("codec", ["h264", "mpg2", "FMP4", "none"])
def test_a_header_that_breaks_off_tells_nothing_and_harms_nothing(codec: str) -> None:
    rng = np.random.default_rng(1)
    for size in range(60):
        begins = {"h264": b"\0\0\1\x67", "mpg2": b"\0\0\1\xb5", "FMP4": b"\0\0\1\x20"}.get(codec, b"")
        says_interlaced(codec, b"")
        assert says_interlaced(codec, begins + rng.bytes(size)) in (None, True, False)
        assert says_interlaced(codec, b"\1" + rng.bytes(size)) in (None, True, False)


# ---- places and names ------------------------------------------------------------------------------


@pytest.fixture
def in_shm() -> Iterator[Path]:
    folder = Path(f"/dev/shm/videos-{uuid.uuid4().hex}")
    folder.mkdir()
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
def test_a_file_in_dev_shm_is_read_whole(in_shm: Path, backend: Backend) -> None:
    source = VideoSource(encoded(in_shm, PROGRESSIVE["H.264"]), backend=backend)
    assert not source.live
    assert len(levels(source)) == COUNT


def test_images_in_dev_shm_are_a_folder(in_shm: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(in_shm / f"{number}.png"), np.full((20, 30, 3), number, np.uint8))
    assert levels(VideoSource(in_shm)) == [0, 1, 2]


@pytest.mark.parametrize(
    "source", [0, "/dev/video0", "/dev/v4l/by-id/usb-camera", "rtsp://10.0.0.5/1", "http://10.0.0.5/a.mjpg"]
)
def test_cameras_and_addresses_are_live(source: Any) -> None:
    assert VideoSource(source).live


def test_a_link_to_a_device_is_a_camera(tmp_path: Path) -> None:
    (tmp_path / "camera").symlink_to("/dev/null")
    assert VideoSource(tmp_path / "camera").live


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
@pytest.mark.parametrize(
    "name", ["2026-11-28T12:30:05.mp4", "a:b.mp4", "file:x.mp4", "rtsp:1.mp4", "-f.mp4", "a%03d.mp4", "# ?.mp4"]
)
def test_any_name_is_a_file_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, backend: Backend) -> None:
    (tmp_path / name).write_bytes(bikes().read_bytes())
    monkeypatch.chdir(tmp_path)
    source = VideoSource(name, backend=backend)
    assert not source.live
    source.setup()
    frame = source.main_logic()
    source.cleanup()
    assert frame is not None
    assert np.abs(frame.astype(int) - next(frames_of(bikes(), 1))).max() < 60
    assert VideoInfo.of(name).width == frame.shape[1]
