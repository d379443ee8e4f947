"""A recorded run is replayed as it was: several cameras and wires, with origins, numbers and stamps, in step."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media import Beginning, bikes
from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    BatchRoutine,
    EndOfStream,
    Join,
    MiddleRoutine,
    MotionDetector,
    Pipe,
    PipeFailed,
    Recorder,
    Replay,
    Routine,
    RoutineError,
    SourceRoutine,
    VideoError,
    VideoSource,
    Wire,
    WiresValidation,
)
from pipert_shm.data import Meta
from pipert_shm.shm.states import State
from pipert_shm.testing import Output
from pipert_shm.testing.plugin import replay as replay
from pipert_shm.video import DetectedFrame, in_step
from pipert_shm.video.in_step import ENDED, Alone, InStep
from pipert_shm.video.mcap import McapWriter, Part
from pipert_shm.video.replayed import replayed
from routines import Forward, Frames, Record, Sink, received
from test_detection import digest as digest_of
from waiting import eventually

CAMERAS = ("gate", "door", "yard")
COUNT = 12


def digest(data: Any) -> Any:
    return str(digest_of(data)) if isinstance(data, DetectedFrame) else hashlib.sha256(data.tobytes()).hexdigest()


class Told(Record):
    """Writes down of each message who sent it, all that is known of it, and what it is."""

    def main_logic(self, data: Any) -> None:
        meta = self.meta
        sender = meta.hops[-2].routine if len(meta.hops) > 1 else meta.origin
        known = sender, meta.captured_ns, meta.pts, meta.wall_clock, meta.format
        super().main_logic((*known, digest(data)))


def notes(path: Path) -> list[tuple[Any, ...]]:
    """What a `Told` wrote, times of capture from the first one on."""
    found = [(message.origin, message.sequence, *message.value) for message in received(path)]
    first = min(captured for _, _, _, captured, *_ in found)
    return [(origin, number, sender, captured - first, *rest) for origin, number, sender, captured, *rest in found]


def by_wire(told: list[tuple[Any, ...]]) -> dict[tuple[str, str], list[tuple[Any, ...]]]:
    """The same for each sender and origin, in order."""
    wires: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for note in told:
        wires.setdefault((note[2], note[0]), []).append(note)
    return wires


class Dated(Beginning):
    """A clip's beginning as a camera that tells the time by its own clock, and begins to count at a number of its own."""

    def __init__(self, name: str, first: int, count: int = COUNT) -> None:
        super().__init__(bikes(), count, name)
        self.first = first

    def main_logic(self) -> Any:
        frame = super().main_logic()
        self.meta.sequence += self.first
        self.meta.wall_clock = 1.7e9 + self.meta.sequence / 3
        if self.meta.sequence % 2:
            self.meta.format = "rgb"
        return frame


def cameras() -> list[SourceRoutine]:
    return [Dated(name, first) for name, first in zip(CAMERAS, (0, 5, 1 << 40), strict=True)]


