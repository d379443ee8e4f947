"""The rates of a running pipe in a Cockpit."""

from __future__ import annotations

import gc
import logging
import re
import time
import weakref
from collections.abc import Iterator

import pytest

from cockpit_server import MakeLogger, Server, built, cockpit_of, handler_of, is_rate, loggers_of_a_cockpit
from conftest import StartScript
from waiting import eventually


@pytest.fixture
def server(start_script: StartScript, monkeypatch: pytest.MonkeyPatch) -> Server:
    return cockpit_of(start_script, monkeypatch)


@pytest.fixture
def make_logger() -> Iterator[MakeLogger]:
    with loggers_of_a_cockpit() as make:
        yield make


def rates(server: Server, count: int) -> dict[str, list[float]]:
    """So many rates of each routine, by source; what else comes is passed over."""
    found: dict[str, list[float]] = {}
    while len(found) < 3 or min(map(len, found.values())) < count:
        event, message = server.event()
        if event == "log" and is_rate(message):
            told = re.fullmatch(r"fps: (\d+\.\d)", message["message"])
            assert told, message
            found.setdefault(message["source"], []).append(float(told[1]))
    return found


def test_the_rates_of_a_running_pipe(server: Server, make_logger: MakeLogger, caplog: pytest.LogCaptureFixture) -> None:
    server.start()
    logger = make_logger(level=logging.INFO)
    pipe = built(logger, "first", fps=40)
    assert set(map(tuple, rates(server, 1).values())) == {(0.0,)}  # it is not started
    started = time.monotonic()
    pipe.notify_event("start")
    told = rates(server, 4)
    assert 2 < time.monotonic() - started < 8  # about one a second
    # The middle ones: others are in part of the time before the start.
    for source, fps in (("Yard.first.ticks", 40), ("Yard.halves.half", 40), ("Yard.first.sink", 20)):
        assert fps * 0.6 < told.pop(source)[-1] < fps * 1.2, source
    assert told == {}
    pipe.notify_event("stop")
    eventually(lambda: {r.state for r in pipe.statistics().routines.values()} == {"stopped"}, "a paused pipe")
    rates(server, 2)  # in part of the time before
    assert set(map(tuple, rates(server, 1).values())) == {(0.0,)}
    pipe.join(to_kill=True)
    assert "fps" not in caplog.text  # other handlers get none


def test_rates_end_with_the_pipe_and_a_second_one_has_its_own(server: Server, make_logger: MakeLogger) -> None:
    server.start()
    logger = make_logger(level=logging.INFO)
    pipe = built(logger, "first", fps=40)
    pipe.notify_event("start")
    rates(server, 1)
    pipe.join(to_kill=True)
    handler = handler_of(logger)
    end = time.monotonic()
    eventually(lambda: handler._look_at > end + 1.5, "a look at the ended pipe")  # it says when the next is due
    logger.info("the end")
    before = ""
    while (message := server.event()[1]["message"]) != "the end":
        before = message
    assert before == "fps: 0.0"  # the last that it has of each
    logger.info("nothing but this")
    assert server.said() == "nothing but this"

    ended = weakref.ref(pipe)
    del pipe
    eventually(lambda: gc.collect() >= 0 and ended() is None, "an end of the pipe's memory")

    second = built(logger, "second", fps=20)
    second.notify_event("start")
    told = rates(server, 3)
    assert set(told) == {"Yard.second.ticks", "Yard.halves.half", "Yard.second.sink"}
    assert 12 < told["Yard.second.ticks"][-1] < 24
    second.join(to_kill=True)
