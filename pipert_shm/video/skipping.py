"""Chooses the packets of a stream that have to be decoded: decoding is most of what a camera costs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

import av

from pipert_shm.video.decoding import SkipFrame

AnyPacket: TypeAlias = "av.Packet[Any]"

LONGEST_HEADER = 4096
"""Bytes of a packet in which the first slice is looked for: parameter sets and messages stand before it."""

_START = re.compile(b"\0\0\1")


class Need(Enum):
    """Who needs a packet's picture."""

    KEY = "decoding can begin with it"
    REFERENCE = "later pictures may need it"
    SPARE = "no other picture needs it"


class Needs:
    """Tells what a stream's packets are needed for. One thread at a time.

    H.264 and H.265 say so in the header of each slice; of other codecs, what FFmpeg's demuxer says is taken.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        codec = stream.codec_context
        self._codec = codec.name
        header = codec.extradata or b""
        self._length_bytes = 0  # of the lengths that stand before each unit in MP4 and MKV; 0: start codes stand there
        if header[:1] == b"\1" and self._codec in ("h264", "hevc"):
            at = 4 if self._codec == "h264" else 21
            self._length_bytes = (header[at] & 3) + 1 if len(header) > at else 4

    def of(self, packet: AnyPacket) -> Need:
        """What a packet is needed for."""
        if packet.is_keyframe:
            return Need.KEY
        if self._codec in ("h264", "hevc"):
            data = bytes(memoryview(packet)[:LONGEST_HEADER])
            told = next(filter(None, map(self._of_unit, self._units(data))), None)
            if told is not None:
                return told
        return Need.SPARE if packet.is_disposable else Need.REFERENCE

    def _units(self, data: bytes) -> Iterator[bytes]:
        """The first two bytes of each unit."""
        if not self._length_bytes:
            for match in _START.finditer(data):
                yield data[match.end() : match.end() + 2]
            return
        at = 0
        while at + self._length_bytes < len(data):
            begin = at + self._length_bytes
            yield data[begin : begin + 2]
            at = begin + int.from_bytes(data[at:begin], "big")

    def _of_unit(self, unit: bytes) -> Need | None:
        """What a slice is needed for; None for a unit that is none."""
        if len(unit) < 2:
            return None
        if self._codec == "h264":
            kind = unit[0] & 31
            if kind == 5:
                return Need.KEY
            return (Need.REFERENCE if unit[0] >> 5 & 3 else Need.SPARE) if 1 <= kind <= 4 else None
        kind = unit[0] >> 1 & 63
        if 16 <= kind <= 23:
            return Need.KEY
        # Even numbers are of pictures that no other of the same layer needs: TRAIL_N, TSA_N, STSA_N, RADL_N, RASL_N.
        return (Need.REFERENCE if kind % 2 else Need.SPARE) if kind <= 15 else None


class Choice(NamedTuple):
    """What to do about a packet.

    Attributes:
        packets: to decode.
        drain: whether the decoder must then give all that it holds back. It has to be flushed before it goes on.
        repeats: whether the first picture has been given before.
    """

    packets: tuple[AnyPacket, ...]
    drain: bool = False
    repeats: bool = False


NOTHING = Choice(())


MOST_KEPT = 64 << 20
"""Bytes of packets that are kept of an idle stream, so that it can go on with any picture, not only with a key frame."""


KEYS_APART = 0.5
"""Seconds: pictures of an idle stream that come sooner are left out where every one is a key frame, as in MJPEG."""


class Chooser:
    """Chooses the packets of a stream that are decoded. One thread at a time.

    :param skip: `noref`: pictures that no other needs are left out; `nokey`: all but key frames are.
    :param needless: whether the picture at this position (s) is not wanted. It is asked of pictures that no other needs.
    :param is_idle: whether key frames will do at this position (s).

    Attributes:
        left_out: how many packets were not decoded.
    """

    def __init__(
        self,
        stream: av.VideoStream,
        skip: SkipFrame | None = None,
        needless: Callable[[float], bool] | None = None,
        is_idle: Callable[[float], bool] | None = None,
    ) -> None:
        self._needs = Needs(stream)
        self._skip = skip
        self._needless = needless
        self._is_idle = is_idle
        self._was_idle = False
        self._kept: list[AnyPacket] = []  # since the last key frame of an idle stream, with it
        self._kept_bytes = 0
        self._keys_only = stream.codec_context.codec.intra_only
        self._key_given = False
        self._key_at = 0.0
        self._begun_at: int | None = None  # stamp of the key frame with which decoding began anew
        self.left_out = 0

    def choose(self, packet: AnyPacket, at: float) -> Choice:
        """What to do about a packet.

        :param at: its position in the stream, in seconds.
        """
        need = self._needs.of(packet)
        if self._skip == "nokey":
            return self._key_or_nothing(packet, need)
        if self._is_idle is not None and self._is_idle(at):
            return self._while_idle(packet, need, at)
        if self._was_idle:
            return self._woken(packet, need)
        if need is Need.KEY:
            self._begun_at = None
        elif self._leads(packet):
            return self._leading()
        if need is Need.SPARE and (self._skip == "noref" or (self._needless is not None and self._needless(at))):
            self.left_out += 1
            return NOTHING
        return Choice((packet,))

    def _key_or_nothing(self, packet: AnyPacket, need: Need) -> Choice:
        if need is Need.KEY:
            return Choice((packet,), drain=True)
        self.left_out += 1
        return NOTHING

    def _while_idle(self, packet: AnyPacket, need: Need, at: float) -> Choice:
        if need is Need.KEY:
            self._key_given = not (self._keys_only and self._was_idle and 0 <= at - self._key_at < KEYS_APART)
            self._was_idle = True
            self._kept, self._kept_bytes = [packet], packet.size
            if not self._key_given:
                self.left_out += 1
                return NOTHING
            self._key_at = at
        elif not self._was_idle:  # it becomes idle with a key frame
            return self._leading() if self._leads(packet) else Choice((packet,))
        elif self._kept:
            self._kept.append(packet)
            self._kept_bytes += packet.size
            if self._kept_bytes > MOST_KEPT:
                self._kept = []
        return self._key_or_nothing(packet, need)

    def _woken(self, packet: AnyPacket, need: Need) -> Choice:
        """Goes on with this packet: those that it builds on are decoded now."""
        kept, self._kept = self._kept, []
        if need is Need.KEY:
            self._was_idle, self._begun_at = False, packet.pts
            return Choice((packet,))
        if not kept:
            return self._key_or_nothing(packet, need)  # there is nothing to build on before the next key frame
        self._was_idle, self._begun_at = False, kept[0].pts
        chosen = [each for each in (*kept, packet) if not self._leads(each)]
        self.left_out += 1 + self._key_given - len(chosen)
        return Choice(tuple(chosen), repeats=self._key_given)

    def _leading(self) -> Choice:
        self.left_out += 1
        return NOTHING

    def _leads(self, packet: AnyPacket) -> bool:
        """Whether a picture is shown before the key frame with which decoding began anew.

        In an open group of pictures such a one builds on pictures before the key frame, too, which were not decoded.
        """
        return self._begun_at is not None and packet.pts is not None and packet.pts < self._begun_at
