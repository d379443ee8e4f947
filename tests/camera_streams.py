"""A camera's RTSP streams, a process for each: what they send depends on the time alone, so that all of them are in step.

Run as a script it serves one: `python camera_streams.py PORT WIDTH HEIGHT FPS BFRAMES BEGAN CLOCK DELAY`.
"""

from __future__ import annotations

import math
import struct
import sys
import time
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np

from rtp_pieces import Packet, payloads
from rtsp_server import NTP, RtspServer
from streams import Server, free_port

TICKS = 30  # a second: all streams' rates divide them
STEPS = 32  # ticks, after which the pictures come again
GREY, STEP = 20, 6
DARKER = 2.3  # by which the codec and the conversions make the pictures darker
GOP = 4


def tick_of(picture: np.ndarray) -> int:
    """When a picture was taken, in ticks, as its brightness shows: it is known modulo STEPS."""
    return round((float(picture.mean()) - GREY + DARKER) / STEP)


class Camera:
    """The clock of a camera.

    Attributes:
        began: when its clock, and its pictures, began, by CLOCK_MONOTONIC.
        clock: what its clock said then, seconds since the epoch; None for a camera that does not tell.
    """

    def __init__(self, *, tells: bool = True) -> None:
        self.began = time.monotonic()
        self.clock = time.time() if tells else None

    def serve(
        self, size: tuple[int, int], fps: int, *, port: int | None = None, delay: float = 0.0, bframes: int = 0
    ) -> Server:
        """Serves a stream.

        :param bframes: pictures in a row that no other needs.
        :param delay: seconds by which all of it comes later.
        """
        port = port or free_port()
        arguments = (port, *size, fps, bframes, self.began, self.clock, delay)
        return Server(f"rtsp://127.0.0.1:{port}/cam", [sys.executable, __file__, *map(str, arguments)])


def encode(width: int, height: int, fps: int, bframes: int = 0) -> list[Packet]:
    """All pictures of a stream, once."""
    context = av.CodecContext.create("libx264", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.framerate, context.gop_size = Fraction(1, fps), Fraction(fps), GOP
    context.options = {"preset": "ultrafast", "tune": "zerolatency", "threads": "1"}
    if bframes:
        context.options = {"preset": "ultrafast", "bf": str(bframes), "x264-params": "b-adapt=0:b-pyramid=none", "threads": "1"}
    packets = []
    for number in range(STEPS * fps // TICKS):
        brightness = GREY + STEP * number * TICKS // fps
        frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), brightness, np.uint8), format="bgr24")
        frame.pts = number
        packets += context.encode(frame)
    packets += context.encode(None)
    return [Packet(bytes(packet), packet.pts or 0) for packet in packets]


class Stream(RtspServer):
    """Sends the pictures of now, from the next key frame on."""

    def __init__(
        self, port: int, width: int, height: int, fps: int, bframes: int, began: float, clock: float | None, delay: float
    ) -> None:
        packets = encode(width, height, fps, bframes)
        self._order = [packet.pts for packet in packets]
        self._carried = payloads("libx264", packets)
        self._began, self._delay = began, delay
        super().__init__("libx264", packets, fps=fps, clock=clock, port=port)

    def _play(self, send: Callable[[int, bytes], object]) -> None:
        number = math.ceil((time.monotonic() - self._began - self._delay) * self._fps / GOP) * GOP
        first = number
        sequence = 0
        while not self._closing.wait(max(0.0, self._began + self._delay + number / self._fps - time.monotonic())):
            turn, place = divmod(number, len(self._carried))
            shown = turn * len(self._carried) + self._order[place]
            stamp = round(shown * 90000 / self._fps) & 0xFFFFFFFF
            if self._clock is not None and (number - first) % 10 == 0:
                now = self._clock + shown / self._fps + NTP
                send(1, struct.pack("!BBHIIIIII", 0x80, 200, 6, 1, int(now), int(now % 1 * 2**32), stamp, 0, 0))
            carried = self._carried[place]
            for payload in carried:
                marker = 0x80 if payload is carried[-1] else 0
                send(0, struct.pack("!BBHII", 0x80, 96 | marker, sequence & 0xFFFF, stamp, 1) + payload)
                sequence += 1
            number += 1


if __name__ == "__main__":
    port, width, height, fps, bframes = map(int, sys.argv[1:6])
    began, clock, delay = sys.argv[6:9]
    Stream(port, width, height, fps, bframes, float(began), None if clock == "None" else float(clock), float(delay))
