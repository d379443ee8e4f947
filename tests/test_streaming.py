"""A stream without a pipe: the pictures that are made of frames, the encoder, and a broadcast's watchers."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import av
import cv2
import numpy as np
import pytest

from pipert_shm.data import Format, Meta
from pipert_shm.display.pictures import Mosaic
from pipert_shm.errors import PipeStateError, UnknownTarget
from pipert_shm.streaming import HlsWriter, RtspPush, WhipPush, broadcast, routines
from pipert_shm.streaming.broadcast import MOST_PACKETS, Broadcast, Watcher
from pipert_shm.streaming.encoding import Encoded, Limiter, StreamEncoder, StreamSettings
from pipert_shm.streaming.feeds import NewestFrame
from pipert_shm.streaming.hls import DirectoryStore, HlsSender
from pipert_shm.streaming.pictures import Shown, fitted, stream_size
from pipert_shm.streaming.pushing import Push, StreamingError
from pipert_shm.streaming.whip import WhipSender, _until_connected
from pipert_shm.video.films import FilmEncoder, Packet
from pipert_shm.video.formats import converted
from stream_ends import number_of, numbered
from waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from aiortc import RTCPeerConnection

LOGGER = logging.getLogger("test")
MS = 1_000_000
RED = (0, 0, 255)


def decoded(packets: list[Encoded]) -> list[av.VideoFrame]:
    context = av.CodecContext.create("h264", "r")
    assert isinstance(context, av.VideoCodecContext)
    frames = [frame for packet in packets for frame in context.decode(av.Packet(packet.data))]
    return [*frames, *context.decode(None)]


# ---- pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["i420", "nv12"])
def test_a_planar_frame_of_the_right_size_is_encoded_where_it_lies(format: Format) -> None:
    frame = numbered(3)
    assert np.shares_memory(fitted(frame, format, (320, 240), format), frame)


@pytest.mark.parametrize("format", ["bgr", "rgb", "gray", "i420", "nv12", None])
@pytest.mark.parametrize("size", [(64, 48), (32, 48), (128, 96)])
def test_a_frame_of_any_format_is_fitted_into_any_size(format: Format | None, size: tuple[int, int]) -> None:
    picture = np.full((48, 64, 3), RED, np.uint8)
    frame = cv2.cvtColor(picture, cv2.COLOR_BGR2BGRA) if format is None else converted(picture, "bgr", format)
    found = converted(fitted(frame, format, size, "i420"), "i420", "bgr")
    assert found.shape == (size[1], size[0], 3)
    middle = found[size[1] // 2, size[0] // 2].astype(int)
    assert np.abs(middle - ((76,) * 3 if format == "gray" else RED)).max() <= 6
    assert (found[0, 0].max() <= 6) == (size == (32, 48))  # black above a wider picture


def test_sixteen_bits_are_shown_by_their_upper_ones() -> None:
    found = fitted(np.full((48, 64), 0x9A12, np.uint16), "gray", (64, 48), "i420")
    assert int(converted(found, "i420", "bgr")[24, 32, 0]) in range(0x9A - 2, 0x9A + 3)


@pytest.mark.parametrize(
    ("shape", "widest", "size"),
    [
        ((1080, 1920, 3), 1280, (1280, 720)),
        ((99, 101, 3), None, (100, 98)),
        ((1080, 1920, 3), None, (1920, 1080)),
        ((8, 8), 640, (32, 32)),
    ],
)
def test_a_stream_has_the_size_of_its_first_frame(shape: tuple[int, ...], widest: int | None, size: tuple[int, int]) -> None:
    assert stream_size(np.zeros(shape, np.uint8), "gray" if len(shape) == 2 else "bgr", widest) == size


# ---- encoding ----------------------------------------------------------------------------------------


def test_packets_have_the_times_of_capture_and_key_frames_when_they_are_asked_for() -> None:
    encoder = StreamEncoder(StreamSettings())
    times = [0, 40, 80, 500, 400, 60_000, 60_040]  # ms: a late one, one back in time, a jump
    packets = [
        encoder.encode(Shown(numbered(number), "i420", at * MS, "gate"), key=number == 3) for number, at in enumerate(times)
    ]
    assert [round(packet.pts / 90) for packet in packets] == [0, 40, 80, 500, 500, 533, 573]
    assert [packet.is_key for packet in packets] == [True, False, False, True, False, False, False]
    assert [number_of(frame) for frame in decoded(packets)] == list(range(7))
    assert [number_of(frame) for frame in decoded(packets[3:])] == [3, 4, 5, 6]


def test_there_is_a_key_frame_each_two_seconds_and_the_size_stays() -> None:
    encoder = StreamEncoder(StreamSettings(width=160))
    packets = [
        encoder.encode(
            Shown(np.full((240 + 240 * (number % 2), 640, 3), 90, np.uint8), "bgr", number * 200 * MS, ""), key=False
        )
        for number in range(21)
    ]
    assert [number for number, packet in enumerate(packets) if packet.is_key] == [0, 10, 20]
    assert {(frame.width, frame.height) for frame in decoded(packets)} == {(160, 60)}


def test_players_are_told_the_colours() -> None:
    frame = decoded([StreamEncoder(StreamSettings()).encode(Shown(numbered(1), "i420", 0, ""), key=True)])[0]
    assert (frame.colorspace, frame.color_range) == (6, 1)


@pytest.mark.parametrize(("offered", "fps", "kept"), [(30, 30, 300), (30, 10, 100), (25, 30, 250), (100, 24, 240)])
def test_no_more_than_fps_are_kept_and_no_fewer(offered: int, fps: float, kept: int) -> None:
    limiter = Limiter(fps)
    assert abs(sum(limiter.lets(round(number * 1e9 / offered)) for number in range(10 * offered)) - kept) <= 1
    assert limiter.lets(10**15)  # a jump of the clock
    assert limiter.lets(0)


# ---- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RtspPush("http://there/x"), "url must be one such as rtsp://"),
        (lambda: RtspPush(5), "url must be one such as rtsp://"),  # type: ignore[arg-type]
        (lambda: WhipPush("rtsp://there/x"), "url must be one such as https://"),
        (lambda: HlsWriter("/tmp/x", width=5), "width must be a number of pixels from 32"),
        (lambda: HlsWriter("/tmp/x", fps=0), "fps must be a number from 1 to 240"),
        (lambda: RtspPush("rtsp://there/x", bit_rate=10), "bit_rate must be a number of bits a second from 50,000"),
    ],
)
def test_bad_parameters_are_refused_at_once(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_payload_that_is_no_picture_is_an_error_of_its_own() -> None:
    push = RtspPush("rtsp://127.0.0.1:9/x")
    push.setup()
    with pytest.raises(TypeError, match="a frame is needed"):
        push.main_logic({"a": 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="can't be streamed"):
        push.main_logic(np.zeros((4, 4), np.float32))
    push.cleanup()


# ---- broadcasts ----------------------------------------------------------------------------------------


class Camera:
    """Puts numbered frames, 50 a second, into a feed, on a thread of its own."""

    def __init__(self) -> None:
        self.newest = NewestFrame()
        self.opened = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def open(self) -> NewestFrame:
        self.opened += 1
        return self.newest.open()

    def _work(self) -> None:
        number = 0
        while not self._over.wait(0.02):
            self.newest.put(Shown(numbered(number), "i420", time.monotonic_ns(), "gate"))
            number += 1

    def close(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def camera() -> Iterator[Camera]:
    one = Camera()
    yield one
    one.close()


@pytest.fixture
def stream(camera: Camera) -> Iterator[Broadcast]:
    one = Broadcast("gate", camera.open, StreamSettings(fps=100), LOGGER)
    yield one
    one.close(PATIENCE)


def taken(watcher: Watcher, count: int) -> list[Encoded]:
    packets = [watcher.take(PATIENCE) for _ in range(count)]
    assert all(packets)
    return [packet for packet in packets if packet is not None]


def test_all_watchers_get_the_same_packets_of_one_encoder(stream: Broadcast) -> None:
    watchers = [stream.watch() for _ in range(5)]
    packets = [taken(watcher, 10) for watcher in watchers]
    assert all(found[0].is_key for found in packets)
    assert all(found[-5].data in [packet.data for packet in packets[0]] for found in packets)
    assert stream.encoded < 5 * 10
    numbers = [number_of(frame) for frame in decoded(packets[0])]
    assert len(numbers) == 10
    assert len(set(numbers)) >= 8


def test_nothing_is_encoded_and_no_frame_taken_when_nobody_watches(
    camera: Camera, stream: Broadcast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "LINGER_S", 0.1)
    watcher = stream.watch()
    taken(watcher, 3)
    watcher.close()
    eventually(lambda: stream._thread is None, "an end of its thread")
    encoded = stream.encoded
    refused = camera.newest.refused
    eventually(lambda: camera.newest.refused > refused + 3, "frames that nobody takes")
    assert stream.encoded == encoded
    assert taken(stream.watch(), 2)[0].is_key


def test_one_who_comes_late_begins_with_a_key_frame_at_once(stream: Broadcast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipert_shm.streaming.encoding.KEY_S", 1000)  # none comes by itself
    first = stream.watch()
    taken(first, 20)
    late = stream.watch()
    assert taken(late, 1)[0].is_key
    late.ask_key()
    eventually(lambda: taken(late, 1)[0].is_key, "a key frame that was asked for")


def test_a_slow_watcher_loses_packets_up_to_a_key_frame_and_the_others_none() -> None:
    asked: list[bool] = []
    slow, quick = (Watcher(lambda _: None, lambda: asked.append(True)) for _ in range(2))
    packets = [Encoded(b"", number % 100 == 5, number, 0) for number in range(MOST_PACKETS + 100)]
    got = []
    for packet in packets:
        slow.offer(packet)
        quick.offer(packet)
        got.append(quick.take())
    assert [packet.pts for packet in got if packet is not None] == list(range(5, len(packets)))
    assert quick.lost == 0
    assert asked == [True]
    assert slow.lost == 100  # of those from 5 on all before the next key frame, 105
    rest = [slow.take() for _ in range(len(packets) - 105)]
    assert [packet.pts for packet in rest if packet is not None] == list(range(105, len(packets)))[: len(rest)]
    assert slow.take() is None


def test_watchers_are_told_of_the_end(stream: Broadcast) -> None:
    watcher = stream.watch()
    taken(watcher, 1)
    stream.close(PATIENCE)
    eventually(lambda: watcher.over, "the end")
    assert stream.watch().over


def test_a_feed_that_ends_is_opened_again_and_the_stream_goes_on(camera: Camera, stream: Broadcast) -> None:
    watcher = stream.watch()
    before = taken(watcher, 3)
    camera.newest.close()
    eventually(lambda: camera.opened == 2, "a second feed")
    after = taken(watcher, 5)
    assert len(decoded([*before, *after])) == 8


@pytest.mark.parametrize("error", [UnknownTarget("routine", "gone", []), PipeStateError("it sends nothing")])
def test_what_keeps_a_feed_from_being_opened_is_told(error: Exception) -> None:
    def refuse() -> NewestFrame:
        raise error

    stream = Broadcast("gate", refuse, StreamSettings(), LOGGER)
    watcher = stream.watch()
    assert watcher.take(PATIENCE) is None
    assert watcher.problem == str(error)


@pytest.mark.parametrize("bad", ["planar", "encoder"])
def test_a_frame_that_is_refused_costs_itself_only_and_that_is_said_once(
    bad: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = FilmEncoder.encode

    def fail(film: FilmEncoder, picture: np.ndarray, captured_ns: int, *, key: bool) -> Packet:
        if captured_ns in (2 * 40 * MS, 4 * 40 * MS):
            raise RuntimeError("the encoder has failed")
        return encode(film, picture, captured_ns, key=key)

    feed = Given(*6 * ("gate",))
    feed.left = [Shown(numbered(number), "i420", number * 40 * MS, "gate") for number in range(6)]
    if bad == "encoder":
        monkeypatch.setattr(FilmEncoder, "encode", fail)
    else:
        feed.left[2] = feed.left[2]._replace(frame=np.zeros((361, 320), np.uint8))  # no I420 has so many rows
        feed.left[4] = feed.left[4]._replace(frame=np.zeros((200, 320, 3), np.float32))
    stream = Broadcast("gate", lambda: feed, StreamSettings(fps=100), LOGGER)
    watcher = stream.watch()
    packets = taken(watcher, 4)
    assert [number_of(frame) for frame in decoded(packets)] == [0, 1, 3, 5]
    assert [packet.pts // 90 for packet in packets] == [0, 40, 120, 200]
    assert [packet.is_key for packet in packets] == [True, False, bad == "encoder", bad == "encoder"]
    assert (stream.encoded, stream.refused, watcher.over) == (4, 2, False)
    stream.close(PATIENCE)
    assert len([record for record in caplog.records if "counted as refused" in record.getMessage()]) == 1


def test_a_first_frame_that_is_refused_decides_nothing_of_the_stream() -> None:
    encoder = StreamEncoder(StreamSettings())
    with pytest.raises(Exception, match=r"601|reshape|size"):
        encoder.encode(Shown(np.zeros((601, 640), np.uint8), "i420", 0, ""), key=False)
    packet = encoder.encode(Shown(numbered(7), "i420", 40 * MS, ""), key=False)
    assert (encoder.size, packet.is_key, packet.pts) == ((320, 240), True, 0)


class Given:
    """A feed of frames that are there already."""

    def __init__(self, *origins: str) -> None:
        self.left = [Shown(numbered(1), "i420", 0, origin) for origin in origins]

    def read(self, timeout: float) -> Shown:
        if not self.left:
            raise TimeoutError
        return self.left.pop(0)

    def close(self) -> None: ...


def test_several_cameras_are_tiles_of_one_picture_and_those_that_come_together_are_in_it_together() -> None:
    stream = Broadcast("all", Given, StreamSettings(), LOGGER)
    mosaic, limiter, feed = Mosaic(), Limiter(30), Given("b", "c", "a")
    for origin in "abc":
        mosaic.note(origin)
    shown = stream._chosen(Shown(numbered(9), "i420", 0, "a"), limiter, mosaic, feed)
    assert shown is not None
    assert [one.origin for one in feed.left] == ["a"]  # which is the next picture's
    assert shown.format == "bgr"
    assert shown.frame.shape == (640 // 320 * 240, 640, 3)
    shown = stream._chosen(Shown(numbered(9), "i420", 0, "a"), Limiter(30), mosaic, Given())  # the others are silent
    assert shown is not None


def test_the_newest_frame_is_copied_only_where_the_reader_is_busy() -> None:
    place, frame = NewestFrame(), numbered(1)
    place.put(Shown(frame, "i420", 0, ""))
    assert place.refused == 1
    place.open()
    place.put(Shown(frame, "i420", 0, ""))
    place.put(Shown(frame, "i420", 0, ""))
    assert place.replaced == 1
    place.put(Shown(frame, "i420", 0, "another camera"))
    assert place.read(0).origin == ""
    assert not np.shares_memory(place.read(0).frame, frame)
    got: list[Shown] = []
    reader = threading.Thread(target=lambda: got.append(place.read(PATIENCE)))
    reader.start()
    eventually(lambda: place._is_awaited, "a reader")
    place.put(Shown(frame, "i420", 0, ""))
    reader.join()
    assert got[0].frame is frame
    with pytest.raises(TimeoutError):
        place.read(0)
    place.close()
    with pytest.raises(StopIteration):
        place.read(0)


def test_cameras_above_the_limit_wait_for_an_idle_one_and_their_frames_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routines, "MOST_STREAMS", 2)
    push = HlsWriter(tmp_path / "{origin}", "push")
    push.setup()

    def show(*cameras: str) -> None:
        for camera in cameras:
            push.meta = Meta((camera,), 0, 0)
            push.main_logic(numbered(1))

    show("a", "b", "c", "a", "b", "c")
    assert sorted(push._outlets) == ["a", "b"]  # and none takes another's place
    assert push.counters["lost"] >= 2
    assert len([record for record in caplog.records if "2 cameras at the most" in record.getMessage()]) == 1
    monkeypatch.setattr(routines, "IDLE_S", 0.0)
    lost = push._turned_away
    show("c")
    assert (list(push._outlets), push._turned_away) == (["b"], lost + 1)  # it does not wait for the end of the other

    def comes() -> bool:
        show("c")
        return "c" in push._outlets

    monkeypatch.setattr(routines, "IDLE_S", 100.0)
    eventually(comes, "room")
    push.cleanup()
    assert push.counters["connected"] == 0


def test_hls_goes_on_with_numbers_that_no_file_had_though_the_clock_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "segment-5000000000.m4s").touch()  # of the year 2128
    store = DirectoryStore(tmp_path)
    assert store.next == 5_000_000_001
    sender = HlsSender(store)
    packet = StreamEncoder(StreamSettings()).encode(Shown(numbered(1), "i420", 0, ""), key=True)
    for _ in range(2):
        sender.send(cast(Push, OnePacket(packet)))
    assert sorted(path.name for path in tmp_path.glob("*.m*")) == [
        "index.m3u8", *(f"{kind}-{number}.{end}" for kind, end in (("init", "mp4"), ("segment", "m4s"))
        for number in (5_000_000_001, 5_000_000_002))
    ]  # fmt: skip
    assert "#EXT-X-MEDIA-SEQUENCE:5000000002" in (tmp_path / "index.m3u8").read_text()


class OnePacket:
    """A connection that has one packet to send."""

    over = True

    def __init__(self, packet: Encoded) -> None:
        self.first = lambda: packet

    def connected(self) -> None: ...

    def note_sent(self) -> None: ...


def test_a_token_goes_to_no_other_server() -> None:
    sender = WhipSender("https://media.example/gate/whip", "secret")
    assert sender._own("https://media.example/session/1") == "https://media.example/session/1"
    assert sender._own("https://other.example/session/1") == ""
    assert sender._own("http://media.example/session/1") == ""


def test_a_whip_connection_that_is_stopped_before_it_stands_is_none() -> None:
    connection, push = SimpleNamespace(connectionState="connecting"), SimpleNamespace(over=True)
    assert asyncio.run(_until_connected(cast("RTCPeerConnection", connection), cast(Push, push))) is False
    push.over, connection.connectionState = False, "connected"
    assert asyncio.run(_until_connected(cast("RTCPeerConnection", connection), cast(Push, push))) is True


def test_a_redirection_is_not_followed_with_the_token() -> None:
    asked = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(StreamingError, match="give the address that it points to: /elsewhere"):
            WhipSender(f"http://127.0.0.1:{server.server_port}/whip", "secret")._post(b"v=0")
        thread.join()
    assert asked == ["/whip"]
