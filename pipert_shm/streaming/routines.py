"""The destinations that stream what they get: to a server by RTSP or WHIP, or as HLS into a directory."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from urllib.parse import quote

import numpy as np

from pipert_shm.data import FrameData
from pipert_shm.errors import shown as told
from pipert_shm.routine import DestinationRoutine
from pipert_shm.streaming.broadcast import Broadcast
from pipert_shm.streaming.encoding import StreamSettings, check_encoder
from pipert_shm.streaming.feeds import NewestFrame
from pipert_shm.streaming.hls import DirectoryStore, HlsSender
from pipert_shm.streaming.pictures import Shown, check_shown
from pipert_shm.streaming.pushing import FAREWELL_S, Pusher, Sender
from pipert_shm.streaming.rtsp import RtspSender, check_rtsp
from pipert_shm.streaming.whip import WhipSender, check_webrtc, check_whip
from pipert_shm.video.formats import format_of
from pipert_shm.video.image import frame_of

ORIGIN = "{origin}"  # stands for the camera's name
MOST_STREAMS = 16  # of one routine


class _Outlet:
    """One stream of a routine: the newest frame, its broadcast, and who sends it."""

    def __init__(self, routine: DestinationRoutine, name: str, settings: StreamSettings, sender: Sender, where: str) -> None:
        self.newest = NewestFrame()
        self.broadcast = Broadcast(name, self.newest.open, settings, routine.logger)
        self.pusher = Pusher(self.broadcast, sender, where, routine.logger)

    def counts(self) -> dict[str, int]:
        """What became of its frames so far."""
        pusher, broadcast, newest = self.pusher, self.broadcast, self.newest
        return {
            "sent": pusher.sent,
            "skipped": broadcast.skipped + newest.replaced,
            "lost": pusher.lost + broadcast.unwatched + newest.refused,
            "reconnects": max(0, pusher.connections - 1),
        }

    def close(self) -> None:
        """Ends it."""
        self.pusher.close()
        self.broadcast.close(FAREWELL_S)


class StreamRoutine(DestinationRoutine):
    """Base class of the destinations that stream. A subclass says who sends: `_sender`."""

    replicable = False
    counter_names = ("sent", "skipped", "lost", "reconnects", "connected")

    def __init__(
        self,
        where: str,
        name: str | None = None,
        *,
        width: int | None = None,
        fps: float = 30.0,
        bit_rate: int | None = None,
    ) -> None:
        settings = StreamSettings(width, fps, bit_rate)
        super().__init__(name)
        self._where = where
        self._settings = settings

    @abstractmethod
    def _sender(self, where: str) -> Sender:
        """Who sends to this place."""

    def setup(self) -> None:
        """Gets ready. It connects when the first frame has come.

        :raises ImportError: when PyAV, which encodes, is not installed.
        """
        check_encoder()
        self._outlets = self.per_origin(self._opened, limit=MOST_STREAMS, close=self._closed)
        self._open: list[_Outlet] = []
        self._past: dict[str, int] = {}

    def main_logic(self, data: np.ndarray | FrameData) -> None:
        """Hands one frame to the stream, and returns at once. A frame that the encoder is not ready for is skipped.

        :raises TypeError: when the payload is not a frame.
        :raises ValueError: when the array is no picture that can be streamed.
        """
        frame, meta = frame_of(data), self.meta
        shown = Shown(frame, format_of(frame, meta), meta.captured_ns, meta.origin)
        check_shown(shown)
        self._outlets[shown.origin if ORIGIN in self._where else ""].newest.put(shown)
        self._count()

    def cleanup(self) -> None:
        """Takes leave of the other end. It waits for a silent one for two seconds at most."""
        self._outlets.clear()
        self._count()
        self.counters["connected"] = 0

    def _opened(self, origin: str) -> _Outlet:
        is_url = "://" in self._where
        where = self._where.replace(ORIGIN, quote(origin, safe="") if is_url else origin)
        name = f"{self.name}-{origin}" if origin else self.name
        outlet = _Outlet(self, name, self._settings, self._sender(where), where)
        self._open.append(outlet)
        return outlet

    def _closed(self, outlet: _Outlet) -> None:
        outlet.close()
        self._count()
        self._open.remove(outlet)
        for what, count in outlet.counts().items():
            self._past[what] = self._past.get(what, 0) - count

    def _count(self) -> None:
        """Adds to the counters what has come since the last time: a restarted process goes on with them."""
        for what in ("sent", "skipped", "lost", "reconnects"):
            now = sum(outlet.counts()[what] for outlet in self._open)
            self.counters[what] += now - self._past.get(what, 0)
            self._past[what] = now
        self.counters["connected"] = sum(outlet.pusher.connected for outlet in self._open)


class RtspPush(StreamRoutine):
    """Streams frames to a server by RTSP (ANNOUNCE and RECORD, over TCP), as H.264: MediaMTX, go2rtc and others take it.

    It needs the extra `pyav`. The pipe never waits for the server. While there is none, frames are counted as `lost`, and it is
    tried again, after 0.25 s at first and 10 s at last. Frames go as they come, at the time of their capture. Planar ones are
    encoded as they are.

    Frames of several cameras are in one picture, a tile each with its name. With `{origin}` in the URL each camera has a stream
    of its own, 16 at most. It can't have replicas: each would get a part of the frames.

    `counters` says how many frames were `sent`, were `skipped` (they came faster than `fps`, or than they could be encoded) and
    were `lost` (there was no connection, or the server was too slow); how often it has connected again (`reconnects`), and how
    many streams are `connected` now.

    >>> RtspPush("rtsp://media.example:8554/{origin}", "push", width=1280).name
    'push'

    :param url: where to, such as `rtsp://user:password@10.0.0.5:8554/gate`.
    :param width: the most pixels in a row; wider frames are scaled down. None: as they come.
    :param fps: the most frames a second.
    :param bit_rate: bits a second; None for what suits the size: 2.8 Mbit/s at 720p.
    :raises ValueError: when the URL is none of RTSP, or a number is out of range.
    """

    def __init__(
        self,
        url: str,
        name: str | None = None,
        *,
        width: int | None = None,
        fps: float = 30.0,
        bit_rate: int | None = None,
    ) -> None:
        super().__init__(check_rtsp(url), name, width=width, fps=fps, bit_rate=bit_rate)

    def _sender(self, where: str) -> Sender:
        return RtspSender(where)


class WhipPush(StreamRoutine):
    """Streams frames to a server by WHIP (RFC 9725), that is by WebRTC, as H.264: MediaMTX, go2rtc and others take it.

    It needs the extra `webrtc`. In all else it is like `RtspPush`. No STUN server is asked, since the server tells its own
    address. The rate is the one that is set here, whatever the network can carry.

    :param url: the endpoint, such as `https://media.example/gate/whip`; `{origin}` in it is the camera's name.
    :param token: the bearer token that the server asks for.
    :param width: the most pixels in a row; wider frames are scaled down. None: as they come.
    :param fps: the most frames a second.
    :param bit_rate: bits a second; None for what suits the size: 2.8 Mbit/s at 720p.
    :raises TypeError: when the token is no str.
    :raises ValueError: when the URL is none of HTTP, a number is out of range, or the token can't be shown in a header.
    """

    def __init__(
        self,
        url: str,
        name: str | None = None,
        *,
        token: str | None = None,
        width: int | None = None,
        fps: float = 30.0,
        bit_rate: int | None = None,
    ) -> None:
        WhipSender(check_whip(url), token)
        super().__init__(url, name, width=width, fps=fps, bit_rate=bit_rate)
        self._token = token

    def setup(self) -> None:
        """Gets ready. It connects when the first frame has come.

        :raises ImportError: when aiortc or PyAV is not installed.
        """
        check_webrtc()
        super().setup()

    def _sender(self, where: str) -> Sender:
        return WhipSender(where, self._token)


class HlsWriter(StreamRoutine):
    """Writes frames as HLS into a directory, from which any web server can serve them: `index.m3u8`, and segments of H.264.

    It needs the extra `pyav`. A segment has two seconds, and the last eight are kept, so the directory does not grow. Players
    are six to ten seconds behind. What an earlier run has left there is removed. In all else it is like `RtspPush`; for a full
    disk frames are `lost` until there is room again.

    >>> HlsWriter("/srv/www/{origin}", "hls", fps=15).name
    'hls'

    :param directory: where to; it is made. `{origin}` in it is the camera's name.
    :param width: the most pixels in a row; wider frames are scaled down. None: as they come.
    :param fps: the most frames a second.
    :param bit_rate: bits a second; None for what suits the size: 2.8 Mbit/s at 720p.
    :raises ValueError: when a number is out of range.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        name: str | None = None,
        *,
        width: int | None = None,
        fps: float = 30.0,
        bit_rate: int | None = None,
    ) -> None:
        super().__init__(str(directory), name, width=width, fps=fps, bit_rate=bit_rate)

    def setup(self) -> None:
        """Gets ready.

        :raises ImportError: when PyAV, which encodes, is not installed.
        :raises OSError: when the directory can't be made. Those of cameras are made with their first frames.
        """
        super().setup()
        if ORIGIN not in self._where:
            DirectoryStore(Path(self._where))

    def _sender(self, where: str) -> Sender:
        return HlsSender(DirectoryStore(Path(where)))


def check_where(where: str) -> None:
    """Checks where a stream is to go: `rtsp://…`, `https://…` for WHIP, or a directory for HLS.

    :raises ImportError: when an extra is missing.
    :raises ValueError: when it is no such address.
    """
    check_encoder()
    if where.startswith(("rtsp://", "rtsps://")):
        check_rtsp(where)
    elif where.startswith(("http://", "https://")):
        check_whip(where)
        check_webrtc()
    elif "://" in where:
        raise ValueError(f"a stream goes to rtsp://…, https://… (by WHIP) or a directory (as HLS), not to {told(where)}")


def sender_to(where: str, token: str | None) -> Sender:
    """Who sends to an address that was checked.

    :raises OSError: when the directory can't be made.
    :raises ValueError: when the token can't be shown in a header.
    """
    if where.startswith(("rtsp://", "rtsps://")):
        return RtspSender(where)
    if where.startswith(("http://", "https://")):
        return WhipSender(where, token)
    return HlsSender(DirectoryStore(Path(where)))
