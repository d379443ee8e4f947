"""`pipert-shm top`: what it shows of pipes of other processes, and on a terminal."""

from __future__ import annotations

import functools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from rich.console import Console

from conftest import PACKAGE_ROOT, RunCli
from killing import FAST, await_motion, await_states, pid_of, pipe_id_of, running
from pipert_shm import DestinationRoutine, FlowStatistics, Pipe, UnknownTarget, Wire, binding
from pipert_shm.agents.names import HUB_VARIABLE
from pipert_shm.cli.commands import main
from pipert_shm.cli.top import Look, compare, look, matching, report_once, show_once
from pipert_shm.graph.model import Restart
from pipert_shm.shm.listing import Control, Member
from pipert_shm.shm.segments import ControlSegment, unlink_pipe
from pipert_shm.statistics import (
    Latency,
    PipeStatistics,
    RoutineStatistics,
    WireStatistics,
    read_statistics,
)
from routines import Frames, Sink
from test_segments import GATE, await_held, held_pipe
from waiting import Board, eventually

pytestmark = pytest.mark.shm


class Busy(DestinationRoutine):
    """Works on each frame, and counts them."""

    counter_names = ("frames",)

    def main_logic(self, data: Any) -> None:
        assert int(data.sum()) >= 0
        self.counters["frames"] += 1


def moving_pipe() -> Pipe:
    """A camera at 200 frames a second, two receivers."""
    camera, busy, sink = Frames("camera", None, loan=True), Busy("busy"), Sink("sink[bold]")
    camera.set_const_fps(200)
    pipe = Pipe()
    pipe.create_flow("video", False, camera)
    pipe.create_flow("work", False, busy, sink)
    pipe.link(Wire(camera, (busy, sink)))
    return pipe


def by_name(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in entries}


def report_on(pipe: Pipe, run_cli: RunCli) -> dict[str, Any]:
    """What a process of its own says of the pipe."""
    end = run_cli("top", "--once", "--json", "--interval", "0.3")
    assert (end.returncode, end.stderr) == (0, "")
    (found,) = (found for found in json.loads(end.stdout)["pipes"] if found["pipe_id"] == pipe_id_of(pipe))
    return dict(found)


# ---- pipes of another process --------------------------------------------------------------------


def test_a_pipe_that_moves(run_cli: RunCli) -> None:
    with running(moving_pipe()) as pipe:
        await_motion(pipe)
        before = pipe.statistics()
        found: dict[str, Any] = {}

        def all_moved() -> bool:
            found.update(report_on(pipe, run_cli))
            came = [wire["received_per_s"] > 0 and wire["hop"]["p50_us"] is not None for wire in found["wires"]]
            return all(came) and all(routine["busy_percent"] > 0 for routine in found["routines"])

        eventually(all_moved, "motion on every wire between two looks")
        after = pipe.statistics()
        pids = {flow: pid_of(pipe, flow) for flow in ("video", "work")}
    assert (found["state"], found["parent"], found["problem"]) == ("alive", os.getpid(), "")
    for name, flow in by_name(found["flows"]).items():
        assert (flow["pid"], flow["state"], flow["restarts"]) == (pids[name], "running", 0)
        assert flow["cpu_percent"] >= 0
        assert flow["private_bytes"] > 1_000_000
        assert flow["shared_bytes"] > 64 * 64 * 3
    routines = by_name(found["routines"])
    for name, routine in routines.items():
        assert before.routines[name].sent <= routine["sent"] <= after.routines[name].sent
        assert before.routines[name].received <= routine["received"] <= after.routines[name].received
    assert routines["busy"]["counters"]["frames"] > 0
    assert routines["camera"]["age"] == {"p50_us": None, "p99_us": None}
    for wire in found["wires"]:
        assert (wire["sender"], wire["policy"], wire["capacity"], wire["linked"]) == ("camera", "drop_oldest", 2, True)
        assert 0 < wire["hop"]["p50_us"] <= wire["hop"]["p99_us"]
        assert routines[wire["receiver"]]["age"]["p50_us"] > 0


