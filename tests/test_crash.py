"""Processes that are killed while messages are on their way: what goes on meanwhile, what is lost, and what must not be."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from killing import (
    FAST,
    assert_sound,
    await_motion,
    await_states,
    await_successor,
    drain,
    flows_of,
    kill_flows,
    pid_of,
    running,
    snapshot_of,
)
from patterned import SHAPE, Camera, Checks, Numbers, Screen, Step, pattern
from pipert_shm import MiddleRoutine, Pipe, PipeStatistics, SourceRoutine, Wire
from pipert_shm.limits import POLICIES, Policy
from routines import Gated, Record, Sink, received
from waiting import Board, eventually

GATE, TAKEN, SENT = 100, 101, 102  # cells of a board; those below are for `Checks`
WIRE = ("cam", "out")


def camera(name: str = "cam", fps: float = 0) -> Camera:
    routine = Camera(name, SHAPE, loaning=True)
    routine.set_const_fps(fps)
    return routine


class Slow(Record):
    """Records, but only when the gate is open."""

    def __init__(self, path: Path, board: Board) -> None:
        super().__init__("out", path, lambda frame: int(np.unique(frame)[0]))
        self.board = board

    def main_logic(self, data: Any) -> None:
        self.board[TAKEN] = self.meta.sequence + 1
        self.board.wait(GATE, timeout=60)
        super().main_logic(data)


# ---- every role, every policy --------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("victims", ["cam", "mid", "out", "cam out", "mid out", "cam mid out"])
def test_what_is_left_is_sound(victims: str, policy: Policy) -> None:
    checks = Checks(Board(), {("cam", "mid"): 0, ("cam", "mid", "out"): 2})
    routines = camera(), Step("mid", "extend", checks), Screen("out", checks)
    with running(flows_of(Pipe(policy=policy, capacity=3), *routines, wires={"cam": "mid", "mid": "out"})) as pipe:
        for _ in range(3):
            await_motion(pipe)
            kill_flows(pipe, *victims.split())
        await_motion(pipe, messages=5)
        drain(pipe, "cam")
        assert_sound(pipe, {"cam": 2} if policy == "block" else None)
        flows = pipe.statistics().flows
    assert {name: flow.restarts for name, flow in flows.items() if flow.restarts} == dict.fromkeys(victims.split(), 3)


def test_everybody_dies_at_once_again_and_again() -> None:
    checks = Checks(Board(), {("a", "c"): 0, ("b", "c"): 2, ("a", "c", "d"): 4, ("b", "c", "d"): 6})
    routines = camera("a"), camera("b"), Step("c", "forward", checks), Screen("d", checks)
    with running(flows_of(Pipe(policy="block", capacity=2), *routines, wires={"a": "c", "b": "c", "c": "d"})) as pipe:
        for _ in range(5):
            await_motion(pipe)
            kill_flows(pipe, "a", "b", "c", "d")
        await_motion(pipe, messages=5)
        drain(pipe, "a", "b")
        assert_sound(pipe, {"a": 2, "b": 2})


def test_two_routines_of_one_flow_die_together() -> None:
    """A wire within the flow has both of its ends in the dead process: what waited there is lost, and counted."""
    checks = Checks(Board(), {("cam", "mid"): 0, ("cam", "mid", "out"): 2})
    source, mid, out = camera(), Step("mid", "extend", checks), Screen("out", checks)
    pipe = Pipe(policy="block", capacity=3)
    pipe.create_flow("both", True, source, mid, **FAST)
    pipe.create_flow("out", False, out, **FAST)
    pipe.link(Wire(mid, out))
    with running(pipe):
        for _ in range(5):
            await_motion(pipe)
            kill_flows(pipe, "both")
        await_motion(pipe, messages=5)
        drain(pipe, "cam")
        assert_sound(pipe, {"cam": 2})


def test_a_sibling_keeps_its_rate() -> None:
    checks = Checks(Board(), {("cam", "victim"): 0, ("cam", "sibling"): 2})
    routines = camera(fps=100), Screen("victim", checks), Screen("sibling", checks)

    def counts(now: PipeStatistics) -> tuple[int, int]:
        wire = now.wires["cam", "sibling"]
        return wire.sent, wire.received

    with running(flows_of(Pipe(capacity=64), *routines, wires={"cam": "victim sibling"})) as pipe:
        await_motion(pipe)
        before = pipe.statistics()
        for _ in range(10):
            kill_flows(pipe, "victim")
            await_motion(pipe, messages=5)
        after = pipe.statistics()
        drain(pipe, "cam")
        assert_sound(pipe)
        assert pipe.statistics().wires["cam", "sibling"].lost == 0
    assert after.flows["victim"].restarts == 10
    seconds = after.time_s - before.time_s
    for now, then in zip(counts(after), counts(before), strict=True):
        assert now - then > 0.7 * 100 * seconds


def test_a_process_dies_in_setup() -> None:
    board = Board(128)

    class Fragile(Screen):
        def setup(self) -> None:
            board.add(TAKEN)
            if board[TAKEN] <= 3:
                os.kill(os.getpid(), signal.SIGKILL)

    with running(flows_of(Pipe(), camera(), Fragile("out", Checks(board, {WIRE: 0})), wires={"cam": "out"})) as pipe:
        await_motion(pipe, messages=5)
        assert pipe.statistics().flows["out"].restarts == 3
        drain(pipe, "cam")
        assert_sound(pipe)


def test_a_flow_that_has_ended_does_not_run_again() -> None:
    board = Board(128)

    class Once(Numbers):
        def setup(self) -> None:
            board.add(TAKEN)

    board[GATE] = 1
    routines = Once("once", board, 2, GATE, SENT), Sink("end"), camera(), Screen("out", Checks(board, {WIRE: 0}))
    with running(flows_of(Pipe(policy="block"), *routines, wires={"once": "end", "cam": "out"})) as pipe:
        await_states(pipe, once="ended", end="ended")
        kill_flows(pipe, "once", "end")
        kill_flows(pipe, "once")
        await_motion(pipe, ("once", "end"), messages=20)
        now = pipe.statistics()
        assert [now.routines[name].state for name in ("once", "end")] == ["ended", "ended"]
    assert board[TAKEN] == 1


# ---- lossless wires ------------------------------------------------------------------------------


def test_a_backlog_passes_to_the_next_receiver(tmp_path: Path) -> None:
    board = Board(128)
    routines = Numbers("cam", board, 9, GATE, SENT), Slow(tmp_path / "got", board)
    with running(flows_of(Pipe(policy="block", capacity=8), *routines, wires={"cam": "out"})) as pipe:
        eventually(lambda: pipe.statistics().wires[WIRE].waiting == 8 and board[TAKEN] == 1, "a full queue behind one in hand")
        pid = pid_of(pipe, "out")
        os.kill(pid, signal.SIGKILL)
        await_successor(pipe, "out", pid)
        board[GATE] = 1
        await_states(pipe, cam="ended", out="ended")
        assert_sound(pipe)
        now = pipe.statistics()
    assert [(m.sequence, m.value) for m in received(tmp_path / "got")] == [(n, pattern("cam", n)) for n in range(1, 9)]
    assert (now.wires[WIRE].sent, now.wires[WIRE].received, now.wires[WIRE].lost) == (9, 9, 0)
    assert now.routines["out"].lost_in_crash == 1


def test_a_backlog_outlives_both_ends(tmp_path: Path) -> None:
    """The sender's successor goes on with the next number; the receiver's reads the old queue first, then the new one."""
    board = Board(128)
    routines = Numbers("cam", board, 30, GATE, SENT), Slow(tmp_path / "got", board)
    with running(flows_of(Pipe(policy="block", capacity=8), *routines, wires={"cam": "out"})) as pipe:
        # In this order: eight may wait, too, before the first one is taken.
        eventually(lambda: board[TAKEN] == 1 and pipe.statistics().wires[WIRE].waiting == 8, "a full queue behind one in hand")
        kill_flows(pipe, "cam", "out")
        board[GATE] = 1
        await_states(pipe, cam="ended", out="ended")
        assert_sound(pipe)
        now = pipe.statistics()
    numbers = [message.sequence for message in received(tmp_path / "got")]
    assert numbers == sorted(set(numbers))
    assert set(range(1, 9)) <= set(numbers)
    # 0 was in the receiver's hands; the one that the sender was about to send may have had a number already.
    wire = now.wires[WIRE]
    assert 30 - len(numbers) - now.routines["out"].lost_in_crash - wire.dropped["crash"] in (0, 1)
    assert wire.lost == wire.dropped["crash"]


def test_the_end_of_a_stream_outlives_the_receiver() -> None:
    board = Board(128)
    board[GATE] = 1  # the source ends at once
    routines = Numbers("cam", board, 5, GATE, SENT), Gated("out", board, gate=3, taken=4)
    with running(flows_of(Pipe(policy="block", capacity=8), *routines, wires={"cam": "out"})) as pipe:
        await_states(pipe, cam="ended")
        kill_flows(pipe, "out")
        board[3] = 99
        pipe.join()
        now = pipe.statistics()
    assert now.routines["out"].state == "ended"
    assert board[4] == now.wires[WIRE].received - now.routines["out"].lost_in_crash
    assert now.wires[WIRE].sent == 5 == now.wires[WIRE].received


@pytest.mark.machine
def test_a_restart_does_not_wait_for_a_sender_in_a_long_call() -> None:
    """Less than 200 ms from the kill to the next message in the successor's hands, while the sender sits in main_logic."""
    board = Board(128)
    routines = Numbers("cam", board, 8, GATE, SENT), Gated("out", board, gate=3, taken=4)
    times = []
    with running(flows_of(Pipe(policy="block", capacity=8), *routines, wires={"cam": "out"})) as pipe:
        board.wait(SENT)
        for n in range(1, 5):
            eventually(lambda n=n: pipe.statistics().wires[WIRE].received == n, f"message {n}")  # type: ignore[misc]
            started = time.monotonic()
            os.kill(pid_of(pipe, "out"), signal.SIGKILL)
            eventually(lambda n=n: pipe.statistics().wires[WIRE].received == n + 1, f"message {n + 1}")  # type: ignore[misc]
            times.append(time.monotonic() - started)
        board[3] = 99
        board[GATE] = 1
        await_states(pipe, cam="ended", out="ended")
        assert_sound(pipe)
        now = pipe.statistics()
    assert (board[4], now.routines["out"].lost_in_crash) == (4, 4)
    assert min(times) < 0.2


