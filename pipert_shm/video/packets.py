"""The packets of a video that PyAV reads, each with a whole picture, and what is known of when they came.

FFmpeg's parser gives a picture when the next one begins. By RTSP, H.264 and H.265 are read without it, in the pieces that the
camera sends, and put together here (`units.py`): see docs/architecture.md.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from datetime import datetime
from fractions import Fraction
from typing import Any, TypeAlias

import av

from pipert_shm.binding import now_ns
from pipert_shm.video.interlaced import says_interlaced
from pipert_shm.video.units import Unit, Units

AnyPacket: TypeAlias = "av.Packet[Any]"  # of a stream, or of none

IN_PIECES = {"fflags": "noparse+nofillin", "fpsprobesize": "0"}
"""Options by which FFmpeg gives pieces. It need not look at a second of the stream then, to guess how many frames it has."""

LONGEST_DAMAGE = 10.0
"""Seconds without a key frame after which pictures that may refer to a damaged one are taken again."""

BARREN = 30.0
"""Seconds of data without a picture after which a stream counts as lost. Some cameras send a key frame each 20 s only."""

_LONGEST_COUNTED = 0.5  # of a wait for data, seconds: the process may have stood still

_CODECS = ("h264", "hevc")
_EARLIEST = 315532800.0  # 1980: what is older is no date that somebody has set


def may_come_in_pieces(address: str, live: bool) -> bool:
    """Whether a video should be opened with `IN_PIECES`; if it does not come so, it must be opened again."""
    return live and address.startswith(("rtsp://", "rtsps://"))


def comes_in_pieces(stream: av.VideoStream) -> bool:
    """Whether a stream that was opened with `IN_PIECES` can be put together."""
    codec = stream.codec_context
    return codec.name in _CODECS and says_interlaced(codec.name, codec.extradata or b"") is not True


class Barren(Exception):
    """Data comes, but nothing can be made of it."""


class Packets:
    """Packets as FFmpeg gives them, to be iterated over. The last one is empty.

    Attributes:
        came_ns: when the last data of the packet came (CLOCK_MONOTONIC, ns).
        waited: seconds that data was waited for, the longest time since somebody set it to 0.
        barren: seconds for which data has come since somebody set it to 0. Who makes a picture of it does so.
        damaged: how many pictures were left out since they refer to one that is not whole.
    """

    damaged = 0

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self._container = container
        self._stream = stream
        self._start = _start_of(container, stream)
        self._base = float(stream.time_base or 0)  # seconds
        self._said: tuple[int, float] | None = None
        self.came_ns = now_ns()
        self.waited = self.barren = 0.0

    def __iter__(self) -> Iterator[AnyPacket]:
        for packet, came_ns in self._read():
            self.came_ns = came_ns
            yield packet

    def _read(self) -> Iterator[tuple[AnyPacket, int]]:
        asked_ns, said_of = now_ns(), None
        last_ns = asked_ns
        for packet in self._container.demux():  # sound too: it may go on when the pictures do not
            came_ns = now_ns()
            self.barren += min((came_ns - max(asked_ns, last_ns)) / 1e9, _LONGEST_COUNTED)
            last_ns = came_ns
            if self.barren > BARREN:
                raise Barren
            if packet.stream is not self._stream:
                continue
            self.waited = max(self.waited, (came_ns - asked_ns) / 1e9)
            if packet.pts is not None and packet.pts != said_of and packet.has_sidedata("prft"):
                (microseconds,) = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))
                self._said = packet.pts, microseconds / 1e6
                said_of = packet.pts
            yield packet, came_ns
            asked_ns = now_ns()

    def decoded(self, packet: AnyPacket | None) -> list[av.VideoFrame]:
        """Decodes a packet of these; None makes the decoder give what it holds back.

        :raises av.error.InvalidDataError: when it is damaged.
        """
        return self._stream.codec_context.decode(packet)

    def wall_clock(self, stamp: int | None) -> float | None:
        """When the picture of this stamp was captured by the sender's clock, seconds since the epoch; None if it has not said.

        By RTSP the sender's reports tell, in a file the time at which it was made.
        """
        if stamp is None or not self._base:
            return None
        if self._said is not None:
            pts, seconds = self._said
            return seconds + (stamp - pts) * self._base
        return None if self._start is None else self._start + stamp * self._base


def _start_of(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """When stamp 0 of a file was, as far as its header tells."""
    made = container.metadata.get("creation_time") or stream.metadata.get("creation_time")
    if not made:
        return None
    try:
        seconds = datetime.fromisoformat(made).timestamp()
    except ValueError:
        return None
    first = float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0
    return seconds - first if seconds > _EARLIEST else None


class JoinedPackets(Packets):
    """Packets that are put together of the pieces that a camera sends by RTP.

    :param name: of the video, for the log.
    :param transport: by which the pieces come: `tcp` or `udp`.
    """

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        name: str,
        transport: str,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__(container, stream)
        self._name = name
        self._logger = logger
        self._lossless = transport == "tcp"
        self._units = Units("h264" if stream.codec_context.name == "h264" else "hevc", lossless=self._lossless)
        self._was_early = False
        self._cut_ns = 0  # when the picture came that was cut off, and its stamp
        self._cut_pts: int | None = None
        self._given_pts: int | None = None

    def __iter__(self) -> Iterator[AnyPacket]:
        base = self._stream.time_base
        for piece, came_ns in self._read():
            units = self._units.feed(bytes(piece), piece.pts, came_ns) if piece.size else self._units.end()
            for unit in units:
                self.came_ns, self._given_pts = unit.came_ns, unit.pts
                yield _packet(unit, base)
            if self._units.early != self._was_early:
                self._tell()
        yield av.Packet()

    def _tell(self) -> None:
        self._was_early = self._units.early
        if self._units.broken:
            self._cut_ns, self._cut_pts = self.came_ns, self._given_pts
        if self._logger is None:
            return
        if self._was_early:
            self._logger.debug("%r: the end of each picture is known as soon as it is there", self._name)
        elif self._units.broken:
            self._logger.warning(
                "%r has sent the end of a picture that seemed complete; frames are left out up to the next key frame, and then "
                "are decoded when the next picture begins",
                self._name,
            )
        else:
            self._logger.debug("%r sends pieces of another length: pictures are complete when the next one begins", self._name)

    def decoded(self, packet: AnyPacket | None) -> list[av.VideoFrame]:
        """See `Packets.decoded`. Frames that refer to one that was cut off are left out, and it too if the decoder tells."""
        return [frame for frame in super().decoded(packet) if self._is_whole(frame)]

    def _is_whole(self, frame: av.VideoFrame) -> bool:
        if not self._units.broken and not (frame.is_corrupt and self._lossless and self._units.early):
            return True
        is_key = frame.key_frame and not frame.is_corrupt and frame.pts != self._cut_pts
        if self._units.broken and (is_key or self.came_ns - self._cut_ns > LONGEST_DAMAGE * 1e9):
            self._units.broken = False
            return True
        self.damaged += 1
        return False


def _packet(unit: Unit, base: Fraction | None) -> AnyPacket:
    packet: AnyPacket = av.Packet(unit.data)
    packet.pts, packet.is_keyframe = unit.pts, unit.is_key
    if base is not None:
        packet.time_base = base
    return packet
