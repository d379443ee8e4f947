"""What a death asks of the processes that live on: whose bits, queues, views and memory are touched, and whose are not."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit import SENDER_DEAD, Snapshot
from killing import (
    FAST,
    assert_sound,
    await_motion,
    await_states,
    await_successor,
    drain,
    flows_of,
    kill_flows,
    launcher_of,
    pid_of,
    pipe_id_of,
    running,
    snapshot_of,
)
from patterned import SHAPE, Camera, Checks, Numbers, Screen, Step, pattern
from pipert_shm import DestinationRoutine, Pipe, PipeStateError, SourceRoutine, Wire
from routines import Gated, Sink
from waiting import Board, eventually

GATE, SENT, CALLS = 100, 101, 102  # cells of a board; those below are for `Checks`
WIRE = ("cam", "out")


def camera(name: str = "cam", fps: float = 0) -> Camera:
    routine = Camera(name, SHAPE, loaning=True)
    routine.set_const_fps(fps)
    return routine


# ---- deaths that cross ---------------------------------------------------------------------------


def test_a_sender_dies_before_it_has_swept_for_its_dead_receiver() -> None:
    """The receiver's successor is up by then, and still has to get what the dead sender left, before what comes after it."""
    with running(
        flows_of(Pipe(policy="block", capacity=8), camera(), Screen("out", Checks(Board(), {WIRE: 0})), wires={"cam": "out"})
    ) as pipe:
        for _ in range(3):
            await_motion(pipe)
            source = pid_of(pipe, "cam")
            os.kill(source, signal.SIGSTOP)
            kill_flows(pipe, "out")
            os.kill(source, signal.SIGKILL)
            await_successor(pipe, "cam", source)
            await_motion(pipe)
            kill_flows(pipe, "out")  # what was not read by now would come too late
        await_motion(pipe, messages=20)
        drain(pipe, "cam")
        assert_sound(pipe, {"cam": 2})


def test_a_receiver_dies_twice_before_the_sender_has_swept_once() -> None:
    with running(
        flows_of(Pipe(policy="block", capacity=8), camera(), Screen("out", Checks(Board(), {WIRE: 0})), wires={"cam": "out"})
    ) as pipe:
        for _ in range(5):
            await_motion(pipe)
            source = pid_of(pipe, "cam")
            os.kill(source, signal.SIGSTOP)
            kill_flows(pipe, "out")
            kill_flows(pipe, "out")
            os.kill(source, signal.SIGCONT)
            await_motion(pipe, messages=20)
        drain(pipe, "cam")
        assert_sound(pipe, {"cam": 2})


def test_a_death_in_one_branch_leaves_the_bits_of_another_alone() -> None:
    """Two sources have no ring in common, so that their wires may have the same holder bit."""
    board = Board(128)
    a, b, out = Numbers("a", board, 60, GATE, SENT), camera("b"), Gated("out", board, gate=3, taken=4)
    pipe = Pipe(policy="block")
    for routine in (a, b, out):
        pipe.create_flow(routine.name, False, routine, **FAST)
    pipe.link(Wire(a, out, capacity=64), Wire(b, out, capacity=1))
    with running(pipe):
        shot = snapshot_of(pipe)
        assert shot.incarnations[0]["bit"] == shot.incarnations[1]["bit"]
        eventually(lambda: pipe.statistics().wires["b", "out"].waiting == 1 and board[SENT] == 1, "queues with messages")
        kill_flows(pipe, "b")
        board[3] = 10**6  # what the dead source sent is read, and its bit swept, long before the end of the other queue
        await_motion(pipe, ("a", "out"), messages=20)
        drain(pipe, "b")
        board[GATE] = 1
        await_states(pipe, a="ended")
        assert_sound(pipe, {"b": 2})


