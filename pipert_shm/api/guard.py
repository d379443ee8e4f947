"""Who may ask: the checks that each request passes before anything else sees it.

A browser sends requests to loopback addresses on behalf of any page, so that a server listens there only is no protection from
them. What protects is the `Host` header (a page whose name was rebound to 127.0.0.1 names itself there), `Origin`, and
`Sec-Fetch-Site`.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipert_shm.api.models import Problem

LARGEST_BODY = 4 << 20
COOKIE = "pipert_token"
UNGUARDED = ("/health", "/ready")  # by a token: what probes ask has none
BY_COOKIE = "pipert.by_cookie"

_ELSEWHERE = ("cross-site", "same-site")  # of Sec-Fetch-Site; another port of localhost is same-site


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is one that only this machine reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """An ASGI middleware.

    :param token: what has to be shown, as `Authorization: Bearer …`; a browser opens `/?token=…` once, and gets a cookie.
    :param hosts: names that the server is reached by, besides localhost and addresses.
    :param origins: of other sites' pages that may ask, such as `https://cockpit.example`.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: Collection[str], origins: Collection[str]) -> None:
        self._app = app
        self._token = token
        self._hosts = {host.lower() for host in hosts}
        self._origins = set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what may pass."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        answer = self._check_site(scope, headers) or self._check_token(scope, headers) or self._check_size(headers)
        if answer is None:
            await self._app(scope, _limited(receive), send)
        elif scope["type"] == "http":
            await answer(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    def _check_site(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        name = _name_of(host)
        if not (name in self._hosts or is_loopback(name) or _is_address(name)):
            return _refusal(403, f"this server is not known as {name!r}; if it should be, name it in hosts=")
        server = scope.get("server") or ("localhost", None)
        if self._token is None and _is_address(server[0]) and not is_loopback(server[0]):
            return _refusal(403, f"without a token= it is served on loopback addresses only, not on {server[0]}")
        origin = headers.get("origin")
        if origin in self._origins:
            return None
        if origin is not None and _site_of(origin) != host:
            return _refusal(403, f"pages of {origin} may not use this server; if they should, name it in origins=")
        followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest", "document") == "document"
        if headers.get("sec-fetch-site") in _ELSEWHERE and not followed:  # not a link that was followed, but a frame, say
            return _refusal(403, "pages of other sites may not use this server; if one should, name it in origins=")
        return None

    def _check_token(self, scope: Scope, headers: Headers) -> Response | None:
        if self._token is None or scope["path"].rstrip("/") in UNGUARDED:
            return None
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(shown.strip()):
            return None
        if self._is_token(_cookie_of(headers)):
            scope[BY_COOKIE] = True
            return None
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["type"] == "http" and scope["method"] == "GET" and self._is_token(asked):
            answer = RedirectResponse(scope["path"] if not scope["path"].startswith("//") else "/", 303)
            answer.set_cookie(COOKIE, asked, httponly=True, samesite="strict")
            return answer
        refusal = _refusal(401, "show the token, as the header 'Authorization: Bearer …'; in a browser, open /?token=… once")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal

    def _is_token(self, shown: str) -> bool:
        return self._token is not None and hmac.compare_digest(shown.encode(), self._token.encode())

    @staticmethod
    def _check_size(headers: Headers) -> Response | None:
        length = headers.get("content-length", "0")
        return _too_large() if length.isdecimal() and int(length) > LARGEST_BODY else None


def _site_of(address: str) -> str | None:
    """The host and port of an address; None where it is none."""
    try:
        return urlsplit(address).netloc
    except ValueError:  # such as http://[::1
        return None


def require_own_site(request: Request) -> None:
    """A dependency of the routes that change something.

    Other sites' pages can make a browser go to an address, which is no harm where that is only looked at. Over plain HTTP to
    another machine browsers don't say who made them ask, so there a cookie is not enough for a GET.

    :raises HTTPException: 403.
    """
    if request.headers.get("origin") is not None:
        return  # the guard let it pass
    referer = request.headers.get("referer")
    foreign = referer is not None and _site_of(referer) != request.headers.get("host")
    if foreign or request.headers.get("sec-fetch-site") in _ELSEWHERE:
        raise HTTPException(403, "a page of another site may not do this")
    if request.method == "GET" and request.scope.get(BY_COOKIE):
        raise HTTPException(403, "in a browser this takes a POST; or send the header 'Authorization: Bearer …'")


def _limited(receive: Receive) -> Receive:
    read = 0

    async def receive_some() -> Message:
        nonlocal read
        message = await receive()
        if message["type"] == "http.request":
            read += len(message.get("body", b""))
            if read > LARGEST_BODY:
                raise HTTPException(413, _too_large_text())
        return message

    return receive_some


def _too_large_text() -> str:
    return f"a body of more than {LARGEST_BODY:,} bytes is not read; send large data over a wire"


def _too_large() -> Response:
    return _refusal(413, _too_large_text())


def _refusal(status: int, detail: str) -> Response:
    return JSONResponse(Problem(detail=detail).model_dump(), status)


def _name_of(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookie_of(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""
