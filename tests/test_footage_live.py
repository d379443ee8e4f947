"""Cameras that keep footage: real servers that are killed, a flow that is killed, and the options of the decoder."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
import pytest

import streams
from filmed import film
from pipert_shm import DestinationRoutine, Pipe, TwinSource, VideoSource, Wire
from pipert_shm.cli import main
from pipert_shm.video.footage.shelf import segments
from rtp_pieces import encode, number_in
from rtsp_server import RtspServer
from streams import FPS, free_port, number_of, serve, serve_rtsp
from waiting import eventually

COUNT = 60  # pictures, which the camera sends again and again


class Sink(DestinationRoutine):
    def main_logic(self, data: Any) -> None: ...


def running(*sources: VideoSource | TwinSource, **options: Any) -> Pipe:
    pipe = Pipe(**options)
    for source in sources:
        sink = Sink(f"{source.name}'s sink")
        pipe.create_flow(source.name, False, source, sink)
        pipe.link(Wire(source, sink))
    pipe.build()
    pipe.notify_event("start")
    return pipe


def counters(pipe: Pipe, name: str = "gate") -> dict[str, int]:
    return pipe.statistics().routines[name].counters


def numbers_in(path: Path) -> list[int]:
    """The numbers of a clip's pictures; it begins with a key frame, and all that is in it can be decoded."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert packets[0].is_keyframe
    assert len(frames) == len(packets)
    return [number_in(frame) if frame.shape[0] == 240 and frame.std() > 5 else number_of(frame) for frame in frames]


def clips_of(folder: Path) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = [json.loads(path.read_text()) for path in folder.glob("clips/*/*.json")]
    return sorted(told, key=lambda each: float(each["start"]))


def stall(pipe: Pipe, server: RtspServer) -> None:
    """Stops the camera's process in the midst of a group of pictures for longer than a gap between two files."""
    pid = pipe.statistics().flows["gate"].pid or 0
    eventually(lambda: len(server.sent_ns) % 15 == 7, "the midst")
    os.kill(pid, signal.SIGSTOP)
    try:
        before = len(server.sent_ns)
        eventually(lambda: len(server.sent_ns) > before + 70, "2.3 s", 30)
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: len(server.sent_ns) > before + 120, "what comes then", 30)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_packets_of_an_rtsp_camera_are_kept_whatever_is_decoded_of_them(tmp_path: Path, codec: str) -> None:
    """A camera with B-frames, of which key frames alone are decoded, scaled, and five a second are sent; its reader stalls."""
    made = encode(codec, COUNT, "bframes=2:scenecut=0:open-gop=0", gop=15)
    packets = [packet._replace(pts=packet.pts + 900_000) for packet in made]  # FFmpeg takes stamp 0 for none
    settings = {"directory": tmp_path, "clips": {"before": 1, "after": 0.5}, "continuous": {"segment": 1}}
    with RtspServer(codec, packets, clock=time.time() - 10) as server:
        source = VideoSource(server.url, "gate", skip_frame="nokey", size=(64, 48), fps=5, timeout=20, footage=settings)
        with running(source) as pipe:
            eventually(lambda: counters(pipe)["segments"] >= 2, "two files", 30)
            pipe.notify_event("record_clip", specific_routine="gate")
            pipe.notify_event("record_clip", event={"id": "a", "camera": "door"})
            eventually(lambda: counters(pipe)["clips"] == 1, "the clip", 30)
            stall(pipe, server)
            pipe.join(to_kill=True)
            assert counters(pipe)["unrecorded"] == 0
    (told,) = clips_of(tmp_path / "gate")
    assert not told["is_cut"]
    (clip,) = (tmp_path / "gate").glob("clips/*/*.mp4")
    seconds = told["end"] - told["start"]
    assert 1.4 <= seconds <= 4, "as asked, from the key frame before, up to what was written together"
    assert told["wanted_from"] - 2 <= told["start"] <= told["wanted_from"] + 0.3
    assert abs(told["files"][0]["camera_clock"] - told["start"]) < 3, "the camera's clock says about the same"
    recorded = [numbers_in(segment.path) for segment in segments(tmp_path / "gate")]
    assert all(numbers[0] % 15 == 0 for numbers in recorded)
    for numbers in numbers_in(clip), list(chain(*recorded)):
        missing = sum((b - a) % COUNT - 1 for a, b in pairwise(numbers))
        assert missing <= 3, "each picture is there, but for those whose turn comes after the last one"


