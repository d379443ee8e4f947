"""Processes that have no file descriptor free when a ring is to be made or opened: they go on when there is one."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from killing import FAST, await_states, drain, pid_of, pipe_id_of, running
from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    DestinationRoutine,
    MiddleRoutine,
    Pipe,
    PipeFailed,
    SourceRoutine,
    Wire,
    binding,
    writable,
)
from pipert_shm.system.descriptors import Reserve
from routines import Record, Sink, one_value, received
from waiting import Board, eventually

pytestmark = pytest.mark.shm

LARGE, MADE, CLEANUPS, COPIES, OWN, GATE = range(6)
SMALL_SHAPE, LARGE_SHAPE = (64, 64, 3), (300, 300, 3)
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


class Grows(SourceRoutine):
    """Frames, small ones until the board says large; the pixels of each all of its number's lowest byte."""

    def __init__(self, name: str, board: Board, *, loans: bool = False) -> None:
        super().__init__(name)
        self.board = board
        self.loans = loans
        self.set_const_fps(200)

    def main_logic(self) -> Any:
        shape = LARGE_SHAPE if self.board[LARGE] else SMALL_SHAPE
        frame = self.loan(shape) if self.loans else np.empty(shape, np.uint8)
        frame[...] = self.meta.sequence % 251
        self.board[MADE] = self.meta.sequence + 1
        return frame


class Checks(Record):
    """Writes down what it gets; counts its cleanups."""

    def __init__(self, name: str, path: Path, board: Board, *, fails: bool = False) -> None:
        super().__init__(name, path, one_value)
        self.board = board
        self.fails = fails

    def cleanup(self) -> None:
        super().cleanup()
        self.board.add(CLEANUPS)
        if self.fails:
            raise ValueError("on purpose")


def growing(pipe: Pipe, board: Board, tmp_path: Path, **options: Any) -> Pipe:
    """A source whose frames grow, a receiver that writes them down, with a sibling in its flow, and one in another."""
    source, checks, sibling, other = (
        Grows("source", board),
        Checks("checks", tmp_path / "r", board, **options),
        Sink("s"),
        Sink("o"),
    )
    pipe.create_flow("source", False, source, **FAST)
    pipe.create_flow("checks", False, checks, sibling, **FAST)
    pipe.create_flow("other", False, other)
    small = Grows("steady", Board())
    pipe.create_flow("steady", False, small)
    pipe.link(Wire(source, (checks, other)), Wire(small, sibling))
    return pipe


def limit(pid: int, count: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, HARD))


@contextmanager
def starving(pid: int) -> Iterator[None]:
    """No file descriptor for this process, not even one of its reserve."""
    limit(pid, 0)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it was to end meanwhile
            limit(pid, HARD)


def lowest_free(pid: int) -> int:
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in range(len(used) + 1) if number not in used)


def count_of(pipe: Pipe, name: str) -> int:
    return pipe.statistics().routines[name].received


def moves(pipe: Pipe, *names: str, messages: int = 10) -> None:
    before = {name: count_of(pipe, name) for name in names}
    eventually(lambda: all(count_of(pipe, name) >= before[name] + messages for name in names), f"messages to {names}")


def errors(pipe: Pipe) -> dict[str, int]:
    return {name: routine.errors for name, routine in pipe.statistics().routines.items() if routine.errors}


def grow(pipe: Pipe, board: Board) -> None:
    """The frames grow, and whoever can't open their ring says so."""
    board[LARGE] = 1
    eventually(lambda: errors(pipe) == {"checks": 1}, "an error")


