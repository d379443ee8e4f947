"""Segments in /dev/shm: their modes and names, what a start sweeps, and a /dev/shm that is too small."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import processes
from conftest import Finished, RunScript, StartScript
from loop import Loop
from pipert_shm import START_EVENT_NAME, Pipe, PipertError, SharedMemoryFull, native
from pipert_shm.memory import ControlSegment, is_stale, pipe_ids, sweep_stale, unlink_pipe
from routines import Frames, Items, Sink, chain
from waiting import eventually

SHM = Path("/dev/shm")


def segments() -> set[Path]:
    return set(SHM.glob("pipert-*"))


def running_pipe() -> tuple[Pipe, set[Path]]:
    """One that has sent frames, and its segments."""
    before = segments()
    pipe = Pipe(policy="block")
    chain(pipe, Frames("source", None, (200, 200), loan=True), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["sink"].received > 3)
    assert pipe._session is not None
    ours = f"pipert-{pipe._session.segment.pipe_id}-"
    return pipe, {path for path in segments() - before if path.name.startswith(ours)}


# ---- modes, names --------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_segments_are_the_owner_s_alone(mask: int) -> None:
    old = os.umask(mask)
    try:
        pipe, ours = running_pipe()
    finally:
        os.umask(old)
    assert len(ours) == 3  # control, messages, frames
    for path in ours:
        status = path.stat()
        assert stat.S_IMODE(status.st_mode) == 0o600, path
        assert status.st_uid == os.getuid()
    pipe.join(to_kill=True)
    assert not ours & segments()


def test_their_memory_is_allocated_before_it_is_used() -> None:
    pipe, ours = running_pipe()
    for path in ours:
        status = path.stat()
        assert status.st_blocks * 512 >= status.st_size > 0, path
    pipe.join(to_kill=True)


def test_ids_do_not_repeat() -> None:
    with Loop() as one, Loop() as other:
        assert re.fullmatch(r"[0-9a-f]{12}", one.segment.pipe_id)
        assert one.segment.pipe_id != other.segment.pipe_id
        assert {one.segment.pipe_id, other.segment.pipe_id} <= set(pipe_ids())


# ---- what is stale -------------------------------------------------------------------------------


@pytest.fixture
def abandoned(start_script: StartScript) -> Iterator[set[Path]]:
    """Segments of a pipe whose processes were all killed at one blow."""
    known, before = set(processes.descendants()), segments()
    script = start_script(
        """
import numpy as np, os
from pipert_shm import DestinationRoutine, Pipe, SourceRoutine, Wire

class Source(SourceRoutine):
    def main_logic(self):
        return np.zeros(10_000, np.uint8)

class Sink(DestinationRoutine):
    def main_logic(self, data):
        print("ready")

