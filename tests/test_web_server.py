"""Clients that say nothing, or say it slowly: they are not waited for, and take nobody's place."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pipert_shm.web import server
from serving import Served, serving
from waiting import PATIENCE, eventually

HOST = b"Host: localhost\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST
POST = b"POST /routines/events/scale/execute HTTP/1.1\r\n" + HOST
BEGINNINGS = [
    b"",
    b"GET /hea",
    GET,
    POST + b'Content-Length: 20\r\n\r\n{"ext',
    POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
]
TOKEN = "a long secret"


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(served: Served, clients: ExitStack, said: bytes = b"") -> socket.socket:
    client = clients.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE))
    client.sendall(said)
    return client


def test_who_says_no_more_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, clients: ExitStack) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.1)
    monkeypatch.setattr(server, "BODY_S", 0.1)
    with serving() as served:
        for said in BEGINNINGS:
            silent = connected(served, clients, said)
            while silent.recv(4096):
                pass  # a refusal, if it was in the midst of a request
        assert served.client.get("/health").status_code == 200


@pytest.mark.parametrize("said", [GET, GET + b"\r\n"], ids=["first", "next"])
def test_a_head_in_drops_gains_no_time(monkeypatch: pytest.MonkeyPatch, clients: ExitStack, said: bytes) -> None:
    """Of the first request, and of a next one on the same connection."""
    monkeypatch.setattr(server, "HEAD_S", 0.3)
    with serving() as served:
        slow = connected(served, clients, said)
        slow.settimeout(0.02)
        gone = False

        def is_gone() -> bool:
            nonlocal gone
            try:
                slow.sendall(b"X")
                gone = gone or slow.recv(4096) == b""
            except TimeoutError:
                return False
            except OSError:
                return True
            return gone

        eventually(is_gone, "an end of its connection")


def test_any_number_of_silent_clients_changes_nothing(monkeypatch: pytest.MonkeyPatch, clients: ExitStack) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 8)
    monkeypatch.setattr(server, "MOST_BUSY", 8)
    monkeypatch.setattr(server, "PATIENCE_S", 0.05)
    with serving() as served:
        silent = [connected(served, clients, said) for said in BEGINNINGS for _ in range(10)]
        for path in ("/health", "/statistics", "/pipe/structure"):
            assert served.client.get(path).status_code == 200

        def open_ones() -> int:
            served.client.get("/health")
            return sum(not is_closed(client) for client in silent)

        eventually(lambda: open_ones() <= 8, "an end of those that were first")
        assert not is_closed(silent[-1]), "the newest may still say something"
        clients.close()


def is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        while client.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_crowd_keeps_out_neither_probes_nor_who_shows_the_token(
    monkeypatch: pytest.MonkeyPatch, clients: ExitStack, token: str | None
) -> None:
    monkeypatch.setattr(server, "MOST_BUSY", 5)
    shown = b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
    with serving(token=token) as served:
        for _ in range(5):
            watcher = connected(served, clients, b"GET /events HTTP/1.1\r\n" + HOST + shown + b"\r\n")
            assert watcher.recv(15) == b"HTTP/1.1 200 OK"
        assert served.client.get("/health").status_code == 200
        assert served.client.get("/ready").status_code == 200
        response = served.client.get("/statistics")
        assert response.status_code == (401 if token else 503)
        assert ("retry-after" in response.headers) == (token is None)
        if token:
            assert served.client.get("/statistics", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        clients.close()
        eventually(lambda: served.client.get("/statistics").status_code != 503, "room")


def test_one_connection_carries_many_requests(clients: ExitStack) -> None:
    with serving() as served:
        client = connected(served, clients)
        request = GET + b"\r\n"
        for sent in (request, request + request, request[:9], request[9:]):
            client.sendall(sent)
        answers = b""
        while answers.count(b'{"status":"ok"}') < 4:
            part = client.recv(4096)
            assert part, answers
            answers += part
