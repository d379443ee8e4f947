"""Processes that user code forks or starts: they take no part in the pipe, whatever they do, and keep nothing of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import RunScript, StartScript
from killing import FAST, assert_sound, await_states, running
from pipert_shm import DestinationRoutine, Pipe
from pipert_shm.shm.segments import is_stale, sweep_stale
from processes import descendants, reap_orphans
from routines import Frames, Record, chain, one_value, received
from waiting import Board, eventually

SHAPE = (64, 64, 3)
MESSAGES = 200
STATUS, CALLS = 0, 1  # cells of a board
STATUSES = {"returns": 0, "raises": 1, "exits": 3, "exits with a text": 1, "logs": 0}


class Forks(Record):
    """Forks a child while it holds frames, which lets go of them and then ends by coming back from where it was forked."""

    def __init__(self, name: str, path: Path, board: Board, how: str, where: str) -> None:
        super().__init__(name, path, one_value)
        self.board = board
        self.how = how
        self.where = where
        self.kept: list[Any] = []

    def setup(self) -> None:
        self.home = os.getpid()
        super().setup()
        if self.where == "setup":
            self.fork()

    def main_logic(self, data: Any) -> None:
        if os.getpid() != self.home:
            self.board.add(CALLS)
        super().main_logic(data)
        if self.meta.sequence in (19, 20):
            self.kept.append(data)
        if self.where == "main_logic" and self.meta.sequence == 20:
            self.fork()
        assert [one_value(frame) for frame in self.kept] == [19, 20][: len(self.kept)], (
            "the slot of a kept frame was given away"
        )

    def fork(self) -> None:
        self.file.flush()
        child = os.fork()
        if child:
            self.board[STATUS] = 100 + os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return
        self.kept.clear()
        if self.how == "raises":
            raise RuntimeError("on purpose")
        if self.how == "exits":
            sys.exit(3)
        if self.how == "exits with a text":
            sys.exit("on purpose")
        if self.how == "logs":
            self._logger.error("from a child")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # to fork a process with threads is what this is about
@pytest.mark.parametrize("where", ["setup", "main_logic"])
@pytest.mark.parametrize("how", STATUSES)
def test_a_forked_child_that_comes_back_is_not_the_routine(tmp_path: Path, how: str, where: str) -> None:
    """Neither does it take messages, nor let go of frames."""
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Frames("source", MESSAGES, SHAPE, loan=True), Forks("out", tmp_path / "got", board, how, where), **FAST)
    with running(pipe):
        await_states(pipe, source="ended", out="ended")
        assert_sound(pipe, {"out": 2})
    assert board[STATUS] == 100 + STATUSES[how]
    assert board[CALLS] == 0
    assert [(message.sequence, message.value) for message in received(tmp_path / "got")] == [(n, n) for n in range(MESSAGES)]


class LoansInChildren(Frames):
    """Its forked children ask for loans, too, and send them, or so they think."""

    def main_logic(self) -> Any:
        frame = super().main_logic()
        child = os.fork()
        if child == 0:
            frame[...] = 255
            other = self.loan(SHAPE)
            other[...] = 255
            return other
        assert os.waitpid(child, 0)[1] == 0
        return frame


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_gets_no_slots(tmp_path: Path) -> None:
    """What is a loan in the parent it can overwrite, as long as that is not sent: it is told in the README."""
    pipe = Pipe(policy="block")
    source = LoansInChildren("source", 100, SHAPE, loan=True)
    chain(pipe, source, Record("out", tmp_path / "got", one_value), **FAST)
    with running(pipe):
        await_states(pipe, source="ended", out="ended")
        assert_sound(pipe)
    assert [message.sequence for message in received(tmp_path / "got")] == list(range(100))


def test_a_child_of_the_parent_that_exits_normally(run_script: RunScript) -> None:
    """It has neither to wait for the pipe nor to end it, and exit handlers are its own."""
    script = run_script(
        """
