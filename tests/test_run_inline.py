"""Pipe.run_inline(): a whole pipe on the calling thread."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipert_shm import (
    START_EVENT_NAME,
    BatchRoutine,
    DestinationRoutine,
    EndOfStream,
    Join,
    MiddleRoutine,
    Pipe,
    PipeStateError,
    RoutineError,
    SharedMemoryFull,
    SourceRoutine,
    UnknownEvent,
    Wire,
    WiresValidation,
    events,
)
from pipert_shm.shm.segments import ControlSegment
from pipert_shm.testing import RoutineHarness, stage
from pipert_shm.testing.running import InlineRunner
from routines import Apply, Forward, Frames, Items, Record, Sink, chain, one_value, received

Log = list[tuple[str, Any]]


class Logged(MiddleRoutine):
    """Notes what is called, and on what, in a list that all routines of a pipe share; sends on what it gets."""

    def __init__(self, name: str, log: Log) -> None:
        super().__init__(name)
        self.log = log

    def setup(self) -> None:
        self.log.append((self.name, "setup"))

    def main_logic(self, data: Any) -> Any:
        assert threading.current_thread() is threading.main_thread()
        self.log.append((self.name, data))
        return data

    def cleanup(self) -> None:
        self.log.append((self.name, "cleanup"))


class Keep(DestinationRoutine):
    """Keeps what it gets."""

    def __init__(self, name: str = "keep") -> None:
        super().__init__(name)
        self.kept: list[Any] = []

    def main_logic(self, data: Any) -> None:
        self.kept.append(data)


def run(*routines: Any, **options: Any) -> Any:
    """A chain of routines, each in a flow of its own."""
    pipe = Pipe()
    chain(pipe, *routines)
    return pipe.run_inline(**options)


# ---- what happens, and in which order ------------------------------------------------------------


def test_each_message_goes_all_the_way_before_the_next_one_is_made() -> None:
    log: Log = []
    run(Items("source", "ab"), Logged("first", log), Logged("second", log), Sink("sink"))
    assert [entry for entry in log if entry[1] != "setup"] == [
        ("first", "a"),
        ("second", "a"),
        ("first", "b"),
        ("second", "b"),
        ("first", "cleanup"),
        ("second", "cleanup"),
    ]


def test_the_farthest_from_the_sources_comes_first() -> None:
    log: Log = []
    run(Items("source", "abc"), Doubles("batch", batch_size=2), Logged("first", log), Logged("second", log), Sink("sink"))
    order = [entry for entry in log if len(entry[1]) == 2]
    assert order == [(name, 2 * letter) for letter in "abc" for name in ("first", "second")]


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "block"])
def test_nothing_is_dropped_or_expires(policy: Any) -> None:
    keep = Keep()
    pipe = Pipe(policy=policy, capacity=1)
    frames, slow, batch = Frames("camera", 20, loan=True), Apply("middle", one_value), Sizes("sizes", batch_size=8)
    for routine in (frames, slow, batch, keep):
        pipe.create_flow(routine.name, False, routine)
    small = 2 if policy == "block" else None  # build() refuses it of others
    pipe.link(Wire(frames, slow, max_age=1e-6), Wire(slow, batch, capacity=small), Wire(batch, keep, capacity=small))
    statistics = pipe.run_inline()
    assert [number for number, _ in keep.kept] == list(range(20))
    assert [wire.lost for wire in statistics.wires.values()] == [0, 0, 0]
    assert {routine.state for routine in statistics.routines.values()} == {"ended"}
    assert statistics.routines["camera"].copied_bytes == 0


def test_frames_are_read_only_between_flows_and_within_one() -> None:
    class Writes(DestinationRoutine):
        def main_logic(self, frame: np.ndarray) -> None:
            frame[0] = 1

    camera, near, far = Frames("camera", 1), Writes("near"), Writes("far")
    for receiver in (near, far):
        pipe = Pipe()
        camera = Frames(f"camera of {receiver.name}", 1)
        pipe.create_flow("one", False, *([camera, receiver] if receiver is near else [camera]))
        if receiver is far:
            pipe.create_flow("two", False, far)
        pipe.link(Wire(camera, receiver))
        with pytest.raises(ValueError, match="read-only") as caught:
            pipe.run_inline()
        assert "writable(frame)" in caught.value.__notes__[0]


@settings(max_examples=8, phases=[Phase.generate])
@given(numbers=st.lists(st.integers(0, 99), max_size=12), batch=st.integers(1, 5), modulus=st.integers(1, 4))
def test_destinations_get_what_they_get_from_processes(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], batch: int, modulus: int
) -> None:
    folder = tmp_path_factory.mktemp("pipe")

    def make(path: Path) -> Pipe:
        pipe = Pipe(policy="block")
        source, double = Items("source", numbers), Apply("filter", lambda number: number if number % modulus else None)
        sizes, sink, other = Doubles("double", batch_size=batch), Record("sink", path), Record("other", path.with_suffix(".b"))
        pipe.create_flow("ends", False, source, sink)
        pipe.create_flow("middle", False, double, sizes, other)
        pipe.link(Wire(source, double), Wire(double, sizes), Wire(sizes, [sink, other]))
        return pipe

    with make(folder / "processes") as pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    make(folder / "inline").run_inline()
    for suffix in ("", ".b"):
        there, here = ((folder / name).with_suffix(suffix) for name in ("processes", "inline"))
        assert received(here) == received(there)


class Sizes(BatchRoutine):
    """Sends each message with the size of its batch."""

    def main_logic(self, batch: list[Any]) -> list[Any]:
        return [(part, len(batch)) for part in batch]


class Doubles(BatchRoutine):
    def main_logic(self, batch: list[Any]) -> list[Any]:
        return [2 * part for part in batch]


def test_a_batch_is_full_or_there_is_no_more_for_it() -> None:
    keep = Keep()
    run(Items("source", range(10)), Sizes("sizes", batch_size=4, max_wait=60), keep)
    assert [size for _, size in keep.kept] == [4] * 8 + [2] * 2


def test_a_batch_is_not_waited_for_when_a_turn_of_the_sources_brings_nothing() -> None:
    class Pauses(SourceRoutine):
        calls = 0

        def main_logic(self) -> Any:
            self.calls += 1
            if self.calls > 9:
                raise EndOfStream
            return self.calls if self.calls in (1, 2, 7) else None

    keep = Keep()
    run(Pauses("source"), Sizes("sizes", batch_size=4), keep)
    assert keep.kept == [(1, 2), (2, 2), (7, 1)]


def test_joins_replicas_and_groups_of_flows() -> None:
    class Overlay(MiddleRoutine):
        join = Join(by="seq")

        def main_logic(self, data: dict[str, Any]) -> Any:
            return data["camera"], data["detector"]

    camera, detector, overlay, keep = Items("camera", range(9)), Apply("detector", lambda n: n * 10), Overlay("overlay"), Keep()
    pipe = Pipe()
    pipe.create_flow("camera", False, camera)
    pipe.create_flow("detect", False, detector, replicas=3, ordered=True)
    pipe.create_flow("show", True, overlay, keep)
    pipe.link(Wire(camera, [detector, overlay]), Wire(detector, overlay))
    statistics = pipe.run_inline()
    assert keep.kept == [(number, number * 10) for number in range(9)]
    assert set(statistics.routines) == {"camera", "detector", "overlay", "keep"}


# ---- ends ----------------------------------------------------------------------------------------


class Endless(SourceRoutine):
    def main_logic(self) -> int:
        return self.meta.sequence


def test_sources_end_after_so_many_messages_each() -> None:
    keep = Keep()
    one, other = Endless("one"), Endless("other")
    pipe = Pipe()
    pipe.create_flow("all", False, one, other, keep)
    pipe.link(Wire(one, keep), Wire(other, keep))
    pipe.run_inline(messages=3)
    assert keep.kept == [0, 0, 1, 1, 2, 2]


def test_sources_end_after_so_many_seconds_and_what_is_on_its_way_arrives() -> None:
    keep = Keep()
    statistics = run(Endless("source"), Forward("middle"), keep, timeout=0.05)
    assert keep.kept == list(range(len(keep.kept)))
    assert len(keep.kept) == statistics.routines["source"].sent > 0


def test_an_exception_ends_it_with_its_traceback_and_every_cleanup(caplog: pytest.LogCaptureFixture) -> None:
    log: Log = []

    class Fails(Logged):
        def main_logic(self, data: Any) -> Any:
            if data == "b":
                raise KeyError("on purpose")
            return super().main_logic(data)

        def cleanup(self) -> None:
            super().cleanup()
            raise OSError("cleanup fails")

    pipe = Pipe()
    chain(pipe, Items("source", "abc"), Logged("first", log), Fails("second", log), Keep())
    with pytest.raises(KeyError, match="on purpose") as caught:
        pipe.run_inline()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "main_logic"
    assert log[-2:] == [("first", "cleanup"), ("second", "cleanup")]
    assert "cleanup failed, too" in caplog.text


@pytest.mark.parametrize("where", ["setup", "cleanup"])
def test_setup_and_cleanup_errors_are_raised(where: str) -> None:
    class Fails(Forward):
        def setup(self) -> None:
            if where == "setup":
                raise OSError("setup fails")

        def cleanup(self) -> None:
            raise OSError("cleanup fails")

    with pytest.raises(OSError, match=f"{where} fails"):
        run(Items("source", "a"), Fails("fails"), Keep())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_it_after_every_cleanup(kind: type[BaseException]) -> None:
    class Ends(DestinationRoutine):
        def main_logic(self, data: Any) -> None:
            raise kind

    log: Log = []
    with pytest.raises(kind):
        run(Items("source", "a"), Logged("middle", log), Ends("ends"))
    assert log == [("middle", "setup"), ("middle", "a"), ("middle", "cleanup")]


def interrupt_after(monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> None:
    """Has a Ctrl-C arrive when this method has done its work for the first time."""
    real = vars(owner)[method]

    def call(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        result = real.__get__(None, owner)(*arguments, **options)
        signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(owner, method, staticmethod(call) if isinstance(real, classmethod) else call)


MOMENTS = [
    (ControlSegment, "create"),
    (ControlSegment, "open"),
    (InlineRunner, "__init__"),
    (InlineRunner, "discard"),
    (ControlSegment, "close"),
    (ControlSegment, "unmap"),
]


@pytest.mark.parametrize(("owner", "method"), MOMENTS)
def test_an_interrupt_while_memory_comes_and_goes_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    """The check after each test sees to segments, descriptors and mappings."""
    camera, keep = Frames("camera", 2), Keep()
    pipe = Pipe()
    chain(pipe, camera, keep)
    interrupt_after(monkeypatch, owner, method)
    with pytest.raises(KeyboardInterrupt):
        pipe.run_inline()
    assert (camera._runtime, keep._runtime) == (None, None)
    keep.kept.clear()
    camera.next = 0
    pipe.run_inline()
    assert [int(frame.max()) for frame in keep.kept] == [0, 1]


def test_an_interrupt_before_the_memory_goes_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = stage.Stage.close

    def close(self: stage.Stage) -> None:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)
        real(self)

    camera = Frames("camera", 2)
    monkeypatch.setattr(stage.Stage, "close", close)
    with pytest.raises(KeyboardInterrupt):
        run(camera, Sink("sink"))
    assert camera._runtime is None
    harness = RoutineHarness(Forward("forward"))
    monkeypatch.setattr(stage.Stage, "close", close)
    with pytest.raises(KeyboardInterrupt), harness:
        harness.send(1)
    assert (harness.routine.flow_name, harness.routine._runtime) == (None, None)


def test_memory_that_was_unmapped_is_forgotten_though_an_interrupt_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = Keep()
    run(Frames("camera", 2), keep)
    assert stage._lingering, "the frames that are kept hold it"
    keep.kept.clear()
    interrupt_after(monkeypatch, ControlSegment, "unmap")
    with pytest.raises(KeyboardInterrupt):
        stage.unmap_lingering()
    assert stage._lingering == []


def test_too_little_memory_is_said_and_leaves_nothing() -> None:
    pipe, camera = Pipe(memory_budget=4096), Frames("camera", 1)
    camera.declare_output((1000, 1000))
    chain(pipe, camera, Keep())
    with pytest.raises(SharedMemoryFull, match="camera"):
        pipe.run_inline()


def test_breakpoint_stops_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    stops: list[tuple[int, str]] = []
    monkeypatch.setattr(sys, "breakpointhook", lambda: stops.append((os.getpid(), threading.current_thread().name)))

    class Stops(DestinationRoutine):
        def main_logic(self, data: Any) -> None:
            breakpoint()

    run(Items("source", "ab"), Stops("stops"))
    assert stops == [(os.getpid(), "MainThread")] * 2


def test_what_would_wait_for_a_slot_for_ever_is_an_error() -> None:
    class Hoards(MiddleRoutine):
        def setup(self) -> None:
            self.loans: list[np.ndarray] = []

        def main_logic(self, data: Any) -> Any:
            self.loans.append(self.loan((64, 64)))
            return np.zeros((64, 64))

    with pytest.raises(RoutineError, match="no free slot"):
        run(Endless("source"), Hoards("hoards"), Keep(), messages=1000)


def test_rates_are_not_kept() -> None:
    source, keep = Items("source", range(5)), Keep()
    source.set_const_fps(0.5)
    began = time.monotonic()
    run(source, keep)
    assert keep.kept == [0, 1, 2, 3, 4]
    assert time.monotonic() - began < 2


# ---- events --------------------------------------------------------------------------------------


class Steered(MiddleRoutine):
    """Adds what the last event said; notifies events when it gets a str."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.offset = 0
        self.called: list[str] = []

    def main_logic(self, data: Any) -> Any:
        if isinstance(data, str):
            self.notify_event(data, specific_routine=self.name if data in ("stop", "start") else None)
            return None
        return data + self.offset

    @events("offset")
    def set_offset(self, by: int = 100) -> None:
        self.offset = by

    @events("kill")
    def note_kill(self) -> None:
        self.called.append("kill")


