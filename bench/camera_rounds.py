"""Runs a way in processes of its own for some seconds, and says what that took of the processors for each frame."""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .camera_clips import FPS, Clip, cache, make
from .camera_server import Server
from .camera_task import Board, Task
from .processes import adopt_orphans, cpu_ns, descendants, fork

LONGEST_START_S = 30.0
WARM_UP_S = 2.0  # in which decoders and readers may still be behind


@dataclass(frozen=True)
class Way:
    """One way to do a task.

    Attributes:
        run: does it until the board says that it is over.
        missing: what is not installed that it needs; empty where all is there.
    """

    run: Callable[[Task], object]
    missing: str = ""


@dataclass(frozen=True)
class Cost:
    """What a round came to.

    Attributes:
        cpu_ms: processor time of all processes for each frame that was sent.
        share: of the frames that were sent, those that were looked at.
        detected: of the frames that a detector should get, those that it got.
    """

    cpu_ms: float
    share: float
    detected: float


@dataclass
class Costs:
    """One way: its rounds, in the order in which they ran, or why there are none."""

    name: str
    rounds: list[Cost] = field(default_factory=list)
    note: str = ""

    @property
    def cpu_ms(self) -> float:
        return statistics.median(cost.cpu_ms for cost in self.rounds)

    def as_json(self) -> dict[str, Any]:
        return {"way": self.name, "note": self.note, "cpu_ms": [cost.cpu_ms for cost in self.rounds]} | {
            "share": [cost.share for cost in self.rounds]
        }


class Studio:
    """A server, its clips, and a folder for what is written; used in a `with`."""

    def __init__(self, *clips: Clip) -> None:
        self.folder = cache()
        for clip in clips:
            make(clip, self.folder)
        self._scratch = tempfile.TemporaryDirectory()
        self.server = Server(self.folder)

    def task(self, clip: Clip, cameras: int) -> Task:
        url = self.server.url(make(clip, self.folder))
        return Task(clip, (url,) * cameras, Board(), Path(self._scratch.name) / "lines.jsonl")

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *error: object) -> None:
        self.server.close()
        self._scratch.cleanup()


class Running:
    """A way at work, in a process that leads all that it starts. Used in a `with`.

    :raises RuntimeError: when it ends, or when no frame came from one of the cameras within half a minute.
    """

    def __init__(self, way: Way, task: Task, rate: float = FPS) -> None:
        self.task = task
        self._leader = fork.Process(target=_lead, args=(way, task))
        self._leader.start()
        assert self._leader.pid is not None
        self.pid: int = self._leader.pid
        until = time.monotonic() + LONGEST_START_S
        try:
            while self._frames().min() == 0:
                self._check(until)
                time.sleep(0.02)
            self.rest(WARM_UP_S)
        except BaseException:
            self.__exit__()
            raise

    def _frames(self) -> np.ndarray:
        return self.task.board.done[: len(self.task.urls), Board.LOOKED]

    def _check(self, until: float) -> None:
        if self._leader.exitcode is not None:
            raise RuntimeError(f"it ended by itself, with {self._leader.exitcode}")
        if time.monotonic() > until:
            raise RuntimeError(f"after {LONGEST_START_S:g} s {(self._frames() == 0).sum()} cameras gave no frame")

    def rest(self, seconds: float) -> None:
        """Lets it run for this time."""
        time.sleep(seconds)
        self._check(float("inf"))

    def cost(self, seconds: float, rate: float = FPS) -> Cost:
        """Measures for this time."""
        pids = [self.pid, *descendants(self.pid)]
        begun, cpu, done = time.monotonic(), sum(map(cpu_ns, pids)), self.task.board.done.copy()
        self.rest(seconds)
        done = (self.task.board.done - done).sum(axis=0)
        sent = rate * len(self.task.urls) * (time.monotonic() - begun)
        cpu = sum(map(cpu_ns, pids)) - cpu
        from .camera_task import EVERY

        return Cost(cpu / 1e6 / sent, done[Board.LOOKED] / sent, EVERY * done[Board.DETECTED] / sent)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *error: object) -> None:
        self.task.board.end()
        self._leader.join(5)
        with suppress(ProcessLookupError):  # it may have ended, and all its own
            os.killpg(self.pid, signal.SIGKILL)
        self._leader.join()
        self.task.board.close()


def _lead(way: Way, task: Task) -> None:
    os.setpgid(0, 0)
    adopt_orphans()
    cv2.setNumThreads(1)  # for pictures this small, more threads cost more than they give
    way.run(task)
    os._exit(0)  # GStreamer and some readers have threads that don't end


def measure(
    studio: Studio, ways: Mapping[str, Way], clip: Clip, rounds: int, seconds: float, cameras: int = 1
) -> dict[str, Costs]:
    """All ways, in turn, again and again. One that is not installed, or that fails, is noted and left out."""
    results = {name: Costs(name, note=f"not installed: {way.missing}" if way.missing else "") for name, way in ways.items()}
    for number in range(rounds):
        for name, way in ways.items():
            result = results[name]
            if result.note:
                continue
            try:
                with Running(way, studio.task(clip, cameras)) as running:
                    result.rounds.append(running.cost(seconds))
            except Exception as error:  # of somebody else's package, as well: the others are still to be measured
                result.note = f"failed in round {number + 1}: {error}"
                result.rounds.clear()
    return results


def ratios(of: Costs, to: Costs) -> list[float]:
    """Round by round, since these ran right after each other. Empty where one is missing."""
    if not of.rounds or not to.rounds:
        return []
    return [a.cpu_ms / b.cpu_ms for a, b in zip(of.rounds, to.rounds, strict=True)]


def cheapest(results: Sequence[Costs]) -> Costs | None:
    """The one with the least median."""
    return min((result for result in results if result.rounds), key=lambda result: result.cpu_ms, default=None)


def table(results: Sequence[Costs]) -> list[str]:
    """Lines of markdown."""
    lines = ["| way | CPU ms a frame | of each round | frames seen |", "| --- | ---: | ---: | ---: |"]
    for result in results:
        if not result.rounds:
            lines.append(f"| {result.name} | {result.note} | | |")
            continue
        costs = [cost.cpu_ms for cost in result.rounds]
        seen = min(cost.share for cost in result.rounds)
        lines.append(f"| {result.name} | {result.cpu_ms:.2f} | {min(costs):.2f} to {max(costs):.2f} | {min(seen, 1):.0%} |")
    return lines
