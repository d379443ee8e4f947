"""An RTSP server that sends a stream as a test wants it: cut in any way, by TCP or UDP, with or without the sender's clock."""

from __future__ import annotations

import base64
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from rtp_pieces import Packet, nal_units, payloads

NTP = 2208988800  # seconds from 1900 to 1970


class RtspServer:
    """Serves one stream to one client at a time, each from the start, and then again and again.

    :param codec: `libx264` or `libx265`, whose packets these are.
    :param fps: pictures a second.
    :param clock: the sender's clock at the stream's start, seconds since the epoch; None makes no sender reports.
    :param loss: the share of RTP packets that get lost by UDP.
    :param piled_up: pictures that are sent at once in the beginning.
    :param sound_from: pictures after which there are no more, but sound; None for a stream without sound.
    :param told: whether it tells the parameter sets before the stream begins.
    :param port: where it listens; 0 for any that is free.
    """

    def __init__(
        self,
        codec: str,
        packets: list[Packet],
        *,
        fps: float = 30,
        mtu: int = 500,
        even: bool = False,
        clock: float | None = None,
        loss: float = 0.0,
        piled_up: int = 0,
        sound_from: int | None = None,
        told: bool = True,
        port: int = 0,
    ) -> None:
        self._codec = codec
        self._pictures = list(zip(payloads(codec, packets, mtu, even=even), (packet.pts for packet in packets), strict=True))
        stamps = [packet.pts for packet in packets]
        self._span = max(stamps) - min(stamps) + 3000
        self._fps = fps
        self._clock = clock
        self._loss = loss
        self._piled_up = piled_up
        self._sound_from = sound_from
        self.sent_ns: list[int] = []
        """When the last packet of each picture was sent, to the client that came last."""
        self._format = _format(codec, packets[0].data) if told else ""
        self._closing = threading.Event()
        self._chance = random.Random(3)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.url = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/cam"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    self._talk(connection)
                except OSError:
                    continue  # the client has gone

    def _talk(self, connection: socket.socket) -> None:
        with ExitStack() as sockets:
            self._answer(connection, sockets)

    def _answer(self, connection: socket.socket, sockets: ExitStack) -> None:
        requests = sockets.enter_context(connection.makefile("rb"))
        send: Callable[[int, bytes], object] = partial(_send_inside, connection)
        while not self._closing.is_set():
            lines: list[str] = []
            while (line := requests.readline().strip()) or not lines:
                if not line:
                    return
                lines.append(line.decode())
            method = lines[0].split()[0]
            headers = dict(line.split(": ", 1) for line in lines[1:])
            answer, body = f"RTSP/1.0 200 OK\r\nCSeq: {headers['CSeq']}\r\nSession: 1\r\n", ""
            if method == "OPTIONS":
                answer += "Public: DESCRIBE, SETUP, PLAY\r\n"
            elif method == "DESCRIBE":
                body = (
                    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
                    f"a=rtpmap:96 {'H264' if self._codec == 'libx264' else 'H265'}/90000\r\n{self._format}a=control:track\r\n"
                )
                if self._sound_from is not None:
                    body += "m=audio 0 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\na=control:sound\r\n"
                answer += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                answer += f"Transport: {headers['Transport']}"
                if "client_port=" in headers["Transport"]:
                    first = int(headers["Transport"].split("client_port=")[1].split("-")[0])
                    datagrams = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    datagrams.bind(("127.0.0.1", 0))
                    send = partial(_send_datagram, datagrams, first)
                    answer += f";server_port={datagrams.getsockname()[1]}-{datagrams.getsockname()[1] + 1}"
                answer += "\r\n"
            connection.sendall(f"{answer}\r\n{body}".encode())
            if method == "PLAY":
                self._play(send)
                return

    def _play(self, send: Callable[[int, bytes], object]) -> None:
        number = sequence = 0
        self.sent_ns = []
        began = time.monotonic() - self._piled_up / self._fps
        while not self._closing.wait(max(0.0, began + number / self._fps - time.monotonic())):
            if self._sound_from is not None and number >= self._sound_from:
                send(2, struct.pack("!BBHII", 0x80, 8, number & 0xFFFF, 267 * number, 2) + bytes(267))
                number += 1
                continue
            turn, place = divmod(number, len(self._pictures))
            carried, pts = self._pictures[place]
            stamp = (pts + turn * self._span) & 0xFFFFFFFF
            if self._clock is not None and number % 10 == 0:
                now = self._clock + stamp / 90000 + NTP
                send(1, struct.pack("!BBHIIIIII", 0x80, 200, 6, 1, int(now), int(now % 1 * 2**32), stamp, 0, 0))
            for payload in carried:
                marker = 0x80 if payload is carried[-1] else 0
                if not self._loss or self._chance.random() >= self._loss:
                    send(0, struct.pack("!BBHII", 0x80, 96 | marker, sequence & 0xFFFF, stamp, 1) + payload)
                sequence += 1
            self.sent_ns.append(time.monotonic_ns())
            number += 1


def _send_inside(connection: socket.socket, channel: int, data: bytes) -> None:
    connection.sendall(struct.pack("!cBH", b"$", channel, len(data)) + data)


def _send_datagram(datagrams: socket.socket, port: int, channel: int, data: bytes) -> None:
    datagrams.sendto(data, ("127.0.0.1", port + channel))


def _format(codec: str, key: bytes) -> str:
    """The line of the session's description with the parameter sets."""
    sets = {}
    for unit in nal_units(key):
        kind = unit[0] & 31 if codec == "libx264" else unit[0] >> 1 & 63
        sets[kind] = base64.b64encode(unit).decode()
    if codec == "libx264":
        return f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets[7]},{sets[8]}\r\n"
    return f"a=fmtp:96 sprop-vps={sets[32]};sprop-sps={sets[33]};sprop-pps={sets[34]}\r\n"