def test_a_source_dies_often_beside_a_receiver_that_has_failed() -> None:
    """What the failed one had is given up at each death, so that no bits run out."""
    pipe = Pipe()
    source, gone, out = camera(), Sink("gone"), Screen("out", Checks(Board(), {WIRE: 0}))
    pipe.create_flow("cam", False, source, **FAST)
    pipe.create_flow("gone", False, gone, restart="never")
    pipe.create_flow("out", False, out, **FAST)
    pipe.link(Wire(source, (gone, out)))
    with running(pipe):
        await_motion(pipe)
        os.kill(pid_of(pipe, "gone"), signal.SIGKILL)
        await_states(pipe, gone="failed")
        for _ in range(5):
            kill_flows(pipe, "cam")
        await_motion(pipe, ("cam", "gone"), messages=5)
        assert len(snapshot_of(pipe).unswept(0)) == 1
        drain(pipe, "cam")
        assert_sound(pipe)


def test_a_source_dies_more_often_than_there_are_bits_for_a_stopped_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left for it is taken back, the oldest first, and the source goes on. On SIGCONT every wire does."""
    bits = range(1, 7)
    for module in ("graph.bits", "launcher.incarnations"):
        monkeypatch.setattr(f"pipert_shm.{module}.BITS", bits)
    checks = Checks(Board(), {("cam", "idle"): 0, ("cam", "out"): 2})
    routines = camera(), Screen("out", checks), Screen("idle", checks)
    with running(flows_of(Pipe(), *routines, wires={"cam": "out idle"})) as pipe:
        await_motion(pipe)
        idle = pid_of(pipe, "idle")
        os.kill(idle, signal.SIGSTOP)
        for _ in range(len(bits) + 3):
            kill_flows(pipe, "cam")
            await_motion(pipe, ("cam", "idle"))
        left = [i["state"] for i in snapshot_of(pipe).unswept(1)]
        assert 0 < left.count(SENDER_DEAD) < len(bits)
        before = pipe.statistics().wires["cam", "idle"]
        assert before.dropped["crash"]
        os.kill(idle, signal.SIGCONT)
        await_motion(pipe, messages=5)
        drain(pipe, "cam")
        assert_sound(pipe)


def test_a_stop_that_comes_while_the_process_is_dead() -> None:
    routines = camera(), Screen("out", Checks(Board(), {WIRE: 0}))
    with running(flows_of(Pipe(), *routines, wires={"cam": "out"})) as pipe:
        await_motion(pipe)
        for _ in range(10):
            os.kill(pid_of(pipe, "cam"), signal.SIGKILL)
            drain(pipe, "cam")
            pipe.notify_event("start")
            await_motion(pipe)


# ---- what the living keep ------------------------------------------------------------------------


def test_a_frame_outlives_the_process_that_made_it() -> None:
    """A frame that is held at the end of the chain stays as it is while those before it die, and their successors send on."""
    board = Board(128)

    class Keeper(DestinationRoutine):
        kept: np.ndarray | None = None

        def main_logic(self, data: Any) -> None:
            if self.kept is None:
                self.kept, self.value = data, pattern(self.meta.origin, self.meta.sequence)
            assert (self.kept == self.value).all()
            if board[GATE]:
                self.kept = None
                board[CALLS] = 1

    routines = camera(), Step("mid", "forward", Checks(board, {("cam", "mid"): 0})), Keeper("out")
    with running(flows_of(Pipe(policy="block"), *routines, wires={"cam": "mid", "mid": "out"})) as pipe:
        await_motion(pipe)
        first = next(ring for ring in snapshot_of(pipe).rings.values() if ring.owner == 0 and ring.slot_bytes > 4096)
        kill_flows(pipe, "mid")  # who forwarded it
        await_motion(pipe, messages=100)  # every slot is used again, several times
        for _ in range(3):
            kill_flows(pipe, "cam")
            await_motion(pipe, messages=100)
        assert first.path.exists()  # the dead source's ring, for one slot of it
        assert {routine.errors for routine in pipe.statistics().routines.values()} == {0}
        board[GATE] = 1
        board.wait(CALLS)
        eventually(lambda: not first.path.exists(), "an end of the dead source's ring")


# ---- memory --------------------------------------------------------------------------------------


def test_memory_of_the_dead_is_given_back() -> None:
    """No process keeps a mapping of a ring that is gone, those that were there before the first start included."""
    source = camera()
    source.declare_output(SHAPE)
    with running(flows_of(Pipe(), source, Screen("out", Checks(Board(), {WIRE: 0})), wires={"cam": "out"})) as pipe:
        for _ in range(3):
            await_motion(pipe)
            kill_flows(pipe, "out")
            await_motion(pipe)
            kill_flows(pipe, "cam")
        await_motion(pipe, messages=5)

        def kept() -> list[str]:
            pids = [pid_of(pipe, "cam"), pid_of(pipe, "out"), launcher_of(pipe), os.getpid()]
            maps = [line for pid in pids for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
            return [line for line in maps if pipe_id_of(pipe) in line and "(deleted)" in line]

        eventually(lambda: not kept(), "an end of all mappings of what is gone")
        eventually(lambda: len(snapshot_of(pipe).rings) <= 3, "an end of the old rings")
        eventually(lambda: snapshot_of(pipe).budget_is_whole, "all of the budget")


def test_a_death_while_a_ring_is_made_costs_no_memory() -> None:
    board = Board(128)

    class Large(SourceRoutine):
        def main_logic(self) -> np.ndarray:
            return self.loan((4096 if board[GATE] else 16 << 20,))

    with running(flows_of(Pipe(), Large("cam"), Sink("out"), wires={"cam": "out"})) as pipe:

        def is_making() -> bool:
            """Whether there is a large segment that is no ring yet."""
            segments = {path for path in Path("/dev/shm").glob(f"pipert-{pipe_id_of(pipe)}-*") if path.stat().st_size > 1 << 24}
            return bool(segments - {ring.path for ring in snapshot_of(pipe).rings.values()})

        for _ in range(3):
            pid = pid_of(pipe, "cam")
            eventually(is_making, "a large segment")
            os.kill(pid, signal.SIGKILL)
            await_successor(pipe, "cam", pid)
        board[GATE] = 1
        await_motion(pipe)
        eventually(lambda: snapshot_of(pipe).budget_is_whole, "all of the budget")


# ---- taps ----------------------------------------------------------------------------------------


def tapped_pipe() -> Pipe:
    checks = Checks(Board(), {("cam", "mid"): 0, ("cam", "mid", "out"): 2})
    routines = camera(fps=500), Step("mid", "forward", checks), Screen("out", checks)
    return flows_of(Pipe(policy="block"), *routines, wires={"cam": "mid", "mid": "out"})


def is_tapped(shot: Snapshot, wires: int) -> bool:
    """Whether there is an edge besides the wires, whose numbers come first."""
    return any(shot.unswept(number) for number in range(wires, len(shot.edges)))


def test_a_tap_ends_with_the_process_that_it_looks_at() -> None:
    with running(tapped_pipe()) as pipe:
        for _ in range(10):  # more often than there are taps
            tap = pipe.tap("mid")
            frame = next(tap)
            assert len(np.unique(frame)) == 1
            del frame
            kill_flows(pipe, "mid")
            assert all(len(np.unique(frame)) == 1 for frame in tap)  # it ends
            tap.close()
            await_motion(pipe)
        with pipe.tap("mid") as again:
            kill_flows(pipe, "cam")
            frame = next(again)
            assert len(np.unique(frame)) == 1
            del frame
        await_motion(pipe)
        drain(pipe, "cam")
        assert_sound(pipe, {"cam": 2})


def test_a_process_dies_when_it_is_just_to_be_tapped() -> None:
    with running(tapped_pipe()) as pipe:
        await_motion(pipe)
        pid = pid_of(pipe, "mid")
        os.kill(pid, signal.SIGSTOP)  # it will not answer
        wires = len(pipe.statistics().wires)
        with ThreadPoolExecutor() as threads:
            asked = threads.submit(pipe.tap, "mid")
            eventually(lambda: is_tapped(snapshot_of(pipe), wires), "an edge for the tap")
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(PipeStateError, match="routine 'mid' died"):
                asked.result(timeout=20)
        await_motion(pipe)
        with pipe.tap("mid") as tap:
            assert len(np.unique(next(tap))) == 1
        drain(pipe, "cam")
        assert_sound(pipe, {"cam": 2})
