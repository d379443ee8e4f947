"""RoutineHarness: a routine on the test's thread gets, does and sends what it does in a pipe."""

from __future__ import annotations

import gc
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterable
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
    FPSRoutine,
    Join,
    MiddleRoutine,
    PayloadError,
    PerOrigin,
    Pipe,
    PipertError,
    PipeStateError,
    Routine,
    RoutineError,
    SourceRoutine,
    UnknownEvent,
    events,
    from_callable,
    writable,
)
from pipert_shm.testing import Notification, RoutineHarness
from pipert_shm.testing.leftovers import Possessions
from routines import Forward, Frames, Items, Record, chain, received

FRAME = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)


def description(payload: Any) -> Any:
    """What can be said of a payload, arrays with their flags."""
    if isinstance(payload, np.ndarray):
        flags = payload.flags
        return payload.tolist(), str(payload.dtype), payload.shape, flags.writeable, flags.c_contiguous, flags.f_contiguous
    if isinstance(payload, dict):
        return {key: description(value) for key, value in payload.items()}
    if isinstance(payload, list | tuple):
        return type(payload).__name__, [description(value) for value in payload]
    return payload


def in_pipe(routine: Routine, payloads: Iterable[Any], path: Path) -> list[Any]:
    """What a middle routine sends in a pipe that sends it these, described."""
    pipe = Pipe(policy="block")
    chain(pipe, Items("source", payloads), routine, Record("sink", path, description))
    with pipe:
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
    return [message.value for message in received(path)]


# ---- the same as in a pipe -----------------------------------------------------------------------


class Witness(MiddleRoutine):
    """Sends what it sees of a message, and the message itself."""

    replicable = False

    def setup(self) -> None:
        self.count = self.per_origin(int)

    def main_logic(self, data: Any) -> Any:
        self.count[self.meta.origin] += 1
        hops = [hop.routine for hop in self.meta.hops]
        seen = self.meta.origin, self.meta.sequence, self.meta.pts, hops, self.count[self.meta.origin]
        return {"seen": seen, "got": description(data), "data": data}


def arrays() -> st.SearchStrategy[np.ndarray]:
    shapes = st.lists(st.integers(0, 40), min_size=1, max_size=3).map(tuple)
    kinds = st.sampled_from(["u1", "i4", "f8", "?"])
    orders = st.sampled_from([lambda a: a, lambda a: a.T, lambda a: a[::2], np.asfortranarray])
    return st.builds(lambda shape, kind, order: order(np.ones(shape, kind)), shapes, kinds, orders)


