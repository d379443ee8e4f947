"""Starting, stopping, ending, killing and dying; and that whatever way it ends, it ends, and leaves nothing behind."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import processes
from conftest import Script, StartScript
from pipert_shm import (
    KILL_EVENT_NAME,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UNLINK,
    UNLINK_EVENT_NAME,
    DestinationRoutine,
    EndOfStream,
    MiddleRoutine,
    Pipe,
    PipeFailed,
    Routine,
    SourceRoutine,
    Wire,
    events,
)
from routines import Forward, Frames, Gated, Items, Record, Sink, chain, one_value, received
from waiting import Board, eventually

GATE, TAKEN = 0, 1
SETUPS, CLEANUPS = 2, 3


def state(pipe: Pipe, *routines: str) -> set[str]:
    """The states that these routines (by default all) are in."""
    statistics = pipe.statistics().routines
    return {statistics[name].state for name in routines or statistics}


def reaches(pipe: Pipe, wanted: str, *routines: str) -> None:
    eventually(lambda: state(pipe, *routines) == {wanted}, f"{routines or 'all'} being {wanted}")


class Counting(SourceRoutine):
    """Sends 0, 1, 2, … up to `count` (None: for ever), going on from run to run; counts setups and clean-ups."""

    def __init__(self, name: str, count: int | None, board: Board | None = None) -> None:
        super().__init__(name)
        self.count = count
        self.board = board or Board()
        self.next = 0

    def setup(self) -> None:
        self.board.add(SETUPS)

    def cleanup(self) -> None:
        self.board.add(CLEANUPS)

    def main_logic(self) -> Any:
        if self.next == self.count:
            raise EndOfStream
        self.next += 1
        return self.next - 1


def numbers(path: Path) -> list[int]:
    return [message.value for message in received(path)]


# ---- stop and start ------------------------------------------------------------------------------


def test_nothing_is_lost_over_a_pause(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block")
    source, record = Counting("source", 3000, board), Record("record", tmp_path / "r")
    chain(pipe, source, Forward("middle"), record)
    pipe.build()
    assert state(pipe) == {"built"}
    for run in range(1, 6):
        pipe.notify_event(START_EVENT_NAME)
        board.wait(SETUPS, run)
        eventually(lambda run=run: pipe.statistics().routines["record"].received >= 100 * run)  # type: ignore[misc]
        pipe.notify_event(STOP_EVENT_NAME)
        board.wait(CLEANUPS, run)
        reaches(pipe, "stopped")
        assert (board[SETUPS], board[CLEANUPS]) == (run, run)
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(3000))
    assert [message.sequence for message in received(tmp_path / "r")] == list(range(3000))


def test_stops_and_starts_in_quick_succession(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", 2000), Forward("middle"), Record("record", tmp_path / "r"))
    pipe.build()
    for _ in range(40):
        pipe.notify_event(START_EVENT_NAME)
        pipe.notify_event(STOP_EVENT_NAME)
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(2000))


def test_a_pause_finds_the_sender_blocked(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, source := Counting("source", 50), gated := Gated("gated", board, GATE, TAKEN))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().wires["source", "gated"].sent == 4)  # in hand, two that wait, and one that is stuck
    pipe.notify_event(STOP_EVENT_NAME, specific_routine=source.name)
    reaches(pipe, "stopped", "source")
    assert state(pipe, "gated") == {"running"}
    board[GATE] = 3
    eventually(lambda: board[TAKEN] == 3)  # the stuck one stays with its sender
    pipe.notify_event(START_EVENT_NAME, {source.flow_name or "": []})
    board[GATE] = 1000
    pipe.join()
    wire = pipe.statistics().wires["source", gated.name]
    assert (wire.sent, wire.received, wire.lost, wire.waiting) == (50, 50, 0, 0)


def test_sequence_numbers_stay_unique_when_a_blocked_sender_is_interrupted(tmp_path: Path) -> None:
    class Slow(Record):
        def main_logic(self, data: Any) -> None:
            board.wait(GATE)
            super().main_logic(data)

    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, source := Counting("source", 30), Slow("slow", tmp_path / "r"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().wires["source", "slow"].sent == 4)
    for _ in range(3):
        with pipe.tap(source):
            pass
    board[GATE] = 1
    pipe.join()
    assert [(message.value, message.sequence) for message in received(tmp_path / "r")] == [(n, n) for n in range(30)]


def test_a_single_routine_is_stopped_and_started(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", 500), middle := Forward("middle"), Record("record", tmp_path / "r"))
    pipe.build()
    for routine in ("source", "record"):
        pipe.notify_event(START_EVENT_NAME, specific_routine=routine)
    reaches(pipe, "running", "source", "record")
    assert state(pipe, "middle") == {"built"}
    for _ in range(5):
        middle.notify_event(START_EVENT_NAME, {"middle": ["middle"]})
        reaches(pipe, "running", "middle")
        middle.notify_event(STOP_EVENT_NAME, {"middle": ["middle"]})
        reaches(pipe, "stopped", "middle")
        assert "stopped" not in state(pipe, "source", "record")
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(500))


def test_a_start_of_what_runs_changes_nothing(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, source := Counting("source", None, board), Sink("sink"))
    pipe.build()
    for _ in range(5):
        source.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["sink"].received > 100)
    assert board[SETUPS] == 1
    pipe.join(to_kill=True)
    assert (board[SETUPS], board[CLEANUPS]) == (1, 1)


def test_a_stop_before_the_start() -> None:
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", 5, board), Sink("sink"))
    pipe.build()
    pipe.notify_event(STOP_EVENT_NAME)
    reaches(pipe, "stopped")
    assert board[SETUPS] == 0
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert pipe.statistics().routines["sink"].received == 5


def test_a_message_whose_main_logic_was_called_out_of_a_wait_for_a_slot_is_not_lost(tmp_path: Path) -> None:
    """STOP finds main_logic waiting in loan(), all three slots being held: after START it gets the message again."""
    board = Board()

    class Loans(MiddleRoutine):
        def main_logic(self, data: int) -> np.ndarray:
            board[4] = data
            frame = self.loan((5_000_000,))
            frame[...] = data
            return frame

    class Slow(Record):
        def main_logic(self, data: Any) -> None:
            board.wait(GATE)
            super().main_logic(data)

    pipe = Pipe(policy="block", capacity=8, memory_budget=17_000_000)
    chain(pipe, Counting("source", 20), Loans("loans"), Slow("slow", tmp_path / "r", one_value))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: board[4] == 3, "the fourth loan")  # it waits
    pipe.notify_event(STOP_EVENT_NAME, specific_routine="loans")
    reaches(pipe, "stopped", "loans")
    board[GATE] = 1
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(20))
    assert pipe.statistics().routines["loans"].errors == 0


def test_const_fps_does_not_hold_up_a_stop_or_a_kill() -> None:
    pipe = Pipe(policy="block")
    source, sink = Counting("source", None), Sink("sink")
    source.set_const_fps(0.001)
    sink.set_const_fps(0.001)
    chain(pipe, source, sink)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["sink"].received == 1)
    started = time.monotonic()
    pipe.notify_event(STOP_EVENT_NAME)
    reaches(pipe, "stopped")
    pipe.notify_event(START_EVENT_NAME)
    reaches(pipe, "running")
    pipe.join(to_kill=True)
    assert time.monotonic() - started < 3


# ---- the end of the stream -----------------------------------------------------------------------


def test_the_end_drains_what_waits(tmp_path: Path) -> None:
    board = Board()

    class Slow(Record):
        def main_logic(self, data: Any) -> None:
            board.wait(GATE)
            super().main_logic(data)

    pipe = Pipe(policy="block", capacity=50)
    chain(pipe, Counting("source", 40), Forward("middle"), Slow("slow", tmp_path / "r"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    reaches(pipe, "ended", "source", "middle")
    reaches(pipe, "running", "slow")
    board[GATE] = 1
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(40))
    assert state(pipe) == {"ended"}


def test_a_receiver_ends_when_all_of_its_senders_have(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block")
    short, long, record = Counting("short", 5), Counting("long", 5), Record("record", tmp_path / "r")

    class Waits(Forward):
        def setup(self) -> None:
            board.wait(GATE)

    waits = Waits("waits")
    for routine in (short, long, waits, record):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(short, record), Wire(long, waits), Wire(waits, record))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    reaches(pipe, "ended", "short")
    eventually(lambda: pipe.statistics().routines["record"].received == 5)
    assert state(pipe, "record") == {"running"}
    board[GATE] = 1
    pipe.join()
    assert sorted(numbers(tmp_path / "r")) == sorted(2 * list(range(5)))


@pytest.mark.parametrize("across", [False, True], ids=["within", "across"])
def test_the_end_from_a_middle_routine(tmp_path: Path, across: bool) -> None:
    class Enough(MiddleRoutine):
        def main_logic(self, data: int) -> int:
            if data == 7:
                raise EndOfStream
            return data

    pipe = Pipe(policy="block")
    routines = (Counting("source", 100), Enough("enough"), Record("record", tmp_path / "r"))
    if across:
        chain(pipe, *routines)
    else:
        pipe.create_flow("flow", True, *routines)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(7))
    wire = pipe.statistics().wires["source", "enough"]
    assert (wire.sent, wire.received, wire.dropped["ended"]) == (100, 8, 92)


def test_clean_up_comes_before_the_end_is_seen(tmp_path: Path) -> None:
    class Closes(Counting):
        def cleanup(self) -> None:
            board.wait(GATE)
            super().cleanup()

    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Closes("closes", 3, board), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["sink"].received == 3)
    assert state(pipe) == {"running"}
    board[GATE] = 1
    pipe.join()
    assert board[CLEANUPS] == 1


class Again(Counting):
    """From the beginning at each run; its first message of the second run only when the gate is open."""

    def setup(self) -> None:
        super().setup()
        self.next = 0

    def main_logic(self) -> Any:
        if self.board[SETUPS] == 2 and self.next == 1:
            self.board.wait(GATE)
        return super().main_logic()


def test_a_start_after_the_end_starts_again(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Again("again", 10, board), Forward("middle"), Record("record", tmp_path / "r"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    reaches(pipe, "ended")
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["record"].received == 11)
    joining = threading.Thread(target=pipe.join)
    joining.start()  # it must wait for the end of the second run, though there was an end before
    joining.join(timeout=0.3)
    assert joining.is_alive()
    board[GATE] = 1
    joining.join()
    assert numbers(tmp_path / "r") == 2 * list(range(10))
    sequences = [message.sequence for message in received(tmp_path / "r")]
    assert sequences == list(range(20))


def test_many_ends_and_starts(tmp_path: Path) -> None:
    class Again(Counting):
        def setup(self) -> None:
            self.next = 0

    pipe = Pipe(policy="block")
    chain(pipe, Again("again", 10), Forward("middle"), Record("record", tmp_path / "r"))
    pipe.build()
    for run in range(1, 8):
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda run=run: pipe.statistics().routines["record"].received == 10 * run)  # type: ignore[misc]
        reaches(pipe, "ended")
    pipe.join()
    assert numbers(tmp_path / "r") == 7 * list(range(10))


# ---- unlink --------------------------------------------------------------------------------------


@pytest.mark.parametrize("across", [False, True], ids=["within", "across"])
def test_a_wire_is_unlinked_while_its_sender_is_blocked_on_it(tmp_path: Path, across: bool) -> None:
    board = Board()
    pipe = Pipe(policy="block", grace_period=2)
    source, gated, record = Counting("source", 30), Gated("gated", board, GATE, TAKEN), Record("record", tmp_path / "r")
    if across:
        for routine in (source, gated, record):
            pipe.create_flow(routine.name, False, routine)
    else:
        pipe.create_flow("flow", False, source, gated, record)
    pipe.link(Wire(source, (gated, record)))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().wires["source", "gated"].sent == 4)
    pipe.notify_event(UNLINK, specific_routine="source", unlink_routine_name="gated")
    reaches(pipe, "ended", "source", "record")
    board[GATE] = 1000
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(30))
    wire = pipe.statistics().wires["source", "gated"]
    assert wire.received >= 3
    assert wire.sent == wire.received + wire.lost


def test_a_start_after_an_unlink(tmp_path: Path) -> None:
    class Again(Counting):
        def setup(self) -> None:
            self.next = 0

    pipe = Pipe(policy="block")
    source, one, other = Again("source", 5), Record("one", tmp_path / "one"), Record("other", tmp_path / "other")
    for routine in (source, one, other):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, (one, other)))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    reaches(pipe, "ended")
    pipe.notify_event(UNLINK_EVENT_NAME, specific_routine="source", unlink_routine_name="one")
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["other"].received == 10)
    reaches(pipe, "ended")
    pipe.join()
    assert numbers(tmp_path / "one") == list(range(5))
    assert numbers(tmp_path / "other") == 2 * list(range(5))


def test_an_unlink_of_what_is_not_linked_is_told(caplog: pytest.LogCaptureFixture) -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", 3), Sink("sink"))
    pipe.build()
    pipe.notify_event(UNLINK, specific_routine="source", unlink_routine_name="nobody")
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert "unlink: there is no wire from 'source' to 'nobody'" in caplog.messages
    assert pipe.statistics().routines["sink"].received == 3


# ---- events --------------------------------------------------------------------------------------


class Hears(Counting):
    heard: tuple[int, ...] = ()

    @events("number")
    def hear(self, number: int) -> None:
        self.heard = (*self.heard, number)

    def cleanup(self) -> None:
        self.board[CLEANUPS] = self.heard == tuple(range(200))


@pytest.mark.parametrize("when", ["before build", "after build"])
def test_events_arrive_in_order(when: str) -> None:
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, hears := Hears("hears", None, board), Sink("sink"))
    if when == "after build":
        pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    for number in range(100):
        pipe.notify_event("number", number=number)
    for number in range(100, 200):
        hears.notify_event("number", {"hears": ["hears"]}, number=number)
    pipe.notify_event(KILL_EVENT_NAME)
    if when == "before build":
        pipe.build()
    pipe.join()
    assert board[CLEANUPS] == 1


def test_events_from_many_threads_at_once() -> None:
    class Sums(Hears):
        def hear(self, number: int) -> None:
            self.heard = (*self.heard, number)

        def cleanup(self) -> None:
            self.board[CLEANUPS] = sorted(self.heard) == list(range(400))

    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Sums("sums", None, board), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)

    def notify(first: int) -> None:
        for number in range(first, first + 100):
            pipe.notify_event("number", number=number)

    threads = [threading.Thread(target=notify, args=(first,)) for first in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.join(to_kill=True)
    assert board[CLEANUPS] == 1


def test_an_exception_in_a_handler_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Counting):
        @events("fail")
        def fail(self) -> None:
            raise LookupError("no such thing")

    pipe = Pipe(policy="block")
    chain(pipe, Fails("fails", 3), Sink("sink"))
    pipe.build()
    pipe.notify_event("fail")
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert "routine 'fails' of flow 'fails': event 'fail' failed: LookupError: no such thing" in caplog.messages
    assert pipe.statistics().routines["fails"].errors == 1
    assert pipe.statistics().routines["sink"].received == 3


# ---- kill ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["built", "running", "blocked", "stopped", "ended"])
def test_a_kill_at_any_time(when: str) -> None:
    board = Board()
    pipe = Pipe(policy="block", grace_period=3)
    if when == "blocked":
        receiver: Routine = Gated("receiver", board, GATE, TAKEN)
    else:
        receiver = Sink("receiver")
    chain(pipe, Counting("source", 50 if when == "ended" else None, board), receiver)
    pipe.build()
    if when != "built":
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().wires["source", "receiver"].sent >= 4)
    if when == "stopped":
        pipe.notify_event(STOP_EVENT_NAME)
    if when in ("stopped", "ended"):
        reaches(pipe, when)
    if when == "blocked":
        pipe.notify_event(KILL_EVENT_NAME)
        reaches(pipe, "stopped", "source")
        board[GATE] = 1000
    started = time.monotonic()
    pipe.join(to_kill=True)
    assert time.monotonic() - started < 2
    assert board[CLEANUPS] == board[SETUPS] == (when != "built")


def sleep_for_ever() -> None:
    while True:
        time.sleep(1000)


def hold_the_interpreter() -> None:
    """Not even the flow's control thread runs any more."""
    ctypes.PyDLL(None).sleep(1000)


