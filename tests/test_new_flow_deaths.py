"""Deaths around an added flow: its own, of its fork server, of the launcher, of the parent."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest

import processes
from conftest import StartScript
from growing import add_sink, camera_pipe, fork_servers_of, moves
from killing import FAST, assert_sound, await_motion, await_states, await_successor, drain, kill_flows, launcher_of, pid_of
from pipert_shm import START_EVENT_NAME, PipeFailed, PipeStateError, Wire, WiresValidation
from routines import Frames, Record, Sink, one_value
from waiting import eventually


def test_a_new_flow_is_restarted(tmp_path: Path) -> None:
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, Record("late", tmp_path / "r", one_value))
        for _ in range(5):
            moves(pipe, "camera", "late")
            kill_flows(pipe, "late")
        kill_flows(pipe, "late", "camera")
        moves(pipe, "camera", "late")
        flow = pipe.statistics().flows["late"]
        assert (flow.restarts, flow.last_exit, flow.state) == (6, -signal.SIGKILL, "running")
        drain(pipe, "camera")
        assert_sound(pipe)
        pipe.join(to_kill=True)


def test_a_new_flow_is_restarted_on_request() -> None:
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, Sink("late"), restart="never")
        moves(pipe, "camera", "late")
        dead = pid_of(pipe, "late")
        pipe.restart_flow("late")
        await_successor(pipe, "late", dead)
        moves(pipe, "camera", "late")


def test_a_new_flow_that_must_not_be_restarted_has_failed() -> None:
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, late := Sink("late"), restart="never")
        moves(pipe, "camera", "late")
        os.kill(pid_of(pipe, "late"), signal.SIGKILL)
        await_states(pipe, late="failed")
        moves(pipe, "camera", "preview")
        pipe.create_flow("another", False, another := Frames("another", None))
        pipe.link(Wire(another, late))
        with pytest.raises(WiresValidation, match=r"'late'.*failed for good"):
            pipe.build()
        with pytest.raises(PipeFailed) as failure:
            pipe.join(to_kill=True)
        assert failure.value.exit_codes == {"late": -signal.SIGKILL}


def test_the_fork_server_is_killed() -> None:
    """Its flows have failed, the others go on, and a later build is none the worse."""
    known = processes.descendants()
    with camera_pipe() as (pipe, camera):
        pipe.create_flow("late", False, late := Sink("late"), **FAST)
        pipe.create_flow("pair", True, Frames("source", None), Sink("sink"), **FAST)
        pipe.link(Wire(camera, late))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        await_motion(pipe)
        pids = [pid_of(pipe, flow) for flow in ("late", "pair")]
        (server,) = fork_servers_of(pipe)
        os.kill(server, signal.SIGKILL)
        await_states(pipe, late="failed", source="failed", sink="failed")
        eventually(lambda: all(processes.is_zombie(pid) or pid not in processes.descendants() for pid in pids), "their end")
        moves(pipe, "camera", "preview")
        assert {pipe.statistics().flows[flow].state for flow in ("late", "pair")} == {"failed"}
        kill_flows(pipe, "camera")
        moves(pipe, "camera", "preview")
        add_sink(pipe, camera, Sink("later"))
        moves(pipe, "camera", "later")
        drain(pipe, "camera")
        assert_sound(pipe)
        with pytest.raises(PipeFailed) as failure:
            pipe.join(to_kill=True)
        assert set(failure.value.exit_codes) == {"late", "pair"}
    processes.reap_orphans(set(known))


def test_the_fork_server_is_killed_while_its_flow_waits_for_a_restart() -> None:
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, Sink("late"), max_restarts=10, restart_window=60)
        moves(pipe, "camera", "late")
        for _ in range(6):  # now it takes more than a second
            pid = pid_of(pipe, "late")
            os.kill(pid, signal.SIGKILL)
            await_successor(pipe, "late", pid)
        os.kill(pid_of(pipe, "late"), signal.SIGKILL)
        eventually(lambda: pipe.statistics().flows["late"].state == "restarting", "the wait")
        (server,) = fork_servers_of(pipe)
        os.kill(server, signal.SIGKILL)
        await_states(pipe, late="failed")
        moves(pipe, "camera", "preview")
        drain(pipe, "camera")
        assert_sound(pipe)
        with pytest.raises(PipeFailed):
            pipe.join(to_kill=True)


def test_the_fork_server_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed then, since it could still fork later on."""
    monkeypatch.setattr("pipert_shm.launcher.fork_server.PATIENCE", 0.3)
    known = set(processes.descendants())
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, Sink("late"))
        moves(pipe, "camera", "late")
        (server,) = fork_servers_of(pipe)
        os.kill(server, signal.SIGSTOP)
        os.kill(pid_of(pipe, "late"), signal.SIGKILL)
        await_states(pipe, late="failed")
        eventually(lambda: processes.is_zombie(server), "the fork server's end")
        moves(pipe, "camera", "preview")
        drain(pipe, "camera")
        assert_sound(pipe)
        with pytest.raises(PipeFailed):
            pipe.join(to_kill=True)
    processes.reap_orphans(known)


