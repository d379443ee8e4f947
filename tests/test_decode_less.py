"""What need not be decoded is not: pictures that nobody wants, and all but key frames while nothing moves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType

import rtp_pieces
from pipert_shm import Pipe, VideoSource
from pipert_shm.video import pyav
from pipert_shm.video.capture import Capture
from pipert_shm.video.decoding import Decoding
from pipert_shm.video.hardware import accelerator
from pipert_shm.video.idle import Idling
from pipert_shm.video.pyav import PyAVCapture
from pipert_shm.video.skipping import Need, Needs
from routines import Record, chain, received
from rtsp_server import RtspServer
from test_video_files import play
from waiting import eventually

FPS, GOP, COUNT = 25, 25, 200
WIDTH, HEIGHT = 320, 192


def still(number: int) -> bool:
    """Nothing moves in the first half."""
    return number < COUNT // 2


def encode(
    path: Path,
    codec: str = "libx264",
    bframes: int = 0,
    moves: Callable[[int], bool] = lambda _: True,
    last_key: int = COUNT,
    gop: int = GOP,
    **more: str,
) -> Path:
    """A square that moves when it is said to; a key frame each second, or after `gop` frames, until the last one."""
    place = 0
    with av.open(str(path), "w") as container:
        options = {"bf": str(bframes), "preset": "veryfast", "sc_threshold": "0", "forced-idr": "1", **more}
        if codec == "libx265":
            options = {"preset": "ultrafast", "x265-params": f"log-level=none:bframes={bframes}:scenecut=0"}
        stream = container.add_stream(codec, rate=FPS, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = gop if last_key == COUNT else 10 * COUNT
        for number in range(COUNT):
            place += 4 * moves(number)
            picture = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
            picture[60:120, 20 + place % 200 : 80 + place % 200] = 220
            frame = av.VideoFrame.from_ndarray(picture, "bgr24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            if last_key < COUNT and number % GOP == 0 and number <= last_key:
                frame.pict_type = PictureType.I
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(
    scope="module",
    params=[("libx264", 0, "mp4"), ("libx264", 3, "mp4"), ("libx264", 3, "ts"), ("libx264", 3, "mkv"), ("libx265", 3, "mp4")],
    ids=lambda each: "-".join(map(str, each)),
)
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec, bframes, suffix = request.param
    return encode(tmp_path_factory.mktemp("videos") / f"a.{suffix}", codec, bframes)


def keys_of(path: Path) -> list[int]:
    """Numbers of the key frames."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.is_keyframe]
        start = stream.start_time or 0
        return [round(float(((packet.pts or 0) - start) * packet.time_base) * FPS) for packet in packets]


def numbered(capture: Capture) -> dict[int, bytes]:
    """All pictures by number, in order."""
    found: dict[int, bytes] = {}
    while capture.grab():
        assert capture.pts is not None
        number = round(capture.pts * FPS)
        assert number not in found, "a picture came twice"
        assert not found or number > max(found), "a picture came out of order"
        picture = capture.retrieve(None)
        assert picture is not None
        found[number] = picture.tobytes()
    capture.close()
    return found


@pytest.mark.parametrize("live", [False, True])
def test_key_frames_come_at_once_and_are_the_same(video: Path, live: bool) -> None:
    whole, capture = numbered(PyAVCapture(video)), PyAVCapture(video, live=live, decoding=Decoding(skip_frame="nokey"))
    assert capture.grab()
    came = capture.left_out
    keys = {round((capture.pts or 0) * FPS): capture.retrieve(None).tobytes(), **numbered(capture)}
    assert came == 0, "the first comes before the decoder is given another packet"
    assert list(keys) == keys_of(video)
    assert all(whole[number] == picture for number, picture in keys.items())
    assert capture.left_out == COUNT - len(keys)


