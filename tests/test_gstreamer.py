"""Videos that the system's GStreamer reads: files, RTSP, and pipelines; its pictures beside PyAV's."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import av
import cv2
import numpy as np
import pytest

import streams
from conftest import RunScript
from media import bikes, frames_of
from pipert_shm import START_EVENT_NAME, Pipe, VideoError, VideoSource
from pipert_shm.binding import now_ns
from pipert_shm.data import FORMATS
from pipert_shm.system import forked
from pipert_shm.video.capture import Capture, Source, is_pipeline
from pipert_shm.video.fit import Wanted
from pipert_shm.video.formats import is_planar
from pipert_shm.video.pyav import PyAVCapture
from routines import Record, chain, received
from streams import FPS, Server, free_port, listens, serve_rtsp
from waiting import PATIENCE, eventually

try:
    from pipert_shm.video.gstreamer import GStreamerCapture
except ImportError as missing:
    pytest.skip(str(missing), allow_module_level=True)

T = TypeVar("T")
PLUGINS = next(iter(sorted(Path("/usr").glob("lib*/**/gstreamer-1.0/libgstcoreelements.so"))), Path("/none/x")).parent
SMALL, LARGE = (160, 120), (320, 240)
ONE = 1 << 16  # a number of the matrix by which a picture is turned
CLOSE = 38.0  # dB, between two backends' pictures of the same frame
NEAR = 36.0  # the same for small frames, in which a mean of neighbouring colours counts for more
SIZES = [(320, 240), (178, 100), (854, 480), (177, 99), (65, 33)]


def apart(work: Callable[[], T]) -> T:
    """Does it in a process of its own, since no flow that is forked from one that has started GStreamer can use it."""
    results, ours = os.pipe()

    def be_child() -> NoReturn:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(2 * PATIENCE))
        try:
            told = pickle.dumps((work(), None))
        except BaseException as error:
            traceback.print_exc()
            told = pickle.dumps((None, error))
        with open(ours, "wb") as out:
            out.write(told)
        os._exit(0)

    child = forked.fork(be_child)
    os.close(ours)
    with open(results, "rb") as back:
        said = back.read()
    os.waitpid(child, 0)
    assert said, "the process died"
    result, error = pickle.loads(said)
    if error is not None:
        raise error
    value: T = result
    return value


def by_gstreamer(source: Source, *wishes: Wanted, **options: Any) -> list[list[np.ndarray]]:
    """For each wish the frames."""
    return apart(lambda: [frames_of_capture(GStreamerCapture(source, wanted, **options), wanted) for wanted in wishes])


def by_pyav(source: Path, *wishes: Wanted) -> list[list[np.ndarray]]:
    return apart(lambda: [frames_of_capture(PyAVCapture(source, wanted), wanted) for wanted in wishes])


def frames_of_capture(capture: Capture, wanted: Wanted, count: int = 1000) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    while len(found) < count and capture.grab():
        out = np.full(capture.shape, 77, wanted.dtype)
        assert capture.retrieve(out) is out
        found.append(out)
    capture.close()
    return found


def refusal(source: Source, **options: Any) -> str:
    """What the error says of a video that can't be opened."""

    def open_it() -> str:
        with pytest.raises(VideoError) as caught:
            GStreamerCapture(source, **{"timeout": 5.0, **options})
        return str(caught.value)

    return apart(open_it)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(np.iinfo(one.dtype).max ** 2 / error))


def write_clip(path: Path, pixels: str, size: tuple[int, int], codec: str = "ffv1", **options: Any) -> Path:
    """Three frames of a real clip, in strong colours: with pale ones a wrong matrix is hardly seen."""
    ramp = np.linspace((20, 230, 20), (230, 20, 230), size[1])
    colours = ramp.astype(np.uint8)[:, None].repeat(size[0], 1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
        for number, frame in enumerate(frames_of(bikes(), 3)):
            scaled: Any = cv2.addWeighted(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), 0.5, colours, 0.5, 0)
            picture = av.VideoFrame.from_ndarray(scaled, format="bgr24").reformat(format=pixels)
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


