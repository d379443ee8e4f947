"""Attached processes for the kill campaign: they tap, keep frames, check them, detach and attach again, and get killed."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
import traceback
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np

import pipert_shm
from campaign_figures import Figures, Violation
from patterned import pattern
from pipert_shm import PipeStateError, Tap, UnknownTarget

MOST = 4


class Attachers:
    """The attached processes of one pipe.

    :param routines: those that may be tapped.
    """

    def __init__(self, pipe_id: str, routines: list[str], rng: random.Random, figures: Figures) -> None:
        self._pipe_id = pipe_id
        self._routines = routines
        self._rng = rng
        self._figures = figures
        self._running: dict[int, bool] = {}  # by pid, whether it is stopped
        self._complaints = tempfile.TemporaryFile("a+")  # noqa: SIM115 - as long as this object

    def torment(self) -> None:
        """Starts, kills, stops and continues some of them."""
        self.check()
        rng = self._rng
        while len(self._running) < MOST and rng.random() < 0.6:
            self._start()
        for pid, stopped in list(self._running.items()):
            chance = rng.random()
            if chance < 0.3:
                self._kill(pid)
            elif chance < 0.5:
                os.kill(pid, signal.SIGCONT if stopped else signal.SIGSTOP)
                self._running[pid] = not stopped
                self._figures.attacher_stops += not stopped

    def end(self) -> None:
        """Kills them all."""
        self.check()
        for pid in list(self._running):
            self._kill(pid)

    def check(self) -> None:
        """:raises Violation: when one has ended by itself."""
        for pid in list(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._running[pid]
                self._complaints.seek(0)
                raise Violation(f"attached process {pid} ended with {status}:\n{self._complaints.read()}")

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        del self._running[pid]
        self._figures.attacher_kills += 1

    def _start(self) -> None:
        seed = self._rng.random()
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                _live(self._pipe_id, self._routines, random.Random(seed))
            except BaseException:
                traceback.print_exc(file=self._complaints)
                self._complaints.flush()
            finally:
                os._exit(1)
        self._running[pid] = False


def _live(pipe_id: str, routines: list[str], rng: random.Random) -> None:
    """Attaches again and again, until it is killed, or its parent is dead."""
    home = os.getppid()
    while os.getppid() == home:
        with suppress(PipeStateError, UnknownTarget), pipert_shm.attach(pipe_id, timeout=0.1) as pipe:
            taps: list[Tap] = []
            for name in rng.sample(routines, min(len(routines), rng.choice((1, 1, 2)))):
                with suppress(PipeStateError):  # its flow is being restarted, or has no place left
                    taps.append(pipe.tap(name))
            _read(taps, rng)
            if rng.random() < 0.3:
                pipe.statistics()
            if rng.random() < 0.3:
                pipe.structure()
        time.sleep(rng.choice((0, 0, 0.01)))


def _read(taps: list[Tap], rng: random.Random) -> None:
    """Reads, and keeps some of it, which must stay as it is."""
    kept: deque[tuple[np.ndarray, int]] = deque(maxlen=rng.choice((1, 2, 5)))
    for _ in range(rng.choice((1, 10, 100))):
        for tap in list(taps):
            try:
                data = tap.read(timeout=0.05)
            except TimeoutError:
                continue
            except StopIteration:
                taps.remove(tap)
                continue
            assert tap.meta is not None
            wanted = pattern(tap.meta.origin, tap.meta.sequence)
            for frame in _frames(data):
                kept.append((frame, wanted))
        for frame, wanted in kept:
            assert (frame == wanted).all(), f"torn: {np.unique(frame)}, not {wanted}"
        if not taps:
            return


def _frames(data: Any) -> list[np.ndarray]:
    return data["frames"] if isinstance(data, dict) else [data]
