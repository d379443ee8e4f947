"""How letters leave the spool: in order, again after failures, and without those that a server refuses."""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm import DetectedFrame, Detections, Letter, LetterRefused, Meta, Sink, Undelivered
from pipert_shm.analytics.event import DetectionEvent
from pipert_shm.sinks import sender
from waiting import eventually

Answer = Callable[[Sequence[Letter]], Mapping[int, str] | None]


class Scripted:
    """A courier that does what a list of answers says, and then takes everything; it notes what arrived."""

    most = 10

    def __init__(self, answers: list[Answer], arrived: list[str]) -> None:
        self.answers, self.arrived = answers, arrived

    def deliver(self, letters: Sequence[Letter]) -> Mapping[int, str] | None:
        refused = self.answers.pop(0)(letters) if self.answers else None
        self.arrived += [letter.key for place, letter in enumerate(letters) if place not in (refused or {})]
        return refused

    def close(self) -> None:
        raise OSError("it is broken anyway")


class ScriptedSink(Sink):
    """Sends to a scripted courier."""

    def __init__(self, path: Path, *answers: Answer, limits: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.answers = list(answers)
        self.arrived: list[str] = []
        self.connections = 0
        super().__init__("sink", spool={"path": path, **(limits or {})}, **options)

    def connect(self) -> Scripted:
        self.connections += 1
        return Scripted(self.answers, self.arrived)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(sender, "LINGER", 0.3)


@pytest.fixture
def running() -> Iterator[list[Sink]]:
    """Sinks that are ended after the test."""
    sinks: list[Sink] = []
    yield sinks
    for sink in sinks:
        sink.cleanup()


def feed(sink: Sink, *names: str) -> None:
    """Has it take events of these ids, in one message."""
    sink.main_logic([event(name) for name in names])


def event(name: str, **more: Any) -> DetectionEvent:
    given: dict[str, Any] = {"phase": "start", "rule": "gate", "kind": "enter", "camera": "yard"} | more
    return DetectionEvent(id=name, sequence=1, time=2.0, started=2.0, **given)


def lost(why: str, arrived: int = 0, wait: float | None = None) -> Answer:
    def answer(letters: Sequence[Letter]) -> None:
        raise Undelivered(why, arrived=arrived, wait=wait)

    return answer


def refusing(name: str) -> Answer:
    def answer(letters: Sequence[Letter]) -> None:
        if any(letter.key.startswith(name) for letter in letters):
            raise LetterRefused(f"{name} has a bad form")

    return answer


def is_law_kept(counters: Mapping[str, int]) -> bool:
    ends = ("sent", "refused", "dropped_full", "dropped_old", "damaged", "waiting")
    return counters["accepted"] == sum(counters[end] for end in ends)


def start(sink: Sink, running: list[Sink]) -> None:
    sink.setup()
    running.append(sink)


def test_what_did_not_arrive_is_sent_again_and_what_did_is_not(
    tmp_path: Path, running: list[Sink], caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(letters: Sequence[Letter]) -> None:
        raise ConnectionError("mqtt://me:secret@host has gone")

    def ends(letters: Sequence[Letter]) -> None:
        raise SystemExit(3)  # as a library may that wants to be the program

    def is_not_trusted(letters: Sequence[Letter]) -> None:
        raise ssl.SSLCertVerificationError("certificate verify failed")  # a ValueError, but none of a letter

    def breaks_off(letters: Sequence[Letter]) -> None:
        sink.arrived += [letter.key for letter in letters[:2]]
        raise Undelivered("it breaks off", arrived=2)

    sink = ScriptedSink(tmp_path, breaks, ends, *[is_not_trusted] * 6, lost("it is late"), lambda letters: None, breaks_off)
    caplog.set_level(logging.INFO)
    feed_before_sending(sink, running, *"abcdefgh")
    eventually(lambda: sink.counters["waiting"] == 0)
    assert sink.arrived == [f"{name}-start" for name in "abcdefgh"]
    assert (sink.counters["sent"], sink.counters["retried"], sink.connections) == (8, 10, 11)
    assert "can't deliver: ConnectionError: mqtt://me:***@host has gone; " in caplog.text
    assert "delivers again, after" in caplog.text
    assert is_law_kept(sink.counters)


def test_one_that_is_refused_is_tried_and_set_aside_and_the_others_arrive_in_order(
    tmp_path: Path, running: list[Sink], caplog: pytest.LogCaptureFixture
) -> None:
    sink = ScriptedSink(tmp_path, *[refusing("c")] * 50, tries=3)
    feed_before_sending(sink, running, *"abcdef")
    eventually(lambda: sink.counters["waiting"] == 0)
    assert sink.arrived == [f"{name}-start" for name in "abdef"]
    assert (sink.counters["sent"], sink.counters["refused"], sink.counters["retried"]) == (5, 1, 2)
    (line,) = map(json.loads, (tmp_path / "refused.jsonl").read_text().splitlines())
    assert (line["key"], line["why"], line["tries"], line["body"]["camera"]) == ("c-start", "c has a bad form", 3, "yard")
    assert "message c-start is not sent, after 3 tries: c has a bad form; it is kept in" in caplog.text
    assert is_law_kept(sink.counters)


def feed_before_sending(sink: ScriptedSink, running: list[Sink], *names: str) -> None:
    """Has all of them in the spool before the first is sent, so that they are sent together."""
    gate, connect = threading.Event(), sink.connect

    def waits() -> Scripted:
        gate.wait(20)
        return connect()

    sink.connect = waits  # type: ignore[method-assign]
    start(sink, running)
    feed(sink, *names)
    gate.set()


def test_what_the_server_refuses_of_a_batch_is_set_aside_at_once(tmp_path: Path, running: list[Sink]) -> None:
    sink = ScriptedSink(tmp_path, lambda letters: None, lambda letters: {1: "too large"})
    feed_before_sending(sink, running, *"abcd")
    eventually(lambda: sink.counters["waiting"] == 0)
    assert sink.arrived == ["a-start", "b-start", "d-start"]
    assert (sink.counters["sent"], sink.counters["refused"], sink.counters["retried"]) == (3, 1, 0)


def test_one_that_can_not_be_encoded_holds_up_nobody(tmp_path: Path, running: list[Sink]) -> None:
    def encode(letters: Sequence[Letter]) -> None:
        "".join(letter.body["label"] for letter in letters).encode()

    sink = ScriptedSink(tmp_path, *[encode] * 50, tries=2)
    start(sink, running)
    sink.main_logic([event("a", label="cat"), event("b", label="\ud800"), event("c", label="dog")])
    eventually(lambda: sink.counters["waiting"] == 0)
    assert sink.arrived == ["a-start", "c-start"]
    assert sink.counters["refused"] == 1


def test_a_server_is_given_the_time_that_it_asks_for(tmp_path: Path, running: list[Sink]) -> None:
    began = time.monotonic()
    sink = ScriptedSink(tmp_path, lost("busy", wait=0.4))
    start(sink, running)
    feed(sink, "a")
    eventually(lambda: sink.counters["sent"] == 1)
    assert time.monotonic() - began >= 0.4


def test_what_is_too_old_or_makes_room_is_counted_by_its_reason(tmp_path: Path, running: list[Sink]) -> None:
    old = ScriptedSink(tmp_path / "old", lost("away", wait=0.3), limits={"max_age": 0.2})
    start(old, running)
    feed(old, "a", "b")
    eventually(lambda: old.counters["retried"] == 1)
    feed(old, "c")
    eventually(lambda: old.counters["waiting"] == 0)
    assert old.counters["dropped_old"] >= 2  # three, where the third had to wait for long, too
    assert is_law_kept(old.counters)
    assert not {"a-start", "b-start"} & set(old.arrived)

    full = ScriptedSink(tmp_path / "full", lost("away", wait=0.3), limits={"max_messages": 3})
    start(full, running)
    feed(full, "a", "b", "c")
    eventually(lambda: full.counters["retried"] == 1)
    feed(full, "d", "e")
    eventually(lambda: full.counters["waiting"] == 0)
    assert full.arrived == ["c-start", "d-start", "e-start"]
    assert (full.counters["dropped_full"], full.counters["sent"], is_law_kept(full.counters)) == (2, 3, True)


def test_one_that_makes_room_while_it_is_delivered_counts_once(tmp_path: Path, running: list[Sink]) -> None:
    def meanwhile(letters: Sequence[Letter]) -> None:
        feed(sink, "d", "e")

    sink = ScriptedSink(tmp_path, lambda letters: None, meanwhile, limits={"max_messages": 3})
    feed_before_sending(sink, running, "a", "b", "c")
    eventually(lambda: sink.counters["waiting"] == 0)
    assert sink.arrived == [f"{name}-start" for name in "abcde"]  # what was under way has arrived all the same
    assert (sink.counters["dropped_full"], sink.counters["sent"], is_law_kept(sink.counters)) == (1, 4, True)


def test_the_end_sends_what_it_can_and_leaves_the_rest_for_the_next_start(
    tmp_path: Path, running: list[Sink], caplog: pytest.LogCaptureFixture
) -> None:
    quick = ScriptedSink(tmp_path / "quick")
    quick.setup()
    feed(quick, *"abc")
    quick.cleanup()
    assert quick.arrived == ["a-start", "b-start", "c-start"]
    assert not list((tmp_path / "quick").glob("*.spool"))

    away = ScriptedSink(tmp_path / "away", *[lost("away")] * 9, grace=30)
    away.setup()
    feed(away, *"abc")
    began = time.monotonic()
    away.cleanup()
    assert time.monotonic() - began < 5  # it does not wait for a server that is away
    assert (away.counters["waiting"], is_law_kept(away.counters)) == (3, True)
    assert "3 messages wait in the spool" in caplog.text
    again = ScriptedSink(tmp_path / "away")
    start(again, running)
    eventually(lambda: again.arrived == ["a-start", "b-start", "c-start"])


def test_a_delivery_that_hangs_holds_up_neither_the_end_nor_the_next_start(tmp_path: Path, running: list[Sink]) -> None:
    hang = threading.Event()
    stuck = ScriptedSink(tmp_path, lambda letters: {} if hang.wait(20) else None, grace=0.1)
    stuck.setup()
    feed(stuck, "a")
    eventually(lambda: not stuck.answers)
    stuck.cleanup()
    again = ScriptedSink(tmp_path)
    start(again, running)
    eventually(lambda: again.arrived == ["a-start"])  # perhaps twice, but never not at all
    hang.set()
    eventually(lambda: stuck.arrived == ["a-start"])


# ---- what a sink takes ---------------------------------------------------------------------------


def test_what_is_made_of_each_payload(tmp_path: Path, running: list[Sink]) -> None:
    got: list[Letter] = []

    def note(letters: Sequence[Letter]) -> None:
        got.extend(letters)

    sink = ScriptedSink(tmp_path, *[note] * 50)
    start(sink, running)
    sink.meta = Meta(("yard",), 0, 7, 10**9)
    found = Detections(np.array([[1, 2, 3, 4], [np.nan, 0, 1, 1]]), [0.5, 0.5], [0, 0], ["cat"], [7, 8])
    sink.main_logic(event("a"))
    sink.main_logic([event("b", phase="instant", more={"speed": np.float32(2.5)}), {"camera": "gate", "level": float("nan")}])
    sink.main_logic(DetectedFrame(np.zeros((4, 4, 3), np.uint8), found))
    sink.main_logic(found)
    sink.main_logic({"kind": "heat", "map": np.eye(2)})
    sink.main_logic([])
    sink.main_logic(Detections([]))
    eventually(lambda: sink.counters["sent"] == 6)
    assert [(letter.camera, letter.kind) for letter in got] == [
        ("yard", "enter"),
        ("yard", "enter"),
        ("gate", "data"),
        ("yard", "detections"),
        ("yard", "detections"),
        ("yard", "heat"),
    ]
    assert (got[0].key, got[1].key) == ("a-start", "b-instant")
    assert (got[1].body["more"], got[2].body["level"], got[5].body["map"]) == ({"speed": 2.5}, None, [[1.0, 0.0], [0.0, 1.0]])
    assert (got[3].body["boxes"], got[3].body["labels"], got[3].body["track_ids"]) == ([[1, 2, 3, 4]], ["cat"], [7])
    assert len({letter.key for letter in got}) == 6
    assert sink.counters["not_finite"] == 2
    for wrong in ("text", [1], np.zeros(3), None):
        with pytest.raises(TypeError, match="a sink takes a DetectionEvent"):
            sink.main_logic(wrong)
    with pytest.raises(TypeError, match="at most 1,000 items"):
        sink.main_logic(dict.fromkeys(range(1001)))
