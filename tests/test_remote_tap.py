"""Taps of other hosts' routines: what an agent answers, and what the program makes of it. Without a hub between them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest

from pipert_shm import START_EVENT_NAME, DestinationRoutine, HostsError, Pipe, RemoteTap, SourceRoutine
from pipert_shm.agents import looked_at
from pipert_shm.agents.agent import Agent
from pipert_shm.agents.asking import Answer, Asker, Question, answered
from waiting import eventually

AHEAD_NS = 5_000_000_000  # that the clock of the other host is ahead


class Frames(SourceRoutine):
    """Pictures whose shade is their number."""

    def setup(self) -> None:
        self.set_const_fps(200)

    def main_logic(self) -> np.ndarray:
        frame = self.loan((48, 64, 3), np.uint8)
        frame[...] = self.meta.sequence % 256
        return frame


class Screen(DestinationRoutine):
    def main_logic(self, frame: np.ndarray) -> None: ...


class OtherHost:
    """Answers as the agent of a host does, which has another clock. A stand-in for `Asker` and for `Agent`."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.handlers = looked_at.handlers(cast(Agent, self))
        self.is_cut = False
        self.asked: list[str] = []
        self.most_under_way = self.under_way = 0

    def pipe_id(self, question: Question) -> str:
        return self.pipe.name

    def begin(self, host: str, question: Question, told: Callable[[Answer], object], patience: float = 0) -> None:
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        threading.Thread(target=self._answer, args=(question, told), daemon=True).start()

    def ask(self, host: str, kind: str, **question: Any) -> Answer:
        return self._answered({"kind": kind, **question})

    def _answer(self, question: Question, told: Callable[[Answer], object]) -> None:
        answer = self._answered(question)
        self.under_way -= 1
        told(answer)

    def _answered(self, question: Question) -> Answer:
        self.asked.append(question["kind"])
        if self.is_cut:
            return Answer.none()
        head, body = answered(self.handlers, json.dumps(question).encode())
        told = json.loads(head)
        for stamp in ("arrived", "answered", "captured_ns"):
            if stamp in (told.get("value") or ()):
                told["value"][stamp] += AHEAD_NS
        return Answer(told.get("value"), body, told.get("error", ""))


@pytest.fixture
def host() -> Iterator[OtherHost]:
    with Pipe(name="tapped-from-afar") as pipe:
        pipe.create_flow("both", True, Frames("camera"), Screen("screen"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        yield OtherHost(pipe)


def tap_of(host: OtherHost, codec: Any = "none") -> RemoteTap:
    return RemoteTap(cast(Asker, host), "edge-1", "yard", "camera", codec)


def test_frames_come_whole_and_in_order_and_stamped_by_our_clock(host: OtherHost, monkeypatch: pytest.MonkeyPatch) -> None:
    for codec, tolerance in (("none", 0), ("zstd", 0), ("jpeg", 1)):
        with tap_of(host, codec) as tap:
            last = -1
            for _ in range(5):
                frame = tap.read(20)
                assert tap.meta is not None
                assert tap.meta.sequence > last
                last = tap.meta.sequence
                assert frame.shape == (48, 64, 3)
                assert np.abs(frame.astype(int) - last % 256).max() <= tolerance
                assert abs(time.monotonic_ns() - tap.meta.captured_ns) < AHEAD_NS / 2
                assert 0 <= tap.meta.uncertainty_ns < AHEAD_NS / 2
    assert host.most_under_way <= 3 * 8
    with pytest.raises(ValueError, match="the codec of a tap is 'none', 'jpeg', 'zstd', not 'h264'"):
        tap_of(host, "h264")

    tap = tap_of(host)
    tap.read(20)
    monkeypatch.setattr("pipert_shm.agents.remote_tap.FRESH_S", 0.0)
    eventually(lambda: not host.under_way, "all answers")
    host.is_cut = True
    with pytest.raises(TimeoutError):  # what had come is no longer fresh, and no more comes
        tap.read(0.1)
    monkeypatch.setattr("pipert_shm.agents.remote_tap.SILENCE_S", 0.1)
    with pytest.raises(HostsError, match=r"host edge-1 has not answered for 0 s: the link is cut"):
        tap.read()
    host.is_cut = False
    monkeypatch.setattr("pipert_shm.agents.remote_tap.FRESH_S", 10.0)
    tap.read(20)
    host.pipe.notify_event("kill")
    assert len([frame for frame in tap if frame is None]) == 0, "it ends"
    eventually(lambda: "untap" in host.asked[-8:] and not host.under_way, "the end of the tap")
