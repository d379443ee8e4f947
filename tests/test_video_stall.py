"""A camera's process stands still for a second: what it hands over after that is new, and says truly when it was seen."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pipert_shm import START_EVENT_NAME, Join, Pipe, VideoSource, Wire, binding
from pipert_shm.video.opening import Backend
from routines import Record, chain, received
from rtp_pieces import Packet, encode, number_in
from rtsp_server import RtspServer
from waiting import eventually

GAP = 1 / 30
STALL = 1.0
COUNT = 600  # pictures, of 20 s


@cache
def stream() -> list[Packet]:
    return encode("libx264", COUNT, "bframes=0")


class Notes(Record):
    """Writes down the numbers of frames, when they were captured, and when they came."""

    def main_logic(self, data: np.ndarray) -> None:
        super().main_logic((number_in(data), self.meta.captured_ns, binding.now_ns(), self.meta.wall_clock))


class Pairs(Record):
    """Writes down the numbers of frames of two cameras that belong together."""

    def main_logic(self, data: dict[str, np.ndarray]) -> None:
        super().main_logic([number_in(frame) for frame in data.values()])


def counted_on(got: list[tuple[int, int, int, float | None]]) -> list[tuple[int, int, int, float | None]]:
    """The same with numbers that go on when the stream begins again."""
    turns, last, found = 0, 0, []
    for number, captured_ns, came_ns, wall_clock in got:
        turns += number < last - COUNT // 2
        last = number
        found.append((number + turns * COUNT, captured_ns, came_ns, wall_clock))
    return found


@contextmanager
def running(pipe: Pipe) -> Iterator[Pipe]:
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    try:
        yield pipe
    finally:
        pipe.join(to_kill=True)


def sent(pipe: Pipe, camera: str) -> int:
    return pipe.statistics().routines[camera].sent


def stands_still(pid: int) -> bool:
    """Whether all threads of a process are stopped."""
    return all(path.read_text().rpartition(")")[2].split()[0] == "T" for path in Path(f"/proc/{pid}/task").glob("*/stat"))


def stall(pipe: Pipe, flow: str) -> tuple[int, int]:
    """Stops a process for a second. Returns from when to when."""
    pid = pipe.statistics().flows[flow].pid
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: stands_still(pid), "the stop: on a busy machine, threads go on after the signal was sent")
    begin = time.monotonic_ns()
    time.sleep(STALL)  # how long it lasts is what this is about
    end = time.monotonic_ns()
    os.kill(pid, signal.SIGCONT)
    return begin, end


@pytest.mark.parametrize("backend", ["pyav", "opencv"])
def test_after_a_stall_no_frame_is_handed_over_that_was_old_when_it_ended(tmp_path: Path, backend: Backend) -> None:
    with RtspServer("libx264", stream(), clock=1_700_000_000.0) as server:
        pipe = Pipe()
        chain(pipe, VideoSource(server.url, "camera", backend=backend), Notes("notes", tmp_path / "got"))
        with running(pipe):
            eventually(lambda: sent(pipe, "camera") >= 70, "frames")
            before = sent(pipe, "camera")
            late = pipe.statistics().routines["camera"].counters["late"]
            begin, end = stall(pipe, "camera")
            eventually(lambda: sent(pipe, "camera") >= before + 45, "frames again")
            counters = pipe.statistics().routines["camera"].counters
    got = counted_on([message.value for message in received(tmp_path / "got")])
    numbers = [number for number, *_ in got]
    assert numbers == sorted(set(numbers)), "in order, none twice"
    old = [n for n, at in enumerate(server.sent_ns) if begin < at < end - 2 * GAP * 1e9]
    assert len(old) > 20, "so many came meanwhile"
    assert not set(old) & set(numbers)
    assert counters["late"] - late >= len(old)
    assert counters["reconnects"] == 0
    # What is not passed over says how old it is, to within a frame gap: OpenCV gives a frame when the next one begins.
    for number, captured_ns, came_ns, wall_clock in got:
        assert captured_ns <= came_ns
        assert captured_ns / 1e9 == pytest.approx(server.sent_ns[number] / 1e9 + GAP / 2, abs=0.1)
        if backend == "pyav" and number > 1:
            assert wall_clock == pytest.approx(1_700_000_000.0 + number * GAP, abs=0.001)


def test_two_cameras_are_joined_by_when_they_saw_though_one_was_read_late(tmp_path: Path) -> None:
    tolerance = 0.025
    with RtspServer("libx264", stream()) as left, RtspServer("libx264", stream()) as right:
        pairs = Pairs("pairs", tmp_path / "got")
        pairs.join = Join(by="time", tolerance=tolerance)
        pipe = Pipe()
        pipe.create_flow("pairs", False, pairs)
        for name, server in ("left", left), ("right", right):
            camera = VideoSource(server.url, name, backend="pyav")
            pipe.create_flow(name, False, camera)
            pipe.link(Wire(camera, pairs))
        with running(pipe):
            eventually(lambda: pipe.statistics().routines["pairs"].received >= 140, "pairs")
            stall(pipe, "right")
            before = pipe.statistics().routines["pairs"].received
            eventually(lambda: pipe.statistics().routines["pairs"].received >= before + 60, "pairs again")
    got = [message.value for message in received(tmp_path / "got")]
    apart = [(left.sent_ns[one] - right.sent_ns[other]) / 1e9 for one, other in got]
    assert max(map(abs, apart)) < tolerance + 0.03


def test_frames_that_piled_up_before_the_stream_was_opened_are_passed_over(tmp_path: Path) -> None:
    """As those that a server has kept since the last key frame, and sends at once."""
    piled_up = 60
    with RtspServer("libx264", stream(), piled_up=piled_up) as server:
        pipe = Pipe()
        chain(pipe, VideoSource(server.url, "camera", backend="pyav"), Notes("notes", tmp_path / "got"))
        with running(pipe):
            eventually(lambda: sent(pipe, "camera") >= 10, "frames")
            counters = pipe.statistics().routines["camera"].counters
    got = [message.value for message in received(tmp_path / "got")]
    assert got[0][0] >= piled_up - 2
    assert counters["late"] >= piled_up - 2
