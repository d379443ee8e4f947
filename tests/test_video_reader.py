"""The reader of live streams, one step at a time, on a stream that the test holds in its hands."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipert_shm import VideoInfo, VideoSource
from pipert_shm.shm.counters import Counters
from pipert_shm.video import lateness, live
from pipert_shm.video.live import LiveReader
from waiting import eventually


class Scripted:
    """A capture that gives a frame when the test says so."""

    pts: float | None = None
    came_ns: int | None = None
    waited: float | None = 1.0
    wall_clock: float | None = None
    damaged = left_out = 0
    stopped = False

    def __init__(self, edge: int = 4) -> None:
        self.info = VideoInfo(edge, edge, 25.0, 0)
        self.shape: tuple[int, ...] = self.info.shape
        self.frames: queue.SimpleQueue[float | None] = queue.SimpleQueue()

    def grab(self) -> bool:
        self.pts = self.frames.get()
        return self.pts is not None

    def retrieve(self, out: np.ndarray | None = None) -> np.ndarray | None:
        assert out is not None
        assert self.pts is not None
        out[:] = self.pts
        return out

    def close(self) -> None:
        pass


def reader_of(connect: Callable[[], Scripted], names: Counters, **options: Any) -> LiveReader:
    logger = logging.getLogger("camera")
    return LiveReader("camera", connect, names, logger, **options)


def test_what_comes_before_the_reader_has_waited_twice_had_piled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    came = {0.0: 0, 0.04: 1, 0.08: 2, 0.12: 42, 0.16: 82}  # ms, by stamp
    capture, names = Scripted(), Counters(VideoSource.counter_names)
    monkeypatch.setattr(live, "now_ns", lambda: came.get(capture.pts or 0.0, 0) * 10**6)
    monkeypatch.setattr(Scripted, "waited", property(lambda self: 0.0 if (self.pts or 0) < 0.1 else 0.04))
    reader = reader_of(lambda: capture, names, reconnect=False)
    got = give_when_wanted(reader, capture.frames, 0.0, 0.0, 0.04, 0.08, 0.12, 0.16)
    assert (got.pts, got.captured_ns) == (0.16, 82 * 10**6)
    assert (names["late"], names["skipped"]) == (5, 0)
    capture.frames.put(None)
    assert reader.close() is None


def test_after_a_stall_frames_are_passed_over_until_they_are_new_and_the_time_of_capture_is_true(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stall = 10  # after that frame the process stands still for a second, then it takes 5 ms for each frame that is there
    capture, names = Scripted(), Counters(VideoSource.counter_names)

    def came(number: int) -> float:
        return number / 25 if number <= stall else max(number / 25, stall / 25 + 1 + 0.005 * (number - stall))

    def number() -> int:
        return round((capture.pts or 0) * 25)

    monkeypatch.setattr(live, "now_ns", lambda: round(came(number()) * 1e9))
    monkeypatch.setattr(
        Scripted, "waited", property(lambda self: max(0.0, came(number()) - came(number() - 1) - 0.005) if number() else 0.0)
    )
    reader = reader_of(lambda: capture, names, reconnect=False)
    for place in range(2):
        capture.frames.put(place / 25)
    got: dict[int, live.Live] = {}
    for place in range(2, 80):
        eventually(lambda: names["late"] + names["skipped"] + len(got) == place, "the frame before")  # noqa: B023
        before = names["late"]
        taken = give_unless(reader, capture.frames, place / 25, lambda: names["late"] > before)  # noqa: B023
        if taken is not None:
            got[place] = taken
    assert sorted(got) == [*range(2, stall + 1), *range(min(place for place in got if place > stall), 80)]
    assert 30 < min(place for place in got if place > stall) < 40
    assert all(came(place) - taken.captured_ns / 1e9 < 0.08 for place, taken in got.items())
    assert all(taken.captured_ns / 1e9 == pytest.approx(place / 25, abs=0.001) for place, taken in got.items())
    capture.frames.put(None)
    assert reader.close() is None


def test_without_stamps_nothing_is_taken_while_the_stream_is_being_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]
    capture, names = Scripted(), Counters(VideoSource.counter_names)
    capture.waited = 0.0
    monkeypatch.setattr(live, "now_ns", lambda: now[0])
    monkeypatch.setattr(capture, "grab", lambda: capture.frames.get() is not None)
    monkeypatch.setattr(capture, "retrieve", lambda out: out)
    reader = reader_of(lambda: capture, names, reconnect=False)

    def give() -> None:
        for number, seconds in enumerate((0, 1, 1.9, 2.1)):
            now[0] = int(seconds * 1e9)
            put_when_wanted(reader, capture.frames, 1.0)
            eventually(lambda: names["late"] == min(number + 1, 3))  # noqa: B023

    giver = threading.Thread(target=give)
    giver.start()
    got = reader.read(np.zeros((4, 4, 3), np.uint8), 20)
    giver.join()
    assert got is not None
    assert (got.pts, got.captured_ns) == (None, now[0])
    capture.frames.put(None)
    assert reader.close() is None


def give_unless(
    reader: LiveReader, frames: queue.SimpleQueue[float | None], stamp: float, passed: Callable[[], bool]
) -> live.Live | None:
    """The frame, unless it is passed over."""
    got: list[live.Live | None] = []
    done = threading.Event()

    def read() -> None:
        while not got and not done.is_set():
            taken = reader.read(np.zeros((4, 4, 3), np.uint8), 0.05)
            if taken is not None:
                got.append(taken)

    taker = threading.Thread(target=read)
    taker.start()
    put_when_wanted(reader, frames, stamp)
    eventually(lambda: bool(got) or passed(), "the frame")
    done.set()
    taker.join()
    return got[0] if got else None


def put_when_wanted(reader: LiveReader, frames: queue.SimpleQueue[float | None], *stamps: float) -> None:
    eventually(lambda: reader._wanted is not None, "somebody who waits")
    for stamp in stamps:
        frames.put(stamp)


def give_when_wanted(reader: LiveReader, frames: queue.SimpleQueue[float | None], *stamps: float) -> live.Live:
    giver = threading.Thread(target=put_when_wanted, args=(reader, frames, *stamps))
    giver.start()
    got = reader.read(np.zeros((4, 4, 3), np.uint8), 20)
    giver.join()
    assert got is not None
    return got


def test_an_array_that_waits_for_a_stream_that_comes_back_with_another_size_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that another one is loaned, and no frame is copied."""
    monkeypatch.setattr(live, "SHORTEST_WAIT", 0.01)
    small, large = Scripted(4), Scripted(8)
    captures, may_connect = [large, small], threading.Semaphore(1)

    def connect() -> Scripted:
        assert may_connect.acquire(timeout=20)
        return captures.pop()

    reader = reader_of(connect, Counters(VideoSource.counter_names), reconnect=True)
    assert reader.await_shape(20) == (4, 4, 3)
    small.frames.put(None)

    def connect_when_wanted() -> None:
        eventually(lambda: reader._wanted is not None, "somebody who waits")
        may_connect.release()

    connecting = threading.Thread(target=connect_when_wanted)
    connecting.start()
    assert reader.read(np.zeros((4, 4, 3), np.uint8), 600) is None
    connecting.join()
    assert reader.await_shape(0) == (8, 8, 3)
    reader._closing.set()
    large.frames.put(None)
    assert reader.close() is None


