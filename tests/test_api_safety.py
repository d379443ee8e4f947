"""Who may ask what: other sites' pages, other machines, and requests that mean harm."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from conftest import StartScript
from pipert_shm import APIWrapper, Pipe, create_app
from pipert_shm.api.preview import MOST_WATCHERS
from pipert_shm.web import guard
from pipert_shm.web.addresses import is_loopback
from routines import Frames, Sink, chain
from serving import Served, serving
from waiting import PATIENCE, Board, eventually

TOKEN = "correct horse"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as one:
        yield one


def was_started(served: Served) -> bool:
    """Whether anything got through, as the pipe itself sees it."""
    return served.states() != {"built"}


# ---- other sites' pages --------------------------------------------------------------------------

OWN = "http://127.0.0.1:{port}"


FOREIGN = [
    {"Host": "evil.example"},  # a name that was rebound to this address
    {"Host": "evil.example:{port}"},
    {"Host": "localhost.evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "user@127.0.0.1.evil.example"},
    {"Host": ""},
    {"Host": "[::1"},
    {"Host": "0.0.0.0"},  # reaches loopback addresses, and browsers say nothing of the page then
    {"Host": "0.0.0.0:{port}"},
    {"Host": "0.1.2.3"},
    {"Host": "0"},
    {"Host": "0x0.0"},
    {"Host": "[::]:{port}"},
    {"Host": "[0:0::0:0]"},
    {"Host": "[::0.0.0.0]"},
    {"Host": "[::ffff:0.0.0.0]"},
    {"Host": "[::%25lo]"},
    {"Host": "evil.example", "Origin": "http://evil.example"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://127.0.0.1:1"},  # another port is another site
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "https://cockpit.example"},
    {"Sec-Fetch-Site": "cross-site"},  # an <img> on a page
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},  # a link on a page
    {"Referer": "http://evil.example/page"},
]
OUR_OWN = [
    {},
    {"Host": "localhost"},
    {"Host": "localhost:9000"},  # through a tunnel
    {"Host": "[::1]:8080"},
    {"Host": "192.168.1.10"},
    {"Origin": OWN},
    {"Origin": OWN, "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},  # typed by hand
    {"Sec-Fetch-Site": "same-origin"},
    {"Referer": OWN + "/docs"},
]


def test_only_own_pages_and_programs_may_change_anything(served: Served) -> None:
    def start(method: str, headers: dict[str, str]) -> int:
        filled = {name: value.format(port=served.port) for name, value in headers.items()}
        return served.client.request(method, "/start", headers=filled).status_code

    for headers in FOREIGN:
        assert {start(method, headers) for method in ("GET", "POST")} == {403}, headers
    assert not was_started(served)
    for headers in OUR_OWN:
        assert {start(method, headers) for method in ("GET", "POST")} == {200}, headers
    assert was_started(served)


def test_a_link_to_what_only_shows_may_stand_anywhere(served: Served) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Referer": "https://elsewhere.example/"}
    assert served.client.get("/statistics", headers=link).status_code == 200
    framed = {**link, "Sec-Fetch-Dest": "iframe"}
    assert served.client.get("/statistics", headers=framed).status_code == 403
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert served.client.get("/statistics", headers=embedded).status_code == 403


def test_named_origins_and_hosts_may() -> None:
    cockpit = "https://cockpit.example"
    with serving(origins=[cockpit], hosts=["pipe.example"]) as served:
        headers = {"Origin": cockpit, "Host": "pipe.example:8080", "Sec-Fetch-Site": "cross-site"}
        preflight = {**headers, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        response = served.client.options("/start", headers=preflight)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, cockpit)
        response = served.client.post("/start", headers=headers)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, cockpit)

        response = served.client.options("/start", headers={**preflight, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in response.headers
        response = served.client.post("/pause", headers={**headers, "Origin": "https://evil.example"})
        assert (response.status_code, "access-control-allow-origin" in response.headers) == (403, False)
        assert "stopped" not in served.states()


def test_without_named_origins_there_is_no_cors(served: Served) -> None:
    preflight = {"Origin": "https://cockpit.example", "Access-Control-Request-Method": "POST"}
    response = served.client.options("/start", headers=preflight)
    assert (response.status_code, "access-control-allow-origin" in response.headers) == (403, False)


# ---- other machines ------------------------------------------------------------------------------


def test_with_a_token_any_address_will_do() -> None:
    with serving(host="0.0.0.0", token=TOKEN) as served:
        assert served.client.get("/health").json() == {"status": "ok"}
        assert served.client.get("/ready").status_code == 200
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer"}, {"Authorization": TOKEN}):
            response = served.client.post("/start", headers=headers)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        assert not was_started(served)
        assert served.client.post("/start", headers=[(b"Authorization", "Bearer pïpe".encode())]).status_code == 401
        assert served.client.post("/start", headers=BEARER).status_code == 200
        schema = served.client.get("/openapi.json", headers=BEARER).json()
        assert schema["components"]["securitySchemes"] == {"HTTPBearer": {"type": "http", "scheme": "bearer"}}
        assert was_started(served)


def test_a_browser_shows_the_token_once_and_gets_a_cookie() -> None:
    with serving(token=TOKEN) as served:
        assert served.client.get("/statistics?token=wrong").status_code == 401
        response = served.client.get("/statistics", params={"token": TOKEN})
        assert (response.status_code, response.headers["location"]) == (303, "/statistics")
        cookie = response.headers["set-cookie"]
        assert TOKEN not in unquote(cookie)
        assert "correct" not in cookie
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert served.client.get("/statistics").status_code == 200  # the client keeps cookies, as a browser does
        assert served.client.get("/start").status_code == 403  # anybody's <img> could have asked for that
        assert not was_started(served)
        assert served.client.post("/start", headers={"Origin": f"http://127.0.0.1:{served.port}"}).status_code == 200
        assert was_started(served)
        with served.client.stream("GET", "/events") as events:
            assert events.status_code == 200
        name = cookie.partition("=")[0]
        served.client.cookies.clear()
        assert served.client.get("/statistics").status_code == 401
        for forged in (TOKEN, "", "0"):
            assert served.client.get("/statistics", headers={"Cookie": f'{name}="{forged}"'}).status_code == 401


def test_two_servers_of_a_machine_do_not_take_each_other_s_cookies() -> None:
    with serving(token=TOKEN) as one, serving(token="another") as other:
        for served, token in ((one, TOKEN), (other, "another")):
            one.client.get(f"http://127.0.0.1:{served.port}/statistics", params={"token": token})
        for served in (one, other):
            assert one.client.get(f"http://127.0.0.1:{served.port}/statistics").status_code == 200


def test_no_more_browsers_are_remembered_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_SESSIONS", 2)
    with serving(token=TOKEN) as served:
        cookies = []
        for _ in range(3):
            cookie = served.client.get("/statistics", params={"token": TOKEN}).headers["set-cookie"].partition(";")[0]
            cookies.append(cookie)
            served.client.cookies.clear()
        seen = [served.client.get("/statistics", headers={"Cookie": cookie}).status_code for cookie in cookies]
        assert seen == [401, 200, 200]


def test_a_websocket_takes_the_token_too() -> None:
    """As the dashboard's does; the guard alone, in front of an application that accepts all."""
    sent: list[str] = []

    async def accepts(scope: Any, receive: Any, send: Any) -> None:
        sent.append("accepted")

    async def closes(message: Any) -> None:
        sent.append(message["type"])

    async def nothing() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    inner = guard.Guard(accepts, token=TOKEN, hosts=(), origins=())
    scope = {"type": "websocket", "path": "/socket", "query_string": b"", "server": ("127.0.0.1", 1)}
    host, cookie = (b"host", b"localhost"), f"{guard.COOKIE}_1={inner._begin_session()}".encode()
    foreign = (b"origin", b"http://evil.example")
    for headers in ([host], [host, (b"cookie", cookie)], [host, (b"cookie", cookie), foreign]):
        asyncio.run(inner({**scope, "headers": headers}, nothing, closes))
    assert sent == ["websocket.close", "accepted", "websocket.close"]