@pytest.mark.parametrize("how", [sleep_for_ever, hold_the_interpreter])
@pytest.mark.parametrize("where", ["main_logic", "setup", "cleanup"])
def test_a_routine_that_does_not_return_is_killed_after_the_grace_period(
    caplog: pytest.LogCaptureFixture, where: str, how: Callable[[], None]
) -> None:
    class Stuck(DestinationRoutine):
        def setup(self) -> None:
            if where == "setup":
                board[TAKEN] = 1
                how()

        def main_logic(self, data: Any) -> None:
            board[TAKEN] = 1
            if where == "main_logic":
                how()

        def cleanup(self) -> None:
            if where == "cleanup":
                how()

    board = Board()
    pipe = Pipe(policy="block", grace_period=0.5)
    chain(pipe, Counting("source", None, board), Stuck("stuck"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(TAKEN)
    eventually(lambda: board[SETUPS] == 1)
    started = time.monotonic()
    pipe.join(to_kill=True)
    assert 0.5 <= time.monotonic() - started < 2.5
    assert "flow 'stuck' did not end within 0.5 s and is killed" in caplog.messages
    assert board[CLEANUPS] == 1  # the other flow ended in its own time


# ---- the context manager -------------------------------------------------------------------------


def test_leaving_the_block_waits_for_the_end(tmp_path: Path) -> None:
    with Pipe(policy="block") as pipe:
        chain(pipe, Counting("source", 500), Record("record", tmp_path / "r"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    assert numbers(tmp_path / "r") == list(range(500))
    assert state(pipe) == {"ended"}


def test_leaving_the_block_by_an_exception_kills() -> None:
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", None, board), Sink("sink"))

    def body() -> None:
        with pipe:
            pipe.build()
            pipe.notify_event(START_EVENT_NAME)
            eventually(lambda: board[SETUPS] == 1)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        body()
    assert board[CLEANUPS] == 1
    assert state(pipe) == {"stopped"}


def test_leaving_the_block_unbuilt() -> None:
    with Pipe() as pipe:
        chain(pipe, Counting("source", 1), Sink("sink"))
    with pytest.raises(LookupError), Pipe() as pipe:
        raise LookupError


@pytest.mark.timeout(20)
@pytest.mark.parametrize("stopped", [False, True])
def test_leaving_the_block_with_nothing_to_wait_for(stopped: bool) -> None:
    """Never started, or stopped: nobody is left who could start it."""
    with Pipe() as pipe:
        chain(pipe, Counting("source", None), Sink("sink"))
        pipe.build()
        if stopped:
            pipe.notify_event(START_EVENT_NAME)
            pipe.notify_event(STOP_EVENT_NAME)


# ---- scripts that end without join, and Ctrl-C ---------------------------------------------------

SCRIPT = """
import os, sys, time
import numpy as np
from pipert_shm import *  # noqa: F403
from pipert_shm import EndOfStream, Pipe, Wire

class Camera(SourceRoutine):
    number = 0
    until = None
    def main_logic(self):
        if self.number == self.until:
            raise EndOfStream
        self.number += 1
        time.sleep(0.01)
        return np.full((100, 100), self.number % 256, np.uint8)
    def cleanup(self):
        print("camera cleaned up")

class Show(DestinationRoutine):
    def main_logic(self, data):
        print("frame")
    def cleanup(self):
        print("show cleaned up")

def make(**options):
    pipe = Pipe(policy="block", **options)
    camera, show = Camera("camera"), Show("show")
    pipe.create_flow("a", False, camera)
    pipe.create_flow("b", False, show)
    pipe.link(Wire(camera, show))
    return pipe, camera, show
""".replace(
    "from pipert_shm import *  # noqa: F403",
    "from pipert_shm import DestinationRoutine, SourceRoutine, START_EVENT_NAME",
)
CLEANED_UP = {"camera cleaned up", "show cleaned up"}


def test_a_script_that_ends_without_join_is_waited_for(start_script: StartScript) -> None:
    script = start_script(
        SCRIPT
        + """
pipe, camera, show = make()
camera.until = 20
pipe.build()
pipe.notify_event(START_EVENT_NAME)
print("the script is over", flush=True)
"""
    ).finish()
    assert (script.returncode, script.stderr) == (0, "")
    assert script.lines.count("frame") == 20
    assert set(script.lines) >= CLEANED_UP


@pytest.mark.parametrize("stop", [False, True])
def test_a_script_that_ends_with_a_pipe_that_does_not_run(start_script: StartScript, stop: bool) -> None:
    script = start_script(
        SCRIPT
        + f"""
pipe, camera, show = make()
pipe.build()
if {stop}:
    pipe.notify_event(START_EVENT_NAME)
    pipe.notify_event("stop")
"""
    ).finish()
    told = (
        ""
        if stop
        else "nothing ran: the pipe was built, but never started; call notify_event(START_EVENT_NAME) after build()\n"
    )
    assert (script.returncode, script.stderr) == (0, told)


def test_a_script_that_fails_takes_its_pipe_with_it(start_script: StartScript) -> None:
    script = start_script(
        SCRIPT
        + """
pipe, camera, show = make()
pipe.build()
pipe.notify_event(START_EVENT_NAME)
while pipe.statistics().routines["show"].received < 3:
    time.sleep(0.001)
raise LookupError("the script's own")
"""
    ).finish()
    assert script.returncode == 1
    assert script.stderr.count("Traceback") == 1
    assert "LookupError: the script's own" in script.stderr
    assert set(script.lines) >= CLEANED_UP


def ended_by_ctrl_c(script: Script, within: float = 4.0) -> list[str]:
    """The rest of its output; it ended well before the grace period of 5 s, as if nothing had happened."""
    script.interrupt()
    started = time.monotonic()
    finished = script.finish()
    assert time.monotonic() - started < within
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.lines


def test_ctrl_c_in_join(start_script: StartScript) -> None:
    script = start_script(
        SCRIPT
        + """
pipe, camera, show = make()
pipe.build()
pipe.notify_event(START_EVENT_NAME)
pipe.join()
print("joined")
"""
    )
    script.wait_for_line("frame")
    lines = ended_by_ctrl_c(script)
    assert set(lines) >= {*CLEANED_UP, "joined"}


def test_ctrl_c_after_the_script_is_over(start_script: StartScript) -> None:
    script = start_script(
        SCRIPT
        + """
pipe, camera, show = make()
pipe.build()
pipe.notify_event(START_EVENT_NAME)
"""
    )
    script.wait_for_line("frame")
    assert set(ended_by_ctrl_c(script)) >= CLEANED_UP


@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_with_a_routine_that_does_not_return(start_script: StartScript, times: int) -> None:
    script = start_script(
        SCRIPT
        + """
class Stuck(DestinationRoutine):
    def main_logic(self, data):
        print("stuck")
        time.sleep(1000)

pipe = Pipe(policy="block", grace_period=1)
camera, stuck = Camera("camera"), Stuck("stuck")
pipe.create_flow("a", False, camera)
pipe.create_flow("b", False, stuck)
pipe.link(Wire(camera, stuck))
pipe.build()
pipe.notify_event(START_EVENT_NAME)
pipe.join()
print("joined")
"""
    )
    script.wait_for_line("stuck")
    for _ in range(times):
        script.interrupt()
    finished = script.finish(10)
    assert finished.returncode == 0
    assert set(finished.lines) >= {"camera cleaned up", "joined"}
    assert finished.stderr.splitlines() == ["flow 'b' did not end within 1 s and is killed"]


def test_ctrl_c_in_the_body_of_the_block(start_script: StartScript) -> None:
    script = start_script(
        SCRIPT
        + """
pipe, camera, show = make()
try:
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        time.sleep(1000)
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    script.wait_for_line("frame")
    assert set(ended_by_ctrl_c(script)) >= {*CLEANED_UP, "interrupted"}


def test_ctrl_c_in_a_script_s_own_code(start_script: StartScript) -> None:
    script = start_script(
        SCRIPT
        + """
pipe, camera, show = make()
pipe.build()
pipe.notify_event(START_EVENT_NAME)
time.sleep(1000)
"""
    )
    script.wait_for_line("frame")
    script.interrupt()
    finished = script.finish(5)
    assert finished.returncode in (-signal.SIGINT, 130)
    assert finished.stderr.count("Traceback") == 1  # Python's own, for the script's own code
    assert "KeyboardInterrupt" in finished.stderr
    assert set(finished.lines) >= CLEANED_UP


@pytest.mark.parametrize("attempt", range(8))
def test_ctrl_c_while_it_is_built(start_script: StartScript, attempt: int) -> None:
    """Wherever in build() it hits, nothing is left behind; only the parent may tell of it."""
    script = start_script(
        SCRIPT
        + """
pipe, camera, show = make()
print("building", flush=True)
pipe.build()
pipe.notify_event(START_EVENT_NAME)
pipe.join()
"""
    )
    script.wait_for_line("building")
    threading.Event().wait(attempt * 0.002)  # another place each time
    script.interrupt()
    finished = script.finish(10)
    assert finished.stderr.count("Traceback") <= 1, finished.stderr
    assert not any(line.startswith(("the launcher", "flow '")) for line in finished.stderr.splitlines()), finished.stderr


# ---- deaths --------------------------------------------------------------------------------------


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


class Pids(Forward):
    """Puts its process's number on the board, and forwards."""

    def __init__(self, name: str, board: Board, cell: int) -> None:
        super().__init__(name)
        self.board = board
        self.cell = cell

    def setup(self) -> None:
        self.board[self.cell] = os.getpid()


MIDDLE_PID = 8


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


# ---- the rest ------------------------------------------------------------------------------------


def test_statistics_after_the_end() -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Frames("source", 50, loan=True), Forward("middle"), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    first, second = pipe.statistics(), pipe.statistics()
    assert (first.routines, first.wires) == (second.routines, second.wires)
    assert first.routines["middle"].received == first.routines["middle"].sent == 50
    wire = first.wires["middle", "sink"]
    assert wire.hop.count == 50
    assert 0 < wire.hop.p50_us <= wire.hop.p99_us
    assert first.routines["sink"].age.count == 50
    assert first.routines["sink"].age.p50_us >= wire.hop.p50_us


def test_two_pipes_at_once(tmp_path: Path) -> None:
    pipes = []
    for number in range(2):
        pipe = Pipe(policy="block")
        record = Record("record", tmp_path / f"r{number}", one_value)
        chain(pipe, Frames("source", 200, loan=True), Forward("middle"), record)
        pipes.append(pipe)
    for pipe in pipes:
        pipe.build()
    for pipe in pipes:
        pipe.notify_event(START_EVENT_NAME)
    for pipe in reversed(pipes):
        pipe.join()
    for number in range(2):
        assert numbers(tmp_path / f"r{number}") == list(range(200))


def test_one_pipe_dies_and_the_other_goes_on(tmp_path: Path) -> None:
    first, second = Pipe(policy="block"), Pipe(policy="block")
    chain(first, Counting("source", None), Sink("sink"))
    board = Board()
    chain(second, Items("source", range(20)), gated := Gated("gated", board, GATE, TAKEN))
    first.build()
    second.build()
    for pipe in (first, second):
        pipe.notify_event(START_EVENT_NAME)
    board.wait(GATE, 0)
    first.join(to_kill=True)
    board[GATE] = 100
    second.join()
    assert (board[TAKEN], gated.flow_name) == (20, "gated")


def test_built_and_joined_on_another_thread(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", 100), Record("record", tmp_path / "r"))

    def work() -> None:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert numbers(tmp_path / "r") == list(range(100))


@pytest.fixture
def starved() -> Iterator[Pipe]:
    """A source that rests, and two flows that wait for it."""
    pipe = Pipe(policy="block")
    source = Counting("source", None)
    source.set_const_fps(0.001)
    chain(pipe, source, Forward("middle"), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["sink"].received == 1)
    yield pipe
    pipe.join(to_kill=True)


@pytest.fixture
def blocked() -> Iterator[Pipe]:
    """Senders that wait at full queues, for a receiver that is stopped."""
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", None), Forward("middle"), Sink("sink"))
    pipe.build()
    for routine in ("source", "middle"):
        pipe.notify_event(START_EVENT_NAME, specific_routine=routine)
    eventually(lambda: all(wire.waiting == wire.capacity for wire in pipe.statistics().wires.values()))
    yield pipe
    pipe.join(to_kill=True)


@pytest.mark.parametrize("idle", ["starved", "blocked"])
def test_waiting_costs_no_cpu(request: pytest.FixtureRequest, known: set[int], idle: str) -> None:
    request.getfixturevalue(idle)
    flows = sorted(set(processes.descendants()) - known)
    assert len(flows) == 4  # with the launcher
    settled = processes.cpu_seconds(flows)
    seconds = 2.0
    threading.Event().wait(seconds)  # the one thing here that is about time itself
    assert processes.cpu_seconds(flows) - settled < 0.01 * seconds
