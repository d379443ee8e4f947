"""What a frame costs between hosts, and what becomes of it: pieces, JPEG, films, and the choice among them."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Iterable
from typing import Any, get_args

import cv2
import numpy as np
import pytest

from hosts_ends import COUNT, OPEN, SKIPPED, WRONG, at_rest, kill, receiving, sending
from pipert_shm import DetectedFrame, Detections, Meta, PayloadError
from pipert_shm.hosts import RemoteReceiver, RemoteSender
from pipert_shm.hosts.choosing import LADDER, CodecChoice, LadderCodec
from pipert_shm.hosts.decoding import Decoder
from pipert_shm.hosts.encoding import MOST_FILMS, ArrayCodec, Encoder, FilmBody
from pipert_shm.hosts.payloads import PIECE
from pipert_shm.hosts.pieces import Pieces
from pipert_shm.video.films import GROUP, FilmCodec, usual_rate
from pipert_shm.video.formats import converted
from streams import free_port
from waiting import Board, eventually

ARRAY_CODECS: tuple[ArrayCodec, ...] = get_args(ArrayCodec)
FILMS: tuple[FilmCodec, ...] = get_args(FilmCodec)
LOGGER = logging.getLogger("codecs")
RECEIVER = 7


def meta_of(number: int = 0, origin: int = 0) -> Meta:
    return Meta(tuple(f"camera{place}" for place in range(origin + 1)), origin, number, captured_ns=number * 33_000_000)


class Ends:
    """An encoder and a decoder, with nothing between them."""

    def __init__(self, codec: ArrayCodec, bit_rate: int | None = None) -> None:
        self.codec: ArrayCodec = codec
        self.encoder, self.decoder = Encoder(bit_rate, LOGGER), Decoder()
        self.number = 0

    def encode(self, payload: Any, meta: Meta | None = None) -> list[bytes] | FilmBody:
        if meta is None:
            meta = meta_of(self.number)
            self.number += 1
        body = self.encoder.encode(payload, meta, self.codec)
        if isinstance(body, FilmBody):
            return body
        pieces = list(body.pieces)
        assert (len(pieces), sum(map(len, pieces))) == (body.number, body.size)
        return pieces

    def pieces(self, payload: Any, meta: Meta | None = None, receiver: int = RECEIVER) -> list[bytes]:
        return pieces_of(self.encode(payload, meta), receiver)

    def decode(self, pieces: Iterable[bytes], meta: Meta | None = None) -> Any:
        return self.decoder.decode(pieces, meta or meta_of(), np.empty)


def pieces_of(body: list[bytes] | FilmBody, receiver: int = RECEIVER) -> list[bytes]:
    return list(body.pieces_for(receiver)) if isinstance(body, FilmBody) else body


def scene(number: int, width: int = 160, height: int = 120) -> np.ndarray:
    """Colours that run into each other, and a ball that moves; BGR."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 255 // width, y * 255 // height, (x + y) * 127 // (width + height) + 40], -1).astype(np.uint8)
    cv2.circle(picture, (width // 4 + 2 * number, height // 2), height // 5, (30, 200, 250), -1)
    return picture


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.parametrize("codec", ARRAY_CODECS)
def test_payloads_come_as_they_went(codec: ArrayCodec) -> None:
    frame = np.full((32, 48, 3), 90, np.uint8)
    found = DetectedFrame(frame, Detections([[1, 2, 3, 4]], names=["person"]))
    found.additional_data["depth"] = np.arange(6, dtype=np.float32).reshape(2, 3)
    ends = Ends(codec)
    for payload in (
        frame,
        frame[:, :, 0],
        np.arange(5),
        np.zeros((0, 3)),
        found,
        {"a": (1, None, b"x"), 2: [frame]},
        "text",
        1.5,
    ):
        meta = Meta(("camera",), 0, 5, pts=1.25)
        meta.describe("rgb", 0)
        there = Meta(("receiver",), 0, 0)
        back = ends.decode(ends.pieces(payload, meta), there)
        assert (there.pts, there.format) == (1.25, "rgb")
        if isinstance(payload, np.ndarray):
            assert back.shape == payload.shape
            assert np.abs(back.astype(float) - payload).max(initial=0) <= 3
        elif isinstance(payload, DetectedFrame):
            assert back.detections.names == ("person",)
            assert np.array_equal(back.additional_data["depth"], payload.additional_data["depth"])
        elif isinstance(payload, dict):
            assert back["a"] == (1, None, b"x")
            assert np.abs(back[2][0].astype(int) - frame).max() <= 3
        else:
            assert back == payload


class Unknown:
    pass


def test_objects_of_other_classes_are_refused_by_name() -> None:
    with pytest.raises(PayloadError, match=r"an object of class test_hosts_codecs\.Unknown; send arrays"):
        Ends("none").pieces({"a": Unknown()})


TEXT = b"".join(Ends("none").pieces("text"))
SHORT = b"".join(Ends("none").pieces(np.arange(9)))


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\0\2\0\0\0{}", b"\1junk", TEXT[:-1], TEXT + b"x", SHORT[:-1], b"\0\xff\xff\xff\xff"]
)
def test_a_damaged_payload_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):  # the text is that of what was damaged
        Ends("none").decode([data])