def test_a_file_that_is_read_ahead_to_the_next_key_frame_is_recorded_whole_and_at_its_own_pace(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", count=150, gop=75)
    settings = {"directory": tmp_path, "clips": {"before": 1, "after": 1}, "continuous": True}
    with running(VideoSource(path, "gate", realtime=True, skip_frame="nokey", footage=settings)) as pipe:
        eventually(lambda: pipe.statistics().routines["gate"].sent == 1, "the first frame", 30)
        at = time.time()
        pipe.notify_event("record_clip", event={"id": "a", "time": at})
        pipe.join()
        assert counters(pipe)["unrecorded"] == 0
    (segment,) = segments(tmp_path / "gate")
    assert numbers_in(segment.path) == list(range(150))
    (told,) = clips_of(tmp_path / "gate")
    assert told["end"] == pytest.approx(at + 1, abs=0.2), "not the next key frame, though that was read"


def test_a_camera_that_is_killed_in_the_midst_of_a_clip_goes_on_in_another_file(tmp_path: Path) -> None:
    port, videos = free_port(), tmp_path / "videos"
    videos.mkdir()
    for width, height in ((160, 120), (320, 240)):
        streams.write_h264(videos / f"{width}.mp4", width, height, 12 * FPS)
    served = videos / "cam.mp4"
    served.hardlink_to(videos / "160.mp4")
    server = serve_rtsp(videos, port, "cam.mp4")
    try:
        source = VideoSource(server.url, "gate", timeout=2, footage={"directory": tmp_path, "clips": {"before": 1}})
        with running(source) as pipe:
            eventually(lambda: pipe.statistics().routines["gate"].sent > 20, "frames", 30)
            event = {"id": "long", "camera": "gate", "phase": "start", "time": time.time(), "started": time.time()}
            pipe.notify_event("record_clip", event=event)
            eventually(lambda: any(tmp_path.glob("gate/clips/*/*.part")), "the clip's beginning", 30)
            server.kill()
            eventually(lambda: counters(pipe)["connected"] == 0, "the loss", 30)
            served.unlink()
            served.hardlink_to(videos / "320.mp4")
            server = serve_rtsp(videos, port, "cam.mp4")
            eventually(lambda: len(list(tmp_path.glob("gate/clips/*/*.mp4*"))) == 2, "a second file", 30)
            pipe.notify_event("record_clip", event={**event, "phase": "end", "time": time.time()})
            pipe.notify_event("record_clip", event={"id": "2", "camera": "gate"}, after=1)
            eventually(lambda: counters(pipe)["clips"] >= 1, "an end", 30)
            pipe.join(to_kill=True)
    finally:
        server.kill()
    told = next(each for each in clips_of(tmp_path / "gate") if each["event"]["id"] == "long")
    assert [(each["width"], each["height"]) for each in told["files"]] == [(160, 120), (320, 240)]
    folder = next(tmp_path.glob("gate/clips/*"))
    for each in told["files"]:
        assert len(numbers_in(folder / each["file"])) == each["frames"]
    assert told["files"][1]["start"] > told["files"][0]["end"]
    assert list(tmp_path.rglob("*.part")) == []


@pytest.fixture
def mjpeg() -> Iterator[str]:
    url = f"http://127.0.0.1:{free_port()}/cam.mjpg"
    server = serve("mpjpeg", url, 160, 120)
    yield url
    server.kill()


def test_a_flow_that_is_killed_loses_a_second_at_most_and_its_clip_is_told_to_be_cut(
    tmp_path: Path, mjpeg: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"directory": tmp_path, "clips": {"before": 1, "after": 1}, "continuous": {"segment": 60}}
    with running(VideoSource(mjpeg, "gate", footage=settings)) as pipe:
        eventually(lambda: pipe.statistics().routines["gate"].sent > 50, "frames", 30)
        begun = time.time()
        pipe.notify_event("record_clip", event={"id": "long", "camera": "gate", "phase": "start", "time": begun})
        eventually(lambda: any(tmp_path.glob("gate/clips/*/*.json.part")), "the clip's beginning", 30)
        eventually(lambda: time.time() > begun + 2, "two more seconds")
        killed = time.time()
        os.kill(pipe.statistics().flows["gate"].pid or 0, signal.SIGKILL)
        eventually(lambda: any(tmp_path.glob("gate/clips/*/*.json")), "the mended clip", 30)
        eventually(lambda: counters(pipe)["connected"] == 1, "the camera", 30)
        pipe.notify_event(
            "record_clip", event={"id": "long", "camera": "gate", "phase": "end", "time": time.time(), "started": begun}
        )
        eventually(lambda: len(clips_of(tmp_path / "gate")) == 2, "the rest of it", 30)
        pipe.join(to_kill=True)
    first, second = clips_of(tmp_path / "gate")
    assert first["cut"] == ["the process that recorded it was killed"]
    assert second["cut"] == ["nothing from before was there"]
    found = list(segments(tmp_path / "gate"))
    assert len(found) == 2
    for end in (first["end"], found[0].end):
        assert killed - 3 < end < killed + 0.3, "up to a second before"
    for path in tmp_path.rglob("gate/**/*.mp4"):
        numbers = numbers_in(path)
        assert all((b - a) in (0, 1, 2, -199) for a, b in pairwise(numbers))
    assert main(["footage", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("gate  ")


def test_of_two_streams_the_main_one_is_kept(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    servers = []
    for width, height in ((320, 240), (160, 120)):
        streams.write_h264(videos / f"{width}.mp4", width, height, 12 * FPS)
        servers.append(serve_rtsp(videos, free_port(), f"{width}.mp4"))
    try:
        source = TwinSource(servers[0].url, servers[1].url, "gate", tolerance=5, footage={"directory": tmp_path})
        with running(source) as pipe:
            eventually(lambda: pipe.statistics().routines["gate"].sent > 5, "pairs", 30)
            pipe.notify_event("record_clip", specific_routine="gate", before=1, after=0)
            eventually(lambda: counters(pipe)["clips"] == 1, "the clip", 30)
            pipe.join(to_kill=True)
    finally:
        for server in servers:
            server.kill()
    (told,) = clips_of(tmp_path / "gate")
    assert (told["files"][0]["width"], told["camera"]) == (320, "gate")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("rtsp://camera/1", {"backend": "opencv"}, "footage is for PyAV: leave backend='opencv' away"),
        ("rtsp://camera/1", {"backend": "gstreamer"}, "footage is for PyAV, and not for GStreamer"),
        (0, {}, "a camera (0) is read by OpenCV: leave footage away"),
        ("a.mp4", {}, "footage is kept of live streams, and of files with realtime=True, not of 'a.mp4'"),
    ],
)
def test_where_there_are_no_packets_footage_is_refused(source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        VideoSource(source, footage={"directory": "a"}, **options)


def test_an_event_that_nothing_can_be_made_of_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = VideoSource(film(tmp_path / "a.mp4", count=5), "gate")
    unused = VideoSource(tmp_path / "a.mp4", "gate", realtime=True, footage={"directory": tmp_path})
    for phase in "start", "end", "instant":
        for each in source, unused:
            each.record_clip({"id": "1", "camera": "gate", "phase": phase})
    assert caplog.text.count("give it footage=") == caplog.text.count("it does not run") == 1
    assert unused.counters["lost_clips"] == 2
    with pytest.raises(TypeError, match=r"the parameter event must be a dict"):
        source.record_clip("now")  # type: ignore[arg-type]
    caplog.clear()
    source.record_clip({"id": "1", "camera": "door"})
    assert caplog.text == "", "that is another camera's"
