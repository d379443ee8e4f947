"""The soak: `python tests/soak.py --minutes 30`.

A 1080p camera at 60 fps, a detector that forwards it with a crop, and a screen that gets both; three flows, one of them
killed every 20 seconds. Memory, file descriptors, slots and /dev/shm are sampled all the time, and must be flat: what the
last third of the run needs is held against the third before it. Ends with status 1 where it is not.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import time
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from audit import take_snapshot
from killing import assert_sound, await_motion, drain, kill_flows, launcher_of, pipe_id_of
from pipert_shm import START_EVENT_NAME, DestinationRoutine, MiddleRoutine, Pipe, SourceRoutine, Wire

FRAME = (1080, 1920, 3)
FPS = 60
KILL_EVERY = 20.0
SAMPLE_EVERY = 0.5
GROWTH = {"RSS (MB)": 6.0, "fds": 0.0, "slots": 2.0, "shm (MB)": 8.0}  # what may be added from one third to the next


class Camera(SourceRoutine):
    def __init__(self) -> None:
        super().__init__("camera")
        self.set_const_fps(FPS)
        self.declare_output(FRAME)

    def main_logic(self) -> np.ndarray:
        frame = self.loan(FRAME)
        frame[...] = self.meta.sequence % 251
        return frame


def check(frame: np.ndarray, sequence: int) -> None:
    assert (frame[::40, ::40] == sequence % 251).all(), f"torn: {sequence}: {np.unique(frame)}"


class Detector(MiddleRoutine):
    def main_logic(self, data: np.ndarray) -> Any:
        check(data, self.meta.sequence)
        return {"frame": data, "crop": data[100:300, 200:500], "boxes": np.full((5000, 4), self.meta.sequence)}


class Screen(DestinationRoutine):
    def main_logic(self, data: Any) -> None:
        if isinstance(data, dict):
            check(data["crop"], self.meta.sequence)
            assert (data["boxes"] == self.meta.sequence).all()
            data = data["frame"]
        check(data, self.meta.sequence)


# ---- samples -------------------------------------------------------------------------------------


def private_megabytes(pid: int) -> float:
    """Resident memory that is not shared memory: of that, what is mapped is a matter of the pages that were looked at."""
    kilobytes = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(("RssAnon:", "RssFile:")):
            kilobytes += int(line.split()[1])
    return kilobytes / 1024


def unlinked_bytes(pipe_id: str, pids: Iterable[int]) -> int:
    """Segments that have no name any more, but that some process still maps."""
    sizes: dict[str, int] = {}
    for pid in pids:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if f"pipert-{pipe_id}-" in line and line.endswith("(deleted)"):
                span, _, offset, _, inode, *_ = line.split()
                start, end = (int(part, 16) for part in span.split("-"))
                sizes[inode] = max(sizes.get(inode, 0), int(offset, 16) + end - start)
    return sum(sizes.values())


def sample(pipe: Pipe) -> dict[str, dict[str, float]]:
    """What there is now, by kind and by whose it is."""
    pids = {flow.name: flow.pid for flow in pipe.statistics().flows.values()}
    pids |= {"launcher": launcher_of(pipe), "parent": os.getpid()}
    shot = take_snapshot(pipe_id_of(pipe))
    names = list(pipe.statistics().routines)
    files = sum(path.stat().st_size for path in Path("/dev/shm").glob(f"pipert-{shot.pipe_id}-*"))
    slots: dict[str, float] = dict.fromkeys(names, 0.0)
    for ring in shot.rings.values():
        slots[names[ring.owner]] += sum(1 for slot in range(len(ring.words)) if ring.holders(slot))
    return {
        "RSS (MB)": {name: private_megabytes(pid) for name, pid in pids.items()},
        "fds": {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pids.items()},
        "slots": slots,
        "shm (MB)": {"pipe": (files + unlinked_bytes(shot.pipe_id, pids.values())) / 2**20},
    }


def judge(samples: list[dict[str, dict[str, float]]]) -> tuple[str, bool]:
    """A table of what the second and the last third of the run needed at the most, and whether that is flat."""
    third = len(samples) // 3
    lines = [f"{'':26}{'first third':>12}{'second':>12}{'last':>12}{'growth':>10}{'allowed':>9}"]
    flat = True
    for kind, allowed in GROWTH.items():
        for whose in samples[0][kind]:
            # The highest but for a few: a sample may fall between a death and the end of its recovery.
            first, second, last = (
                statistics.quantiles([s[kind][whose] for s in part], n=20)[-1]
                for part in (samples[:third], samples[third : 2 * third], samples[2 * third :])
            )
            growth = last - second
            flat &= growth <= allowed
            verdict = "" if growth <= allowed else "  GROWS"
            lines.append(f"{kind:10}{whose:16}{first:12.1f}{second:12.1f}{last:12.1f}{growth:+10.1f}{allowed:9.1f}{verdict}")
    return "\n".join(lines), flat


# ---- the run -------------------------------------------------------------------------------------


def make_pipe() -> Pipe:
    camera, detector, screen = Camera(), Detector("detector"), Screen("screen")
    pipe = Pipe(capacity=2)
    for routine in (camera, detector, screen):
        pipe.create_flow(routine.name, False, routine, max_restarts=10**6, restart_window=1.0)
    pipe.link(Wire(camera, (detector, screen)), Wire(detector, screen))
    return pipe


def soak(pipe: Pipe, seconds: float) -> tuple[list[dict[str, dict[str, float]]], int]:
    """Kills, and samples; the samples, and how many kills there were."""
    victims = cycle(pipe.statistics().flows)
    samples = []
    kills = 0
    end = time.monotonic() + seconds
    next_kill = time.monotonic() + KILL_EVERY / 2
    while (now := time.monotonic()) < end:
        if now >= next_kill:
            kill_flows(pipe, next(victims))
            await_motion(pipe)
            kills += 1
            next_kill += KILL_EVERY
        samples.append(sample(pipe))
        time.sleep(SAMPLE_EVERY)
    return samples, kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    pipe = make_pipe()
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    await_motion(pipe, messages=10)
    before = pipe.statistics()
    samples, kills = soak(pipe, options.minutes * 60)
    after = pipe.statistics()
    table, flat = judge(samples)
    print(f"{options.minutes:g} minutes, {len(samples)} samples, {kills} kills; RSS without shared memory; 95th percentiles")
    print(table)
    for wire, counters in after.wires.items():
        seconds = after.time_s - before.time_s
        fps = (counters.sent - before.wires[wire].sent) / seconds, (counters.received - before.wires[wire].received) / seconds
        dropped = {reason: count for reason, count in counters.dropped.items() if count}
        print(f"{' -> '.join(wire)}: sent {fps[0]:.1f} fps, received {fps[1]:.1f} fps; dropped {dropped or 'nothing'}")
    drain(pipe, "camera")
    assert_sound(pipe)
    errors = sum(routine.errors for routine in pipe.statistics().routines.values())
    pipe.join(to_kill=True)
    left = list(Path("/dev/shm").glob(f"pipert-{pipe_id_of(pipe)}-*"))
    print(f"at rest: every slot is free and every counter adds up; {errors} errors; left: {left or 'nothing'}")
    return 0 if flat and not errors and not left else 1


if __name__ == "__main__":
    sys.exit(main())