def test_a_receiver_gets_messages_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And none is lost; others go on meanwhile, in its own flow too; it is one error, however long it lasts."""
    board, pipe = Board(), Pipe(policy="block", capacity=1000)
    with running(growing(pipe, board, tmp_path)):
        moves(pipe, "checks", "o", "s")
        pid = pid_of(pipe, "checks")
        with starving(pid):
            grow(pipe, board)
            taken = count_of(pipe, "checks")
            moves(pipe, "o", "s", messages=60)  # some three tries
            assert count_of(pipe, "checks") == taken
        moves(pipe, "checks")
        assert errors(pipe) == {"checks": 1}
        assert pid_of(pipe, "checks") == pid
        lines = [record.getMessage() for record in caplog.records if "'source'" in record.getMessage()]
        assert any("Too many open files" in line and "ulimit -n" in line for line in lines), lines
        drain(pipe, "source", "steady")
        eventually(lambda: count_of(pipe, "checks") == board[MADE], "all of them")
        pipe.notify_event(STOP_EVENT_NAME)
        await_states(pipe, checks="stopped")
        got = received(tmp_path / "r")
        assert [message.sequence for message in got] == list(range(board[MADE]))
        assert all(message.value == message.sequence % 251 for message in got)


def test_a_stop_and_a_start_meanwhile_lose_nothing(tmp_path: Path) -> None:
    board, pipe = Board(), Pipe(policy="block", capacity=1000)
    with running(growing(pipe, board, tmp_path)):
        moves(pipe, "checks", "o", "s")
        with starving(pid_of(pipe, "checks")):
            grow(pipe, board)
            pipe.notify_event(STOP_EVENT_NAME, specific_routine="checks")
            await_states(pipe, checks="stopped")
            assert board[CLEANUPS] == 1
        pipe.notify_event(START_EVENT_NAME, specific_routine="checks")
        moves(pipe, "checks")
        drain(pipe, "source", "steady")
        eventually(lambda: count_of(pipe, "checks") == board[MADE], "all of them")
        pipe.notify_event(STOP_EVENT_NAME)
        await_states(pipe, checks="stopped")
        assert [message.sequence for message in received(tmp_path / "r")] == list(range(board[MADE]))


def test_a_kill_meanwhile_cleans_up(tmp_path: Path) -> None:
    board, pipe = Board(), Pipe(grace_period=10)
    growing(pipe, board, tmp_path).build()
    pipe.notify_event(START_EVENT_NAME)
    moves(pipe, "checks", "o", "s")
    with starving(pid_of(pipe, "checks")):
        grow(pipe, board)
        pipe.join(to_kill=True)
        assert board[CLEANUPS] == 1


def limit_of(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]


def test_the_reserve_opens_a_ring_where_no_other_descriptor_is_free(tmp_path: Path) -> None:
    board, pipe = Board(), Pipe(policy="block")
    with running(growing(pipe, board, tmp_path)):
        moves(pipe, "checks")
        pid = pid_of(pipe, "checks")
        open_before = len(os.listdir(f"/proc/{pid}/fd"))
        limit(pid, lowest_free(pid))
        board[LARGE] = 1
        moves(pipe, "checks", messages=60)
        assert errors(pipe) == {}
        assert len(os.listdir(f"/proc/{pid}/fd")) == open_before


def test_a_dead_sender_s_queue_is_drained_when_there_are_descriptors(tmp_path: Path) -> None:
    """Its rings are all to be opened then, also those that no message came in."""
    board, pipe = Board(), Pipe(policy="block", capacity=4)
    with running(growing(pipe, board, tmp_path)):
        moves(pipe, "checks")
        pid = pid_of(pipe, "checks")
        with starving(pid):
            victim = pid_of(pipe, "source")
            os.kill(victim, signal.SIGKILL)  # its successor's rings are others
            eventually(lambda: errors(pipe) == {"checks": 1}, "an error")
            moves(pipe, "s", messages=30)
        moves(pipe, "checks", "o")
        assert errors(pipe) == {"checks": 1}
        assert pid_of(pipe, "checks") == pid


def test_a_routine_that_has_failed_lets_go_when_there_are_descriptors(tmp_path: Path) -> None:
    board, pipe = Board(), Pipe(policy="block", capacity=4)
    growing(pipe, board, tmp_path, fails=True).build()
    pipe.notify_event(START_EVENT_NAME)
    moves(pipe, "checks", "o", "s")
    with starving(pid_of(pipe, "checks")):
        grow(pipe, board)
        eventually(lambda: pipe.statistics().wires["source", "checks"].waiting == 4, "a full queue")
        pipe.notify_event(STOP_EVENT_NAME, specific_routine="checks")
        await_states(pipe, checks="failed")
        assert pipe.statistics().wires["source", "checks"].waiting == 4
    eventually(lambda: pipe.statistics().wires["source", "checks"].waiting == 0, "an empty queue")
    moves(pipe, "o")
    with pytest.raises(PipeFailed, match="on purpose"):
        pipe.join(to_kill=True)


# ---- senders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loans", [False, True], ids=["copied", "loaned"])
def test_a_sender_that_can_t_make_a_larger_ring(loans: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Each message that does not go is an error that says why; later ones go; nothing of them is left."""
    board, pipe = Board(), Pipe(policy="block")
    source, sink = Grows("source", board, loans=loans), Sink("sink")
    pipe.create_flow("source", False, source)
    pipe.create_flow("sink", False, sink)
    pipe.link(Wire(source, sink))
    with running(pipe):
        moves(pipe, "sink")
        pid = pid_of(pipe, "source")
        with starving(pid):
            board[LARGE] = 1
            eventually(lambda: pipe.statistics().routines["source"].errors >= 5, "errors")
        moves(pipe, "sink")
        assert pid_of(pipe, "source") == pid
        texts = [record.getMessage() for record in caplog.records if "the ring of 'source'" in record.getMessage()]
        assert texts
        assert all("Too many open files" in text and "ulimit -n" in text for text in texts)
        drain(pipe, "source")
        failed = pipe.statistics().routines["source"].errors
        wire = pipe.statistics().wires["source", "sink"]
        assert wire.dropped["error"] == (0 if loans else failed)
        assert wire.sent == wire.received + wire.lost
        segments = list(Path("/dev/shm").glob(f"pipert-{pipe_id_of(pipe)}-*"))
        assert len(segments) <= 4  # control, messages, and frames, perhaps of two sizes