# ---- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pictures_are_those_of_pyav(tmp_path: Path, size: tuple[int, int]) -> None:
    """Whatever the width of their rows in memory, whole or in part, at their size or another."""
    clip = write_clip(tmp_path / "clip.mkv", "yuv420p", size)
    wishes = []
    for format in FORMATS:
        wishes += [Wanted(format), Wanted(format, size=(90, 60) if min(size) > 60 else (20, 12))]
        if min(size) > 60:
            part = (8, 6, 64, 48) if is_planar(format) else (7, 5, 64, 48)
            wishes += [Wanted(format, roi=part, size=scaled) for scaled in (None, (48, 32), (128, 96))]
        if not is_planar(format):
            wishes.append(Wanted(format, size=(61, 47)))
    for wanted, ours, theirs in zip(wishes, by_gstreamer(clip, *wishes), by_pyav(clip, *wishes), strict=True):
        assert len(ours) == len(theirs) == 3
        assert [psnr(*pair) > NEAR for pair in zip(ours, theirs, strict=True)] == [True] * 3, wanted


@pytest.mark.parametrize("pixels", ["yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "gray", "bgr0", "bgra"])
def test_pictures_in_other_formats_are_those_of_pyav(tmp_path: Path, pixels: str) -> None:
    """No one of them goes through GStreamer's conversion of colours, which is another one from this height on."""
    clip = write_clip(tmp_path / "clip.mkv", pixels, (65, 601))
    wishes = [Wanted(format, size=size) for format in FORMATS for size in (None, (60, 500))]
    for wanted, ours, theirs in zip(wishes, by_gstreamer(clip, *wishes), by_pyav(clip, *wishes), strict=True):
        assert min(psnr(*pair) for pair in zip(ours, theirs, strict=True)) > NEAR, wanted


@pytest.mark.parametrize("pixels", ["yuvj420p", "yuvj444p"])
def test_pictures_that_use_the_full_range_are_those_of_pyav(tmp_path: Path, pixels: str) -> None:
    clip = write_clip(tmp_path / "clip.avi", pixels, (320, 240), "mjpeg", bit_rate=10**7)
    wishes = [Wanted(format, size=size) for format in FORMATS for size in (None, (90, 60))]
    for wanted, ours, theirs in zip(wishes, by_gstreamer(clip, *wishes), by_pyav(clip, *wishes), strict=True):
        assert min(psnr(*pair) for pair in zip(ours, theirs, strict=True)) > NEAR, wanted


def test_the_full_range_is_heeded_of_a_video_that_does_not_tell_its_matrix(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", "yuvj420p", (320, 240), "libx264", bit_rate=8 * 10**6, color_range=2)
    wishes = [Wanted(format) for format in FORMATS]
    for wanted, ours, theirs in zip(wishes, by_gstreamer(clip, *wishes), by_pyav(clip, *wishes), strict=True):
        assert min(psnr(*pair) for pair in zip(ours, theirs, strict=True)) > NEAR, wanted


@pytest.mark.parametrize("tagged", [False, True], ids=["untagged", "tagged BT.709"])
def test_all_backends_give_the_same_colours(tmp_path: Path, tagged: bool) -> None:
    """GStreamer takes HD for BT.709, PyAV and OpenCV for BT.601. If the video says BT.709, these two heed that."""
    tags = dict.fromkeys(("colorspace", "color_primaries", "color_trc"), 1) if tagged else {}
    clip = write_clip(tmp_path / "clip.mp4", "yuv420p", (1280, 720), "libx264", bit_rate=8 * 10**6, **tags)
    [gstreamer, planes], [pyav, pyav_planes] = (
        by_gstreamer(clip, Wanted(), Wanted("i420")),
        by_pyav(clip, Wanted(), Wanted("i420")),
    )
    opencv = list(frames_of(clip))
    assert len(gstreamer) == len(pyav) == len(opencv) == 3
    for number in range(3):
        assert psnr(planes[number], pyav_planes[number]) > CLOSE
        assert psnr(pyav[number], opencv[number]) > CLOSE
        assert tagged or psnr(gstreamer[number], opencv[number]) > CLOSE, "it can't tell a tag from a guess"


def test_16_bits(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", "gray16le", (177, 99))
    [ours], [colours], [upper], [part] = (
        by_gstreamer(clip, wanted)[0:1]
        for wanted in (Wanted("gray", 16), Wanted("bgr", 16), Wanted("gray"), Wanted("gray", 16, (3, 5, 31, 47)))
    )
    [theirs] = by_pyav(clip, Wanted("gray", 16))
    assert len(ours) == 3
    for number, frame in enumerate(theirs):
        assert frame.max() > 255
        assert np.array_equal(ours[number], frame)
        assert np.array_equal(colours[number], np.dstack([frame] * 3))
        assert np.array_equal(upper[number], frame >> 8)
        assert np.array_equal(part[number], frame[5:52, 3:34])

    def grab_8_bits() -> None:
        capture = GStreamerCapture("videotestsrc num-buffers=1 ! video/x-raw,format=GRAY8 ! appsink", Wanted("gray", 16))
        try:
            assert capture.grab()
            with pytest.raises(VideoError, match=r"has 8 bits a channel .*: leave bits=16 away"):
                capture.retrieve()
        finally:
            capture.close()

    apart(grab_8_bits)


def test_stamps_and_turned_pictures(tmp_path: Path) -> None:
    """A telephone held upright notes how its pictures are to be turned."""
    clip, data = tmp_path / "turned.mp4", bytearray(bikes().read_bytes())
    as_it_is, turned = (
        struct.pack(">9i", *numbers, 0, 0, 0, 1 << 30) for numbers in ((ONE, 0, 0, 0, ONE), (0, ONE, 0, -ONE, 0))
    )
    place = data.index(as_it_is, data.index(b"tkhd"))
    data[place : place + len(turned)] = turned
    clip.write_bytes(data)

    def look(capture: Capture) -> list[tuple[float | None, np.ndarray]]:
        found = []
        while capture.grab():
            found.append((capture.pts, np.array(capture.retrieve())))
        capture.close()
        return found[:20] + found[-1:]

    def look_by_gstreamer() -> list[tuple[float | None, np.ndarray]]:
        capture = GStreamerCapture(clip)
        assert (capture.info.width, capture.info.height) == capture.shape[1::-1] == (272, 640)
        assert (capture.info.fps, capture.info.frames) == (25, 250)
        return look(capture)

    ours, theirs = apart(look_by_gstreamer), apart(lambda: look(PyAVCapture(clip)))
    for (pts, picture), (expected, as_expected) in zip(ours, theirs, strict=True):
        assert pts == pytest.approx(expected, abs=1e-4)
        assert psnr(picture, as_expected) > CLOSE
    assert ours[-1][0] == pytest.approx(249 / 25, abs=1e-3)


# ---- pipelines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "format", ["I420", "NV12", "Y42B", "Y444", "YUY2", "UYVY", "BGR", "RGB", "BGRx", "RGBx", "BGRA", "RGBA"]
)
def test_a_pipeline_gives_its_pictures_in_any_format(format: str) -> None:
    def pipeline(format: str) -> str:
        return f"videotestsrc num-buffers=2 pattern=smpte75 ! video/x-raw,format={format},width=178,height=100 ! appsink"

    wishes = [Wanted(), Wanted("gray"), Wanted("i420")]
    expected = by_gstreamer(pipeline("BGR"), *wishes)
    for wanted, ours, theirs in zip(wishes, by_gstreamer(pipeline(format), *wishes), expected, strict=True):
        assert len(ours) == 2
        assert psnr(ours[1][:60], theirs[1][:60]) > 25, wanted  # below there is noise, and at edges colours differ


def test_what_a_pipeline_is(tmp_path: Path) -> None:
    assert is_pipeline("v4l2src ! appsink")
    assert not is_pipeline("rtsp://10.0.0.5/a!b")
    assert not is_pipeline(0)
    odd = tmp_path / "a ! appsink"
    odd.touch()
    assert not is_pipeline(str(odd))
    assert VideoSource("videotestsrc ! appsink").live
    assert not VideoSource("videotestsrc ! appsink", live=False).live


@pytest.mark.parametrize(
    ("source", "options", "error"),
    [
        ("videotestsrc ! appsink", {"backend": "pyav"}, "is read by GStreamer: leave backend='pyav' away"),
        ("a.mp4", {"backend": "gstreamer", "transport": "udp"}, "transport='udp' is for an rtsp:// URL"),
        ("a.mp4", {"backend": "gstreamer", "skip_frame": "nokey"}, "skip_frame='nokey' is for PyAV, and not for GStreamer"),
        ("/tmp", {"backend": "gstreamer"}, "is read by OpenCV: leave backend='gstreamer' away"),
    ],
)
def test_options_that_do_not_go_together(source: str, options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        VideoSource(source, **options)


def test_a_live_pipeline_gives_the_newest_frame_and_counts_the_others() -> None:
    def read() -> tuple[list[tuple[int, int]], int, int]:
        capture = GStreamerCapture("videotestsrc ! video/x-raw,format=I420,framerate=200/1 ! appsink", live=True)
        found: list[tuple[int, int]] = []
        for _ in range(10):
            arrived = capture._pipeline.rendered() + 20
            eventually(lambda: capture._pipeline.rendered() >= arrived, "more frames")  # noqa: B023
            assert capture.grab()
            if not found:
                assert capture.grab(), "the one that was taken to learn the size comes first"
            assert capture.pts is not None
            found.append((arrived, round(capture.pts * 200) + 1))
        left_out, came = capture.left_out, capture._pipeline.rendered()
        capture.close()
        return found, left_out, came

    found, left_out, came = apart(read)
    assert all(number >= arrived for arrived, number in found), found
    assert came - 15 < left_out + 11 <= came


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/nowhere.mp4", 'No such file "/nowhere.mp4"; there is no such file; check the path'),
        (0, "Cannot identify device '/dev/video0' (system error: No such file or directory); no camera answers"),
        ("rtsp://admin:secret@127.0.0.1:9/x", "'rtsp://admin:***@127.0.0.1:9/x': Failed to connect"),
        ("foo://127.0.0.1/x", "GStreamer has no FOO protocol source; apt-get install --no-install-recommends gstreamer1.0-"),
        ("videotestsrc ! nosuch ! appsink", "GStreamer has no element 'nosuch'; check its name, and find its package with"),
        ("videotestsrc pattern=none ! appsink", 'could not set property "pattern" in element "videotestsrc'),
        ("videotestsrc !! appsink", "syntax error; try it with gst-launch-1.0"),
        ("videotestsrc ! video/x-raw,format=ARGB64 ! appsink", "finds no format that the others take; put videoconvert before"),
        ("videotestsrc ! tee name=t ! appsink t. ! appsink", "it has 2 appsinks; one appsink must stand at its end"),
        ("videotestsrc num-buffers=0 ! appsink", "it ends without a frame"),
        ("fakesrc ! appsink", "gives no raw video"),
        ("filesrc location=/nowhere ! decodebin ! appsink", 'No such file "/nowhere"'),
    ],
)
def test_what_cannot_be_opened_says_why(source: Source, said: str) -> None:
    text = refusal(source)
    assert said in text
    assert "secret" not in text


def test_a_file_of_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    assert "there is no video in it, only sound perhaps" in refusal(path)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("404 Not Found", "Not Found (404); the server answers, but has nothing there; check the address"),
        ("401 Unauthorized", "the server answers, but lets nobody in without the right user name and password"),
        ("503 Service Unavailable", "the server answers, but sends no video; check the address, and the server's log"),
    ],
)
def test_what_a_server_answers_and_that_an_url_is_no_more_than_one(answer: str, told: str) -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=refuse, args=(listener, answer, asked))
        server.start()
        url = f'rtsp://admin:pa%23ss%40@127.0.0.1:{listener.getsockname()[1]}/x" ! filesink location=/tmp/y ! "?a=b ! appsink '
        text = refusal(url.removesuffix(" ! appsink "), live=True)
        server.join()
    assert told in text
    assert "pa%23ss" not in text
    assert any(b'/x" ! filesink location=/tmp/y ! "?a=b' in line or b"/x%22%20!%20filesink" in line for line in asked), asked
    if answer.startswith("401"):
        assert b"Authorization: Basic YWRtaW46cGEjc3NA\r\n" in asked, "admin:pa#ss@"


