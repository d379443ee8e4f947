"""`pipert-shm why`: what it says of real pipes, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from conftest import RunCli, StartCli
from killing import FAST, await_motion, await_states, pipe_id_of, running
from pipert_shm import DestinationRoutine, MiddleRoutine, Pipe, Routine, SourceRoutine, VideoSource, Wire
from pipert_shm.cli.why import examine, look
from pipert_shm.diagnosis.span import VIDEO_SOURCE
from pipert_shm.errors import UnknownTarget
from routines import Forward, Frames, Gated, Sink, chain
from test_segments import GATE, await_held, held_pipe
from waiting import Board, eventually

pytestmark = pytest.mark.shm


class Slow(MiddleRoutine):
    """Takes its time over each message, and computes nothing."""

    def main_logic(self, data: Any) -> Any:
        time.sleep(0.05)
        return data


class Keeps(DestinationRoutine):
    """Keeps all frames that it gets."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.kept: list[np.ndarray] = []

    def main_logic(self, data: np.ndarray) -> None:
        self.kept = [*self.kept[-30:], data]


class Fails(DestinationRoutine):
    def main_logic(self, data: Any) -> None:
        raise ValueError("it always fails")


class Silent(SourceRoutine):
    """Waits in `main_logic` for what never comes."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self) -> Any:
        self.board.wait(0, timeout=60)


def camera(fps: float = 200, *, loan: bool = True) -> Frames:
    one = Frames("camera", None, (240, 320, 3), loan=loan)
    one.set_const_fps(fps)
    return one


def line_of(*routines: Routine, **wire: Any) -> Pipe:
    """Each in a flow of its own, wired to the next; the first wire with these settings."""
    pipe = Pipe(grace_period=0.5)
    for one in routines:
        pipe.create_flow(one.name, False, one, **FAST)
    pipe.link(
        *(
            Wire(sender, receiver, **(wire if number == 0 else {}))
            for number, (sender, receiver) in enumerate(pairwise(routines))
        )
    )
    return pipe


def findings(pipe: Pipe, seconds: float = 0.4) -> list[dict[str, Any]]:
    (report,) = examine(pipe_id_of(pipe), seconds)
    assert (report["pipe_id"], report["problem"]) == (pipe_id_of(pipe), "")
    assert report["seconds"] >= seconds
    return list(report["findings"])


def await_finding(
    pipe: Pipe, kind: str, where: str, fits: Callable[[dict[str, Any]], bool] = lambda finding: True
) -> dict[str, Any]:
    """Until there is a finding of this kind, about this."""
    found: list[dict[str, Any]] = []
    all_of_them: list[dict[str, Any]] = []

    def is_there() -> bool:
        all_of_them[:] = findings(pipe)
        found[:] = [one for one in all_of_them if (one["kind"], one["where"]) == (kind, where) and fits(one)]
        return bool(found)

    eventually(is_there, f"{kind} about {where!r}, after {all_of_them}")
    return found[0]


# ---- cases ---------------------------------------------------------------------------------------


def test_a_slow_routine_in_the_middle() -> None:
    with running(line_of(camera(), Slow("slow"), Sink("end"))) as pipe:
        await_motion(pipe)
        bottleneck = await_finding(pipe, "bottleneck", "slow")
        drops = await_finding(pipe, "drops", "camera -> slow")
    assert bottleneck["severity"] == "problem"
    assert "camera -> slow loses" in bottleneck["what"]
    assert any("replicas=" in advice for advice in bottleneck["advice"])
    assert any("camera.set_const_fps(" in advice for advice in bottleneck["advice"])
    assert "waits" in bottleneck["why"]
    assert "(oldest)" in drops["what"]
    assert "slow is the bottleneck" in drops["why"]


def test_a_source_that_is_blocked() -> None:
    with running(line_of(camera(), Slow("slow"), Sink("end"), policy="block")) as pipe:
        await_motion(pipe)
        blocked = await_finding(pipe, "blocked", "camera -> slow")
        bottleneck = await_finding(pipe, "bottleneck", "slow")
    assert "slow" in blocked["why"]
    assert bottleneck["severity"] == "cost"
    assert "camera waits" in bottleneck["what"]


def test_messages_that_are_too_old_when_they_come() -> None:
    with running(line_of(camera(), Slow("slow"), Sink("end"), capacity=50, max_age=0.1)) as pipe:
        drops = await_finding(pipe, "drops", "camera -> slow", lambda finding: "(expired)" in finding["what"])
    assert "max_age" in drops["what"]
    assert "on this wire" in drops["why"]
    assert any("capacity=1" in advice for advice in drops["advice"])


def test_a_routine_that_copies() -> None:
    with running(line_of(camera(loan=False), Forward("forward"), Sink("end"))) as pipe:
        await_motion(pipe)
        copies = await_finding(pipe, "copies", "camera")
        assert not [one for one in findings(pipe) if one["kind"] == "copies" and one["where"] != "camera"]
    assert "230.4 kB of each message" in copies["what"]
    assert any("loan" in advice for advice in copies["advice"])


def test_a_receiver_that_keeps_its_frames() -> None:
    with running(line_of(camera(), Keeps("keeps"))) as pipe:
        kept = await_finding(pipe, "kept frames", "camera -> keeps")
    assert "keeps" in kept["why"]


def test_a_ring_without_a_free_slot() -> None:
    board = Board()
    size = (480, 640, 3)
    source, waits, sink = Frames("camera", None, size, loan=True), Gated("waits", board, gate=0, taken=1), Sink("end")
    pipe = Pipe(policy="block", capacity=8, memory_budget=5 * 480 * 640 * 3, grace_period=0.5)
    for one in (source, waits, sink):
        pipe.create_flow(one.name, False, one)
    pipe.link(Wire(source, (waits, sink)))
    with running(pipe):
        starved = await_finding(pipe, "no free slot", "camera")
        board[0] = 10**6
    assert any("waits holds" in advice for advice in starved["advice"])


def test_a_routine_that_always_fails() -> None:
    with running(line_of(camera(), Fails("fails"))) as pipe:
        errors = await_finding(pipe, "errors", "fails", lambda finding: "succeeds" in finding["what"])
    assert errors["severity"] == "problem"


def test_a_video_source_is_known_by_its_counters() -> None:
    assert set(VideoSource.counter_names) == VIDEO_SOURCE


def test_a_stream_that_is_not_there() -> None:
    with running(line_of(VideoSource("rtsp://127.0.0.1:9/none", "camera"), Sink("end"))) as pipe:
        lost = await_finding(pipe, "lost source", "camera")
        assert [one for one in findings(pipe) if "No message moved" in one["what"]]
    assert lost["severity"] == "problem"


def test_a_flow_that_dies() -> None:
    with running(line_of(camera(), Sink("end"))) as pipe:
        await_motion(pipe)
        os.kill(pipe.statistics().flows["end"].pid, signal.SIGKILL)
        eventually(lambda: pipe.statistics().flows["end"].restarts == 1, "a restart")
        restarts = await_finding(pipe, "earlier restarts", "end")
    assert "SIGKILL" in restarts["what"]


def test_a_call_that_does_not_end() -> None:
    board = Board()
    with running(held_pipe(board)) as pipe:
        await_states(pipe, camera="ended", fast="ended")
        await_held(pipe, waits=3)
        hang = await_finding(pipe, "hang", "waits")
        board[GATE] = 1
    assert hang["severity"] == "problem"


def test_a_source_that_has_nothing_to_send() -> None:
    board = Board()
    with running(line_of(Silent("silent", board), Sink("end"))) as pipe:
        hang = await_finding(pipe, "hang", "silent")
        still = next(one for one in findings(pipe) if one["kind"] == "not running")
        board[0] = 1
    assert (hang["severity"], still["severity"]) == ("note", "note")
    assert "silent (running, in `main_logic`" in still["why"]


def test_a_pipe_that_was_not_started_and_one_that_is_paused() -> None:
    pipe = Pipe()
    chain(pipe, camera(50), Sink("end"))
    pipe.build()
    (finding,) = (one for one in findings(pipe) if one["kind"] != "processors")
    assert "not started" in finding["what"]
    pipe.notify_event("start")
    await_motion(pipe)
    pipe.notify_event("stop")
    await_states(pipe, camera="stopped", end="stopped")
    (finding,) = (one for one in findings(pipe) if one["kind"] != "processors")
    assert "paused" in finding["what"]
    pipe.join(to_kill=True)


def test_a_pipe_with_which_nothing_is_wrong() -> None:
    with running(line_of(camera(5), Sink("end"))) as pipe:
        await_motion(pipe)
        fine = await_finding(pipe, "fine", "")
    assert "end" in fine["what"]


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_names_the_pipe_and_what_is_wrong(run_cli: RunCli) -> None:
    pipe = line_of(camera(), Slow("slow"), Sink("end[bold]"))
    pipe.name = "yard\x1b[2J"
    with running(pipe):
        await_motion(pipe)
        await_finding(pipe, "bottleneck", "slow")
        by_id = run_cli("why", pipe_id_of(pipe), "--seconds", "1", COLUMNS="100")
        by_part = json.loads(run_cli("why", "YARD", "--seconds", "0.2", "--json").stdout)
    assert (by_id.returncode, by_id.stderr) == (0, "")
    assert by_id.lines[0].startswith("pipe yard\\x1b[2J (" + pipe_id_of(pipe))
    assert any("bottleneck, routine slow" in line for line in by_id.lines)
    assert any(line.startswith("   try: ") for line in by_id.lines)
    assert all(len(line) <= 100 for line in by_id.lines)
    assert [report["pipe_id"] for report in by_part] == [pipe_id_of(pipe)]


def test_a_pipe_that_nobody_knows(run_cli: RunCli) -> None:
    end = run_cli("why", "no-such-pipe")
    assert (end.returncode, end.stdout) == (1, "")
    assert "there is no pipe 'no-such-pipe'" in end.stderr
    with pytest.raises(UnknownTarget):
        look("no-such-pipe")


def test_ctrl_c_tells_what_is_known_so_far(start_cli: StartCli) -> None:
    with running(line_of(camera(), Slow("slow"), Sink("end"))) as pipe:
        await_motion(pipe)
        process = start_cli("why", pipe_id_of(pipe), "--seconds", "3000", "--json")
        eventually(lambda: is_asleep(process), "the wait between the two looks")
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    (report,) = json.loads(out)
    assert report["seconds"] < 3000
    assert report["findings"]


def is_asleep(process: subprocess.Popen[str]) -> bool:
    """Whether it waits for so long that it can only be the time between two looks."""
    try:
        with open(f"/proc/{process.pid}/wchan") as file:
            return "nanosleep" in file.read()
    except FileNotFoundError:
        return False


def test_a_pipe_that_ends_meanwhile() -> None:
    with running(line_of(camera(), Sink("end"))) as pipe:
        known, pipe_id = look(), pipe_id_of(pipe)
    assert known[pipe_id].moment is not None
    assert pipe_id not in look()
