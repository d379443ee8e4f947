"""Log records as JSON."""

from __future__ import annotations

import io
import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

from pipert_shm import DestinationRoutine, JsonFormatter, Pipe
from routines import Items, chain


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
    before = datetime.now(timezone.utc)
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
