"""Who may ask what: other sites' pages, other machines, and requests that mean harm."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS, load_all_checks

from pipert_shm import Pipe, create_app
from pipert_shm.api.guard import is_loopback
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


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({"Host": "localhost"}, True),
        ({"Host": "localhost:9000"}, True),  # through a tunnel
        ({"Host": "[::1]:8080"}, True),
        ({"Host": "192.168.1.10"}, True),
        ({"Host": "evil.example"}, False),  # a name that was rebound to this address
        ({"Host": "evil.example:{port}"}, False),
        ({"Host": "localhost.evil.example"}, False),
        ({"Host": "127.0.0.1.evil.example"}, False),
        ({"Host": "user@127.0.0.1.evil.example"}, False),
        ({"Host": ""}, False),
        ({"Host": "[::1"}, False),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, False),
        ({"Origin": OWN}, True),
        ({"Origin": OWN, "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),  # another port is another site
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "https://cockpit.example"}, False),
        ({"Sec-Fetch-Site": "none"}, True),  # typed by hand
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),  # an <img> on a page
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),  # a link on a page
        ({"Referer": "http://evil.example/page"}, False),
        ({"Referer": OWN + "/docs"}, True),
    ],
    ids=str,
)
def test_only_own_pages_and_programs_may_change_anything(served: Served, headers: dict[str, str], passes: bool) -> None:
    filled = {name: value.format(port=served.port) for name, value in headers.items()}
    for method in ("GET", "POST"):
        response = served.client.request(method, "/start", headers=filled)
        assert (response.status_code, "detail" in response.json()) == ((200, False) if passes else (403, True)), response.text
    assert was_started(served) == passes


def test_a_link_to_what_only_shows_may_stand_anywhere(served: Served) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Referer": "https://elsewhere.example/"}
    assert served.client.get("/statistics", headers=link).status_code == 200
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
        response = served.client.post("/start", headers={"Authorization": "Bearer pïpe".encode()})
        assert response.status_code == 401
        assert served.client.post("/start", headers=BEARER).status_code == 200
        assert was_started(served)


def test_a_browser_shows_the_token_once_and_gets_a_cookie() -> None:
    with serving(token=TOKEN) as served:
        assert served.client.get("/statistics?token=wrong").status_code == 401
        response = served.client.get("/statistics", params={"token": TOKEN})
        assert (response.status_code, response.headers["location"]) == (303, "/statistics")
        cookie = response.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert served.client.get("/statistics").status_code == 200  # the client keeps cookies, as a browser does
        assert served.client.get("/start").status_code == 403  # anybody's <img> could have asked for that
        assert not was_started(served)
        assert served.client.post("/start", headers={"Origin": f"http://127.0.0.1:{served.port}"}).status_code == 200
        assert was_started(served)
        served.client.cookies.clear()
        assert served.client.get("/statistics").status_code == 401


def test_a_server_of_ones_own_serves_no_other_machine_without_a_token() -> None:
    async def refused(server: str) -> int:
        transport = httpx.ASGITransport(create_app(Pipe()))
        app = transport.app

        async def at(scope, receive, send):  # type: ignore[no-untyped-def]
            await app({**scope, "server": (server, 80)}, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(at), base_url="http://localhost") as client:
            return (await client.get("/health")).status_code

    import asyncio

    assert asyncio.run(refused("192.168.1.10")) == 403
    assert asyncio.run(refused("127.0.0.1")) == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.8.9.1", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.1", False), ("example", False), ("", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


# ---- harm ----------------------------------------------------------------------------------------

load_all_checks()
# GETs of control routes may have a body, which the generator does not send; and texts of events are any text.
CHECKED = [CHECKS.get_one(name) for name in ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")]


def test_the_server_does_what_its_schema_says(served: Served) -> None:
    """Generated requests, right and wrong ones, to every route but those that end the pipe or never end themselves."""
    served.do("/start")
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{served.port}/openapi.json")
    schema = schema.exclude(path=["/kill", "/events", "/routines/{routine}/preview"])
    tried = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=8, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @operation.as_strategy().map(lambda case: case).__class__ and (lambda f: f)
        def check() -> None: ...

        tried.add(operation.label)
    assert tried