def refuse(listener: socket.socket, answer: str, asked: list[bytes]) -> None:
    """An RTSP server that has one client, and no stream."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as requests:
        status = answer
        for line in requests:
            asked.append(line)
            if line.startswith((b"OPTIONS", b"DESCRIBE")):
                status = "200 OK" if line.startswith(b"OPTIONS") else answer
            elif line.startswith(b"CSeq"):
                head = 'Public: DESCRIBE, SETUP, PLAY\r\nWWW-Authenticate: Basic realm="x"\r\n'
                connection.sendall(f"RTSP/1.0 {status}\r\n{line.decode()}{head}\r\n".encode())


def test_names_of_files_mean_nothing(tmp_path: Path) -> None:
    for name in ('a" ! fakesink ".mkv', "a name=sink ! b.mkv", "%41 \u00e4 #?.mkv", os.fsdecode(b"\xff.mkv")):
        clip = write_clip(tmp_path / "clip.mkv", "yuv420p", (64, 48)).rename(tmp_path / name)
        assert len(by_gstreamer(clip, Wanted())[0]) == 3


def test_silence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x"
        assert "; no video comes from there" in refusal(url, live=True, timeout=0.5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "no frame within 0.5 s" in refusal(f"udp://127.0.0.1:{port}", live=True, timeout=0.5)

    def fall_silent() -> None:
        reader, writer = os.pipe()
        os.write(writer, bytes(4 * 4 * 3 * 2))
        raw = f"fdsrc fd={reader} ! rawvideoparse width=4 height=4 format=rgb ! appsink"
        capture = GStreamerCapture(raw, timeout=0.5, live=True)
        with pytest.raises(VideoError, match=r"fell silent for 0\.5 s"):
            list(iter(capture.grab, False))
        capture.close()

    apart(fall_silent)


def test_a_fork_of_a_process_that_has_started_gstreamer_is_refused() -> None:
    def fork_again() -> str:
        capture = GStreamerCapture("videotestsrc ! appsink", live=True)
        text = refusal("videotestsrc ! appsink")
        assert capture.grab(), "the first one goes on"
        capture.close()
        return text

    assert "the process from which this one was forked had started GStreamer" in apart(fork_again)


def test_libraries_that_are_missing(run_script: RunScript) -> None:
    done = run_script(
        """
        import cffi
        class Without(cffi.FFI):
            def dlopen(self, name, *flags):
                raise OSError(f"cannot load library {name!r}")
        cffi.FFI = Without
        from pipert_shm import VideoSource
        try:
            VideoSource("videotestsrc ! appsink")
        except ImportError as error:
            print(error)
        """
    )
    assert "GStreamer does not load (cannot load library" in done.stdout
    assert "apt-get install --no-install-recommends gstreamer1.0-plugins-base gstreamer1.0-plugins-good" in done.stdout


def test_plugins_that_are_missing(tmp_path: Path, run_script: RunScript) -> None:
    clip = write_clip(tmp_path / "clip.mp4", "yuv420p", (64, 48), "libx264")
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    script = f"""
        import os
        os.environ["GST_PLUGIN_SYSTEM_PATH"] = "{plugins}"
        os.environ["GST_REGISTRY"] = "{tmp_path / "registry"}"
        from pipert_shm import VideoError
        from pipert_shm.video.gstreamer import GStreamerCapture
        for source in "{clip}", "rtsp://127.0.0.1/x":
            try:
                GStreamerCapture(source)
            except VideoError as error:
                print(error)
    """
    assert "GStreamer has no element 'filesrc'; apt-get install" in run_script(script).stdout
    for name in (
        "coreelements",
        "app",
        "videoconvertscale",
        "videoconvert",
        "playback",
        "isomp4",
        "typefindfunctions",
        "videoparsersbad",
    ):
        for found in PLUGINS.glob(f"libgst{name}.so"):
            (plugins / found.name).symlink_to(found)
    said = run_script(script).stdout.splitlines()
    assert "GStreamer has no H.264 (" in said[0]
    assert "decoder; apt-get install --no-install-recommends gstreamer1.0-libav" in said[0]
    assert said[1].endswith(
        "GStreamer has no element 'rtspsrc'; apt-get install --no-install-recommends gstreamer1.0-plugins-good"
    )


# ---- live streams --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two numbered videos of half a minute, for the RTSP server."""
    directory = tmp_path_factory.mktemp("videos")
    for width, height in (SMALL, LARGE):
        streams.write_h264(directory / f"{width}.mp4", width, height, 30 * FPS)
    return directory


