"""Log records to a Cockpit: a real socket.io server, in a process of its own, that writes down what it gets."""

from __future__ import annotations

import base64
import gc
import json
import logging
import os
import re
import signal
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from conftest import RunScript, Script, StartScript
from pipert_shm import MiddleRoutine, Pipe, PipertError, SourceRoutine, Wire, cockpit
from pipert_shm.cockpit import CockpitHandler, get_socket_logger
from pipert_shm.cockpit_text import level_of, plain_text, structure_text
from pipert_shm.logs import as_picture
from routines import Sink
from waiting import eventually

SERVER = """
import json, os, socket
import socketio, uvicorn

# What an object of JavaScript's has of its own: looked up like a handler, it is found, and can't be called as one.
OBJECT = ("constructor toString valueOf hasOwnProperty isPrototypeOf toLocaleString propertyIsEnumerable __proto__ "
          "__defineGetter__ __defineSetter__ __lookupGetter__ __lookupSetter__").split()
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "EXCEPTION", "PIPE_INFRASTRUCTURE")
server = socketio.AsyncServer(async_mode="asgi")

def double_quoted(text):
    return json.loads(text.replace("'", '"'))

def take_log(message):
    assert message["level"] in LEVELS
    page = message["source"].split(".")[-1]
    kind = message["message"].split(":")[0]
    assert kind not in OBJECT
    if kind in ("input", "output"):
        return [page, kind, double_quoted(message["message"].split("'data':")[1].replace("\\n", "", 1))["image_base64"]]
    if kind == "extra_image":
        raise NameError("its handler for these names a socket that it was not given")
    if kind == "fps":
        return [page, kind, float(message["message"].split(":")[1])]
    return [page, "log", message["message"]]

def take_creation(message):
    structure = double_quoted(message["message"])
    assert all(isinstance(event, str) for event in structure["Events"])
    return [[routine["flow_name"], routine["routine_name"], routine["events"]] for routine in structure["Routines"]]

@server.on("*")
async def take(event, session, text):
    try:
        shown = dict(log=take_log, pipe_creation=take_creation)[event](json.loads(text))
    except Exception as error:  # nobody there catches it
        print(json.dumps(["fell", repr(error), text]), flush=True)
        os._exit(1)
    print(json.dumps([event, text, shown]), flush=True)

listener = socket.create_server(("127.0.0.1", {port}))
print("listening", flush=True)
uvicorn.Server(uvicorn.Config(socketio.ASGIApp(server), log_level="error", lifespan="off")).run(sockets=[listener])
"""
PICTURE = re.compile(r"(input|output): , 'data': \{'image_base64': '([A-Za-z0-9+/=]+)'\}")

PIPE = """
import logging
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine, Wire
from pipert_shm.cockpit import get_socket_logger

class Numbers(SourceRoutine):
    number = 0

    def main_logic(self):
        self.number += 1
        if self.number > 3:
            raise EndOfStream
        self._logger.info("number %d", self.number)
        return self.number

class End(DestinationRoutine):
    def main_logic(self, data):
        if data == 2:
            raise ArithmeticError("two")

logger = get_socket_logger("Yard", logging.INFO)
pipe = Pipe(logger=logger, policy="block")
numbers, end = Numbers("numbers"), End("end")
pipe.create_flow("in", False, numbers)
pipe.create_flow("out", False, end)
pipe.link(Wire(numbers, end))
pipe.build()
pipe.notify_event("start")
pipe.join()
logger.warning("the last word")
"""


class Server:
    """A socket.io server that can be killed and started again."""

    def __init__(self, start_script: StartScript) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._start_script = start_script
        self._script: Script | None = None
        self.shown: list[Any] = []  # what it makes of the last event: a page, what stands there, and in which place

    def start(self) -> None:
        self._script = self._start_script(SERVER.replace("{port}", str(self.port)))
        self._script.wait_for_line("listening")

    def kill(self) -> None:
        assert self._script is not None
        self._script.kill()
        self._script.process.wait()

    def event(self) -> tuple[str, dict[str, str]]:
        """The next event, its text decoded. It must be the very JSON that a Cockpit takes."""
        assert self._script is not None
        assert self._script.process.stdout is not None
        event, text, self.shown = json.loads(self._script.process.stdout.readline())
        assert event != "fell", (text, self.shown)
        message = json.loads(text)
        assert list(message) == ["time", "source", "level", "message"]
        assert re.fullmatch(r"\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d\d\d", message["time"])
        return event, message

    def said(self) -> str:
        """The message of the next event, which must be a `log`."""
        event, message = self.event()
        assert event == "log"
        return message["message"]


def is_rate(message: dict[str, str]) -> bool:
    return message["level"] == "PIPE_INFRASTRUCTURE"


MakeLogger = Callable[..., logging.Logger]


