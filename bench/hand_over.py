"""The hand-over of a 1080p frame that lies ready, from one process to another, by several ways that are measured alike.

A sender has a few frames in its memory before the clock starts. At each tick of its pace it takes the time and hands over the
next one; the receiver takes the time as soon as it holds a numpy view of the frame, and notes the difference in a sheet that
both processes map, where it disturbs nobody. A tick whose predecessor is still on its way is skipped, by every way alike: so no
time is spent in a queue, and a way that can't keep the pace shows its own cost.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np

from pipert_shm import START_EVENT_NAME, DestinationRoutine, EndOfStream, Pipe, SourceRoutine, Wire

SHAPE = (1080, 1920, 3)
FRAMES = 4  # distinct frames that are sent in turn
FEWEST = 10  # frames that each round sends, however long it takes
WARM_UP = 0.1  # share of each round that is not counted
LONGEST_ROUND_S = 30.0

_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Pace:
    """How often a frame is offered, and how many ticks a round has."""

    name: str
    fps: int
    ticks: int

    @property
    def period_ns(self) -> int:
        return 1_000_000_000 // self.fps


PACES = (Pace("30 fps", 30, 40), Pace("1 kHz", 1000, 500))


class Sheet:
    """What one round of one way came to, in memory that its processes share."""

    def __init__(self, ticks: int) -> None:
        self._ticks = ticks
        self._words = np.frombuffer(mmap.mmap(-1, (3 + ticks + FEWEST) * 8), np.int64)
        self.address: int = self._words.ctypes.data

    @property
    def sent(self) -> int:
        return int(self._words[0])

    @property
    def received(self) -> int:
        return int(self._words[1])

    @property
    def wrong(self) -> int:
        """Frames that were not what had been sent."""
        return int(self._words[2])

    def is_full(self, ticks: int) -> bool:
        """Whether the round ends after so many ticks."""
        return ticks >= self._ticks and self.sent >= FEWEST

    def next_frame(self) -> int | None:
        """Which frame the sender is to send at this tick; None: none, since the last one is still on its way."""
        if self.received < self.sent:
            return None
        self._words[0] += 1
        return (self.sent - 1) % FRAMES

    def note(self, latency_ns: int, frame: np.ndarray) -> None:
        """Takes down that the receiver holds the next frame."""
        number = self.received
        self._words[3 + number] = latency_ns
        self._words[2] += not frame[0, 0, 0] == frame[-1, -1, -1] == number % FRAMES
        self._words[1] += 1

    def latencies_us(self) -> np.ndarray:
        """Of the frames after the warm-up."""
        first = math.ceil(self.received * WARM_UP)
        return self._words[3 + first : 3 + self.received] / 1000


# ---- the ways ------------------------------------------------------------------------------------


class Camera(SourceRoutine):
    """Sends loaned frames that it filled before, again and again, in place."""

    def __init__(self, sheet: Sheet, pace: Pace) -> None:
        super().__init__("camera")
        self._sheet = sheet
        self._ticks = 0
        self._frames: list[np.ndarray] = []
        self.declare_output(SHAPE)
        self.set_const_fps(pace.fps)

    def setup(self) -> None:
        for number in range(FRAMES):
            self._frames.append(self.loan(SHAPE))
            self._frames[number][:] = number

    def main_logic(self) -> np.ndarray | None:
        if self._sheet.is_full(self._ticks):
            raise EndOfStream
        self._ticks += 1
        number = self._sheet.next_frame()
        if number is None:
            return None
        self.meta.captured_ns = time.monotonic_ns()
        return self._frames[number]

    def cleanup(self) -> None:
        self._frames.clear()


class Screen(DestinationRoutine):
    """Takes the time at which it has a frame in hand."""

    def __init__(self, sheet: Sheet) -> None:
        super().__init__("screen")
        self._sheet = sheet

    def main_logic(self, data: np.ndarray) -> None:
        self._sheet.note(time.monotonic_ns() - self.meta.captured_ns, data)


def by_pipe(sheet: Sheet, pace: Pace) -> None:
    """A source and a destination in flows of their own, as users write them.

    :raises RuntimeError: when a frame was copied: then this was not the way that is to be measured.
    """
    pipe = Pipe()
    camera, screen = Camera(sheet, pace), Screen(sheet)
    pipe.create_flow("camera", False, camera)
    pipe.create_flow("screen", False, screen)
    pipe.link(Wire(camera, screen))
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    copied = pipe.statistics().routines["camera"].copied_bytes
    if copied:
        raise RuntimeError(f"{copied:,} bytes of frames were copied on a way that copies none")


def by_queue(sheet: Sheet, pace: Pace) -> None:
    """`multiprocessing.Queue`, which pickles the frame into a pipe."""
    queue: Queue[Any] = _fork.Queue()

    def send() -> None:
        frames = [np.full(SHAPE, number, np.uint8) for number in range(FRAMES)]
        start, ticks = time.monotonic_ns(), 0
        while not sheet.is_full(ticks):
            ticks += 1
            time.sleep(max(0, start + ticks * pace.period_ns - time.monotonic_ns()) / 1e9)
            number = sheet.next_frame()
            if number is not None:
                queue.put((time.monotonic_ns(), frames[number]))
        queue.put(None)

    def receive() -> None:
        while (message := queue.get()) is not None:
            sent_ns, frame = message
            sheet.note(time.monotonic_ns() - sent_ns, frame)

    _run_pair(send, receive)
    queue.close()


def by_futex(sheet: Sheet, pace: Pace) -> None:
    """The control: a futex from C to C, with no frame at all."""
    control = _compile_control()
    mailbox = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.int64)
    box, words = ctypes.c_void_p(mailbox.ctypes.data), ctypes.c_void_p(sheet.address)
    ticks, fewest, period = (ctypes.c_int64(number) for number in (pace.ticks, FEWEST, pace.period_ns))
    _run_pair(
        lambda: control.futex_send(box, words, ticks, fewest, period),
        lambda: control.futex_receive(box, words),
    )


CONTROL, QUEUE = "C futex, no frame", "multiprocessing.Queue"
WAYS: dict[str, Callable[[Sheet, Pace], None]] = {CONTROL: by_futex, "pipert_shm": by_pipe, QUEUE: by_queue}


def _run_pair(send: Callable[[], None], receive: Callable[[], None]) -> None:
    """:raises RuntimeError: when one of the two processes failed."""
    pair = [_fork.Process(target=target, daemon=True) for target in (receive, send)]
    for process in pair:
        process.start()
    deadline = time.monotonic() + LONGEST_ROUND_S
    for process in pair:
        process.join(max(0.0, deadline - time.monotonic()))
    exit_codes = [process.exitcode for process in pair]
    for process in pair:
        process.kill()
        process.join()
        process.close()
    if exit_codes != [0, 0]:
        raise RuntimeError(f"receiver and sender ended with {exit_codes} (None: not within {LONGEST_ROUND_S} s)")


@cache
def _compile_control() -> ctypes.CDLL:
    source = Path(__file__).with_name("futex.c")
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory, "futex.so")
        compiler = os.environ.get("CC", "cc").split()
        subprocess.run([*compiler, "-std=gnu11", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        return ctypes.CDLL(str(library))


# ---- measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """One way at one pace: its rounds, in the order in which they ran."""

    way: str
    pace: Pace
    sheets: tuple[Sheet, ...]

    @property
    def medians_us(self) -> np.ndarray:
        """Of each round."""
        return np.array([np.median(sheet.latencies_us()) for sheet in self.sheets])

    @property
    def latencies_us(self) -> np.ndarray:
        """Of all rounds."""
        return np.concatenate([sheet.latencies_us() for sheet in self.sheets])

    @property
    def p50_us(self) -> float:
        return float(np.median(self.medians_us))

    @property
    def p99_us(self) -> float:
        return float(np.percentile(self.latencies_us, 99))

    def ratio_to(self, other: Result) -> float:
        """Of the medians: taken round by round, since these ran right after each other; then the median of those."""
        return float(np.median(self.medians_us / other.medians_us))


def measure(pace: Pace, rounds: int) -> dict[str, Result]:
    """All ways, in turn, again and again."""
    sheets: dict[str, list[Sheet]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, run in WAYS.items():
            sheet = Sheet(pace.ticks)
            run(sheet, pace)
            sheets[way].append(sheet)
    return {way: Result(way, pace, tuple(done)) for way, done in sheets.items()}


def table(results: Iterable[dict[str, Result]]) -> list[str]:
    """Lines of text: the medians, and how they relate."""
    columns = "{:30}{:>8}{:>11}{:>22}{:>11}{:>14}{:>15}"
    lines = [
        columns.format("1080p, one way", "frames", "p50 µs", "p50 of each round", "p99 µs", "this/control", "mp.Queue/this")
    ]
    for ways in results:
        for result in ways.values():
            medians = result.medians_us
            lines.append(
                columns.format(
                    f"{result.pace.name}, {result.way}",
                    f"{len(result.latencies_us):,}",
                    f"{result.p50_us:,.1f}",
                    f"{medians.min():,.1f} to {medians.max():,.1f}",
                    f"{result.p99_us:,.1f}",
                    f"{result.ratio_to(ways[CONTROL]):,.2f}",
                    f"{ways[QUEUE].ratio_to(result):,.2f}",
                )
            )
    return lines