def test_a_middle_routine_loses_nothing_uncounted() -> None:
    """What it had received is sent on, or counted as lost, whenever it dies."""

    class Enlarge(MiddleRoutine):
        def main_logic(self, data: Any) -> Any:
            return np.zeros(1 << 23, np.uint8)  # it is in the middle of sending most of the time

    routines = camera(), Enlarge("mid"), Sink("out")
    with running(flows_of(Pipe(policy="block", capacity=1), *routines, wires={"cam": "mid", "mid": "out"})) as pipe:
        for _ in range(20):
            await_motion(pipe)
            kill_flows(pipe, "mid")
        drain(pipe, "cam")
        now = pipe.statistics()
    # A death between the two stores that move a message from one count to the other leaves it in both.
    twice = now.wires["mid", "out"].sent + now.routines["mid"].lost_in_crash - now.routines["mid"].received
    assert twice in (0, 1)


def test_a_message_that_can_not_be_decoded_and_then_a_death() -> None:
    class Sender(SourceRoutine):
        def main_logic(self) -> Any:
            return Poison() if self.meta.sequence % 2 == 0 else np.zeros(SHAPE, np.uint8)

    with running(flows_of(Pipe(policy="block"), Sender("cam"), Sink("out"), wires={"cam": "out"})) as pipe:
        eventually(lambda: pipe.statistics().wires[WIRE].dropped["error"] > 3, "some that can't be decoded")
        kill_flows(pipe, "out")
        await_motion(pipe)
        drain(pipe, "cam")
        now = pipe.statistics()
        shot = snapshot_of(pipe)
    assert now.routines["out"].lost_in_crash <= 1
    assert now.wires[WIRE].sent - shot.pending(0) == now.wires[WIRE].received + now.wires[WIRE].lost


class Poison:
    """Pickles, but does not unpickle."""

    def __reduce__(self) -> Any:
        return _raise, ()


def _raise() -> None:
    raise ValueError("this does not unpickle")
