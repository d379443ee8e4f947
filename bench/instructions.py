"""Instructions of one send and of one receive, with a `main_logic` in Python: a figure that no load on the machine moves.

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
from contextlib import suppress
from pathlib import Path

import numpy as np

MESSAGES = 1000
CAPACITY = 1024
WARM_UP = 20
SHAPE = (64, 64, 3)
# Without threads of numpy's, which spin a while when they are made: how long is anybody's guess.
STEADY = {"PYTHONHASHSEED": "0", "PYTHONMALLOC": "pymalloc", "OPENBLAS_NUM_THREADS": "1"}


def exchange(sent: int, received: int) -> None:
    """What is counted: frames that lie ready, each in a slot of its own."""
    from pipert_shm.data import Meta

    from .ends import CAMERA, NAMES, open_ends

    with open_ends(capacity=CAPACITY, slots=2 * MESSAGES, borrow_cap=2 * MESSAGES) as ends:
        frames = [ends.frame(SHAPE) for _ in range(2 + 2 * WARM_UP + MESSAGES)]
        left = wanted = 0

        def camera() -> np.ndarray:
            if len(frames) == left:
                raise EOFError
            return frames.pop()

        def screen(frame: np.ndarray) -> None:
            nonlocal wanted
            wanted -= 1
            if not wanted:
                raise EOFError

        def send(count: int) -> None:
            nonlocal left
            left = len(frames) - count
            with suppress(EOFError):
                ends.sender.hot.run(camera, True, ends.outbox.ring, 0, 0)
            if len(frames) != left:
                raise RuntimeError("a frame was not sent")

        def receive(count: int) -> None:
            nonlocal wanted
            wanted = count
            with suppress(EOFError):
                ends.receiver.hot.run(screen, False, 0, 0, 0)
            if wanted or ends.receiver.hot.take_payload().shape != SHAPE:
                raise RuntimeError(f"{wanted} frames were not received")

        for _ in range(2):  # by Python, which teaches both ends what such an array is
            ends.outbox.send([frames.pop()], Meta(NAMES, CAMERA, 0))
            ends.receive()
        for _ in range(2):
            send(WARM_UP)
            receive(WARM_UP)
        if sent:
            send(sent)
        if received:
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
    # Once uncounted, so that the modules are compiled: else the first of those below would be counted while it compiles them.
    subprocess.run([sys.executable, "-m", "bench.instructions", "0", "0"], cwd=Path(__file__).parent.parent, check=True)
    with ThreadPoolExecutor() as pool:  # side by side: no load changes what is counted
        none, sent, both = pool.map(count, (0, MESSAGES, MESSAGES), (0, 0, MESSAGES))
    print(f"instructions per send:    {(sent - none) / MESSAGES:,.0f}")
    print(f"instructions per receive: {(both - sent) / MESSAGES:,.0f}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        exchange(int(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
