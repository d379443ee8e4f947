"""Files: codecs, cut and damaged ones, folders of images; and what is done with their frames."""

from __future__ import annotations

import http.server
import random
import sys
import threading
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    EndOfStream,
    Meta,
    Pipe,
    PipeFailed,
    VideoError,
    VideoSource,
    VideoWriter,
)
from pipert_shm.video import source as source_module
from pipert_shm.video import timing
from pipert_shm.video.opening import Backend
from pipert_shm.video.timing import Playback, Thinning
from routines import Record, chain, received
from streams import FPS, grey, number_of, write_h264
from test_video import clip
from waiting import eventually

COUNT = 60
WIDTH, HEIGHT = 160, 120
CODECS = [("mp4v", "mp4"), ("MJPG", "avi"), ("XVID", "avi"), ("VP80", "webm"), ("FFV1", "mkv"), ("H264", "mp4")]


def write(directory: Path, codec: str, suffix: str) -> Path:
    """A video of numbered frames."""
    path = directory / f"{codec}.{suffix}"
    if codec == "H264":
        write_h264(path, WIDTH, HEIGHT, COUNT)
        return path
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), FPS, (WIDTH, HEIGHT))
    for number in range(COUNT):
        writer.write(grey(number, WIDTH, HEIGHT))
    writer.release()
    return path


def play(source: VideoSource) -> list[tuple[np.ndarray, float | None]]:
    """All frames and their stamps, without a pipe."""
    frames: list[tuple[np.ndarray, float | None]] = []
    source.setup()
    while True:
        source.meta.pts = None
        try:
            frame = source.main_logic()
        except EndOfStream:
            break
        if frame is not None:
            frames.append((frame, source.meta.pts))
    source.cleanup()
    return frames


def close_to(frames: list[tuple[np.ndarray, float | None]], numbers: list[int]) -> bool:
    """Whether they are the frames of these numbers, as well as a codec keeps them, where they belong."""
    return len(frames) == len(numbers) and all(
        abs(number_of(frame) - number) <= 4 and pts == pytest.approx(number / FPS, abs=0.002)
        for (frame, pts), number in zip(frames, numbers, strict=True)
    )


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
@pytest.mark.parametrize(("codec", "suffix"), CODECS)
def test_all_frames_come_in_order_and_say_where_they_stand(tmp_path: Path, codec: str, suffix: str, backend: Backend) -> None:
    assert close_to(play(VideoSource(write(tmp_path, codec, suffix), backend=backend)), list(range(COUNT)))


