"""`log_data`: pictures of payloads in a Cockpit, and what it shows of those that are no picture."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from cockpit_server import PICTURE, MakeLogger, Server, cockpit_of, is_rate, loggers_of_a_cockpit
from conftest import RunScript, StartScript
from pipert_shm.flow.payload_log import as_picture
from waiting import eventually


@pytest.fixture
def server(start_script: StartScript, monkeypatch: pytest.MonkeyPatch) -> Server:
    return cockpit_of(start_script, monkeypatch)


@pytest.fixture
def make_logger() -> Iterator[MakeLogger]:
    with loggers_of_a_cockpit() as make:
        yield make


PICTURES = """
import logging
import numpy as np
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine, Wire
from pipert_shm.flow import payload_log
from pipert_shm.bridges.cockpit import get_socket_logger

assert 100_000_000 <= payload_log.BETWEEN_PICTURES_NS <= 500_000_000  # a few in a second
payload_log.BETWEEN_PICTURES_NS = 20_000_000_000  # however slow this machine is

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
from pipert_shm.flow import payload_log
from pipert_shm.bridges.cockpit import get_socket_logger

payload_log.BETWEEN_PICTURES_NS = 20_000_000_000  # however slow this machine is

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
        assert [kind for kind, _ in pages[name]] == ["output"]  # of 60
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
from pipert_shm.bridges.cockpit import get_socket_logger

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