def test_a_pipe_that_stands(run_cli: RunCli) -> None:
    board = Board()
    with running(held_pipe(board)) as pipe:
        await_states(pipe, camera="ended", fast="ended")
        await_held(pipe, waits=3)
        found = report_on(pipe, run_cli)
        shown = run_cli("top", "--once", "--interval", "0.05", COLUMNS="100").lines
        board[GATE] = 1
    waits, fast = found["wires"]
    assert (waits["receiver"], waits["waiting"], waits["capacity"], waits["received"]) == ("waits", 2, 2, 1)
    assert (fast["receiver"], fast["waiting"], fast["received"], fast["received_per_s"]) == ("fast", 0, 3, 0)
    assert waits["hop"] == {"p50_us": None, "p99_us": None}  # nothing came meanwhile
    assert by_name(found["routines"])["camera"]["state"] == "ended"
    (ring,) = (ring for ring in found["rings"] if ring["slot_bytes"] > 4096)
    assert (ring["what"], ring["held"], ring["slots"] - ring["free"]) == ("ring of camera", {"waits": 3}, 3)
    (line,) = (line for line in shown if line.startswith("camera -> waits"))
    assert line.split() == ["camera", "->", "waits", "block", "2/2", "0.0", "0.0", "-", "-"]
    assert any(re.fullmatch(r"camera +\d+ +\S+[KM] +\d+ waits 3", line.rstrip()) for line in shown), shown


def test_a_flow_that_was_restarted(run_cli: RunCli) -> None:
    pipe = moving_pipe()
    flow = pipe._blueprint.flows["work"]
    restart = Restart("on-failure", FAST["max_restarts"], FAST["restart_window"])
    pipe._blueprint.flows["work"] = flow.replaced(restart=restart)
    with running(pipe):
        await_motion(pipe)
        before, dead = look(), pid_of(pipe, "work")
        os.kill(dead, signal.SIGKILL)
        eventually(lambda: pipe.statistics().flows["work"].pid not in (0, dead), "a restart")
        (found,) = (f for f in compare(look(), before)["pipes"] if f["pipe_id"] == pipe_id_of(pipe))
    work = by_name(found["flows"])["work"]
    assert (work["restarts"], work["last_exit"], work["cpu_percent"]) == (1, -9, None)
    assert by_name(found["flows"])["video"]["cpu_percent"] is not None


# ---- numbers -------------------------------------------------------------------------------------


def look_at(time_s: float, count: int, cpu_s: float, hops: tuple[int, ...]) -> dict[str, Look]:
    """A made-up one, of a pipe of two routines; each count grows with `count`."""
    routine = RoutineStatistics(
        "a", "f", "running", count, 2 * count, 0, 0, 0, 0, count / 100, 0, Latency(hops), {"faces": count}
    )
    wire = WireStatistics(
        "a", "b", "block", 4, True, 3 * count, count, 1, {"oldest": 2 * count, "join": 0}, 0, 0, Latency(hops)
    )
    flow = FlowStatistics("f", "running", 7, 0, 0, cpu_s=cpu_s, private_bytes=10, shared_bytes=20, file_bytes=30)
    statistics = PipeStatistics(time_s, {"a": routine}, {("a", "b"): wire}, {"f": flow})
    return {"id": Look("id", "alive", 1, [], "gate", "", statistics)}


def test_rates_and_latencies_are_those_between_the_looks() -> None:
    buckets = len(binding.BUCKET_NS)
    slow, fast = buckets - 1, 10
    old = tuple(1000 if bucket == slow else 0 for bucket in range(buckets))
    new = tuple(count + (4 if bucket == fast else 0) for bucket, count in enumerate(old))
    (pipe,) = compare(look_at(14.0, 100, 2.0, new), look_at(10.0, 20, 1.0, old))["pipes"]
    assert pipe["seconds"] == 4.0
    assert pipe["flows"][0]["cpu_percent"] == 25.0
    (routine,) = pipe["routines"]
    assert (routine["received_per_s"], routine["sent_per_s"], routine["busy_percent"]) == (20.0, 40.0, pytest.approx(20.0))
    assert routine["counters"] == {"faces": 100}
    (wire,) = pipe["wires"]
    assert (wire["received_per_s"], wire["lost_per_s"], wire["lost"]) == (20.0, 40.0, 200)
    assert wire["hop"]["p99_us"] == routine["age"]["p50_us"] == binding.BUCKET_NS[fast] / 1000


