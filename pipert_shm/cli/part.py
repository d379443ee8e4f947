"""Runs an agent's part of a pipeline: `python -m pipert_shm.cli.part`, which agents start.

It lives on without its agent. What came of it stands in the outcome's file, which the next agent reads.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pipert_shm.applying.apply import await_setup
from pipert_shm.cli.run import load, run
from pipert_shm.errors import ConfigError, PipertError, describe
from pipert_shm.pipe import Pipe
from pipert_shm.system.streams import say

OK, FAILED, USAGE = 0, 1, 2


def main(arguments: list[str]) -> int:
    """Runs or checks a part; the exit status.

    :param arguments: `FILE OUTCOME LOCK READY`: the pipeline's file, where its outcome is written, and the numbers of two
        descriptors: the lock that is held as long as any process of the pipe lives, and one that gets a byte when all of its
        routines run. Or `--check FILE OUTCOME`.
    """
    if len(arguments) == 3 and arguments[0] == "--check":
        file, outcome = map(Path, arguments[1:])
        return _told(outcome, lambda: _check(file))
    if len(arguments) != 4:
        say("an agent calls this: FILE OUTCOME LOCK READY")
        return USAGE
    file, outcome = map(Path, arguments[:2])
    lock, ready = map(int, arguments[2:])
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)

    def up(pipe: Pipe) -> None:
        _write(outcome, {"state": "up", "pipe_id": await_setup(pipe)})
        os.write(ready, b"u")

    return _told(outcome, lambda: run(file, on_started=up))


def _check(file: Path) -> int:
    load(file)
    return OK


def _told(outcome: Path, act: object) -> int:
    """Does it, and writes what came of it."""
    assert callable(act)
    try:
        status: int = act()
    except ConfigError as error:
        _write(outcome, {"state": "failed", "error": str(error), "faults": [[one.field, one.message] for one in error.faults]})
    except (ImportError, OSError, PipertError, ValueError) as error:
        _write(outcome, {"state": "failed", "error": str(error)})
    except BaseException as error:
        _write(outcome, {"state": "failed", "error": describe(error)})
        raise
    else:
        _write(outcome, {"state": "ended" if status == OK else "stopped"})
        return status
    say(f"pipert-shm: {json.loads(outcome.read_text())['error']}")
    return FAILED


def _write(outcome: Path, told: dict[str, object]) -> None:
    part = outcome.with_name(f".{outcome.name}.new")
    part.write_text(json.dumps(told), encoding="utf-8")
    part.replace(outcome)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
