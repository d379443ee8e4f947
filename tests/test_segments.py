"""`pipert-shm ls` and `clean`: what they show of pipes that run, that died, that are damaged, or that are not ours."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import PACKAGE_ROOT
from killing import FAST, await_states, kill_flows, pid_of, pipe_id_of, running
from pipert_shm import DestinationRoutine, Pipe, Wire, binding
from pipert_shm.cli.commands import main
from pipert_shm.shm import rings, segments
from pipert_shm.shm.listing import Listing, Member, Segment, about, list_pipe, text_of
from pipert_shm.shm.segments import ControlSegment, is_stale, pipe_ids, sweep_stale, unlink_pipe
from processes import descendants, reap_orphans
from routines import Frames, Sink
from waiting import Board, eventually

pytestmark = pytest.mark.shm

SHM = Path("/dev/shm")
GATE = 0
SHAPE = (480, 640, 3)
NOBODY = 65534
SIZE = {"flows": 1, "routines": 2, "edges": 1, "incarnations": 1, "cells": 16}


class Waits(DestinationRoutine):
    """Keeps the first frame in hand until the gate is open."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: Any) -> None:
        self.board.wait(GATE, timeout=60)


def held_pipe(board: Board) -> Pipe:
    """A camera that sends three frames: `fast` is soon done with them, `waits` has one in hand and two unread."""
    camera, waits, fast = Frames("camera", 3, SHAPE, loan=True), Waits("waits", board), Sink("fast")
    pipe = Pipe(policy="block", capacity=2, grace_period=0.2)
    pipe.create_flow("video", False, camera, **FAST)
    pipe.create_flow("late", False, waits, **FAST)
    pipe.create_flow("early", False, fast, **FAST)
    pipe.link(Wire(camera, (waits, fast)))
    return pipe


def listing_of(pipe_id: str) -> Listing:
    listing = list_pipe(pipe_id)
    assert listing is not None
    return listing


def frames_of(listing: Listing) -> Segment:
    """The ring of frames."""
    (ring,) = (segment for segment in listing.segments if segment.slots and segment.slots[1] >= np.prod(SHAPE))
    return ring


def await_held(pipe: Pipe, **held: int) -> Listing:
    """Until these, and nobody else, hold so many slots of the ring of frames."""
    listing = listing_of(pipe_id_of(pipe))

    def is_so() -> bool:
        nonlocal listing
        listing = listing_of(pipe_id_of(pipe))
        return any(segment.held == held for segment in listing.segments if segment.slots and segment.slots[1] > 4096)

    eventually(is_so, f"held {held}")
    return listing


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "pipert_shm.cli", *arguments]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)}, capture_output=True, text=True, timeout=30, check=False
    )


def size_of(path: Path) -> int:
    """Bytes of a segment, or of the memory in it where that is less."""
    status = path.stat()
    return min(status.st_size, status.st_blocks * 512)


def lines_about(pipe_id: str, out: str) -> list[str]:
    lines = out.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(pipe_id))
    return [lines[start], *(line for line in lines[start + 1 :] if f"pipert-{pipe_id}-" in line)]


# ---- a pipe that runs ----------------------------------------------------------------------------


