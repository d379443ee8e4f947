"""What a routine sends by WebRTC, for browsers and for players of WHEP: fast, and encoded once for all. Extra `webrtc`."""

from __future__ import annotations

import asyncio
import uuid
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import quote

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from pipert_shm.api.control import ABSENT, RoutineName
from pipert_shm.api.guard import require_own_site
from pipert_shm.api.models import Problem
from pipert_shm.api.streams import WIDTH, Streams, Width, require_pictures
from pipert_shm.errors import describe
from pipert_shm.extras import to_install

if TYPE_CHECKING:
    from aiortc import RTCPeerConnection

    from pipert_shm.streaming.broadcast import Broadcast
    from pipert_shm.streaming.webrtc import PacketTrack

CONNECT_S = 5.0  # a client that is not connected after so long is given up
MOST_PEERS = 32
LONGEST_OFFER = 1 << 16  # bytes
MOST_SECTIONS = 16  # of an offer: each has a transceiver made, and one is video
SDP = "application/sdp"


def webrtc_is_installed() -> bool:
    """Whether the extra `webrtc` is there."""
    return find_spec("aiortc") is not None


def load() -> None:
    """Imports aiortc, which takes half a second: for a thread of its own.

    :raises ImportError: when it is broken.
    """
    import_module("pipert_shm.streaming.webrtc")


class Peers:
    """The clients that watch by WebRTC. For use from the server's loop.

    Attributes:
        lost: how many packets those that have left were too slow for.
    """

    def __init__(self, streams: Streams) -> None:
        self.lost = 0
        self._streams = streams
        self._peers: dict[str, tuple[RTCPeerConnection, PacketTrack]] = {}
        self._opening = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._peers)

    async def add(self, routine: str, width: int, offer: str) -> tuple[str, str]:
        """Answers an offer; the client's number, and the answer.

        :raises HTTPException: when it can't be answered.
        :raises PipertError: as `Streams.broadcast` does.
        """
        if not webrtc_is_installed():
            raise HTTPException(501, f"WebRTC needs aiortc: {to_install('webrtc')}; the MJPEG preview works without")
        if len(self._peers) + self._opening >= MOST_PEERS or self._closed:
            raise HTTPException(503, f"{MOST_PEERS} clients are watching already", {"Retry-After": "5"})
        if "H264/90000" not in offer:
            raise HTTPException(422, "the offer has no video in H.264, which is all that is sent")
        if (sections := _sections(offer)) > MOST_SECTIONS:
            raise HTTPException(422, f"the offer has {sections} sections (m=); it may have {MOST_SECTIONS}")
        self._opening += 1
        try:
            await asyncio.to_thread(load)
            broadcast = await asyncio.to_thread(self._streams.broadcast, routine, width)
            await require_pictures(broadcast)
            return await self._answered(broadcast, offer)
        finally:
            self._opening -= 1

    async def _answered(self, broadcast: Broadcast, offer: str) -> tuple[str, str]:
        from aiortc import RTCSessionDescription

        from pipert_shm.streaming import webrtc

        connection, track = webrtc.new_connection(), webrtc.PacketTrack(broadcast.watch())
        number = uuid.uuid4().hex
        self._peers[number] = connection, track
        try:
            webrtc.send_by(connection, track)
            await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:  # of what is no offer: anything
            await self.remove(number)
            raise HTTPException(422, f"the offer can't be answered: {describe(error)}") from error
        task = asyncio.create_task(self._look_after(number, connection, track), name=f"webrtc-{number}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return number, connection.localDescription.sdp

    async def _look_after(self, number: str, connection: RTCPeerConnection, track: PacketTrack) -> None:
        """Removes a client that does not connect in time, has left, or has nothing more to see."""
        changed = asyncio.Event()
        connection.on("connectionstatechange", changed.set)
        track.on("ended", changed.set)
        loop = asyncio.get_running_loop()
        given_up = loop.call_later(CONNECT_S, changed.set)
        until = loop.time() + CONNECT_S
        while number in self._peers and track.readyState == "live":
            state = connection.connectionState
            if state in ("failed", "closed") or (state != "connected" and loop.time() >= until):
                break
            await changed.wait()
            changed.clear()
        given_up.cancel()
        await self.remove(number)

    async def remove(self, number: str) -> bool:
        """Hangs up on a client. Returns whether it was there."""
        peer = self._peers.pop(number, None)
        if peer is None:
            return False
        connection, track = peer
        track.stop()
        self.lost += track.watcher.lost
        await connection.close()
        return True

    async def close(self) -> None:
        """Hangs up on all of them."""
        self._closed = True
        for number in list(self._peers):
            await self.remove(number)
        await asyncio.gather(*self._tasks, return_exceptions=True)


router = APIRouter(tags=["look"], dependencies=[Depends(require_own_site)])

_OFFER = {
    "requestBody": {
        "required": True,
        "description": "The client's offer: an SDP with all of its ICE candidates, and video in H.264.",
        "content": {SDP: {"schema": {"type": "string"}}},
    }
}


@router.post(
    "/routines/{routine}/webrtc",
    status_code=201,
    response_class=Response,
    openapi_extra=_OFFER,
    responses={
        **ABSENT,
        201: {"content": {SDP: {"schema": {"type": "string"}}}, "description": "The answer; `Location` ends the session"},
        409: {"model": Problem, "description": "There is nothing to be seen: it sends no pictures, or does not run"},
        422: {"model": Problem, "description": "It is no offer, or has no H.264"},
        501: {"model": Problem, "description": "The pipe's program lacks the extra `webrtc`"},
        503: {"model": Problem, "description": "As many as can be are watching already"},
    },
)
async def webrtc_offer(request: Request, routine: RoutineName, width: Width = WIDTH) -> Response:
    """What a routine sends, by WebRTC, in H.264: a client's offer is answered. Players of WHEP can ask for it.

    No STUN server is asked: it reaches browsers of this machine, and of its networks. All who watch a routine at one width
    share an encoder. Boxes of detections are drawn. At most 32 can watch at a time.
    """
    body = await request.body()
    if len(body) > LONGEST_OFFER:
        raise HTTPException(422, f"an offer has at most {LONGEST_OFFER} bytes")
    try:
        offer = body.decode()
    except UnicodeDecodeError as error:
        raise HTTPException(422, f"the offer is not UTF-8: {error}") from None
    peers: Peers = request.app.state.peers
    if request.client is not None:
        offer = _with_address(offer, request.client.host)
    number, answer = await peers.add(routine, width, offer)
    place = f"{request.scope.get('root_path', '')}/routines/{quote(routine, safe='')}/webrtc/{number}"
    return Response(answer, 201, {"Location": place}, SDP)


@router.delete("/routines/{routine}/webrtc/{session}", responses=ABSENT)
async def webrtc_end(request: Request, routine: RoutineName, session: str) -> Response:
    """Ends a session: the address that `Location` has said."""
    peers: Peers = request.app.state.peers
    if not await peers.remove(session):
        raise HTTPException(404, "there is no such session, or not any more")
    return Response(status_code=200)


def _sections(offer: str) -> int:
    return sum(line.startswith("m=") for line in offer.splitlines())


def _with_address(offer: str, address: str) -> str:
    if not webrtc_is_installed():
        return offer
    from pipert_shm.streaming.webrtc import with_address

    return with_address(offer, address)
