"""The controls: a wake and nothing else, and a copy and nothing else."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

from .processes import run_together
from .sheet import FEWEST, FRAMES, HEADER, Load, Sheet

PAGE = 4096


class _Notes(ctypes.Structure):
    """`notes` of control.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("sent", "received", "sent_ns", "received_ns", "cpu_ns")),
        ("first", ctypes.c_int64),
    )


def _notes(sheet: Sheet, process: int) -> _Notes:
    def word(number: int) -> int:
        return int(sheet.words.ctypes.data) + 8 * number

    column = HEADER + sheet.room * max(1, process)
    return _Notes(word(Sheet.SENT), word(Sheet.RECEIVED), word(HEADER), word(column), word(Sheet.CPU + 2 * process), FRAMES)


def by_futex(sheet: Sheet) -> None:
    """A futex from C to C, with no frame at all, to as many receivers as the sheet has."""
    control = compile_control()
    boxes = np.frombuffer(mmap.mmap(-1, PAGE * sheet.receivers), np.uint8)
    address = boxes.ctypes.data
    load = sheet.load

    def send() -> None:
        notes = _notes(sheet, 0)
        ticks, fewest, period = (ctypes.c_int64(number) for number in (load.ticks, FEWEST, load.period_ns))
        control.control_send(
            ctypes.c_void_p(address), ctypes.c_int64(sheet.receivers), ctypes.byref(notes), ticks, fewest, period
        )

    def receive(at: int) -> None:
        notes = _notes(sheet, 1 + at)
        control.control_receive(ctypes.c_void_p(address + PAGE * at), ctypes.c_int64(at), ctypes.byref(notes))

    receivers: list[Callable[[], None]] = [partial(receive, at) for at in range(sheet.receivers)]
    run_together(*receivers, send)


def copies_per_second(load: Load, slots: int) -> float:
    """Of a frame into a ring in /dev/shm of so many slots, by one process that does nothing else."""
    sources = load.frames()
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        os.posix_fallocate(file.fileno(), 0, slots * load.frame_bytes)
        ring = np.frombuffer(mmap.mmap(file.fileno(), slots * load.frame_bytes), np.uint8).reshape(slots, *load.largest)
        for slot in range(slots):
            np.copyto(ring[slot], sources[slot % FRAMES])
        count, start = 0, time.monotonic_ns()
        while (elapsed := time.monotonic_ns() - start) < load.seconds * 1e9:
            np.copyto(ring[count % slots], sources[count % FRAMES])
            count += 1
        del ring
    return count / (elapsed / 1e9)


@cache
def compile_control() -> ctypes.CDLL:
    source = Path(__file__).with_name("control.c")
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory, "control.so")
        compiler = os.environ.get("CC", "cc").split()
        if shutil.which(compiler[0]) is None:
            raise RuntimeError(f"there is no C compiler, {compiler[0]}: apt-get install gcc libc6-dev")
        subprocess.run([*compiler, "-std=gnu11", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        return ctypes.CDLL(str(library))
