"""What one host may ask of another one: limits of sizes, messages that no sender sends, and a second receiver of a key."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from typing import Any

import cv2
import numpy as np
import pytest
import zstandard

from hosts_ends import COUNT, OPEN, WRONG, receiving, sending
from pipert_shm import Meta
from pipert_shm.hosts import RemoteReceiver, RemoteSender, memory
from pipert_shm.hosts.decoding import Decoder
from pipert_shm.hosts.messages import Hello, Message
from pipert_shm.hosts.payloads import PIECE, Array, joined, taken_apart
from pipert_shm.hosts.pieces import MOST_PIECE, Landed, Landing, Pieces, told_of_piece
from pipert_shm.hosts.protocol import Receiver
from streams import free_port
from waiting import Board, eventually

META = Meta(("camera",), 0, 0, captured_ns=0)
TOLD = {"pts": None, "wall_clock": None, "described": [None, 0]}
FRAME = np.random.default_rng(1).integers(0, 255, (700, 800, 3), dtype=np.uint8)


def pieces_of(payload: Any, codec: str = "none") -> list[bytes]:
    plain, arrays = taken_apart(payload)
    whole = joined(TOLD, plain, [Array(array.dtype.str, array.shape, codec, array.tobytes()) for array in arrays])
    return list(whole.pieces)


def feed(pieces: Pieces, number: int, sent: list[bytes]) -> Any:
    """What comes of a message whose pieces come one by one."""
    for place, piece in enumerate(sent):
        found = pieces.add(told_of_piece(number, place, len(sent), b"head"), piece)
    return found


# ---- where arrays land ------------------------------------------------------------------------------


class Giver:
    """A routine that has nothing else to do than to lend memory."""

    def __init__(self, late: int = 0) -> None:
        self.landing = Landing(threading.Condition())
        self.pieces = Pieces(landing=self.landing)
        self.rooms: list[np.ndarray] = []
        self.late = late

    def feed(self, number: int, sent: list[bytes]) -> Any:
        found = None
        for place, piece in enumerate(sent):
            found = self.pieces.add(told_of_piece(number, place, len(sent), b"head"), piece)
            wanted = self.landing.wanted
            if wanted is not None and place >= self.late:
                self.rooms = [np.empty(*layout) for layout in wanted]
                self.landing.give(wanted, self.rooms)
        return found


@pytest.mark.parametrize("late", [0, 1, 2, 9])
@pytest.mark.parametrize("payload", [FRAME, {"left": FRAME, "n": 3, "right": FRAME[:, ::2], "few": np.arange(3)}])
def test_arrays_land_in_the_memory_that_is_lent_as_soon_as_it_is(payload: Any, late: int) -> None:
    giver, decoder = Giver(late), Decoder()
    for number in range(2):
        head, body = giver.feed(number, pieces_of(payload))
        assert (head, isinstance(body, Landed)) == (b"head", late < 9)
        back = decoder.decode(body, META, np.empty)
        if isinstance(payload, dict):
            assert back["n"] == 3
            assert all(np.array_equal(back[name], payload[name]) for name in ("left", "right", "few"))
        else:
            assert np.array_equal(back, FRAME)
            assert late == 9 or back is giver.rooms[0], "without a copy"


def test_a_message_of_which_a_piece_is_missing_does_not_land_and_the_next_one_does() -> None:
    giver, sent = Giver(), pieces_of(FRAME)
    assert giver.pieces.add(told_of_piece(1, 0, 4, b""), sent[0]) is None
    assert giver.landing.wanted is not None
    assert giver.pieces.add(told_of_piece(1, 2, 4, b""), sent[2]) is None
    assert giver.landing.wanted is None, "nobody waits for it any more"
    assert giver.pieces.add(told_of_piece(1, 3, 4, b""), sent[2]) is None
    broken = pieces_of(FRAME)
    broken[1] = broken[1][:-5]
    _, body = giver.feed(3, broken)
    with pytest.raises(ValueError, match="5 bytes are missing"):
        Decoder().decode(body, META, np.empty)
    _, body = giver.feed(4, [*sent[:-1], sent[-1] + b"more"])
    with pytest.raises(ValueError, match="longer than it says"):
        Decoder().decode(body, META, np.empty)
    _, body = giver.feed(5, sent)
    assert np.array_equal(Decoder().decode(body, META, np.empty), FRAME)


def test_memory_that_is_lent_too_late_is_not_kept() -> None:
    giver, sent = Giver(late=9), pieces_of(FRAME)
    giver.pieces.add(told_of_piece(1, 0, len(sent), b""), sent[0])
    wanted = giver.landing.wanted
    assert wanted == [(FRAME.shape, FRAME.dtype)]
    for place, piece in enumerate(sent[1:], 1):
        giver.pieces.add(told_of_piece(1, place, len(sent), b""), piece)
    giver.landing.give(wanted, [np.empty(FRAME.shape, np.uint8)])
    _, body = giver.feed(2, sent)
    assert isinstance(body, list)


# ---- what is refused --------------------------------------------------------------------------------


def test_a_message_that_is_too_large_is_refused_once_and_the_next_one_comes() -> None:
    pieces, sent = Pieces(most=3 * PIECE), pieces_of(np.zeros(4 * PIECE, np.uint8))
    for place, piece in enumerate(sent[:3]):
        assert pieces.add(told_of_piece(1, place, len(sent), b""), piece) is None
    with pytest.raises(OverflowError, match=f"more than {3 * PIECE:,} bytes"):
        pieces.add(told_of_piece(1, 3, len(sent), b""), sent[3])
    assert not pieces._pieces
    assert pieces.add(told_of_piece(1, 4, len(sent), b""), sent[4]) is None, "it is told once"
    assert feed(pieces, 2, sent[:2])[0] == b"head"


@pytest.mark.parametrize(
    ("told", "piece"),
    [
        (told_of_piece(1, 0, 1, b""), bytes(MOST_PIECE + 1)),
        (told_of_piece(1, 0, 2, bytes(5000)), b"a"),
        (told_of_piece(1, 2, 2, b""), b"a"),
        (told_of_piece(1, 0, 0, b""), b"a"),
    ],
    ids=["large piece", "large head", "beyond the end", "of none"],
)
def test_pieces_that_no_sender_sends_are_refused(told: bytes, piece: bytes) -> None:
    with pytest.raises(ValueError, match="which no sender sends"):
        Pieces().add(told, piece)


@pytest.mark.parametrize("shape", [[1] * 70, [0, 2**40, 2**40]])
def test_arrays_of_a_shape_that_none_has_are_lent_no_memory_and_refused_when_they_are_here(shape: list[int]) -> None:
    receiver = RemoteReceiver("key", listen="tcp/127.0.0.1:1")
    size = int(0 not in shape)
    layout = (tuple(shape), np.dtype(np.uint8))
    assert receiver._rooms_for([layout]) is None
    whole = joined(TOLD, b"", [Array("|u1", layout[0], "none", bytes(size))])
    with pytest.raises(ValueError, match=r"dimension|too big"):
        Decoder().decode(list(whole.pieces), META, np.empty)


def test_a_head_that_tells_of_huge_arrays_gets_no_memory() -> None:
    giver = Giver()
    first = pieces_of(np.zeros(1))[0].replace(b"[1]", b"[99999999999]").replace(b",8,", b",799999999992,")
    first = b"\0" + (len(first) - 5 - 8).to_bytes(4, "little") + first[5:]
    assert giver.pieces.add(told_of_piece(1, 0, 9, b""), first) is None
    assert giver.landing.wanted is None
    with pytest.raises(ValueError, match="are the most"):
        Decoder().decode([first], META, np.empty)


def bombs() -> dict[str, tuple[bytes, str]]:
    zeros = b"\0" * (1 << 22)
    liar = bytearray(zstandard.compress(zeros[:100_000]))
    liar[5:9] = (1000).to_bytes(4, "little")  # after a magic number and a byte of flags
    assert zstandard.frame_content_size(bytes(liar)) == 1000
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(zeros)
    return {
        "larger than allowed": (zstandard.compress(zeros), "it says 4,194,304 for its bytes when unpacked, and 1,048,576 are"),
        "says nothing": (silent, "it says nothing"),
        "says less than it is": (bytes(liar), "no payload"),
    }


@pytest.mark.parametrize(("data", "text"), bombs().values(), ids=list(bombs()))
def test_what_zstandard_made_small_is_refused_by_its_size_before_it_is_unpacked(data: bytes, text: str) -> None:
    assert len(data) < 2000
    with pytest.raises(ValueError, match=text):
        Decoder(most=1 << 20).decode([b"\1" + data], META, np.empty)


def test_a_jpeg_that_says_it_is_huge_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    _, found = cv2.imencode(".jpg", FRAME)
    jpeg = found.tobytes()
    whole = joined(TOLD, b"", [Array("|u1", FRAME.shape, "jpeg", jpeg)])
    assert Decoder().decode(list(whole.pieces), META, np.empty).shape == FRAME.shape
    at = jpeg.index(b"\xff\xc0") + 5
    huge = jpeg[:at] + (60000).to_bytes(2, "big") * 2 + jpeg[at + 4 :]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    for shape in (FRAME.shape, (9000, 9000, 3)):
        whole = joined(TOLD, b"", [Array("|u1", shape, "jpeg", huge)])
        with pytest.raises(ValueError, match="no JPEG of its size"):
            Decoder().decode(list(whole.pieces), META, np.empty)


@pytest.mark.parametrize("is_lossless", [True, False])
def test_what_waits_has_no_more_bytes_than_allowed(is_lossless: bool) -> None:
    receiver, rng = Receiver(9, room=64, most=100), random.Random(3)
    receiver.hear(Hello(1, 1, 0, 64, is_lossless, 5), 5)
    taken = 0
    for _ in range(400):
        number = receiver.accepted
        receiver.hear(Message(1, 1, 0, number, 64, is_lossless, 5, 5, None, b"", size=rng.choice((1, 30, 200))), 5)
        sizes = [waiting.message.size for waiting in receiver.waiting]
        assert sum(sizes) <= 100 or len(sizes) == 1, "one alone is let in, whatever its size"
        if rng.random() < 0.3 and receiver.waiting:
            taken += receiver.take().number >= 0
            receiver.done()
    assert receiver.crowded > 10
    assert taken > 50


FAULTS = """
import resource, runpy, sys, threading
keep = runpy.run_path(sys.argv[1])["keep_freed_memory"]
kept = sys.argv[2] == "keep" and keep()
def turns():
    for turn in range(60):
        if turn == 20:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        pieces = [bytearray(1 << 19) for _ in range(3)]
        for piece in pieces:
            piece[::4096] = bytes(128)
        del pieces, piece
    print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=turns)
