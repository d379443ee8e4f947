"""What a flow takes of the machine, in the statistics, the metrics and `top`."""

from __future__ import annotations

import mmap
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry

from killing import await_successor, pid_of, pipe_id_of, running
from pipert_shm import DestinationRoutine, FlowStatistics, Pipe, Wire, binding
from pipert_shm.api.dashboard import _usage
from pipert_shm.api.metrics import PipeCollector
from pipert_shm.api.motion import Motion
from pipert_shm.cli.top import compare, look
from pipert_shm.system import gpu
from pipert_shm.system.usage import Usage, started_at
from routines import Frames, Sink
from waiting import Board, eventually

pytestmark = pytest.mark.machine

EATEN = 0
CHUNK = 4 << 20


class Works(DestinationRoutine):
    """Never rests, and keeps 4 MB for each message, 64 MB at most."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def setup(self) -> None:
        self.kept: list[bytes] = []

    def main_logic(self, data: Any) -> None:
        if len(self.kept) < 16:
            self.kept.append(os.urandom(CHUNK))
        self.board[EATEN] = len(self.kept)
        sum(range(100_000))


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def pipe(board: Board) -> Iterator[Pipe]:
    source, works, rests = Frames("camera", None, loan=True), Works("works", board), Sink("rests")
    source.set_const_fps(200)
    pipe = Pipe()
    for routine in (source, works, rests):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, works))
    late = Frames("late", 1)
    pipe.create_flow("late", False, late)
    pipe.link(Wire(late, rests))
    with running(pipe):
        yield pipe


def metrics_of(pipe: Pipe) -> dict[str, float]:
    """What the metrics say of flows, by name and flow."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PipeCollector(pipe))
    lines = generate_latest(registry).decode().splitlines()
    found = (re.fullmatch(r'pipert_flow_(\w+)\{flow="(\w+)"\} (\S+)', line) for line in lines)
    return {f"{match[1]} {match[2]}": float(match[3]) for match in found if match}


def test_figures_grow_where_there_is_work(pipe: Pipe, board: Board) -> None:
    first, looked, metrics, motion = pipe.statistics(), look(), metrics_of(pipe), Motion(pipe.statistics())
    before = first.flows["works"]
    assert before.cpu_s is not None
    assert before.private_bytes is not None
    board.wait(EATEN, 16)
    eventually(lambda: (pipe.statistics().flows["works"].cpu_s or 0) > (before.cpu_s or 0) + 0.3, "0.3 s of CPU time")
    now = pipe.statistics().flows
    assert (now["works"].private_bytes or 0) - before.private_bytes > 10 * CHUNK  # some were kept before the first look
    assert (now["works"].shared_bytes or 0) >= 64 * 64 * 3  # a frame
    assert (now["works"].file_bytes or 0) > 1_000_000
    assert now["works"].gpu_bytes is None or "pynvml" in sys.modules
    for name, flow in now.items():
        told = Usage.of(flow.pid, started_at(flow.pid))
        assert told is not None
        assert abs((flow.private_bytes or 0) - told.private_bytes) < 2 << 20
        assert 0 <= told.cpu_s - (flow.cpu_s or 0) < 5, name
    later = metrics_of(pipe)
    assert later["cpu_seconds_total works"] >= metrics["cpu_seconds_total works"] + 0.3
    assert later["private_bytes works"] >= metrics["private_bytes works"] + 8 * CHUNK
    assert later.keys() >= {"shared_bytes camera", "file_bytes camera"}
    (report,) = (one for one in compare(look(), looked)["pipes"] if one["pipe_id"] == pipe_id_of(pipe))
    flows = {flow["name"]: flow for flow in report["flows"]}
    assert flows["works"]["cpu_percent"] > 0
    assert flows["works"]["cpu_s"] >= before.cpu_s + 0.3
    assert flows["works"]["private_bytes"] >= before.private_bytes + 10 * CHUNK
    motion.look(pipe.statistics())
    assert (motion.cpu_percent("works") or 0) > 0
    assert re.fullmatch(r"flow works: \d+ % CPU · \d+ MB own · \d+ MB shared", _usage(motion, "works"))


def test_a_dead_flow_has_no_figures(pipe: Pipe) -> None:
    motion = Motion(pipe.statistics())
    dead = pid_of(pipe, "camera")
    before = pipe.statistics().flows["camera"]
    os.kill(dead, signal.SIGKILL)
    await_successor(pipe, "camera", dead)
    again = pipe.statistics().flows["camera"]
    assert again.cpu_s is not None
    assert (again.last_reason, again.pid) != (before.last_reason, before.pid)
    motion.look(pipe.statistics())
    assert motion.cpu_percent("camera") is None  # another process
    pipe.join(to_kill=True)
    for flow in pipe.statistics().flows.values():
        assert figures_of(flow) == (None,) * 5
    assert [name for name in metrics_of(pipe) if "bytes" in name or "cpu" in name] == []
    motion.look(pipe.statistics())
    assert _usage(motion, "camera") == ""


