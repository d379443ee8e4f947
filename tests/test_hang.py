"""Routines that do not return: those that hang, those that only seem to, and those that a signal stopped."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from killing import FAST, assert_sound, await_motion, drain, pid_of, running, snapshot_of
from patterned import SHAPE, Camera, Checks, Screen
from pipert_shm import DestinationRoutine, Pipe, Routine, SourceRoutine, Wire
from routines import Sink
from waiting import Board, eventually

pytestmark = pytest.mark.machine

GATE, CALLS = 10, 11


def sleep_for_ever() -> None:
    time.sleep(1000)


def hold_the_interpreter_for_ever() -> None:
    while True:  # a signal ends sleep(3)
        ctypes.PyDLL(None).sleep(1000)  # PyDLL does not let go of the interpreter's lock


class Hangs(DestinationRoutine):
    """Hangs on the fifth message of its first two lives."""

    hang_timeout = 0.1

    def __init__(self, name: str, board: Board, how: Any) -> None:
        super().__init__(name)
        self.board = board
        self.how = how

    def setup(self) -> None:
        self.board.add(CALLS)
        self.taken = 0

    def main_logic(self, data: Any) -> None:
        self.taken += 1
        if self.taken == 5 and self.board[CALLS] <= 2:
            self.how()


def wired(pipe: Pipe, source: Routine, *destinations: Routine) -> Pipe:
    for routine in (source, *destinations):
        pipe.create_flow(routine.name, False, routine, **FAST)
    pipe.link(Wire(source, destinations))
    return pipe


def camera(fps: float = 500) -> Camera:
    routine = Camera("cam", SHAPE, loaning=True)
    routine.set_const_fps(fps)
    return routine


# ---- those that hang -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", [sleep_for_ever, hold_the_interpreter_for_ever])
def test_a_hang_is_logged_and_ends_in_a_restart(how: Any, caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    checks = Checks(board, {("cam", "sibling"): 0})
    hangs, sibling = Hangs("hangs", board, how), Screen("sibling", checks)
    with running(wired(Pipe(policy="drop_oldest", capacity=64), camera(fps=100), hangs, sibling)) as pipe:
        eventually(lambda: pipe.statistics().flows["hangs"].restarts == 2, "two restarts")
        eventually(lambda: board[CALLS] == 3, "a third life")
        await_motion(pipe, messages=10)
        drain(pipe, "cam")
        assert_sound(pipe)
        now = pipe.statistics()
    assert now.flows["hangs"].last_exit == -signal.SIGKILL
    assert now.routines["hangs"].lost_in_crash == 2
    assert now.wires["cam", "sibling"].lost == 0
    reports = [text for record in caplog.records if "hangs in main_logic for more than 0.1 s" in (text := record.getMessage())]
    assert len(reports) == 2
    for report in reports:
        assert f"in {how.__name__}" in report
        assert "in serve" in report  # the control thread's stack: all threads are there
        assert report.count("Stack (most recent call first)") >= 2


def test_a_stopped_process_hangs_too(caplog: pytest.LogCaptureFixture) -> None:
    """It can't say where; it is restarted all the same."""
    board = Board()

    class Waits(DestinationRoutine):
        hang_timeout = 0.1

        def main_logic(self, data: Any) -> None:
            if not board[GATE]:
                board[GATE] = 1
                os.kill(os.getpid(), signal.SIGSTOP)
                sleep_for_ever()

    with running(wired(Pipe(), camera(), Waits("waits"))) as pipe:
        eventually(lambda: pipe.statistics().flows["waits"].restarts == 1, "a restart")
        await_motion(pipe, messages=3)
    assert any("it does not answer" in record.getMessage() for record in caplog.records)


# ---- those that don't ----------------------------------------------------------------------------


