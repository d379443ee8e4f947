"""A stream's packets for WebRTC, by aiortc: they go as they were encoded, once for all. Needs the extra `webrtc`.

Only modules that need aiortc import this one, when they are used.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import av
import av.stream
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcrtpparameters import RTCRtpCodecCapability
from aiortc.rtcrtptransceiver import RTCRtpTransceiver

from pipert_shm.streaming.broadcast import Watcher
from pipert_shm.video.films import TICKS

TICK = Fraction(1, TICKS)
_MDNS = re.compile(r"^(a=candidate:\S+ \d+ \S+ \d+ )[\w-]+\.local( \d+ typ host)", re.MULTILINE)


class PacketTrack(MediaStreamTrack):
    """A track of packets. To be made in an event loop, and used there.

    Attributes:
        watcher: who gets the packets of the broadcast.
        sent: how many packets were given away.
    """

    kind = "video"

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self._news = asyncio.Event()
        self.watcher = watcher
        watcher.wake_by(partial(asyncio.get_running_loop().call_soon_threadsafe, self._news.set))
        self.sent = 0
        self.on_sent: Callable[[], None] = lambda: None

    async def recv(self) -> av.Packet[av.stream.Stream]:
        """The next packet.

        :raises MediaStreamError: when there will be no more.
        """
        while (encoded := self.watcher.take()) is None:
            if self.watcher.over or self.readyState != "live":
                self.stop()
                raise MediaStreamError
            await self._news.wait()
            self._news.clear()
        packet = av.Packet(encoded.data)
        packet.pts, packet.time_base = encoded.pts, TICK
        self.sent += 1
        self.on_sent()
        return packet

    def stop(self) -> None:
        """Watches no more."""
        super().stop()
        self.watcher.close()


def new_connection() -> RTCPeerConnection:
    """A connection that asks no server for its address: it reaches this machine, its networks, and servers."""
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


def send_by(connection: RTCPeerConnection, track: PacketTrack) -> None:
    """Has a connection send a track, in H.264 only. A receiver that asks for a key frame gets one."""
    transceiver = _sending(connection, track)
    transceiver.setCodecPreferences(_h264())
    # aiortc asks its own encoder for a key frame, by this method. Without it a receiver waits for the next one, at most 2 s.
    transceiver.sender._send_keyframe = track.watcher.ask_key  # type: ignore[method-assign]


def _sending(connection: RTCPeerConnection, track: PacketTrack) -> RTCRtpTransceiver:
    sender = connection.addTrack(track)
    return next(one for one in connection.getTransceivers() if one.sender is sender)


def _h264() -> list[RTCRtpCodecCapability]:
    codecs = RTCRtpSender.getCapabilities("video").codecs
    return [codec for codec in codecs if codec.mimeType in ("video/H264", "video/rtx")]


def with_address(sdp: str, address: str) -> str:
    """An offer in which a browser has hidden its addresses behind names of mDNS, with the address that it asks from.

    >>> with_address("a=candidate:1 1 udp 21 0f8e.local 50000 typ host generation 0", "10.0.0.7")
    'a=candidate:1 1 udp 21 10.0.0.7 50000 typ host generation 0'
    """
    return _MDNS.sub(rf"\g<1>{address}\g<2>", sdp)
