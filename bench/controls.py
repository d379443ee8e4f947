"""The controls: a wake alone, one between two Pythons, a queue between two threads, and a copy alone."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from .processes import run_together, settle
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


class _Frames(ctypes.Structure):
    """`frames` of loops.c."""

    _fields_ = (("base", ctypes.c_void_p), ("stride", ctypes.c_int64), ("shape", ctypes.c_int64 * 3 * FRAMES))


class _Over(Exception):
    """Ends a loop."""


def by_loops(sheet: Sheet, *, apart: bool = False) -> None:
    """Loops in C that call a function of Python at each end, with frames that lie ready.

    :param apart: whether each end has a processor of its own.
    """
    loops = compile_loops()
    load = sheet.load
    channel = np.frombuffer(mmap.mmap(-1, PAGE), np.uint8)
    memory = np.frombuffer(mmap.mmap(-1, FRAMES * load.frame_bytes), np.uint8)
    frames, where = [], _Frames(memory.ctypes.data, load.frame_bytes)
    for number in range(FRAMES):
        shape = load.shape(number)
        frames.append(memory[number * load.frame_bytes :][: int(np.prod(shape))].reshape(shape))
        frames[number][:] = number
        where.shape[number][:] = shape
    address, ticks = ctypes.c_void_p(channel.ctypes.data), 0

    def camera() -> np.ndarray | None:
        nonlocal ticks
        if sheet.is_full(ticks):
            raise _Over
        ticks += 1
        return frames[sheet.stamp() % FRAMES] if sheet.may_send() else None

    def screen(frame: np.ndarray) -> None:
        sheet.note(frame, now=time.monotonic_ns())

    def send() -> None:
        if apart:
            settle(0)
        with suppress(_Over):
            loops.loops_send(address, ctypes.byref(where), ctypes.c_int64(load.period_ns), ctypes.py_object(camera))
        sheet.mark(0, end=True)

    def receive() -> None:
        if apart:
            settle(1)
        loops.loops_receive(address, ctypes.byref(where), ctypes.py_object(screen))
        sheet.mark(1, end=True)

    run_together(receive, send)


def by_threads(sheet: Sheet) -> None:
    """Two threads of one process, and a `queue.SimpleQueue` that holds whatever is put into it."""
    load, frames = sheet.load, sheet.load.frames()
    queue: SimpleQueue[np.ndarray | None] = SimpleQueue()

    def receive() -> None:
        while (frame := queue.get()) is not None:
            sheet.note(frame, now=time.monotonic_ns())
            del frame
        sheet.mark(1, end=True)

    def both() -> None:
        receiver = threading.Thread(target=receive)
        receiver.start()
        start, ticks = time.monotonic_ns(), 0
        while not sheet.is_full(ticks):
            ticks += 1
            time.sleep(max(0, start + ticks * load.period_ns - time.monotonic_ns()) / 1e9)
            if sheet.may_send():
                queue.put(frames[sheet.stamp() % FRAMES])
        sheet.mark(0, end=True)
        queue.put(None)
        receiver.join()

    run_together(both)


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
    return ctypes.CDLL(str(_compiled("control.c")))


@cache
def compile_loops() -> ctypes.PyDLL:
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not headers.exists():
        raise RuntimeError(f"there is no {headers}: apt-get install python3-dev")
    loops = ctypes.PyDLL(str(_compiled("loops.c", f"-I{headers.parent}", f"-I{np.get_include()}")))
    for function in (loops.loops_send, loops.loops_receive):
        function.restype = ctypes.py_object
    if loops.loops_begin():
        raise RuntimeError("NumPy is not what loops.c was compiled for")
    return loops


def _compiled(name: str, *flags: str) -> Path:
    """A library, made of a file beside this one, which is there as long as this process."""
    library = Path(_directory().name, name).with_suffix(".so")
    compiler = os.environ.get("CC", "cc").split()
    if shutil.which(compiler[0]) is None:
        raise RuntimeError(f"there is no C compiler, {compiler[0]}: apt-get install gcc libc6-dev")
    source = Path(__file__).with_name(name)
    subprocess.run([*compiler, "-std=gnu11", "-O2", "-Wall", "-shared", "-fPIC", *flags, "-o", library, source], check=True)
    return library


@cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()
