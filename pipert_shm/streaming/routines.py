"""The destinations that stream what they get: to a server by RTSP or WHIP, or as HLS into a directory."""

from __future__ import annotations

import os
import time
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
MOST_STREAMS = 64  # of one routine: each has two threads and an encoder
IDLE_S = 10.0  # a stream without a frame for so long makes room for another camera's


class _Outlet:
    """One stream of a routine: the newest frame, its broadcast, and who sends it."""

    def __init__(self, routine: DestinationRoutine, name: str, settings: StreamSettings, sender: Sender, where: str) -> None:
        self.used_at = time.monotonic()
        self.newest = NewestFrame()
        self.broadcast = Broadcast(name, self.newest.open, settings, routine.logger)
        self.pusher = Pusher(self.broadcast, sender, where, routine.logger)

    def counts(self) -> dict[str, int]:
        """What became of its frames so far."""
        pusher, broadcast, newest = self.pusher, self.broadcast, self.newest
        return {
            "sent": pusher.sent,
            "skipped": broadcast.skipped + newest.replaced,
            "refused": broadcast.refused,
            "lost": pusher.lost + broadcast.unwatched + newest.refused,
            "reconnects": max(0, pusher.connections - 1),
        }

    @property
    def over(self) -> bool:
        """Whether it has ended, after `stop`."""
        return self.pusher.over

    def stop(self) -> None:
        """Ends it, without waiting for that."""
        self.pusher.stop()
        self.broadcast.close()

    def close(self, until: float) -> None:
        """Ends it, and waits for that until this time of `time.monotonic`."""
        self.pusher.close(until - time.monotonic())
        self.broadcast.close(max(0.0, until - time.monotonic()))


class StreamRoutine(DestinationRoutine):
    """Base class of the destinations that stream. A subclass says who sends: `_sender`."""

    replicable = False
    counter_names = ("sent", "skipped", "lost", "reconnects", "connected", "refused")

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
        self._outlets: dict[str, _Outlet] = {}
        self._leaving: dict[str, _Outlet] = {}
        self._is_full = False  # which the log has said
        self._turned_away = 0  # frames of cameras for whose streams there is no room
        self._past: dict[str, int] = {}

    def main_logic(self, data: np.ndarray | FrameData) -> None:
        """Hands one frame to the stream, and returns at once. A frame that the encoder is not ready for is skipped.

        :raises TypeError: when the payload is not a frame.
        :raises ValueError: when the array is no picture that can be streamed.
        """
        frame, meta = frame_of(data), self.meta
        shown = Shown(frame, format_of(frame, meta), meta.captured_ns, meta.origin)
        check_shown(shown)
        outlet = self._outlet(shown.origin if ORIGIN in self._where else "")
        if outlet is not None:
            outlet.newest.put(shown)
        self._count()

    def cleanup(self) -> None:
        """Takes leave of the other end. It waits for a silent one for two seconds at most."""
        outlets = [*self._outlets.values(), *self._leaving.values()]
        for outlet in outlets:
            outlet.stop()  # all at once: they share the time
        until = time.monotonic() + 2 * FAREWELL_S
        for outlet in outlets:
            outlet.close(until)
        self._count()
        self._outlets, self._leaving = {}, {}
        self.counters["connected"] = 0

    def _outlet(self, origin: str) -> _Outlet | None:
        """The stream of a camera; None when there is no room for it."""
        outlet = self._outlets.get(origin)
        now = time.monotonic()
        if outlet is None:
            if origin in self._leaving or not self._has_room(now):
                self._turned_away += 1
                return None
            outlet = self._outlets[origin] = self._opened(origin)
        outlet.used_at = now
        return outlet

    def _has_room(self, now: float) -> bool:
        """Whether one more stream can begin; one that is idle ends for it, which nothing waits for."""
        if len(self._outlets) + len(self._leaving) < MOST_STREAMS:
            return True
        origin = min(self._outlets, key=lambda origin: self._outlets[origin].used_at, default=None)
        if not self._leaving and origin is not None and now - self._outlets[origin].used_at >= IDLE_S:
            leaving = self._leaving[origin] = self._outlets.pop(origin)
            leaving.stop()
        elif not self._leaving and not self._is_full:
            self._is_full = True
            self.logger.warning(
                "it streams %d cameras at the most: frames of others are counted as lost; give them a second routine",
                MOST_STREAMS,
            )
        return False

    def _opened(self, origin: str) -> _Outlet:
        is_url = "://" in self._where
        where = self._where.replace(ORIGIN, quote(origin, safe="") if is_url else origin)
        name = f"{self.name}-{origin}" if origin else self.name
        return _Outlet(self, name, self._settings, self._sender(where), where)

    def _count(self) -> None:
        """Adds to the counters what has come since the last time: a restarted process goes on with them."""
        over = {origin: outlet for origin, outlet in self._leaving.items() if outlet.over}
        outlets = [*self._outlets.values(), *self._leaving.values()]
        counts = {outlet: outlet.counts() for outlet in outlets}
        for what in ("sent", "skipped", "lost", "reconnects", "refused"):
            now = sum(count[what] for count in counts.values()) + (self._turned_away if what == "lost" else 0)
            self.counters[what] += now - self._past.get(what, 0)
            self._past[what] = now
        self.counters["connected"] = sum(outlet.pusher.connected for outlet in outlets)
        for origin, outlet in over.items():
            del self._leaving[origin]
            for what, count in counts[outlet].items():
                self._past[what] -= count


class RtspPush(StreamRoutine):
    """Streams frames to a server by RTSP (ANNOUNCE and RECORD, over TCP), as H.264: MediaMTX, go2rtc and others take it.

    It needs the extra `pyav`. The pipe never waits for the server. While there is none, frames are counted as `lost`, and it is
    tried again, after 0.25 s at first and 10 s at last. Frames go as they come, at the time of their capture. Planar ones are
    encoded as they are.

    Frames of several cameras are in one picture, a tile each with its name. With `{origin}` in the URL each camera has a stream
    of its own, 64 at most. One more camera gets one when another has sent nothing for ten seconds; until then its frames are
    `lost`. It can't have replicas: each would get a part of the frames.

    `counters` says how many frames were `sent`, were `skipped` (they came faster than `fps`, or than they could be encoded) and
    were `lost` (there was no connection, or it was too slow) or `refused` (they could not be encoded, which the log says
    once); how often it has connected again (`reconnects`), and how
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
            Path(self._where).mkdir(parents=True, exist_ok=True)  # what is left there is read, and removed, by the first frame

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
