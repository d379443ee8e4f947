"""What the process of a flow may take: a limit of memory, processors, niceness."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from killing import FAST, assert_sound, await_motion, await_successor, drain, kill_flows, pid_of, running
from patterned import SHAPE, Camera, Checks, Screen
from pipert_shm import DestinationRoutine, Pipe, PipeFailed, PipertError, SourceRoutine, Wire, events
from pipert_shm.graph.process_settings import ProcessSettings
from pipert_shm.launcher.memory_limits import INTERVAL, MemoryLimits
from pipert_shm.launcher.roster import Flow
from pipert_shm.shm.states import EndReason
from pipert_shm.system.usage import private_bytes_of
from routines import Forward, Frames, Sink
from waiting import Board, eventually

pytestmark = pytest.mark.machine

LIVES, GATE, TOLD = 10, 11, 12
CHUNK = 4 << 20
ROOM = 64 << 20


class Eats(DestinationRoutine):
    """Keeps 4 MB for each message in its first lives, until it has twice what it may."""

    def __init__(self, name: str, board: Board, lives: int) -> None:
        super().__init__(name)
        self.board = board
        self.lives = lives

    def setup(self) -> None:
        self.board.add(LIVES)
        self.kept: list[bytes] = []

    def main_logic(self, data: Any) -> None:
        if self.board[LIVES] <= self.lives and len(self.kept) < 2 * ROOM // CHUNK:
            self.kept.append(os.urandom(CHUNK))


class Told(SourceRoutine):
    """Notes that a flow beside it has failed, and why."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self.path = path

    def main_logic(self) -> int:
        time.sleep(0.005)
        return self.meta.sequence

    @events("on_peer_failed")
    def note(self, flow: str, reason: str) -> None:
        self.path.write_text(f"{flow} {reason}")


def limit() -> int:
    """64 MB more than this process has, which the flows are forked from."""
    return private_bytes_of(os.getpid()) + ROOM


