"""Files: codecs, cut and damaged ones, folders of images; and what is done with their frames."""

from __future__ import annotations

import http.server
import random
import threading
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from conftest import RunScript
from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    BatchRoutine,
    EndOfStream,
    Pipe,
    PipeFailed,
    VideoError,
    VideoInfo,
    VideoSource,
    Wire,
    video_sources,
)
from pipert_shm.video import source as source_module
from pipert_shm.video import timing
from pipert_shm.video.capture import OpenCVCapture
from pipert_shm.video.source import Backend
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
    assert pipe.statistics().routines["camera"].counters == {"connected": 0, "reconnects": 0, "skipped": 0, "damaged": 0}


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


# ---- folders -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images, 0.png to 11.png, and a file that is none."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(12):
        cv2.imwrite(str(folder / f"{number}.png"), grey(number, WIDTH, HEIGHT))
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_a_folder_is_a_video(folder: Path) -> None:
    frames = play(VideoSource(folder, fps=10))
    assert [number_of(frame) for frame, _ in frames] == list(range(12)), "by number, not by letter"
    assert [pts for _, pts in frames] == pytest.approx([number / 10 for number in range(12)])
    assert VideoInfo.of(folder) == VideoInfo(WIDTH, HEIGHT, 25.0, 12)


def test_images_that_are_damaged_or_of_another_size(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "4.png").write_text("no image")
    cv2.imwrite(str(folder / "6.png"), grey(6, 2 * WIDTH, HEIGHT))
    source = VideoSource(folder)
    frames = play(source)
    assert [number_of(frame) for frame, _ in frames] == [1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert [frame.shape[1] for frame, _ in frames] == [WIDTH * (2 if number == 4 else 1) for number in range(10)]
    assert source.counters["damaged"] == 2
    assert caplog.text.count("1 damaged frames of") == 2


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"there is no image in it \(\.bmp, .*; check the path and its files"):
        VideoSource(tmp_path).setup()
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(VideoError, match="none of the images in it can be read"):
        VideoInfo.of(tmp_path)


