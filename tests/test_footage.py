"""Clips and continuous recordings of real packets: what is in them, and what becomes of them when something goes wrong."""

from __future__ import annotations

import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any

import av
import cv2
import pytest

from filmed import COUNT, FPS, GOP, checked, copied, feed, film, footage
from media import largest_file
from pipert_shm.analytics.event import DetectionEvent
from pipert_shm.binding import now_ns
from pipert_shm.cli import main
from pipert_shm.video.footage import clip, continuous, retention
from pipert_shm.video.footage import footage as keeper
from pipert_shm.video.footage.leftovers import KILLED
from pipert_shm.video.footage.packet_file import PacketFile
from pipert_shm.video.footage.reading import export, packets_of
from pipert_shm.video.footage.retention import Retention
from pipert_shm.video.footage.settings import FootageSettings
from pipert_shm.video.footage.shelf import clip_path, segment_path, segments
from pipert_shm.video.pyav import PyAVCapture
from rtp_pieces import number_in
from waiting import eventually


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    made = {
        "h264": film(folder / "a.mp4"),
        "h264 with start codes": copied(folder / "a.mp4", folder / "b.ts"),
        "hevc": film(folder / "c.mp4", "libx265", 84),
        "mjpeg": film(folder / "d.mkv", "mjpeg"),
    }
    return {**made, "small": film(folder / "e.mp4", count=45, size=(160, 120))}


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def whole(folder: Path, pattern: str = "**/*.mp4") -> list[Path]:
    return sorted(folder.glob(pattern))


