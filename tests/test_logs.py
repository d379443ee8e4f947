"""Log records: as JSON, and of a program that has not configured logging."""

from __future__ import annotations

import errno
import io
import json
import logging
import re
import sys
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from conftest import RunScript
from pipert_shm import START_EVENT_NAME, DestinationRoutine, JsonFormatter, Pipe
from pipert_shm.system import calls
from routines import Items, Sink, chain
from waiting import eventually


class Fails(DestinationRoutine):
    def main_logic(self, data: Any) -> None:
        raise ValueError(f"a mishap\nwith {data}")


def test_the_records_of_a_pipe_as_lines_of_json() -> None:
    logger, stream = logging.getLogger("json-pipe"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.propagate = False
    pipe = Pipe(logger=logger, policy="block")
    chain(pipe, Items("numbers", ["ü"]), Fails("fails"))
    pipe.build()
    pid = pipe.statistics().flows["fails"].pid
    before = datetime.now(UTC)
    pipe.notify_event("start")
    pipe.join()
    logger.removeHandler(handler)
    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert list(told) == ["time", "level", "logger", "message", "process", "flow", "routine", "sequence", "exception"]
    assert abs(datetime.fromisoformat(told["time"]) - before).total_seconds() < 60
    assert (told["level"], told["logger"], told["process"]) == ("ERROR", "json-pipe.fails.fails", pid)
    assert (told["flow"], told["routine"], told["sequence"]) == ("fails", "fails", 0)
    assert told["exception"].endswith("ValueError: a mishap\nwith ü")
    assert '"a mishap\\nwith ü' not in line
    assert "ü" in line


def formatted(record: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(record)
    assert "\n" not in line
    told: dict[str, Any] = json.loads(line)
    return told


def test_extras_and_what_json_has_no_form_for() -> None:
    logger = logging.getLogger("json")
    record = logger.makeRecord(
        "json", logging.WARNING, "f", 1, "%d%%", (5,), None, extra={"camera": 3, "path": {1, 2}, "flow": None}
    )
    told = formatted(record)
    assert (told["message"], told["camera"], told["path"]) == ("5%", 3, "{1, 2}")
    assert "flow" not in told
    assert set(told) == {"time", "level", "logger", "message", "process", "camera", "path"}


def test_an_exception_of_this_process() -> None:
    try:
        raise KeyError("here")
    except KeyError:
        record = logging.getLogger("json").makeRecord("json", logging.ERROR, "f", 1, "oh", (), sys.exc_info())
    assert formatted(record)["exception"].endswith("KeyError: 'here'")


TALKS = """
import logging
from pipert_shm import APIWrapper, DestinationRoutine, EndOfStream, Pipe, SourceRoutine

class Talks(SourceRoutine):
    def main_logic(self):
        self._logger.plog("below")
        self._logger.debug("below")
        self._logger.info("a line")
        raise EndOfStream

class Quiet(DestinationRoutine):
    def main_logic(self, data): ...

pipe = Pipe()
pipe.create_flow("flow", True, Talks("talks"), Quiet("quiet"))
BEFORE
pipe.build()
AFTER
server = APIWrapper("127.0.0.1", 0, pipe).run()  # which has a handler of its own for what it tells its clients
pipe.notify_event("start")
pipe.join()
pipe.logger.info("not a routine's")
pipe.logger.warning("of the pipe")
"""
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ("", "", [f"{STAMP} INFO Pipe.flow.talks: a line", "of the pipe"]),
        ("logging.basicConfig(level='WARNING', format='%(name)s: %(message)s')", "", ["Pipe: of the pipe"]),
        ("", "logging.basicConfig(level='ERROR', format='%(name)s: %(message)s')", ["Pipe.flow.talks: a line", "Pipe: .*"]),
        ("logging.getLogger('Pipe').addHandler(logging.NullHandler())", "", []),
    ],
    ids=["not configured", "configured", "configured after build", "a handler of the program's"],
)
def test_what_is_written_to_the_terminal(run_script: RunScript, before: str, after: str, lines: list[str]) -> None:
    end = run_script(TALKS.replace("BEFORE", before).replace("AFTER", after))
    assert end.returncode == 0
    said = [line for line in end.stderr.splitlines() if "the control listens" not in line and "not a routine" not in line]
    assert len(said) == len(lines), end.stderr
    assert all(map(re.fullmatch, lines, said)), end.stderr


class Unsound(logging.Handler):
    """Raises on each record, or calls the pipe when the launcher can't be heard."""

    def __init__(self, calls_the_pipe: bool) -> None:
        super().__init__()
        self.calls_the_pipe = calls_the_pipe
        self.pipe: Pipe | None = None
        self.heard = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.heard += "can't be heard" in record.getMessage()
        if not self.calls_the_pipe:
            raise RuntimeError("on purpose")
        if self.pipe is not None and "can't be heard" in record.getMessage():
            self.pipe.notify_event("anything")


@pytest.mark.parametrize("calls_the_pipe", [False, True])
def test_what_the_parent_logs_runs_no_handler_on_the_thread_that_hears_the_launcher(
    calls_the_pipe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moment without memory for a message is logged. A handler that fails, or calls the pipe, must not stop that thread."""
    logger = logging.getLogger("unsound")
    logger.propagate = False
    logger.handlers = [handler := Unsound(calls_the_pipe)]
    handler.pipe = pipe = Pipe(logger=logger, policy="block", grace_period=1)
    chain(pipe, Items("items", range(20)), Sink("sink"))
    receive, refused = calls.receive, threading.Event()

    def refuse_once(*arguments: Any) -> Any:
        if threading.current_thread().name.startswith("pipe-") and not refused.is_set():
            refused.set()
            raise OSError(errno.ENOBUFS, "no memory")
        return receive(*arguments)

    pipe.build()
    with monkeypatch.context() as patch:
        patch.setattr(calls, "receive", refuse_once)
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    assert refused.is_set()
    eventually(lambda: handler.heard == 1, "the record")
    logger.handlers, handler.pipe = [], None