def _head(array: list[Any], pts: Any = None) -> bytes:
    told = {"pts": pts, "wall_clock": None, "described": [None, 0], "plain": 0, "arrays": [array]}
    head = json.dumps(told).encode()
    return b"\0" + len(head).to_bytes(4, "little") + head


HUGE_FILM = {"sizes": [4], "first": 0, "key": True, "film": 1, "format": "bgr"}
HUGE_ZSTD = b"\1\x28\xb5\x2f\xfd\xe0" + (1 << 50).to_bytes(8, "little") + bytes(20)


@pytest.mark.parametrize(
    "data",
    [
        _head(["|u1", [60000, 60000, 3], "h264", 4, HUGE_FILM]) + b"abcd",
        _head(["|u1", [64], "h264", 4, HUGE_FILM]) + b"abcd",
        HUGE_ZSTD,
        _head(["|u1", [1], "none", 1, None], pts=[1]) + b"a",
        _head(["|u1", [1], "none", 1, None], pts=10**400) + b"a",
    ],
    ids=["huge film", "no picture", "huge zstd", "no time", "huge time"],
)
def test_a_payload_that_says_of_itself_what_can_not_be_asks_for_no_memory(data: bytes) -> None:
    loans: list[int] = []

    def loan(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        loans.append(math.prod(shape))
        return np.empty(shape, dtype)

    with pytest.raises(ValueError, match=r"."):
        Decoder().decode([data], meta_of(), loan)
    assert sum(loans) <= 1


def test_a_damaged_film_is_a_value_error_whatever_is_damaged() -> None:
    ends, rng = Ends("h264"), random.Random(20)
    whole = b"".join(ends.pieces(scene(0)))
    failed = 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.randrange(200)] = rng.randrange(256)
        try:
            Ends("h264").decode([bytes(damaged)])
        except ValueError:
            failed += 1
    assert failed > 20, "the others hit what says nothing, such as the age"


def test_a_large_array_goes_in_pieces_and_each_byte_comes() -> None:
    frame = np.random.default_rng(1).integers(0, 255, (700, 800, 3), dtype=np.uint8)
    ends = Ends("none")
    pieces = ends.pieces({"left": frame, "right": frame[:, ::2]})
    assert [len(piece) for piece in pieces[:-1]] == [PIECE] * (len(pieces) - 1)
    back = ends.decode(pieces)
    assert np.array_equal(back["left"], frame)
    assert np.array_equal(back["right"], frame[:, ::2])
    assert len(ends.pieces(np.zeros(100))) == 1


def test_a_message_of_which_a_piece_is_missing_is_left_out_and_the_next_one_comes() -> None:
    sent = [bytes([1, 0, 0, 0, place, 0, 3, 0]) + (b"" if place else b"one") for place in range(3)]
    then = [bytes([2, 0, 0, 0, place, 0, 3, 0]) + (b"" if place else b"two") for place in range(3)]
    single = bytes([9, 0, 0, 0, 0, 0, 1, 0]) + b"ack"
    whole = Pieces()
    assert [whole.add(told, told[4:5]) for told in sent] == [None, None, (b"one", [b"\0", b"\1", b"\2"])]
    got = [whole.add(told, told[4:5]) for told in (sent[0], sent[1], then[2], then[0], single, then[1], then[2], then[2])]
    assert got == [None, None, None, None, (b"ack", (b"\0",)), None, (b"two", [b"\0", b"\1", b"\2"]), None]
    assert whole.add(b"", b"") == (b"", ())