def told_of(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return told


def event(at: float, id: str = "1", phase: Any = "instant", **more: Any) -> dict[str, Any]:
    given = {"rule": "gate", "kind": "enter", "camera": "gate", "sequence": 7, "started": at, **more}
    return DetectionEvent(id=id, phase=phase, time=at, **given).to_dict()


@pytest.mark.parametrize("codec", ["h264", "h264 with start codes", "hevc", "mjpeg"])
def test_a_clip_has_what_the_camera_sent_from_before_it_happened_to_after_it(
    films: dict[str, Path], tmp_path: Path, gate: Path, codec: str
) -> None:
    with footage(tmp_path, clips={"before": 0.7, "after": 0.6}) as (kept, counters):
        began_ns = feed(kept, films[codec])
        at = clip.wall(began_ns) + 2.0
        kept.record(event(at))
        eventually(lambda: counters["clips"] == 1, "the clip")
    (path,) = whole(gate)
    numbers = checked(path, films[codec])
    first = 38 if codec == "mjpeg" else 30  # the key frame before 1.3 s
    assert numbers[0] in range(first, first + 2)
    assert numbers[-1] in range(76, 80), "2.6 s"
    assert len(numbers) >= numbers[-1] - numbers[0] - 1, "pictures whose turn comes after those behind them may lack at the end"
    told = told_of(path)
    assert told["event"] == event(at)
    assert (told["camera"], told["is_cut"], told["cut"]) == ("gate", False, [])
    assert told["start"] == pytest.approx(clip.wall(began_ns) + numbers[0] / FPS, abs=0.15)
    assert told["end"] - told["start"] == pytest.approx(len(numbers) / FPS, abs=0.08)
    (file,) = told["files"]
    assert (file["codec"], file["frames"], file["width"], file["height"]) == (codec.split()[0], len(numbers), 320, 240)
    assert (file["file"], file["bytes"]) == (path.name, path.stat().st_size)
    picture = cv2.imread(str(path.with_name(told["thumbnail"])))
    assert picture is not None
    assert abs(number_in(picture) - 60) <= 3, "the picture beside it is of the moment that it is about"
    assert {each.suffix for each in path.parent.iterdir()} == {".mp4", ".jpg", ".json"}, "and nothing else is there"


def test_what_lasts_has_a_clip_from_before_its_start_to_after_its_end_and_each_has_its_own(
    films: dict[str, Path], tmp_path: Path, gate: Path
) -> None:
    with footage(tmp_path, clips={"before": 0.2, "after": 0.3, "longest": 2}) as (kept, counters):
        began_ns = feed(kept, films["h264"], began_ns=now_ns(), part=range(60))
        wall = clip.wall(began_ns)
        kept.record(event(wall + 1.0, "lasts", "start"))
        kept.record(event(wall + 1.5, "other", "instant"))
        kept.record(event(wall + 2.0, "lasts", "end", started=wall + 1.0))
        kept.record(event(wall + 1.5, "unheard of", "end", started=wall + 0.8))  # its start came before this process
        kept.record(event(wall + 0.5, "without an end", "start"))
        feed(kept, films["h264"], began_ns=began_ns, part=range(60, COUNT))
        eventually(lambda: counters["clips"] == 4, "the clips")
        kept.record(event(wall + 3.0, "without an end", "end", started=wall + 0.5))
    spans = {told_of(path)["event"]["id"]: checked(path, films["h264"]) for path in whole(gate)}
    assert {id: numbers[0] for id, numbers in spans.items()} == {
        "lasts": 15,
        "other": 30,
        "unheard of": 15,
        "without an end": 0,
    }
    ends = {"lasts": 2.3, "other": 1.8, "unheard of": 1.8, "without an end": 2.3}
    assert {id: numbers[-1] / FPS for id, numbers in spans.items()} == pytest.approx(ends, abs=0.11)
    cut = {told["event"]["id"]: told["cut"] for told in map(told_of, whole(gate)) if told["cut"]}
    assert cut == {"without an end": ["it lasted longer than footage.clips.longest"]}
    assert counters["cut_clips"] == 1


def test_an_event_that_is_told_again_is_no_new_clip_unless_it_goes_on_for_longer(
    films: dict[str, Path], tmp_path: Path, gate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with footage(tmp_path, clips={"before": 0.2, "after": 1}) as (kept, counters):
        began_ns = feed(kept, films["h264"], began_ns=now_ns(), part=range(60))
        wall = clip.wall(began_ns)
        kept.record(event(wall + 1.5))
        kept.record(event(wall + 2.5))
        feed(kept, films["h264"], began_ns=began_ns, part=range(60, COUNT))
        eventually(lambda: counters["clips"] == 1, "the clip of both")
        kept.record(event(wall + 2.5))
        eventually(lambda: "the event '1' has a clip already" in caplog.text, "the answer")
        kept.record(event(wall + 3.8), after=0)
        eventually(lambda: counters["clips"] == 2, "the clip of what came later")
    spans = [checked(path, films["h264"]) for path in whole(gate)]
    assert [numbers[0] for numbers in spans] == [30, 105]
    assert [numbers[-1] / FPS for numbers in spans] == pytest.approx([3.5, 3.8], abs=0.11)
    assert counters["lost_clips"] == counters["cut_clips"] == 0


def test_a_camera_that_comes_back_goes_on_in_the_same_file_or_in_another_one_if_its_pictures_are_others(
    films: dict[str, Path], tmp_path: Path, gate: Path
) -> None:
    with footage(tmp_path, clips={"before": 10, "after": 0}) as (kept, counters):
        now = now_ns()
        feed(kept, films["h264"], began_ns=now - 9_000_000_000, part=range(30))
        feed(kept, films["h264"], began_ns=now - 6_000_000_000, part=range(30))  # as another connection
        feed(kept, films["small"], began_ns=now - 3_000_000_000)
        kept.record({"id": "1", "time": time.time()})
        eventually(lambda: counters["clips"] == 1, "the clip", 20)
    first, second = whole(gate)
    numbers = [number_in(frame) for frame in _frames(first)]
    assert numbers == [*range(28), *range(28)] or numbers == [*range(30), *range(30)]
    with av.open(str(first)) as container:
        stamps = sorted(float((packet.pts or 0) * packet.time_base) for packet in container.demux(video=0) if packet.size)
    assert stamps[len(stamps) // 2] - stamps[0] == pytest.approx(3.0, abs=0.05), "with a gap as long as it was"
    told = told_of(first)
    assert [(each["width"], each["file"]) for each in told["files"]] == [(320, first.name), (160, second.name)]
    assert told["cut"] == ["the camera was silent at its end"] or told["cut"] == []


def _frames(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def test_without_memory_a_clip_begins_later_and_says_so(films: dict[str, Path], tmp_path: Path, gate: Path) -> None:
    with footage(tmp_path, clips={"before": 3.5, "after": 0}, memory_mb=1) as (kept, counters):
        began_ns = feed(kept, films["h264"])
        kept.record({"time": clip.wall(began_ns) + 3.9})
        eventually(lambda: counters["clips"] == 1, "the clip")
        assert kept.bytes_kept <= 1_000_000
    (path,) = whole(gate)
    assert 0 < len(checked(path, films["h264"])) < COUNT
    assert told_of(path)["cut"] == ["nothing from before was there"]


def test_everything_is_recorded_in_files_that_follow_each_other(
    films: dict[str, Path], tmp_path: Path, gate: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with footage(tmp_path, clips=False, continuous={"segment": 1}) as (kept, counters):
        began_ns = feed(kept, films["h264"])
        for _ in range(2):
            kept.record({"id": "1"})
    assert caplog.text.count("there is no clip of '1': footage has clips=False") == 1
    assert counters["segments"] == 4
    found = list(segments(gate))
    numbers = [number for segment in found for number in checked(segment.path, films["h264"])]
    assert numbers == list(range(COUNT)), "nothing is missing between two files"
    begins = [segment.start - clip.wall(began_ns) for segment in found]
    assert begins == pytest.approx([0, 1, 2, 3], abs=0.15)
    assert [segment.seconds for segment in found] == pytest.approx([1, 1, 1, 1], abs=0.05)
    begin, end = found[0].start + 0.6, found[2].start + 0.4
    (made,) = export(segments(gate, begin, end), begin, end, tmp_path / "export.mp4")
    taken = checked(made, films["h264"])
    assert taken[0] == GOP, "from the key frame before"
    assert taken[-1] == pytest.approx(72, abs=3)

    since = datetime.fromtimestamp(begin, UTC).isoformat()
    assert main(["footage", str(tmp_path), "--from", since, "--export", str(tmp_path / "b.mp4")]) == 0
    assert checked(tmp_path / "b.mp4", films["h264"]) == list(range(GOP, COUNT))
    assert main(["footage", str(tmp_path), "--json"]) == 0
    (span,) = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert (span["camera"], len(span["files"])) == ("gate", 4)
    assert main(["footage", str(tmp_path), "--camera", "door"]) == 2
    assert "'door'" in capsys.readouterr().err


def test_a_full_disk_costs_the_rest_of_the_file_and_is_told_once(
    films: dict[str, Path], tmp_path: Path, gate: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuous, "RETRY_NS", 0)
    caplog.set_level(logging.INFO)
    with footage(tmp_path, clips={"before": 3, "after": 1}, continuous={"segment": 60}) as (kept, counters):
        with largest_file(1_000_000):
            began_ns = feed(kept, films["h264"])
            kept.record({"id": "1", "time": clip.wall(began_ns) + 3})
            eventually(lambda: counters["clips"] == 1 and counters["unrecorded"] > 0, "the failures")
        feed(kept, films["h264"], began_ns=now_ns() + 3_000_000_000)
        eventually(lambda: "there is room again" in caplog.text, "the next attempt")
    assert caplog.text.count("recording pauses") == 1
    for path in whole(gate):
        assert path.stat().st_size <= 1_000_000 or path.parent.name != "clips"
        assert checked(path, films["h264"]), "what was written can be played"
    told = told_of(whole(gate, "clips/**/*.mp4")[0])
    assert told["cut"][0].startswith("it could not be written: File too large")
    assert list(tmp_path.rglob("*.part")) == []


def test_what_a_killed_process_has_left_is_made_whole(films: dict[str, Path], tmp_path: Path, gate: Path) -> None:
    pid = os.fork()
    if not pid:  # it is killed in the midst of a clip and of a segment
        with footage(tmp_path, clips={"before": 9, "after": 9}, continuous={"segment": 60}) as (kept, _):
            began_ns = feed(kept, films["h264"])
            kept.record(event(clip.wall(began_ns) + 2))
            eventually(lambda: all(any(gate.glob(each)) for each in ("clips/*/*.json.part", "all/*/*/*.part")), "both")
            time.sleep(0.3)
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    assert whole(gate) == [], "nothing has its name before it is whole"
    broken = gate / "all" / "2026-01-01" / "10"
    broken.mkdir(parents=True)
    (broken / "10-00-00.000.mp4.part").write_bytes(b"no film")
    with footage(tmp_path, clips={"before": 1}):
        eventually(lambda: not list(gate.rglob("*.part")), "no leftovers")
    made, recorded = whole(gate, "clips/**/*.mp4"), list(segments(gate))
    for path in (*made, *(segment.path for segment in recorded)):
        assert len(checked(path, films["h264"])) >= COUNT / 4
    assert (len(made), len(recorded)) == (1, 1)
    told = told_of(made[0])
    assert told["cut"][-1] == KILLED
    assert told["end"] - told["start"] == pytest.approx(recorded[0].seconds, abs=0.1)


# ---- what stays on the disk ----------------------------------------------------------------------


def shelve(gate: Path, at: float, size: int = 1000, seconds: float = 60.0) -> Path:
    path = segment_path(gate, at, seconds)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def retention_of(gate: Path, **settings: Any) -> Retention:
    return Retention(gate, FootageSettings.of({"directory": gate.parent, **settings}), logging.getLogger("gate"))


def test_what_is_too_old_goes_a_few_files_at_a_time_so_that_a_wrong_clock_does_not_cost_everything(
    gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    old = [shelve(gate, now - 9 * 86400 + 60 * number) for number in range(10)]
    new = [shelve(gate, now - 86400 + 60 * number) for number in range(10)]
    kept = retention_of(gate, continuous={"days": 7})
    assert kept.keep_limits() == retention.OLD_AT_ONCE
    assert [path.exists() for path in old] == [False] * 4 + [True] * 6, "the oldest went"
    assert [kept.keep_limits(), kept.keep_limits(), kept.keep_limits()] == [4, 2, 0]
    assert all(path.exists() for path in new)
    assert not old[0].parent.exists()
    mine = shelve(gate, now)
    kept.note(mine)
    monkeypatch.setattr(time, "time", lambda: now + 3650 * 86400)  # the clock steps, by ten years
    for _ in range(5):
        kept.keep_limits()
    assert mine.exists(), "what this process has recorded is as old as the time since then"
    earlier = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda which: earlier(which) + 7.1 * 86400)
    kept.keep_limits()
    assert not mine.exists()


def test_the_limits_in_bytes_are_kept_and_what_this_process_recorded_goes_last(gate: Path) -> None:
    now = time.time()
    earlier = [shelve(gate, now - 7200 + 60 * number, 600_000) for number in range(5)]
    kept = retention_of(gate, continuous={"gb": 0.002})
    mine = shelve(gate, now - 20 * 365 * 86400, 600_000)  # with a clock that had been reset
    kept.note(mine)
    kept.keep_limits()
    assert [path.exists() for path in (*earlier, mine)] == [False] * 3 + [True] * 3
    shelve(gate, now, 600_000)
    kept.keep_limits()
    assert mine.exists()


def test_all_cameras_together_have_a_limit_and_clips_go_with_all_that_is_beside_them(tmp_path: Path) -> None:
    now = time.time()
    gate, door = tmp_path / "gate", tmp_path / "door"
    shelved = [shelve(each, now - 7200 + 600 * place, 600_000) for place, each in enumerate((gate, door, gate, door))]
    path = clip_path(gate, now - 86400, "1")
    path.parent.mkdir(parents=True)
    beside = [path, path.with_suffix(".jpg"), path.with_suffix(".json")]
    for each in beside:
        each.write_bytes(bytes(100_000))
    retention_of(gate, continuous=True, gb=0.0013).keep_limits()
    assert [each.exists() for each in shelved] == [False, False, False, True], "the oldest, whose camera it may be"
    assert all(each.exists() for each in beside)
    retention_of(gate, gb=0.001, clips={"days": 0.01}).keep_limits()
    assert not any(each.exists() for each in beside)


def test_cameras_that_remove_at_once_remove_no_more_than_is_too_much(tmp_path: Path) -> None:
    gates = [tmp_path / f"gate-{number}" for number in range(4)]
    shelved = [shelve(each, time.time() - 7200 + 60 * number, 100_000) for each in gates for number in range(50)]
    all_at_once = Barrier(len(gates))

    def keep(gate: Path) -> int:
        kept = retention_of(gate, gb=0.01)
        all_at_once.wait()
        return kept.keep_limits()

    with ThreadPoolExecutor(len(gates)) as pool:
        removed = list(pool.map(keep, gates))
    assert sum(path.exists() for path in shelved) == 100
    assert sum(removed) == 100


# ---- settings, and what can't be -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "footage needs a directory, such as"),
        ({"directory": "a", "clip": {}}, "footage has no key 'clip': there are directory, clips, continuous, gb, camera, mem"),
        ({"directory": "a", "clips": {"pre": 3}}, "footage.clips has no key 'pre': there are before, after, longest, days, gb"),
        ({"directory": "a", "clips": {"before": "3"}}, "footage.clips.before must be a number from 0 to 600, not '3'"),
        ({"directory": "a", "clips": {"before": 9, "longest": 9}}, "footage.clips.longest is 9 s, less than before and after"),
        ({"directory": "a", "clips": False}, "keeps nothing with clips=False and without continuous"),
        (
            {"directory": "a", "continuous": {"days": -1}},
            "footage.continuous.days must be a number from 0.001 to 36500, not -1",
        ),
    ],
)
def test_wrong_settings_are_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        FootageSettings.of(given)


def test_a_broken_event_is_refused_and_too_many_clips_are_counted(
    films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "MOST_CLIPS", 2)
    with footage(tmp_path, clips={"before": 0, "after": 9}) as (kept, counters):
        for wrong in ({"phase": "begin"}, {"time": "now"}, {"started": -1}):
            with pytest.raises(ValueError, match="an event's"):
                kept.record(wrong)
        feed(kept, films["small"])
        for number in range(5):
            kept.record({"id": number, "phase": "start"})
        eventually(lambda: counters["lost_clips"] == 3, "the refusals")
        kept.record({"id": 4, "phase": "end"})
        kept.record({"id": 5})
        eventually(lambda: counters["lost_clips"] == 4, "one more, and none for the end of what was refused")


def test_a_file_that_is_not_ours_is_left_alone(gate: Path) -> None:
    (gate / "all" / "notes").mkdir(parents=True)
    (gate / "all" / "notes" / "a.txt").write_text("mine")
    assert list(segments(gate)) == []
    assert retention_of(gate, continuous={"days": 1, "gb": 0.001}).keep_limits() == 0
    assert (gate / "all" / "notes" / "a.txt").exists()


def test_a_film_whose_order_is_deeper_than_known_is_told(films: dict[str, Path], tmp_path: Path) -> None:
    """Where nobody says when a picture is decoded, and one comes too late for that, it is not written wrongly."""
    packets = [packet._replace(dts=None) for packet in packets_of(films["h264"])]
    assert packets[0].run.depth == 0
    file = PacketFile(tmp_path / "a.mp4", packets[0])
    assert not all(file.add(packet) for packet in packets)
    file.end()
    for packet in packets:
        packet.run.note(packet.pts)
    assert packets[0].run.depth == 1
    file = PacketFile(tmp_path / "b.mp4", packets[0])
    assert all(file.add(packet) for packet in packets)
    made = file.end()
    assert made is not None
    assert checked(made, films["h264"]) == list(range(COUNT))


class Noted:
    """Footage that notes when packets came."""

    def __init__(self) -> None:
        self.came_ns: list[int] = []

    def begin(self, stream: object) -> None: ...

    def keep(self, packet: av.Packet[Any], came_ns: int, wall_clock: float | None) -> None:
        if packet.size:
            self.came_ns.append(came_ns)


@pytest.mark.parametrize("left_out", [0, 2])
def test_packets_of_a_file_come_when_its_pictures_are_taken(tmp_path: Path, left_out: int) -> None:
    """Whoever takes pictures is held up after each, and packets come no earlier. Some pictures between are left out."""
    noted: Any = Noted()
    capture = PyAVCapture(film(tmp_path / "a.mp4", count=30), footage=noted)
    taken, known = [now_ns()], [0]
    while capture.grab() and all(capture.grab() for _ in range(left_out)):
        known.append(len(noted.came_ns))
        capture.retrieve()
        time.sleep(0.05 * (left_out + 1))
        taken.append(now_ns())
    capture.close()
    assert len(noted.came_ns) == 30
    assert noted.came_ns == sorted(noted.came_ns)
    steps = [noted.came_ns[begin:end] for begin, end in pairwise(known)]
    early = [at - each for at, came in zip(taken, steps, strict=False) for each in came if each < at]
    assert early == []
