"""Who may ask: the checks that each request passes before anything else sees it.

A browser sends requests to loopback addresses on behalf of any page, so that a server listens there only is no protection from
them. What protects is the `Host` header (a page whose name was rebound to 127.0.0.1 names itself there), `Origin`, and
`Sec-Fetch-Site`.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipert_shm.web.addresses import check_token, is_address, is_loopback, is_unspecified, name_of, site_of

LARGEST_BODY = 4 << 20
COOKIE = "pipert_session"
MOST_SESSIONS = 1000  # browsers that are known; a further one takes the place of the one that came first
UNGUARDED = ("/health", "/ready")  # by a token: what probes ask has none
BY_COOKIE = "pipert.by_cookie"
CROWDED = "pipert.crowded"  # in a scope: the server has no room but for probes and for who shows the token

ELSEWHERE = ("cross-site", "same-site")  # of Sec-Fetch-Site; another port of localhost is same-site


class Guard:
    """An ASGI middleware. One event loop at a time.

    :param token: what has to be shown, as `Authorization: Bearer …`. A browser opens `/?token=…` once, and gets a cookie, which
        holds the number of a session. It does not reveal the token, and it is worth nothing after a restart.
    :param hosts: names that the server is reached by, besides localhost and addresses.
    :param origins: of other sites' pages that may ask, such as `https://cockpit.example`.
    :raises TypeError, ValueError: see `check_token`.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: Collection[str], origins: Collection[str]) -> None:
        check_token(token)
        self._app = app
        self._token = token
        self._sessions: dict[str, None] = {}  # in the order in which they began
        self._hosts = {host.lower() for host in hosts}
        self._origins = set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what may pass."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        answer = (
            self._check_site(scope, headers)
            or self._check_token(scope, headers)
            or self._check_room(scope)
            or self._check_size(headers)
        )
        if answer is None:
            await self._app(scope, _limited(receive), send)
        elif scope["type"] == "http":
            await answer(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    def _check_site(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        name = name_of(host)
        if is_unspecified(name):  # it reaches loopback addresses, and browsers say of it neither Origin nor Sec-Fetch-Site
            return _refusal(403, f"{name!r} is no address of a server; use 127.0.0.1, localhost or its name")
        if not (name in self._hosts or is_loopback(name) or is_address(name)):
            return _refusal(403, f"this server is not known as {name!r}; if it should be, name it in hosts=")
        server = scope.get("server") or ("localhost", None)
        if self._token is None and is_address(server[0]) and not is_loopback(server[0]):
            return _refusal(403, f"without a token= it is served on loopback addresses only, not on {server[0]}")
        origin = headers.get("origin")
        if origin in self._origins:
            return None
        if origin is not None and site_of(origin) != host:
            return _refusal(403, f"pages of {origin} may not use this server; if they should, name it in origins=")
        followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest", "document") == "document"
        if headers.get("sec-fetch-site") in ELSEWHERE and not (followed or self._shows_images_at(headers)):
            return _refusal(403, "pages of other sites may not use this server; if one should, name it in origins=")
        return None

    def _shows_images_at(self, headers: Headers) -> bool:
        """Whether this is for an `<img>` on a page of a named origin, of which browsers tell the referrer only."""
        page = f"{headers.get('referer', '')}/"
        return headers.get("sec-fetch-dest") == "image" and any(page.startswith(f"{origin}/") for origin in self._origins)

    def _check_token(self, scope: Scope, headers: Headers) -> Response | None:
        if self._token is None or _is_unguarded(scope):
            return None
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(shown.strip()):
            return None
        cookie = f"{COOKIE}_{(scope.get('server') or ('', 0))[1]}"  # browsers give it to every port of a host
        if _cookie_of(headers, cookie) in self._sessions:
            scope[BY_COOKIE] = True
            return None
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["type"] == "http" and scope["method"] == "GET" and self._is_token(asked):
            if headers.get("sec-fetch-dest") == "image":
                return None  # on another site's page, which is sent no cookie
            answer = RedirectResponse(scope["path"] if not scope["path"].startswith("//") else "/", 303)
            path = scope.get("root_path") or "/"
            answer.set_cookie(
                cookie, self._begin_session(), path=path, secure=scope["scheme"] == "https", httponly=True, samesite="strict"
            )
            return answer
        refusal = _refusal(401, "show the token, as the header 'Authorization: Bearer …'; in a browser, open /?token=… once")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal

    def _is_token(self, shown: str) -> bool:
        return self._token is not None and hmac.compare_digest(shown.encode(), self._token.encode())

    def _begin_session(self) -> str:
        session = secrets.token_urlsafe()
        self._sessions[session] = None
        if len(self._sessions) > MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session

    def _check_room(self, scope: Scope) -> Response | None:
        if not scope.get(CROWDED) or self._token is not None or _is_unguarded(scope):
            return None  # with a token, a client that got this far has shown it
        refusal = _refusal(503, "as many requests as can be are being answered already")
        refusal.headers["Retry-After"] = "5"
        return refusal

    @staticmethod
    def _check_size(headers: Headers) -> Response | None:
        length = headers.get("content-length", "0")
        return _too_large() if length.isdecimal() and int(length) > LARGEST_BODY else None


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
    return JSONResponse({"detail": detail, "known": []}, status)


def _is_unguarded(scope: Scope) -> bool:
    """Whether it is a probe's path, in an application that may be mounted in another."""
    return scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/") in UNGUARDED


def _cookie_of(headers: Headers, name: str) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""