def test_a_reader_waits_for_the_end_of_the_one_before_it() -> None:
    """Or the two would count on the same counters."""
    release = threading.Event()
    before = threading.Thread(target=release.wait)
    before.start()
    alive = []
    capture = Scripted()

    def connect() -> Scripted:
        alive.append(before.is_alive())
        return capture

    reader = reader_of(connect, Counters(VideoSource.counter_names), reconnect=False, after=before)
    assert reader.await_shape(0) is None
    release.set()
    assert reader.await_shape(20) == (4, 4, 3)
    assert alive == [False]
    capture.frames.put(None)
    assert reader.close() is None


def test_a_frame_that_comes_while_nobody_waits_is_never_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lateness, "OPENING", 0.0)
    capture, names = Scripted(), Counters(VideoSource.counter_names)
    reader = reader_of(lambda: capture, names, reconnect=False)
    assert reader.await_shape(20) == (4, 4, 3)
    assert reader.read(np.zeros((4, 4, 3), np.uint8), 0) is None
    capture.frames.put(1.0)
    eventually(lambda: names["skipped"] == 1, "the frame passes")
    assert reader.read(np.zeros((4, 4, 3), np.uint8), 0) is None
    got = give_when_wanted(reader, capture.frames, 2.0)
    assert (got.pts, int(got.frame.max())) == (2.0, 2)
    assert not reader.pass_over(0)
    capture.frames.put(None)
    eventually(lambda: reader.over, "the end")
    assert "is lost" in str(reader.failure)
    assert reader.read(np.zeros((4, 4, 3), np.uint8), 20) is None
    assert reader.close() is None