def run(pipe: Pipe, *flows: tuple[Routine, ...], wires: list[Wire]) -> Pipe:
    with pipe:
        for number, routines in enumerate(flows):
            pipe.create_flow(f"flow-{number}", False, *routines)
        pipe.link(*wires)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    assert sum(routine.errors for routine in pipe.statistics().routines.values()) == 0
    assert sum(sum(wire.dropped.values()) for wire in pipe.statistics().wires.values()) == 0
    return pipe


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of three cameras and of the detector behind them; beside it, as `live`, what another routine got of both."""
    folder = tmp_path_factory.mktemp("yard")
    sources, detector = cameras(), MotionDetector("detector")
    recorder, live = Recorder(folder / "yard.mcap", "recorder"), Told("live", folder / "live")
    run(
        Pipe(policy="block"),
        *[(source,) for source in sources],
        (detector,),
        (recorder,),
        (live,),
        wires=[*(Wire(source, (detector, recorder, live)) for source in sources), Wire(detector, (recorder, live))],
    )
    return folder / "yard.mcap"


def replays(yard: Path, *names: str, **options: Any) -> list[Replay]:
    return [Replay(yard, name, paced=False, **options) for name in names]


def test_three_cameras_and_two_wires_come_as_they_were_bit_for_bit(tmp_path: Path, yard: Path) -> None:
    live = by_wire(notes(yard.with_name("live")))
    assert {wire: len(told) for wire, told in live.items()} == {
        (sender, camera): COUNT for camera in CAMERAS for sender in (camera, "detector")
    }
    runs = []
    for number in range(2):
        sources, told = replays(yard, *CAMERAS), Told("told", tmp_path / f"told{number}")
        detector = MotionDetector("detector")
        wires = [*(Wire(source, (detector, told)) for source in sources), Wire(detector, told)]
        run(Pipe(policy="block"), tuple(sources), (detector,), (told,), wires=wires)
        runs.append(by_wire(notes(tmp_path / f"told{number}")))
    assert runs[0] == runs[1] == live


def test_what_a_detector_sent_is_replayed_in_its_place(tmp_path: Path, yard: Path) -> None:
    """Its messages have the origins of the cameras, since these are routines of the pipe."""
    sources, detector, told = replays(yard, *CAMERAS), Replay(yard, "detector", paced=False), Told("told", tmp_path / "told")
    wires = [*(Wire(source, told) for source in sources), Wire(detector, told)]
    run(Pipe(policy="block"), (*sources, detector), (told,), wires=wires)
    live = by_wire(notes(yard.with_name("live")))
    # The replay is a source, so the message does not tell of another sender: both wires of a camera are one now.
    again = by_wire(notes(tmp_path / "told"))
    for camera in CAMERAS:
        both = {note[1:2] + note[3:] for sender in (camera, "detector") for note in live[sender, camera]}
        assert {note[1:2] + note[3:] for note in again[camera, camera]} == both
        assert len(again[camera, camera]) == 2 * COUNT


def test_one_origin_of_a_channel_under_a_name_of_its_own(tmp_path: Path, yard: Path) -> None:
    source, told = Replay(yard, "found", channel="detector", origin="door", paced=False), Told("told", tmp_path / "told")
    run(Pipe(policy="block"), (source,), (told,), wires=[Wire(source, told)])
    got = notes(tmp_path / "told")
    assert [(origin, number) for origin, number, *_ in got] == [("found", number) for number in range(5, 5 + COUNT)]
    live = by_wire(notes(yard.with_name("live")))["detector", "door"]
    assert [note[4:] for note in got] == [note[4:] for note in live]


class Both(Told):
    """Of a frame and what was found in it."""

    join = Join(by="seq")

    def main_logic(self, data: dict[str, Any]) -> None:
        frame, found = data.values()
        assert isinstance(found, DetectedFrame)
        assert np.array_equal(frame, found.frame)
        super().main_logic(found)


class Near(Told):
    """Of frames of two cameras that were captured at the same time."""

    join = Join(by="time", tolerance=0.004, depth=20)

    def main_logic(self, data: dict[str, Any]) -> None:
        Record.main_logic(self, [meta.sequence for meta in self.metas])


@pytest.mark.parametrize("paced", [False, True], ids=["as fast as possible", "at the recorded pace"])
def test_a_join_by_number_does_as_it_did(tmp_path: Path, yard: Path, paced: bool) -> None:
    """Each message has its partner, though the camera could run ahead of the detector by more than the join waits for."""
    camera = Replay(yard, "yard", paced=paced)
    detector = Replay(yard, "detector", origin="yard", paced=paced)
    both = Both("both", tmp_path / "both")
    run(Pipe(policy="block"), (camera, detector), (both,), wires=[Wire(camera, both), Wire(detector, both)])
    assert [number for _, number, *_ in notes(tmp_path / "both")] == list(range(1 << 40, (1 << 40) + COUNT))


class Ticking(SourceRoutine):
    """Numbers that say themselves when they were captured, some of them near those of another."""

    def __init__(self, name: str, late_ms: tuple[int, ...]) -> None:
        super().__init__(name)
        self.late_ms = late_ms

    def main_logic(self) -> int:
        number = self.meta.sequence
        if number == len(self.late_ms):
            raise EndOfStream
        self.meta.captured_ns = 10**15 + (20 * number + self.late_ms[number]) * 10**6
        return number


def test_a_join_by_time_does_as_it_did(tmp_path: Path) -> None:
    left, right = Ticking("left", (0,) * 20), Ticking("right", tuple(3 if number % 3 else 9 for number in range(20)))
    live, recorder = Near("near", tmp_path / "live"), Recorder(tmp_path / "two.mcap", "recorder")
    with Pipe(policy="block") as pipe:
        for routine in (left, right, live, recorder):
            pipe.create_flow(routine.name, False, routine)
        pipe.link(Wire(left, (live, recorder)), Wire(right, (live, recorder)))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    pairs = [message.value for message in received(tmp_path / "live")]
    assert pairs == [[number, number] for number in range(20) if number % 3]
    again = Near("near", tmp_path / "again")
    sources = replays(tmp_path / "two.mcap", "left", "right")
    with Pipe(policy="block") as pipe:
        pipe.create_flow("replays", False, *sources)
        pipe.create_flow("near", False, again)
        pipe.link(*(Wire(source, again) for source in sources))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    assert [message.value for message in received(tmp_path / "again")] == pairs


# ---- in step -------------------------------------------------------------------------------------


class Noting(Replay):
    """Writes down what it sends, in the order in which all of them do; takes its time if it is told to."""

    def __init__(self, path: Path, name: str, log: Path, slow: bool = False, **options: Any) -> None:
        super().__init__(path, name, **options)
        self.log = log
        self.slow = slow

    def main_logic(self) -> Any:
        payload = super().main_logic()
        if payload is not None:
            if self.slow:
                time.sleep(0.002)  # as a replay of large frames, which the disk gives slowly
            with self.log.open("a") as file:
                file.write(f"{self.name} {self.meta.sequence}\n")
        return payload


class Fatal(Noting):
    """One that comes to grief in the call for its number 30, in its first process."""

    fate = ""

    def main_logic(self) -> Any:
        payload = super().main_logic()
        if payload == 30 and self.fate and not (grief := self.log.with_name("grief")).exists():
            grief.touch()
            if self.fate == "hangs":
                time.sleep(60)
            os._exit(3)
        return payload


def recorded(path: Path, *messages: tuple[str, int, Any], gap_ms: int = 1, **stamps: Any) -> Path:
    """A recording of messages of these origins and numbers, so far apart."""
    recorder = Recorder(path)
    recorder.setup()
    for number, (origin, sequence, payload) in enumerate(messages):
        recorder.meta = Meta((origin,), 0, sequence, 10**15 + number * gap_ms * 10**6)
        for name, value in stamps.items():
            setattr(recorder.meta, name, value)
        recorder.main_logic(payload)
    recorder.cleanup()
    return path


def uneven(path: Path, count: int = 240) -> tuple[Path, list[str]]:
    """A recording of three senders that come in any order; and the lines that a `Noting` should write."""
    rng = np.random.default_rng(3)
    numbers = dict.fromkeys(CAMERAS, 0)
    messages: list[tuple[str, int, Any]] = []
    for camera in map(str, rng.choice(CAMERAS, count, p=[0.6, 0.3, 0.1])):
        messages.append((camera, numbers[camera], [camera, numbers[camera]]))
        numbers[camera] += 1
    return recorded(path, *messages), [f"{camera} {number}" for camera, number, _ in messages]


@pytest.mark.parametrize("flows", [1, 3])
def test_they_send_in_the_order_in_which_it_was_recorded(flows: int, tmp_path: Path) -> None:
    path, expected = uneven(tmp_path / "r.mcap")
    sources = [Noting(path, name, tmp_path / "log", name == "door", paced=False) for name in CAMERAS]
    sinks = [Sink(f"sink of {name}") for name in CAMERAS]
    wires = [Wire(source, sink) for source, sink in zip(sources, sinks, strict=True)]
    in_flows = [tuple(sources)] if flows == 1 else [(source,) for source in sources]
    run(Pipe(policy="block"), *in_flows, tuple(sinks), wires=wires)
    assert (tmp_path / "log").read_text().splitlines() == expected


@pytest.mark.parametrize("way", ["dies", "fails", "hangs"])
def test_in_several_flows_one_whose_process_dies_goes_on_where_it_was(way: str, tmp_path: Path) -> None:
    """The others wait for it: but not when it has failed for good."""
    messages = [(camera, number, number) for number in range(60) for camera in ("gate", "door")]
    path = recorded(tmp_path / "r.mcap", *messages)
    gate, door = (Fatal(path, name, tmp_path / "log", paced=False) for name in ("gate", "door"))
    gate.fate = way
    gate.hang_timeout = 0.3 if way == "hangs" else None
    sink = Sink("sink")
    with suppress(PipeFailed), Pipe(policy="block") as pipe:
        pipe.create_flow("gate", False, gate, restart="never" if way == "fails" else "on-failure")
        pipe.create_flow("door", False, door)
        pipe.create_flow("sink", False, sink)
        pipe.link(Wire(gate, sink), Wire(door, sink))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    lines = [f"{camera} {number}" for camera, number, _ in messages]
    if way == "fails":  # in its call for number 30
        lines = [line for line in lines if line.startswith("door") or int(line.split()[1]) <= 30]
    noted = (tmp_path / "log").read_text().splitlines()
    assert list(dict.fromkeys(noted)) == lines
    assert [line for line in noted if noted.count(line) > 1] == ([] if way == "fails" else ["gate 30"] * 2), "it was in hand"
    received = pipe.statistics().routines["sink"].received
    assert received == (90 if way == "fails" else 120)


class Pairs(Record):
    join = Join(by="seq", depth=1)


def test_a_join_drops_nothing_though_one_of_two_replays_is_slow(tmp_path: Path) -> None:
    messages = [(camera, number, number) for number in range(150) for camera in ("gate", "door")]
    path = recorded(tmp_path / "r.mcap", *messages)
    gate, door = (Noting(path, name, tmp_path / "log", name == "door", paced=False) for name in ("gate", "door"))
    pairs = Pairs("pairs", tmp_path / "pairs")
    run(Pipe(policy="block"), (gate, door), (pairs,), wires=[Wire(gate, pairs), Wire(door, pairs)])
    assert [message.value for message in received(tmp_path / "pairs")] == [{"gate": n, "door": n} for n in range(150)]


def test_one_that_is_stopped_is_not_waited_for(tmp_path: Path) -> None:
    path = recorded(tmp_path / "r.mcap", *[(camera, number, number) for number in range(9) for camera in ("gate", "door")])
    gate, door = Replay(path, "gate", paced=False), Replay(path, "door", paced=False)
    records = [Record(f"of {name}", tmp_path / name) for name in ("gate", "door")]
    with Pipe(policy="block") as pipe:
        pipe.create_flow("replays", False, gate, door)
        pipe.create_flow("records", False, *records)
        pipe.link(Wire(gate, records[0], capacity=1), Wire(door, records[1]))
        pipe.build()
        for name in ("of door", "gate", "door"):
            pipe.notify_event(START_EVENT_NAME, specific_routine=name)
        # Nobody takes what gate sends: it waits with its second message, and door, which has sent its first one, for it.
        eventually(lambda: pipe.statistics().routines["of door"].received == 1)
        eventually(lambda: pipe.statistics().wires["gate", "of gate"].waiting == 1)
        assert pipe.statistics().routines["of door"].received == 1
        pipe.notify_event(STOP_EVENT_NAME, specific_routine="gate")
        eventually(lambda: pipe.statistics().routines["of door"].received == 9, "the rest of the other")
        pipe.join(to_kill=True)


class Shown(Alone):
    """The place of a replay that others see: how often it was rung."""

    rings = 0

    def ring(self) -> None:
        self.rings += 1


def steps(**places: Shown) -> dict[str, InStep]:
    return {
        name: InStep(name, place, {other: its for other, its in places.items() if other != name}, lambda: 0)
        for name, place in places.items()
    }


def test_of_those_in_step_the_one_with_the_smallest_number_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = Shown(), Shown()
    step = steps(a=a, b=b)
    assert step["a"].enter() == 0
    assert not step["a"].may_go(), "the other has not begun"
    assert step["a"].take_missing() == []
    assert step["b"].enter() == 0
    step["b"].stand(3)
    assert a.rings > 0
    assert (step["a"].may_go(), step["b"].may_go()) == (True, False)
    step["a"].stand(5)
    assert (step["a"].may_go(), step["b"].may_go()) == (False, True)
    b.state = State.STOPPED
    assert step["a"].may_go(), "one that was stopped while it had no process is not waited for"
    b.state = State.RUNNING
    step["b"].stand(5)
    assert (step["a"].may_go(), step["b"].may_go()) == (True, False), "of two that send the same, the first by name"
    rings = b.rings
    step["a"].stand(ENDED)
    assert b.rings > rings
    assert step["b"].may_go()
    assert step["a"].offset_ns(7) == step["b"].offset_ns(99), "there is one clock"
    step["b"].stand(ENDED)
    monkeypatch.setattr(in_step, "BEGIN_S", 0.0)
    first = step["b"].offset_ns(7)
    step["b"].enter()
    assert not step["b"].may_go()
    assert step["b"].take_missing() == ["a"], "one that does not begin is not waited for for ever"
    assert step["b"].take_missing() == []
    assert step["b"].may_go()
    assert step["b"].offset_ns(7) > first, "the next run has a clock of its own"
    step["a"].enter()
    assert not step["b"].may_go(), "but it is when it begins after all"


def test_a_new_process_goes_on_with_the_message_that_was_not_sent() -> None:
    a, b = Shown(), Shown()
    sent = 0
    others = {"b": b}
    step = InStep("a", a, others, lambda: sent)
    step.enter()
    steps(a=a, b=b)["b"].enter()
    step.stand(7)
    assert InStep("a", a, others, lambda: sent).enter() == 7
    sent = 1
    assert InStep("a", a, others, lambda: sent).enter() == 8, "it died after it had sent that one"
    step.stand(ENDED)
    assert InStep("a", a, others, lambda: sent).enter() == 0, "a new start begins at the beginning"


# ---- stamps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("within", [False, True], ids=["across flows", "in one flow"])
def test_ahead_of_the_recorded_pace_nothing_is_old(tmp_path: Path, within: bool) -> None:
    """The times between captures are kept, so that of a message that is sent too soon lies ahead."""
    frames = [("gate", number, np.full((64, 64, 3), number, np.uint8)) for number in range(30)]
    gate, sink = Replay(recorded(tmp_path / "r.mcap", *frames, gap_ms=1000), "gate", paced=False), Sink("sink")
    flows = [(gate, sink)] if within else [(gate,), (sink,)]
    pipe = run(Pipe(policy="block"), *flows, wires=[Wire(gate, sink, max_age=10.0)])
    assert pipe.statistics().routines["sink"].received == 30
    assert pipe.statistics().routines["sink"].age.p99_us < 20e6


@pytest.mark.parametrize("pts", [None, 0.1, float("inf"), np.float64(0.1), 3])
def test_stamps_come_back_exactly(tmp_path: Path, pts: Any) -> None:
    path = recorded(tmp_path / "r.mcap", ("gate", (1 << 63) - 1, "text"), pts=pts, wall_clock=1 / 3)
    (output,) = replayed(path, Forward("middle"))
    assert (output.meta.pts, output.meta.wall_clock, output.meta.sequence) == (pts, 1 / 3, (1 << 63) - 1)
    assert (output.meta.origin, output.meta.captured_ns, output.payload) == ("gate", 10**15, "text")


@pytest.mark.parametrize(
    "stamp", [b"[]", b'{"pts":"now"}', b'{"wall_clock":true}', b'{"sequence":-1}', b"{", b'{"sequence":1e30}']
)
def test_a_stamp_that_makes_no_sense_costs_its_message(tmp_path: Path, stamp: bytes) -> None:
    writer = McapWriter(tmp_path / "r.mcap")
    told, payload = (writer.channel("/gate", "json", role) for role in ("stamp", "payload"))
    writer.write(1000, 0, [Part(told, [stamp]), Part(payload, [b"1"])])
    writer.write(1001, 1, [Part(payload, [b"2"])])
    writer.finish()
    writer.close()
    replay = Replay(tmp_path / "r.mcap", paced=False)
    replay.setup()
    with pytest.raises(VideoError, match=r"message 1 of the recording .* can't be read, and is left out: .*"):
        replay.main_logic()
    assert replay.main_logic() == 2
    with pytest.raises(VideoError):
        replay.cleanup()


def test_a_recording_of_an_earlier_version_counts_as_sent_by_its_origins(tmp_path: Path) -> None:
    writer = McapWriter(tmp_path / "old.mcap")
    for number in range(4):
        topic = ("/gate/data", "/door/data")[number % 2]
        writer.write(10**18 + number * 10**9, number // 2, [Part(writer.channel(topic, "json", "payload"), [b"%d" % number])])
    writer.finish()
    writer.close()
    outputs = replayed(tmp_path / "old.mcap", Forward("middle"))
    told = [(output.meta.origin, output.meta.sequence, output.meta.pts, output.payload) for output in outputs]
    assert told == [("gate", 0, 0.0, 0), ("door", 0, 1.0, 1), ("gate", 1, 2.0, 2), ("door", 1, 3.0, 3)]
    gate, record = Replay(tmp_path / "old.mcap", "gate", paced=False), Record("record", tmp_path / "got")
    run(Pipe(policy="block"), (gate,), (record,), wires=[Wire(gate, record)])
    assert [tuple(message) for message in received(tmp_path / "got")] == [("gate", 0, 0), ("gate", 1, 2)]


def test_a_channel_that_there_is_not_is_an_error_that_names_those_that_there_are(yard: Path) -> None:
    replay = Replay(yard, "some", channel="roof")
    with pytest.raises(VideoError, match=r"has no channel 'roof'; it has '.*'detector'"):
        replay.setup()
    replay.cleanup()


# ---- a recorder that was killed ------------------------------------------------------------------


class Endless(Frames):
    def __init__(self, name: str) -> None:
        super().__init__(name, None)
        self.set_const_fps(200)


def test_what_a_killed_recorder_wrote_replays_up_to_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "r.mcap"
    sources, recorder = [Endless(name) for name in CAMERAS], Recorder(path, "recorder")
    pipe = Pipe(policy="block")
    for source in sources:
        pipe.create_flow(source.name, False, source)
    pipe.create_flow("disk", False, recorder, restart="never")
    pipe.link(*(Wire(source, recorder, policy="drop_oldest") for source in sources))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["recorder"].received >= 60)
    os.kill(pipe.statistics().flows["disk"].pid, signal.SIGKILL)
    eventually(lambda: pipe.statistics().flows["disk"].state == "failed")
    with pytest.raises(PipeFailed):
        pipe.join(to_kill=True)
    path.write_bytes(path.read_bytes()[:-5])  # as if it had been in the midst of its last message
    caplog.clear()
    outputs = replayed(path, Forward("middle"))
    assert f"the recording {path} breaks off at byte " in caplog.text
    assert len(outputs) >= 50
    for camera in CAMERAS:
        got = [(output.meta.sequence, int(output.payload.max())) for output in outputs if output.meta.origin == camera]
        assert got == [(number, number % 251) for number, _ in got]
        assert [number for number, _ in got] == sorted({number for number, _ in got})


# ---- the fixture ---------------------------------------------------------------------------------


def known_of(output: Output) -> tuple[Any, ...]:
    meta = output.meta
    return meta.origin, meta.sequence, meta.captured_ns, meta.pts, meta.wall_clock, meta.format, digest(output.payload)


def test_a_detector_makes_of_a_recording_what_it_made_of_the_cameras_and_the_same_each_time(yard: Path) -> None:
    runs = [replayed(yard, MotionDetector("detector"), channels=CAMERAS, keep=known_of) for _ in range(2)]
    assert runs[0] == runs[1]
    live = by_wire(notes(yard.with_name("live")))
    for camera in CAMERAS:
        found = [known for known in runs[0] if known[0] == camera]
        assert [known[1] for known in found] == [note[1] for note in live["detector", camera]]
        assert [known[3:] for known in found] == [note[4:] for note in live["detector", camera]]


class Overlay(MiddleRoutine):
    """Of each frame and what was found in it."""

    join = Join(by="seq")

    def main_logic(self, data: dict[str, Any]) -> Any:
        return {name: type(payload).__name__ for name, payload in data.items()}


def test_each_channel_is_a_sender_to_a_join(tmp_path: Path) -> None:
    path = tmp_path / "r.mcap"
    source, detector, recorder = Dated("gate", 3), MotionDetector("detector"), Recorder(path, "recorder")
    wires = [Wire(source, (detector, recorder)), Wire(detector, recorder)]
    run(Pipe(policy="block"), (source,), (detector,), (recorder,), wires=wires)
    outputs = replayed(path, Overlay("overlay"))
    assert [output.meta.sequence for output in outputs] == list(range(3, 3 + COUNT))
    assert outputs[0].payload == {"gate": "ndarray", "detector": "DetectedFrame"}


class Means(BatchRoutine):
    def main_logic(self, batch: list[np.ndarray]) -> list[Any]:
        return [(len(batch), self.meta.origin) for _ in batch]


def test_a_batch_routine_gets_batches(yard: Path) -> None:
    outputs = replayed(yard, Means("means", batch_size=8), channels=CAMERAS)
    assert [output.payload[0] for output in outputs] == [8] * 32 + [4] * 4


def pipe_of(*sources: Routine) -> Pipe:
    detector, lines = MotionDetector("detector"), Sink("lines")
    pipe = Pipe()
    for routine in (*sources, detector, lines):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(*(Wire(source, detector) for source in sources), Wire(detector, lines))
    return pipe


def test_a_pipe_runs_on_a_recording_in_the_place_of_its_cameras(yard: Path) -> None:
    """Which are not there: they would be opened in setup()."""
    pipe = pipe_of(*(VideoSource(f"rtsp://127.0.0.1:1/{name}", name) for name in CAMERAS))
    runs = [replayed(yard, pipe, keep=known_of) for _ in range(2)]
    assert [known[:2] + known[3:] for known in runs[0]] == [known[:2] + known[3:] for known in runs[1]]
    alone = replayed(yard, MotionDetector("detector"), channels=CAMERAS, keep=known_of)
    assert [known[:2] + known[3:] for known in runs[0]] == [known[:2] + known[3:] for known in alone]
    assert len(replayed(yard, pipe, of="door")) == COUNT


@pytest.mark.parametrize(
    ("target", "options", "error", "told"),
    [
        (lambda: pipe_of(Frames("roof", 1)), {}, VideoError, "has no channel 'roof'; it has '"),
        (lambda: pipe_of(Frames("gate", 1)), {"of": "lines"}, RoutineError, "'gate', 'detector'"),
        (
            lambda: pipe_of(Frames("gate", 1)),
            {"channels": ["gate"]},
            TypeError,
            "each source of a pipe gets the",
        ),
        (lambda: Forward("middle"), {"channels": ["roof"]}, VideoError, "has no channel 'roof'"),
        (lambda: Forward("middle"), {"of": "middle"}, TypeError, "is for a pipe"),
        (lambda: Frames("source", 1), {}, ValueError, "is a source, and has no senders"),
        (lambda: "middle", {}, TypeError, "a routine or a pipe runs on a recording, not 'middle'"),
    ],
)
def test_what_can_not_be_meant_is_an_error(
    yard: Path, target: Callable[[], Any], options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        replayed(yard, target(), **options)


def test_several_routines_that_send_to_destinations_are_to_be_told_apart(yard: Path) -> None:
    gate, sink = Frames("gate", 1), Sink("more")
    pipe = pipe_of(gate)
    pipe.create_flow("more", False, sink)
    pipe.link(Wire(gate, sink))
    with pytest.raises(WiresValidation, match=r"say whose messages you want, of=… \('gate', 'detector'\)"):
        replayed(yard, pipe)


def test_the_fixture(request: pytest.FixtureRequest, yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project of a user has it in docs/how-to/debugging.md."""
    fixture = request.getfixturevalue("replay")
    out = fixture(yard, MotionDetector("detector"), channels=CAMERAS)
    assert len(out) == 3 * COUNT
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is no recording of a Recorder"):  # it is found beside the test
        fixture(Path(__file__).name, MotionDetector("detector"))