@pytest.fixture
def start(videos: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers: `start(port, size)`; a second one on the same port takes the place of the first."""
    servers: list[Server] = []
    public = tmp_path / "public"
    public.mkdir()

    def begin(port: int, size: tuple[int, int] = SMALL) -> Server:
        served = public / "cam.mp4"
        served.unlink(missing_ok=True)
        served.hardlink_to(videos / f"{size[0]}.mp4")
        servers.append(serve_rtsp(public, port, "cam.mp4"))
        eventually(lambda: listens(port), "the server")
        return servers[-1]

    yield begin
    for server in servers:
        server.kill()


class Notes(Record):
    """Writes down the shapes and formats of the frames, when they were captured and received, and by which clock."""

    def main_logic(self, data: np.ndarray) -> None:
        meta = self.meta
        super().main_logic((data.shape, meta.format, meta.captured_ns, now_ns(), meta.pts, meta.wall_clock))


def counters(pipe: Pipe) -> dict[str, int]:
    return pipe.statistics().routines["camera"].counters


def sent(pipe: Pipe) -> int:
    return pipe.statistics().routines["camera"].sent


def test_a_server_that_dies_is_found_again_with_frames_of_another_size(
    tmp_path: Path, start: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    url = f"rtsp://admin:secret@127.0.0.1:{port}/cam.mp4"
    source = VideoSource(url, "camera", backend="gstreamer", format="i420", timeout=2)
    pipe = Pipe()
    chain(pipe, source, Notes("notes", tmp_path / "got"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: "Failed to connect" in caplog.text, "an attempt before there is a server")
    first = start(port, SMALL)
    eventually(lambda: sent(pipe) >= 10, "frames")
    first.freeze()
    eventually(lambda: counters(pipe)["connected"] == 0, "the loss by silence")
    first.thaw()
    eventually(lambda: counters(pipe)["reconnects"] == 1, "the server again")
    before = sent(pipe)
    eventually(lambda: sent(pipe) >= before + 10, "frames")
    first.kill()
    eventually(lambda: counters(pipe)["connected"] == 0, "the loss")
    before = sent(pipe)
    start(port, LARGE)
    eventually(lambda: sent(pipe) >= before + 10, "frames again")
    pipe.join(to_kill=True)
    assert "fell silent for 2 s" in caplog.text
    assert "secret" not in caplog.text
    got = [message.value for message in received(tmp_path / "got")]
    assert {form for _, form, *_ in got} == {"i420"}
    shapes = [shape for shape, *_ in got]
    place = shapes.index((360, 320))
    assert set(shapes[:place]) == {(180, 160)}
    assert set(shapes[place:]) == {(360, 320)}
    statistics = pipe.statistics().routines["camera"]
    assert (statistics.copied_bytes, statistics.errors) == (0, 0)
    assert all(0 < captured <= at for _, _, captured, at, *_ in got)
    assert all(a < b for a, b in pairwise(captured for _, _, captured, *_ in got))


def test_the_clock_of_the_camera(start: Callable[..., Server]) -> None:
    """The server tells it by RTCP; here it is this machine's, and a frame may be sent ahead."""
    port = free_port()
    start(port)

    def read() -> tuple[float, float]:
        capture = GStreamerCapture(f"rtsp://127.0.0.1:{port}/cam.mp4", live=True)
        while capture.wall_clock is None:
            assert capture.grab()
        told = capture.wall_clock, time.time()
        capture.close()
        return told

    told, now = apart(read)
    assert abs(told - now) < 10


def test_a_server_that_has_no_udp(start: Callable[..., Server]) -> None:
    """The server of the tests knows TCP only."""
    port = free_port()
    start(port)
    text = refusal(f"rtsp://127.0.0.1:{port}/cam.mp4", live=True, transport="udp")
    assert "You might need to allow more transport protocols" in text


def test_a_pipeline_in_a_pipe_and_its_end(tmp_path: Path) -> None:
    """As a source of a flow's process, twice over: two cameras, in one flow each."""
    pipe = Pipe(policy="block")
    pipeline = "videotestsrc num-buffers=7 ! video/x-raw,format=NV12,width=178,height=100,framerate=25/1 ! appsink"
    source = VideoSource(pipeline, "camera", format="nv12", live=False)
    chain(pipe, source, Notes("notes", tmp_path / "got"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    got = [message.value for message in received(tmp_path / "got")]
    assert [(shape, form) for shape, form, *_ in got] == [((150, 178), "nv12")] * 7
    assert [pts for *_, pts, _ in got] == pytest.approx([number / 25 for number in range(7)])


def test_nothing_leaks(videos: Path, run_script: RunScript) -> None:
    """GStreamer itself tells what is left of its objects."""
    done = run_script(
        f"""
        import ctypes, os
        os.environ |= {{"GST_TRACERS": "leaks", "GST_DEBUG": "GST_TRACER:7", "GST_DEBUG_NO_COLOR": "1"}}
        from pipert_shm import VideoError
        from pipert_shm.video.gstreamer import GStreamerCapture
        twice = "videotestsrc ! tee name=t ! appsink t. ! appsink"
        wrong = "/nowhere", "a ! appsink", "videotestsrc !! appsink", twice
        for source in {str(videos / "160.mp4")!r}, "videotestsrc num-buffers=9 ! appsink", *wrong:
            try:
                capture = GStreamerCapture(source, timeout=5, live="!" in source)
            except VideoError as error:
                print("no", error)
                continue
            for _ in range(20):
                if capture.grab():
                    assert capture.retrieve() is not None
            capture.close()
            print("done")
        ctypes.CDLL("libgstreamer-1.0.so.0").gst_deinit()
        """
    )
    assert [line[:4] for line in done.lines] == ["done", "done", "no c", "no c", "no c", "no c"], done
    left = [
        line
        for line in done.stderr.splitlines()
        if "object-alive, type-name=(string)Gst" in line and "timestamp/x-ntp" not in line
    ]
    assert left == []
