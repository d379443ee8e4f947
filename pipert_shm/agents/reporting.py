"""What the other hosts' parts of a pipe do, from a process beside the one that runs a part itself.

That one must have no session of Zenoh, since it forks flows that open theirs. So it starts
`python -m pipert_shm.agents.reporting FILE HOST…`, which prints a line of JSON each second, until its parent is gone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from pipert_shm.agents.asking import Asker
from pipert_shm.agents.reaching import hub_from
from pipert_shm.errors import PipertError
from pipert_shm.pipeline_file.loading import PipelineFile

LOOK_S = 1.0
PATIENCE_S = 3.0  # that a host may take to answer


def look(asker: Asker, pipe: str, known: set[str]) -> dict[str, dict[str, Any]]:
    """What each host that runs a part of the pipe tells: its counts, or why there are none.

    :param known: hosts that run a part, as far as it was heard; it is brought up to date.
    """
    about = asker.hosts()
    known |= {host for host, its in about.items() if pipe in its["pipes"]}
    known -= {host for host, its in about.items() if pipe not in its["pipes"]}
    answers = asker.ask_all({host: {"kind": "counts", "pipe": pipe} for host in known}, PATIENCE_S)
    return {host: {"problem": answer.error, "counts": answer.value} for host, answer in sorted(answers.items())}


def main(path: str, *hosts: str) -> None:
    """Prints what there is to tell, until the parent is gone."""
    parent, pipe, known = os.getppid(), PipelineFile(path).pipe_name, set(hosts)
    while os.getppid() == parent:
        try:
            with Asker(hub_from(path)) as asker:
                while os.getppid() == parent:
                    print(json.dumps(look(asker, pipe, known)), flush=True)
                    time.sleep(LOOK_S)
        except PipertError as error:  # the hub is down
            unknown = {host: {"problem": str(error), "counts": None} for host in sorted(known)}
            print(json.dumps(unknown), flush=True)
            time.sleep(LOOK_S)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BrokenPipeError:  # the parent is gone
        os._exit(0)
