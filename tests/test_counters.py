"""What routines count of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pipert_shm import START_EVENT_NAME, EndOfStream, Pipe, SourceRoutine
from pipert_shm.shm.counters import Counters
from routines import Frames, Sink, chain
from waiting import Board, eventually


class Counting(SourceRoutine):
    """Counts up to 10, and says whether it is even."""

    counter_names = ("calls", "even")

    def main_logic(self) -> int:
        if self.counters["calls"] == 10:
            raise EndOfStream
        self.counters["calls"] += 1
        self.counters["even"] = (self.counters["calls"] + 1) % 2
        return self.counters["calls"]


def test_what_a_routine_counts_is_read_from_outside(tmp_path: Path) -> None:
    source, sink = Counting("source"), Sink("sink")
    with Pipe(policy="block") as pipe:
        chain(pipe, source, sink)
        pipe.build()
        assert pipe.statistics().routines["source"].counters == {"calls": 0, "even": 0}
        pipe.notify_event(START_EVENT_NAME)
    assert pipe.statistics().routines["source"].counters == {"calls": 10, "even": 1}
    assert pipe.statistics().routines["sink"].counters == {}
    assert source.counters["calls"] == 0, "what runs is another process's routine"


def test_counters_outlive_their_process() -> None:
    board = Board()

    class Dying(Counting):
        def main_logic(self) -> int:
            if self.counters["calls"] == 5 and not board[0]:
                board[0] = 1
                os.kill(os.getpid(), signal.SIGKILL)
            return super().main_logic()

    with Pipe(policy="block") as pipe:
        chain(pipe, Dying("source"), Sink("sink"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    statistics = pipe.statistics()
    assert statistics.flows["source"].restarts == 1
    assert statistics.routines["source"].counters["calls"] == 10


def test_counters_of_a_routine_that_is_added_to_a_running_pipe() -> None:
    with Pipe(policy="block") as pipe:
        chain(pipe, Frames("camera", None), Sink("preview"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        chain(pipe, Counting("late"), Sink("end"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["late"].counters == {"calls": 10, "even": 1})
        pipe.join(to_kill=True)


def test_a_routine_without_counters_may_use_the_name_as_it_likes() -> None:
    class Own(Frames):
        def main_logic(self) -> object:
            assert str(self.counters) == "mine"
            return super().main_logic()

    source = Own("camera", 3)
    source.counters = "mine"  # type: ignore[assignment]
    with Pipe(policy="block") as pipe:
        chain(pipe, source, Sink("sink"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    assert pipe.statistics().routines["sink"].received == 3


def test_a_counter_that_was_not_named() -> None:
    counters = Counters(("faces",))
    with pytest.raises(KeyError, match="there is no counter 'cars': add it to the class's counter_names"):
        counters["cars"] = 1
    with pytest.raises(KeyError):
        counters["cars"]
    assert dict(counters) == {"faces": 0}


@pytest.mark.parametrize("names", [("a", "a"), tuple("abcdefghijklmnopq"), "faces"])
def test_names_that_cannot_be_counters(names: tuple[str, ...]) -> None:
    class Wrong(SourceRoutine):
        counter_names = names

    with pytest.raises(ValueError, match="counter_names must be a tuple of at most 16 different names"):
        Wrong()
