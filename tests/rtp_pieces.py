"""Cuts streams as senders by RTP do, into the pieces that FFmpeg gives of them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

START = b"\0\0\0\1"


class Piece(NamedTuple):
    data: bytes
    pts: int


class Packet(NamedTuple):
    """A picture's data, as the encoder gives it, and its stamp in 1/90000 s."""

    data: bytes
    pts: int


def pictures(count: int, width: int = 320, height: int = 240) -> Iterator[np.ndarray]:
    """Noise that moves, so that pictures are large and differ. Their numbers are burned in."""
    still = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    for number in range(count):
        picture = np.roll(still, 7 * number, axis=1) // 2 + np.uint8(number % 100)
        for bit in range(10):
            picture[:32, bit * 32 : bit * 32 + 32] = 235 if number >> bit & 1 else 16
        yield picture


def number_in(frame: np.ndarray) -> int:
    """The number that is burned in."""
    return sum(int(frame[16, bit * 32 + 16, 1] > 128) << bit for bit in range(10))


def encode(codec: str, count: int, parameters: str, gop: int = 30, fps: int = 30) -> list[Packet]:
    """Encodes `pictures` by libx264 or libx265, in Annex B with headers before each key frame.

    :param parameters: of x264 or x265, such as `bframes=0:slices=4`.
    """
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = 320, 240, "yuv420p"
    context.time_base, context.framerate, context.gop_size = Fraction(1, fps), Fraction(fps), gop
    quiet = "log-level=none:" if codec == "libx265" else ""
    context.options = {"preset": "ultrafast", "threads": "1", f"{codec[3:]}-params": f"{quiet}repeat-headers=1:{parameters}"}
    packets = []
    for number, picture in enumerate(pictures(count)):
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format="yuv420p")
        frame.pts = number
        packets += context.encode(frame)
    packets += context.encode(None)
    return [Packet(bytes(packet), int((packet.pts or 0) * 90000 / fps)) for packet in packets]


def nal_units(data: bytes) -> list[bytes]:
    return [unit for unit in re.split(b"\0\0\0\1|\0\0\1", data) if unit]


def cut(codec: str, packets: list[Packet], mtu: int = 500, *, even: bool = False, aggregated: bool = False) -> list[Piece]:
    """The pieces of RTP packets whose payload is at most `mtu` bytes.

    :param even: cuts a NAL unit into parts of about the same length, not into full ones and a rest.
    :param aggregated: puts the NAL units before the slices into one piece.
    """
    header = 1 if codec == "libx264" else 2
    pieces = []
    for data, pts in packets:
        kept: list[bytes] = []
        for unit in nal_units(data):
            kind = unit[0] & 31 if header == 1 else unit[0] >> 1 & 63
            if aggregated and kind >= (6 if header == 1 else 32):
                kept.append(unit)
                continue
            if kept:
                pieces.append(Piece(b"".join(START + each for each in kept), pts))
                kept = []
            pieces += [Piece(part, pts) for part in _parts(unit, mtu, header, even)]
        if kept:
            pieces.append(Piece(b"".join(START + each for each in kept), pts))
    return pieces


def _parts(unit: bytes, mtu: int, header: int, even: bool) -> list[bytes]:
    if len(unit) <= mtu:
        return [START + unit]
    room = mtu - header - 1
    payload = unit[header:]
    if even:
        count = -(-len(payload) // room)
        room = -(-len(payload) // count)
    parts = [payload[at : at + room] for at in range(0, len(payload), room)]
    return [START + unit[:header] + parts[0], *parts[1:]]


def payloads(codec: str, packets: list[Packet], mtu: int = 500, *, even: bool = False) -> list[list[bytes]]:
    """What RTP packets carry, for each picture. The last one of each has the marker."""
    header = 1 if codec == "libx264" else 2
    return [
        [each for unit in nal_units(data) for each in _wrapped(_parts(unit, mtu, header, even), header)] for data, _ in packets
    ]


def _wrapped(parts: list[bytes], header: int) -> list[bytes]:
    whole = parts[0].removeprefix(START)
    if len(parts) == 1:
        return [whole]
    if header == 1:
        kind, mark = whole[0] & 31, bytes([whole[0] & 0xE0 | 28])
    else:
        kind, mark = whole[0] >> 1 & 63, bytes([whole[0] & 0x81 | 49 << 1, whole[1]])
    bodies = [whole[header:], *parts[1:]]
    flags = [0x80, *[0] * (len(parts) - 2), 0x40]
    return [mark + bytes([flag | kind]) + body for flag, body in zip(flags, bodies, strict=True)]


def decoded(codec: str, packets: list[Packet], *, flush: bool = True) -> list[tuple[int | None, bytes]]:
    """The pictures of packets as (stamp, luma), by a decoder without threads."""
    context = av.CodecContext.create("h264" if codec == "libx264" else "hevc", "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1
    frames: list[av.VideoFrame] = []
    for data, pts in packets:
        packet = av.Packet(data)
        packet.pts, packet.time_base = pts, Fraction(1, 90000)
        frames += context.decode(packet)
    if flush:
        frames += context.decode(None)
    return [(frame.pts, bytes(frame.planes[0])) for frame in frames]


def parsed(codec: str, pieces: list[Piece]) -> list[tuple[int | None, bytes]]:
    """The pictures of the same stream by FFmpeg's parser."""
    context = av.CodecContext.create("h264" if codec == "libx264" else "hevc", "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1
    frames: list[av.VideoFrame] = []
    whole = io.BytesIO(b"".join(piece.data for piece in pieces))
    for packet in [*context.parse(whole.getvalue()), *context.parse(None)]:
        frames += context.decode(packet)
    frames += context.decode(None)
    return [(frame.pts, bytes(frame.planes[0])) for frame in frames]
