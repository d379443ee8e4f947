"""Pushes a stream to a server by WHIP (RFC 9725): an offer by HTTP, and then WebRTC. Needs the extra `webrtc`."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from pipert_shm.errors import describe, shown
from pipert_shm.extras import to_install
from pipert_shm.streaming.pushing import LOOK_S, Push, StreamingError
from pipert_shm.web.addresses import check_token

if TYPE_CHECKING:
    from aiortc import RTCPeerConnection

PATIENCE_S = 5.0  # for each answer of the server, and until the connection stands
LONGEST_ANSWER = 1 << 16


def check_whip(url: object) -> str:
    """:raises ValueError: when it is no URL of an HTTP server."""
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError(f"url must be one such as https://media.example/gate/whip, not {shown(url)}")
    return url


def check_webrtc() -> None:
    """:raises ImportError: when aiortc is not installed."""
    try:
        import aiortc  # noqa: F401
    except ImportError as error:
        raise ImportError(f"aiortc is not installed ({error}): {to_install('webrtc')}") from error


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the token is for the server that was named, and for no other one."""

    def redirect_request(self, *_: object) -> None:
        """Gives none, so that the answer is an error that names where it points."""


_OPENER = urllib.request.build_opener(_StayHere)


class WhipSender:
    """Sends to one endpoint. See `Sender`.

    :param token: the bearer token that the server asks for.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self._url = check_whip(url)
        check_token(token)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def send(self, push: Push) -> None:
        """Offers the stream, and sends it.

        :raises StreamingError: when the server can't be reached, refuses, or hangs up.
        """
        asyncio.run(self._send(push))

    async def _send(self, push: Push) -> None:
        from pipert_shm.streaming import webrtc

        connection = webrtc.new_connection()
        resource = ""
        track = webrtc.PacketTrack(push.watcher)
        track.on_sent = push.note_sent
        try:
            webrtc.send_by(connection, track)
            resource = await self._offer(connection)
            if not await _until_connected(connection, push):
                return
            push.connected()
            while not push.over and connection.connectionState == "connected":
                await asyncio.sleep(LOOK_S)
                push.note_lost()
            if not push.over:
                raise StreamingError(f"the connection to the server was lost: it is {connection.connectionState}")
        finally:
            await connection.close()
            track.stop()
            if resource:
                await asyncio.to_thread(self._take_leave, resource)

    async def _offer(self, connection: RTCPeerConnection) -> str:
        """Makes the offer, and takes the answer; the address by which the session is ended, empty if there is none."""
        from aiortc import RTCSessionDescription

        await connection.setLocalDescription(await connection.createOffer())
        body = connection.localDescription.sdp.encode()
        answer, location = await asyncio.to_thread(self._post, body)
        try:
            await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        except Exception as error:  # of an answer that is none: anything
            raise StreamingError(f"the server's answer can't be used: {describe(error)}") from error
        return location

    def _post(self, offer: bytes) -> tuple[str, str]:
        headers = {**self._headers, "Content-Type": "application/sdp", "Accept": "application/sdp"}
        request = urllib.request.Request(self._url, offer, headers, method="POST")
        try:
            with _OPENER.open(request, timeout=PATIENCE_S) as response:
                answer = response.read(LONGEST_ANSWER).decode()
                location = response.headers.get("Location", "")
                return answer, self._own(urljoin(self._url, location)) if location else ""
        except urllib.error.HTTPError as error:
            with error:
                advice = "; check the token" if error.code in (401, 403) else ""
                if error.code // 100 == 3:
                    advice = f"; give the address that it points to: {error.headers.get('Location')}"
                raise StreamingError(f"the server refuses the offer: {error.code} {error.reason}{advice}") from error
        except (OSError, HTTPException, UnicodeDecodeError) as error:
            raise StreamingError(f"the server does not answer the offer: {describe(error)}") from error

    def _own(self, resource: str) -> str:
        """The address, if it is one of the same server; else none, since it would get the token."""
        named, own = urlsplit(resource), urlsplit(self._url)
        return resource if (named.scheme, named.netloc) == (own.scheme, own.netloc) else ""

    def _take_leave(self, resource: str) -> None:
        request = urllib.request.Request(resource, headers=self._headers, method="DELETE")
        try:
            with _OPENER.open(request, timeout=PATIENCE_S):
                pass
        except (OSError, HTTPException):
            pass  # it sees that the connection has ended


async def _until_connected(connection: RTCPeerConnection, push: Push) -> bool:
    """Whether it stands; not if the stream has ended before.

    :raises StreamingError: when it does not stand in time.
    """
    for _ in range(round(PATIENCE_S / 0.05)):
        if push.over:
            return False
        if connection.connectionState == "connected":
            return True
        if connection.connectionState in ("failed", "closed"):
            break
        await asyncio.sleep(0.05)
    raise StreamingError("the server has answered, but can't be reached by UDP: check firewalls between it and this machine")