pipe = Pipe()
source, sink = Source(), Sink()
pipe.create_flow("a", False, source)
pipe.create_flow("b", False, sink)
pipe.link(Wire(source, sink))
pipe.build()
pipe.notify_event("start")
pipe.join()
"""
    )
    script.wait_for_line("ready")
    inside = {path for path in segments() - before if _mapped_by(script.process.pid, path)}
    ids = {path.name.split("-")[1] for path in inside}
    left = {path for path in segments() - before if path.name.split("-")[1] in ids}
    os.killpg(script.process.pid, signal.SIGKILL)
    script.process.wait()
    processes.reap_orphans(known)
    assert len(left) == 3
    yield left
    for name in ids:
        unlink_pipe(name)


def _mapped_by(pid: int, path: Path) -> bool:
    return str(path) in Path(f"/proc/{pid}/maps").read_text()


def test_a_sweep_takes_the_segments_of_dead_pipes_only(abandoned: set[Path]) -> None:
    pipe, alive = running_pipe()  # which sweeps as it starts
    assert not abandoned & segments()
    assert alive <= segments()
    sweep_stale()
    assert alive <= segments()
    received = pipe.statistics().routines["sink"].received
    eventually(lambda: pipe.statistics().routines["sink"].received > received)
    pipe.join(to_kill=True)


def test_a_sweep_by_hand_names_what_it_took(abandoned: set[Path]) -> None:
    (name,) = {path.name.split("-")[1] for path in abandoned}
    assert is_stale(name)
    assert name in pipe_ids()
    assert name in sweep_stale()
    assert not abandoned & segments()
    assert name not in sweep_stale()


def test_a_pipe_is_alive_as_long_as_any_of_its_processes() -> None:
    segment = ControlSegment.create(native.ControlSize(flows=1, routines=1, edges=1, incarnations=1, cells=16), 1000)
    assert not is_stale(segment.pipe_id)
    ready, go_on = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        other = ControlSegment.open(segment.pipe_id)
        os.write(ready[1], b"x")
        os.read(go_on[0], 1)
        os._exit(not other.pipe_id)
    os.read(ready[0], 1)
    segment.close()
    segment.unmap()
    assert not is_stale(segment.pipe_id)  # the child has a lock of its own
    os.write(go_on[1], b"x")
    os.waitpid(pid, 0)
    assert is_stale(segment.pipe_id)
    assert segment.pipe_id in sweep_stale()
    for end in (*ready, *go_on):
        os.close(end)


def look_slowly(over: float) -> None:
    """As `is_stale` does it, of all that is new, but taking its time with the lock in hand, as if called away meanwhile."""
    seen = set(os.listdir(SHM))
    while time.monotonic() < over:
        for name in set(os.listdir(SHM)) - seen:
            seen.add(name)
            with suppress(FileNotFoundError, BlockingIOError), (SHM / name).open("r+b") as file:
                fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
                time.sleep(0.001)


def test_a_look_at_the_segments_does_no_harm_to_pipes_that_are_just_being_made() -> None:
    """Somebody else looks which pipes are stale, in the moment in which one is made: no half-made one may be left behind."""
    over = time.monotonic() + 0.5
    looker = os.fork()
    if looker == 0:
        look_slowly(over)
        os._exit(0)
    before = segments()
    while time.monotonic() < over:
        segment = ControlSegment.create(native.ControlSize(flows=1, routines=1, edges=1, incarnations=1, cells=16), 1000)
        segment.close()
        segment.unmap()
        unlink_pipe(segment.pipe_id)
    assert os.waitpid(looker, 0)[1] == 0
    left = {path.name for path in segments() - before if is_stale(path.name.split("-")[1])}
    for name in left:
        unlink_pipe(name.split("-")[1])
    assert not left


# ---- a /dev/shm that is too small ----------------------------------------------------------------

PRIVATE_MOUNTS = ("unshare", "-m") if os.getuid() == 0 else ("unshare", "-rm")


def small(megabytes: int) -> tuple[str, ...]:
    """A command prefix that gives what it runs a /dev/shm of its own, of that size."""
    mount = f'mount -t tmpfs -o size={megabytes}m,mode=1777 none /dev/shm && exec "$@"'
    return (*PRIVATE_MOUNTS, "sh", "-c", mount, "sh")


FRAMES = """
import logging, os, sys
import numpy as np
from pipert_shm import DestinationRoutine, EndOfStream, Pipe, PipeFailed, SharedMemoryFull, SourceRoutine, Wire

logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
SHAPE = (1080, 1920, 3)

class Camera(SourceRoutine):
    count = 0
    def main_logic(self):
        self.count += 1
        if self.count > 20:
            raise EndOfStream
        return {make}
    def cleanup(self):
        print("cleaned up")

class Show(DestinationRoutine):
    def main_logic(self, data):
        assert data.min() == data.max()

pipe = Pipe(policy="block")
camera, show = Camera("camera"), Show("show")
pipe.create_flow("a", False, camera)
pipe.create_flow("b", False, show)
pipe.link(Wire(camera, show))

def told(error):
    assert 0 < error.free < error.needed, (error.free, error.needed)
    for word in (f"{{error.needed:,}} bytes", f"{{error.free:,}} are free", "/dev/shm", "--shm-size=", "'camera'"):
        assert word in str(error), (word, str(error))

def end():
    assert not os.listdir("/dev/shm"), os.listdir("/dev/shm")
    print("nothing is left")
"""


def told(script: Finished) -> list[str]:
    assert script.returncode == 0, (script.returncode, script.stderr, script.stdout)
    assert script.stderr == ""
    assert script.lines[-1] == "nothing is left"
    return script.lines


def test_declared_frames_that_do_not_fit_are_told_by_build(run_script: RunScript) -> None:
    script = run_script(
        FRAMES.format(make="self.loan(SHAPE)")
        + """
camera.declare_output(SHAPE)
try:
    pipe.build()
except SharedMemoryFull as error:
    told(error)
    print(error)