def test_an_image_on_a_page_of_a_named_origin(served: Served) -> None:
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    with serving(origins=["http://wall.example"], token=TOKEN) as named:
        for address, page, expected in (
            (f"/statistics?token={TOKEN}", "http://wall.example/cameras", 200),
            (f"/statistics?token={TOKEN}", "http://wall.example", 200),
            (f"/statistics?token={TOKEN}", "http://wall.example.evil.example/", 403),
            (f"/statistics?token={TOKEN}", "", 403),
            ("/statistics", "http://wall.example/cameras", 401),
        ):
            assert named.client.get(address, headers={**image, "Referer": page}).status_code == expected, page


@pytest.mark.parametrize("token", ["", " ", "a ", " a", "a\nb", "a\x00", "pïpe", "a\u200bb"])
def test_a_token_that_nobody_could_show_is_refused(token: str) -> None:
    for make in (lambda: create_app(Pipe(), token=token), lambda: APIWrapper("127.0.0.1", 0, Pipe(), token=token)):
        with pytest.raises(ValueError, match="token"):
            make()


def test_a_token_must_be_text() -> None:
    with pytest.raises(TypeError, match="token must be a str"):
        create_app(Pipe(), token=b"bytes")  # type: ignore[arg-type]


def test_probes_need_no_token_where_it_is_mounted_in_another_application() -> None:
    app = FastAPI()
    app.mount("/pipe", create_app(Pipe(), token=TOKEN))

    async def ask(path: str) -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return (await client.get(path)).status_code

    asked = ("/pipe/health", "/pipe/health/", "/pipe/ready", "/pipe/statistics", "/pipe/pipe/health")
    assert [asyncio.run(ask(path)) for path in asked] == [200, 200, 503, 401, 401]