def test_owners_sizes_and_holders_by_routine() -> None:
    board = Board()
    with running(held_pipe(board)) as pipe:
        await_states(pipe, camera="ended", fast="ended")
        await_held(pipe, waits=3)
        pipe_id, pid = pipe_id_of(pipe), pid_of(pipe, "video")
        sizes = {path.name: size_of(path) for path in SHM.glob(f"pipert-{pipe_id}-*")}
        before = {path.name: path.read_bytes() for path in SHM.glob(f"pipert-{pipe_id}-*")}
        shown = cli("ls")
        assert {path.name: path.read_bytes() for path in SHM.glob(f"pipert-{pipe_id}-*")} == before, "ls has changed something"
        assert (shown.returncode, shown.stderr) == (0, "")
        head, control, messages, frames = lines_about(pipe_id, shown.stdout)
        total = sum(sizes.values())
        assert head == f"{pipe_id}  alive  {pipe.name}  parent {os.getpid()}  3 segments  {total:,} bytes"
        for line, what in ((control, "control"), (messages, "ring of camera"), (frames, "ring of camera")):
            name, *cells = [cell.strip() for cell in line.strip().split("  ") if cell]
            assert cells[0] == what
            assert f"{sizes[name]:,} bytes" in cells
            assert (f"flow video, pid {pid}" in cells) == (what != "control")
        assert control.split()[0] == f"pipert-{pipe_id}-c"
        slots = frames_of(listing_of(pipe_id)).slots
        assert slots is not None
        assert frames.endswith(f"{slots[0]} slots of 921,600, {slots[0] - 3} free; held: waits 3")
        assert messages.endswith("; held: waits 2")  # a message is let go of when it was received, its frame is not
        board[GATE] = 1
        await_held(pipe)
        assert lines_about(pipe_id, cli("ls").stdout)[3].endswith(f"{slots[0]} slots of 921,600, {slots[0]} free")


def test_a_bit_that_two_branches_share() -> None:
    """Rings that have no wire in common have the same bits for different receivers."""
    board = Board()
    pipe = Pipe(policy="block", capacity=2, grace_period=0.2)
    for a, b in (("camera", "waits"), ("radar", "idles")):
        source, sink = Frames(a, 3, SHAPE, loan=True), Waits(b, board)
        pipe.create_flow(a, False, source, **FAST)
        pipe.create_flow(b, False, sink, **FAST)
        pipe.link(Wire(source, sink))
    with running(pipe):
        await_held(pipe, waits=3)
        await_held(pipe, idles=3)
        board[GATE] = 1


def test_the_producer_and_taps_are_holders_too() -> None:
    board = Board()

    class Loans(Frames):
        def main_logic(self) -> Any:
            if self.next == 0:
                return super().main_logic()
            kept = self.loan(SHAPE)
            board.wait(GATE, timeout=60)
            return kept

    source, sink = Loans("camera", None, SHAPE, loan=True), Sink("sink")
    pipe = Pipe(policy="block")
    pipe.create_flow("video", False, source)
    pipe.create_flow("out", False, sink)
    pipe.link(Wire(source, sink))
    pipe.build()
    with pipe.tap("camera") as tap:
        pipe.notify_event("start")
        await_held(pipe, **{"tap 0": 1, "camera": 1})
        frame = next(tap)
        del frame
        await_held(pipe, camera=1)
    board[GATE] = 1
    pipe.join(to_kill=True)


def test_frames_of_a_dead_process_and_who_holds_them() -> None:
    """The bit of an edge whose sender died still has the receiver's name, beside the one that its successor sends by."""
    board = Board()
    with running(held_pipe(board)) as pipe:
        await_held(pipe, waits=3)
        eventually(lambda: pipe.statistics().wires["camera", "waits"].waiting == 2)  # the bits of a frame come before its push
        dead = frames_of(listing_of(pipe_id_of(pipe))).name
        kill_flows(pipe, "video")
        assert [s.held for s in listing_of(pipe_id_of(pipe)).segments if s.name == dead] == [{"waits": 3}]
        kill_flows(pipe, "late")  # its hand is empty, two are unread
        eventually(lambda: [s.held for s in listing_of(pipe_id_of(pipe)).segments if s.name == dead] == [{"waits": 2}])
        board[GATE] = 1
        eventually(lambda: dead not in [s.name for s in listing_of(pipe_id_of(pipe)).segments], "an end of the dead one's ring")


