"""Pushes a stream to a server by RTSP (ANNOUNCE and RECORD), such as MediaMTX or go2rtc."""

from __future__ import annotations

from urllib.parse import urlsplit

from pipert_shm.errors import shown
from pipert_shm.streaming.muxing import Muxer
from pipert_shm.streaming.pushing import Push

PATIENCE_S = 5.0  # for the server, in everything


def check_rtsp(url: object) -> str:
    """:raises ValueError: when it is no URL of an RTSP server."""
    if not isinstance(url, str) or urlsplit(url).scheme not in ("rtsp", "rtsps") or not urlsplit(url).hostname:
        raise ValueError(f"url must be one such as rtsp://10.0.0.5:8554/gate, not {shown(url)}")
    return url


class RtspSender:
    """Sends to one URL, over TCP. See `Sender`."""

    def __init__(self, url: str) -> None:
        self._url = check_rtsp(url)

    def send(self, push: Push) -> None:
        """Announces the stream, and sends it.

        :raises OSError, av.FFmpegError: when the server can't be reached, refuses, hangs up, or takes nothing for 5 s.
        """
        first = push.first()
        options = {"rtsp_transport": "tcp", "timeout": str(round(PATIENCE_S * 1e6))}
        with Muxer(self._url, "rtsp", options, first) as muxer:
            muxer.write(first)
            push.connected()
            push.note_sent()
            while not push.over:
                packet = push.take()
                if packet is not None:
                    muxer.write(packet)
                    push.note_sent()
