"""Has other hosts apply a file, from a process beside the one that runs a part itself.

That one must have no session of Zenoh, since it forks flows that open theirs. So it starts
`python -m pipert_shm.agents.beside`, which takes a question as JSON on standard input, and answers so on standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipert_shm.agents.asking import Asker
from pipert_shm.agents.rollout import Rollout, finish, lines_of, roll_out, take_back, text_here
from pipert_shm.agents.splitting import hub_by
from pipert_shm.errors import ConfigError, Fault, PipertError
from pipert_shm.pipeline_file.loading import PipelineFile


@dataclass(frozen=True, slots=True)
class Brought:
    """What other hosts have applied.

    Attributes:
        text: the part of this host; None if no flow is for it.
        wires: of each wire of that part, the number that it has in the whole file.
        lines: what was done, in words.
    """

    path: str
    whole: str
    pipe: str
    done: dict[str, str]
    leaving: list[str]
    text: str | None
    wires: list[int]
    lines: list[str]

    def take_back(self) -> None:
        """Has each host go back to what it had. What can't be undone is told on standard error.

        :raises PipertError: when the hub can't be reached.
        """
        _asked("take_back", self.path, self.whole, pipe=self.pipe, done=self.done)

    def finish(self) -> list[str]:
        """Ends the parts of hosts that the file no longer names, when all others run what it says. What was not done, in words.

        :raises PipertError: when the hub can't be reached.
        """
        if not self.leaving:
            return []
        lines: list[str] = _asked("finish", self.path, self.whole, pipe=self.pipe, leaving=self.leaving)["lines"]
        return lines


def bring(path: str, text: str, made_by: str | None = None) -> Brought:
    """Has the other hosts apply a file, or leaves all as it is.

    :param path: what errors call the file; code is looked for beside it.
    :param text: its content.
    :param made_by: the path of the program that it stands for, if that is none of a file.
    :raises ConfigError: when a host can't, and all are as they were before.
    :raises PipertError: when the hub can't be reached, or a package is missing.
    """
    return Brought(path, text, **_asked("bring", path, text, made_by=made_by))


def _asked(what: str, path: str, text: str, **more: Any) -> Any:
    """Asks the process beside."""
    process = subprocess.run(
        [sys.executable, "-m", "pipert_shm.agents.beside"],
        input=json.dumps({"what": what, "path": path, "text": text, **more}),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # it compares the code that this one has
    )
    try:
        answer = json.loads(process.stdout)
    except ValueError:
        raise PipertError(f"the process that asks the other hosts ended with status {process.returncode}") from None
    if "faults" in answer:
        raise ConfigError([Fault(**fault) for fault in answer["faults"]])
    if "error" in answer:
        raise PipertError(answer["error"])
    return answer


# ---- the process beside --------------------------------------------------------------------------


def main() -> None:
    """Answers one question."""
    question = json.load(sys.stdin)
    try:
        file = PipelineFile(question["path"], question["text"])
        assert file.settings.hosts is not None
        with Asker(hub_by(file.settings.hosts, file.fault)) as asker:
            answer = _KINDS[question["what"]](file, asker, question)
    except ConfigError as error:
        answer = {"faults": [asdict(fault) for fault in error.faults]}
    except (PipertError, ImportError, OSError) as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


def _bring(file: PipelineFile, asker: Asker, question: Mapping[str, Any]) -> dict[str, Any]:
    rollout = roll_out(file, asker, made_by=question["made_by"])
    if rollout.here is None:
        finish(asker, rollout)
    return {
        "pipe": rollout.pipe,
        "done": rollout.done,
        "leaving": [] if rollout.here is None else rollout.leaving,
        "text": None if rollout.here is None else text_here(file, rollout),
        "wires": [] if rollout.here is None else rollout.here.wires,
        "lines": lines_of(rollout),
    }


def _take_back(file: PipelineFile, asker: Asker, question: Mapping[str, Any]) -> dict[str, Any]:
    for failure in take_back(asker, Rollout(question["pipe"], done=question["done"])):
        print(f"pipert-shm: not put back: {failure}", file=sys.stderr)
    return {}


def _finish(file: PipelineFile, asker: Asker, question: Mapping[str, Any]) -> dict[str, Any]:
    ending = Rollout(question["pipe"], leaving=question["leaving"])
    finish(asker, ending)
    return {"lines": lines_of(ending)}


_KINDS: dict[str, Callable[[PipelineFile, Asker, Mapping[str, Any]], dict[str, Any]]] = {
    "bring": _bring,
    "take_back": _take_back,
    "finish": _finish,
}


if __name__ == "__main__":
    main()