import os, sys, warnings
import numpy as np
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine, Wire

class Source(SourceRoutine):
    def main_logic(self):
        if self.meta.sequence == 300:
            raise EndOfStream
        return np.zeros(1000, np.uint8)

class Sink(DestinationRoutine):
    def main_logic(self, data):
        pass

pipe = Pipe(policy="block")
source, sink = Source(), Sink()
pipe.create_flow("a", False, source)
pipe.create_flow("b", False, sink)
pipe.link(Wire(source, sink))
pipe.build()
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
pipe.notify_event("start")
pipe.join()
(wire,) = pipe.statistics().wires.values()
print(wire.sent, wire.received)
"""
    )
    assert (script.returncode, script.stderr, script.lines) == (0, "", ["300 300"])


def test_children_that_outlive_everything_keep_no_pipe_alive(start_script: StartScript) -> None:
    """All of the pipe is killed at one blow, its children, forked or started with all that can be inherited, are not."""
    known = set(descendants())
    script = start_script(
        """
import multiprocessing, os, subprocess, sys, time, warnings
import numpy as np
from pipert_shm import DestinationRoutine, Pipe, SourceRoutine, Wire

warnings.simplefilter("ignore", DeprecationWarning)

def sleep():
    os.setsid()
    time.sleep(1000)

def have_children():
    forked = os.fork()
    if forked == 0:
        sleep()
    other = multiprocessing.get_context("fork").Process(target=sleep)
    other.start()
    command = [sys.executable, "-c", "import time; time.sleep(1000)"]
    started = subprocess.Popen(command, close_fds=False, start_new_session=True)
    return [forked, other.pid, started.pid]

class Source(SourceRoutine):
    def main_logic(self):
        return np.zeros(10_000, np.uint8)

class Sink(DestinationRoutine):
    def main_logic(self, data):
        if self.meta.sequence == 20:
            print("flow", *have_children(), flush=True)

pipe = Pipe(policy="block")
source, sink = Source(), Sink()
pipe.create_flow("a", False, source)
pipe.create_flow("b", False, sink)
pipe.link(Wire(source, sink))
pipe.build()
print("parent", pipe._session.segment.pipe_id, *have_children(), flush=True)
pipe.notify_event("start")
pipe.join()
"""
    )
    assert script.process.stdout is not None
    _, pipe_id, *of_parent = script.process.stdout.readline().split()
    _, *of_flow = script.process.stdout.readline().split()
    children = {int(pid) for pid in (*of_parent, *of_flow)}
    try:
        assert len(children) == 6
        eventually(lambda: all(os.getsid(pid) == pid for pid in children), "sessions of their own")
        script.kill()
        script.process.wait()
        reap_orphans(known | children, timeout=2.0)
        assert children <= set(descendants())
        assert is_stale(pipe_id)
        assert pipe_id in sweep_stale()
        assert not list(Path("/dev/shm").glob(f"pipert-{pipe_id}-*"))
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
    reap_orphans(known)


class Spawns(DestinationRoutine):
    """Hands a copy of a frame to a pool of processes, as people do, and compares what comes back."""

    def __init__(self, name: str, board: Board, method: str) -> None:
        super().__init__(name)
        self.board = board
        self.method = method

    def main_logic(self, data: Any) -> None:
        if self.meta.sequence == 5:
            with multiprocessing.get_context(self.method).Pool(2) as pool:
                self.board[STATUS] = sum(pool.map(int, data[0, :10, 0]))
                pool.close()
                pool.join()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_of_processes_in_a_routine(method: str) -> None:
    known = set(descendants())
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Frames("source", 50, SHAPE, loan=True), Spawns("out", board, method), **FAST)
    with running(pipe):
        await_states(pipe, source="ended", out="ended")
        assert_sound(pipe)
    assert board[STATUS] == 50
    reap_orphans(known)  # multiprocessing's resource tracker
