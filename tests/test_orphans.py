"""Processes whose parent, launcher or flow is gone: they end by themselves, and leave nothing that is not swept."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import StartScript
from killing import FAST, assert_sound, await_motion, drain, kill_flows, launcher_of, pid_of, pipe_id_of, running
from patterned import SHAPE, Camera, Checks, Screen, Step
from pipert_shm import DestinationRoutine, Pipe, PipeFailed, Wire
from pipert_shm.shm.segments import is_stale, sweep_stale
from processes import descendants, reap_orphans
from waiting import Board, eventually

# Prints the pipe's id, then works until it is killed.
SCRIPT = """
import sys, time
import numpy as np
from pipert_shm import DestinationRoutine, MiddleRoutine, Pipe, SourceRoutine, START_EVENT_NAME, Wire

class Frames(SourceRoutine):
    def main_logic(self):
        frame = self.loan((100, 100, 3))
        frame[...] = self.meta.sequence % 251
        return frame

class Forward(MiddleRoutine):
    def main_logic(self, data):
        return data

class Sink(DestinationRoutine):
    def main_logic(self, data):
        if self.meta.sequence == 50:
            print("fifty", flush=True)

a, b, c = Frames("a"), Forward("b"), Sink("c")
pipe = Pipe(policy="block")
for routine in (a, b, c):
    pipe.create_flow(routine.name, False, routine)
pipe.link(Wire(a, b), Wire(b, c))
pipe.build()
print(pipe._session.segment.pipe_id, flush=True)
pipe.notify_event(START_EVENT_NAME)
pipe.join()
"""


def make_pipe(board: Board, **options: Any) -> Pipe:
    checks = Checks(board, {("cam", "mid"): 0, ("cam", "mid", "out"): 2})
    routines = Camera("cam", SHAPE, loaning=True), Step("mid", "extend", checks), Screen("out", checks)
    pipe = Pipe(policy="block", **options)
    for routine in routines:
        pipe.create_flow(routine.name, False, routine, **FAST)
    pipe.link(Wire(routines[0], routines[1]), Wire(routines[1], routines[2]))
    return pipe


def segments(pipe_id: str) -> list[str]:
    return [path.name for path in Path("/dev/shm").glob(f"pipert-{pipe_id}-*")]


# ---- the launcher --------------------------------------------------------------------------------


def test_the_launcher_is_killed() -> None:
    known = set(descendants())
    with running(make_pipe(Board())) as other:
        await_motion(other)
        with running(make_pipe(Board())) as pipe:
            await_motion(pipe)
            flows = [pid_of(pipe, flow) for flow in pipe.statistics().flows]
            started = time.monotonic()
            os.kill(launcher_of(pipe), signal.SIGKILL)
            with pytest.raises(PipeFailed, match="flow 'launcher' was killed by signal 9") as failure:
                pipe.join()
            assert failure.value.exit_codes == {}
            reap_orphans(known | set(descendants(launcher_of(other))) | {launcher_of(other)})
            assert time.monotonic() - started < 1.5
            assert not any(Path(f"/proc/{pid}").exists() for pid in flows)
            assert not segments(pipe_id_of(pipe))
            assert pipe.statistics().wires["cam", "mid"].received > 0  # the last counters stay
        await_motion(other, messages=20)
        assert all(flow.restarts == 0 for flow in other.statistics().flows.values())
        drain(other, "cam")
        assert_sound(other, {"cam": 2})


def test_the_launcher_is_killed_while_a_routine_is_in_a_long_call() -> None:
    known = set(descendants())
    board = Board()

    class Busy(DestinationRoutine):
        def main_logic(self, data: Any) -> None:
            board[4] = 1
            time.sleep(1000)

    camera, busy = Camera("cam", SHAPE, loaning=True), Busy("busy")
    pipe = Pipe(grace_period=0.2)
    pipe.create_flow("cam", False, camera)
    pipe.create_flow("busy", False, busy)
    pipe.link(Wire(camera, busy))
    with running(pipe):
        board.wait(4)
        os.kill(launcher_of(pipe), signal.SIGKILL)
        with pytest.raises(PipeFailed):
            pipe.join()
        reap_orphans(known)


# ---- the parent, and everything ------------------------------------------------------------------


def test_the_parent_is_killed(start_script: StartScript) -> None:
    known = set(descendants())
    script = start_script(SCRIPT)
    assert script.process.stdout is not None
    pipe_id = script.process.stdout.readline().strip()
    script.wait_for_line("fifty")
    assert segments(pipe_id)
    script.process.kill()
    script.process.wait()
    reap_orphans(known, timeout=2.0)
    assert not segments(pipe_id)


def test_the_parent_is_killed_while_a_flow_is_stopped(start_script: StartScript) -> None:
    """A stopped process can't end by itself: the launcher kills it when the grace period is over."""
    known = set(descendants())
    script = start_script(SCRIPT.replace('policy="block"', 'policy="block", grace_period=0.2'))
    assert script.process.stdout is not None
    pipe_id = script.process.stdout.readline().strip()
    script.wait_for_line("fifty")
    (launcher,) = (pid for pid in descendants(script.process.pid) if descendants(pid))
    os.kill(descendants(launcher)[1], signal.SIGSTOP)
    script.process.kill()
    script.process.wait()
    reap_orphans(known, timeout=2.0)
    assert not segments(pipe_id)


