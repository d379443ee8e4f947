"""Restart policies and their limits, flows that fail for good, errors in user code, and what `statistics()` says of it all."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
from pathlib import Path
from typing import Any, Literal

import pytest

from killing import (
    FAST,
    await_motion,
    await_states,
    await_successor,
    kill_flows,
    pid_of,
    running,
    snapshot_of,
)
from pipert_shm import (
    DestinationRoutine,
    MiddleRoutine,
    Pipe,
    PipeFailed,
    PipeStateError,
    Routine,
    SourceRoutine,
    UnknownTarget,
    Wire,
    events,
)
from pipert_shm.graph.model import RestartPolicy
from pipert_shm.limits import Policy
from routines import Sink
from waiting import Board, eventually

EXIT = 3  # cell of a board
CALLS = 4
DONE = 5


class Ticks(SourceRoutine):
    """Sends its numbers, a thousand a second."""

    def __init__(self, name: str = "ticks") -> None:
        super().__init__(name)
        self.set_const_fps(1000)

    def main_logic(self) -> int:
        return self.meta.sequence


class Exits(DestinationRoutine):
    """Ends its process, once, when the board says so: with status (cell - 1), or by signal -cell."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: Any) -> None:
        self.board.add(CALLS)
        order = self.board[EXIT]
        if not order or self.board[DONE]:
            return
        self.board[DONE] = 1
        if order < 0:
            os.kill(os.getpid(), -order)
            return  # SIGTERM lets it clean up first
        os._exit(order - 1)


def pair(destination: Routine, policy: Policy = "drop_oldest", **options: Any) -> Pipe:
    pipe = Pipe(policy=policy)
    pipe.create_flow("source", False, source := Ticks())
    pipe.create_flow("flow", False, destination, **options)
    pipe.link(Wire(source, destination))
    return pipe


# ---- policies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "order", "restarted"),
    [
        ("on-failure", -signal.SIGKILL, True),
        ("on-failure", -signal.SIGTERM, True),
        ("on-failure", 1 + 1, True),
        ("on-failure", 0 + 1, False),
        ("always", 0 + 1, True),
        ("always", -signal.SIGKILL, True),
        ("never", -signal.SIGKILL, False),
        ("never", 0 + 1, False),
    ],
)
def test_policy(policy: RestartPolicy, order: int, restarted: bool) -> None:
    board = Board()
    with running(pair(Exits("out", board), restart=policy)) as pipe:
        board.wait(CALLS)
        pid = pid_of(pipe, "flow")
        board[EXIT] = order
        if restarted:
            await_successor(pipe, "flow", pid)
            before = board[CALLS]
            board.wait(CALLS, before + 5)
            assert pipe.statistics().routines["out"].state == "running"
        else:
            await_states(pipe, out="failed")
        flow = pipe.statistics().flows["flow"]
    assert (flow.state, flow.restarts) == (("running", 1) if restarted else ("failed", 0))
    assert flow.last_exit == (order if order < 0 else order - 1)


def test_restarts_are_on_by_default() -> None:
    with running(pair(Sink("out"))) as pipe:
        await_motion(pipe)
        kill_flows(pipe, "source", "flow")
        await_motion(pipe)


def test_the_back_off_doubles(caplog: pytest.LogCaptureFixture) -> None:
    with running(pair(Sink("out"))) as pipe:
        for _ in range(4):
            await_motion(pipe)
            kill_flows(pipe, "flow")
    delays = [float(found[1]) for r in caplog.records if (found := re.search(r"restarted in (\S+) s", r.getMessage()))]
    assert delays == [0.02, 0.04, 0.08, 0.16]


def test_deaths_that_are_long_ago_do_not_count() -> None:
    with running(pair(Sink("out"), max_restarts=1, restart_window=0.001)) as pipe:
        for _ in range(5):
            await_motion(pipe)
            kill_flows(pipe, "flow")
        assert pipe.statistics().flows["flow"].restarts == 5