def test_a_server_of_ones_own_serves_no_other_machine_without_a_token() -> None:
    app = create_app(Pipe())

    async def refused(server: str) -> int:
        async def at(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "server": (server, 80)}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(at), base_url="http://localhost") as client:
            return (await client.get("/health")).status_code

    assert asyncio.run(refused("192.168.1.10")) == 403
    assert asyncio.run(refused("127.0.0.1")) == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("example", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


# ---- harm ----------------------------------------------------------------------------------------

load_all_checks()


@schemathesis.serializer("application/sdp")
def as_sdp(context: schemathesis.SerializationContext, value: object) -> bytes:
    """An offer that a browser makes is a text; what is generated is any."""
    return str(value).encode(errors="replace")


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_server_does_what_its_schema_says(served: Served, mode: GenerationMode) -> None:
    """Generated requests, right and wrong ones, to every route but those that end the pipe, or take their time."""
    tried = set()
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{served.port}/openapi.json")
    for found in schema.exclude(path=["/kill", "/events", "/routines/{routine}/preview", "/trace"]).get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()

        @settings(max_examples=2, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(mode))
        def check(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(timeout=PATIENCE, excluded_checks=[positive_data_acceptance, negative_data_rejection])
            tried.add(case.operation.label)

        with contextlib.suppress(Unsatisfiable):  # what takes nothing can't be asked wrongly
            check()
    assert {"POST /routines/{routine}/link", "GET /routines/{routine}/events/{event}/execute"} <= tried
    assert served.client.get("/statistics").status_code == 200


@pytest.mark.parametrize("chunks", [1, 200])
def test_a_body_without_an_end_is_not_read_on(served: Served, chunks: int) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"extra_args": {"factor": "'
        for _ in range(chunks):
            yield b"x" * (5_000_000 // chunks)

    response = served.client.post("/routines/events/scale/execute", content=body())
    assert (response.status_code, "4,194,304 bytes" in response.json()["detail"]) == (413, True)


def test_a_body_that_does_not_say_that_it_is_json_is_told_how(served: Served) -> None:
    """As `curl -d` sends it."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    body = b'{"extra_args": {"factor": 2}}'
    response = served.client.post("/routines/events/scale/execute", content=body, headers=headers)
    assert response.status_code == 422
    assert response.json()["detail"].endswith("say Content-Type: application/json, not application/x-www-form-urlencoded")


def hostile(served: Served) -> list[bytes]:
    """Requests as no well-meaning client sends them."""
    head = b"POST /routines/events/scale/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return [
        head + b"Content-Length: 99999999999\r\n\r\n{",
        head + b"Content-Length: -1\r\n\r\n",
        head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        head + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{",
        b"GET /\x00\xff/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /routines/%00%ff%2f..%2f/preview.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"A" * 200_000,
        b"GET /start HTTP/1.1\r\nHost: localhost\r\n" + b"X-Y: z\r\n" * 20_000 + b"\r\n",
        b"GET /start HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    ]


def camera(_: Board) -> Pipe:
    pipe = Pipe(policy="block", grace_period=1)
    source = Frames("camera", None, (480, 640, 3), loan=True)
    source.set_const_fps(100)
    chain(pipe, source, Sink("screen"))
    return pipe


def answer_to(served: Served, request: bytes) -> bytes:
    """The beginning of the answer; nothing where the server hung up in the middle of the request, as it may."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(100)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET):
                raise
            return b""


def test_requests_that_mean_harm_cost_the_pipe_no_frame() -> None:
    with serving(make=camera) as served:
        served.do("/start")
        for request in hostile(served):
            answer = answer_to(served, request)
            assert not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5")), (request[:80], answer)
            expect_full_rate(served)


FLOOD = """
import resource, selectors, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
selector = selectors.DefaultSelector()
clients, statuses = [], []
for number in range(400):
    client = socket.create_connection(("127.0.0.1", {port}), timeout=30)
    client.sendall(b"GET /routines/camera/preview HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    clients.append(client)
    if number == 0:  # else all of them may be connected, and one too many, before the first is looked at
        statuses.append(client.recv(12)[9:])
statuses += [client.recv(12)[9:] for client in clients[1:]]  # and never reads on
print(statuses.count(b"200"), statuses.count(b"503"), len(statuses), flush=True)
print("flooded", flush=True)
sys.stdin.read()
import threading
threading.Event().wait()
"""


def is_healthy(served: Served) -> bool:
    """Asks by a connection of its own: that of the client, which was idle, may just be closed, to make room."""
    return httpx.get(f"http://127.0.0.1:{served.port}/health").status_code == 200


def test_hundreds_of_preview_clients_that_read_nothing_cost_the_pipe_no_frame(
    start_script: StartScript, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "uvicorn.error")  # a warning for each of them
    with serving(make=camera) as served:
        served.do("/start")
        script = start_script(FLOOD.format(port=served.port))
        assert script.process.stdout is not None
        seen, refused, tried = map(int, script.process.stdout.readline().split())
        assert 0 < seen <= MOST_WATCHERS
        assert (seen + refused, tried) == (400, 400)
        expect_full_rate(served)
        assert is_healthy(served)
        script.kill()
        script.process.wait()
        eventually(lambda: served.wrapper._app.state.previews.watchers == 0, "an end of all watchers")
        assert served.client.get("/routines/camera/preview.jpg").status_code == 200


def expect_full_rate(served: Served) -> None:
    """Sees that frames pass, and that none was lost or had to wait so long that the camera skipped its turn."""
    before = served.pipe.statistics().routines["screen"].received
    eventually(lambda: served.pipe.statistics().routines["screen"].received > before + 10, "frames")
    wire = served.pipe.statistics().wires["camera", "screen"]
    assert (wire.lost, served.pipe.statistics().routines["camera"].errors) == (0, 0)