# ---- films ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", FILMS)
@pytest.mark.parametrize("size", [(160, 120), (161, 123), (66, 34)])
@pytest.mark.parametrize("format", ["bgr", "rgb", "gray", "i420", "nv12"])
def test_colours_and_range_are_right_in_every_format_and_size(codec: FilmCodec, size: tuple[int, int], format: Any) -> None:
    if format in ("i420", "nv12") and size[0] % 2:
        pytest.skip("a planar frame has an even size")
    picture = converted(scene(0, *size), "bgr", format)
    if format == "gray":
        cv2.normalize(picture, picture, 0, 255, cv2.NORM_MINMAX)  # the whole range
    picture = picture.copy()
    picture.setflags(write=False)
    ends = Ends(codec, 4_000_000)
    for number in range(3):
        meta = meta_of(number)
        meta.describe(format, len(picture))
        back = ends.decode(ends.pieces(picture, meta))
    exact = converted(converted(scene(0, *size)[: size[1] & ~1, : size[0] & ~1], "bgr", "i420"), "i420", "bgr")
    halved = difference(exact, scene(0, *size)[: size[1] & ~1, : size[0] & ~1])  # by colours of half the size
    assert difference(back, picture) < 1.0 + (halved if format in ("bgr", "rgb") else 0)