def test_a_pipe_that_is_new_has_no_rates_yet() -> None:
    now = look_at(14.0, 100, 2.0, (0, 1) + (0,) * (len(binding.BUCKET_NS) - 2))
    (pipe,) = compare(now, {})["pipes"]
    assert pipe["wires"][0]["received_per_s"] == 0
    assert pipe["wires"][0]["hop"]["p50_us"] is None
    assert pipe["flows"][0]["cpu_percent"] == 0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["a"]),
        ("GATE", ["a"]),
        ("id", ["a"]),
        ("f", ["a"]),
        ("a -> b", None),
        ("nobody", None),
    ],
)
def test_a_filter_keeps_pipes_by_name_and_else_their_parts(text: str, names: list[str] | None) -> None:
    report = matching(compare(look_at(14.0, 100, 2.0, (0,) * len(binding.BUCKET_NS)), {}), text)
    assert [[routine["name"] for routine in pipe["routines"]] for pipe in report["pipes"]] == ([names] if names else [])


def test_a_filter_leaves_out_what_has_another_name() -> None:
    report = matching(compare(look_at(14.0, 100, 2.0, (0,) * len(binding.BUCKET_NS)), {}), "b")
    (pipe,) = report["pipes"]
    assert (pipe["flows"], pipe["routines"], [wire["receiver"] for wire in pipe["wires"]]) == ([], [], ["b"])


def test_no_pipe_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    show_once(compare({}, {}), Console())
    assert capsys.readouterr().out.startswith("no pipe runs on this machine; /dev/shm: ")