def test_events_arrive_before_the_next_call() -> None:
    keep = Keep()
    pipe = Pipe()
    chain(pipe, Items("source", [1, "offset", 1]), Steered("middle"), keep)
    pipe.notify_event("offset", by=10)
    pipe.run_inline()
    assert keep.kept == [11, 101]


def test_an_unknown_event_is_raised_where_it_is_notified() -> None:
    with pytest.raises(UnknownEvent, match="ofset"):
        run(Items("source", [1, "ofset", 1]), Steered("middle"), Keep())


def test_kill_ends_it() -> None:
    middle, keep = Steered("middle"), Keep()
    run(Items("source", [1, "kill", 2]), middle, keep)
    assert keep.kept == [1]
    assert middle.called == ["kill"]


def test_a_stop_is_obeyed_and_it_ends_when_nothing_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    keep = Keep()
    run(Items("source", [1, "stop", 2, 3, 4, 5]), Steered("middle"), keep)
    assert keep.kept == [1]
    assert "'source', 'keep' had not" in caplog.text


def test_a_start_that_follows_a_stop_is_not_lost(tmp_path: Path) -> None:
    class Restarts(Record):
        def main_logic(self, data: Any) -> None:
            super().main_logic(data)
            if data == 2:
                self.notify_event("stop")
                self.notify_event("start")

    def make(name: str) -> tuple[Pipe, Record]:
        pipe, sink = Pipe(policy="block"), Restarts("sink", tmp_path / name)
        chain(pipe, Items("source", range(5)), sink)
        return pipe, sink

    there, record = make("processes")
    with there:
        there.build()
        there.notify_event(START_EVENT_NAME)
    assert [message.value for message in received(record.path)] == [0, 1, 2, 3, 4]
    here, record = make("inline")
    statistics = here.run_inline()
    assert [message.value for message in received(record.path)] == [0, 1, 2, 3, 4]
    assert {routine.state for routine in statistics.routines.values()} == {"ended"}