thread.start()
thread.join()
"""


def test_memory_that_was_freed_is_kept_for_the_next_piece() -> None:
    def faults(how: str) -> tuple[str, int]:
        command = [sys.executable, "-S", "-c", FAULTS, memory.__file__, how]
        kept, count = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return kept, int(count)

    kept, count = faults("keep")
    if kept == "False":
        pytest.skip("this C library has no mallopt()")
    assert count < 200
    assert faults("as it is")[1] > 2000, "else nothing has to be kept"


# ---- real ends --------------------------------------------------------------------------------------

STRANGER = """
import json, sys, zenoh
from pipert_shm.hosts.pieces import told_of_piece
config = zenoh.Config()
for key, value in {"mode": "client", "connect/endpoints": [sys.argv[1]], "scouting/multicast/enabled": False}.items():
    config.insert_json5(key, json.dumps(value))
with zenoh.open(config) as session:
    say = session.declare_publisher("pipert/-/-/wire/gate/sender", congestion_control=zenoh.CongestionControl.BLOCK)
    for number in range(3):
        say.put(b"x", attachment=b"rubbish")
        for place in range(5):
            say.put(bytes(1 << 19), attachment=told_of_piece(number, place, 5, b""))
    say.put(bytes(1 << 20), attachment=told_of_piece(9, 7, 5, b""))
    sys.stdin.read()