def test_a_pipe_of_another_host_that_is_not_known_is_told_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipes that the hub knows; or, without a hub, how one is named."""

    def elsewhere(*, every: bool = False, **_: bool) -> list[dict[str, Any]]:
        return [{"pipe_id": "0123456789ab", "name": "yard@edge-1"}] if every else []

    with pytest.raises(UnknownTarget, match=r"there is no pipe 'no-such@edge-1'; there are: .*yard@edge-1"):
        report_once(0, "no-such@edge-1", elsewhere)
    monkeypatch.delenv(HUB_VARIABLE, raising=False)
    with pytest.raises(UnknownTarget, match=f"{HUB_VARIABLE} says the hub"):
        report_once(0, "no-such@edge-1", None)


def test_one_that_is_damaged_is_told_and_the_others_shown(capsys: pytest.CaptureFixture[str]) -> None:
    segment = ControlSegment.create(binding.ControlSize(flows=1, routines=1, edges=1, incarnations=1, cells=16), 1000)
    try:
        with open(f"/dev/shm/pipert-{segment.pipe_id}-c", "r+b") as file:
            file.write(b"\xff" * 64)
        with running(moving_pipe()) as pipe:
            assert main(["top", "--once", "--interval", "0.05"]) == 0
            sound = pipe_id_of(pipe)
    finally:
        segment.close()
        segment.unmap()
        unlink_pipe(segment.pipe_id)
    out = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"pipe {segment.pipe_id}, alive, [0-9.]+K: this is not the control segment of a pipe", out)
    assert f"pipe {pipe.name} ({sound}), alive, built by process {os.getpid()}" in out
    assert "camera -> busy" in out
    assert "camera -> sink[bold]" in out


@pytest.fixture(scope="module")
def sound() -> tuple[bytes, list[str], list[Member | None]]:
    """The control segment of a pipe that has carried frames, and the names in it."""
    with running(moving_pipe()) as pipe:
        await_motion(pipe)
        pipe_id = pipe_id_of(pipe)
        with Control(pipe_id, stale=False) as control:
            return Path(f"/dev/shm/pipert-{pipe_id}-c").read_bytes(), control.flows, control.routines


PAGE = 4096


@functools.cache
def pages_of(data: bytes) -> list[int]:
    """Where the pages begin that have something in them."""
    return [start for start in range(0, len(data), PAGE) if any(data[start : start + PAGE])]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=64)), max_size=8))
def test_statistics_of_a_damaged_segment(
    sound: tuple[bytes, list[str], list[Member]], writes: list[tuple[float, bytes]]
) -> None:
    """Numbers, or an error that `look` tells."""
    data, flows, routines = sound
    used = pages_of(data)  # most of it is a hole
    copy = binding.Copy(b"", len(data))
    for start in used:
        copy.memory[start : start + PAGE] = data[start : start + PAGE]
    for place, written in writes:
        page, offset = divmod(int(place * (len(used) * PAGE - len(written))), PAGE)
        written = written[: len(data) - used[page] - offset]
        copy.memory[used[page] + offset : used[page] + offset + len(written)] = written
    try:
        process = binding.Process(copy.address, len(data))
    except ValueError:
        return
    try:
        read_statistics(process, flows, routines)
    except (ValueError, LookupError):
        event("refused")
    finally:
        process.close()


def test_names_that_the_segment_has_no_records_for(sound: tuple[bytes, list[str], list[Member]]) -> None:
    data, flows, routines = sound
    copy = binding.Copy(data)
    process = binding.Process(copy.address, len(data))
    room = process.room
    with pytest.raises(LookupError, match=f"no flow {room.flows}"):
        read_statistics(process, [*flows, *(f"flow {number}" for number in range(room.flows))], routines)
    more = [Member(f"routine {number}", 0, ()) for number in range(room.routines)]
    with pytest.raises(LookupError, match=f"no routine {room.routines}"):
        read_statistics(process, flows, [*routines, *more])
    process.close()


def test_a_policy_that_does_not_exist(sound: tuple[bytes, list[str], list[Member]]) -> None:
    data, flows, routines = sound
    copy = binding.Copy(data)
    process = binding.Process(copy.address, len(data))
    assert len(read_statistics(process, flows, routines).wires) == 2
    binding.EdgeRecord(process, 0)._record.policy = 99
    with pytest.raises(LookupError):
        read_statistics(process, flows, routines)
    process.close()


# ---- on a terminal -------------------------------------------------------------------------------


@contextmanager
def on_a_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command on a terminal of its own: its process, and our end of the terminal."""
    ours, theirs = pty.openpty()
    try:
        termios.tcsetwinsize(theirs, (60, 120)) if hasattr(termios, "tcsetwinsize") else None
        process = subprocess.Popen(
            [sys.executable, "-m", "pipert_shm.cli", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "PYTHONPATH": str(PACKAGE_ROOT), "TERM": "xterm-256color"},
            start_new_session=True,
        )
        try:
            yield process, ours
            assert termios.tcgetattr(theirs)[3] & termios.ICANON, "the terminal is as it was"
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    finally:
        os.close(ours)
        os.close(theirs)


def read_terminal(terminal: int, *texts: str) -> None:
    """Reads until it has shown them all."""
    shown = ""
    while not all(text in shown for text in texts):
        shown += os.read(terminal, 4096).decode(errors="replace")


@pytest.mark.parametrize(("key", "status"), [("q", 0), ("interrupt", 130)])
def test_the_live_table(key: str, status: int) -> None:
    with running(moving_pipe()), on_a_terminal("top", "--interval", "0.1") as (process, terminal):
        read_terminal(terminal, "camera -> busy", "running", "ring")
        read_terminal(terminal, "camera -> busy")  # once more
        if key == "q":
            os.write(terminal, b"/NOBODY\r")
            read_terminal(terminal, "nothing has 'NOBODY' in its name", "filter: NOBODY (Esc: all) · lines 1-1 of 1")
            os.write(terminal, b"xq")
        else:
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == status


@pytest.mark.parametrize("arguments", [["top"], ["top", "--json"], ["top", "--once", "--interval", "0"]])
def test_without_a_terminal_it_has_to_be_once(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "─ Error ─" in capsys.readouterr().err
