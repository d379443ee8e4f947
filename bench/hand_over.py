"""Ways to hand over a frame, and rounds of them that take turns."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from pipert_shm.extras import to_install

from .controls import by_futex, by_loops
from .peers import Iceoryx, IceoryxCopy, Pair, Pipe, Queue, SharedSlots, Zenoh, Zmq, by_pair
from .pipert2 import by_pipert2
from .pipes import by_pipe
from .ray_store import Ray, RayCopy
from .sheet import Load, Sheet

THIS, CONTROL, LOOPS = "pipert_shm", "C futex, no frame", "C loops, one Python call an end"
THIS_APART, LOOPS_APART = (f"{way}, apart" for way in (THIS, LOOPS))  # each end on a processor of its own
PACED = (CONTROL, LOOPS, LOOPS_APART, THIS_APART)  # ways that are not run flat out
ICEORYX, QUEUE, BASIC, SHARED, RAY, RAY_COPY = (
    "iceoryx2, zero copy",
    "multiprocessing.Queue",
    "PipeRT 2.4.0, basic",
    "PipeRT 2.4.0, shared memory",
    "ray, objects that lie ready",
    "ray, one copy",
)


@dataclass(frozen=True)
class Way:
    """One way to hand over.

    Attributes:
        run: runs one round.
        module: that it needs.
        ready: whether it sends frames that lie ready in shared memory; else it copies them at least once.
        fast: whether frames of 8K don't take it seconds.
        receivers: how many.
        extra: of this package, that installs the module.
        together: whether its ends are threads of one process.
        most_rounds: that it runs, however many the others do; None: as many.
    """

    run: Callable[[Sheet], object]
    module: str = "pipert_shm"
    ready: bool = False
    fast: bool = False
    receivers: int = 1
    extra: str = "bench"
    together: bool = False
    most_rounds: int | None = None

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


def _pair(kind: Callable[[Load], Pair], module: str = "multiprocessing", **marks: Any) -> Way:
    return Way(partial(by_pair, kind), module, **marks)


WAYS: dict[str, Way] = {
    CONTROL: Way(by_futex, ready=True, fast=True),
    LOOPS: Way(by_loops, ready=True, fast=True),
    LOOPS_APART: Way(partial(by_loops, apart=True), ready=True, fast=True),
    THIS: Way(by_pipe, ready=True, fast=True),
    THIS_APART: Way(partial(by_pipe, apart=True), ready=True, fast=True),
    ICEORYX: _pair(Iceoryx, "iceoryx2", ready=True, fast=True),
    "iceoryx2, one copy": _pair(IceoryxCopy, "iceoryx2", fast=True),
    "zenoh, shared memory": _pair(Zenoh, "zenoh", ready=True, fast=True),
    "SharedMemory + SimpleQueue": _pair(SharedSlots, fast=True),
    "pyzmq, ipc": _pair(Zmq, "zmq"),
    "multiprocessing.Pipe": _pair(Pipe),
    QUEUE: _pair(Queue),
    BASIC: Way(partial(by_pipert2, transmitter="BasicTransmitter"), "pipert2"),
    SHARED: Way(partial(by_pipert2, transmitter="SharedMemoryTransmitter"), "pipert2"),
    RAY: _pair(Ray, "ray", ready=True, extra="bench-ray", most_rounds=1),
    RAY_COPY: _pair(RayCopy, "ray", extra="bench-ray", most_rounds=1),
}


@dataclass
class Result:
    """One way under one load: its rounds, in the order in which they ran.

    Attributes:
        note: why there are none, where there are none.
    """

    way: str
    load: Load
    sheets: list[Sheet] = field(default_factory=list)
    note: str = ""

    def of_rounds(self, figure: Callable[[Sheet], float]) -> np.ndarray:
        return np.array([figure(sheet) for sheet in self.sheets])

    @property
    def p50s_us(self) -> np.ndarray:
        return self.of_rounds(p50_us)

    @property
    def p50_us(self) -> float:
        return float(np.median(self.p50s_us))

    @property
    def latencies_us(self) -> np.ndarray:
        """Of all rounds."""
        return np.concatenate([sheet.latencies_us() for sheet in self.sheets])

    @property
    def p99_us(self) -> float:
        return float(np.percentile(self.latencies_us, 99))

    @property
    def rate(self) -> float:
        """Frames received per second."""
        return float(np.median(self.of_rounds(Sheet.rate)))

    @property
    def cpu_us(self) -> float:
        """Processor time per frame, of all processes that send or receive."""
        return float(np.median(self.of_rounds(lambda sheet: sheet.cpu_both_us)))

    def as_json(self) -> dict[str, Any]:
        what = {"way": self.way, "size": self.load.size, "pace": self.load.pace, "note": self.note}
        if not self.sheets:
            return what
        return what | {
            "sent": sum(sheet.sent for sheet in self.sheets),
            "received": sum(sheet.received(at) for sheet in self.sheets for at in range(sheet.receivers)),
            "wrong": sum(sheet.wrong for sheet in self.sheets),
            "p50_us": self.p50_us,
            "p50_us_of_rounds": self.p50s_us.tolist(),
            "p99_us": self.p99_us,
            "percentiles_us": np.percentile(self.latencies_us, range(101)).tolist(),
            "frames_per_s": self.rate,
            "frames_per_s_of_rounds": self.of_rounds(Sheet.rate).tolist(),
            "cpu_us_per_frame": None if np.isnan(self.cpu_us) else self.cpu_us,
        }


def p50_us(sheet: Sheet) -> float:
    return float(np.median(sheet.latencies_us()))


def pairs(of: Result, to: Result, figure: Callable[[Sheet], float] = p50_us) -> list[tuple[float, float]]:
    """The same figure of both, round by round, since these ran right after each other. Empty where one is missing."""
    if not of.sheets or not to.sheets:
        return []
    return [(figure(a), figure(b)) for a, b in zip(of.sheets, to.sheets, strict=True)]


def ratios(of: Result, to: Result, figure: Callable[[Sheet], float] = p50_us) -> list[float]:
    """Of the rounds: see `pairs`."""
    return [a / b for a, b in pairs(of, to, figure)]


def measure(ways: Mapping[str, Way], load: Load, rounds: int) -> dict[str, Result]:
    """All ways, in turn, again and again. One that is not installed, or that fails, is noted and left out."""
    results = {name: Result(name, load) for name in ways}
    for name, way in ways.items():
        if not way.is_installed:
            results[name].note = f"not installed ({way.module}): {to_install(way.extra)}"
    for number in range(rounds):
        for name, way in ways.items():
            result = results[name]
            if result.note or len(result.sheets) == way.most_rounds:
                continue
            sheet = Sheet(load, way.receivers, together=way.together)
            try:
                way.run(sheet)
            except Exception as error:  # of somebody else's package, as well: the others are still to be measured
                result.note = f"failed in round {number + 1}: {error}"
            else:
                if not len(sheet.latencies_us()):
                    result.note = f"failed in round {number + 1}: of {sheet.sent} frames {sheet.received()} came"
            if result.note:
                result.sheets.clear()
            else:
                result.sheets.append(sheet)
    return results


def table(results: list[Result]) -> list[str]:
    """Lines of text."""
    columns = "{:38}{:>8}{:>10}{:>13}{:>24}{:>14}{:>10}{:>10}{:>12}"
    lines = [columns.format("way", "size", "pace", "p50 µs", "of each round", "p99 µs", "frames/s", "CPU µs", "received")]
    for result in results:
        load = result.load
        if not result.sheets:
            lines.append(f"{result.way:38}{load.size:>8}{load.pace:>10}  {result.note}")
            continue
        sent = sum(sheet.sent * sheet.receivers for sheet in result.sheets)
        received = sum(sheet.received(at) for sheet in result.sheets for at in range(sheet.receivers))
        wrong = sum(sheet.wrong for sheet in result.sheets)
        lines.append(
            columns.format(
                result.way,
                load.size,
                load.pace.partition(",")[0],
                f"{result.p50_us:,.1f}",
                f"{result.p50s_us.min():,.0f} to {result.p50s_us.max():,.0f}",
                f"{result.p99_us:,.1f}",
                f"{result.rate:,.0f}",
                f"{result.cpu_us:,.0f}",
                ("all" if sent == received else f"{received / sent:.1%}") + (f", {wrong} wrong" if wrong else ""),
            )
        )
    return lines