@pytest.fixture
def server(start_script: StartScript, monkeypatch: pytest.MonkeyPatch) -> Server:
    one = Server(start_script)
    monkeypatch.setenv("SOCKET_LOGGER_URL", f"http://127.0.0.1:{one.port}/api/socketio")
    return one


@pytest.fixture
def make_logger() -> Iterator[MakeLogger]:
    """`get_socket_logger`, with an end."""
    loggers: list[logging.Logger] = []

    def make(name: str = "Yard", level: int | str = logging.DEBUG) -> logging.Logger:
        loggers.append(get_socket_logger(name, level))
        return loggers[-1]

    yield make
    for logger in loggers:
        for handler in [handler for handler in logger.handlers if isinstance(handler, CockpitHandler)]:
            handler.close()
            logger.removeHandler(handler)


def handler_of(logger: logging.Logger) -> CockpitHandler:
    (handler,) = (handler for handler in logger.handlers if isinstance(handler, CockpitHandler))
    return handler


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


PICTURES = """
import logging
import numpy as np
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine, Wire
from pipert_shm.cockpit import get_socket_logger

class Camera(SourceRoutine):
    def main_logic(self):
        if self.meta.sequence == 3:
            raise EndOfStream
        frame = self.loan((480, 640, 3))
        frame[:] = (10, 20, 250)
        return frame

class End(DestinationRoutine):
    def main_logic(self, data):
        assert not data.flags.writeable

logger = get_socket_logger("Yard", logging.INFO)
pipe = Pipe(logger=logger, policy="block")
camera, end = Camera("camera"), End("end")
pipe.create_flow("in", False, camera)
pipe.create_flow("out", False, end)
pipe.link(Wire(camera, end))
pipe.build()
pipe.notify_event("log_data")
pipe.notify_event("start")
pipe.join()
logger.warning("the last word")
"""


def test_log_data_sends_pictures(server: Server, run_script: RunScript) -> None:
    """Of the first frame that goes out and comes in, and then of a few in a second; there is no line of text of the others."""
    server.start()
    end = run_script(PICTURES)
    assert (end.returncode, end.stderr) == (0, "")
    said: list[dict[str, str]] = []
    while not said or said[-1]["message"] != "the last word":
        said.append(server.event()[1])
    for source, what in (("Yard.in.camera", "output"), ("Yard.out.end", "input")):
        first, *others = [message["message"] for message in said if message["source"] == source and not is_rate(message)]
        found = PICTURE.fullmatch(first)
        assert found, first
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(found[2]), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape == (240, 320, 3)
        assert np.abs(picture.astype(int) - (10, 20, 250)).max() < 6
        assert found[1] == what
        assert others == []  # the next ones come before a watcher could see them


ODD = """
import logging, sys, types
import numpy as np
from pipert_shm import Data, DestinationRoutine, EndOfStream, FrameData, Pipe, SourceRoutine
from pipert_shm.cockpit import get_socket_logger

class Broken(FrameData):
    def get_frame(self):
        raise SystemExit("no frame")

class Unshowable:
    def __repr__(self):
        raise RuntimeError("no repr")

PAYLOADS = {
    "broken": Broken,
    "unshowable": Unshowable,
    "text": lambda: "input: 'image_base64'",
    "tall": lambda: np.zeros((900, 100, 3), np.uint8),
    "detailed": lambda: np.random.default_rng(1).integers(0, 255, (700, 700, 3), np.uint8),
}

class Camera(SourceRoutine):
    def __init__(self, name):
        super().__init__(name)
        self.set_const_fps(200)

    def main_logic(self):
        if self.meta.sequence == 60:
            raise EndOfStream
        return PAYLOADS[self.name]()

class End(DestinationRoutine):
    def main_logic(self, data): ...

logger = get_socket_logger("Yard", logging.INFO)
pipe = Pipe(logger=logger, policy="block")
for name in PAYLOADS:
    pipe.create_flow(name, True, Camera(name), End(f"end of {name}"))
pipe.build()
EXTRA
pipe.notify_event("log_data", specific_flow_routines={name: [name] for name in PAYLOADS})
pipe.notify_event("start")
pipe.join()
assert all(pipe.statistics().routines[f"end of {name}"].received == 60 for name in PAYLOADS)
logger.warning("the last word")
"""


def shown_of(server: Server, script: str, run_script: RunScript) -> dict[str, list[tuple[str, str]]]:
    """What stands on each page after the script: a record of a kind, or a picture."""
    server.start()
    end = run_script(script)
    assert (end.returncode, end.stderr) == (0, "")
    pages: dict[str, list[tuple[str, str]]] = {}
    while True:
        event, message = server.event()
        if message["message"] == "the last word":
            return pages
        if event == "log" and not is_rate(message):
            page, kind, what = server.shown
            pages.setdefault(page, []).append((kind, what))