PAYLOADS = st.recursive(
    st.one_of(arrays(), st.integers(), st.text(max_size=5), st.binary(max_size=20), st.just(FRAME)),
    lambda parts: st.one_of(
        st.lists(parts, max_size=3), st.tuples(parts, parts), st.dictionaries(st.text(max_size=3), parts, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=8, phases=[Phase.generate])  # each runs a pipe: shrinking would take minutes
@given(payloads=st.lists(PAYLOADS, min_size=1, max_size=4))
def test_a_routine_sees_and_sends_what_it_does_in_a_pipe(tmp_path_factory: pytest.TempPathFactory, payloads: list[Any]) -> None:
    path = tmp_path_factory.mktemp("pipe") / "received"
    with RoutineHarness(Witness("witness")) as harness:
        results = harness.run(payloads)
    assert [description(result) for result in results] == in_pipe(Witness("witness"), payloads, path)


class Draws(MiddleRoutine):
    """Sends whether it could draw on the frame itself, and the frame that it drew on."""

    def main_logic(self, frame: np.ndarray) -> Any:
        with pytest.raises(ValueError, match="read-only"):
            frame[0] = 1
        drawing = writable(frame)
        before = drawing.copy()
        drawing[0] = 255
        return bool((frame[0] == 255).all()), bool((before == FRAME).all()), drawing


def test_received_frames_are_read_only_and_writable_gives_their_memory(tmp_path: Path) -> None:
    with RoutineHarness(Draws("draws")) as harness:
        in_place, whole, drawing = harness.send(FRAME)
    assert (in_place, whole) == (True, True)
    assert (drawing[0] == 255).all()
    assert not drawing.flags.writeable
    assert FRAME[0].max() < 255, "the test's own array was written to"
    assert [parts[:2] for _, parts in in_pipe(Draws("draws"), [FRAME], tmp_path / "received")] == [[True, True]]


class Loans(MiddleRoutine):
    def main_logic(self, number: int) -> Any:
        frame = self.loan((100, 100), np.uint16)
        frame[...] = number
        self.last = frame
        return {"frame": frame}


def test_a_loan_is_sent_where_it_lies_and_turns_read_only() -> None:
    before = Possessions()
    with RoutineHarness(Loans("loans")) as harness:
        results = harness.run(range(20))
        assert not harness.routine.last.flags.writeable  # type: ignore[attr-defined]
        assert harness.statistics().copied_bytes == 0
    harness.routine.last = None  # type: ignore[attr-defined]
    assert before.left_after(1.0) == [], "results stand on memory of the harness"
    assert [int(result["frame"][99, 99]) for result in results] == list(range(20)), "results can all be kept"
    assert harness.routine.loan((2, 2)).flags.owndata


class Hoards(MiddleRoutine):
    """Never lets go of what it loans; sends a loan, or an array of its own."""

    def __init__(self, sends: str) -> None:
        super().__init__("hoards")
        self.sends = sends
        self.loans: list[np.ndarray] = []

    def main_logic(self, count: int) -> Any:
        self.loans += [self.loan((64, 64)) for _ in range(count)]
        return self.loan((64, 64)) if self.sends == "loan" else np.zeros((64, 64), np.uint8)


def count_slots() -> int:
    """How many loans the routine can have at a time."""
    routine = Hoards("loan")
    with RoutineHarness(routine) as harness, pytest.raises(RoutineError, match=re.escape("loan(): there is no free slot.")):
        harness.send(1000)
    with RoutineHarness(routine) as harness:
        for count in range(1000):
            routine.loans = []
            try:
                harness.send(count)
            except RoutineError:
                return count
    raise AssertionError("there is no end of slots")


@pytest.mark.parametrize("sends", ["loan", "array"])
def test_what_would_wait_for_a_slot_for_ever_is_an_error(sends: str) -> None:
    slots = count_slots()
    with RoutineHarness(Hoards(sends)) as harness:
        assert harness.send(slots - 1) is not None
        with pytest.raises(RoutineError, match="no free slot"):
            harness.send(1)
        harness.routine.loans = []  # type: ignore[attr-defined]
        assert harness.send(0) is not None


def test_a_harness_in_a_harness() -> None:
    class Nests(MiddleRoutine):
        def main_logic(self, frame: np.ndarray) -> Any:
            with RoutineHarness(Draws("inner")) as inner:
                assert inner.send(FRAME)[:2] == (True, True)
            drawing = writable(frame)
            drawing[0] = 255
            return bool((frame[0] == 255).all())

    with RoutineHarness(Nests("outer")) as harness:
        assert harness.send(FRAME) is True


class Keeps(MiddleRoutine):
    def setup(self) -> None:
        self.kept: list[np.ndarray] = []

    def main_logic(self, frame: np.ndarray) -> int:
        self.kept.append(frame)
        return sum(int(kept[0, 0, 0]) for kept in self.kept)


def test_frames_that_a_routine_keeps_stay_as_they_are_also_after_the_harness() -> None:
    routine = Keeps("keeps")
    with RoutineHarness(routine) as harness:
        sums = harness.run(np.full((64, 64, 3), number, np.uint8) for number in range(30))
    assert sums == [sum(range(number + 1)) for number in range(30)]
    assert [int(frame.max()) for frame in routine.kept] == list(range(30))


def test_meta_is_what_the_test_says() -> None:
    class Tells(MiddleRoutine):
        def main_logic(self, data: Any) -> Any:
            meta = self.meta
            return meta.origin, meta.sequence, meta.pts, meta.capture_time, [hop.routine for hop in meta.hops]

    then = time.time() - 5
    with RoutineHarness(Tells("tells")) as harness:
        assert harness.send(0)[:3] == ("source", 0, None)
        assert harness.send(0)[:3] == ("source", 1, None)
        origin, sequence, pts, captured, hops = harness.send(0, origin="door", sequence=7, pts=0.28, capture_time=then)
        assert (origin, sequence, pts, hops) == ("door", 7, 0.28, ["tells"])
        assert captured == pytest.approx(then, abs=0.05)
        assert harness.send(0, origin="yard")[:2] == ("yard", 0)
        meta = harness.outputs[-2].meta
        assert (meta.origin, meta.sequence, meta.pts) == ("door", 7, 0.28)
        assert meta.capture_time == pytest.approx(then, abs=0.05)


# ---- the roles -----------------------------------------------------------------------------------


def test_a_source_makes_messages_until_it_ends() -> None:
    with RoutineHarness(Frames("camera", 5, loan=True)) as harness:
        assert [int(frame.max()) for frame in harness.take(3)] == [0, 1, 2]
        assert not harness.ended
        assert [int(frame.max()) for frame in harness.take(9)] == [3, 4]
        assert harness.ended
        with pytest.raises(PipeStateError, match="is ended"):
            harness.take(1)
    assert [output.meta.sequence for output in harness.outputs] == [0, 1, 2, 3, 4]
    assert {output.meta.origin for output in harness.outputs} == {"camera"}


def test_a_source_that_makes_nothing_runs_out_of_time() -> None:
    class Silent(SourceRoutine):
        def main_logic(self) -> None:
            time.sleep(0.001)

    with RoutineHarness(Silent("silent"), timeout=0.05) as harness, pytest.raises(TimeoutError, match="made 0 of 1"):
        harness.take(1)


def test_a_destination_takes_messages() -> None:
    class Adds(DestinationRoutine):
        total = 0

        def main_logic(self, data: int) -> None:
            self.total += data

    routine = Adds("adds")
    with RoutineHarness(routine) as harness:
        assert harness.run([1, 2, 3]) == []
        assert harness.send(4) is None
    assert routine.total == 10


def test_a_routine_whose_class_does_not_say_its_role_gets_it() -> None:
    class Counts(FPSRoutine):
        def main_logic(self, data: Any = None) -> Any:
            return self.meta.sequence if data is None else data + 1

    with RoutineHarness(Counts("middle")) as harness:
        assert harness.send(4) == 5
    with RoutineHarness(Counts("source"), role="source") as harness:
        assert harness.take(3) == [0, 1, 2]
    with RoutineHarness(from_callable(str.upper)) as harness:
        assert harness.run(["a", "b"]) == ["A", "B"]


class Sizes(BatchRoutine):
    """Sends for each message how many were in its batch; nothing for None."""

    def main_logic(self, batch: list[Any]) -> list[Any]:
        assert len(self.metas) == len(batch)
        return [None if part is None else (part, len(batch)) for part in batch]


def test_batches_are_as_large_as_the_routine_takes() -> None:
    with RoutineHarness(Sizes("sizes", batch_size=4, max_wait=5.0)) as harness:
        began = time.monotonic()
        assert harness.run(range(6)) == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 2), (5, 2)]
        assert harness.run([7, None]) == [(7, 2)]
        assert harness.send(8) == (8, 1)
        assert time.monotonic() - began < 5.0, "a batch waited for more"
    assert [output.meta.sequence for output in harness.outputs] == [0, 1, 2, 3, 4, 5, 6, 8]


