"""What strange events, damaged files, damaged packets and a clock that steps do to a camera's footage: each costs itself."""

from __future__ import annotations

import json
import logging
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from filmed import feed, film, footage
from pipert_shm.video.footage import clip, continuous, leftovers
from pipert_shm.video.footage.kept import Keeping
from pipert_shm.video.footage.leftovers import tidy
from waiting import eventually

LOGGER = logging.getLogger("gate")


@pytest.fixture(scope="module")
def cartoon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("films") / "a.mp4", count=60)


def test_an_odd_event_costs_no_other_clip_and_no_clip_goes_on_for_ever(cartoon: Path, tmp_path: Path) -> None:
    circle: dict[Any, Any] = {("a", 1): float("nan")}
    circle["self"] = circle
    with footage(tmp_path, clips={"before": 0.5, "after": 0.1}) as (kept, counters):
        at = clip.wall(feed(kept, cartoon)) + 1.0
        kept.record({"id": "good", "time": at})
        kept.record({"id": "漢" * 100, "time": at})  # longer than a file's name in bytes, though not in characters
        kept.record({"id": "../../x", "time": at, "more": circle})
        kept.record({"id": "ahead", "time": 9e10, "started": 9e10, "phase": "end"})  # by the clock of another machine
        eventually(lambda: counters["clips"] == 4, "four clips")
    told = sorted((tmp_path / "gate").glob("clips/*/*.json"))
    events = [json.loads(path.read_text(), parse_constant=pytest.fail)["event"] for path in told]
    assert {event["id"] for event in events} == {"good", "漢" * 100, "../../x", "ahead"}


def test_a_fault_in_one_file_costs_that_file(cartoon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise av.error.InvalidDataError(1, "damaged")

    monkeypatch.setattr(continuous.Continuous, "_write", fails)
    with footage(tmp_path, continuous=True, clips={"before": 0.5, "after": 0.1}) as (kept, counters):
        kept.record({"id": "good", "time": clip.wall(feed(kept, cartoon)) + 1.0})
        eventually(lambda: counters["clips"] == 1, "the clip")
    assert counters["cut_clips"] == 0
    assert counters["unrecorded"] > 30


def test_damaged_leftovers_stay_and_do_not_keep_the_camera_from_recording(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = tmp_path / "clips" / "2026-11-30"
    day.mkdir(parents=True)
    for number, text in enumerate(("[]", "{}", "null", '{"files": 3}', "[" * 99_999)):
        (day / f"10-00-00.000_{number}.json.part").write_text(text)
    (day / "10-00-00.000_x.mp4.part").write_bytes(b"damaged")

    def half(part: Path, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "what PyAV says of a damaged header")

    monkeypatch.setattr(leftovers, "mend", half)
    assert tidy(tmp_path, LOGGER) == 0
    assert len(caplog.messages) == 6 == len(list(day.iterdir())), "nothing half is left, and nothing is gone"


def test_a_clock_that_steps_while_a_file_is_written_costs_nothing(
    cartoon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with footage(tmp_path, continuous={"segment": 60}, clips=False) as (kept, counters):
        feed(kept, cartoon)
        eventually(lambda: bool(list(tmp_path.rglob("*.part"))), "the file")
        stepped = time.time() - 86_400
        monkeypatch.setattr("pipert_shm.video.footage.clip.time.time", lambda: stepped)
    assert counters["segments"] == 1
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(("pts", "dts"), [(1 << 60, 1 << 60), (3600 * 15360, 0), (-3600 * 15360, 0)])
def test_damaged_stamps_are_left_out_for_ffmpegs_writer_breaks_down_on_them(cartoon: Path, pts: int, dts: int) -> None:
    with av.open(str(cartoon)) as container:
        stream = container.streams.video[0]
        keeping = Keeping(stream, LOGGER)
        packet = av.Packet(b"picture")
        packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 15360), pts, dts
        assert keeping.of(packet, 0, None) is None


def test_a_damaged_key_frame_with_new_parameter_sets_does_not_cost_the_connection(cartoon: Path) -> None:
    with av.open(str(cartoon)) as container:
        stream = container.streams.video[0]
        form = Keeping(stream, LOGGER)._run.form
        assert form.with_sets(b"\0\0\0\1\x67damaged\0\0\0\1\x68damaged", b"\0\0\0\1\x65damaged").size == (320, 240)