def messages_of(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [message for record in caplog.records if text in (message := record.getMessage())]


# ---- max_rss -------------------------------------------------------------------------------------


def test_a_flow_that_eats_memory_is_restarted_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    camera = Camera("cam", SHAPE, loaning=True)
    camera.set_const_fps(100)
    eats, sibling = Eats("eats", board, lives=2), Screen("sibling", Checks(board, {("cam", "sibling"): 0}))
    pipe = Pipe(policy="drop_oldest", capacity=64)
    pipe.create_flow("cam", False, camera, max_rss=1 << 40)
    pipe.create_flow("eats", False, eats, max_rss=limit(), **FAST)
    pipe.create_flow("sibling", False, sibling)
    pipe.link(Wire(camera, (eats, sibling)))
    with running(pipe):
        eventually(lambda: pipe.statistics().flows["eats"].restarts == 2, "two restarts", timeout=60)
        board.wait(LIVES, 3)
        await_motion(pipe, messages=10)
        drain(pipe, "cam")
        assert_sound(pipe)
        now = pipe.statistics()
    assert (now.flows["eats"].last_exit, now.flows["eats"].last_reason) == (-signal.SIGKILL, "max_rss")
    assert [(flow.restarts, flow.last_reason) for name, flow in now.flows.items() if name != "eats"] == [(0, "none")] * 2
    wires = now.wires["cam", "eats"], now.wires["cam", "sibling"]
    assert wires[1].lost == 0
    assert wires[0].sent == wires[0].received + wires[0].lost + wires[0].waiting
    told = messages_of(caplog, "flow 'eats' was killed, since its private memory of ")
    assert len(told) == 2
    assert all(
        re.search(r"memory of [\d,]+ bytes is more than its max_rss, [\d,]+ bytes; it is restarted in", one) for one in told
    )


def test_a_flow_past_its_limit_that_is_not_restarted_fails_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board = Board()
    source, eats, out = Told("source", tmp_path / "told"), Eats("eats", board, lives=1), Sink("out")
    pipe = Pipe()
    pipe.create_flow("source", False, source)
    pipe.create_flow("greedy", False, eats, max_rss=limit(), restart="never")
    pipe.create_flow("out", False, out)
    pipe.link(Wire(source, (eats, out)))
    with running(pipe):
        eventually(lambda: pipe.statistics().flows["greedy"].state == "failed", "the end of it", timeout=60)
        eventually(lambda: (tmp_path / "told").exists() and (tmp_path / "told").read_text() != "", "news of it")
        eventually(lambda: pipe.statistics().routines["eats"].state == "failed", "its routine's state")
        before = pipe.statistics().wires["source", "out"].received
        eventually(lambda: pipe.statistics().wires["source", "out"].received > before + 10, "that the rest goes on")
        with pytest.raises(
            PipeFailed, match=r"flow 'greedy' was killed, since its private memory .* max_rss, [\d,]+ bytes"
        ) as failure:
            pipe.join(to_kill=True)
    assert failure.value.exit_codes == {"greedy": -signal.SIGKILL}
    assert pipe.statistics().flows["greedy"].last_reason == "max_rss"
    assert (tmp_path / "told").read_text() == "greedy max_rss"
    assert messages_of(caplog, "takes no") == []  # a handler of this event takes those of its parameters that it wants


def test_a_limit_of_what_is_added_while_the_pipe_runs_and_of_replicas() -> None:
    board = Board()
    source, work, out = Frames("source", None), Forward("work"), Sink("out")
    source.set_const_fps(100)
    pipe = Pipe()
    pipe.create_flow("source", False, source)
    pipe.create_flow("work", False, work, replicas=2, max_rss=1 << 40)
    pipe.create_flow("out", False, out)
    pipe.link(Wire(source, work), Wire(work, out))
    with running(pipe):
        assert {name: one.max_rss for name, one in pipe._built().plan.processes.items()} == {
            "source": None, "work#0": 1 << 40, "work#1": 1 << 40, "out": None,
        }  # fmt: skip
        eats = Eats("eats", board, lives=1)
        pipe.create_flow("late", False, eats, max_rss=limit(), **FAST)
        pipe.link(Wire(source, eats))
        pipe.build()
        pipe.notify_event("start")
        eventually(lambda: pipe.statistics().flows["late"].last_reason == "max_rss", "a restart", timeout=60)
        board.wait(LIVES, 2)
        await_motion(pipe)
        flows = pipe.statistics().flows
    assert {name: flow.restarts for name, flow in flows.items()} == {
        "source": 0, "work#0": 0, "work#1": 0, "out": 0, "late": 1,
    }  # fmt: skip


def test_reasons_of_other_ends(tmp_path: Path) -> None:
    class Hangs(DestinationRoutine):
        hang_timeout = 0.1

        def main_logic(self, data: Any) -> None:
            time.sleep(1000)

    source, hangs, killed = Told("source", tmp_path / "told"), Hangs("hangs"), Sink("killed")
    pipe = Pipe()
    pipe.create_flow("source", False, source)
    pipe.create_flow("hangs", False, hangs, restart="never")
    pipe.create_flow("killed", False, killed)
    pipe.link(Wire(source, (hangs, killed)))
    with running(pipe):
        kill_flows(pipe, "killed")
        eventually(lambda: (tmp_path / "told").exists() and (tmp_path / "told").read_text() != "", "news of the hang")
        dead = pid_of(pipe, "source")
        pipe.restart_flow("source")
        await_successor(pipe, "source", dead)
        reasons = {name: flow.last_reason for name, flow in pipe.statistics().flows.items()}
    assert reasons == {"source": "order", "hangs": "hang", "killed": "died"}
    assert (tmp_path / "told").read_text() == "hangs hang"
    assert {name: flow.last_reason for name, flow in pipe.statistics().flows.items()} == {
        "source": "end", "hangs": "hang", "killed": "end",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("doom", "exit_code", "ending", "reason"),
    [
        (EndReason.NONE, -signal.SIGKILL, False, EndReason.DIED),
        (EndReason.MAX_RSS, -signal.SIGKILL, False, EndReason.MAX_RSS),
        (EndReason.MAX_RSS, 0, False, EndReason.DIED),  # it ended before the signal came
        (EndReason.ORDER, 0, False, EndReason.ORDER),  # likewise, but it is to be restarted all the same
        (EndReason.HANG, -signal.SIGKILL, True, EndReason.END),
    ],
)
def test_why_a_process_ended(doom: EndReason, exit_code: int, ending: bool, reason: EndReason) -> None:
    nothing: Any = None
    flow = Flow("flow", 0, [], nothing)
    flow.kill_for(doom, "because")
    flow.note_exit(exit_code, ending=ending)
    assert flow.ended_by is reason
    assert str(flow.died()).endswith("because") == (reason is doom)


def test_nothing_looks_where_there_is_no_limit() -> None:
    """A roster of no more than `MemoryLimits` asks for."""
    plan = SimpleNamespace(processes={"one": ProcessSettings(), "other": ProcessSettings(nice=1)})
    roster: Any = SimpleNamespace(plan=plan, flows={})
    limits = MemoryLimits(roster)
    assert limits.due is None
    plan.processes["third"] = ProcessSettings(max_rss=1)
    assert limits.due == 0.0
    limits.enforce(5.0)
    limits.enforce(5.5)  # too early
    assert limits.due == 5.0 + INTERVAL


# ---- cpus and nice -------------------------------------------------------------------------------


def threads_of(pid: int) -> set[tuple[str, int]]:
    """The processors and the niceness of each thread of a process."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        listed = re.search(r"^Cpus_allowed_list:\s*(\S+)", (task / "status").read_text(), re.MULTILINE)
        assert listed is not None
        found.add((listed[1], int((task / "stat").read_text().rpartition(")")[2].split()[16])))
    return found


def test_processors_and_niceness_are_those_asked_for() -> None:
    """Of every thread: of replicas, of restarted processes, of flows that are added later, and not of others."""
    last = max(os.sched_getaffinity(0))
    own = threads_of(os.getpid())
    board = Board()

    class Starts(DestinationRoutine):
        """Has a thread of its own from its setup on; what it sees in setup is what was asked for."""

        def setup(self) -> None:
            board[GATE] = os.sched_getaffinity(0) == {last} and os.getpriority(os.PRIO_PROCESS, 0) == 7
            self.ends = threading.Event()
            self.thread = threading.Thread(target=self.ends.wait)
            self.thread.start()

        def main_logic(self, data: Any) -> None:
            board.add(LIVES)

        def cleanup(self) -> None:
            self.ends.set()
            self.thread.join()

    source, work, starts = Frames("source", None), Forward("work"), Starts("starts")
    source.set_const_fps(100)
    pipe = Pipe()
    pipe.create_flow("source", False, source)
    pipe.create_flow("work", False, work, replicas=2, cpus=[last], nice=7)
    pipe.create_flow("starts", False, starts, cpus={last}, nice=7)
    pipe.link(Wire(source, work), Wire(work, starts))
    with running(pipe):
        board.wait(LIVES)
        assert board[GATE] == 1
        asked = {(str(last), 7)}
        for name in ("work#0", "work#1", "starts"):
            assert threads_of(pid_of(pipe, name)) == asked, name
        assert threads_of(pid_of(pipe, "source")) == own
        late = Sink("late")
        pipe.create_flow("late", False, late, cpus={last}, nice=7)
        pipe.link(Wire(source, late))
        pipe.build()
        pipe.notify_event("start")
        kill_flows(pipe, "work#1", "starts", "late")
        await_motion(pipe)
        for name in ("work#0", "work#1", "starts", "late"):
            assert threads_of(pid_of(pipe, name)) == asked, name
        assert threads_of(pid_of(pipe, "source")) == own
    assert threads_of(os.getpid()) == own


WRONG: list[tuple[dict[str, Any], str]] = [
    *(
        ({"max_rss": value}, r"max_rss \(bytes\) must be a whole number of at least 1, not")
        for value in (0, -1, 1.5, "1 GB", True)
    ),
    *(
        ({"cpus": value}, r"cpus must be a set of numbers of processors, such as \{0, 2\}, not")
        for value in (1, "0", {-1}, [0.5], [True])
    ),
    ({"cpus": []}, "cpus must name one processor at least"),
    ({"cpus": {0, 4000, 4001, 4003}}, r"cpus: processor 4000-4001,4003 is not there for this program; it may use \d"),
    *(({"nice": value}, "nice must be a whole number from -20 to 19") for value in (-21, 20, 1.5, "5", True)),
]


@pytest.mark.parametrize(("settings", "text"), WRONG)
def test_wrong_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    pipe, sink = Pipe(), Sink("sink")
    with pytest.raises(ValueError, match=text):
        pipe.create_flow("flow", False, sink, **settings)
    pipe.create_flow("flow", False, sink)  # nothing of it was kept


def in_a_thread(action: Callable[[], object]) -> None:
    """Calls it in a thread, whose processors and niceness are its own, and raises what it raises."""
    raised: list[Exception] = []

    def act() -> None:
        try:
            action()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def test_a_process_that_does_not_get_its_processors_says_so() -> None:
    first = min(os.sched_getaffinity(0))
    with pytest.raises(PipertError, match=r"it can't be put on cpus=4000: .*Invalid argument"):
        in_a_thread(ProcessSettings(cpus=frozenset({4000})).apply)
    with pytest.raises(PipertError, match=rf"it can't be put on cpus={first},4000: the system gives it {first} only"):
        in_a_thread(ProcessSettings(cpus=frozenset({first, 4000})).apply)


WITHOUT_THE_RIGHT = '''
import ctypes, resource, sys
from pipert_shm import DestinationRoutine, Pipe, PipeFailed, SourceRoutine

class Source(SourceRoutine):
    def main_logic(self): return 1

class Sink(DestinationRoutine):
    def main_logic(self, data): ...

def lose_the_right():
    """CAP_SYS_NICE is number 23; version 3 of the call has two words of 32 bits for each set."""
    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
    head, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(head, sets) == 0
    for word in range(3):
        sets[word] &= ~(1 << 23)
    assert libc.capset(head, sets) == 0

pipe = Pipe()
try:
    if sys.argv[1] == "before":
        lose_the_right()
    pipe.create_flow("eager", True, Source("source"), Sink("sink"), nice=-5)
    lose_the_right()
    pipe.build()
except ValueError as error:
    print("refused:", error)
except PipeFailed as error:
    print("failed:", error)
'''


def test_a_niceness_that_is_not_permitted() -> None:
    def run(when: str) -> str:
        program = subprocess.run(
            [sys.executable, "-c", WITHOUT_THE_RIGHT, when], capture_output=True, text=True, timeout=60, check=True
        )
        return program.stdout

    own = os.getpriority(os.PRIO_PROCESS, 0)
    refusal = (
        f"refused: nice: -5 is not permitted to this program, whose own niceness is {own}: to lower it takes the capability "
        "CAP_SYS_NICE or a limit RLIMIT_NICE (`ulimit -e`) of 25\n"
    )
    assert run("before") == refusal
    if (late := run("later")) != refusal:  # this user has the right at first: a flow's process can't set it
        assert late.startswith("failed: flow 'eager' failed: PipertError: its niceness can't be set to -5: ")