def test_pipes_that_come_and_go_while_they_are_listed() -> None:
    """Whatever moment the look meets, it is no error, and nothing of the pipes is disturbed."""
    over = Board()
    looker = os.fork()
    if looker == 0:
        status = 1
        try:
            while not over[0]:
                for pipe_id in pipe_ids():
                    listing = list_pipe(pipe_id)
                    over.add(1, listing is not None and any(segment.slots for segment in listing.segments))
                    assert listing is None or text_of(listing)
            status = 0
        finally:
            os._exit(status)
    board = Board()
    board[GATE] = 1
    try:
        for _ in range(10):
            pipe = held_pipe(board)
            with running(pipe):
                pipe.join()
            wires = pipe.statistics().wires.values()
            assert {(wire.sent, wire.received) for wire in wires} == {(3, 3)}
        assert over[1] > 0, "it saw rings"
    finally:
        over[0] = 1
        status = os.waitpid(looker, 0)[1]
    assert status == 0


# ---- clean ---------------------------------------------------------------------------------------


@pytest.fixture
def stale() -> Iterator[str]:
    """A pipe, with frames that somebody holds, of which no process is left; its id."""
    known, family = set(pipe_ids()), set(descendants())
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            pipe = held_pipe(Board())
            pipe.build()
            pipe.notify_event("start")
            await_held(pipe, waits=3)
            os.killpg(0, signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (pipe_id,) = set(pipe_ids()) - known
    reap_orphans(family)
    yield pipe_id
    unlink_pipe(pipe_id)


def test_clean_removes_stale_ones_only(stale: str) -> None:
    board = Board()
    with running(held_pipe(board)) as pipe:  # its start would sweep, if it came after
        await_held(pipe, waits=3)
        assert stale not in pipe_ids(), "the start has swept it"
    with running(held_pipe(board)) as pipe:
        await_held(pipe, waits=3)
        child = os.fork()
        if child == 0:
            ControlSegment.create(binding.ControlSize(**SIZE), 1000)
            os._exit(0)
        os.waitpid(child, 0)
        (dead,) = [pipe_id for pipe_id in pipe_ids() if is_stale(pipe_id)]
        before = sorted(SHM.glob(f"pipert-{pipe_id_of(pipe)}-*"))
        cleaned = cli("clean")
        assert (cleaned.returncode, cleaned.stdout, cleaned.stderr) == (0, f"removed {dead}\n", "")
        assert sorted(SHM.glob(f"pipert-{pipe_id_of(pipe)}-*")) == before
        assert not list(SHM.glob(f"pipert-{dead}-*"))
        board[GATE] = 1
        pipe.join()
        assert {wire.received for wire in pipe.statistics().wires.values()} == {3}


def test_a_pipe_that_comes_alive_between_look_and_removal_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its maker takes the lock at that very moment: the removal needs the lock, too, and does not get it."""
    segment = ControlSegment.create(binding.ControlSize(**SIZE), 1000)
    monkeypatch.setattr(segments, "is_stale", lambda pipe_id: pipe_id == segment.pipe_id)
    assert sweep_stale() == []
    assert segment.pipe_id in pipe_ids()
    segment.close()
    segment.unmap()
    assert sweep_stale() == [segment.pipe_id]


# ---- what may be found ---------------------------------------------------------------------------


def test_a_stale_one_is_shown_as_such(stale: str) -> None:
    listing = listing_of(stale)
    assert (listing.state, listing.parent) == ("stale", None)
    assert frames_of(listing).held == {"waits": 3}
    assert frames_of(listing).owner == "flow video"  # its pid may be anybody's by now
    assert lines_about(stale, cli("ls").stdout)[0].startswith(f"{stale}  stale  {Pipe().name}  3 segments")


@pytest.mark.parametrize("length", [0, 100, 20_000, -1])
@pytest.mark.parametrize("part", ["c", "65536"])
def test_one_that_is_cut_short(stale: str, part: str, length: int) -> None:
    path = SHM / f"pipert-{stale}-{part}"
    os.truncate(path, length if length >= 0 else path.stat().st_size - 1)
    (line,) = (line for line in lines_about(stale, cli("ls").stdout) if line.strip().startswith(path.name))
    if part == "c" and length == -1:
        assert "control" in line  # of the names behind the records something is missing
    else:
        assert "unreadable: " in line
    cleaned = cli("clean")
    assert (cleaned.stdout, cleaned.stderr) == (f"removed {stale}\n", "")
    assert not list(SHM.glob(f"pipert-{stale}-*"))


@settings(max_examples=300)
@given(st.sampled_from(["c", "65536", "131072"]), st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=64))))
def test_one_that_is_damaged(damaged: Callable[[str, list[tuple[float, bytes]]], str], part: str, writes: Any) -> None:
    assert damaged(part, writes)


@pytest.fixture
def damaged(stale: str) -> Callable[[str, list[tuple[float, bytes]]], str]:
    """Writes somewhere into the first 140 kB of a segment of a stale pipe, lists it, and takes the damage back."""
    assert {path.name for path in SHM.glob(f"pipert-{stale}-*")} == {f"pipert-{stale}-{p}" for p in ("c", "65536", "131072")}

    def damage(part: str, writes: list[tuple[float, bytes]]) -> str:
        path = SHM / f"pipert-{stale}-{part}"
        with path.open("r+b", buffering=0) as file:
            sound = file.read(140_000)
            for place, data in writes:
                # Heads come first, and what they say matters most.
                file.seek(int(place**4 * (len(sound) - len(data))))
                file.write(data)
            try:
                return "\n".join(text_of(listing_of(stale)))
            finally:
                file.seek(0)
                file.write(sound)

    return damage


def test_rings_without_a_control_segment(stale: str) -> None:
    (SHM / f"pipert-{stale}-c").unlink()
    head, *rings = lines_about(stale, cli("ls").stdout)
    assert head.startswith(f"{stale}  stale  2 segments")
    assert all("without a control segment" in ring for ring in rings)
    assert stale in sweep_stale()


def test_what_is_not_a_segment_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a pipe that nobody writes to, nor a link, nor a directory holds up or misleads anybody."""
    (tmp_path / "precious").write_bytes(b"")
    odd = [SHM / f"pipert-{n * 12}-c" for n in "012"]
    other = SHM / "pipert-of-somebody-else"
    os.mkfifo(odd[0], 0o666)
    odd[1].symlink_to(tmp_path / "precious")
    odd[2].mkdir()
    other.touch()
    try:
        ids = {path.name.split("-")[1] for path in odd}
        assert not ids & set(sweep_stale())
        assert main(["ls"]) == 0
        lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
        assert {line[0]: line[1] for line in lines if line[0] in ids} == dict.fromkeys(ids, "not ours")
    finally:
        odd[2].rmdir()
        for path in (*odd[:2], other):
            path.unlink()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("lost_control", [False, True])
def test_pipes_of_other_users(stale: str, lost_control: bool) -> None:
    """They are shown, with their sizes; `clean`, and the sweep of a start, pass over them."""
    if lost_control:
        (SHM / f"pipert-{stale}-c").unlink()
    sizes = [size_of(path) for path in SHM.glob(f"pipert-{stale}-*")]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            listing = listing_of(stale)
            assert sweep_stale() == []
            os.write(writer, "\n".join(text_of(listing)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as answers:
        head, *rest = answers.read().splitlines()
    os.waitpid(child, 0)
    assert head.startswith(f"{stale}  {'stale' if lost_control else 'not ours'}  {len(sizes)} segments  {sum(sizes):,} bytes")
    assert len(rest) == len(sizes)
    assert all(("without a control segment" if lost_control else "Permission denied") in line for line in rest)
    assert len(list(SHM.glob(f"pipert-{stale}-*"))) == len(sizes)


@pytest.mark.parametrize(
    "text",
    [
        about(["a"], [Member("x", 0), Member("y", 0)])[:-1],
        b"",
        b"\xff",
        b"[1]",
        b"[" * 100_000,
        b'{"parent": Infinity, "flows": [], "routines": []}',
        b'{"parent": 1, "flows": ["a"], "routines": [["x", 0], ["y", 1]]}',
        b'{"parent": 1, "flows": ["a"], "routines": [["x", 0], ["y"]]}',
        b'{"parent": 1, "flows": ["a"], "routines": [["x", 0], ["y", "a"]]}',
    ],
    ids=["cut off", "empty", "no text", "a list", "too deep", "no number", "short members", "a name alone", "a flow by name"],
)
def test_without_names_there_are_numbers(text: bytes) -> None:
    segment = ControlSegment.create(binding.ControlSize(**SIZE), 1 << 20, text)
    try:
        ring = rings.create_ring(segment, 1, 4, 100, "a ring")
        listing = listing_of(segment.pipe_id)
        assert (listing.state, listing.parent) == ("alive", None)
        assert [found.what for found in listing.segments] == ["control", "ring of routine 1"]
        rings.remove_if_free(segment, ring)
    finally:
        segment.close()
        segment.unmap()
        unlink_pipe(segment.pipe_id)


def test_a_ring_that_is_just_being_made() -> None:
    segment = ControlSegment.create(binding.ControlSize(**SIZE), 1 << 20, about(["a"], [Member("x", 0), Member("y", 0)]))
    try:
        claimed = segment.process.claim_ring(1)
        assert claimed is not None
        (SHM / f"pipert-{segment.pipe_id}-{claimed[1]}").touch()
        _, ring = listing_of(segment.pipe_id).segments
        assert (ring.what, ring.slots) == ("ring of y, just made or given up", None)
    finally:
        segment.close()
        segment.unmap()
        unlink_pipe(segment.pipe_id)


# ---- segments that mean harm ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "evil",
    ["\x1b]0;owned\x07", "\x1b[2J", "\x9b31m", "\r\n", "\x08\x08", "\u202egnirts", "\u2028", "\udc1b", "\x7f"],
    ids=ascii,
)
def test_names_can_not_command_a_terminal(evil: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = about([f"flow{evil}"], [Member(f"camera{evil}", 0, (f"count{evil}",)), Member("y", 0)], f"gate{evil}")
    segment = ControlSegment.create(binding.ControlSize(**{**SIZE, "routines": 12}), 1 << 20, text)
    try:
        ring = rings.create_ring(segment, 0, 4, 100, "a ring")
        assert main(["ls"]) == 0
        assert main(["top", "--once", "--interval", "0.05"]) == 0
        shown = capsys.readouterr().out
        assert f"ring of camera{evil.encode('unicode_escape').decode()}" in shown
        assert f"gate{evil.encode('unicode_escape').decode()}" in shown
        assert evil not in shown
        rings.remove_if_free(segment, ring)
    finally:
        segment.close()
        segment.unmap()
        unlink_pipe(segment.pipe_id)


def head_of(size: binding.ControlSize) -> bytes:
    copy = binding.Copy(b"", 1 << 16)
    size.format(copy.address, 1 << 20)
    return bytes(copy.memory)


LARGEST_RECORDS = binding.ControlSize(flows=65535, routines=1024, edges=65535, incarnations=65535, cells=65536)


@pytest.mark.parametrize(
    ("head", "size", "what"),
    [
        (b"", 3 << 30, "this is not the control segment of a pipe"),
        (head_of(binding.ControlSize(**SIZE)), 3 << 30, "it is larger than a pipe's control segment"),
        (head_of(LARGEST_RECORDS), LARGEST_RECORDS.bytes_needed(), "it is larger than a pipe's control segment"),
    ],
    ids=["nothing in it", "names without end", "records that were never written"],
)
def test_no_more_is_read_than_a_pipe_can_have(head: bytes, size: int, what: str) -> None:
    """A sparse file costs whoever made it no memory, and must not cost the reader any."""
    pipe_id = segments.new_pipe_id()
    with open(SHM / f"pipert-{pipe_id}-c", "wb") as file:
        file.write(head)
        file.truncate(size)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))  # as if it ran
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (found,) = listing_of(pipe_id).segments
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18, "kilobytes"
    unlink_pipe(pipe_id)
    assert what in found.what
