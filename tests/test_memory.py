"""Segments in /dev/shm: their modes and names, what a start sweeps, and the budget."""

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
from conftest import StartScript
from loop import Loop
from pipert_shm import START_EVENT_NAME, Pipe, PipertError, SharedMemoryFull, binding
from pipert_shm.shm.segments import ControlSegment, create_segment, is_stale, pipe_ids, segment_name, sweep_stale, unlink_pipe
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
    assert ours
    for path in ours:
        if path.name.endswith("-c"):
            continue  # its records get memory one by one: see test_room.py
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
    segment = ControlSegment.create(binding.ControlSize(flows=1, routines=1, edges=1, incarnations=1, cells=16), 1000)
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


def test_a_forked_child_keeps_the_mapping_but_not_the_lock() -> None:
    segment = ControlSegment.create(binding.ControlSize(flows=1, routines=1, edges=1, incarnations=1, cells=16), 1000)
    ready, go_on = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(ready[1], b"x")
        os.read(go_on[0], 1)
        os._exit(segment.process.memory_left() != 1000)  # it is still there
    os.read(ready[0], 1)
    assert not is_stale(segment.pipe_id)
    segment.close()
    assert is_stale(segment.pipe_id)
    os.write(go_on[1], b"x")
    assert os.waitpid(pid, 0)[1] == 0
    segment.unmap()
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
        segment = ControlSegment.create(binding.ControlSize(flows=1, routines=1, edges=1, incarnations=1, cells=16), 1000)
        segment.close()
        segment.unmap()
        unlink_pipe(segment.pipe_id)
    assert os.waitpid(looker, 0)[1] == 0
    left = {path.name for path in segments() - before if is_stale(path.name.split("-")[1])}
    for name in left:
        unlink_pipe(name.split("-")[1])
    assert not left


def test_a_ring_that_is_just_being_made_is_not_taken_for_one_that_is_gone() -> None:
    """While one thread makes a ring another one may look for rings that are gone."""
    with Loop() as loop:
        process = loop.segment.process
        other = process.claim_ring(0)
        claimed = process.claim_ring(0)
        assert other is not None
        assert claimed is not None
        ring, serial = claimed
        size = binding.ring_bytes(4, 4096)
        fd = create_segment(segment_name(loop.segment.pipe_id, serial), size, "a ring")
        address = binding.map_shared(fd, size)
        binding.format_ring(address, ring, 0, 4, 4096)
        binding.unmap(address, size)
        process.map_ring(ring, serial, fd, size, writable=True)
        os.close(fd)
        process.release_ring(other[0])  # something is gone
        process.prune()
        process.publish_ring(ring)
        assert process.ring_geometry(ring) == (4, 4096)


# ---- the budget ----------------------------------------------------------------------------------


def test_a_payload_that_is_larger_than_the_budget() -> None:
    pipe = Pipe(policy="block", memory_budget=100_000)
    source = Frames("source", 3, (1000, 1000), loan=True)
    source.declare_output((1000, 1000))
    chain(pipe, source, Sink("sink"))
    with pytest.raises(SharedMemoryFull, match="'source'") as caught:
        pipe.build()
    assert caught.value.free <= 100_000 < caught.value.needed
    assert isinstance(caught.value, PipertError)
    assert "are free of the pipe's memory_budget; give it a larger one" in str(caught.value)
    assert "free in /dev/shm" not in str(caught.value)


def test_the_budget_is_given_back_when_rings_go() -> None:
    """Frames grow and grow; all that was ever used is far more than the budget, what is used at a time is not."""
    frames = [np.full(10_000 * n, n, np.uint8) for n in range(1, 60)]
    pipe = Pipe(policy="block", memory_budget=30_000_000)
    chain(pipe, Items("source", frames), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert pipe.statistics().routines["sink"].received == 59
