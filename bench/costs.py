"""The parts of a run that look at this project alone: what it costs to import, to start, to wait, and to grow."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from pipert_shm import START_EVENT_NAME, BatchRoutine, EndOfStream, Pipe, SourceRoutine, Wire
from pipert_shm.shm.listing import list_pipe
from pipert_shm.shm.segments import pipe_ids

from .figures import Figure, Section, Settings
from .hand_over import THIS, Way, measure, pairs
from .pipes import Relay, Screen, by_pipe
from .processes import cpu_ns, descendants, idle_s
from .sheet import SIZES, Load, Sheet

IMPORT = """
import time, numpy
start = time.perf_counter()
import pipert_shm
print((time.perf_counter() - start) * 1000)
"""


class OneFrame(SourceRoutine):
    """Sends one frame, and ends."""

    def __init__(self, sheet: Sheet) -> None:
        super().__init__("camera")
        self._sheet = sheet
        self.declare_output(sheet.load.largest)

    def main_logic(self) -> np.ndarray:
        if self._sheet.sent:
            raise EndOfStream
        frame = self.loan(self._sheet.load.largest)
        frame[0, 0, 0] = frame[-1, -1, -1] = self._sheet.stamp()
        return frame


class Starved(SourceRoutine):
    """A camera that gives nothing."""

    def main_logic(self) -> None:
        time.sleep(1)


class Camera720p(SourceRoutine):
    """Writes every byte of a frame, 30 times a second."""

    def __init__(self, number: int) -> None:
        super().__init__(f"camera{number}")
        self.declare_output((720, 1280, 3))
        self.set_const_fps(30)

    def main_logic(self) -> np.ndarray:
        frame = self.loan((720, 1280, 3))
        frame[...] = self.meta.sequence & 0xFF
        return frame


class Detector(BatchRoutine):
    """Looks at every 64th pixel of each frame."""

    def main_logic(self, batch: list[Any]) -> None:
        for frame in batch:
            frame[::8, ::8].mean()


def _chain(*routines: Any) -> Pipe:
    pipe = Pipe()
    for routine in routines:
        pipe.create_flow(routine.name, False, routine)
    for sender, receiver in pairwise(routines):
        pipe.link(Wire(sender, receiver))
    return pipe


def start(settings: Settings) -> Section:
    """Imports, and the time from `build()` to the first frame."""
    section = Section("Import and start")
    imports = []
    with tempfile.TemporaryDirectory() as compiled:  # as it is where bytecode is kept, whatever this process was told of that
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        kept["PYTHONPYCACHEPREFIX"] = compiled
        for _ in range(1 + max(settings.rounds, 2)):
            told = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True, env=kept)
            imports.append(float(told.stdout))
    section.figures.append(Figure.of("import pipert_shm over import numpy", imports[1:], 60, unit="ms"))
    for size in SIZES if settings.full else ("VGA",):
        times, shares, ring_bytes = [], [], 0
        for _ in range(settings.rounds):
            whole, ring_bytes = _start_up(Load(size))
            times.append(whole)
            shares.append(_fallocate_ms(ring_bytes))
        middle, share = statistics.median(times), statistics.median(shares)
        section.rows[f"start_ms_{size}"] = {"all": times, "fallocate": shares, "ring_bytes": ring_bytes}
        section.figures.append(
            Figure(
                f"build + start to the first frame at the sink, 3 flows, {size}",
                middle,
                150 if size == "VGA" else None,
                unit="ms",
                said=f"{share:.0f} ms to fallocate {ring_bytes / 1e6:,.0f} MB",
            )
        )
    return section


def _start_up(load: Load) -> tuple[float, int]:
    """Milliseconds from `build()` of three flows to the first frame at the last of them; bytes of the rings."""
    sheet = Sheet(load)
    pipe = _chain(OneFrame(sheet), Relay("relay"), Screen(sheet))
    before = set(pipe_ids())
    with pipe:
        begun = time.monotonic_ns()
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        while not sheet.received():
            time.sleep(0.0005)
        listings = [list_pipe(pipe_id) for pipe_id in set(pipe_ids()) - before]
    sizes = [segment.size for listing in listings if listing is not None for segment in listing.segments]
    return (sheet.first_received_ns - begun) / 1e6, sum(sizes)


def _fallocate_ms(size: int) -> float:
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        begun = time.monotonic_ns()
        os.posix_fallocate(file.fileno(), 0, max(size, 1))
        return (time.monotonic_ns() - begun) / 1e6


def idle(settings: Settings) -> Section:
    """The processor time of a pipe whose camera gives nothing."""
    seconds = 10 * settings.seconds
    pipe = _chain(Starved("camera"), *(Relay(f"relay{number}") for number in range(3)), Screen(Sheet(Load("VGA"))))
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pids = [os.getpid(), *descendants(os.getpid())]
        time.sleep(0.5)  # the start is not what is measured
        before = sum(map(cpu_ns, pids))
        time.sleep(seconds)
        spent = sum(map(cpu_ns, pids)) - before
        pipe.join(to_kill=True)
    share = spent / 1e9 / seconds
    said = f"{len(pids)} processes, {seconds:g} s"
    return Section("Idle", figures=[Figure("CPU of a starved pipe of 5 flows", share * 100, 0.1, unit="% core", said=said)])


def sibling(settings: Settings) -> Section:
    """What a thread that computes in the receiving flow adds to a hop."""
    ways = {THIS: Way(by_pipe), f"{THIS}, busy sibling": Way(partial(by_pipe, busy=True))}
    results = measure(ways, Load("1080p", 30, 1.0 * settings.seconds), settings.rounds)
    calm, busy = results.values()
    added = [(b - a) / 1000 for a, b in pairs(calm, busy)]
    figure = Figure.of("a busy sibling thread in the receiving flow adds to a hop, p50", added, 1, unit="ms")
    return Section("A busy sibling thread, 1080p, 30 fps", list(results.values()), [figure])


def scaling(settings: Settings) -> Section:
    """1 to 32 cameras into one batch detector: where does it bend?"""
    section = Section("Scaling: cameras of 720p at 30 fps, a flow each, into one batch detector")
    columns = ("cameras", "offered/s", "received/s", "lost", "age p50 ms", "p99 ms", "CPU, cores", "machine idle")
    section.lines.append("{:>8}{:>11}{:>12}{:>8}{:>12}{:>9}{:>12}{:>14}".format(*columns))
    bend = None
    for cameras in (1, 2, 4, 8, 16, 24, 32) if settings.full else (1, 8):
        row = _cameras(cameras, 3 * settings.seconds)
        section.rows[str(cameras)] = row
        section.lines.append(
            f"{cameras:>8}{row['offered']:>11.0f}{row['received']:>12.0f}{row['lost']:>8.1%}"
            f"{row['p50_ms']:>12.2f}{row['p99_ms']:>9.1f}{row['cores']:>12.2f}{row['idle']:>14.0%}"
        )
        if bend is None and (row["lost"] > 0.01 or row["offered"] < 0.95 * 30 * cameras):
            bend = cameras
    section.lines.append(f"it bends at {bend} cameras" if bend else "it does not bend: all frames made, less than 1 % lost")
    return section


def _cameras(count: int, seconds: float) -> dict[str, float]:
    detector = Detector("detector", batch_size=8)
    pipe = Pipe()
    cameras = [Camera720p(number) for number in range(count)]
    for routine in (*cameras, detector):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(*(Wire(camera, detector) for camera in cameras))
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        time.sleep(0.5)  # warm-up
        before = pipe.statistics()
        pids = [flow.pid for flow in before.flows.values()]
        cpu, idle = sum(map(cpu_ns, pids)), idle_s()
        time.sleep(seconds)
        after, cpu, idle = pipe.statistics(), sum(map(cpu_ns, pids)) - cpu, idle_s() - idle
        pipe.join(to_kill=True)
    elapsed = after.time_s - before.time_s

    def grown(figure: Callable[[Any], int]) -> int:
        return sum(figure(after.wires[wire]) - figure(before.wires[wire]) for wire in after.wires)

    offered, lost = grown(lambda wire: wire.sent), grown(lambda wire: wire.lost)
    age = after.routines["detector"].age
    return {
        "offered": offered / elapsed,
        "received": grown(lambda wire: wire.received) / elapsed,
        "lost": lost / max(offered, 1),
        "p50_ms": age.p50_us / 1000,
        "p99_ms": age.p99_us / 1000,
        "cores": cpu / 1e9 / elapsed,
        "idle": idle / elapsed / (os.cpu_count() or 1),
    }