def test_both_backends_give_the_same_frames() -> None:
    ours, theirs = (play(VideoSource(clip(), backend=backend)) for backend in ("opencv", "pyav"))
    assert len(ours) == len(theirs) == 250
    for (a, at), (b, bt) in zip(ours, theirs, strict=True):
        assert np.array_equal(a, b)
        assert at == pytest.approx(bt)


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
def test_stamps_travel_and_pyav_copies_nothing_more(tmp_path: Path, backend: Backend) -> None:
    class Stamps(Record):
        def main_logic(self, data: np.ndarray) -> None:
            super().main_logic(self.meta.pts)

    source = VideoSource(write(tmp_path, "FFV1", "mkv"), "camera", backend=backend)
    with Pipe(policy="block") as pipe:
        chain(pipe, source, Stamps("stamps", tmp_path / "got"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    stamps = [message.value for message in received(tmp_path / "got")]
    assert stamps == pytest.approx([number / FPS for number in range(COUNT)])
    assert pipe.statistics().routines["camera"].copied_bytes == 0
    assert pipe.statistics().routines["camera"].counters == dict.fromkeys(VideoSource.counter_names, 0)


# ---- what is wrong with files --------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
@pytest.mark.parametrize(("codec", "suffix"), CODECS)
def test_a_file_that_was_cut(
    tmp_path: Path, codec: str, suffix: str, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """What is there is delivered, unless the index, which MP4 has at its end, is missing."""
    path = write(tmp_path, codec, suffix)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    source = VideoSource(path, backend=backend)
    if suffix == "mp4":
        with pytest.raises(VideoError, match=f"can't open the video '{path}': .*check it with ffprobe"):
            source.setup()
        return
    frames = play(source)
    assert close_to(frames[:-1], list(range(len(frames) - 1)))  # the last one may be half there
    assert COUNT / 4 < len(frames) < COUNT
    if suffix != "webm":  # whose header says how long it is at its end
        assert f"not the {COUNT} that its header tells of: it may be cut or damaged" in caplog.text


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
@pytest.mark.parametrize(("codec", "suffix"), CODECS)
def test_a_file_with_damage_in_the_middle(tmp_path: Path, codec: str, suffix: str, backend: Backend) -> None:
    """Frames before it come as they are, and it ends."""
    path = write(tmp_path, codec, suffix)
    data = bytearray(path.read_bytes())
    begin, end = len(data) * 6 // 10, len(data) * 8 // 10
    data[begin:end] = random.Random(5).randbytes(end - begin)
    path.write_bytes(data)
    frames = play(VideoSource(path, backend=backend))
    assert len(frames) <= COUNT
    assert close_to(frames[:10], list(range(10)))


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
@pytest.mark.parametrize(("codec", "suffix"), [("mp4v", "mp4"), ("MJPG", "avi"), ("XVID", "avi")])
def test_damaged_frames_are_counted_and_the_others_come(
    tmp_path: Path, codec: str, suffix: str, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, codec, suffix)
    with av.open(str(path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for place, size in packets[30:32]:
        data[place : place + size] = bytes(size)
    path.write_bytes(data)
    source = VideoSource(path, backend=backend)
    frames = play(source)
    assert close_to(frames[:30], list(range(30)))
    assert [pts for _, pts in frames[30:]] == pytest.approx([number / FPS for number in range(32, COUNT)])
    assert source.counters["damaged"] == 2
    assert f"2 damaged frames of '{path}', before 31, are left out" in caplog.text
    assert "it may be cut" not in caplog.text


def test_a_file_of_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(VideoError, match="there is no video in it, only sound perhaps"):
        VideoSource(path, backend="pyav").setup()


# ---- what is done with their frames --------------------------------------------------------------


class Clock:
    """Stands in for the `time` module: time passes only in `sleep`, and by `work`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(source_module, "time", clock)
    return clock


def test_a_file_plays_at_its_own_speed(tmp_path: Path, clock: Clock) -> None:
    source = VideoSource(write(tmp_path, "mp4v", "mp4"), realtime=True)
    source.setup()
    at = []
    for _ in range(COUNT):
        assert source.main_logic() is not None
        at.append(clock.now - 100)
    source.cleanup()
    assert at == pytest.approx([number / FPS for number in range(COUNT)])


def test_delays_are_made_up_for_and_jumps_are_not_waited_for(clock: Clock) -> None:
    playback = Playback()
    assert playback.left(0.0) == 0
    assert playback.left(0.4) == pytest.approx(0.4)
    clock.now += 0.9
    assert playback.left(0.4) == pytest.approx(-0.5)
    assert playback.left(1.0) == pytest.approx(0.1), "on time again"
    clock.now += 5
    assert playback.left(1.04) == pytest.approx(0), "too late to make up for"
    assert playback.left(1.14) == pytest.approx(0.1)
    assert playback.left(900.0) == pytest.approx(0), "a jump forwards"
    assert playback.left(900.1) == pytest.approx(0.1)
    assert playback.left(0.0) == pytest.approx(0), "a jump back"
    assert playback.left(None) == 0


def test_thinning_keeps_its_rate_over_gaps_and_new_beginnings() -> None:
    thinning = Thinning(5)
    taken = [number for number in range(50) if thinning.takes(number / FPS)]
    assert taken == list(range(0, 50, 5))
    assert [thinning.takes(at) for at in (60.0, 60.04, 60.2)] == [True, False, True]
    assert [thinning.takes(at) for at in (0.0, 0.04, 0.2)] == [True, False, True]
    assert thinning.takes(None)


def test_a_long_wait_for_the_next_frame_heeds_a_stop(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), grey(number, WIDTH, HEIGHT))
    source = VideoSource(tmp_path, "camera", realtime=True, fps=1 / 50)
    with Pipe() as pipe:
        chain(pipe, source, Record("record", tmp_path / "got", number_of))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["record"].received == 1)
        pipe.notify_event(STOP_EVENT_NAME, specific_routine="camera")
        eventually(lambda: pipe.statistics().routines["camera"].state == "stopped")
        pipe.join(to_kill=True)


def test_fewer_frames_a_second_of_the_video(tmp_path: Path) -> None:
    source = VideoSource(write(tmp_path, "FFV1", "mkv"), fps=10)
    assert close_to(play(source), [number + shift for number in range(0, COUNT, 5) for shift in (0, 3)])
    assert source.counters["skipped"] == COUNT - 2 * COUNT // 5


def test_a_loop_begins_again(tmp_path: Path) -> None:
    source = VideoSource(write(tmp_path, "FFV1", "mkv"), loop=True)
    source.setup()
    frames: list[tuple[np.ndarray, float | None]] = []
    while len(frames) < 2 * COUNT + 5:
        frame = source.main_logic()
        frames += [] if frame is None else [(frame, source.meta.pts)]
    source.cleanup()
    assert close_to(frames, [*range(COUNT), *range(COUNT), *range(5)])


def test_a_part_of_each_frame_is_sent_as_a_view_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), FPS, (WIDTH, HEIGHT))
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame[30:70, 20:120] = 200
    for _ in range(5):
        writer.write(frame)
    writer.release()
    source = VideoSource(path, "camera", roi=(20, 30, 100, 40))
    with Pipe(policy="block") as pipe:
        record = Record("record", tmp_path / "got", lambda part: (part.shape, np.unique(part).tolist()))
        chain(pipe, source, record)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    assert [message.value for message in received(tmp_path / "got")] == [((40, 100, 3), [200])] * 5
    assert pipe.statistics().routines["camera"].copied_bytes == 0


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
@pytest.mark.parametrize(("roi", "size"), [(None, (80, 60)), (None, (320, 240)), ((40, 40, 80, 40), (40, 20))])
def test_frames_at_another_size(
    tmp_path: Path, backend: Backend, roi: tuple[int, int, int, int] | None, size: tuple[int, int]
) -> None:
    source = VideoSource(write(tmp_path, "FFV1", "mkv"), "camera", backend=backend, roi=roi, size=size)
    with Pipe(policy="block") as pipe:
        record = Record("record", tmp_path / "got", lambda frame: (frame.shape, number_of(frame)))
        chain(pipe, source, record)
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    got = [message.value for message in received(tmp_path / "got")]
    assert [shape for shape, _ in got] == [(size[1], size[0], 3)] * COUNT
    assert all(abs(found - number) <= 1 for number, (_, found) in enumerate(got))
    assert pipe.statistics().routines["camera"].copied_bytes == 0


def test_a_part_that_no_frame_has_is_an_error_at_once(tmp_path: Path) -> None:
    source = VideoSource(write(tmp_path, "mp4v", "mp4"), roi=(100, 0, 61, 50))
    with pytest.raises(VideoError, match=r"the part \(100, 0, 61, 50\) .* which are 160x120: give another roi"):
        source.setup()
    source.cleanup()


def test_a_file_behind_an_url_is_read_whole_if_it_is_called_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "MJPG", "avi")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/{path.name}"
        frames = play(VideoSource(url, live=False))
        assert "live=False" not in caplog.text
        play(VideoSource(url, reconnect=False))
        assert f"{url!r} has an end (after {COUNT} frames), but is read as a live stream: give live=False" in caplog.text
        server.shutdown()
        thread.join()
    assert close_to(frames, list(range(COUNT)))


def test_a_source_that_goes_wrong_in_the_pipe_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, "mp4v", "mp4")
    pipe = Pipe()
    chain(pipe, VideoSource(path, "camera", roi=(0, 0, 999, 9)), Record("record", tmp_path / "got"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    with pytest.raises(PipeFailed, match="give another roi"):
        pipe.join()


@pytest.mark.parametrize("by", ["OpenCV and PyAV", "OpenCV"])
def test_names_that_are_not_utf8_are_read_or_refused(tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV would crash, and with it the flow. Pictures are read in any case."""
    path = tmp_path / "\udcff.mp4"
    writer = VideoWriter(path, codec="mp4v")
    writer.setup()
    writer.meta = Meta(("camera",), 0, 0, 1)
    writer.main_logic(np.zeros((48, 64), np.uint8))
    writer.cleanup()
    folder = tmp_path / "\udcfe"
    folder.mkdir()
    (folder / "\udcfd.png").write_bytes(cv2.imencode(".png", np.zeros((48, 64), np.uint8))[1].tobytes())
    if by == "OpenCV":
        monkeypatch.setattr("pipert_shm.video.opening.find_spec", lambda name: None)
        with pytest.raises(VideoError, match="is not UTF-8"):
            VideoSource(path).setup()
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(VideoError, match="is not UTF-8"):
            writer.setup()
    else:
        assert frames_sent(VideoSource(path)) == 1
    assert frames_sent(VideoSource(folder)) == 1


def frames_sent(source: VideoSource) -> int:
    """How many frames it reads, but for their pixels."""
    source.setup()
    assert source._capture is not None
    number = sum(1 for _ in iter(source._capture.grab, False))
    source.cleanup()
    return number
