"""How much faster a whole pipe is than the same routines in one loop, and what it costs in CPU time.

    python -m bench.video

Motion and people are looked for on two clips, boxes drawn, and a video written. The ways take turns, each run in a process of
its own, its start included; the figures are medians. OpenCV may use all cores in the first loop, as it does by default; in the
pipe, whose processes share them, it uses one thread each, and two processes look for people.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from pipert_shm import (
    Annotator,
    EndOfStream,
    HogPeopleDetector,
    MotionDetector,
    Pipe,
    VideoInfo,
    VideoSource,
    VideoWriter,
    Wire,
)
from pipert_shm.video import packaged_clip

from .machine import describe

VTEST = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")


class Task(NamedTuple):
    """What is looked for, by how many processes of the pipe, on how many frames of each clip."""

    name: str
    detector: type[MotionDetector] | type[HogPeopleDetector]
    copies: int
    frames: int


TASKS = (Task("motion", MotionDetector, 1, 250), Task("HOG", HogPeopleDetector, 2, 40))


class Clip(VideoSource):
    """The first frames of a video."""

    def __init__(self, video: Path, frames: int) -> None:
        super().__init__(video, "camera")
        self.declare_output(VideoInfo.of(video).shape)
        self.left = frames

    def main_logic(self) -> Any:
        if not self.left:
            raise EndOfStream
        self.left -= 1
        return super().main_logic()


class Cost(NamedTuple):
    """Of one run, for each frame: seconds on the clock, and of CPU in all processes."""

    wall: float
    cpu: float


def cost(run: Callable[[], None], frames: int) -> Cost:
    """Runs it in a process of its own."""
    started = time.monotonic()
    pid = os.fork()
    if not pid:
        try:
            run()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - started
    if status:
        raise SystemExit(f"a run failed: status {status}")
    return Cost(wall / frames, (usage.ru_utime + usage.ru_stime) / frames)


def measure(task: Task, video: Path, rounds: int) -> dict[str, Cost]:
    """The medians of each way."""
    with tempfile.TemporaryDirectory() as directory:

        def routines() -> tuple[Clip, HogPeopleDetector | MotionDetector, Annotator, VideoWriter]:
            writer = VideoWriter(Path(directory) / "out.mp4", name="writer")
            return Clip(video, task.frames), task.detector("detector"), Annotator(name="annotator"), writer

        def loop(threads: int) -> None:
            cv2.setNumThreads(threads)
            camera, detector, annotator, writer = routines()
            for routine in (camera, detector, writer):
                routine.setup()
            for _ in range(task.frames):
                writer.main_logic(annotator.main_logic(detector.main_logic(camera.main_logic())))
            for routine in (camera, detector, writer):
                routine.cleanup()

        def pipe() -> None:
            cv2.setNumThreads(1)
            camera, detector, annotator, writer = routines()
            with Pipe(policy="block") as pipe:
                pipe.create_flow("camera", False, camera)
                pipe.create_flow("detect", False, detector, replicas=task.copies, ordered=task.copies > 1)
                pipe.create_flow("output", True, annotator, writer)
                pipe.link(Wire(camera, detector), Wire(detector, annotator))
                pipe.build()
                pipe.notify_event("start")

        ways: dict[str, Callable[[], None]] = {"loop": lambda: loop(-1), "loop, one thread": lambda: loop(1), "pipe": pipe}
        costs: dict[str, list[Cost]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, run in ways.items():
                costs[name].append(cost(run, task.frames))
    return {name: Cost(*map(statistics.median, zip(*runs, strict=True))) for name, runs in costs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=250, help="at most so many of each clip")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    if min(chosen.frames, chosen.rounds) < 1:
        parser.error("at least one frame and one round")

    for what, value in describe().items():
        print(f"{what}: {value}")
    clips = [packaged_clip()]
    if VTEST.exists():
        clips.append(VTEST)
    else:
        print(f"without {VTEST}: apt-get install opencv-doc")
    print(f"\n{'':8}{'clip':12}{'frames':>6}  {'way':18}{'fps':>8}{'CPU/frame':>12}{'pipe is':>10}{'CPU, pipe':>11}")
    for task in TASKS:
        task = task._replace(frames=min(task.frames, chosen.frames))
        for video in clips:
            costs = measure(task, video, chosen.rounds)
            for name, (wall, cpu) in costs.items():
                print(
                    f"{task.name:8}{video.name:12}{task.frames:6}  {name:18}{1 / wall:8.1f}{cpu * 1e3:9.2f} ms"
                    f"{wall / costs['pipe'].wall:9.2f}x{costs['pipe'].cpu / cpu:10.2f}x",
                    flush=True,
                )


if __name__ == "__main__":
    main()