def test_what_is_left_out_at_the_end_is_counted_and_is_no_damage(video: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = VideoSource(video, "source", skip_frame="nokey")
    sent = len(play(source))
    assert sent + source.counters["skipped"] == COUNT
    assert "ended after" not in caplog.text


@pytest.mark.parametrize("live", [False, True])
def test_pictures_that_no_other_needs_are_left_out_and_the_others_stay_the_same(video: Path, live: bool) -> None:
    whole, capture = numbered(PyAVCapture(video)), PyAVCapture(video, live=live, decoding=Decoding(skip_frame="noref"))
    needed = numbered(capture)
    assert all(whole[number] == picture for number, picture in needed.items())
    assert len(needed) + capture.left_out == COUNT
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        needs = Needs(stream)
        spare = sum(needs.of(packet) is Need.SPARE for packet in container.demux(stream) if packet.size)
    assert capture.left_out == spare


def test_a_rate_leaves_out_what_it_does_not_take(tmp_path: Path) -> None:
    """The frames of `fps` are those that Thinning takes of all; the decoder saves what no other picture needs."""
    path = encode(tmp_path / "b.mp4", bframes=3)
    source = VideoSource(path, fps=5)
    frames = play(source)
    assert [round((pts or 0) * FPS) for _, pts in frames] == list(range(0, COUNT, 5))
    whole = dict(enumerate(frame.tobytes() for frame, _ in play(VideoSource(path))))
    assert all(whole[round((pts or 0) * FPS)] == frame.tobytes() for frame, pts in frames)
    assert source.counters["skipped"] == COUNT - len(frames)
    capture = PyAVCapture(path, needless=lambda at: round(at * FPS) % 5 != 0)
    assert len(numbered(capture)) == COUNT - capture.left_out
    assert capture.left_out > 20


def test_a_file_without_stamps_is_thinned_by_the_numbers_of_its_frames(tmp_path: Path) -> None:
    bare = tmp_path / "a.h264"
    with av.open(str(encode(tmp_path / "a.mp4"))) as container, av.open(str(bare), "w", format="h264") as out:
        stream = container.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in container.demux(stream):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    frames = play(VideoSource(bare, fps=5))
    assert [round((pts or 0) * FPS) for _, pts in frames] == list(range(0, COUNT, 5))
    assert len(play(VideoSource(bare, idle=1))) == COUNT, "everything moves"


@pytest.mark.parametrize("suffix", ["avi", "h264"])
def test_a_file_whose_stamps_are_in_the_order_of_decoding_is_thinned_by_the_numbers_of_its_frames(
    tmp_path: Path, suffix: str
) -> None:
    """With B-frames, which are shown before the picture that comes first."""
    path, stamped = (encode(tmp_path / f"a.{each}", bframes=3) for each in (suffix, "mp4"))
    numbers = [(pts or 0) * FPS for _, pts in play(VideoSource(path))]
    assert numbers == pytest.approx(range(COUNT))
    whole = dict(enumerate(frame.tobytes() for frame, _ in play(VideoSource(stamped))))
    source = VideoSource(path, fps=5)
    frames = play(source)
    assert [round((pts or 0) * FPS) for _, pts in frames] == list(range(0, COUNT, 5))
    assert all(whole[round((pts or 0) * FPS)] == frame.tobytes() for frame, pts in frames)
    assert source.counters["skipped"] == COUNT - len(frames)


def test_of_a_live_stream_what_nobody_waits_for_is_not_decoded(tmp_path: Path) -> None:
    source = VideoSource(encode(tmp_path / "b.mp4", bframes=3), live=True, reconnect=False)
    source.setup()
    reader = source._reader
    assert reader is not None
    reader._thread.join()  # it reads on while nobody asks it for a frame
    whole = numbered(PyAVCapture(tmp_path / "b.mp4", needless=lambda at: True))
    assert len(whole) < COUNT
    decoded = COUNT - source.counters["skipped"] - source.counters["late"]
    assert decoded == 0
    assert reader._grabbed == len(whole)
    source.cleanup()


# ---- idle streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bframes", [0, 3])
def test_an_idle_stream_gives_key_frames_until_something_moves(tmp_path: Path, bframes: int) -> None:
    path = encode(tmp_path / "a.mp4", bframes=bframes, moves=lambda number: not still(number))
    whole = numbered(PyAVCapture(path))
    given = numbered(PyAVCapture(path, idling=Idling("a", 1.0)))
    assert all(whole[number] == picture for number, picture in given.items())
    idle_from = next(number for number in range(GOP, COUNT) if number not in given)
    assert GOP < idle_from <= 2 * GOP + 3, "after a second without motion, with the next key frame"
    awake_from = min(number for number in given if number > idle_from and number % GOP and number + 1 in given)
    assert [number for number in given if idle_from <= number < awake_from] == [
        number for number in keys_of(path) if idle_from <= number < awake_from
    ]
    moved = COUNT // 2
    assert moved <= awake_from <= moved + GOP + 1, "with the first key frame in which something has moved"
    assert all(number in given for number in range(awake_from, COUNT)), "and from then on all"


def test_of_an_idle_stream_of_key_frames_only_two_a_second_are_decoded(tmp_path: Path) -> None:
    """MJPEG is such a stream, too."""
    path = encode(tmp_path / "a.avi", "ffvhuff", moves=lambda number: number >= 150)
    capture = PyAVCapture(path, idling=Idling("a", 1.0))
    given = numbered(capture)
    assert all(numbered(PyAVCapture(path))[number] == picture for number, picture in given.items())
    assert 7 <= len(given.keys() & range(50, 150)) <= 9
    assert all(number in given for number in range(150 + GOP // 2 + 1, COUNT)), "something has moved"
    assert len(given) + capture.left_out == COUNT


def test_an_idle_stream_that_is_woken_goes_on_with_the_next_picture(tmp_path: Path) -> None:
    """It decodes what it has kept since the last key frame."""
    path = encode(tmp_path / "a.mp4", moves=lambda _: False)
    whole = numbered(PyAVCapture(path))
    asked: list[float] = []

    class Woken(Idling):
        def is_idle(self, now: float) -> bool:
            asked.append(now)
            if round(now * FPS) == 110:
                self.wake()
            return super().is_idle(now)

    given = numbered(PyAVCapture(path, idling=Woken("a", 1.0)))
    assert all(whole[number] == picture for number, picture in given.items())
    assert {101, 105, 110, 111, 120} <= given.keys(), "100 is a key frame, and was given"
    assert not given.keys() & {90, 99, 160, 170}, "and a second later it is idle again"
    assert len(asked) == COUNT


OPEN: dict[str, Any] = {"x264-params": "open-gop=1:b-adapt=0"}


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("woken_at", [110, 97, 96, 94, 92])
def test_pictures_of_open_groups_that_cannot_be_decoded_after_idling_are_counted(
    tmp_path: Path, codec: str, woken_at: int
) -> None:
    """Three B-frames before each key frame build on it and on the picture before them."""
    path = encode(tmp_path / "a.mp4", codec, 3, lambda _: False, gop=24, **OPEN)
    whole = numbered(PyAVCapture(path))

    class Woken(Idling):
        def is_idle(self, now: float) -> bool:
            if round(now * FPS) == woken_at:
                self.wake()
            return super().is_idle(now)

    capture = PyAVCapture(path, idling=Woken("a", 1.0))
    given = numbered(capture)
    assert all(whole[number] == picture for number, picture in given.items())
    assert len(given) + capture.left_out == COUNT
    assert {100, 105, 112} <= given.keys()


def test_in_a_pipe_an_event_wakes_it(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", moves=lambda _: False)
    source = VideoSource(path, "camera", idle=0.5, realtime=True, loop=True)
    with Pipe() as pipe:
        chain(pipe, source, Record("record", tmp_path / "got"))
        pipe.build()
        pipe.notify_event("start")

        def camera(name: str) -> int:
            return pipe.statistics().routines["camera"].counters[name]

        eventually(lambda: camera("idle") == 1, "it is idle")
        eventually(lambda: camera("skipped") > 10, "frames that are left out")
        pipe.notify_event("ACTIVE", specific_routine="camera")
        eventually(lambda: camera("idle") == 0, "it is awake")
        eventually(lambda: camera("idle") == 1, "it is idle again")
        pipe.join(to_kill=True)
    assert len(received(tmp_path / "got")) > 10


def test_a_camera_without_idle_says_that_it_is_always_active(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        VideoSource(encode(tmp_path / "a.mp4")).stay_active()
    assert "it is always active, since it has no idle=" in caplog.text


# ---- streams that send no key frame any more ---------------------------------------------------------


@pytest.mark.parametrize("idle", [False, True], ids=["nokey", "idle"])
def test_a_stream_that_sends_no_key_frame_any_more_is_told_of_once(
    tmp_path: Path, idle: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyav, "KEYLESS", 3.0)
    path = encode(tmp_path / "a.mp4", moves=lambda _: False, last_key=75)
    assert keys_of(path) == [0, 25, 50, 75]
    decoding = Decoding() if idle else Decoding(skip_frame="nokey")
    given = numbered(PyAVCapture(path, decoding=decoding, idling=Idling("a", 1.0) if idle else None))
    assert max(given) == 75
    (record,) = caplog.records
    assert "a.mp4' has sent no key frame for 3 s, and only these are decoded" in record.getMessage()
    caplog.clear()
    numbered(PyAVCapture(encode(tmp_path / "b.mp4"), decoding=decoding))
    assert not caplog.records, "one that sends them is not told of"


def test_a_reader_of_such_a_stream_ends_and_the_next_one_begins() -> None:
    """While no key frame comes, nothing but the end of the stream would wake its thread."""
    with RtspServer("libx264", rtp_pieces.encode("libx264", 300, "bframes=0", gop=10_000)) as server:
        source = VideoSource(server.url, "camera", skip_frame="nokey")
        for _ in range(2):
            source.setup()
            reader = source._reader
            assert reader is not None
            eventually(lambda reader=reader: reader._grabbed > 0, "the only key frame")  # type: ignore[misc]
            before = len(server.sent_ns)
            eventually(lambda before=before: len(server.sent_ns) > before + 5, "others")  # type: ignore[misc]
            source.cleanup()
            assert source._reading_still is None, "its thread has ended"


# ---- options of the decoder --------------------------------------------------------------------------


def test_options_reach_the_decoder(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4")
    whole = numbered(PyAVCapture(path))
    smooth = numbered(PyAVCapture(path, decoding=Decoding(skip_loop_filter="all")))
    assert smooth.keys() == whole.keys()
    assert smooth != whole, "edges between blocks are not smoothed"
    assert numbered(PyAVCapture(path, decoding=Decoding(threads=1, low_delay=True))) == whole


def test_hardware_that_is_not_there_is_told_of(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("camera")
    monkeypatch.setattr("pipert_shm.video.hardware.hwdevices_available", lambda: ["cuda", "vulkan"])
    monkeypatch.setattr("pipert_shm.video.hardware._why_not", lambda kind: f"no {kind}" if kind != "vulkan" else None)
    with caplog.at_level("INFO"):
        assert accelerator(None, "gate", logger) is None
        assert not caplog.records
        assert accelerator("auto", "gate", logger) is not None
        assert accelerator("cuda", "gate", logger) is None
        assert accelerator("nonsense", "gate", logger) is None
    assert [record.getMessage() for record in caplog.records] == [
        "'gate' is decoded by vulkan",
        "'gate' is decoded by the CPU, since hwaccel='cuda' can't be used: no cuda",
        "'gate' is decoded by the CPU, since hwaccel='nonsense' can't be used: this PyAV knows cuda, vulkan only",
    ]


@pytest.mark.parametrize("kind", ["auto", "cuda", "vaapi", "nonsense"])
def test_without_a_device_the_cpu_decodes(tmp_path: Path, kind: str) -> None:
    """On a machine that has one, it decodes."""
    assert len(play(VideoSource(encode(tmp_path / "a.mp4"), hwaccel=kind))) == COUNT
