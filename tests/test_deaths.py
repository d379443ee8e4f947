"""Flows, launchers and parents that are killed from outside: all others end, and join() tells of it."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

import processes
from conftest import StartScript
from lifecycle import CLEANUPS, GATE, MIDDLE_PID, TAKEN, Counting, Pids, sleep_for_ever, state
from pipert_shm import START_EVENT_NAME, DestinationRoutine, Pipe, PipeFailed, Wire
from routines import Forward, Frames, Gated, Sink, chain
from shown import SCRIPT
from waiting import Board, eventually


@pytest.fixture
def known() -> set[int]:
    return set(processes.descendants())


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("stuck", [False, True], ids=["running", "stuck"])
def test_flows_end_when_their_parent_dies(
    start_script: StartScript, known: set[int], stuck: bool, signal_number: signal.Signals
) -> None:
    script = start_script(
        SCRIPT
        + f"""
pipe, camera, show = make(grace_period=0.5)
if {stuck}:
    Show.main_logic = lambda self, data: print("frame") or time.sleep(1000)
pipe.build()
pipe.notify_event(START_EVENT_NAME)
pipe.join()
"""
    )
    script.wait_for_line("frame")
    script.process.send_signal(signal_number)
    assert script.process.wait(10) == -signal_number
    processes.reap_orphans(known)
    assert "camera cleaned up" in script.finish().lines


@pytest.mark.timeout(30)
@pytest.mark.parametrize("endless", [False, True], ids=["finite", "endless"])
def test_a_flow_that_is_killed_from_outside(caplog: pytest.LogCaptureFixture, endless: bool) -> None:
    board = Board()
    pipe = Pipe(policy="block", grace_period=2, on_failure="stop" if endless else "continue")
    gated = Gated("gated", board, GATE, TAKEN)
    chain(pipe, Counting("source", None if endless else 1000, board), Pids("middle", board, MIDDLE_PID), gated, restart="never")
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(MIDDLE_PID)
    eventually(lambda: pipe.statistics().wires["source", "middle"].waiting == 2)  # all are stuck
    os.kill(board[MIDDLE_PID], signal.SIGKILL)
    board[GATE] = 10_000
    with pytest.raises(PipeFailed, match="flow 'middle' was killed by signal 9") as caught:
        pipe.join()
    assert caught.value.exit_codes == {"middle": -9}
    assert "flow 'middle' was killed by signal 9; it is not restarted" in caplog.messages
    assert board[CLEANUPS] == 1
    assert state(pipe, "middle") == {"failed"}
    with pytest.raises(PipeFailed):
        pipe.join()


@pytest.mark.parametrize("victim", ["source", "sink"])
def test_either_end_dies(victim: str) -> None:
    class Dies(Forward):
        def main_logic(self, data: Any) -> Any:
            if data == 20:
                os._exit(3)
            return data

    pipe = Pipe(policy="block", grace_period=2)
    source, dies, sink = Counting("s", 1000), Dies("dies"), Sink("d")
    flows = {"source": ((source, dies), (sink,)), "sink": ((source,), (dies, sink))}[victim]
    pipe.create_flow("source", False, *flows[0], restart="never")
    pipe.create_flow("sink", False, *flows[1], restart="never")
    pipe.link(Wire(source, dies), Wire(dies, sink))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    with pytest.raises(PipeFailed, match=f"flow '{victim}' exited with status 3") as caught:
        pipe.join()
    assert caught.value.exit_codes == {victim: 3}


def test_frames_that_a_dead_flow_held_do_not_starve_the_others() -> None:
    """It dies with frames in its queue and in its hands; its sender goes on with other receivers."""

    class Hoards(DestinationRoutine):
        kept: tuple[Any, ...] = ()

        def main_logic(self, data: np.ndarray) -> None:
            self.kept = (*self.kept, data)
            if len(self.kept) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    pipe = Pipe(policy="block", grace_period=2)
    source, hoards, sink = Frames("source", 200, loan=True), Hoards("hoards"), Sink("sink")
    for routine in (source, hoards, sink):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, (hoards, sink)))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: state(pipe, "source", "sink") <= {"ended", "stopped"}, "the end of the others")
    with pytest.raises(PipeFailed, match="'hoards'"):
        pipe.join()


@pytest.mark.timeout(30)
def test_the_launcher_is_killed_from_outside(known: set[int]) -> None:
    board = Board()
    pipe = Pipe(policy="block", grace_period=1)
    chain(pipe, Counting("source", None, board), Pids("middle", board, MIDDLE_PID), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["sink"].received > 10)
    (launcher,) = (pid for pid in processes.descendants() if board[MIDDLE_PID] in processes.descendants(pid))
    os.kill(launcher, signal.SIGKILL)
    with pytest.raises(PipeFailed, match="'launcher' was killed by signal 9"):
        pipe.join()
    processes.reap_orphans(known)
    assert board[CLEANUPS] == 1


@pytest.mark.timeout(30)
def test_flows_that_are_stuck_end_too_when_their_launcher_is_gone(known: set[int]) -> None:
    board = Board()

    class Stuck(Pids):
        def main_logic(self, data: Any) -> Any:
            board[TAKEN] = 1
            sleep_for_ever()

    pipe = Pipe(policy="block", grace_period=0.5)
    chain(pipe, Counting("source", None, board), Stuck("middle", board, MIDDLE_PID), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(TAKEN)
    (launcher,) = (pid for pid in processes.descendants() if board[MIDDLE_PID] in processes.descendants(pid))
    os.kill(launcher, signal.SIGKILL)
    with pytest.raises(PipeFailed):
        pipe.join()
    processes.reap_orphans(known, timeout=10)
