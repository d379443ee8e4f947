"""What destinations write: videos, pictures, lines and rows."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest

from conftest import RunScript
from killing import pid_of
from media import Beginning, bikes, frames_of
from pipert_shm import START_EVENT_NAME, DestinationRoutine, Meta, Pipe, Wire
from pipert_shm.video import (
    JsonLinesWriter,
    MotionDetector,
    SnapshotWriter,
    VideoError,
    VideoInfo,
    VideoWriter,
)
from routines import chain
from waiting import eventually

Codec = Literal["mp4v", "h264"]


def run(writer: DestinationRoutine, *payloads: Any) -> None:
    """All of a routine's life, with these payloads."""
    writer.setup()
    for number, payload in enumerate(payloads):
        writer.meta = Meta(("camera",), 0, number, 1)
        writer.main_logic(payload)
    writer.cleanup()


def grey(value: int, width: int = 128, height: int = 96) -> np.ndarray:
    frame = np.full((height, width, 3), value, np.uint8)
    frame.flags.writeable = False  # as it comes from another process
    return frame


# ---- videos --------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["mp4v", "h264"])
def test_a_video_has_the_frames_that_were_sent(tmp_path: Path, codec: Codec) -> None:
    writer = VideoWriter(tmp_path / "new" / "out.mp4", 10, "writer", codec=codec)
    with Pipe(policy="block") as pipe:
        chain(pipe, Beginning(bikes(), 30, "camera"), MotionDetector("detector"), writer)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    assert pipe.statistics().routines["writer"].errors == 0
    assert VideoInfo.of(writer.path) == VideoInfo(width=640, height=272, fps=25.0, frames=30), "the clip's own rate"
    for written, frame in zip(frames_of(writer.path), frames_of(bikes()), strict=False):
        assert np.abs(written.astype(int) - frame).mean() < 8, "the codec loses a little"


def test_an_h264_video_is_one(tmp_path: Path) -> None:
    run(VideoWriter(tmp_path / "out.mp4", 30000 / 1001, codec="h264"), *[grey(100)] * 3)
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    code = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")
    assert code in (b"avc1", b"h264")
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(30000 / 1001)
    capture.release()


@pytest.mark.parametrize(("codec", "first"), [("mp4v", (64, 64)), ("h264", (64, 64)), ("h264", (65, 67))])
def test_frames_of_another_size_are_fitted_in_and_grey_ones_are_written(
    tmp_path: Path, codec: Codec, first: tuple[int, int]
) -> None:
    frames = [grey(50, *first), grey(50, 32, 48), grey(50, 128, 20), grey(50)[:, :, 0], grey(50)[::2, ::2]]
    run(VideoWriter(tmp_path / "out.mp4", codec=codec), *frames)
    written = list(frames_of(tmp_path / "out.mp4"))
    assert [frame.shape for frame in written] == [(first[1] & ~1, first[0] & ~1, 3)] * 5
    assert all(np.abs(frame.astype(int) - 50).max() < 6 for frame in written)


