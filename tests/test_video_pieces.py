"""RTSP streams are read in pieces, without FFmpeg's parser, and give the same frames earlier."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise

import av
import pytest

from pipert_shm.video import VideoError, packets
from pipert_shm.video.packets import JoinedPackets
from pipert_shm.video.pyav import PyAVCapture
from pipert_shm.video.units import LEARNED_FROM
from rtp_pieces import START, Packet, decoded, encode
from rtsp_server import RtspServer

FIRST, _ = LEARNED_FROM
EPOCH = 1_700_000_000.0


@cache
def stream(codec: str, parameters: str = "bframes=0", count: int = 90) -> list[Packet]:
    return encode(codec, count, parameters)


@contextmanager
def opened(server: RtspServer, transport: str = "tcp") -> Iterator[PyAVCapture]:
    capture = PyAVCapture(server.url, live=True, transport=transport, logger=logging.getLogger("camera"))
    try:
        yield capture
    finally:
        capture.close()


def is_joined(capture: PyAVCapture) -> bool:
    return isinstance(capture._packets, JoinedPackets)


def is_early(capture: PyAVCapture) -> bool:
    return isinstance(capture._packets, JoinedPackets) and capture._packets._units.early


def luma_of(capture: PyAVCapture) -> bytes:
    """As the decoder gives it."""
    return bytes(capture._frame.planes[0])


def frames_of(capture: PyAVCapture, count: int) -> list[bytes]:
    frames: list[bytes] = []
    while len(frames) < count:
        assert capture.grab()
        frames.append(luma_of(capture))
    return frames


def by_parser(server: RtspServer, count: int) -> list[bytes]:
    capture = PyAVCapture(server.url, live=False)
    frames = frames_of(capture, count)
    capture.close()
    return frames


@pytest.mark.parametrize(
    ("codec", "parameters"),
    [
        ("libx264", "bframes=0"),
        ("libx264", "bframes=2:slices=3:aud=1"),
        ("libx265", "bframes=0:slices=3"),
        ("libx265", "bframes=2"),
    ],
)
def test_frames_are_those_of_the_parser(codec: str, parameters: str) -> None:
    count = 80
    with RtspServer(codec, stream(codec, parameters), fps=60) as server:
        expected = by_parser(server, count)
        with opened(server) as capture:
            assert is_joined(capture)
            got = frames_of(capture, count)
            assert is_early(capture)
            assert capture.damaged == 0
    assert got == expected
    assert len(set(got)) == count


@pytest.mark.parametrize(
    ("codec", "told", "joined"),
    [("libx264", False, True), ("libx265", True, True), ("libx265", False, False)],
    ids=["H.264, headers in the stream", "H.265, headers told", "H.265, headers in the stream: FFmpeg does not find them"],
)
def test_headers(codec: str, told: bool, joined: bool) -> None:
    packets = stream(codec)
    with RtspServer(codec, packets, told=told, fps=60) as server, opened(server) as capture:
        assert is_joined(capture) == joined
        got = frames_of(capture, 5)
    assert got == [luma for _, luma in decoded(codec, packets)][:5]


@pytest.mark.parametrize("reason", ["interlaced", "another codec"])
def test_what_can_not_be_joined_is_opened_with_the_parser(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packets_of = stream("libx264", "bframes=0:interlaced=1" if reason == "interlaced" else "bframes=0")
    if reason == "another codec":
        monkeypatch.setattr(packets, "_CODECS", ("hevc",))
    with RtspServer("libx264", packets_of, fps=60) as server, opened(server) as capture:
        assert not is_joined(capture)
        assert capture.info.fps > 0
        assert frames_of(capture, 5) == [luma for _, luma in decoded("libx264", packets_of)][:5]


def test_a_sender_of_equal_parts_is_waited_for() -> None:
    packets = stream("libx264")
    with RtspServer("libx264", packets, even=True, fps=60) as server, opened(server) as capture:
        frames = frames_of(capture, FIRST + 20)
        assert not is_early(capture)
        assert capture.damaged == 0
    assert frames == [luma for _, luma in decoded("libx264", packets)][: FIRST + 20]


def test_frames_after_one_that_was_cut_are_left_out_up_to_the_next_key_frame(caplog: pytest.LogCaptureFixture) -> None:
    """A camera that is set to two slices a picture, while it runs."""
    one, two = stream("libx264"), stream("libx264", "bframes=0:slices=2")
    at, key = 70, 90  # key frames come every 30
    packets = [*one[:at], *two[at:], *[Packet(packet.data, packet.pts + 90 * 3000) for packet in two[:30]]]
    whole = dict(decoded("libx264", packets))
    with RtspServer("libx264", packets, fps=60) as server, opened(server) as capture:
        got: dict[int, bytes] = {}
        assert capture.grab()  # FFmpeg gives the first two the same stamp
        while len(got) < at + 10:
            assert capture.grab()
            got[(capture._frame.pts or 0) + 3000] = luma_of(capture)
        assert not is_early(capture)
        assert capture.damaged == key - at - 1
    assert f"{server.url!r} has sent the end of a picture that seemed complete" in caplog.text
    stamps = [3000 * number for number in range(1, key + 10) if not at < number < key]
    assert list(got) == stamps
    assert [pts for pts in stamps if got[pts] != whole[pts]] == [3000 * at], "the one that was cut"


def test_lost_packets_neither_stop_the_stream_nor_double_a_frame() -> None:
    packets = stream("libx264", "bframes=0:slices=2")
    with RtspServer("libx264", packets, loss=0.01, fps=60) as server, opened(server, "udp") as capture:
        stamps: list[float] = []
        while len(stamps) < 150:
            assert capture.grab()
            assert capture.pts is not None
            stamps.append(capture.pts)
        assert is_early(capture)
    assert all(a < b for a, b in pairwise(stamps[1:])), "FFmpeg gives the first two the same stamp"


def test_a_stream_whose_sound_goes_on_when_its_pictures_do_not_falls_silent() -> None:
    with RtspServer("libx264", stream("libx264"), sound_from=20) as server:
        capture = PyAVCapture(server.url, live=True, timeout=1.0)
        with pytest.raises(VideoError, match=r"fell silent for 1 s|Input/output error"):
            frames_of(capture, 30)
        capture.close()


def test_data_of_which_no_picture_comes_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "BARREN", 0.5)
    messages = [Packet(START + b"\x06" + b"\x55" * 200, 3000 * number) for number in range(20, 60)]
    with RtspServer("libx264", [*stream("libx264")[:20], *messages]) as server:
        capture = PyAVCapture(server.url, live=True)
        with pytest.raises(VideoError, match="sends data, but no picture for"):
            frames_of(capture, 60)
        capture.close()


def test_the_clock_of_the_sender() -> None:
    with RtspServer("libx264", stream("libx264", "bframes=2"), clock=EPOCH, fps=60) as server, opened(server) as capture:
        for number in range(30):
            assert capture.grab()
            if number:  # FFmpeg gives the first frame the stamp of another
                assert capture.wall_clock == pytest.approx(EPOCH + number / 30, abs=0.001)
    with RtspServer("libx264", stream("libx264"), fps=60) as server, opened(server) as capture:
        assert capture.grab()
        assert capture.wall_clock is None


def test_the_date_of_a_file(tmp_path: object) -> None:
    path = f"{tmp_path}/dated.mp4"
    for made, expected in ("2023-11-14T22:13:20Z", EPOCH), ("1970-01-01T00:00:00Z", None), ("", None):
        with av.open(path, "w") as container:
            if made:
                container.metadata["creation_time"] = made
            video = container.add_stream("libx264", rate=25)
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
            for _ in range(10):
                container.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
            container.mux(video.encode())
        capture = PyAVCapture(path)
        assert capture.grab()
        assert capture.grab()
        assert capture.wall_clock == (None if expected is None else pytest.approx(expected + 0.04))
        capture.close()
