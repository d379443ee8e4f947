"""Where an array lies in shared memory, and how often it was copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipert_shm import START_EVENT_NAME, Pipe
from routines import Frames

SHAPE = (120, 160, 3)
NBYTES = 120 * 160 * 3


def place(array: np.ndarray) -> tuple[str, int] | None:
    """The segment that an array's first element lies in, and where in it: the same in every process. None: private memory."""
    address: int = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, _, _, *path = line.split(maxsplit=5)
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= address < last and path and path[0].startswith("/dev/shm/pipert-"):
            return path[0].split()[0], address - first + int(offset, 16)
    return None


def mapped() -> set[str]:
    """The segments that are mapped here."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[5] for line in lines if "/dev/shm/pipert-" in line}


class Placed(Frames):
    """Sends each frame with the place that it was loaned in."""

    def main_logic(self) -> Any:
        frame = super().main_logic()
        return {"frame": frame, "place": place(frame)}


def run(pipe: Pipe) -> None:
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()


def copied(pipe: Pipe) -> dict[str, int]:
    return {name: routine.copied_bytes for name, routine in pipe.statistics().routines.items()}


def private(pipe: Pipe) -> int:
    return sum(wire.private_bytes for wire in pipe.statistics().wires.values())