def test_everything_is_killed_at_once_and_the_next_build_sweeps(start_script: StartScript) -> None:
    known = set(descendants())
    with running(make_pipe(Board())) as other:
        await_motion(other)
        script = start_script(SCRIPT)
        assert script.process.stdout is not None
        pipe_id = script.process.stdout.readline().strip()
        script.wait_for_line("fifty")
        script.kill()
        script.process.wait()
        reap_orphans(known | set(descendants(launcher_of(other))) | {launcher_of(other)}, timeout=2.0)
        assert segments(pipe_id)
        assert is_stale(pipe_id)
        assert not is_stale(pipe_id_of(other))
        with running(make_pipe(Board())) as third:
            assert not segments(pipe_id)
            await_motion(third)
        await_motion(other, messages=20)
        drain(other, "cam")
        assert_sound(other, {"cam": 2})


def test_the_parent_and_the_launcher_are_killed(start_script: StartScript) -> None:
    """Flows end by themselves; what nobody was left to unlink is stale."""
    known = set(descendants())
    script = start_script(SCRIPT)
    assert script.process.stdout is not None
    pipe_id = script.process.stdout.readline().strip()
    script.wait_for_line("fifty")
    (launcher,) = (pid for pid in descendants(script.process.pid) if descendants(pid))
    os.kill(script.process.pid, signal.SIGSTOP)  # so that it does not see the other's death
    os.kill(launcher, signal.SIGKILL)
    script.process.kill()
    script.process.wait()
    reap_orphans(known, timeout=2.0)
    assert pipe_id in sweep_stale()
    assert not segments(pipe_id)


# ---- children of user code -----------------------------------------------------------------------


class Forker(DestinationRoutine):
    """Keeps a frame, and lets a forked child and a subprocess come and go."""

    def __init__(self, name: str, board: Board, *, children_stay: bool) -> None:
        super().__init__(name)
        self.board = board
        self.children_stay = children_stay
        self.kept: np.ndarray | None = None
        self.forked = False

    def main_logic(self, data: np.ndarray) -> None:
        if self.kept is None:
            self.kept, self.value = data, int(data[0, 0, 0])
        elif not self.forked:  # nobody but us has a view of that frame any more
            self.forked = True
            if self.children_stay:
                self.child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
                self.child.start()
                self.board[5] = self.child.pid or 0
            else:
                child = multiprocessing.get_context("fork").Process(target=self.forget)
                child.start()
                child.join()
                assert child.exitcode == 0
                subprocess.run([sys.executable, "-c", ""], check=True)
        assert (self.kept == self.value).all(), "the slot of a kept frame was given away"
        self.board.add(4)

    def forget(self) -> None:
        """In the child: the last view of the frame dies, in the normal way and at the interpreter's end."""
        assert self.kept is not None
        assert (self.kept == self.value).all()
        self.kept = None


def forking_pipe(board: Board, *, children_stay: bool) -> Pipe:
    camera, forker = Camera("cam", SHAPE, loaning=True), Forker("out", board, children_stay=children_stay)
    pipe = Pipe(policy="block", capacity=1)
    pipe.create_flow("cam", False, camera, **FAST)
    pipe.create_flow("out", False, forker, **FAST)
    pipe.link(Wire(camera, forker))
    return pipe


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # to fork a process with threads is what this is about
def test_forked_children_release_nothing() -> None:
    board = Board()
    with running(forking_pipe(board, children_stay=False)) as pipe:
        board.wait(4, 200)  # every slot was used again, many times
        drain(pipe, "cam")
        assert_sound(pipe, {"cam": 2, "out": 1})


def open_files(pid: int) -> list[str]:
    files = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            files.append(os.readlink(entry))
    return files


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_children_keep_no_locks() -> None:
    """A child that outlives its flow, and the whole pipe, keeps neither the pipe's lock nor its channels."""
    known = set(descendants())
    board = Board()
    children: list[int] = []

    def await_child() -> None:
        eventually(lambda: board[5] not in (0, *children), "a child")
        children.append(board[5])

    try:
        with running(forking_pipe(board, children_stay=True)) as pipe:
            for _ in range(2):
                await_child()
                kill_flows(pipe, "out")
            await_child()
            for child in children:
                # soon: it may not have run since the fork
                eventually(lambda child=child: not any("pipert-" in file for file in open_files(child)))  # type: ignore[misc]
            started = time.monotonic()
            pipe.join(to_kill=True)  # it waits for the last of the flows' ends of the channels
            assert time.monotonic() - started < 2.0
        assert not segments(pipe_id_of(pipe))
        assert all(Path(f"/proc/{child}").exists() for child in children)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
    reap_orphans(known)