"""


@pytest.fixture
def board() -> Board:
    board = Board()
    board[OPEN] = 1
    return board


def test_what_a_host_should_not_send_is_counted_and_told_and_harms_nobody(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"tcp/127.0.0.1:{free_port()}"
    receiver = RemoteReceiver("gate", "receiver", listen=address, max_message=1 << 21)
    with receiving(board, receiver) as hub, sending(board, RemoteSender("gate", "sender", connect=address), fps=50):
        board.wait(COUNT, 5)
        stranger = subprocess.Popen([sys.executable, "-c", STRANGER, address], stdin=subprocess.PIPE, text=True)

        def counted() -> bool:
            counters = hub.statistics().routines["receiver"].counters
            return (counters["damaged"], counters["too_large"]) == (4, 3)

        eventually(counted, "what the stranger sent", 20)
        board.wait(COUNT, board[COUNT] + 5)
        stranger.communicate()
    assert board[WRONG] == 0
    told = [record.message for record in caplog.records if "carries" in record.message]
    assert sum("a message of more than 2,097,152 bytes; it is left out" in one for one in told) == 2, "the first and the second"


def test_a_second_receiver_of_a_key_gets_nothing_while_the_first_one_is_there(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"tcp/127.0.0.1:{free_port()}"
    other = Board()
    with sending(board, RemoteSender("gate", "sender", listen=address), fps=50):
        with receiving(board, RemoteReceiver("gate", "receiver", connect=address)):
            board.wait(COUNT, 5)
            second = RemoteReceiver("gate", "second", connect=address)
            with receiving(other, second) as pipe:
                told = "the wire 'gate' between hosts has two receivers: 'second' of"

                def both() -> bool:
                    return sum(told in record.message for record in caplog.records) == 2

                eventually(both, "what both say")
                board.wait(COUNT, board[COUNT] + 5)
                assert other[COUNT] == 0
                assert pipe.statistics().routines["second"].counters["connected"] == 0
        with receiving(other, RemoteReceiver("gate", "third", connect=address)):
            other.wait(COUNT, 5)
    assert board[WRONG] == other[WRONG] == 0


def test_when_the_first_receiver_is_gone_the_second_one_is_served(board: Board) -> None:
    address = f"tcp/127.0.0.1:{free_port()}"
    other = Board()
    first = receiving(board, RemoteReceiver("gate", "receiver", connect=address))
    with sending(board, RemoteSender("gate", "sender", listen=address, policy="block"), fps=50):
        with first:
            board.wait(COUNT, 5)
            second = receiving(other, RemoteReceiver("gate", "second", connect=address))
            second.__enter__()
        try:
            other.wait(COUNT, 5)
        finally:
            second.__exit__(None, None, None)
    assert board[WRONG] == other[WRONG] == 0
