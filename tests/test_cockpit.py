"""Log records to a Cockpit: what is sent of a record, and where the address stands."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cockpit_server import PIPE, MakeLogger, Server, built, cockpit_of, is_rate, loggers_of_a_cockpit
from conftest import RunScript, StartScript
from pipert_shm import PipertError
from pipert_shm.bridges.cockpit import get_socket_logger
from pipert_shm.bridges.cockpit_text import level_of, plain_text, structure_text
from pipert_shm.extras import to_install


@pytest.fixture
def server(start_script: StartScript, monkeypatch: pytest.MonkeyPatch) -> Server:
    return cockpit_of(start_script, monkeypatch)


@pytest.fixture
def make_logger() -> Iterator[MakeLogger]:
    with loggers_of_a_cockpit() as make:
        yield make


# ---- what is sent --------------------------------------------------------------------------------


def test_a_record_is_an_event_of_the_very_form_that_a_cockpit_takes(server: Server, make_logger: MakeLogger) -> None:
    server.start()
    logger = make_logger()
    record = logger.makeRecord("Yard.camera.lens", logging.INFO, __file__, 1, 'zoom "%s"\n%s', ("2²", "there"), None)
    record.created = time.mktime((2026, 11, 24, 8, 5, 9, 0, 0, -1)) + 0.25
    logger.handle(record)
    assert server.event() == (
        "log",
        {"time": "24-11-26 08:05:09.250", "source": "Yard.camera.lens", "level": "INFO", "message": 'zoom "2²"\nthere'},
    )


def test_records_of_children_and_of_the_level_are_sent(server: Server, make_logger: MakeLogger) -> None:
    server.start()
    logger = make_logger(level="INFO")
    logger.debug("not this")
    logger.info("this")
    logger.getChild("flow.routine").debug("nor this")
    logger.getChild("flow.routine").info("and this")
    assert [(message["source"], message["message"]) for _, message in (server.event(), server.event())] == [
        ("Yard", "this"),
        ("Yard.flow.routine", "and this"),
    ]


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (1, "PIPE_INFRASTRUCTURE"),
        (5, "PIPE_INFRASTRUCTURE"),
        (logging.DEBUG, "DEBUG"),
        (logging.INFO, "INFO"),
        (25, "INFO"),
        (logging.WARNING, "WARNING"),
        (logging.ERROR, "ERROR"),
        (logging.CRITICAL, "ERROR"),
    ],
)
def test_only_levels_that_a_cockpit_knows_are_sent(level: int, name: str) -> None:
    assert level_of(logging.makeLogRecord({"levelno": level})) == name


def test_an_exception_comes_with_its_traceback(server: Server, make_logger: MakeLogger) -> None:
    server.start()
    logger = make_logger()
    try:
        raise ArithmeticError("two")
    except ArithmeticError:
        logger.exception("it failed")
    logger.handle(logging.makeLogRecord({"msg": "from a flow", "levelno": logging.ERROR, "exc_text": "Traceback …"}))
    for first, last in (("it failed", "ArithmeticError: two"), ("from a flow", "Traceback …")):
        _, message = server.event()
        assert message["level"] == "EXCEPTION"
        assert (message["message"].splitlines()[0], message["message"].splitlines()[-1]) == (first, last)


def test_what_only_looks_like_a_picture_is_told_apart(server: Server, make_logger: MakeLogger) -> None:
    server.start()
    logger = make_logger()
    for text in ("input: uint8 array (4, 4, 3)", "output: 1: 2", "extra_image", "fps: 29.9", "fps: many", "outputs: 2"):
        logger.info("%s", text)
    said = [server.said() for _ in range(6)]
    assert said == ["input = uint8 array (4, 4, 3)", "output = 1: 2", "extra_image =", "fps: 29.9", "fps = many", "outputs: 2"]


def test_the_creation_of_a_pipe_is_an_event_of_its_own(server: Server, make_logger: MakeLogger) -> None:
    server.start()
    structure = {"Routines": [{"flow_name": "in", "routine_name": "lens", "events": ["zoom"]}], "Events": ["start", "stop"]}
    logger = make_logger()
    logger.info("before")
    assert server.said() == "before"
    logger.info("%s", structure, extra={"pipe_creation": True})
    event, message = server.event()
    assert event == "pipe_creation"
    assert (message["source"], message["level"]) == ("Yard", "INFO")
    assert json.loads(message["message"].replace("'", '"')) == structure  # as the Cockpit reads it
    logger.info("after")
    assert server.said() == "after"


def test_a_pipe_sends_its_creation_and_its_routines_records(server: Server, run_script: RunScript) -> None:
    server.start()
    end = run_script(PIPE)
    assert (end.returncode, end.stderr) == (0, "")
    events: list[tuple[str, dict[str, str]]] = []
    while not events or events[-1][1]["message"] != "the last word":
        events.append(server.event())
    event, creation = events[0]
    assert event == "pipe_creation"
    assert json.loads(creation["message"].replace("'", '"'))["Routines"][1] == {
        "flow_name": "out",
        "routine_name": "end",
        "events": ["start", "stop", "unlink"],
    }
    said = [message for event, message in events if event == "log" and not is_rate(message)]
    assert [m["message"] for m in said if m["source"] == "Yard.in.numbers"] == ["number 1", "number 2", "number 3"]
    (failure,) = [m for m in said if m["source"] == "Yard.out.end"]
    assert failure["level"] == "EXCEPTION"
    assert failure["message"].endswith("ArithmeticError: two")


@pytest.mark.parametrize(
    "text",
    ["input", "output", "extra_image", "fps", "input: x", "extra_image: {'name': 'n', 'image_base64': 'x'}", "fps: fast",
     "output: , 'data': {'image_base64': 'a\nb\n'}", "__proto__", "toString: 1", "constructor", "'", '"', "\n", ":", ""],
)  # fmt: skip
def test_no_text_of_a_record_fells_a_cockpit(text: str) -> None:
    said = plain_text(text)
    assert said.partition(":")[0] not in ("input", "output", "extra_image", "fps", "__proto__", "toString", "constructor")
    assert [character for character in said if character not in " :="] == [
        character for character in text if character not in " :="
    ]


@pytest.mark.parametrize("name", ["Anna's", 'the "old" one', "back\\slash", "\\\"'", "ü", "{'a': 1}", "new\nline"])
def test_any_name_can_be_told(name: str) -> None:
    structure = {"Routines": [{"flow_name": name, "routine_name": name, "events": [name]}], "Events": []}
    assert json.loads(structure_text(structure).replace("'", '"')) == structure


def test_copies_log_on_the_page_of_their_routine_and_deaths_on_those_of_their_flow(
    server: Server, make_logger: MakeLogger
) -> None:
    server.start()
    logger = make_logger(level=logging.INFO)
    pipe = built(logger, "first", fps=1)
    try:
        logger.getChild("halves#1.half#1").info("of a copy")
        os.kill(pipe.statistics().flows["first"].pid, signal.SIGKILL)
        found: set[tuple[str, str]] = set()
        while len(found) < 3:
            _, message = server.event()
            if message["message"] == "of a copy" or "killed by signal 9" in message["message"]:
                found.add((server.shown[0], message["message"][:9]))
        assert found == {("half", "of a copy"), ("ticks", "flow 'fir"), ("sink", "flow 'fir")}
    finally:
        pipe.join(to_kill=True)


# ---- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ['SOCKET_LOGGER_URL="{url}"', "export SOCKET_LOGGER_URL = '{url}'", "A=1\nSOCKET_LOGGER_URL={url}\n"]
)
def test_the_address_may_stand_in_a_file(
    server: Server, make_logger: MakeLogger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.delenv("SOCKET_LOGGER_URL")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(line.format(url=f"http://127.0.0.1:{server.port}/api/socketio"))
    server.start()
    make_logger().info("found")
    assert server.said() == "found"


def test_the_environment_comes_before_the_file(
    server: Server, make_logger: MakeLogger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("SOCKET_LOGGER_URL=http://127.0.0.1:1")
    server.start()
    make_logger().info("found")
    assert server.said() == "found"


def test_no_address_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOCKET_LOGGER_URL", raising=False)
    with pytest.raises(PipertError, match="SOCKET_LOGGER_URL"):
        get_socket_logger("Yard", logging.INFO)


def test_asking_again_changes_the_level_and_nothing_else(server: Server, make_logger: MakeLogger) -> None:
    server.start()
    make_logger(level=logging.ERROR)
    logger = make_logger(level=logging.INFO)
    logger.info("once")
    logger.info("next")
    assert [server.said(), server.said()] == ["once", "next"]


def test_without_socketio_the_message_says_what_to_install(run_script: RunScript, server: Server) -> None:
    end = run_script("import sys\nsys.modules['socketio'] = None\n" + PIPE)
    assert end.returncode == 1
    assert to_install("cockpit") in end.stderr.splitlines()[-1]