def test_after_the_timeout_a_source_that_is_started_again_makes_nothing() -> None:
    class Restarts(Keep):
        def main_logic(self, data: Any) -> None:
            super().main_logic(data)
            if len(self.kept) == 1:
                time.sleep(0.05)  # past the time-out
                self.notify_event("stop")
                self.notify_event("start")

    keep = Restarts()
    statistics = run(Items("source", range(5)), keep, timeout=0.04)
    assert keep.kept == [0]
    assert statistics.routines["source"].sent == 1
    assert {routine.state for routine in statistics.routines.values()} == {"ended"}


def test_messages_that_wait_for_a_stopped_routine_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    run(Items("source", [1, "stop", 2]), Steered("middle"), Keep())
    assert "'middle' is left stopped, with messages that wait for it" in caplog.text
    caplog.clear()
    run(Items("source", [1, "stop"]), Steered("middle"), Keep())
    assert "messages that wait" not in caplog.text


def test_events_that_change_wires_say_that_they_do_not(caplog: pytest.LogCaptureFixture) -> None:
    pipe, keep = Pipe(), Keep()
    chain(pipe, Items("source", [1]), Forward("middle"), keep)
    pipe.notify_event("unlink", specific_routine="middle", unlink_routine_name="keep")
    pipe.run_inline()
    assert keep.kept == [1]
    assert "the event 'unlink' changes no wire" in caplog.text


