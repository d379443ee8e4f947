"""Folders of images, cameras, several sources, and options that make no sense."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from conftest import RunScript
from pipert_shm import START_EVENT_NAME, BatchRoutine, Pipe, VideoError, VideoInfo, VideoSource, Wire, video_sources
from pipert_shm.extras import to_install
from pipert_shm.video import lateness
from pipert_shm.video.capture import OpenCVCapture
from pipert_shm.video.fit import Wanted
from streams import grey, number_of
from test_video_files import CODECS, COUNT, HEIGHT, WIDTH, play, write
from waiting import eventually

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


# ---- cameras, several sources, options -----------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "error"),
    [
        ("a.mp4", {"backend": "ffmpeg"}, "backend must be one of .*, not 'ffmpeg'"),
        (0, {"backend": "pyav"}, r"a camera \(0\) is read by OpenCV"),
        ("rtsp://u:secret@h/x", {"loop": True}, r"loop is for files, and 'rtsp://u:\*\*\*@h/x' is a live stream"),
        ("/dev/video0", {"realtime": True}, "realtime is for files, and '/dev/video0' is a live stream"),
        ("a.mp4", {"fps": 0}, "fps must be positive, or None for all frames, not 0"),
        ("a.mp4", {"size": (0, 5)}, r"size must be \(width, height\), at least \(1, 1\), not \(0, 5\)"),
        ("a.mp4", {"size": (5,)}, "size must be"),
        ("a.mp4", {"size": 640}, r"size must be \(width, height\), at least \(1, 1\), not 640"),
        ("a.mp4", {"size": (640.5, 360)}, "size must be"),
        ("a.mp4", {"roi": (0.5, 0, "8", 8)}, "roi must be"),
        ("a.mp4", {"roi": (0, 0, 5)}, r"roi must be \(left, top, width, height\)"),
        ("a.mp4", {"roi": (-1, 0, 5, 5)}, "roi must be"),
        ("a.mp4", {"roi": (0, 0, 0, 5)}, "roi must be"),
        ("rtsp://h/x", {"transport": "http"}, "transport must be one of"),
        ("rtsp://h/x", {"transport": "udp", "backend": "opencv"}, "transport='udp' is for PyAV: leave backend='opencv' away"),
        ("a.mp4", {"format": "yuv"}, "format must be one of bgr, rgb, gray, i420, nv12, not 'yuv'"),
        (
            "a.mp4",
            {"format": "i420", "bits": 16},
            "bits must be 8, or 16 with format 'bgr', 'rgb' or 'gray', not 16 with 'i420'",
        ),
        ("a.mp4", {"bits": 12}, "bits must be 8, or 16"),
        ("a.mp4", {"format": "nv12", "size": (63, 48)}, r"size must have even numbers with format 'nv12', not \(63, 48\)"),
        ("a.mp4", {"format": "i420", "roi": (0, 1, 8, 8)}, "roi must have even numbers with format 'i420'"),
        ("a.mp4", {"threads": 0}, "threads must be at least 1, or None, not 0"),
        ("a.mp4", {"skip_frame": "all"}, "skip_frame must be one of noref, nokey, or None, not 'all'"),
        ("a.mp4", {"skip_loop_filter": True}, "skip_loop_filter must be one of noref, nokey, all, or None, not True"),
        ("a.mp4", {"hwaccel": True}, "hwaccel must be 'auto', or a name such as 'cuda', not True"),
        ("a.mp4", {"idle": 0}, "idle must be a number of seconds, more than 0, or None, not 0"),
        ("a.mp4", {"idle": True}, "idle must be a number of seconds"),
        ("a.mp4", {"low_delay": 1}, "low_delay must be True, False or None, not 1"),
        ("http://h/x", {"timeout": "5"}, "timeout must be more than 0 and less than 3600 seconds, not '5'"),
        ("a.mp4", {"idle": 3, "skip_frame": "nokey"}, "skip_frame='nokey' leaves nothing for idle to do"),
        ("a.mp4", {"idle": 3, "backend": "opencv"}, "idle=3 is for PyAV: leave backend='opencv' away"),
        (0, {"threads": 2}, r"a camera \(0\) is read by OpenCV: leave threads=2 away"),
        ("http://h/x", {"transport": "udp", "backend": "pyav"}, "transport='udp' is for an rtsp:// URL"),
        ("http://h/x", {"timeout": 0}, "timeout must be more than 0 and less than 3600 seconds, not 0"),
    ],
)
def test_options_that_are_out_of_range_or_do_not_go_together(source: str | int, options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        VideoSource(source, **options)


def test_a_picture_that_is_too_small_for_planes() -> None:
    with pytest.raises(VideoError, match=r"'a\.mkv' has 1x8 pixels, too few for i420"):
        Wanted("i420", size=(8, 8)).shape("a.mkv", 1, 8)


@pytest.mark.parametrize("source", [None, 1.5, b"a.mp4", True, ["a.mp4"]])
def test_a_source_that_is_none(source: Any) -> None:
    with pytest.raises(TypeError, match="source must be a path, a URL, or a camera's number, not "):
        VideoSource(source)


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
    expected = f"PyAV does not load (No module named 'av'): {to_install('pyav')}\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, expected, "")


class Webcam:
    """Stands in for a camera, which no test machine has: it gives what it is asked for, three frames of it."""

    opened: tuple[int | str, ...] = ()

    def __init__(self, source: int | str) -> None:
        Webcam.opened += (source,)
        self.sizes = {cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FRAME_HEIGHT: 480.0}
        self.left = 3
        self.stamp = 5_000_000.0

    def isOpened(self) -> bool:
        return True

    def set(self, which: int, value: float) -> bool:
        self.sizes[which] = value
        return True

    def get(self, which: int) -> float:
        return self.stamp if which == cv2.CAP_PROP_POS_MSEC else self.sizes.get(which, -1.0)

    def grab(self) -> bool:
        time.sleep(1 / 50)  # as long as a camera lets one wait
        self.left -= 1
        self.stamp += 20
        return self.left >= 0

    def retrieve(self, out: np.ndarray | None = None) -> tuple[bool, np.ndarray | None]:
        return (False, None) if self.left == 1 else (True, np.zeros((int(self.sizes[4]), int(self.sizes[3]), 3), np.uint8))

    def release(self) -> None:
        pass


@pytest.fixture
def webcam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Webcam)
    monkeypatch.setattr(Webcam, "opened", ())


@pytest.mark.usefixtures("webcam")
def test_a_camera_is_asked_for_the_size_and_when_its_frames_were(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = OpenCVCapture(3, Wanted(size=(1280, 720)))
    assert Webcam.opened == (3,)
    assert (capture.info.width, capture.info.height) == (1280, 720)
    stamps = [capture.pts for _ in range(3) if capture.grab()]
    assert stamps == pytest.approx([0, 0.02, 0.04]), "and not since the machine was started"
    monkeypatch.setattr(Webcam, "get", lambda *_: -1.0)
    capture = OpenCVCapture(3)
    assert capture.grab()
    assert capture.pts is None


@pytest.mark.usefixtures("webcam")
def test_a_camera_that_is_gone_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lateness, "OPENING", 0.0)  # so few frames as it has are wanted all
    source = VideoSource(3, size=(1280, 720))
    source.setup()
    shapes = []

    def play_on() -> bool:
        source.meta.captured_ns = 0
        frame = source.main_logic()
        assert (frame is None) == (source.meta.captured_ns == 0), "it is when the frame was grabbed"
        shapes.extend([] if frame is None else [frame.shape])
        return len(shapes) >= 2 and source.counters["reconnects"] >= 2 and source.counters["damaged"] >= 1

    eventually(play_on)
    source.cleanup()
    assert set(shapes) == {(720, 1280, 3)}


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
