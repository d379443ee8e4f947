"""The viewers of a stream of JPEG pictures, which `MjpegServer` serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

BOUNDARY = "frame"

_HEADERS = {"Cache-Control": "no-store", "Connection": "close"}  # a stream's end is that of its connection


class Viewers:
    """An ASGI application that sends each client the newest picture, again and again. Clients need no threads.

    Attributes:
        count: how many clients are connected.
    """

    def __init__(self) -> None:
        self.count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Event] = set()
        self._picture = b""
        self._number = 0
        self._over = False

    def show(self, picture: bytes) -> None:
        """Makes this the newest picture. It may be called on any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._change, picture)

    def end(self) -> None:
        """Ends all streams. To be called on the server's thread."""
        self._over = True
        self._wake()

    def _change(self, picture: bytes) -> None:
        self._picture = picture
        self._number += 1
        self._wake()

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one client until it leaves or the stream ends."""
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        answer: Response = PlainTextResponse("look with GET", 405, {"Allow": "GET"})
        if scope["method"] == "GET":
            kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
            answer = StreamingResponse(self._parts(self._number), media_type=kind, headers=_HEADERS)
        self._loop = asyncio.get_running_loop()
        self.count += 1
        try:
            await answer(scope, receive, send)  # it also ends when the client leaves while no picture comes
        finally:
            self.count -= 1

    async def _parts(self, seen: int) -> AsyncIterator[bytes]:
        """The parts of the stream.

        :param seen: number of the newest picture when the client was counted. It gets the pictures after that one.
        """
        news = asyncio.Event()
        self._waiting.add(news)
        try:
            while not self._over:
                if self._number == seen:
                    news.clear()
                    await news.wait()
                    continue
                seen, picture = self._number, self._picture
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                yield head.encode() + picture + b"\r\n"
            yield f"--{BOUNDARY}--\r\n".encode()
        finally:
            self._waiting.discard(news)