def test_a_log_handler_can_not_build() -> None:
    """It would fork the process in the midst of a handler."""
    logger = logging.getLogger("of test_new_flow")
    errors: list[BaseException] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                pipe.build()
            except PipeStateError as error:
                errors.append(error)

    with camera_pipe(logger=logger) as (pipe, camera):
        logger.addHandler(handler := Handler())
        pipe.create_flow("late", False, late := Sink("late"))
        pipe.link(Wire(camera, late))
        kill_flows(pipe, "preview")
        try:
            eventually(lambda: bool(errors), "a log record")
        finally:
            logger.removeHandler(handler)
        assert "log handler" in str(errors[0])
        assert "late" not in pipe.statistics().routines
        pipe.join(to_kill=True)


def test_the_launcher_is_killed() -> None:
    known = set(processes.descendants())
    with camera_pipe() as (pipe, camera):
        add_sink(pipe, camera, Sink("late"))
        moves(pipe, "camera", "late")
        os.kill(launcher_of(pipe), signal.SIGKILL)
        with pytest.raises(PipeFailed):
            pipe.join()
    processes.reap_orphans(known)


SCRIPT = """
    import os, sys
    from pipert_shm import START_EVENT_NAME, DestinationRoutine, Pipe, SourceRoutine, Wire

    class Camera(SourceRoutine):
        def main_logic(self):
            return b"x" * 10000

    class Screen(DestinationRoutine):
        def main_logic(self, data):
            pass

    camera = Camera("camera")
    pipe = Pipe(policy="block")
    pipe.create_flow("camera", False, camera)
    pipe.create_flow("screen", False, screen := Screen("screen"))
    pipe.link(Wire(camera, screen))
    pipe.build()
    pipe.create_flow("late", False, late := Screen("late"))
    pipe.link(Wire(camera, late))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    while not pipe.statistics().wires["camera", "late"].received:
        pass
    try:
        print("runs", flush=True)
        pipe.join()
    except KeyboardInterrupt:  # it came before join() did
        pipe.join(to_kill=True)
"""


def test_the_parent_is_killed(start_script: StartScript) -> None:
    known = set(processes.descendants())
    script = start_script(SCRIPT)
    assert script.process.stdout is not None
    assert script.process.stdout.readline().strip() == "runs"
    assert len(set(processes.descendants()) - known) == 6  # itself, launcher, fork server, three flows
    script.process.kill()
    script.process.wait()
    processes.reap_orphans(known)


def test_the_parent_is_interrupted(start_script: StartScript) -> None:
    script = start_script(SCRIPT)
    assert script.process.stdout is not None
    assert script.process.stdout.readline().strip() == "runs"
    os.killpg(script.process.pid, signal.SIGINT)
    finished = script.finish()
    assert (finished.returncode, finished.stderr) == (0, "")
