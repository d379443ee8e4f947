"""How old frames are when they are in hand: each has its number in it, and the server notes when its last packet left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from pipert_shm import Pipe

from .camera_clips import FPS, Clip
from .camera_pipes import sink
from .camera_rounds import Running, Studio, Way, in_turn

GAP_MS = 1000 / FPS
STOPPED_S = 1.0
BEFORE_S, AFTER_S = 2.0, 2.5  # what is looked at


@dataclass
class Ages:
    """One way: the ages of each round in ms, in the order in which they ran, or why there are none."""

    name: str
    note: str = ""
    rounds: list[np.ndarray] = field(default_factory=list)

    @property
    def p50s(self) -> list[float]:
        return [float(np.median(ages)) for ages in self.rounds]

    def percentile(self, percent: float) -> float:
        return float(np.percentile(np.concatenate(self.rounds), percent))

    def as_json(self) -> dict[str, Any]:
        return {"way": self.name, "note": self.note, "ages_ms": [np.round(ages, 2).tolist() for ages in self.rounds]}


def _between(notes: np.ndarray, begin_ns: int, end_ns: int) -> np.ndarray:
    """Ages in ms of the frames that were in hand in this time."""
    times, ages = notes.T
    within: np.ndarray = ages[(times >= begin_ns) & (times < end_ns)] / 1e6
    return within


def measure_ages(studio: Studio, ways: Mapping[str, Way], clip: Clip, rounds: int, seconds: float) -> dict[str, Ages]:
    """All ways, in turn, again and again."""

    def run(way: Way) -> np.ndarray:
        with Running(way, studio.task(clip, 1)) as running:
            begun = time.monotonic_ns()
            running.rest(seconds)
            return _between(running.task.board.notes(), begun, time.monotonic_ns())

    results = {name: Ages(name, way.note) for name, way in ways.items()}
    in_turn(ways, results, rounds, run)
    return results


def ratios(of: Ages, to: Ages) -> list[float]:
    """Of the medians, round by round."""
    return [a / b for a, b in zip(of.p50s, to.p50s, strict=True)] if of.rounds and to.rounds else []


def table(results: Sequence[Ages]) -> list[str]:
    """Lines of markdown."""
    lines = ["| way | p50 ms | of each round | p95 ms | frames |", "| --- | ---: | ---: | ---: | ---: |"]
    for result in results:
        if not result.rounds:
            lines.append(f"| {result.name} | {result.note} | | | |")
            continue
        spread = f"{min(result.p50s):.1f} to {max(result.p50s):.1f}"
        count = sum(map(len, result.rounds))
        p50, p95 = result.percentile(50), result.percentile(95)
        lines.append(f"| {result.name} | {p50:.1f} | {spread} | {p95:.1f} | {count} |")
    return lines


@dataclass(frozen=True)
class Stall:
    """What came after the camera's flow had been stopped.

    Attributes:
        usual_ms: age of a frame before, the median.
        ages_ms: of the frames that came afterwards.
    """

    usual_ms: float
    ages_ms: tuple[float, ...]

    @property
    def old(self) -> int:
        """How many frames were more than two gaps older than usual."""
        return sum(age > self.usual_ms + 2 * GAP_MS for age in self.ages_ms)


def stall(studio: Studio, clip: Clip, **options: Any) -> Stall:
    """Stops the camera's flow for a second, as a machine does that is busy or swaps.

    :param options: of the `VideoSource`.
    :raises RuntimeError: when no frame came before, or none afterwards.
    """
    task = studio.task(clip, 1)

    def stop(pipe: Pipe) -> None:
        """In the leader, which has the pipe and its statistics."""
        while not task.board.done[0, 0]:
            time.sleep(0.02)
        time.sleep(BEFORE_S + BEFORE_S)  # the first frames may have piled up
        pid = pipe.statistics().flows["camera0"].pid
        task.board.done[0, 1] = time.monotonic_ns()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(pid, signal.SIGCONT)

    with Running(Way(partial(sink, look=stop, **options)), task) as running:
        running.rest(BEFORE_S + STOPPED_S + AFTER_S)
        notes, stopped_ns = task.board.notes(), int(task.board.done[0, 1])
    before = _between(notes, stopped_ns - round(BEFORE_S * 1e9), stopped_ns)
    after = _between(notes, stopped_ns + round(STOPPED_S * 0.5e9), time.monotonic_ns())
    if not stopped_ns or not len(before) or not len(after):
        raise RuntimeError(f"{len(before)} frames came before the stall, {len(after)} afterwards")
    return Stall(float(np.median(before)), tuple(after.tolist()))