def test_a_batch_with_a_wrong_number_of_results_is_an_error() -> None:
    class Wrong(BatchRoutine):
        def main_logic(self, batch: list[Any]) -> list[Any]:
            return batch[1:]

    with RoutineHarness(Wrong("wrong")) as harness, pytest.raises(RoutineError, match="a list of 2 results is wanted"):
        harness.run([1, 2])


class Overlay(MiddleRoutine):
    join = Join(by="seq", depth=3)

    def main_logic(self, data: dict[str, Any]) -> Any:
        return [*data.items()], [meta.origin for meta in self.metas]


def test_a_join_gets_a_message_of_each_sender() -> None:
    with RoutineHarness(Overlay("overlay"), senders=["camera", "boxes"]) as harness:
        assert harness.send({"boxes": 2, "camera": 1}) == ([("camera", 1), ("boxes", 2)], ["camera", "boxes"])
        assert harness.send(3, sender="camera") is None
        assert harness.send(5, sender="camera", origin="camera") is None
        assert harness.send(6, sender="boxes", sequence=2) == ([("camera", 5), ("boxes", 6)], ["camera", "boxes"])
    assert len(harness.outputs) == 2


def test_what_a_join_gets_together_belongs_together_whatever_its_origin() -> None:
    with RoutineHarness(Overlay("overlay"), senders=["camera", "boxes"]) as harness:
        sets = [{"camera": number, "boxes": -number} for number in range(3)]
        results = harness.run(sets, origin="door")
    assert results == [([("camera", number), ("boxes", -number)], ["door", "door"]) for number in range(3)]


