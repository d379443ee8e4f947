"""A Cockpit: a real socket.io server, in a process of its own, that writes down what it gets; and what logs to it."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from conftest import Script, StartScript
from pipert_shm import MiddleRoutine, Pipe, SourceRoutine, Wire
from pipert_shm.bridges.cockpit import CockpitHandler, get_socket_logger
from routines import Sink

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
from pipert_shm.bridges.cockpit import get_socket_logger

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


def cockpit_of(start_script: StartScript, monkeypatch: pytest.MonkeyPatch) -> Server:
    one = Server(start_script)
    monkeypatch.setenv("SOCKET_LOGGER_URL", f"http://127.0.0.1:{one.port}/api/socketio")
    return one


@contextmanager
def loggers_of_a_cockpit() -> Iterator[MakeLogger]:
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
