"""Runs a way in processes of its own for some seconds, and says what that took of the processors for each frame."""

from __future__ import annotations

import gc
import logging
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from .camera_clips import FPS, Clip, cache, make
from .camera_server import Server
from .camera_task import EVERY, Board, Task
from .processes import adopt_orphans, cpu_ns, descendants, end_with_parent, fork

LONGEST_START_S = 30.0
WARM_UP_S = 1.5  # in which decoders and readers may still be behind
MOST_LOST, MOST_UNDETECTED = 0.02, 0.1  # the shares that may be missing where nothing counts as lost


@dataclass(frozen=True)
class Way:
    """One way to do a task.

    Attributes:
        run: does it until the board says that it is over.
        note: why it can't be measured here; empty where it can.
    """

    run: Callable[[Task], object]
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """What a round came to.

    Attributes:
        cpu_ms: processor time of all processes for each frame that was sent.
        share: of the frames that were sent, those that were looked at.
        detected: of the frames that a detector should get, those that it got; 1 where there is none.
    """

    cpu_ms: float
    share: float
    detected: float

    @property
    def is_whole(self) -> bool:
        """Whether nothing was lost. Frames at the ends of the time may be on either side."""
        return self.share >= 1 - MOST_LOST and self.detected >= 1 - MOST_UNDETECTED


@dataclass
class Costs:
    """One way: its rounds, in the order in which they ran, or why there are none."""

    name: str
    note: str = ""
    rounds: list[Cost] = field(default_factory=list)

    @property
    def cpu_ms(self) -> float:
        return statistics.median(cost.cpu_ms for cost in self.rounds)

    @property
    def share(self) -> float:
        return statistics.median(cost.share for cost in self.rounds)

    @property
    def detected(self) -> float:
        return statistics.median(cost.detected for cost in self.rounds)

    @property
    def is_whole(self) -> bool:
        return Cost(self.cpu_ms, self.share, self.detected).is_whole

    def as_json(self) -> dict[str, Any]:
        return {"way": self.name, "note": self.note, "rounds": [asdict(cost) for cost in self.rounds]}


class Studio:
    """A server, and a folder for what is written; used in a `with`.

    :param folder: for the clips; None for the cache.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache()
        self._scratch = tempfile.TemporaryDirectory()
        self.server = Server(self.folder)

    def task(self, clip: Clip, cameras: int) -> Task:
        url = self.server.url(make(clip, self.folder))
        return Task(clip, (url,) * cameras, Board(self.server.sent_ns), Path(self._scratch.name) / "lines.jsonl")

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *error: object) -> None:
        self.server.close()
        self._scratch.cleanup()


class Running:
    """A way at work, in a process that leads all that it starts. Used in a `with`.

    :raises RuntimeError: when it ends, or when no frame came from one of the cameras within half a minute.
    """

    def __init__(self, way: Way, task: Task) -> None:
        self.task = task
        self._leader = fork.Process(target=_lead, args=(way, task))
        threads = cv2.getNumThreads()
        # For pictures this small, more threads cost more than they give. Set here: in the fork it would wait for threads.
        cv2.setNumThreads(1)
        self._leader.start()
        cv2.setNumThreads(threads)
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
        looked, detected = (self.task.board.done - done).sum(axis=0).tolist()
        sent = rate * len(self.task.urls) * (time.monotonic() - begun)
        spent = sum(map(cpu_ns, pids)) - cpu
        has_detector = self.task.board.done[:, Board.DETECTED].any()
        return Cost(spent / 1e6 / sent, looked / sent, EVERY * detected / sent if has_detector else 1.0)

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
    gc.freeze()  # decoders that the parent has thrown away have threads there, and not here: to free one would hang
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, lambda *_: task.board.end())
    end_with_parent()
    logging.disable(logging.WARNING)  # the tables tell what was lost
    adopt_orphans()
    way.run(task)
    os._exit(0)  # GStreamer and some readers have threads that don't end


class Rounds(Protocol):
    """Of one way."""

    note: str
    rounds: list[Any]


def in_turn(ways: Mapping[str, Way], results: Mapping[str, Rounds], rounds: int, run: Callable[[Way], object]) -> None:
    """Runs all ways, in turn, again and again. One that has a note, or gets one since it fails, is left out."""
    for number in range(rounds):
        for name, way in ways.items():
            result = results[name]
            if result.note:
                continue
            try:
                result.rounds.append(run(way))
            except Exception as error:  # of somebody else's package, as well: the others are still to be measured
                result.note = f"failed in round {number + 1}: {error}"
                result.rounds.clear()


def measure(
    studio: Studio, ways: Mapping[str, Way], clip: Clip, rounds: int, seconds: float, cameras: int = 1
) -> dict[str, Costs]:
    """What each way costs."""

    def run(way: Way) -> Cost:
        with Running(way, studio.task(clip, cameras)) as running:
            return running.cost(seconds)

    results = {name: Costs(name, way.note) for name, way in ways.items()}
    in_turn(ways, results, rounds, run)
    return results


def measure_together(studio: Studio, ways: Mapping[str, Way], clip: Clip, rounds: int, seconds: float) -> dict[str, Costs]:
    """What each way costs while all of them run, so that what else the machine does weighs on each alike. One camera a way."""
    results = {name: Costs(name) for name in ways}
    for number in range(rounds):
        try:
            with ExitStack() as stack:
                running = [stack.enter_context(Running(way, studio.task(clip, 1))) for way in ways.values()]
                with ThreadPoolExecutor(len(running)) as pool:  # its threads have ended when the next round forks
                    costs = list(pool.map(lambda each: each.cost(seconds), running))
        except (OSError, RuntimeError) as error:
            return {name: Costs(name, f"round {number + 1} failed: {error}") for name in ways}
        for name, cost in zip(ways, costs, strict=True):
            results[name].rounds.append(cost)
    return results


def ratios(of: Costs, to: Costs) -> list[float]:
    """Round by round, since these ran right after each other, or together. Empty where one is missing."""
    if not of.rounds or not to.rounds:
        return []
    return [a.cpu_ms / b.cpu_ms for a, b in zip(of.rounds, to.rounds, strict=True)]


def cheapest(results: Sequence[Costs]) -> Costs | None:
    """The one with the least median, of those that lost nothing."""
    return min(
        (result for result in results if result.rounds and result.is_whole), key=lambda result: result.cpu_ms, default=None
    )


def table(results: Sequence[Costs]) -> list[str]:
    """Lines of markdown."""
    columns = ("way", "CPU ms a frame", "of each round", "frames seen", "detected")
    lines = [f"| {' | '.join(columns)} |", "| --- | ---: | ---: | ---: | ---: |"]
    for result in results:
        if not result.rounds:
            lines.append(f"| {result.name} | {result.note} | | | |")
            continue
        costs = [cost.cpu_ms for cost in result.rounds]
        spread, seen = f"{min(costs):.2f} to {max(costs):.2f}", f"{min(result.share, 1):.0%}"
        lines.append(f"| {result.name} | {result.cpu_ms:.2f} | {spread} | {seen} | {min(result.detected, 1):.0%} |")
    return lines
