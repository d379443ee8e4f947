"""The whole task without this project: threads in one process, and the way of Frigate."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from .camera_readers import KEEPS, Reader, ffmpeg_command, read_whole
from .camera_task import Board, Motion, Task, detect, write_line
from .processes import fork

SLOTS = 10  # frames of a camera in shared memory, of which most wait for nobody
PATIENCE_S = 0.2


def sink_of(reader: Reader, task: Task) -> None:
    """Reads the first camera, and notes its frames."""
    for picture in reader(task.url, task.clip):
        task.board.note(picture)
        task.board.count(0, Board.LOOKED)
        if task.board.over:
            return


def by_threads(reader: Reader, task: Task) -> None:
    """One process: a thread for each camera, which reads and looks for motion, and one for the detector."""
    found: queue.Queue[tuple[int, np.ndarray]] = queue.Queue(2 * len(task.urls))

    def watch(camera: int, url: str) -> None:
        try:
            read(camera, url)
        except BaseException:
            traceback.print_exc()
        if not task.board.over:
            os._exit(1)  # one camera less would look like less work

    def read(camera: int, url: str) -> None:
        motion = Motion(task.board, camera)
        for picture in reader(url, task.clip):
            if task.board.over:
                return
            if motion.look(picture):
                found.put((camera, picture if reader in KEEPS else picture.copy()))

    for camera, url in enumerate(task.urls):
        threading.Thread(target=watch, args=(camera, url), daemon=True).start()
    _detect(task, lambda: found.get(timeout=PATIENCE_S))


def _detect(task: Task, get: Callable[[], tuple[int, np.ndarray]]) -> None:
    with task.lines.open("a") as lines:
        while not task.board.over:
            with suppress(queue.Empty):
                camera, picture = get()
                write_line(lines, task.board, camera, detect(picture))


# ---- Frigate -------------------------------------------------------------------------------------

FRIGATE = {
    "threads": "2",
    "avoid_negative_ts": "make_zero",
    "fflags": "+genpts+discardcorrupt",
    "use_wallclock_as_timestamps": "1",
}


def by_frigate(task: Task) -> None:
    """Frigate's processes. For each camera: an ffmpeg with Frigate's options, one that reads its pipe into shared memory, and
    one that looks for motion. For all: the detector's. Queues carry the places of frames.
    """
    wanted: Any = fork.Queue()
    rings = [SharedMemory(create=True, size=SLOTS * task.clip.width * task.clip.height * 3 // 2) for _ in task.urls]
    try:
        processes = [fork.Process(target=_detect_frames, args=(task, rings, wanted))]
        for camera, (url, ring) in enumerate(zip(task.urls, rings, strict=True)):
            names: Any = fork.Queue(2)
            processes.append(fork.Process(target=_capture, args=(task, url, ring, names)))
            processes.append(fork.Process(target=_track, args=(task, camera, ring, names, wanted)))
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    finally:
        for ring in rings:
            ring.close()
            ring.unlink()


def _slot(task: Task, ring: SharedMemory, slot: int) -> np.ndarray:
    shape = task.clip.height * 3 // 2, task.clip.width
    return np.ndarray(shape, np.uint8, ring.buf, slot * shape[0] * shape[1])


def _capture(task: Task, url: str, ring: SharedMemory, names: Any) -> None:
    command = ffmpeg_command(url, FRIGATE)
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as ffmpeg:
        assert ffmpeg.stdout is not None
        number = 0
        while not task.board.over and read_whole(ffmpeg.stdout.fileno(), _slot(task, ring, number % SLOTS).data.cast("B")):
            with suppress(queue.Full):  # then the frame is skipped, as there
                names.put_nowait(number % SLOTS)
                number += 1
        ffmpeg.kill()
    names.cancel_join_thread()


def _track(task: Task, camera: int, ring: SharedMemory, names: Any, wanted: Any) -> None:
    motion = Motion(task.board, camera)
    get: Callable[[], int] = partial(names.get, timeout=PATIENCE_S)
    while not task.board.over:
        with suppress(queue.Empty):
            slot = get()
            if motion.look(_slot(task, ring, slot)[: task.clip.height]):
                wanted.put((camera, slot))
    wanted.cancel_join_thread()


def _detect_frames(task: Task, rings: list[SharedMemory], wanted: Any) -> None:
    def get() -> tuple[int, np.ndarray]:
        camera, slot = wanted.get(timeout=PATIENCE_S)
        return camera, _slot(task, rings[camera], slot)

    _detect(task, get)
