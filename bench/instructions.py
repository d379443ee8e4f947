"""Instructions of one send and of one receive, the Python around the C included: a figure that no load on the machine moves.

`python -m bench.instructions` runs itself under `valgrind --tool=callgrind` three times: with nothing sent, with some messages
sent, and with the same received; the differences are the figures. Both ends are warm, nobody sleeps and no system call is made.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MESSAGES = 200
CAPACITY = 256
WARM_UP = 20
SHAPE = (64, 64, 3)
# Without threads of numpy's, which spin a while when they are made: how long is anybody's guess.
STEADY = {"PYTHONHASHSEED": "0", "PYTHONMALLOC": "pymalloc", "OPENBLAS_NUM_THREADS": "1"}


def exchange(sent: int, received: int) -> None:
    """What is counted: frames that lie ready, each in a slot of its own."""
    from bench.ends import CAMERA, NAMES, open_ends
    from pipert_shm.data import Meta

    with open_ends(capacity=CAPACITY, slots=2 * MESSAGES, borrow_cap=2 * MESSAGES) as ends:
        frames = [ends.frame(SHAPE) for _ in range(WARM_UP + MESSAGES)]

        def send(numbers: range) -> None:
            for number in numbers:
                ends.outbox.send([frames[number]], Meta(NAMES, CAMERA, number))

        def receive(count: int) -> None:
            for _ in range(count):
                if ends.receive().shape != SHAPE:
                    raise RuntimeError("a frame that was not sent was received")

        send(range(WARM_UP))
        receive(WARM_UP)
        send(range(WARM_UP, WARM_UP + sent))
        receive(received)
        frames.clear()  # a ring is unmapped when nothing of it is held


def count(sent: int, received: int) -> int:
    """Instructions of a process that does so much, whole."""
    command = [
        "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-m", "bench.instructions",
        str(sent), str(received),
    ]  # fmt: skip
    told = subprocess.run(
        command,
        cwd=Path(__file__).parent.parent,
        env=os.environ | STEADY,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Collected : (\d+)", told.stderr)
    if told.returncode or found is None:
        raise RuntimeError(f"valgrind ended with {told.returncode}: {told.stderr[-2000:]}")
    return int(found[1])


def main() -> None:
    """Prints the two figures."""
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed: apt-get install valgrind")
    with ThreadPoolExecutor() as pool:  # side by side: no load changes what is counted
        none, sent, both = pool.map(count, (0, MESSAGES, MESSAGES), (0, 0, MESSAGES))
    print(f"instructions per send:    {(sent - none) / MESSAGES:,.0f}")
    print(f"instructions per receive: {(both - sent) / MESSAGES:,.0f}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        exchange(int(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