def test_what_a_join_gets_together_belongs_together_though_one_sender_has_sent_more() -> None:
    with RoutineHarness(Overlay("overlay"), senders=["camera", "boxes"]) as harness:
        assert harness.send(0, sender="camera") is None
        together = harness.send({"camera": 1, "boxes": 2})
        assert together == ([("camera", 1), ("boxes", 2)], ["camera", "boxes"])
        assert harness.send(3, sender="boxes") is None
        assert harness.send(4, sender="camera") == ([("camera", 4), ("boxes", 3)], ["camera", "boxes"])
    assert [output.meta.sequence for output in harness.outputs] == [1, 2]


def test_a_message_has_the_number_after_the_last_one_of_its_origin() -> None:
    with RoutineHarness(Careful()) as harness:
        for sequence in (None, 7, None):
            harness.send("a", sequence=sequence)
        harness.send("a", origin="door")
    assert [output.meta.sequence for output in harness.outputs] == [0, 7, 8, 0]


# ---- life and errors -----------------------------------------------------------------------------


class Careful(MiddleRoutine):
    """Notes what is called; fails on "bad"."""

    counter_names = ("handled",)

    def __init__(self, name: str = "careful", fails_in: str = "") -> None:
        super().__init__(name)
        self.called: list[str] = []
        self.fails_in = fails_in

    def note(self, what: str) -> None:
        self.called.append(what)
        assert threading.current_thread() is threading.main_thread()
        if self.fails_in == what:
            raise OSError(f"{what} fails")

    def setup(self) -> None:
        self.note("setup")

    def cleanup(self) -> None:
        self.note("cleanup")

    def main_logic(self, data: Any) -> Any:
        if data == "end":
            raise EndOfStream
        if data == "bad":
            raise KeyError(data)
        self.counters["handled"] += 1
        return data

    @events("zoom")
    def zoom(self, factor: float, at: str = "centre") -> None:
        self.note(f"zoom {factor} {at}")
        self.notify_event("zoomed", {"show": ["screen"]}, factor=factor)

    @events("loan")
    def ask_for_a_loan(self) -> None:
        self.loan((4, 4))

    @events("kill")
    def note_kill(self) -> None:
        self.note("kill")


def test_setup_and_cleanup_are_called_and_the_routine_is_free_afterwards() -> None:
    routine = Careful()
    for _ in range(2):
        with RoutineHarness(routine) as harness:
            assert routine.called == ["setup"]
            assert harness.run(["a", "b"]) == ["a", "b"]
        assert routine.called == ["setup", "kill", "cleanup"]
        assert dict(routine.counters) == {"handled": 2}
        routine.called.clear()
    assert routine.flow_name is None
    with pytest.raises(PipeStateError, match="is in no pipe yet"):
        routine.notify_event("zoomed")
    with pytest.raises(PipeStateError, match="not in use"):
        harness.send("c")
    pipe = Pipe()
    chain(pipe, Items("source", []), routine, Forward("next"))


def test_what_main_logic_raises_is_raised_with_its_traceback_and_the_routine_goes_on() -> None:
    with RoutineHarness(Careful()) as harness:
        with pytest.raises(KeyError, match="bad") as caught:
            harness.run(["a", "bad", "c"])
        last = traceback.extract_tb(caught.value.__traceback__)[-1]
        assert (last.name, last.line) == ("main_logic", "raise KeyError(data)")
        if hasattr(caught.value, "__notes__"):
            assert "routine 'careful' of flow 'harness': main_logic failed on message 1" in caught.value.__notes__[0]
        assert harness.send("d") == "d"
        assert [output.payload for output in harness.outputs] == ["a", "d"]
        assert harness.statistics().errors == 1
    assert harness.routine.called == ["setup", "kill", "cleanup"]  # type: ignore[attr-defined]


def test_a_payload_that_can_not_be_sent_is_an_error_as_in_a_pipe() -> None:
    with RoutineHarness(from_callable(lambda data: threading.Lock(), "locks")) as harness:
        with pytest.raises(PayloadError, match="locks"):
            harness.send(1)
        with pytest.raises(PayloadError):
            harness.send(threading.Lock())
        assert harness.outputs == []


