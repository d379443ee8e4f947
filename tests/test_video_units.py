"""Pieces of H.264 and H.265 streams become whole pictures: the same as by FFmpeg's parser, none missing, none twice."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipert_shm.video.units import LEARNED_FROM, Unit, Units
from rtp_pieces import START, Packet, Piece, cut, decoded, encode, parsed

FIRST, _ = LEARNED_FROM

STREAMS = {
    "one slice": "bframes=0",
    "four slices": "bframes=0:slices=4",
    "B-frames": "bframes=2:aud=1",
    "B-frames, three slices": "bframes=2:slices=3:aud=1",
}


@cache
def stream(codec: str, parameters: str, count: int = 100) -> list[Packet]:
    return encode(codec, count, parameters)


def units_for(codec: str, *, lossless: bool = True) -> Units:
    return Units("h264" if codec == "libx264" else "hevc", lossless=lossless)


def join(units: Units, pieces: Iterable[Piece]) -> list[Unit]:
    """All pictures. A piece comes at the time that is its number."""
    joined = [unit for number, piece in enumerate(pieces) for unit in units.feed(*piece, number)]
    return [*joined, *units.end()]


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("parameters", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("aggregated", [False, True], ids=["", "headers in one packet"])
def test_pictures_are_those_of_the_parser(codec: str, parameters: str, aggregated: bool) -> None:
    packets = stream(codec, parameters)
    pieces = cut(codec, packets, aggregated=aggregated)
    units = units_for(codec)
    joined = join(units, pieces)
    assert [unit.pts for unit in joined] == [packet.pts for packet in packets]
    assert not any(unit.is_early for unit in joined[:FIRST])
    early = [unit.is_early for unit in joined[FIRST:]]
    assert early.count(True) > 0.95 * len(early), "all but those whose last part is as long as the others, by chance"
    assert not units.broken
    pictures = decoded(codec, [Packet(unit.data, unit.pts or 0) for unit in joined])
    assert [pts for pts, _ in pictures] == sorted(packet.pts for packet in packets)
    assert [luma for _, luma in pictures] == [luma for _, luma in parsed(codec, pieces)]


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_picture_is_given_with_its_last_piece(codec: str) -> None:
    pieces = cut(codec, stream(codec, STREAMS["four slices"]))
    last = {piece.pts: number for number, piece in enumerate(pieces)}
    units = units_for(codec)
    given_at = {unit.pts: number for number, piece in enumerate(pieces) for unit in units.feed(*piece, number)}
    given_at |= {unit.pts: len(pieces) for unit in units.end()}
    late = [given_at[pts] - number for pts, number in last.items()]
    assert late[:FIRST] == [1] * FIRST
    assert late[FIRST:].count(0) > 0.95 * len(late[FIRST:])
    assert {unit.pts: unit.came_ns for unit in join(units_for(codec), pieces)} == last, "in both ways its last piece's time"


@pytest.mark.parametrize("mtu", [200, 499, 1400])
def test_the_length_of_packets_is_found_out(mtu: int) -> None:
    joined = join(units_for("libx264"), cut("libx264", stream("libx264", STREAMS["one slice"]), mtu))
    assert joined[-1].is_early
    assert [unit.pts for unit in joined] == [packet.pts for packet in stream("libx264", STREAMS["one slice"])]


@pytest.mark.parametrize(
    ("parameters", "even"),
    [("bframes=0", True), ("bframes=0:slices=4", True), ("bframes=0:slice-max-size=450", False)],
    ids=["parts of equal length", "slices in parts of equal length", "as many slices as it takes"],
)
def test_where_the_end_does_not_show_the_next_picture_tells(parameters: str, even: bool) -> None:
    packets = stream("libx264", parameters)
    joined = join(units_for("libx264"), cut("libx264", packets, even=even))
    assert [unit.pts for unit in joined] == [packet.pts for packet in packets]
    assert not any(unit.is_early for unit in joined)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("parameters", STREAMS.values(), ids=STREAMS)
def test_lost_packets_mix_no_pictures(codec: str, parameters: str) -> None:
    chance = random.Random(7)
    came = [piece for piece in cut(codec, stream(codec, parameters)) if chance.random() > 0.005]
    units = units_for(codec, lossless=False)
    joined = join(units, came)
    assert not units.broken
    assert any(unit.is_early for unit in joined)
    stamps = [unit.pts for unit in joined]
    assert len(set(stamps)) == len(stamps), "none twice"
    assert len(stamps) > 0.9 * len({piece.pts for piece in came}), "what has no slice any more is no picture"
    for unit in joined:
        of_it = b"".join(piece.data for piece in came if piece.pts == unit.pts)
        assert unit.data.endswith(of_it), "before it there may be what has no slice"


def test_a_picture_that_goes_on_after_its_end_is_cut_and_ends_the_haste() -> None:
    one, two = stream("libx264", STREAMS["one slice"]), stream("libx264", "bframes=0:slices=2")
    later = [Packet(packet.data, packet.pts + 10**6) for packet in two]
    units = units_for("libx264")
    before = join(units, cut("libx264", one))
    assert before[-1].is_early
    assert not units.broken
    pieces = cut("libx264", later)
    joined: list[Unit] = []
    for number, piece in enumerate(pieces):
        joined += units.feed(*piece, number)
        if units.broken:
            break
    assert [unit.pts for unit in joined] == [later[0].pts], "the first one with two slices, after the first of them"
    assert not units.early
    units.broken = False
    joined = join(units, pieces[number + 1 :])
    assert [unit.pts for unit in joined] == [packet.pts for packet in later[1:]], "what is left of the first one is dropped"
    assert [unit.data for unit in joined[:3]] == [b"".join(p.data for p in pieces if p.pts == unit.pts) for unit in joined[:3]]
    assert not any(unit.is_early for unit in joined)


def test_after_a_mistake_ten_times_as_many_pictures_must_agree_and_after_two_nothing_helps() -> None:
    units = Units("h264")
    numbers = iter(range(10**9))
    key = [7, 8, 30, 12_000]

    def run(count: int, slices: int = 1) -> list[Unit]:
        return join_sizes(units, [key if number % 20 == 0 else [3000] * slices for number in range(count)], numbers)

    assert run(FIRST + 10)[-1].is_early
    run(2, slices=2)
    assert units.broken
    units.broken = False
    assert not any(unit.is_early for unit in run(10 * FIRST - 20))
    assert run(60)[-1].is_early
    run(2, slices=2)
    assert units.broken
    assert not any(unit.is_early for unit in run(20 * FIRST))


def test_as_many_slices_as_it_takes_are_not_counted_on() -> None:
    units = Units("h264")
    pictures = [[7, 8, 30, *[3000] * (1 + number % 3)] for number in range(2 * FIRST)]
    joined = join_sizes(units, [*pictures, [7, 8, 30, 3000, 3000, 3000, 3000]], range(10**9))
    assert len(joined) == 2 * FIRST + 1
    assert not any(unit.is_early for unit in joined)


def test_nothing_is_known_without_a_key_frame() -> None:
    units = Units("h264")
    numbers = iter(range(10**9))
    assert not any(unit.is_early for unit in join_sizes(units, [[12_000]] * (3 * FIRST), numbers))
    assert join_sizes(units, [[7, 8, 30, 12_000], *[[12_000]] * FIRST], numbers)[-1].is_early


def test_a_sender_that_cuts_a_part_short_now_and_then_is_waited_for() -> None:
    units = Units("h264")
    pieces = [piece for number in range(3 * FIRST) for piece in made([7, 8, 30, 12_000], number, 1400)]
    for place in range(60, len(pieces), 333):
        data, pts = pieces[place]
        if not data.startswith(START) and pieces[place + 1].pts == pts:
            pieces[place : place + 1] = [Piece(data[:700], pts), Piece(data[700:], pts)]
    joined = join(units, pieces)
    assert [unit.pts for unit in joined] == [3000 * number for number in range(3 * FIRST)]
    assert not units.broken


def join_sizes(units: Units, pictures: list[list[int]], numbers: Iterable[int], mtu: int = 1400) -> list[Unit]:
    """Pictures of NAL units of these sizes. Small ones, up to 8 bytes, are parameter sets; those up to 50, SEI."""
    return join(units, [piece for sizes, number in zip(pictures, numbers, strict=False) for piece in made(sizes, number, mtu)])


def made(sizes: list[int], number: int, mtu: int) -> list[Piece]:
    packet = b""
    slices = 0
    for size in sizes:
        header = bytes([size if size <= 8 else 6 if size <= 50 else 5 if len(sizes) > 3 else 1, 1 if slices else 0x81])
        slices += size > 50
        packet += START + header + b"\x55" * (size - 2)
    return cut("libx264", [Packet(packet, 3000 * number)], mtu)


@given(
    st.integers(1, 4),
    st.integers(300, 3000),
    st.lists(st.integers(60, 20_000), min_size=90, max_size=130),
    st.lists(st.booleans(), min_size=400, max_size=400),
)
def test_a_sender_that_cuts_as_most_do_is_never_misunderstood(
    slices: int, mtu: int, sizes: list[int], keys: list[bool]
) -> None:
    units = Units("h264")
    pictures = [[7, 8, 30] * is_key + [size] * slices for size, is_key in zip(sizes, keys, strict=False)]
    joined = join_sizes(units, pictures, range(len(pictures)), mtu)
    assert [unit.pts for unit in joined] == [3000 * number for number in range(len(pictures))]
    assert not units.broken


@pytest.mark.parametrize(
    "stamps",
    [[0, 0, 3000, 6000], [None, 0, 3000, 6000], [0, 3000, 0, 3000], [2**33 - 1, 2, 3000, 2**40], [5, 5, 5, 5]],
    ids=["twice the same", "none at first", "from the start again", "a wrap and a jump", "always the same"],
)
def test_pictures_are_told_by_their_slices_whatever_the_stamps_say(stamps: list[int | None]) -> None:
    packets = stream("libx264", STREAMS["four slices"])[:4]
    units = units_for("libx264")
    pieces = [(piece.data, stamp) for packet, stamp in zip(packets, stamps, strict=True) for piece in cut("libx264", [packet])]
    joined = [unit for number, piece in enumerate(pieces) for unit in units.feed(*piece, number)]
    joined += units.end()
    assert [unit.pts for unit in joined] == stamps
    assert [unit.data for unit in joined] == [b"".join(p.data for p in cut("libx264", [packet])) for packet in packets]


def test_slices_with_stamps_of_their_own_stay_one_picture_unless_packets_get_lost() -> None:
    packets = stream("libx264", STREAMS["four slices"])[:10]
    pieces = [Piece(piece.data, number) for number, piece in enumerate(cut("libx264", packets, 60_000))]
    assert len(join(units_for("libx264"), pieces)) == 10
    assert len(join(units_for("libx264", lossless=False), pieces)) == 40


@pytest.mark.parametrize(
    ("codec", "behind"),
    [("libx264", b"\x0c" + b"\xff" * 1300 + b"\x80"), ("libx264", b"\x0a"), ("libx265", b"\x50\x01\x84\x80")],
    ids=["filling, in several packets", "an end of the sequence", "SEI"],
)
def test_what_stands_behind_the_slices_goes_with_the_next_picture(codec: str, behind: bytes) -> None:
    packets = stream(codec, STREAMS["one slice"])
    units = units_for(codec)
    joined = join(units, cut(codec, [Packet(packet.data + START + behind, packet.pts) for packet in packets]))
    assert [unit.pts for unit in joined] == [packet.pts for packet in packets]
    assert joined[-1].is_early
    assert not units.broken
    assert [luma for _, luma in decoded(codec, [Packet(unit.data, unit.pts or 0) for unit in joined])] == [
        luma for _, luma in decoded(codec, packets)
    ]


def test_a_sender_that_cuts_longer_parts_from_now_on_is_looked_at_anew() -> None:
    packets = stream("libx264", STREAMS["one slice"])
    units = units_for("libx264")
    assert join(units, cut("libx264", packets, 500))[-1].is_early
    joined = join(units, cut("libx264", packets, 800))
    early = [unit.is_early for unit in joined]
    assert not units.broken
    assert early.index(True) >= FIRST
    assert early[-1]
    assert [unit.pts for unit in joined] == [packet.pts for packet in packets]