@contextmanager
def a_clock() -> Iterator[Any]:
    """Waits until the launcher of another pipe has found, three times in a row, that 0.1 s of a hang are over."""

    class Hangs_(DestinationRoutine):
        hang_timeout = 0.1

        def main_logic(self, data: Any) -> None:
            sleep_for_ever()

    with running(wired(Pipe(), camera(), Hangs_("clock"))) as pipe:

        def wait() -> None:
            before = pipe.statistics().flows["clock"].restarts
            eventually(lambda: pipe.statistics().flows["clock"].restarts >= before + 3, "three hangs of another pipe")

        yield wait


def test_to_wait_for_room_is_not_to_hang() -> None:
    """On a full wire, and for a slot in loan(); and a slow routine that sets no time-out is left alone."""
    board = Board()

    class Loans(SourceRoutine):
        hang_timeout = 0.1

        def __init__(self, name: str) -> None:
            super().__init__(name)
            self.kept: list[np.ndarray] = []

        def main_logic(self) -> np.ndarray | None:
            self.kept.append(self.loan(SHAPE))  # until there are no more
            board.add(CALLS)
            return None

    class Sends(SourceRoutine):
        hang_timeout = 0.1

        def main_logic(self) -> np.ndarray:
            return np.zeros(SHAPE, np.uint8)

    class Slow(DestinationRoutine):
        def main_logic(self, data: Any) -> None:
            board.wait(GATE, timeout=60)

    loans, sends, slow, idle = Loans("loans"), Sends("sends"), Slow("slow"), Sink("idle")
    pipe = Pipe(policy="block", capacity=2)
    for routine in (loans, sends, slow, idle):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(sends, slow), Wire(loans, idle))
    with a_clock() as three_hangs, running(pipe):
        eventually(lambda: pipe.statistics().wires["sends", "slow"].waiting == 2, "a full wire")

        def loans_left() -> int:
            payload = [ring for ring in snapshot_of(pipe).rings.values() if ring.owner == 0 and ring.slot_bytes > 4096]
            return sum(ring.words.count(word) for ring in payload for word in set(ring.words) if not word & 0xFFFFFFFF)

        eventually(lambda: board[CALLS] > 0 and loans_left() == 0, "a ring that is used up")
        three_hangs()
        assert {flow.restarts for flow in pipe.statistics().flows.values()} == {0}
        board[GATE] = 1
        eventually(lambda: pipe.statistics().wires["sends", "slow"].received > 10, "motion")


def test_a_consumer_is_stopped_for_a_while() -> None:
    """The source keeps its rate and the sibling its frames, memory stays as it is, and on SIGCONT the consumer goes on."""
    checks = Checks(Board(), {("cam", "stopped"): 0, ("cam", "sibling"): 2})
    pipe = wired(Pipe(capacity=64), camera(100), Screen("stopped", checks), Screen("sibling", checks))
    with running(pipe):
        await_motion(pipe, messages=40)  # past the larger frames that a source begins to send some time
        pid = pid_of(pipe, "stopped")
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: pipe.statistics().wires["cam", "stopped"].waiting == 64, "a full queue")
        before = pipe.statistics()
        bytes_before = snapshot_of(pipe).ring_bytes
        eventually(lambda: pipe.statistics().wires["cam", "sibling"].received > before.wires["cam", "sibling"].received + 200)
        after = pipe.statistics()
        sent = after.wires["cam", "sibling"].sent - before.wires["cam", "sibling"].sent
        assert sent > 0.7 * 100 * (after.time_s - before.time_s)
        assert after.wires["cam", "sibling"].lost == 0
        assert after.wires["cam", "stopped"].received == before.wires["cam", "stopped"].received
        assert snapshot_of(pipe).ring_bytes == bytes_before
        os.kill(pid, signal.SIGCONT)
        await_motion(pipe, messages=20)
        drain(pipe, "cam")
        assert_sound(pipe)
        now = pipe.statistics()
    assert {flow.restarts for flow in now.flows.values()} == {0}
    assert now.routines["stopped"].lost_in_crash == 0
