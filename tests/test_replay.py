"""A recorded run is replayed as it was: several cameras and wires, with origins, numbers and stamps, in step."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media import bikes
from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    DestinationRoutine,
    EndOfStream,
    Join,
    MotionDetector,
    Pipe,
    PipertError,
    Recorder,
    Replay,
    Routine,
    SourceRoutine,
    VideoError,
    Wire,
)
from pipert_shm.data import Meta
from pipert_shm.video import DetectedFrame
from pipert_shm.video.in_step import ENDED, InStep
from pipert_shm.video.mcap import McapWriter, Part
from media import Beginning
from routines import Record, Sink, received
from test_detection import digest as digest_of
from waiting import eventually

CAMERAS = ("gate", "door", "yard")
COUNT = 12


def digest(data: Any) -> Any:
    return str(digest_of(data)) if isinstance(data, DetectedFrame) else hashlib.sha256(np.ascontiguousarray(data)).hexdigest()


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

    join = Join(by="time", tolerance=0.004)

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