def test_the_limit() -> None:
    pipe = pair(Sink("out"), max_restarts=2)
    with running(pipe):
        for _ in range(2):
            await_motion(pipe)
            kill_flows(pipe, "flow")
        await_motion(pipe)
        os.kill(pid_of(pipe, "flow"), signal.SIGKILL)
        await_states(pipe, out="failed")
        flow = pipe.statistics().flows["flow"]
        with pytest.raises(PipeFailed) as failure:
            pipe.join(to_kill=True)
    assert (flow.state, flow.pid, flow.restarts, flow.last_exit) == ("failed", 0, 2, -signal.SIGKILL)
    assert failure.value.exit_codes == {"flow": -signal.SIGKILL}
    assert failure.value.causes == ["flow 'flow' was killed by signal 9"]


@pytest.mark.parametrize("options", [{"max_restarts": -1}, {"restart_window": 0}, {"restart": "sometimes"}])
def test_a_restart_policy_that_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="restart"):
        Pipe().create_flow("flow", False, Ticks(), **options)


@pytest.mark.parametrize("policy", ["on-failure", "never"])
def test_a_restart_that_was_asked_for_counts_towards_no_limit(policy: RestartPolicy) -> None:
    with running(pair(Sink("out"), restart=policy, max_restarts=0)) as pipe:
        for _ in range(3):
            await_motion(pipe)
            pid = pid_of(pipe, "flow")
            pipe.restart_flow("flow")
            await_successor(pipe, "flow", pid)
        await_motion(pipe)
        flow = pipe.statistics().flows["flow"]
        assert (flow.state, flow.restarts, flow.last_exit) == ("running", 3, -signal.SIGKILL)
        with pytest.raises(UnknownTarget, match="'other'"):
            pipe.restart_flow("other")
        os.kill(pid_of(pipe, "flow"), signal.SIGKILL)
        await_states(pipe, out="failed")
        with pytest.raises(PipeStateError, match="failed"):
            pipe.restart_flow("flow")
    with pytest.raises(PipeStateError, match="ended"):
        pipe.restart_flow("source")


def test_replicas_are_restarted_by_the_name_that_they_share() -> None:
    with running(pair(Forwards("middle"), replicas=2)) as pipe:
        pids = [pid_of(pipe, f"flow#{number}") for number in range(2)]
        pipe.restart_flow("flow")
        for number, pid in enumerate(pids):
            await_successor(pipe, f"flow#{number}", pid)


# ---- failure for good ----------------------------------------------------------------------------


class Neighbour(Sink):
    """Writes down what it is told of failed peers."""

    def __init__(self, name: str, path: Path, board: Board, cell: int) -> None:
        super().__init__(name, board, cell)
        self.path = path

    @events("on_peer_failed")
    def note(self, flow: str, routines: list[str]) -> None:
        self.path.write_text(json.dumps([flow, routines]))