def test_log_data_of_odd_payloads_ends_nothing_and_shows_what_it_can(server: Server, run_script: RunScript) -> None:
    pages = shown_of(server, ODD.replace("EXTRA", ""), run_script)
    kind, text = pages["broken"][0]
    assert (kind, text.splitlines()[0]) == (
        "log",
        "routine 'broken' of flow 'broken': output can't be logged: SystemExit: no frame",
    )
    assert pages["text"] == [("log", "output = \"input: 'image_base64'\"")]  # once, and not with each message
    assert {kind for kind, _ in pages["unshowable"]} == {"log"}
    for name, shape in (("tall", (320, 35, 3)), ("detailed", (320, 320, 3))):
        assert {kind for kind, _ in pages[name]} == {"output"}
        assert len(pages[name]) < 10  # of 60
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(pages[name][0][1]), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert max(picture.shape) <= max(shape)
        assert abs(picture.shape[0] / picture.shape[1] - shape[0] / shape[1]) < 0.2


def test_log_data_without_opencv_is_an_error_line(server: Server, run_script: RunScript) -> None:
    pages = shown_of(server, 'import sys\nsys.modules["cv2"] = None\n' + ODD.replace("EXTRA", ""), run_script)
    assert pages["tall"][0][1].startswith(
        "routine 'tall' of flow 'tall': output can't be logged: ModuleNotFoundError: import of cv2 halted"
    )


DIES = """
import logging, os
import numpy as np
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine
from pipert_shm.cockpit import get_socket_logger

os.chdir(os.path.dirname(__file__))

class Camera(SourceRoutine):
    left = 3

    def main_logic(self):
        if os.path.exists("died"):
            self.left -= 1
            if not self.left:
                raise EndOfStream
        elif os.path.exists("seen"):
            open("died", "w").close()
            os.kill(os.getpid(), 9)
        return np.zeros((9, 9), np.uint8)

class End(DestinationRoutine):
    def main_logic(self, data):
        open("seen", "w").close()

logger = get_socket_logger("Yard", logging.INFO)
pipe = Pipe(logger=logger, policy="block")
pipe.create_flow("in", True, Camera("camera"), End("end"))
pipe.build()
pipe.notify_event("log_data", specific_routine="end")
pipe.notify_event("start")
pipe.join()
logger.warning("the last word")
"""


def test_log_data_stays_on_over_a_restart(server: Server, run_script: RunScript) -> None:
    lines = shown_of(server, DIES, run_script)["end"]
    died = next(number for number, (_, what) in enumerate(lines) if "killed by signal 9" in str(what))
    assert "input" in {kind for kind, _ in lines[:died]}
    assert "input" in {kind for kind, _ in lines[died:]}


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


def test_pictures_do_not_queue(server: Server, make_logger: MakeLogger, caplog: pytest.LogCaptureFixture) -> None:
    logger = make_logger()
    for number in range(100):
        for what in ("input", "output"):
            logger.info("%s: a frame", what, extra={"image_base64": f"{number:04d}"})
        logger.info("line %d", number)
    eventually(lambda: "listens only once somebody has opened its page" in caplog.text, "a warning that says when it listens")
    server.start()
    shown: list[list[Any]] = []
    while not shown or shown[-1][2] != "line 99":
        server.event()
        shown.append(server.shown)
    assert [one for one in shown if one[1] != "log"] == [["Yard", "input", "0099"], ["Yard", "output", "0099"]]
    assert len(shown) == 102


@pytest.mark.parametrize(
    "frame",
    [np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros(4, np.uint8)],
    ids=lambda frame: f"{frame.dtype} {frame.shape}",
)
def test_what_is_no_picture(frame: np.ndarray) -> None:
    assert as_picture(frame) is None


# ---- rates ---------------------------------------------------------------------------------------


class Ticks(SourceRoutine):
    def __init__(self, name: str, fps: float) -> None:
        super().__init__(name)
        self.set_const_fps(fps)

    def main_logic(self) -> int:
        return self.meta.sequence


class Half(MiddleRoutine):
    """Sends every other message on."""

    def main_logic(self, number: int) -> int | None:
        return None if number % 2 else number


def built(logger: logging.Logger, flow: str, fps: float) -> Pipe:
    """A source, two replicas that divide its messages between them, and a sink."""
    pipe = Pipe(logger=logger, policy="block")
    ticks, half, sink = Ticks("ticks", fps), Half("half"), Sink("sink")
    pipe.create_flow(flow, False, ticks, sink)
    pipe.create_flow("halves", False, half, replicas=2)
    pipe.link(Wire(ticks, half), Wire(half, sink))
    pipe.build()
    return pipe


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


# ---- servers that come and go --------------------------------------------------------------------


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
    assert len([record for record in caplog.records if record.name == "pipert_shm.cockpit"]) == 1


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
    assert "pip install 'pipert_shm[cockpit]'" in end.stderr.splitlines()[-1]
