"""What a routine sends as HLS, for players: made from the first request on, and until nobody has asked for some seconds."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from fastapi import APIRouter, HTTPException, Request, Response

from pipert_shm.api.control import ABSENT, RoutineName
from pipert_shm.api.models import Problem
from pipert_shm.api.streams import WIDTH, Streams, require_pictures

if TYPE_CHECKING:
    from pipert_shm.streaming.broadcast import Broadcast

PLAYLIST = "index.m3u8"
IDLE_S = 15.0  # players ask every two seconds
FIRST_S = 10.0  # how long the first segment is waited for; it has two seconds


class Session:
    """One routine's files, in memory, and who writes them."""

    def __init__(self, broadcast: Broadcast) -> None:
        from pipert_shm.streaming.hls import HlsSender, MemoryStore  # with OpenCV, which is heavy
        from pipert_shm.streaming.pushing import Pusher

        self.asked_at = time.monotonic()
        self.store = MemoryStore()
        self.pusher = Pusher(broadcast, HlsSender(self.store), f"HLS of {broadcast.name}", broadcast.logger)

    async def last(self) -> None:
        """Waits until nobody has asked for some seconds, or it has ended; then ends it."""
        try:
            while time.monotonic() - self.asked_at < IDLE_S and not self.pusher.over:
                await asyncio.sleep(min(1.0, IDLE_S / 4))
        finally:
            await asyncio.to_thread(self.pusher.close)


class Sessions:
    """The sessions that somebody asks for. For use from the server's loop."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._sessions: dict[str, tuple[Session, asyncio.Task[None]]] = {}
        self._openings: dict[str, asyncio.Lock] = {}

    def get(self, routine: str) -> Session | None:
        """The session of a routine, if there is one; it lasts longer then."""
        found = self._sessions.get(routine)
        if found is None:
            return None
        found[0].asked_at = time.monotonic()
        return found[0]

    async def opened(self, routine: str) -> Session:
        """The session of a routine.

        :raises HTTPException: when the routine sends no pictures.
        :raises PipertError: as `Streams.broadcast` does.
        """
        session = self.get(routine)
        if session is not None:
            return session
        broadcast = await asyncio.to_thread(self._streams.broadcast, routine, WIDTH)  # first: no lock stays of an unknown name
        async with self._openings.setdefault(routine, asyncio.Lock()):
            session = self.get(routine)
            if session is None:
                await require_pictures(broadcast)
                session = Session(broadcast)
                task = asyncio.create_task(session.last(), name=f"hls-{routine}")
                self._sessions[routine] = session, task
                task.add_done_callback(lambda _: self._sessions.pop(routine, None))
            return session

    async def close(self) -> None:
        """Ends all of them."""
        tasks = [task for _, task in self._sessions.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


router = APIRouter(tags=["look"])

_FRESH = {"Cache-Control": "no-store"}
_MISSING = {
    **ABSENT,
    409: {"model": Problem, "description": "There is nothing to be seen: it sends no pictures, or does not run"},
    501: {"model": Problem, "description": "The pipe's program lacks the extra `pyav`"},
}


@router.get(
    f"/routines/{{routine}}/hls/{PLAYLIST}",
    response_class=Response,
    responses={
        **_MISSING,
        200: {"content": {"application/vnd.apple.mpegurl": {"schema": {"type": "string"}}}},
        504: {"model": Problem, "description": "No frame came in time"},
    },
)
async def hls_playlist(request: Request, routine: RoutineName) -> Response:
    """What a routine sends, as HLS for players: H.264, at most 1280 pixels wide. It begins with the first request.

    It goes on until nobody has asked for 15 seconds. Players are six to ten seconds behind. Boxes of detections are drawn.
    """
    sessions: Sessions = request.app.state.hls
    session = await sessions.opened(routine)
    until = time.monotonic() + FIRST_S
    while (playlist := session.store.get(PLAYLIST)) is None:
        if session.pusher.over or time.monotonic() >= until:
            raise HTTPException(504, f"routine {routine!r} sent no frames for a segment within {FIRST_S:g} s")
        await asyncio.sleep(0.05)
        session.asked_at = time.monotonic()  # one who waits is there
    return Response(playlist, media_type="application/vnd.apple.mpegurl", headers=_FRESH)


@router.get(
    "/routines/{routine}/hls/{file}",
    response_class=Response,
    responses={**_MISSING, 200: {"content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def hls_file(request: Request, routine: RoutineName, file: str) -> Response:
    """A file that the playlist names; 404 once it is too old."""
    sessions: Sessions = request.app.state.hls
    session = sessions.get(routine)
    content = None if session is None else session.store.get(file)
    if content is None:
        raise HTTPException(404, f"there is no file {file!r} of this stream, or not any more: read {PLAYLIST} again")
    return Response(content, media_type="video/mp4")
