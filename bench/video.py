"""How much faster a whole pipe is than the same routines in one loop, and what it costs in CPU time.

    python -m bench.video                       # motion detection on bikes.mp4
    python -m bench.video --people --video vtest.avi --frames 60

Loop and pipe take turns, each in a process of its own; the figures are medians. OpenCV may use all cores in the loop, as it
does by default; in the pipe, whose processes share them, it uses one thread each.
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
from pipert_shm.demo import default_clip


class Clip(VideoSource):
    """The first frames of a video."""

    def __init__(self, video: str, frames: int) -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", default=str(default_clip()))
    parser.add_argument("--frames", type=int, default=250)
    parser.add_argument("--people", action="store_true", help="HOG, in two processes, instead of motion detection")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()

    with tempfile.TemporaryDirectory() as directory:

        def routines() -> tuple[Clip, HogPeopleDetector | MotionDetector, Annotator, VideoWriter]:
            detector = HogPeopleDetector("detector") if chosen.people else MotionDetector("detector")
            writer = VideoWriter(Path(directory) / "out.mp4", name="writer")
            return Clip(chosen.video, chosen.frames), detector, Annotator(name="annotator"), writer

        def loop(threads: int) -> None:
            cv2.setNumThreads(threads)
            camera, detector, annotator, writer = routines()
            for routine in (camera, detector, writer):
                routine.setup()
            for _ in range(chosen.frames):
                writer.main_logic(annotator.main_logic(detector.main_logic(camera.main_logic())))
            for routine in (camera, detector, writer):
                routine.cleanup()

        def pipe() -> None:
            cv2.setNumThreads(1)
            camera, detector, annotator, writer = routines()
            copies = 2 if chosen.people else 1
            with Pipe(policy="block") as pipe:
                pipe.create_flow("camera", False, camera)
                pipe.create_flow("detect", False, detector, replicas=copies, ordered=copies > 1)
                pipe.create_flow("output", True, annotator, writer)
                pipe.link(Wire(camera, detector), Wire(detector, annotator))
                pipe.build()
                pipe.notify_event("start")

        ways: dict[str, Callable[[], None]] = {"loop": lambda: loop(-1), "loop, one thread": lambda: loop(1), "pipe": pipe}
        costs: dict[str, list[Cost]] = {name: [] for name in ways}
        for _ in range(chosen.rounds):
            for name, run in ways.items():
                costs[name].append(cost(run, chosen.frames))

    walls = {name: statistics.median(each.wall for each in runs) for name, runs in costs.items()}
    print(f"{'':18}{'fps':>8}{'CPU/frame':>12}{'pipe is':>10}")
    for name, runs in costs.items():
        cpu = statistics.median(each.cpu for each in runs)
        print(f"{name:18}{1 / walls[name]:8.1f}{cpu * 1e3:9.2f} ms{walls[name] / walls['pipe']:9.2f}x")


if __name__ == "__main__":
    main()