def test_of_a_process_that_was_killed_an_h264_video_can_be_played(tmp_path: Path, run_script: RunScript) -> None:
    path = tmp_path / "out.mp4"
    ended = run_script(
        f"""
        import os, signal
        from pipert_shm.video import VideoSource, VideoWriter

        source, writer = VideoSource({str(bikes())!r}), VideoWriter({str(path)!r}, codec="h264")
        source.setup()
        writer.setup()
        for _ in range(200):
            writer.main_logic(source.main_logic())
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert ended.returncode == -signal.SIGKILL
    kept = list(zip(frames_of(path), frames_of(bikes()), strict=False))
    assert len(kept) >= 100
    assert max(np.abs(written.astype(int) - frame).mean() for written, frame in kept[:100]) < 8


@pytest.mark.parametrize("codec", ["mp4v", "h264"])
def test_a_video_that_cannot_be_written(tmp_path: Path, codec: Codec) -> None:
    (tmp_path / "out.mp4").mkdir()
    writer = VideoWriter(tmp_path / "out.mp4", codec=codec)
    with pytest.raises(VideoError, match=rf"can't write the video '.*/out\.mp4' \({codec}, 128x96, 25 fps\): .*; check that"):
        run(writer, grey(0))
    with pytest.raises(VideoError, match="can't write the video"):
        writer.cleanup()  # so that join() tells of it, too


def test_each_start_begins_a_new_video_and_keeps_the_ones_before(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4")
    for count in (5, 4, 3):
        run(writer, *[grey(0)] * count)
    frames = {path.name: len(list(frames_of(path))) for path in tmp_path.iterdir()}
    assert frames == {"out-1.mp4": 5, "out-2.mp4": 4, "out.mp4": 3}


def test_a_crash_costs_nothing_of_what_was_written_before_it(tmp_path: Path) -> None:
    lines, video = JsonLinesWriter(tmp_path / "lines", "lines"), VideoWriter(tmp_path / "out.mp4", name="video", codec="h264")
    source, detector = Beginning(bikes(), 10**9, "camera"), MotionDetector("detector")
    source.set_const_fps(150)
    with Pipe(policy="block") as pipe:
        pipe.create_flow("camera", False, source)
        pipe.create_flow("detect", False, detector)
        pipe.create_flow("output", False, lines, video)
        pipe.link(Wire(source, detector), Wire(detector, (lines, video)))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: lines.path.exists() and lines.path.read_text().count("\n") >= 150, "lines")
        os.kill(pid_of(pipe, "output"), signal.SIGKILL)
        pipe.join()
    written = [json.loads(line)["sequence"] for line in lines.path.read_text().splitlines()]
    assert written[:150] == list(range(150))
    assert written[-1] == 249
    assert len(list(frames_of(tmp_path / "out-1.mp4"))) > 20
    assert len(list(frames_of(video.path))) > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ({"fps": fps}, "fps must be a number from 1/3600")
            for fps in (0, -1, 90_000, float("inf"), float("nan"), "25", None)
        ),
        ({"codec": "avc1"}, "codec must be one of mp4v, h264, not 'avc1'"),
    ],
)
def test_a_video_needs_a_rate_and_a_known_codec(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoWriter("out.mp4", **arguments)


def test_without_pyav_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"PyAV is not installed .*pip install .*\[pyav\]'"):
        run(VideoWriter(tmp_path / "out.mp4", codec="h264"), grey(0))


# ---- pictures ------------------------------------------------------------------------------------


def test_a_snapshot_is_taken_when_the_event_says_so_and_at_no_other_time(tmp_path: Path) -> None:
    source, snapshots = Beginning(bikes(), 10**9, "camera"), SnapshotWriter(tmp_path / "shots", "snapshots", suffix=".png")
    source.set_const_fps(100)
    with Pipe(policy="block") as pipe:
        chain(pipe, source, snapshots)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["snapshots"].received >= 5)
        before = pipe.statistics().routines["snapshots"].received
        pipe.notify_event("SNAPSHOT", specific_routine="snapshots")
        eventually(lambda: len(list((tmp_path / "shots").glob("*.png"))) == 1, "a picture")
        seen = pipe.statistics().routines["snapshots"].received
        eventually(lambda: pipe.statistics().routines["snapshots"].received >= seen + 5)
        pipe.join(to_kill=True)
    (picture,) = (tmp_path / "shots").iterdir()
    origin, number = picture.stem.split("-")
    assert (origin, len(number)) == ("camera", 6)
    assert int(number) >= before - 1
    written = cv2.imread(str(picture))
    assert written is not None
    assert np.array_equal(written, list(frames_of(bikes(), int(number) + 1))[-1])


@pytest.mark.parametrize(
    ("suffix", "frame", "cause"),
    [
        (".png", grey(0), "Not a directory"),
        (".nosuch", grey(0), "could not find encoder"),
        (".jpg", grey(0).astype(np.uint16), "8 bits a channel are needed"),
        (".png", grey(0).astype(float), "8 bits a channel are needed"),
        (".png", np.zeros((0, 5, 3), np.uint8), "shape"),
    ],
)
def test_a_picture_that_cannot_be_written(tmp_path: Path, suffix: str, frame: np.ndarray, cause: str) -> None:
    writer = SnapshotWriter(tmp_path / "shots", suffix=suffix)
    writer.setup()
    writer.take_snapshot()
    writer.meta = Meta(("camera",), 0, 7)
    if "directory" in cause:
        (tmp_path / "shots").rmdir()
        (tmp_path / "shots").touch()
    with pytest.raises(VideoError, match=rf"camera-000007\{suffix}'.*{cause}"):
        writer.main_logic(frame)


def test_a_picture_of_an_earlier_run_is_kept(tmp_path: Path) -> None:
    for level in (10, 20, 30):
        writer = SnapshotWriter(tmp_path, suffix=".png")
        writer.setup()
        writer.take_snapshot()
        writer.meta = Meta(("camera",), 0, 7)
        writer.main_logic(grey(level))
    levels = {path.name: cv2.imread(str(path))[0, 0, 0] for path in tmp_path.iterdir()}  # type: ignore[index]
    assert levels == {"camera-000007.png": 10, "camera-000007-1.png": 20, "camera-000007-2.png": 30}


def test_a_picture_of_16_bits_stays_one(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path, suffix=".png")
    writer.setup()
    writer.take_snapshot()
    depth = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    writer.main_logic(depth)
    (path,) = tmp_path.iterdir()
    assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), depth)  # type: ignore[arg-type]