@pytest.mark.parametrize(
    "picture",
    [np.full((64, 64), 40_000, np.uint16), np.zeros((64, 64, 4), np.uint8), np.ones((64, 64), np.float32)],
    ids=["16 bits", "four channels", "floats"],
)
@pytest.mark.parametrize("codec", ["jpeg", *FILMS])
def test_what_no_codec_is_for_goes_as_it_is_and_is_named(
    codec: ArrayCodec, picture: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    ends = Ends(codec)
    for _ in range(2):
        assert np.array_equal(ends.decode(ends.pieces(picture)), picture)
    (record,) = caplog.records
    assert f"arrays of {picture.dtype} and shape {picture.shape} go as they are: codec '{codec}'" in record.message


def test_a_picture_too_small_for_a_film_goes_as_a_jpeg() -> None:
    ends = Ends("h264")
    body = ends.encode(scene(0, 24, 24))
    assert isinstance(body, list)
    assert ends.decode(body).shape == (24, 24, 3)


def is_key(body: list[bytes] | FilmBody) -> bool:
    assert isinstance(body, FilmBody)
    (_, shot) = body.arrays[0]
    assert shot is not None
    return shot.group[shot.place].is_key


@pytest.mark.parametrize("codec", FILMS)
def test_key_frames_come_first_when_asked_for_on_another_size_and_each_group(codec: FilmCodec) -> None:
    ends = Ends(codec)
    assert [is_key(ends.encode(scene(number))) for number in range(3)] == [True, False, False]
    ends.encoder.refresh()
    assert [is_key(ends.encode(scene(number))) for number in range(2)] == [True, False]
    assert [is_key(ends.encode(scene(number, 192, 120))) for number in range(2)] == [True, False]
    assert [is_key(ends.encode(scene(number), meta_of(number, origin=1))) for number in range(2)] == [True, False]
    if codec == "h264":
        keys = [is_key(ends.encode(scene(0, 192, 120))) for _ in range(GROUP + 2)]
        assert keys.count(True) == 1, "in each group"


@pytest.mark.parametrize("codec", FILMS)
def test_after_a_loss_nothing_is_delivered_before_a_key_frame(codec: FilmCodec) -> None:
    ends = Ends(codec)
    sent = [ends.pieces(scene(number)) for number in range(6)]
    ends.decode(sent[0])
    for number in (2, 3, 4):
        with pytest.raises(ValueError, match="a key frame is asked for"):
            ends.decode(sent[number])
    ends.encoder.refresh()
    assert difference(ends.decode(ends.pieces(scene(7))), scene(7)) < 8


def test_a_message_that_is_too_old_is_decoded_and_those_after_it_are_right() -> None:
    ends = Ends("h264")
    sent = [ends.pieces(scene(number)) for number in range(4)]
    ends.decode(sent[0])
    ends.decoder.skip(sent[1], meta_of())
    ends.decoder.skip(sent[2], meta_of())
    assert difference(ends.decode(sent[3]), scene(3)) < 8


def test_a_receiver_that_lacks_pictures_gets_them_from_the_last_key_frame_on() -> None:
    ends = Ends("h264")
    bodies = [ends.encode({"picture": scene(number), "n": number}) for number in range(8)]
    for body in bodies[:5]:
        pieces_of(body)
    other = Decoder()
    back = [other.decode(pieces_of(body, receiver=8), meta_of(), np.empty) for body in bodies[3:]]
    assert [payload["n"] for payload in back] == [3, 4, 5, 6, 7]
    for payload in back:
        assert difference(payload["picture"], scene(payload["n"])) < 8
    sizes = [sum(map(len, pieces_of(body, receiver=8))) for body in bodies[6:]]
    assert max(sizes) < sum(map(len, pieces_of(bodies[6], receiver=9))) / 2, "only the first one brings them"


def test_a_damaged_picture_costs_messages_until_a_key_frame_and_other_films_go_on() -> None:
    ends = Ends("h264")
    first, other = ends.pieces(scene(0)), ends.pieces(scene(0), meta_of(0, origin=1))
    assert len(first) == len(other) == 1
    ends.decode(first)
    ends.decode(other)
    damaged = ends.pieces(scene(1))[0]
    with pytest.raises(ValueError, match="can't be decoded"):
        ends.decode([damaged[:-40] + b"\0" * 40])
    assert difference(ends.decode(ends.pieces(scene(1), meta_of(1, origin=1))), scene(1)) < 8
    ends.encoder.refresh()
    assert difference(ends.decode(ends.pieces(scene(2))), scene(2)) < 8


def test_many_films_and_pictures_without_a_steady_size_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    ends = Ends("h264")
    for number in range(7):
        ends.decode(ends.pieces(scene(number, 64 + 2 * number, 64)))
    assert "another size all the time, so they go as JPEG" in caplog.text
    for origin in range(MOST_FILMS + 2):
        ends.decode(ends.pieces(scene(0, 64, 64), meta_of(0, origin)))
    assert len(ends.encoder._films) <= MOST_FILMS
    assert len(ends.decoder._films) <= MOST_FILMS


def test_the_rate_is_kept_and_by_default_suits_the_size() -> None:
    assert usual_rate("h264", 1280, 720) < 3_000_000
    noise = np.random.default_rng(2).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    for rate in (300_000, 3_000_000):
        ends = Ends("h264", rate)
        size = sum(len(b"".join(ends.pieces(np.roll(noise, 9 * number, 1)))) for number in range(60))
        assert 8 * size / (60 * 0.033) < 1.6 * rate, "with the first second, which may take twice its share"


# ---- the choice -------------------------------------------------------------------------------------


def chosen(
    link: float, *, seconds: int = 120, h264_s: float = 0.009, is_slow: bool = False, burst: float = 1.0
) -> tuple[list[LadderCodec], list[str]]:
    """The codec at each second, and the reasons for changes: 720p at 30 fps on a link of so many bytes a second.

    :param h264_s: time that a picture takes in H.264.
    :param is_slow: whether the receiver takes 10 pictures a second.
    :param burst: how many times faster messages below a megabyte go.
    """
    choice, rng, fps, raw = CodecChoice(), random.Random(1), 30, 2_764_800
    sizes = dict(zip(LADDER, (raw, raw // 14, 11_000), strict=True))
    costs = dict(zip(LADDER, (0.0, 0.004, h264_s), strict=True))
    used, reasons, free_at, busy = [], [], 0.0, 0.0
    choice.note_trip(0, 0.011)
    for number in range(int(seconds * fps)):
        now = number / fps
        if number % fps == 0:
            used.append(choice.codec)
        if busy > now:
            continue  # the wire before the sender drops it
        is_dropped = free_at > now + 1 / fps or (is_slow and number % 3 > 0)
        choice.note_offered(dropped=is_dropped, waited=0.0)
        found = choice.choose(now)
        if found is not None:
            reasons.append(found.why)
        if not is_dropped:
            size, spent = sizes[choice.codec], costs[choice.codec]
            choice.note_encoded(raw, size, spent)
            busy = now + spent
            free_at = max(free_at, busy) + size / link / (burst if size < 1e6 else 1)
            choice.note_acknowledged(size, int(is_slow))
            choice.note_trip(size, free_at - busy + 0.01 + rng.uniform(0, 0.002))
    return used, reasons


def test_auto_takes_the_cheapest_codec_that_the_link_carries_and_keeps_to_it() -> None:
    for link, expected in ((1.2e9, "none"), (1.2e7, "jpeg"), (1.2e6, "h264")):
        used, reasons = chosen(link)
        assert set(used[20:]) == {expected}, (link, used)
        assert len(reasons) <= 1
    assert "jpeg needs 47.4 Mbit/s at 30" in reasons[0]
    assert "the link carries 9" in reasons[0]


def test_auto_tries_a_cheaper_codec_less_and_less_often_where_that_was_wrong() -> None:
    used, _ = chosen(6e7, seconds=600, burst=4)
    tried = [second for second in range(1, 600) if used[second] == "none" != used[second - 1]]
    assert 3 <= len(tried) <= 7
    assert tried[-1] - tried[-2] > 4 * (tried[1] - tried[0])


def test_auto_goes_by_the_processor_too() -> None:
    used, reasons = chosen(1.2e6, h264_s=0.4)
    assert used[-1] == "jpeg", "H.264 would bring two pictures a second"
    assert len(reasons) < 20


def test_auto_changes_nothing_when_the_receiver_is_slow() -> None:
    used, _ = chosen(1.2e7, is_slow=True)
    assert set(used) == {"jpeg"}


# ---- both ends --------------------------------------------------------------------------------------


@pytest.fixture
def board() -> Board:
    board = Board()
    board[OPEN] = 1
    return board


def test_with_block_and_h264_each_message_comes_once_though_the_receiver_is_killed(board: Board) -> None:
    port = free_port()
    sender = RemoteSender("gate", "sender", listen=f"tcp/127.0.0.1:{port}", policy="block", codec="h264", window=6)
    receiver = RemoteReceiver("gate", "receiver", connect=f"tcp/127.0.0.1:{port}")
    with receiving(board, receiver, tolerance=6) as hub, sending(board, sender, fps=100) as edge:
        board.wait(COUNT, 10)
        for pipe, routine in ((hub, "receiver"), (edge, "sender")):
            kill(pipe, routine)
            board.wait(COUNT, board[COUNT] + 20)
        skipped, counted = at_rest(board, edge, hub)
        assert hub.statistics().routines["receiver"].counters["unreadable"] == 0
        assert edge.statistics().routines["sender"].counters["key_frames"] >= 3, "at first, and after each kill"
    assert board[WRONG] == 0
    assert skipped <= counted <= skipped + 2, "what a sender had in hand when it died may have gone out"


def test_a_second_sender_of_a_key_is_not_heard_and_both_ends_name_it(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    address = f"tcp/127.0.0.1:{port}"
    other = Board()
    other[OPEN] = 1
    receiver = RemoteReceiver("gate", "receiver", listen=address)
    with receiving(board, receiver), sending(board, RemoteSender("gate", "sender", connect=address), fps=50):
        board.wait(COUNT, 5)
        with sending(other, RemoteSender("gate", "second", connect=address), fps=50) as pipe:
            told = "the wire 'gate' between hosts has two senders: 'second' of"

            def both() -> bool:
                return sum(told in record.message for record in caplog.records) == 2

            eventually(both, "what both say")
            assert pipe.statistics().routines["second"].counters["sent"] == 0
            board.wait(COUNT, board[COUNT] + 5)
    assert board[WRONG] == 0
    assert board[SKIPPED] == 0 or board[COUNT] > 0