@pytest.mark.parametrize("where", ["setup", "cleanup", "kill"])
def test_what_setup_and_cleanup_raise_is_raised(where: str) -> None:
    routine = Careful(fails_in=where)
    with pytest.raises(OSError, match=f"{where} fails"), RoutineHarness(routine) as harness:
        harness.send("a")
    assert routine.called == {"setup": ["setup"]}.get(where, ["setup", "kill", "cleanup"])
    assert routine.flow_name is None


def test_cleanup_is_called_when_the_test_fails_and_its_own_failure_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    routine = Careful(fails_in="cleanup")
    with pytest.raises(ZeroDivisionError), RoutineHarness(routine):
        raise ZeroDivisionError
    assert routine.called == ["setup", "cleanup"]
    assert "cleanup failed, too" in caplog.text


def test_a_routine_that_ends_takes_nothing_more_until_it_is_started() -> None:
    with RoutineHarness(Careful()) as harness:
        assert harness.run(["a", "end", "b"]) == ["a"]
        assert harness.ended
        with pytest.raises(PipeStateError, match=re.escape("is ended, and takes nothing until harness.notify('start')")):
            harness.send("c")
        harness.notify("start")
        assert harness.send("d") == "d"
    assert harness.routine.called == ["setup", "cleanup", "setup", "kill", "cleanup"]  # type: ignore[attr-defined]


def test_the_memory_goes_with_the_last_view_of_it() -> None:
    """The check after each test sees to the rest."""
    routine = Keeps("keeps")
    with RoutineHarness(routine) as harness:
        harness.send(FRAME)
        pipe_id = harness._running().stage._segment.pipe_id
    frame = routine.kept[0]
    del routine, harness
    gc.collect()
    assert int(frame.sum()) == int(FRAME.sum())
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(f"pipert-{pipe_id}-")]


# ---- events --------------------------------------------------------------------------------------


def test_events_reach_the_handlers_and_what_they_notify_is_recorded() -> None:
    with RoutineHarness(Careful()) as harness:
        harness.notify("zoom", factor=2.0, at="left")
        harness.notify("zoom", factor=3.0)
        assert harness.routine.called == ["setup", "zoom 2.0 left", "zoom 3.0 centre"]  # type: ignore[attr-defined]
        assert harness.notified[0] == Notification("zoomed", {"show": ["screen"]}, None, {"factor": 2.0})
        assert len(harness.notified) == 2


def test_events_are_checked_as_in_a_pipe() -> None:
    pipe, routine = Pipe(), Careful("in the pipe")
    chain(pipe, Items("source", []), routine, Forward("next"), Record("sink", Path("/dev/null")))
    with pipe, RoutineHarness(Careful("in the pipe")) as harness:
        pipe.build()
        wrong: list[tuple[str, dict[str, Any]]] = [("zom", {}), ("zoom", {}), ("stop", {"when": 1})]
        for name, parameters in [*wrong, ("zoom", {"factor": threading.Lock()})]:
            with pytest.raises((UnknownEvent, PayloadError)) as expected:
                pipe.notify_event(name, specific_routine="in the pipe", **parameters)
            with pytest.raises(type(expected.value)) as caught:
                harness.notify(name, **parameters)
            assert str(caught.value) == str(expected.value)
        pipe.join(to_kill=True)


def test_what_a_handler_raises_is_raised_and_a_loan_in_it_is_refused() -> None:
    with RoutineHarness(Careful(fails_in="zoom 1 centre")) as harness:
        with pytest.raises(OSError, match="zoom 1 centre fails"):
            harness.notify("zoom", factor=1)
        with pytest.raises(RoutineError, match="belongs to the routine's own thread"):
            harness.notify("loan")
        assert harness.send("a") == "a"


def test_stop_start_and_kill() -> None:
    with RoutineHarness(Careful()) as harness:
        harness.notify("stop")
        with pytest.raises(PipeStateError, match="is stopped"):
            harness.send("a")
        harness.notify("start")
        harness.notify("start")
        assert harness.send("b") == "b"
        harness.notify("kill")
        with pytest.raises(PipeStateError, match="is stopped"):
            harness.send("c")
    called = ["setup", "cleanup", "setup", "kill", "cleanup", "kill"]
    assert harness.routine.called == called  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["link", "unlink"])