# ---- the pipe before and after -------------------------------------------------------------------


def test_a_pipe_can_run_again_inline_and_in_processes(tmp_path: Path) -> None:
    record = Record("sink", tmp_path / "received")
    with Pipe(policy="block") as pipe:
        chain(pipe, Frames("source", 3), Apply("middle", one_value), record)
        for _ in range(2):
            pipe.run_inline()
            pipe.flows["source"].routines["source"].next = 0  # type: ignore[attr-defined]
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    assert [message.value for message in received(record.path)] == [0, 1, 2] * 3
    with pytest.raises(PipeStateError, match="has ended"):
        pipe.run_inline()


def test_leaving_the_block_after_it_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with Pipe() as pipe:
        chain(pipe, Items("source", "a"), Keep())
        pipe.run_inline()
    assert caplog.text == ""


def test_a_pipe_that_is_built_after_it_and_never_started_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with Pipe() as pipe:
        chain(pipe, Items("source", "a"), Keep())
        pipe.run_inline()
        pipe.build()
    assert "the pipe was built, but never started" in caplog.text


def test_build_is_refused_while_it_runs() -> None:
    pipe = Pipe()

    class Builds(DestinationRoutine):
        def main_logic(self, data: Any) -> None:
            pipe.build()

    chain(pipe, Items("source", "a"), Builds("builds"))
    with pytest.raises(PipeStateError, match=re.escape("build(): the pipe is in run_inline()")):
        pipe.run_inline()


def test_what_build_refuses_is_refused() -> None:
    with pytest.raises(RoutineError, match="has no main_logic"):
        run(SourceRoutine("source"), Keep())
    pipe = Pipe()
    one, other = Forward("one"), Forward("other")
    chain(pipe, Items("source", []), one, other, Keep())
    pipe.link(Wire(other, one))
    with pytest.raises(WiresValidation, match="cycle"):
        pipe.run_inline()
    for limits in ({"messages": 0}, {"timeout": -1}):
        with pytest.raises(ValueError, match=next(iter(limits))):
            run(Items("source", []), Keep(), **limits)


def test_it_is_refused_while_it_runs_and_when_it_is_built() -> None:
    pipe = Pipe()

    class Nests(DestinationRoutine):
        def main_logic(self, data: Any) -> None:
            pipe.run_inline()

    chain(pipe, Items("source", "a"), Nests("nests"))
    with pytest.raises(PipeStateError, match="runs already"):
        pipe.run_inline()
    with pipe:
        pipe.build()
        with pytest.raises(PipeStateError, match="is built"):
            pipe.run_inline()
        pipe.join(to_kill=True)