class Draws(MiddleRoutine):
    """Draws on what it gets, once the board says so by writable(); counts where that was a copy, and where the frame itself."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: np.ndarray) -> np.ndarray:
        gate = self.board[GATE]
        drawing = writable(data) if gate else np.array(data)
        drawing[0, 0] = 7
        if gate:
            self.board.add(OWN if (data[0, 0] == 7).all() and not (data[1] == 7).all() else COPIES)
        return drawing


class Looks(DestinationRoutine):
    def main_logic(self, data: np.ndarray) -> None:
        assert (data[0, 0] == 7).all()
        assert (data[1:] == self.meta.sequence % 251).all()


def test_writable_makes_a_copy_for_as_long() -> None:
    board, pipe = Board(), Pipe(policy="block")
    source, draws, looks = Grows("source", board), Draws("draws", board), Looks("looks")
    for routine in (source, draws, looks):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, draws), Wire(draws, looks))
    with running(pipe):
        moves(pipe, "looks")
        with starving(pid_of(pipe, "draws")):
            board[GATE] = 1
            board.wait(COPIES, 10)
            assert board[OWN] == 0
        board.wait(OWN, 10)
        assert errors(pipe) == {}


# ---- the reserve ---------------------------------------------------------------------------------


def next_free() -> int:
    fd = os.dup(0)
    os.close(fd)
    return fd


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_reserve_lends_and_takes_back() -> None:
    before = open_files()
    reserve = Reserve(3)
    try:
        held = open_files() - before
        assert len(held) == len(reserve) == 3
        with reserve.lent():
            assert not held & open_files()
        assert len(open_files() - before) == 3
    finally:
        reserve.close()
    assert open_files() == before


def test_what_can_t_be_taken_back_is_at_the_next_use() -> None:
    reserve = Reserve(3)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        with reserve.lent():
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, HARD))
        assert len(reserve) == 0
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, HARD))
        with reserve.lent():
            pass
        assert len(reserve) == 3
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, HARD))
        reserve.close()


def test_a_reserve_helps_what_fails_for_want_of_a_descriptor_only() -> None:
    reserve = Reserve(2)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        with pytest.raises(FileNotFoundError):
            reserve.help(lambda: os.open("/nowhere", os.O_RDONLY))
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_free(), HARD))
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        fd = reserve.help(lambda: os.open(os.devnull, os.O_RDONLY))
        assert len(reserve) == 1  # what was opened has the number of the other
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, HARD))
        os.close(fd)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, HARD))
        reserve.close()


def test_threads_take_turns() -> None:
    before = open_files()
    reserve = Reserve(2)

    def borrow() -> None:
        for _ in range(200):
            with reserve.lent():
                pass

    threads = [threading.Thread(target=borrow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(open_files() - before) == len(reserve) == 2
    reserve.close()


def test_forked_children_have_none_of_it_and_lend_nothing() -> None:
    reserve = Reserve(2)
    held = set(reserve._held)
    child = os.fork()
    if child == 0:
        left = {int(name) for name in os.listdir("/proc/self/fd")} & held
        listed = os.open(os.devnull, os.O_RDONLY)  # may have a number that the parent's reserve has
        with reserve.lent():
            os.fstat(listed)
        os._exit(len(left) > 1)  # listdir itself has one open
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert set(reserve._held) == held
    reserve.close()


def test_more_descriptors_are_kept_out_of_children_than_flows_have() -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (HARD, HARD))
    reserve = Reserve(min(3000, HARD - 100))
    child = os.fork()
    if child == 0:
        os._exit(len(os.listdir("/proc/self/fd")) > 500)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    reserve.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, HARD))


def test_the_table_of_those_says_its_limit(run_script: Any) -> None:
    script = run_script(
        f"""
from pipert_shm import binding

for fd in range(10_000, 10_000 + {binding.GUARDED}):
    binding.guard(fd)
try:
    binding.guard(9_999)
except OSError as error:
    print(error.strerror)
for fd in range(10_000, 10_000 + {binding.GUARDED}):
    binding.unguard(fd)
binding.guard(9_999)
"""
    )
    assert script.returncode == 0, script.stderr
    assert script.lines == ["can't keep file descriptor 9999 out of forked children: 65,536 others are kept out already"]
