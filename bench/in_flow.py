"""What a hand-over within a flow costs, both ends in this process, by kind of payload; beside another version of the package.

`python -m bench.in_flow [--against DIRECTORY] [--instructions]` runs each kind in a process of its own, with this tree and the
other in turn, and prints medians of rounds. With `--instructions` valgrind counts instead, which no load on the machine moves.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent.parent
SHAPE = (1080, 1920, 3)
SLOTS = 24
READY = 6
ROUNDS = 5
STEADY = {"PYTHONHASHSEED": "0", "PYTHONMALLOC": "pymalloc", "OPENBLAS_NUM_THREADS": "1"}


@dataclass
class Reading:
    """What a detector sends."""

    frame: np.ndarray
    boxes: np.ndarray
    labels: list[str]


# What is sent: made of a frame that lies ready in a slot, and of a plain array.
KINDS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "a loaned frame": lambda ready, plain: ready,
    "a crop of one": lambda ready, plain: ready[100:400, 200:600],
    "a number": lambda ready, plain: 5,
    "a text": lambda ready, plain: "so many",
    "a small dict": lambda ready, plain: {"camera": 3, "label": "person"},
    "a dict with a loaned frame": lambda ready, plain: {"frame": ready, "camera": 3},
    "a dataclass with a loaned frame and 50 boxes": lambda ready, plain: Reading(ready, plain[0, :50].copy(), ["person"] * 50),
    "a plain frame": lambda ready, plain: plain,
    "a dict with a plain frame": lambda ready, plain: {"frame": plain, "camera": 3},
}  # fmt: skip


def exchange(kind: str, receivers: int, messages: int) -> float:
    """Processor time, µs, per message that a sender hands to `receivers` routines of its flow, which take it at once."""
    from pipert_shm import SharedMemoryTransmitter, binding
    from pipert_shm.data import Meta
    from pipert_shm.graph.model import EdgePlan
    from pipert_shm.message.inbox import Inbox
    from pipert_shm.message.outbox import Outbox
    from pipert_shm.shm.segments import ControlSegment, unlink_pipe

    names = ("sender", *(f"receiver{number}" for number in range(receivers)))
    size = binding.ControlSize(flows=1, routines=1 + receivers, edges=receivers, incarnations=receivers, cells=16)
    segment = ControlSegment.create(size, 1 << 30)
    tables: dict[int, Any] = {}
    try:
        outbox = Outbox(segment, binding.Port(segment.process, 0), 0, "sender", SLOTS, 8, tables)
        inboxes = []
        for number in range(receivers):
            edge = EdgePlan(number, 0, 1 + number, "block", 4, None, SharedMemoryTransmitter(), local=True)
            edge.format(binding.EdgeRecord(segment.process, number), frozenset({0}))
            binding.Incarnation(segment.process, number).format(number, 0)
            outbox.add(edge, number)
            inboxes.append(Inbox(segment, binding.Port(segment.process, 1 + number), 1 + number, names, tables))
            inboxes[-1].add(edge, getattr(binding.Incarnation(segment.process, number), "name", number))
        # Before frames of a flow lay in slots, a loan in it was a plain array.
        loan = getattr(outbox.slots, "loan_now", partial(np.empty))
        frames = [loan(SHAPE, np.dtype(np.uint8)) for _ in range(READY)]
        for frame in frames:
            frame[:] = 7
        plain, make = np.full(SHAPE, 7, np.uint8), KINDS[kind]

        def hand_over(number: int) -> None:
            outbox.send([make(frames[number % READY], plain)], Meta(names, 0, number, 1))
            for inbox in inboxes:
                if inbox.receive(0) != binding.OK:
                    raise RuntimeError("a receiver in the flow got no message")
                inbox.take()

        for number in range(20):
            hand_over(number)
        gc.disable()
        begun = time.thread_time_ns()
        for number in range(messages):
            hand_over(number)
        return (time.thread_time_ns() - begun) / max(messages, 1) / 1000
    finally:
        unlink_pipe(segment.pipe_id)


def run(tree: Path, kind: str, receivers: int, messages: int, tool: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """One process that does so much with the package of one tree."""
    command = [*tool, sys.executable, __file__, "--one", kind, str(receivers), str(messages)]
    environment = os.environ | STEADY | {"PYTHONPATH": str(tree)}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=True)


def time_one(tree: Path, kind: str, receivers: int) -> float:
    """Microseconds per message."""
    return float(run(tree, kind, receivers, 100 if "plain" in kind else 3000).stdout)


def count_one(tree: Path, kind: str, receivers: int) -> float:
    """Instructions per message."""
    tool = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
    most = 20 if "plain" in kind else 200
    some, none = (
        int(re.findall(r"Collected : (\d+)", run(tree, kind, receivers, messages, tool).stderr)[0]) for messages in (most, 0)
    )
    return (some - none) / most


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another tree of the package, built")
    parser.add_argument("--instructions", action="store_true", help="let valgrind count them")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(exchange(asked.one[0], int(asked.one[1]), int(asked.one[2])))
        return
    trees = [HERE] if asked.against is None else [HERE, asked.against.resolve()]
    measure, rounds = (count_one, 1) if asked.instructions else (time_one, asked.rounds)
    what = "instructions" if asked.instructions else "µs"
    print(f"{'payload':46}{'receivers':>10}{what + ', here':>20}" + (f"{'there':>12}{'ratio':>8}" if asked.against else ""))
    for kind in asked.kinds:
        for receivers in (1, 3):
            found = [[measure(tree, kind, receivers) for tree in trees] for _ in range(rounds)]
            middles = [statistics.median(column) for column in zip(*found, strict=True)]
            line = f"{kind:46}{receivers:>10}{middles[0]:>20,.1f}"
            if len(middles) == 2:
                line += f"{middles[1]:>12,.1f}{statistics.median(here / there for here, there in found):>8.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
