"""What flow control does, each figure a ratio within one run: `python -m bench.flow_control`.

- Auto pacing: a camera that is faster than its detector, with pacing and without, in turn: frames handled per second, and
  processor time of the camera's process (utime + stime of /proc/PID/stat, which also counts the other threads).
- A fixed rate: how far `set_const_fps` is off over ten seconds.
- Replicas: frames per second of work that keeps a processor busy, by one process and by two.
"""

from __future__ import annotations

import os
import statistics
import time
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np

from pipert_shm import START_EVENT_NAME, DestinationRoutine, Pipe, SourceRoutine, Wire

SHAPE = (1080, 1920, 3)
ROUNDS = 5
ROUND_S = 3.0
RATE_S = 10.0
FPS = 25.0
WORK = 400_000  # numbers that are sorted per frame
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Camera(SourceRoutine):
    """Writes every byte of a frame, as fast as it may."""

    def main_logic(self) -> np.ndarray:
        frame = self.loan(SHAPE)
        frame[...] = self.meta.sequence & 0xFF
        return frame


class Detector(DestinationRoutine):
    """Keeps a processor busy with each frame."""

    def setup(self) -> None:
        self.numbers = np.random.default_rng(1).random(WORK)

    def main_logic(self, data: np.ndarray) -> None:
        np.sort(self.numbers)


class Times(SourceRoutine):
    """Writes down when it was called first and last, and how often."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.sheet = np.frombuffer(mmap(-1, 24), np.int64)

    def main_logic(self) -> int:
        now = time.monotonic_ns()
        self.sheet[0] = self.sheet[0] or now
        self.sheet[1] = now
        self.sheet[2] += 1
        return 0


class Ignore(DestinationRoutine):
    """Takes everything."""

    def main_logic(self, data: Any) -> None: ...


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def detect(*, paced: bool = False, replicas: int = 1, policy: Any = "drop_oldest") -> tuple[float, float, float]:
    """Frames per second that the detectors handled, processor seconds per second of the camera, and frames per second of it."""
    camera, detector = Camera("camera"), Detector("detector")
    pipe = Pipe(auto_pacing_mechanism=paced, policy=policy)
    pipe.create_flow("camera", False, camera)
    pipe.create_flow("detect", False, detector, replicas=replicas)
    pipe.link(Wire(camera, detector))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    time.sleep(ROUND_S / 10)  # warm-up
    pid = pipe.statistics().flows["camera"].pid
    before, cpu = pipe.statistics(), cpu_s(pid)
    time.sleep(ROUND_S)
    after, cpu = pipe.statistics(), cpu_s(pid) - cpu
    pipe.join(to_kill=True)
    handled = [sum(wire.received for wire in now.wires.values()) for now in (before, after)]
    elapsed = after.time_s - before.time_s
    made = after.routines["camera"].sent - before.routines["camera"].sent
    return (handled[1] - handled[0]) / elapsed, cpu / elapsed, made / elapsed


def rate_error() -> float:
    """By how much a fixed rate is off over `RATE_S` seconds, as a share."""
    source, sink = Times("source"), Ignore("sink")
    source.set_const_fps(FPS)
    pipe = Pipe()
    pipe.create_flow("source", False, source)
    pipe.create_flow("sink", False, sink)
    pipe.link(Wire(source, sink))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    time.sleep(RATE_S)
    pipe.join(to_kill=True)
    first, last, count = (int(word) for word in source.sheet)
    return abs((count - 1) / ((last - first) / 1e9) / FPS - 1)


def main() -> None:
    """Measures, the ways of each comparison in turn, and prints."""
    free, paced = [], []
    for _ in range(ROUNDS):
        free.append(detect())
        paced.append(detect(paced=True))
    throughput, cpu, made = (statistics.median(p[n] / f[n] for p, f in zip(paced, free, strict=True)) for n in range(3))
    print(f"auto pacing: {throughput:.3f} times the frames per second handled,", end=" ")
    print(f"{made:.3f} of those made, {cpu:.3f} of the camera's processor time")
    one, two = [], []
    for _ in range(ROUNDS):
        one.append(detect(policy="block")[0])
        two.append(detect(policy="block", replicas=2)[0])
    print(f"replicas: two handle {statistics.median(b / a for a, b in zip(one, two, strict=True)):.2f} times what one does")
    print(f"fixed rate: {rate_error():.3%} off over {RATE_S:g} s at {FPS:g} fps")


if __name__ == "__main__":
    main()
