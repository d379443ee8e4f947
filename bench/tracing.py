"""What tracing adds to the processor time of a frame, from decoding to the file of detections, in one pipe that runs on."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from pipert_shm import START_EVENT_NAME, DestinationRoutine, MotionDetector, Pipe, VideoSource, Wire
from pipert_shm.video.clips import default_clip

from .figures import Figure, Section, Settings
from .processes import cpu_ns, descendants


class Report(DestinationRoutine):
    """Takes detections."""

    def main_logic(self, found: object) -> None: ...


def tracing(settings: Settings) -> Section:
    """Windows with and without a trace take turns in the same processes; what is written at a trace's end is not counted."""
    camera = VideoSource(str(default_clip()), "camera", loop=True)
    detector, report = MotionDetector("detector"), Report("report")
    pipe = Pipe(policy="block")
    for routine in (camera, detector, report):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(camera, detector), Wire(detector, report))
    rounds = []
    with pipe, tempfile.TemporaryDirectory() as directory:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        time.sleep(1)  # warm-up
        for number in range(4 * settings.rounds):
            plain, traced = (_window(pipe, path, settings.seconds) for path in _in_turn(number, Path(directory, "trace")))
            rounds.append((traced / plain) if number % 2 == 0 else (plain / traced))
        pipe.join(to_kill=True)
    figure = Figure.of("tracing, video to detections, CPU of a frame: while it is on / off", rounds, 1.02)
    return Section("Tracing: three flows, a real clip, motion detection, as fast as it goes", figures=[figure])


def _in_turn(number: int, path: Path) -> tuple[Path | None, Path | None]:
    return (None, path) if number % 2 == 0 else (path, None)


def _window(pipe: Pipe, path: Path | None, seconds: float) -> float:
    """Processor time, ns, of a frame in all processes of the pipe."""
    with pipe.tracing(path, events=1_000_000) if path else nullcontext():
        pids = descendants(os.getpid())
        begun, done = sum(map(cpu_ns, pids)), pipe.statistics().routines["report"].received
        time.sleep(2 * seconds)
        used = sum(map(cpu_ns, pids)) - begun
        return used / (pipe.statistics().routines["report"].received - done)