# ---- options, cameras, several sources -----------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "error"),
    [
        ("a.mp4", {"backend": "gstreamer"}, r"backend must be one of \('opencv', 'pyav'\), not 'gstreamer'"),
        (0, {"backend": "pyav"}, r"a camera \(0\) is read by OpenCV"),
        ("rtsp://u:secret@h/x", {"loop": True}, r"loop is for files, and 'rtsp://u:\*\*\*@h/x' is a live stream"),
        ("/dev/video0", {"realtime": True}, "realtime is for files, and '/dev/video0' is a live stream"),
        ("a.mp4", {"fps": 0}, "fps must be positive, or None for all frames, not 0"),
        ("a.mp4", {"size": (0, 5)}, r"size must be \(width, height\), at least \(1, 1\), not \(0, 5\)"),
        ("a.mp4", {"size": (5,)}, "size must be"),
        ("a.mp4", {"roi": (0, 0, 5)}, r"roi must be \(left, top, width, height\)"),
        ("a.mp4", {"roi": (-1, 0, 5, 5)}, "roi must be"),
        ("a.mp4", {"roi": (0, 0, 0, 5)}, "roi must be"),
        ("rtsp://h/x", {"transport": "http"}, "transport must be one of"),
        ("rtsp://h/x", {"transport": "udp"}, r"transport='udp' is for an rtsp:// URL with backend='pyav'"),
        ("http://h/x", {"transport": "udp", "backend": "pyav"}, "transport='udp' is for an rtsp:// URL"),
        ("http://h/x", {"timeout": 0}, "timeout must be more than 0 and less than 3600 seconds, not 0"),
    ],
)
def test_options_that_are_out_of_range_or_do_not_go_together(source: str | int, options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        VideoSource(source, **options)


def test_what_is_live_by_its_name() -> None:
    live: list[str | int] = [0, "/dev/video2", "/dev/v4l/by-id/usb-cam", "rtsp://h/x", "http://h/x", "udp://@:5000"]
    assert all(VideoSource(each).live for each in live)
    files: list[str | Path] = ["a.mp4", Path("a.mp4"), "file:///a.mp4", "images/"]
    assert not any(VideoSource(each).live for each in files)


def test_a_backend_that_is_not_installed_says_what_to_install(tmp_path: Path, run_script: RunScript) -> None:
    (tmp_path / "av.py").write_text("raise ModuleNotFoundError(\"No module named 'av'\")")  # beside the script
    ended = run_script(
        """
        from pipert_shm import VideoSource
        VideoSource("a.mp4")
        try:
            VideoSource("a.mp4", backend="pyav")
        except ImportError as error:
            print(error)
        """
    )
    expected = "PyAV does not load (No module named 'av'): pip install 'pipert_shm[pyav]'\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, expected, "")


class Webcam:
    """Stands in for a camera, which no test machine has: it gives what it is asked for, three frames of it."""

    asked: tuple[int, int] = (640, 480)
    opened: tuple[int | str, ...] = ()

    def __init__(self, source: int | str) -> None:
        Webcam.opened += (source,)
        self.sizes = {cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FRAME_HEIGHT: 480.0}
        self.left = 3

    def isOpened(self) -> bool:
        return True

    def set(self, which: int, value: float) -> bool:
        self.sizes[which] = value
        return True

    def get(self, which: int) -> float:
        return self.sizes.get(which, -1.0)

    def grab(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def retrieve(self, out: np.ndarray | None = None) -> tuple[bool, np.ndarray | None]:
        return (False, None) if self.left == 1 else (True, np.zeros((int(self.sizes[4]), int(self.sizes[3]), 3), np.uint8))

    def release(self) -> None:
        pass


def test_a_camera_is_asked_for_the_size_and_opened_again_when_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Webcam)
    capture = OpenCVCapture(3, size=(1280, 720))
    assert Webcam.opened == (3,)
    assert (capture.info.width, capture.info.height) == (1280, 720)
    source = VideoSource(3, size=(1280, 720))
    source.setup()
    frames = 0
    while source.counters["reconnects"] < 2:
        source.meta.captured_ns = 0
        frame = source.main_logic()
        frames += frame is not None
        assert (frame is None) == (source.meta.captured_ns == 0), "it is when the frame was grabbed"
        assert frame is None or frame.shape == (720, 1280, 3)
    source.cleanup()
    assert frames
    assert source.counters["damaged"] >= 1


def test_a_detector_for_several_sources(tmp_path: Path) -> None:
    class Detector(BatchRoutine):
        def main_logic(self, batch: list[np.ndarray]) -> None:
            with (tmp_path / "got").open("a") as file:
                file.writelines(f"{meta.origin}\n" for meta in self.metas)

    paths = [write(tmp_path, *CODECS[0]), write(tmp_path, *CODECS[1]), write(tmp_path, *CODECS[2])]
    detector = Detector("detector", batch_size=3, max_wait=0.05)
    with Pipe(policy="block") as pipe:
        pipe.create_flow("detect", False, detector)
        for camera in video_sources(paths, "gate", size=(64, 48)):
            pipe.create_flow(camera.name, False, camera)
            pipe.link(Wire(camera, detector))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    origins = (tmp_path / "got").read_text().split()
    assert {name: origins.count(name) for name in origins} == {f"gate-{place}": COUNT for place in range(3)}
    with pytest.raises(ValueError, match="there must be at least one source"):
        video_sources([])


def test_a_source_that_goes_wrong_in_the_pipe_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, "mp4v", "mp4")
    pipe = Pipe()
    chain(pipe, VideoSource(path, "camera", roi=(0, 0, 999, 9)), Record("record", tmp_path / "got"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    with pytest.raises(PipeFailed, match="give another roi"):
        pipe.join()
