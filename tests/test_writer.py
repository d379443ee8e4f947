"""VideoWriter: what it takes, where each frame comes to stand in time, several cameras, and disks that are full."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest

from conftest import RunScript
from media import frames_of, largest_file
from pipert_shm import START_EVENT_NAME, Meta, Pipe, Wire
from pipert_shm.video import VideoError, VideoWriter
from pipert_shm.video.files import Appender, NewFile, free_name, has_room, set_aside, write_all
from pipert_shm.video.timing import Timeline
from routines import Frames

Codec = Literal["mp4v", "h264"]
LOGGER = logging.getLogger("writer")
RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))


@pytest.fixture(params=["h264", "mp4v", "mp4v by OpenCV"])
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Codec:
    """Each of the ways that a video is written."""
    name, _, by = request.param.partition(" by ")
    if by:
        monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    return name  # type: ignore[no-any-return]


def write(writer: VideoWriter, frame: np.ndarray, *, origin: str = "camera", pts: float | None = None) -> None:
    writer.meta = Meta((origin,), 0, 0, 1, pts=pts)
    writer.main_logic(frame)


def written(path: Path, *frames: np.ndarray, codec: Codec, fps: float = 25) -> list[np.ndarray]:
    writer = VideoWriter(path, fps, codec=codec)
    writer.setup()
    for frame in frames:
        write(writer, frame)
    writer.cleanup()
    return list(frames_of(path))


# ---- what it takes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert",
    [
        lambda ramp: ramp,
        lambda ramp: ramp[:, :, None],
        lambda ramp: np.dstack([ramp] * 3),
        lambda ramp: np.dstack([ramp] * 4),
        lambda ramp: np.dstack([ramp] * 4)[::-1, ::-1][::-1, ::-1],
    ],
    ids=["grey", "one channel", "BGR", "BGRA", "a view"],
)
def test_frames_of_any_layout_are_written(tmp_path: Path, codec: Codec, convert: Callable[[np.ndarray], np.ndarray]) -> None:
    frames = written(tmp_path / "out.mp4", *[convert(RAMP)] * 3, codec=codec)
    assert len(frames) == 3
    assert np.abs(frames[0].astype(int) - RAMP[:, :, None]).max() < 25


BAD: dict[str, tuple[Any, str]] = {
    "16 bits": (RAMP.astype(np.uint16), r"\(frame >> 8\)"),
    "floats": (RAMP / 255, "255 \\* frame"),
    "bools": (RAMP > 9, r"frame.astype\(np.uint8\) \* 255"),
    "two channels": (np.zeros((48, 64, 2), np.uint8), r"shape \(48, 64, 2\)"),
    "a batch": (np.zeros((2, 48, 64, 3), np.uint8), "shape"),
    "nothing": (np.zeros((0, 64, 3), np.uint8), "at least one pixel"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_it_does_not_take_is_an_error_that_says_so_and_costs_nothing_else(tmp_path: Path, codec: Codec, name: str) -> None:
    frame, advice = BAD[name]
    writer = VideoWriter(tmp_path / "out.mp4", codec=codec)
    writer.setup()
    for _ in range(2):
        with pytest.raises(VideoError, match=advice):
            write(writer, frame)
        write(writer, RAMP)
    writer.cleanup()
    assert len(list(frames_of(writer.path))) == 2


@pytest.mark.parametrize("name", BAD)
def test_with_nothing_that_it_takes_it_ends_cleanly(tmp_path: Path, codec: Codec, name: str) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", codec=codec)
    writer.setup()
    with pytest.raises(VideoError):
        write(writer, BAD[name][0])
    writer.cleanup()
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_no_encoder_takes_is_an_error(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", codec="h264")
    writer.setup()
    with pytest.raises(VideoError, match="check that the codec takes frames of this size"):
        write(writer, np.zeros((20, 20_000), np.uint8))
    with pytest.raises(VideoError):
        writer.cleanup()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (2, 5), (65, 67)])
def test_odd_sizes_lose_a_pixel_at_most(tmp_path: Path, codec: Codec, size: tuple[int, int]) -> None:
    (frame,) = written(tmp_path / "out.mp4", np.full((size[1], size[0], 3), 90, np.uint8), codec=codec)
    assert abs(frame.shape[1] - size[0]) <= 1
    assert abs(frame.shape[0] - size[1]) <= 1
    assert np.abs(frame.astype(int) - 90).max() < 6


def test_a_size_that_changes_is_fitted_in_and_told_once(tmp_path: Path, codec: Codec, caplog: pytest.LogCaptureFixture) -> None:
    small = np.full((24, 24), 50, np.uint8)
    frames = written(tmp_path / "out.mp4", RAMP, small, small, RAMP, codec=codec)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 4
    assert [record.getMessage() for record in caplog.records] == [
        f"frames of 24x24 are fitted into {tmp_path / 'out.mp4'}, which has 64x48"
    ]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov"])
def test_the_suffix_says_the_format(tmp_path: Path, suffix: str) -> None:
    assert len(written(tmp_path / f"out{suffix}", *[RAMP] * 5, codec="h264")) == 5


def test_names_with_colons_are_files(tmp_path: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(Path("2026-11-28T12:30:05.mp4"), RAMP, codec=codec)
    assert len(list(frames_of(tmp_path / "2026-11-28T12:30:05.mp4"))) == 1


# ---- time ------------------------------------------------------------------------------------------


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time or 0.0 for frame in container.decode(video=0)]


def test_frames_stand_where_their_stamps_say(tmp_path: Path) -> None:
    """A live stream at ten a second, of which some were passed over, plays as fast as it was, whatever `fps` says."""
    stamps = [7.0, 7.1, 7.2, 7.5, 7.6, 9.0]
    writer = VideoWriter(tmp_path / "out.mp4", 25, codec="h264")
    writer.setup()
    for stamp in stamps:
        write(writer, RAMP, pts=stamp)
    writer.cleanup()
    assert times_of(writer.path) == pytest.approx([stamp - 7 for stamp in stamps])


@pytest.mark.parametrize("fps", [25, 30000 / 1001, 0.5, 120])
def test_without_stamps_they_come_at_the_rate(tmp_path: Path, fps: float) -> None:
    written(tmp_path / "out.mp4", *[RAMP] * 10, codec="h264", fps=fps)
    assert times_of(tmp_path / "out.mp4") == pytest.approx([number / fps for number in range(10)], abs=1e-4)


def test_opencv_repeats_frames_that_are_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    writer = VideoWriter(tmp_path / "out.mp4", 10)
    writer.setup()
    for number, stamp in enumerate([0, 0.1, 0.5, 0.6]):
        write(writer, np.full((48, 64), 60 * number, np.uint8), pts=stamp)
    writer.cleanup()
    assert [round(frame.mean() / 60) for frame in frames_of(writer.path)] == [0, 1, 1, 1, 1, 2, 3]


def test_stamps_that_do_not_move_on_are_placed_by_the_rate() -> None:
    timeline = Timeline(10)
    places = [timeline.place(pts) for pts in (3.0, 3.0, 2.9, 900.0, 900.5, None, None, 0.0)]
    assert places == pytest.approx([0, 0.1, 0.2, 0.3, 0.8, 0.9, 1.0, 1.1])


# ---- several cameras -------------------------------------------------------------------------------


def levels_in(folder: Path) -> dict[str, list[int]]:
    return {path.name: [round(frame.mean()) for frame in frames_of(path)] for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "files"),
    [("out.mp4", ("out-gate.mp4", "out-door.mp4")), ("{origin}/day.mp4", ("gate/day.mp4", "door/day.mp4"))],
)
def test_each_camera_has_a_file(tmp_path: Path, codec: Codec, name: str, files: tuple[str, str]) -> None:
    writer = VideoWriter(tmp_path / name, codec=codec)
    writer.setup()
    for number in range(12):
        origin = "gate" if number < 3 or number % 2 else "door"
        shape = (48, 64) if origin == "gate" else (32, 40)
        write(writer, np.full(shape, 100 if origin == "gate" else 200, np.uint8), origin=origin)
    writer.cleanup()
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.mp4")}
    assert found == set(files)
    gate, door = ([round(float(frame.mean()), -1) for frame in frames_of(tmp_path / file)] for file in files)
    assert (gate, door) == ([100] * 8, [200] * 4)


def test_cameras_of_an_earlier_run_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        writer = VideoWriter(tmp_path / "out.mp4", codec="mp4v")
        writer.setup()
        write(writer, RAMP, origin="gate")
        write(writer, RAMP, origin="door")
        writer.cleanup()
    assert {path.name for path in tmp_path.iterdir()} == {"out-gate.mp4", "out-gate-1.mp4", "out-door.mp4", "out-door-1.mp4"}
    kept = [record.getMessage() for record in caplog.records if "was there before" in record.getMessage()]
    assert kept == [
        f"{tmp_path / name}.mp4 was there before; it is kept as {tmp_path / name}-1.mp4" for name in ("out-gate", "out-door")
    ]


def test_two_cameras_on_one_writer_in_a_pipe(tmp_path: Path) -> None:
    cameras = [Frames("gate", 20), Frames("door", 30)]
    writer = VideoWriter(tmp_path / "out.mp4", name="writer")
    with Pipe(policy="block") as pipe:
        for routine in (*cameras, writer):
            pipe.create_flow(routine.name, False, routine)
        pipe.link(*(Wire(camera, writer) for camera in cameras))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    assert pipe.statistics().routines["writer"].errors == 0
    assert {path.name: len(list(frames_of(path))) for path in tmp_path.iterdir()} == {"out-gate.mp4": 20, "out-door.mp4": 30}


# ---- full disks ------------------------------------------------------------------------------------


NOISE = np.random.default_rng(1).integers(0, 255, (5, 120, 160, 3), np.uint8)


def ends_with_a_whole_box(path: Path) -> bool:
    data, at = path.read_bytes(), 0
    while at < len(data):
        at += int.from_bytes(data[at : at + 4], "big") or len(data)
    return at == len(data)


@pytest.mark.parametrize("kind", ["h264", "mp4v"])
def test_a_full_disk_costs_what_it_does_not_take_and_no_more(tmp_path: Path, kind: Codec) -> None:
    writer = VideoWriter(tmp_path / "new" / "out.mp4", codec=kind)
    writer.setup()
    told = []
    for number in range(150):
        with largest_file(500_000 if number < 75 else 10**9):
            try:
                write(writer, NOISE[number % 5])
            except VideoError as error:
                told.append(str(error))
    writer.cleanup()
    assert "full: make room; it goes on by itself then" in told[0]
    counts = {path.name: len(list(frames_of(path))) for path in (tmp_path / "new").iterdir()}
    assert counts["out.mp4"] >= 10, "what was written before can be played"
    assert sum(counts.values()) >= 150 - 30 * len(told)
    assert max(counts.values()) >= 75, "what comes afterwards is written"
    assert all(map(ends_with_a_whole_box, (tmp_path / "new").iterdir()))


@pytest.mark.parametrize("kind", ["h264", "mp4v"])
@pytest.mark.parametrize("room", [0, 20, 200, 1000])
def test_an_end_that_does_not_fit_costs_no_whole_piece(tmp_path: Path, kind: Codec, room: int) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", codec=kind)
    writer.setup()
    for number in range(50):
        write(writer, np.full((64, 64, 3), 5 * number, np.uint8))
    with largest_file(writer.path.stat().st_size + room), pytest.raises(VideoError, match="can't write the video"):
        writer.cleanup()
    assert len(list(frames_of(writer.path))) >= 37
    assert ends_with_a_whole_box(writer.path)


def test_a_disk_that_stays_full_is_told_at_the_end_too(tmp_path: Path, run_script: RunScript) -> None:
    end = run_script(
        f"""
        import resource, sys
        from pipert_shm import Pipe, VideoWriter
        import numpy as np
        from pipert_shm import SourceRoutine, EndOfStream, Wire

        class Camera(SourceRoutine):
            def main_logic(self):
                if self.meta.sequence == 100:
                    raise EndOfStream
                return np.zeros((64, 64, 3), np.uint8)

        class Full(VideoWriter):
            def setup(self):
                super().setup()
                sys.dont_write_bytecode = True  # or half a file of a module that is imported from here on
                resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))

        import logging
        logging.disable(logging.CRITICAL)
        pipe = Pipe(policy="block")
        camera, writer = Camera("camera"), Full({str(tmp_path / "out.mp4")!r}, name="writer")
        pipe.create_flow("a", False, camera)
        pipe.create_flow("b", False, writer)  # alone, since its limit is that of all that its process writes
        pipe.link(Wire(camera, writer))
        pipe.build()
        pipe.notify_event("start")
        try:
            pipe.join()
        except Exception as error:
            print(error)
        print(pipe.statistics().routines["writer"].errors > 0)
        """
    )
    assert "cleanup of routine 'writer' failed: VideoError: can't write the video" in end.lines[0]
    assert end.lines[1:] == ["True"]


def test_a_file_of_records_takes_back_what_does_not_fit(tmp_path: Path) -> None:
    file = Appender(tmp_path / "lines")
    kept = []
    for number in range(30):
        with largest_file(1000 if number < 20 else 10**6), contextlib.suppress(OSError):
            file.append(b"%d " % number * 30 + b"end\n")
            kept.append(number)
    file.close()
    lines = (tmp_path / "lines").read_text().splitlines()
    assert 10 < len(kept) < 30
    assert all(line.endswith("end") for line in lines)
    assert [int(line.split()[0]) for line in lines] == kept


def append_until_full(path: Path, letter: str) -> None:
    file = Appender(path)
    with largest_file(300_000):
        for number in range(400):
            with contextlib.suppress(OSError):
                file.append(letter.encode() * (900 + number) + b"\n")
    file.close()


def test_lines_of_several_processes_stay_whole_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append_until_full, args=(path, letter)) for letter in "ab"]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    *lines, end = path.read_bytes().split(b"\n")
    assert end == b""
    assert len(lines) > 100
    assert [line for line in lines if len(set(line)) != 1 or len(line) < 900] == []


def test_an_append_waits_for_another_process(tmp_path: Path) -> None:
    file, other = Appender(tmp_path / "lines"), os.open(tmp_path / "lines", os.O_WRONLY | os.O_APPEND)
    fcntl.flock(other, fcntl.LOCK_EX)
    thread = threading.Thread(target=file.append, args=(b"second\n",))
    thread.start()
    os.write(other, b"fir")
    thread.join(0.05)
    os.write(other, b"st\n")
    os.close(other)
    thread.join()
    file.close()
    assert (tmp_path / "lines").read_text() == "first\nsecond\n"


def test_of_a_disk_that_has_no_room_at_all_no_file_is_left(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", codec="h264")
    writer.setup()
    with largest_file(100):
        for _ in range(40):
            with contextlib.suppress(VideoError):
                write(writer, RAMP)
        with pytest.raises(VideoError):
            writer.cleanup()
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_taken_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to("nowhere")
    (tmp_path / "a-1.mp4").mkdir()
    assert free_name(tmp_path / "a.mp4") == tmp_path / "a-2.mp4"
    Appender(tmp_path / "b").close()
    assert free_name(tmp_path / "b") == tmp_path / "b-1"
    assert has_room(tmp_path / "b", 1)
    assert not has_room(tmp_path / "b", 1 << 60)


# ---- several writers of one path -------------------------------------------------------------------


def test_two_writers_of_one_path_have_a_file_each(tmp_path: Path, codec: Codec, caplog: pytest.LogCaptureFixture) -> None:
    """Whichever opens first, and also when both have a second camera, by which their files are called then."""
    writers = [VideoWriter(tmp_path / "out.mp4", codec=codec) for _ in range(3)]
    for writer in writers:
        writer.setup()
    for origin, number in (("gate", 3), ("door", 2)):
        for _ in range(number):
            for writer in writers:
                write(writer, RAMP, origin=origin)
    assert sum("another writer has" in record.getMessage() for record in caplog.records) >= 2
    for writer in writers:
        writer.cleanup()
    frames = {path.stem: len(list(frames_of(path))) for path in tmp_path.iterdir()}
    assert frames == {f"out-{name}{more}": n for name, n in (("gate", 3), ("door", 2)) for more in ("", "-1", "-2")}


def test_a_new_file_takes_no_name_that_another_has(tmp_path: Path) -> None:
    """Empty ones that a writer has are its own; those that nobody has may be taken; an earlier run's are kept."""
    path = tmp_path / "out.bin"
    first, second = NewFile(path), NewFile(path)
    assert (first.path, second.path) == (path, tmp_path / "out-1.bin")
    write_all(first.fd, b"first")
    set_aside(path, LOGGER)
    assert path.read_bytes() == b"first"
    first.close()
    set_aside(path, LOGGER)
    assert (tmp_path / "out-2.bin").read_bytes() == b"first"
    path.touch()
    third = NewFile(path)
    assert third.path == path
    second.rename(path)
    assert second.path not in (path, tmp_path / "out-2.bin")
    for file in (second, third):
        file.close()
    assert [left.read_bytes() for left in tmp_path.iterdir()] == [b"first"]


def test_sizes_that_keep_changing_are_not_told_of_without_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "out.mp4", *(np.zeros((48 + n, 64 + n), np.uint8) for n in range(20)), codec="mp4v")
    assert 0 < len(caplog.records) < 6
    assert "not told of" in caplog.records[-1].getMessage()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("codec", ["h264", "mp4v"])
def test_a_file_that_is_not_ended_lacks_half_a_second_at_most(tmp_path: Path, suffix: str, codec: Codec) -> None:
    """As one whose process is killed."""
    writer = VideoWriter(tmp_path / f"out{suffix}", 20, codec=codec)
    writer.setup()
    for _ in range(75):
        write(writer, RAMP)
    assert len(list(frames_of(writer.path))) >= 75 - 20 / 2 - 1
    writer.cleanup()
    assert len(list(frames_of(writer.path))) == 75
