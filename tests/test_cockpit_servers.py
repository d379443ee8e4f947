"""Cockpits that are killed, started again, or never answer: nobody waits for them, and what is lost is told."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from cockpit_server import MakeLogger, Server, cockpit_of, handler_of, loggers_of_a_cockpit
from conftest import StartScript
from pipert_shm.bridges import cockpit
from waiting import eventually


@pytest.fixture
def server(start_script: StartScript, monkeypatch: pytest.MonkeyPatch) -> Server:
    return cockpit_of(start_script, monkeypatch)


@pytest.fixture
def make_logger() -> Iterator[MakeLogger]:
    with loggers_of_a_cockpit() as make:
        yield make


def test_a_server_that_is_killed_and_started_again(
    server: Server, make_logger: MakeLogger, caplog: pytest.LogCaptureFixture
) -> None:
    server.start()
    logger = make_logger()
    logger.info("%s", {"Routines": [], "Events": []}, extra={"pipe_creation": True})
    logger.info("before")
    assert (server.event()[0], server.said()) == ("pipe_creation", "before")
    server.kill()
    eventually(lambda: "no connection to the Cockpit" in caplog.text, "a loss that is noticed")
    for number in range(10):
        logger.info("meanwhile %d", number)
    server.start()
    event, message = server.event()
    assert (event, message["message"]) == ("pipe_creation", "{'Routines': [], 'Events': []}")
    assert [server.said() for _ in range(10)] == [f"meanwhile {number}" for number in range(10)]
    logger.info("after")
    assert server.said() == "after"
    assert handler_of(logger).lost == 0


def test_no_server_holds_nobody_up_and_losses_are_told(
    server: Server, make_logger: MakeLogger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cockpit, "LONGEST_QUEUE", 100)
    logger = make_logger()
    logger.info("%s", {"Routines": [], "Events": []}, extra={"pipe_creation": True})
    started = time.monotonic()
    for number in range(1000):
        logger.info("number %d", number)
    assert time.monotonic() - started < 5
    assert handler_of(logger).lost == 901  # the creation's place in the queue is one of them, but not the creation
    eventually(lambda: "no connection to the Cockpit" in caplog.text, "a warning")
    server.start()
    assert server.event()[0] == "pipe_creation"
    _, note = server.event()
    assert (note["source"], note["level"], note["message"][:24]) == ("Yard", "WARNING", "901 log records were los")
    assert [server.said() for _ in range(100)] == [f"number {number}" for number in range(900, 1000)]
    assert len([record for record in caplog.records if record.name == "pipert_shm.bridges.cockpit"]) == 1


def test_a_server_that_never_answers_holds_nobody_up(make_logger: MakeLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("SOCKET_LOGGER_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        logger = make_logger()
        started = time.monotonic()
        for number in range(1000):
            logger.info("number %d", number)
        handler = handler_of(logger)
        handler.close()
        assert time.monotonic() - started < cockpit.LAST_WORDS_S + 3
    assert handler._thread is not None
    handler._thread.join()


def test_close_sends_what_waits(server: Server, make_logger: MakeLogger) -> None:
    server.start()
    logger = make_logger()
    logger.info("connected")
    assert server.said() == "connected"
    for number in range(50):
        logger.info("number %d", number)
    handler_of(logger).close()
    assert [server.said() for _ in range(50)] == [f"number {number}" for number in range(50)]