end()
""",
        small(4),
    )
    (message, _) = told(script)
    assert re.search(r"--shm-size=\d+m", message)


@pytest.mark.parametrize("make", ["self.loan(SHAPE)", "np.zeros(SHAPE, np.uint8)"])
def test_undeclared_frames_that_do_not_fit_are_told_by_join_and_the_log(run_script: RunScript, make: str) -> None:
    script = run_script(
        FRAMES.format(make=make)
        + """
pipe.build()
pipe.notify_event("start")
try:
    pipe.join()
except PipeFailed as error:
    print("join:", error)
end()
""",
        small(4),
    )
    lines = told(script)
    logged, joined = (next(line for line in lines if line.startswith(start)) for start in ("Pipe.a.camera ERROR", "join:"))
    for line in (logged, joined):
        for words in ("'camera'", "bytes of shared memory", "are free", "--shm-size="):
            assert words in line, line
    assert "cleaned up" in lines


def test_frames_for_which_there_is_room_for_a_few_slots_only(run_script: RunScript) -> None:
    script = run_script(
        FRAMES.format(make="np.full(SHAPE, self.count, np.uint8)")
        + """
pipe.build()
pipe.notify_event("start")
pipe.join()
wire = pipe.statistics().wires["camera", "show"]
print(wire.received, wire.lost)
end()
""",
        small(44),  # half of it is the budget: three of the twelve slots that the ring would like to have
    )
    assert "20 0" in told(script)


def test_a_shm_that_others_have_filled(run_script: RunScript) -> None:
    """The budget would allow it, but when it comes to it there is no memory: an error, and never a SIGBUS."""
    script = run_script(
        FRAMES.format(make="np.full(SHAPE, self.count, np.uint8)")
        + """
pipe._memory_budget = 1 << 30
pipe.build()
with open("/dev/shm/somebody-else-s", "wb") as file:
    os.posix_fallocate(file.fileno(), 0, os.statvfs("/dev/shm").f_bavail * 4096 - 3_000_000)
pipe.notify_event("start")
try:
    pipe.join()
except PipeFailed as error:
    assert error.exit_codes == {}, error.exit_codes
    assert "--shm-size=" in str(error), error
    print("told")
os.unlink("/dev/shm/somebody-else-s")
end()
""",
        small(100),
    )
    assert "told" in told(script)


@pytest.mark.parametrize("kilobytes", [16, 64, 128])
def test_a_shm_that_is_too_small_for_anything(run_script: RunScript, kilobytes: int) -> None:
    wrap = (*PRIVATE_MOUNTS, "sh", "-c", f'mount -t tmpfs -o size={kilobytes}k none /dev/shm && exec "$@"', "sh")
    script = run_script(
        FRAMES.format(make="np.zeros(SHAPE, np.uint8)")
        + """
try:
    pipe.build()
    pipe.notify_event("start")
    pipe.join()
except (SharedMemoryFull, PipeFailed) as error:
    assert "--shm-size=" in str(error), error
    print("told")
end()
""",
        wrap,
    )
    assert "told" in told(script)


def test_a_shm_that_can_t_be_written_to(run_script: RunScript) -> None:
    wrap = (*PRIVATE_MOUNTS, "sh", "-c", 'mount -t tmpfs -o size=4m,ro none /dev/shm && exec "$@"', "sh")
    script = run_script(
        FRAMES.format(make="np.zeros(SHAPE, np.uint8)")
        + """
try:
    pipe.build()
except OSError as error:
    assert "/dev/shm" in str(error), error
    print("told")
end()
""",
        wrap,
    )
    assert "told" in told(script)


def test_a_payload_that_is_larger_than_the_budget() -> None:
    pipe = Pipe(policy="block", memory_budget=100_000)
    source = Frames("source", 3, (1000, 1000), loan=True)
    source.declare_output((1000, 1000))
    chain(pipe, source, Sink("sink"))
    with pytest.raises(SharedMemoryFull, match="'source'") as caught:
        pipe.build()
    assert caught.value.free <= 100_000 < caught.value.needed
    assert isinstance(caught.value, PipertError)


def test_the_budget_is_given_back_when_rings_go() -> None:
    """Frames grow and grow; all that was ever used is far more than the budget, what is used at a time is not."""
    frames = [np.full(10_000 * n, n, np.uint8) for n in range(1, 60)]
    pipe = Pipe(policy="block", memory_budget=30_000_000)
    chain(pipe, Items("source", frames), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert pipe.statistics().routines["sink"].received == 59