class Source(Ticks):
    """Likewise, at the other end."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self.path = path

    @events("on_peer_failed")
    def note(self, flow: str, routines: list[str]) -> None:
        self.path.write_text(json.dumps([flow, routines]))


class Forwards(MiddleRoutine):
    def main_logic(self, data: Any) -> Any:
        return data


def failing_pipe(tmp_path: Path, board: Board, on_failure: Literal["continue", "stop"]) -> Pipe:
    """source -> weak, helper -> end; source -> other -> far. The flow of weak and helper is not restarted."""
    source, weak, helper = Source("source", tmp_path / "source"), Forwards("weak"), Forwards("helper")
    end, other = Neighbour("end", tmp_path / "end", board, 0), Forwards("other")
    far = Neighbour("far", tmp_path / "far", board, 1)
    pipe = Pipe(policy="block", capacity=2, on_failure=on_failure)
    for name, routines in {"s": (source,), "w": (weak, helper), "e": (end,), "o": (other,), "f": (far,)}.items():
        pipe.create_flow(name, False, *routines, restart="never")
    pipe.link(Wire(source, (weak, other)), Wire(weak, helper), Wire(helper, end), Wire(other, far))
    return pipe


def test_a_flow_that_has_failed_and_the_rest_goes_on(tmp_path: Path) -> None:
    board = Board()
    with running(failing_pipe(tmp_path, board, "continue")) as pipe:
        await_motion(pipe)
        os.kill(pid_of(pipe, "w"), signal.SIGKILL)
        await_states(pipe, weak="failed", helper="failed", end="ended")
        eventually(lambda: (tmp_path / "source").exists() and (tmp_path / "end").exists(), "news of the failure")
        for path in (tmp_path / "source", tmp_path / "end"):
            eventually(lambda path=path: path.read_text() != "")  # type: ignore[misc]
            assert json.loads(path.read_text()) == ["w", ["weak", "helper"]]
        # The lossless wire to the dead blocks nobody, and says what it loses.
        before = board[1], pipe.statistics().wires["source", "weak"].dropped["ended"]
        board.wait(1, before[0] + 100)
        now = pipe.statistics()
        assert now.wires["source", "weak"].dropped["ended"] > before[1]
        assert now.wires["source", "other"].lost == 0
        shot = snapshot_of(pipe)
        assert all(shot.waiting(number) == 0 for number in (0, 2, 3))  # on the wires from and to the dead
        with pytest.raises(PipeFailed) as failure:
            pipe.join(to_kill=True)
    assert not (tmp_path / "far").exists()
    assert failure.value.exit_codes == {"w": -signal.SIGKILL}


def test_a_flow_that_has_failed_and_the_rest_stops(tmp_path: Path) -> None:
    pipe = failing_pipe(tmp_path, Board(), "stop")
    with running(pipe):
        await_motion(pipe)
        os.kill(pid_of(pipe, "w"), signal.SIGKILL)
        with pytest.raises(PipeFailed, match="flow 'w' was killed by signal 9") as failure:
            pipe.join()
    assert failure.value.exit_codes == {"w": -signal.SIGKILL}
    assert {flow.state for flow in pipe.statistics().flows.values()} == {"failed", "ended"}


def test_the_last_source_has_failed(tmp_path: Path) -> None:
    """What it sent still arrives, then the others end: join() returns by itself."""
    board = Board()
    source, out = Ticks(), Sink("out", board)
    pipe = Pipe(policy="block")
    pipe.create_flow("source", False, source, restart="never")
    pipe.create_flow("out", False, out)
    pipe.link(Wire(source, out))
    with running(pipe):
        board.wait(0, 20)
        os.kill(pid_of(pipe, "source"), signal.SIGKILL)
        with pytest.raises(PipeFailed) as failure:
            pipe.join()
    wire = pipe.statistics().wires["ticks", "out"]
    assert wire.waiting == 0
    assert wire.sent == wire.received + wire.dropped["crash"]
    assert wire.dropped["crash"] <= 1
    assert board[0] == wire.received
    assert failure.value.exit_codes == {"source": -signal.SIGKILL}


def test_a_sender_that_waits_for_a_receiver_that_fails_goes_on() -> None:
    board = Board()

    class Stuck(DestinationRoutine):
        def main_logic(self, data: Any) -> None:
            board.add(CALLS)
            board.wait(EXIT, timeout=60)

    pipe = Pipe(policy="block", capacity=1)
    source, stuck, out = Ticks(), Stuck("stuck"), Sink("out", board, 0)
    pipe.create_flow("source", False, source)
    pipe.create_flow("stuck", False, stuck, restart="never")
    pipe.create_flow("out", False, out)
    pipe.link(Wire(source, (stuck, out)))
    with running(pipe):
        eventually(lambda: pipe.statistics().wires["ticks", "stuck"].waiting == 1 and board[CALLS] == 1, "a blocked source")
        before = board[0]
        os.kill(pid_of(pipe, "stuck"), signal.SIGKILL)
        board.wait(0, before + 50)


# ---- errors in user code -------------------------------------------------------------------------


def test_errors_in_a_row_become_a_restart() -> None:
    board = Board()

    class Weak(DestinationRoutine):
        max_errors = 5

        def main_logic(self, data: Any) -> None:
            board.add(CALLS)
            if board[EXIT] or board[CALLS] % 5:
                raise ValueError("no")

        def cleanup(self) -> None:
            board.add(1)

    with running(pair(Weak("weak"), **FAST)) as pipe:
        board.wait(CALLS, 50)  # four in a row, and none, and four in a row, …
        assert pipe.statistics().flows["flow"].restarts == 0
        assert board[1] == 0
        board[EXIT] = 1
        eventually(lambda: pipe.statistics().flows["flow"].restarts >= 2, "two restarts")
        board[EXIT] = 0
        eventually(lambda: pipe.statistics().flows["flow"].state == "running")
        await_motion(pipe)
        now = pipe.statistics()
    assert now.flows["flow"].last_exit == 70
    assert now.routines["weak"].errors >= 10
    assert board[1] == now.flows["flow"].restarts + 1  # one cleanup() for each life


def test_errors_in_a_row_with_a_neighbour_in_a_long_call() -> None:
    """The process ends although another of its routines does not return."""
    board = Board()

    class Weak(DestinationRoutine):
        max_errors = 1

        def main_logic(self, data: Any) -> None:
            board.wait(EXIT, timeout=60)
            raise ValueError("no")

    class Busy(DestinationRoutine):
        def main_logic(self, data: Any) -> None:
            board[CALLS] = 1
            board.wait(5, timeout=60)

    pipe = Pipe(grace_period=0.1)
    source, weak, busy = Ticks(), Weak("weak"), Busy("busy")
    pipe.create_flow("source", False, source)
    pipe.create_flow("flow", False, weak, busy)
    pipe.link(Wire(source, (weak, busy)))
    with running(pipe):
        board.wait(CALLS)
        board[EXIT] = 1
        eventually(lambda: pipe.statistics().flows["flow"].restarts == 1, "a restart")


def test_an_exception_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Weak(DestinationRoutine):
        def main_logic(self, data: int) -> None:
            if data == 7:
                raise ValueError("seven")

    board = Board()
    with running(pair(Weak("weak"), policy="block")) as pipe:
        eventually(lambda: bool(caplog.records), "a record")
        await_motion(pipe, messages=3)
        now = pipe.statistics()
    assert board[0] == 0
    assert now.routines["weak"].errors == 1
    assert now.flows["flow"].restarts == 0
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "Pipe.flow.weak"
    assert record.getMessage() == "routine 'weak' of flow 'flow': main_logic failed on message 7: ValueError: seven"
    assert record.sequence == 7  # type: ignore[attr-defined]
    assert record.exc_text is not None
    assert 'raise ValueError("seven")' in record.exc_text


# ---- statistics ----------------------------------------------------------------------------------


def test_statistics_of_flows() -> None:
    pipe = pair(Sink("out"))
    with running(pipe):
        await_motion(pipe)
        first = pipe.statistics().flows
        assert {(flow.name, flow.state, flow.restarts, flow.last_exit) for flow in first.values()} == {
            ("source", "running", 0, 0),
            ("flow", "running", 0, 0),
        }
        for flow in first.values():
            assert Path(f"/proc/{flow.pid}/stat").exists()
        kill_flows(pipe, "flow")
        second = pipe.statistics().flows
        assert second["source"] == first["source"]
        assert (second["flow"].state, second["flow"].restarts, second["flow"].last_exit) == ("running", 1, -signal.SIGKILL)
        assert second["flow"].last_reason == "died"
        assert second["flow"].pid != first["flow"].pid
    assert {(flow.state, flow.pid) for flow in pipe.statistics().flows.values()} == {("ended", 0)}