def test_there_are_no_wires_to_change(name: str) -> None:
    with RoutineHarness(Careful()) as harness, pytest.raises(ValueError, match="has no wires"):
        harness.notify(name, **{f"{name}_routine_name": "source"})


# ---- what can't be -------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no routine": (lambda: RoutineHarness(Careful), TypeError, "takes a routine"),  # type: ignore[arg-type]
    "another role": (lambda: RoutineHarness(Careful(), role="source"), ValueError, "is a middle"),
    "an unknown role": (lambda: RoutineHarness(from_callable(len), role="sink"), ValueError, "sink"),  # type: ignore[arg-type]
    "a join of nobody": (lambda: RoutineHarness(Overlay("o")), ValueError, "name those who send to it"),
    "one name": (lambda: RoutineHarness(Overlay("o"), senders="ab"), ValueError, "must be a list"),
    "a name twice": (lambda: RoutineHarness(Overlay("o"), senders=["a", "a"]), ValueError, "different names"),
    "senders of a source": (lambda: RoutineHarness(Frames("f", 1), senders=["a"]), ValueError, "has no senders"),
    "no time": (lambda: RoutineHarness(Careful(), timeout=-1), ValueError, "timeout"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_can_not_be_run_is_said_at_once(case: str) -> None:
    make, error, text = WRONG[case]
    with pytest.raises(error, match=text):
        make()


def test_a_routine_of_a_pipe_is_refused() -> None:
    pipe, routine = Pipe(), Careful()
    early = RoutineHarness(routine)
    pipe.create_flow("flow", False, routine)
    with pytest.raises(PipertError, match="is in flow 'flow' already"):
        RoutineHarness(routine)
    with pytest.raises(PipertError, match="is in flow 'flow' already"), early:
        pass
    assert routine.flow_name == "flow"


def test_build_errors_are_raised_at_the_beginning() -> None:
    harness = RoutineHarness(MiddleRoutine("nothing"))
    with pytest.raises(RoutineError, match="has no main_logic"), harness:
        pass
    with RoutineHarness(Careful()) as used, pytest.raises(PipeStateError, match="in use already"), used:
        pass


def test_wrong_messages_are_refused() -> None:
    with RoutineHarness(Careful()) as harness:
        with pytest.raises(ValueError, match="there is no sender 'camera'"):
            harness.send(1, sender="camera")
        with pytest.raises(ValueError, match="before this machine was started"):
            harness.send(1, capture_time=0.0)
        with pytest.raises(TypeError, match="is no source"):
            harness.take(1)
    with RoutineHarness(Frames("camera", 1)) as harness, pytest.raises(TypeError, match="is a source"):
        harness.send(1)
    with RoutineHarness(Overlay("o"), senders=["a", "b"]) as harness, pytest.raises(ValueError, match="a dict of a payload"):
        harness.send({"a": 1, "c": 2})


WRONG_PLACES: list[tuple[str, list[Any]]] = [
    ("sequence", [-1, 1.5, "a", True, 1 << 64]),
    ("pts", [float("nan"), float("inf"), "x", 10**30, -(10**30)]),
    ("capture_time", [float("nan"), float("inf"), float("-inf"), "x", 10**30, -1]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG_PLACES for value in values])
def test_a_place_in_time_that_can_not_be_is_refused(name: str, value: Any) -> None:
    with RoutineHarness(Careful()) as harness:
        with pytest.raises(ValueError, match=f"^{name} must be .*, not "):
            harness.send("a", **{name: value})
        assert harness.outputs == []
        assert harness.send("b") == "b"


def test_numbers_of_numpy_are_numbers() -> None:
    place: dict[str, Any] = {"sequence": np.int64(7), "pts": np.float32(0.5), "capture_time": np.float64(time.time())}
    with RoutineHarness(Careful()) as harness:
        harness.send("a", **place)
        meta = harness.outputs[0].meta
    assert (meta.sequence, meta.pts) == (7, 0.5)


def test_per_origin_keeps_cameras_apart() -> None:
    class Counts(MiddleRoutine):
        seen: PerOrigin[int]

        def setup(self) -> None:
            self.seen = self.per_origin(int)

        def main_logic(self, data: Any) -> int:
            self.seen[self.meta.origin] += 1
            return self.seen[self.meta.origin]

    with RoutineHarness(Counts("counts")) as harness:
        assert [harness.send(0, origin=origin) for origin in "abaab"] == [1, 1, 2, 3, 2]
