"""Streams of a pipe that runs: pushed to real servers by RTSP and WHIP, and written as HLS."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipert_shm import KILL_EVENT_NAME, START_EVENT_NAME, DestinationRoutine, Pipe, SourceRoutine, Wire
from pipert_shm.streaming import HlsWriter, RtspPush, WhipPush, hls, pushing
from pipert_shm.video import files
from routines import Sink
from stream_ends import STEPS, RtspServer, number_of, numbered, whip_endpoint
from streams import free_port
from waiting import PATIENCE, eventually


class Camera(SourceRoutine):
    """Sends numbered frames in I420, 30 a second."""

    def __init__(self, name: str = "camera") -> None:
        super().__init__(name)
        self.set_const_fps(30)

    def main_logic(self) -> np.ndarray:
        frame = self.loan((360, 320))
        frame[...] = numbered(self.meta.sequence)
        self.meta.format = "i420"
        return frame


@contextmanager
def running(push: DestinationRoutine, *cameras: Camera) -> Iterator[Pipe]:
    pipe = Pipe(grace_period=5)
    pipe.create_flow("push", False, push)
    for camera in cameras or (Camera(),):
        pipe.create_flow(f"flow-{camera.name}", False, camera)
        pipe.link(Wire(camera, push, policy="block"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    try:
        yield pipe
    finally:
        with suppress(Exception):
            pipe.notify_event(KILL_EVENT_NAME)
        pipe.join()


def counters(pipe: Pipe, routine: str = "push") -> dict[str, int]:
    return dict(pipe.statistics().routines[routine].counters)


def assert_in_order(numbers: list[int]) -> None:
    """None comes twice, or after a later one. On a busy machine many are skipped."""
    gaps = [(after - before) % STEPS for before, after in pairwise(numbers)]
    assert all(0 < gap < STEPS - 2 for gap in gaps), numbers


def test_a_server_gets_the_frames_and_again_after_its_death_and_the_pipe_never_waits(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "LONGEST_WAIT", 0.5)
    caplog.set_level(logging.INFO)
    url = f"rtsp://user:secret@127.0.0.1:{free_port()}/gate"
    with running(RtspPush(url, "push")) as pipe:
        eventually(lambda: counters(pipe)["lost"] > 5, "frames without a server")
        for reconnects in (0, 1):
            server = RtspServer(url)
            frames = server.frames(20)
            assert {(width, height) for _, width, height, _ in frames} == {(320, 240)}
            assert_in_order([number for number, *_ in frames])
            assert 0.4 < frames[-1][3] - frames[0][3] < 5  # seconds, by the times of capture
            eventually(lambda: counters(pipe)["reconnects"] == reconnects, "its count")  # noqa: B023
            assert counters(pipe)["connected"] == 1
            server.kill()
            eventually(lambda: counters(pipe)["connected"] == 0, "a loss")
        now = pipe.statistics()
        assert now.routines["camera"].sent - now.routines["push"].received <= 3
        assert sum(counters(pipe)[what] for what in ("sent", "skipped", "lost")) <= now.routines["push"].received + 1
    told = [record.getMessage() for record in caplog.records]
    assert any("can't stream to rtsp://user:***@127.0.0.1" in text and "it is tried again" in text for text in told), told
    assert not any("secret" in text or "keeps more than" in text for text in told)


def test_an_endpoint_of_whip_gets_the_frames_after_it_has_refused_once() -> None:
    port = free_port()
    with (
        running(WhipPush(f"http://127.0.0.1:{port}/whip", "push", token="a-token")) as pipe,
        whip_endpoint(port, 1) as endpoint,
    ):
        eventually(lambda: len(endpoint.numbers) >= 20, "frames")
        assert counters(pipe)["connected"] == 1
        assert endpoint.tokens == ["Bearer a-token"] * 2
        assert_in_order(endpoint.numbers[:20])
        pipe.notify_event(KILL_EVENT_NAME)
        pipe.join()
        assert endpoint.ended == 1


def files_in(directory: Path, suffix: str) -> list[str]:
    return sorted(path.name for path in directory.glob(f"*{suffix}"))


def played(playlist: Path) -> list[int]:
    with av.open(str(playlist)) as container:
        return [number_of(frame) for frame in container.decode(video=0)]


def test_hls_is_written_for_each_camera_and_the_directories_do_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hls, "SEGMENT_S", 0.3)
    monkeypatch.setattr("pipert_shm.streaming.encoding.KEY_S", 0.2)
    monkeypatch.setattr(hls, "LISTED", 3)
    for _ in range(2):
        (tmp_path / "gate").mkdir(exist_ok=True)
        (tmp_path / "gate" / "segment-7.m4s").write_text("of an earlier run")
        with running(HlsWriter(tmp_path / "{origin}", "push"), Camera("gate"), Camera("door")) as pipe:
            for name in ("gate", "door"):
                written: set[str] = set()

                def has_many(name: str = name, written: set[str] = written) -> bool:
                    now = files_in(tmp_path / name, ".m4s")
                    written.update(now)
                    assert len(now) <= 3 + hls.LATE + 1
                    return len(written) > 8

                eventually(has_many, "segments")
            assert counters(pipe)["connected"] == 2
        for name in ("gate", "door"):
            assert len(files_in(tmp_path / name, ".mp4")) == 1
            assert not files_in(tmp_path / name, ".tmp")
            numbers = played(tmp_path / name / "index.m3u8")
            assert len(numbers) >= 3
            assert_in_order(numbers)
    assert not (tmp_path / "gate" / "segment-7.m4s").exists()


def test_a_disk_without_room_costs_frames_until_there_is_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "full"
    write = files.write_all

    def fail(fd: int, data: Any) -> None:
        if full.exists():
            raise OSError(28, "No space left on device")
        write(fd, data)

    monkeypatch.setattr("pipert_shm.streaming.hls.write_all", fail)
    monkeypatch.setattr(hls, "SEGMENT_S", 0.3)
    monkeypatch.setattr("pipert_shm.streaming.encoding.KEY_S", 0.2)
    full.touch()
    with running(HlsWriter(tmp_path / "hls", "push")) as pipe:
        eventually(lambda: counters(pipe)["lost"] > 5, "frames without room")
        assert files_in(tmp_path / "hls", "") == []
        full.unlink()
        eventually((tmp_path / "hls" / "index.m3u8").exists, "a playlist", PATIENCE)


def test_a_pipe_that_runs_is_streamed_from_outside_until_it_ends(tmp_path: Path) -> None:
    pipe = Pipe(name="st-outside", grace_period=5)
    pipe.create_flow("both", True, Camera(), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    url = f"rtsp://127.0.0.1:{free_port()}/gate"
    server = RtspServer(url)
    command = [sys.executable, "-m", "pipert_shm.cli", "stream", "st-outside"]
    refused = subprocess.run([*command, "camera", "ftp://there"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "a stream goes to rtsp://" in refused.stderr
    with subprocess.Popen([*command, "camera", url], stderr=subprocess.PIPE, text=True) as streaming:
        assert_in_order([number for number, *_ in server.frames(15)])
        pipe.notify_event(KILL_EVENT_NAME)
        pipe.join()
        told = streaming.communicate(timeout=PATIENCE)[1]
    server.kill()
    assert streaming.returncode == 0
    assert f"streams to {url}" in told
    assert "frames were sent; the pipe has ended" in told
