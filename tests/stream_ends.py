"""The other ends of streams: a server that takes RTSP, an endpoint of WHIP, and a client of WebRTC.

Run as a script it is the first: `python stream_ends.py URL` prints a line for each frame that comes: its number, width, height
and time in seconds.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np

STEP, STEPS = 10, 20  # of luma between the numbers that frames can have, and how many there are


def numbered(number: int, width: int = 320, height: int = 240) -> np.ndarray:
    """A frame in I420 whose number can be told after any codec."""
    frame = np.full((height * 3 // 2, width), 128, np.uint8)
    frame[:height] = 25 + STEP * (number % STEPS)
    return frame


def number_of(frame: av.VideoFrame) -> int:
    """Of a decoded frame."""
    return round((float(frame.to_ndarray()[: frame.height].mean()) - 25) / STEP)


class RtspServer:
    """FFmpeg's server, which takes one stream, in a process of its own."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen([sys.executable, __file__, url], stdout=subprocess.PIPE, text=True)

    def frames(self, count: int) -> list[tuple[int, int, int, float]]:
        """Number, width, height and time of the next frames."""
        assert self._process.stdout is not None
        lines = [self._process.stdout.readline().split() for _ in range(count)]
        return [(int(line[0]), int(line[1]), int(line[2]), float(line[3])) for line in lines]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def main(url: str) -> None:
    with av.open(url, options={"rtsp_flags": "listen", "listen_timeout": "60", "fflags": "nobuffer"}) as container:
        for frame in container.decode(video=0):
            print(number_of(frame), frame.width, frame.height, frame.time, flush=True)


class WhipEndpoint:
    """A server of WHIP, on a thread of its own.

    Attributes:
        tokens: what clients have shown.
        numbers: of the frames that came.
        ended: how many clients have taken leave.
        refusals: how many offers are answered with 503 before one is taken.
    """

    def __init__(self, port: int, refusals: int = 0) -> None:
        import uvicorn

        self.tokens: list[str | None] = []
        self.numbers: list[int] = []
        self.ended = 0
        self.refusals = refusals
        self._connections: list[Any] = []
        config = uvicorn.Config(self._app(), host="127.0.0.1", port=port, log_level="error", lifespan="off", loop="asyncio")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()

    def _app(self) -> Any:
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(routes=[
            Route("/whip", self._offer, methods=["POST"]),
            Route("/whip/session", self._end, methods=["DELETE"]),
        ])  # fmt: skip

    async def _offer(self, request: Any) -> Any:
        from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
        from starlette.responses import Response

        self.tokens.append(request.headers.get("Authorization"))
        if self.refusals:
            self.refusals -= 1
            return Response(status_code=503)
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connections.append(connection)
        connection.on("track", lambda track: asyncio.ensure_future(self._read(track)))
        await connection.setRemoteDescription(RTCSessionDescription((await request.body()).decode(), "offer"))
        await connection.setLocalDescription(await connection.createAnswer())
        return Response(connection.localDescription.sdp, 201, {"Location": "/whip/session"}, "application/sdp")

    async def _read(self, track: Any) -> None:
        from aiortc.mediastreams import MediaStreamError

        try:
            while True:
                self.numbers.append(number_of(await track.recv()))
        except MediaStreamError:
            pass

    async def _end(self, request: Any) -> Any:
        from starlette.responses import Response

        self.ended += 1
        await self.hang_up()
        return Response()

    async def hang_up(self) -> None:
        """Ends all connections."""
        connections, self._connections = self._connections, []
        for connection in connections:
            await connection.close()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()


class WebRtcClient:
    """Watches a routine by WebRTC, as a browser does. To be used in one event loop.

    Attributes:
        frames: number, width and height of those that came.
    """

    def __init__(self) -> None:
        from aiortc import RTCConfiguration, RTCPeerConnection

        self.frames: list[tuple[int, int, int]] = []
        self.location = ""
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connection.addTransceiver("video", direction="recvonly")
        self.connection.on("track", lambda track: asyncio.ensure_future(self._read(track)))

    async def watch(self, client: Any, routine: str, **query: Any) -> None:
        """Sends an offer to the control, and takes the answer."""
        from aiortc import RTCSessionDescription

        await self.connection.setLocalDescription(await self.connection.createOffer())
        answer = await client.post(
            f"/routines/{routine}/webrtc",
            content=self.connection.localDescription.sdp,
            headers={"Content-Type": "application/sdp"},
            params=query,
        )
        assert answer.status_code == 201, answer.text
        assert answer.headers["Content-Type"] == "application/sdp"
        self.location = answer.headers["Location"]
        await self.connection.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))

    async def _read(self, track: Any) -> None:
        from aiortc.mediastreams import MediaStreamError

        try:
            while True:
                frame = await track.recv()
                self.frames.append((number_of(frame), frame.width, frame.height))
        except MediaStreamError:
            pass

    async def close(self) -> None:
        await self.connection.close()


@contextmanager
def whip_endpoint(port: int, refusals: int = 0) -> Iterator[WhipEndpoint]:
    endpoint = WhipEndpoint(port, refusals)
    try:
        yield endpoint
    finally:
        endpoint.close()


if __name__ == "__main__":
    main(sys.argv[1])