def figures_of(flow: FlowStatistics) -> tuple[Any, ...]:
    return flow.cpu_s, flow.private_bytes, flow.shared_bytes, flow.file_bytes, flow.gpu_bytes


def test_another_process_with_the_pid_of_a_dead_flow_is_not_taken_for_it(pipe: Pipe) -> None:
    """The record says what it would if the flow were dead, and this process had got its pid."""
    session = pipe._built()
    record = binding.FlowRecord(session.segment.process, list(session.plan.flows).index("late"))
    was = record.read()
    assert pipe.statistics().flows["late"].cpu_s is not None
    record.note_start(was.state, os.getpid(), was.started)
    assert figures_of(pipe.statistics().flows["late"]) == (None,) * 5
    record.note_start(was.state, os.getpid(), started_at(os.getpid()))
    assert pipe.statistics().flows["late"].cpu_s is not None
    record.note_start(was.state, was.pid, was.started)


def test_what_a_process_uses() -> None:
    """This one, whose CPU time Python tells too, and which takes 16 MB of each kind."""
    started = started_at(os.getpid())

    def usage() -> Usage:
        used = Usage.of(os.getpid(), started)
        assert used is not None
        return used

    size, tick = 16 << 20, 1 / os.sysconf("SC_CLK_TCK")
    before = usage()
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, size) as shared, mmap.mmap(-1, size, flags=private) as own:
        for place in range(0, size, mmap.PAGESIZE):
            shared[place] = own[place] = 1
        least = sum(os.times()[:2])
        after = usage()
        most = sum(os.times()[:2])
    assert least - 2 * tick <= after.cpu_s <= most + 2 * tick
    rounding = 2 << 20  # the kernel counts in batches
    assert abs(after.private_bytes - before.private_bytes - size) < rounding
    assert abs(after.shared_bytes - before.shared_bytes - size) < rounding
    assert Usage.of(os.getpid(), started + 1) is None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        began = started_at(process.pid)
        assert Usage.of(process.pid, began) is not None
        assert process.stdin is not None
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Usage.of(process.pid, began) is None  # a zombie
    assert Usage.of(process.pid, began) is None


# ---- GPUs ----------------------------------------------------------------------------------------

NVML = """
class NVMLError(Exception): pass
class Process:
    def __init__(self, pid, usedGpuMemory): self.pid, self.usedGpuMemory = pid, usedGpuMemory
reads = fails = 0
def nvmlInit():
    if fails: raise NVMLError("Driver Not Loaded")
def nvmlDeviceGetCount():
    global reads
    reads += 1
    if fails: raise NVMLError("GPU is lost")
    return 2
def nvmlDeviceGetHandleByIndex(number): return number
def nvmlDeviceGetComputeRunningProcesses(number): return [Process(7, 100 + number), Process(8, None)]
def nvmlDeviceGetGraphicsRunningProcesses(number): return [Process(7, 100 + number), Process(9, 5)]
"""


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module in the place of nvidia-ml-py's, which needs a GPU: with its functions, as its documentation has them."""
    (tmp_path / "pynvml.py").write_text(NVML)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    yield __import__("pynvml")
    sys.modules.pop("pynvml")


def test_gpu_memory_is_added_up_over_gpus(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = gpu.Gpus()
    assert [gpus.bytes_of(pid) for pid in (7, 8, 9, 10)] == [201, None, 10, None]
    assert nvml.reads == 1  # the figures are kept
    monkeypatch.setattr(gpu, "REFRESH", 0.0)
    assert gpus.bytes_of(7) == 201
    assert nvml.reads == 2
    nvml.fails = 1
    assert gpus.bytes_of(7) is None
    nvml.fails = 0
    assert gpus.bytes_of(7) is None  # it is given up
    assert nvml.reads == 3


def test_a_library_that_is_no_use_and_none(nvml: Any, caplog: pytest.LogCaptureFixture) -> None:
    nvml.fails = 1
    caplog.set_level("INFO")
    gpus = gpu.Gpus()
    assert gpus.bytes_of(7) is gpus.bytes_of(7) is None
    assert [record.getMessage() for record in caplog.records] == [
        "there are no figures of GPUs: NVML can't be used: Driver Not Loaded"
    ]


@pytest.mark.skipif("pynvml" in sys.modules, reason="nvidia-ml-py is installed")
def test_without_the_package_there_are_no_figures_of_gpus() -> None:
    assert gpu.Gpus().bytes_of(os.getpid()) is None
