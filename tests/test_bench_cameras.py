"""The bench of cameras, with the smallest clip: each way must do the whole task, and what is noted must be true."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

import processes
from bench import camera_age, camera_peers, camera_pipes, camera_readers, camera_rounds
from bench.camera_age import Stall, measure_ages
from bench.camera_clips import BITS, FPS, Clip, burn, make, number_of, order_of
from bench.camera_rounds import Costs, Running, Studio, Way, cheapest, measure, measure_together, ratios
from bench.camera_task import EVERY, Board, Task
from bench.cameras import THIS, _whole_ways, most_cameras
from bench.figures import Settings
from waiting import eventually

TINY = Clip(320, 180, frames=60, bits_per_second=400_000)
SECONDS = 0.5

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # numpy has threads; none of ours runs meanwhile
    pytest.mark.filterwarnings("ignore:DynamicImporter:ImportWarning"),  # of Debian's `gi`
    pytest.mark.machine,
    pytest.mark.shm,
]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No warm-up, and a cache of its own. Waits for helpers of `SharedMemory`, which outlive their process by a moment."""
    monkeypatch.setattr(camera_rounds, "WARM_UP_S", 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known = set(processes.descendants())
    yield
    processes.reap_orphans(known)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with Studio(tmp_path_factory.mktemp("clips")) as studio:
        yield studio


def test_a_number_can_be_read_from_luma_and_from_bgr() -> None:
    for number in range(1 << BITS):
        luma = np.full((40, 400), 100, np.uint8)
        burn(number, luma)
        assert number_of(luma) == number
        assert number_of(np.repeat(luma[..., None], 3, axis=2)) == number


def slices_of(packet: bytes, codec: str) -> int:
    """How many slices a frame has, of an MP4's packet: units of data, each after its length."""
    at = found = 0
    while at < len(packet):
        kind = packet[at + 4] & 31 if codec == "h264" else packet[at + 4] >> 1
        found += kind in (1, 5) if codec == "h264" else kind < 32
        at += 4 + int.from_bytes(packet[at : at + 4], "big")
    return found


@pytest.mark.parametrize(
    "clip", [TINY, Clip(320, 180, b_frames=2, frames=60), Clip(320, 180, "h265", frames=60)], ids=lambda clip: clip.name
)
def test_a_clip_has_all_its_numbers_and_frames_of_one_slice(clip: Clip, tmp_path: Path) -> None:
    path = make(clip, tmp_path)
    with av.open(str(path)) as container:
        assert [number_of(frame.to_ndarray()) for frame in container.decode(video=0)] == list(range(clip.frames))
        container.seek(0)
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert {slices_of(packet, clip.codec) for packet in packets} == {1}
    order = order_of(path)
    assert sorted(order) == list(range(clip.frames))
    assert (order == sorted(order)) is (not clip.b_frames)
    assert list(tmp_path.iterdir()) == [path]
    made = path.stat().st_mtime_ns
    assert make(clip, tmp_path) == path
    assert path.stat().st_mtime_ns == made


@pytest.mark.parametrize("b_frames", [0, 2])
def test_a_clip_has_no_end_and_frames_have_the_times_at_which_they_are_shown(studio: Studio, b_frames: int) -> None:
    clip = Clip(320, 180, b_frames=b_frames, frames=30)
    numbers, times = [], []
    task = studio.task(clip, 1)
    task.board.close()  # nothing runs
    with av.open(task.url, options={"rtsp_transport": "tcp"}, timeout=20) as container:
        for frame in islice(container.decode(video=0), 50):
            numbers.append(number_of(frame.to_ndarray()))
            times.append(frame.time)
    assert numbers == [number % clip.frames for number in range(50)]
    known = [(number, time) for number, time in enumerate(times[4:]) if time is not None]  # FFmpeg has to guess the first ones
    assert np.allclose(np.diff([time for _, time in known]), np.diff([number for number, _ in known]) / FPS, atol=0.001)


def test_an_age_is_that_since_this_frame_was_sent() -> None:
    sent_ns = np.arange(1 << BITS) * 10**6
    board, picture = Board(sent_ns), np.zeros((40, 400), np.uint8)
    burn(700, picture)
    board.note(picture)
    ((now, age),) = board.notes().tolist()
    assert age == now - 700 * 10**6
    board.close()


def test_ways_that_run_together_have_their_rounds_in_the_same_time(studio: Studio) -> None:
    ways = {"one": Way(camera_pipes.sink), "other": Way(camera_pipes.sink)}
    one, other = measure_together(studio, ways, TINY, 1, SECONDS).values()
    assert len(ratios(one, other)) == 1
    assert min(one.cpu_ms, other.cpu_ms) > 0
    broken = measure_together(studio, {"none": Way(lambda task: None)}, TINY, 1, SECONDS)["none"]
    assert (broken.rounds, broken.note) == ([], "round 1 failed: it ended by itself, with 0")


@pytest.mark.parametrize("way", list(_whole_ways()))
def test_every_way_does_the_whole_task(studio: Studio, way: str) -> None:
    found, cameras = _whole_ways()[way], 2
    if found.note:
        pytest.skip(found.note)
    task = studio.task(TINY, cameras)
    with Running(found, task) as running:
        eventually(lambda: bool((task.board.done[:cameras] >= [2 * EVERY, 2]).all()), "frames and detections of each camera")
        cost = running.cost(SECONDS)
    assert cost.cpu_ms > 10 / EVERY / 2  # the detector's alone, with frames that were lost
    lines = [json.loads(line) for line in task.lines.read_text().splitlines()]
    assert {line["origin"] for line in lines} == {f"camera{number}" for number in range(cameras)}
    assert all(line["boxes"] == [[0, 0, 1, 1]] for line in lines)


def test_ages_are_those_since_a_frame_was_sent(studio: Studio) -> None:
    ways = {
        THIS: Way(camera_pipes.sink),
        "PyAV": Way(partial(camera_peers.sink_of, camera_readers.by_pyav)),
        "late": Way(partial(camera_peers.sink_of, late)),
    }
    results = measure_ages(studio, ways, TINY, 1, SECONDS)
    assert [result.note for result in results.values()] == ["", "", ""]
    assert all((result.rounds[0] > 0).all() for result in results.values())
    assert results["late"].rounds[0].min() > 100 > results["PyAV"].rounds[0].min()
    assert camera_age.ratios(results["late"], results["late"]) == [1.0]


def late(url: str, clip: Clip) -> Iterator[np.ndarray]:
    """Frames 100 ms after they were sent, and not fewer of them."""
    held: list[tuple[float, np.ndarray]] = []
    for picture in camera_readers.by_pyav(url, clip):
        held.append((time.monotonic(), picture))
        while held and time.monotonic() - held[0][0] > 0.1:
            yield held.pop(0)[1]


def test_a_stall_is_survived_and_old_frames_are_counted(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_age, "BEFORE_S", 0.5)
    found = camera_age.stall(studio, TINY)
    assert found.ages_ms
    assert found.usual_ms > 0
    assert Stall(40, (41, 100, 107, 900)).old == 2


def test_a_way_that_fails_is_named_and_the_others_are_measured(studio: Studio) -> None:
    def fail(task: Task) -> None:
        raise SystemExit(3)

    ways = {"broken": Way(fail), "absent": Way(fail, "not installed: it"), "PyAV": Way(reads)}
    results = measure(studio, ways, TINY, 2, 0.2)
    assert results["broken"].note == "failed in round 1: it ended by itself, with 3"
    assert results["absent"].note == "not installed: it"
    assert len(results["PyAV"].rounds) == 2
    text = "\n".join(camera_rounds.table(list(results.values())))
    assert "| absent | not installed: it |" in text
    assert cheapest(list(results.values())) in (results["PyAV"], None)  # None where this machine lost frames
    assert ratios(results["PyAV"], results["broken"]) == []
    assert json.dumps([result.as_json() for result in results.values()])


reads = partial(camera_peers.sink_of, camera_readers.by_pyav)


def test_the_cheapest_is_one_that_did_all_the_work() -> None:
    all_of_it, a_part, fewer_detections = Costs("all"), Costs("a part"), Costs("fewer detections")
    all_of_it.rounds.append(camera_rounds.Cost(9, 0.99, 1))
    a_part.rounds.append(camera_rounds.Cost(5, 0.9, 1))
    fewer_detections.rounds.append(camera_rounds.Cost(5, 1, 0.5))
    assert cheapest([a_part, all_of_it, fewer_detections, Costs("none")]) is all_of_it
    assert cheapest([a_part]) is None


def test_no_camera_may_be_too_many(studio: Studio) -> None:
    def fail(task: Task) -> None:
        raise SystemExit(3)

    assert most_cameras(studio, Way(fail), TINY, 2, 0.1) == 0


@pytest.mark.parametrize("guess", [2, 5])
def test_the_most_cameras_are_found_from_below_and_from_above(studio: Studio, guess: int) -> None:
    rate = 3.5 * FPS  # looks a second, for all cameras together

    def slow(task: Task) -> None:
        begun, looks = time.monotonic(), 0
        while not task.board.over:
            while looks < (time.monotonic() - begun) * rate:
                task.board.count(looks % len(task.urls), Board.LOOKED)
                looks += 1
            time.sleep(0.005)

    assert most_cameras(studio, Way(slow), TINY, guess, 0.5) == 3


def test_what_a_run_of_a_part_says(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import __main__, cameras

    monkeypatch.setattr(cameras, "HD", TINY)
    monkeypatch.setattr(__main__, "QUICK", Settings(rounds=1, seconds=0.05, full=False))
    assert set(__main__.CAMERA_PARTS) == set(cameras.PARTS)
    assert __main__.main(["--quick", "cameras-idle", "--json", str(tmp_path / "run.json")]) == 0
    report = json.loads((tmp_path / "run.json").read_text())
    (figure,) = report["figures"]
    assert figure["name"] == "idle camera, CPU: key frames / all frames"
    assert 0 < figure["value"] < 1
    assert "| key frames |" in capsys.readouterr().out
