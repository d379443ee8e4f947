"""What a pipe leaves where it ran: no file descriptor, thread, child, mapping or segment, however it ended."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable

import pytest

from conftest import Possessions, RunScript
from killing import FAST, await_motion, kill_flows, launcher_of, pid_of, running
from pipert_shm import START_EVENT_NAME, DestinationRoutine, Pipe, PipeFailed
from processes import descendants, reap_orphans
from routines import Forward, Frames, Sink, chain

pytestmark = pytest.mark.shm

CYCLES = 4


class Fails(DestinationRoutine):
    def setup(self) -> None:
        raise RuntimeError("on purpose")

    def main_logic(self, data: object) -> None:
        raise AssertionError("it was not set up")


def make_pipe(count: int | None = None, sink: DestinationRoutine | None = None) -> Pipe:
    pipe = Pipe()
    chain(pipe, Frames("cam", count, loan=True), Forward("mid"), sink or Sink("out"), **FAST)
    pipe.build()
    return pipe


def ends() -> None:
    pipe = make_pipe(5)
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()


def is_killed() -> None:
    pipe = make_pipe()
    pipe.notify_event(START_EVENT_NAME)
    await_motion(pipe)
    pipe.join(to_kill=True)


def never_starts() -> None:
    make_pipe().join(to_kill=True)


def crashes() -> None:
    pipe = make_pipe()
    pipe.notify_event(START_EVENT_NAME)
    await_motion(pipe)
    kill_flows(pipe, "cam", "out")
    await_motion(pipe)
    pipe.join(to_kill=True)


def fails() -> None:
    pipe = make_pipe(5, Fails("out"))
    pipe.notify_event(START_EVENT_NAME)
    with pytest.raises(PipeFailed, match="on purpose"):
        pipe.join()


def is_tapped() -> None:
    pipe = make_pipe()
    pipe.notify_event(START_EVENT_NAME)
    with pipe.tap("cam") as tap:
        assert next(tap).shape == (64, 64, 3)
    pipe.join(to_kill=True)


@pytest.mark.parametrize("cycle", [ends, is_killed, never_starts, crashes, fails, is_tapped])
def test_as_before_after_each_of_many_cycles(cycle: Callable[[], None]) -> None:
    """At once, with no time to settle: when join() is back, all is over."""
    cycle()  # what is loaded and made once is so from here on
    gc.collect()
    before = Possessions()
    for _ in range(CYCLES):
        cycle()
        gc.collect()
        assert before.left_by_now() == []


def test_launcher_and_survivors_keep_nothing_of_the_dead() -> None:
    def possessions(pid: int) -> tuple[int, int]:
        return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))

    pipe = Pipe()
    chain(pipe, Frames("cam", None, loan=True), Forward("mid"), Sink("out"), **FAST)
    with running(pipe):
        await_motion(pipe)
        survivors = [launcher_of(pipe), pid_of(pipe, "mid"), os.getpid()]
        before = [possessions(pid) for pid in survivors]
        for _ in range(CYCLES):
            kill_flows(pipe, "cam", "out")
            await_motion(pipe)
        assert [possessions(pid) for pid in survivors] == before


# ---- a build that fails --------------------------------------------------------------------------


def test_no_file_descriptor_is_left_at_build(run_script: RunScript) -> None:
    """With one more each time, until it suffices: one error that says so, in whichever process it was, and nothing left."""
    known = set(descendants())
    script = run_script(
        """
import logging, os, resource, signal, sys, threading, warnings
from pathlib import Path
import numpy as np
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, PipeFailed, SourceRoutine, Wire

class Camera(SourceRoutine):
    def main_logic(self):
        if self.meta.sequence == 5:
            raise EndOfStream
        return np.zeros(100_000, np.uint8)

class Show(DestinationRoutine):
    def main_logic(self, data):
        assert data.sum() == 0

def attempt(later=None):
    camera, show = Camera("camera"), Show("show")
    camera.declare_output((100_000,))
    pipe = Pipe(policy="block")
    pipe.create_flow("a", False, camera)
    pipe.create_flow("b", False, show)
    pipe.link(Wire(camera, show))
    pipe.build()
    if later is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (later, hard))
    pipe.notify_event("start")
    pipe.join()

def possessions():
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    files = {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return files, children, threading.enumerate(), [n for n in os.listdir("/dev/shm") if n.startswith("pipert-")], blocked

logging.disable()
warnings.simplefilter("ignore", ResourceWarning)  # of a launcher that ends half-way through
attempt()
before = possessions()
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
attempt(later=3)  # the parent needs none for the rest
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
assert possessions() == before
outcomes = []
for limit in range(3, 60):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        attempt()
    except (OSError, PipeFailed) as error:
        assert "Too many open files" in str(error) or "number of files open" in str(error), error
        outcomes.append(type(error).__name__)
    else:
        outcomes.append("fine")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert possessions() == before, (limit, possessions(), before)
    if outcomes[-3:] == ["fine"] * 3:
        break
print(*dict.fromkeys(outcomes))
"""
    )
    reap_orphans(known, timeout=2.0)  # flows whose launcher failed end, too
    assert (script.returncode, script.stderr) == (0, "")
    assert script.lines == ["OSError PipeFailed fine"]


def test_no_process_is_left_at_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr("pipert_shm.system.calls.fork", fork)
    before = Possessions()
    with pytest.raises(BlockingIOError):
        make_pipe()
    gc.collect()
    assert before.left_by_now() == []
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_no_thread_is_left_at_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    before = Possessions()
    with pytest.raises(OSError, match="can't start new thread"):
        make_pipe()
    gc.collect()
    assert before.left_by_now() == []
