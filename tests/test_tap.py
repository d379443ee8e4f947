"""Taps: a routine's newest outputs, in the process that built the pipe."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm import (
    KILL_EVENT_NAME,
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    DestinationRoutine,
    EndOfStream,
    Pipe,
    PipeFailed,
    PipeStateError,
    Routine,
    SourceRoutine,
    Tap,
    UnknownTarget,
    Wire,
)
from routines import Forward, Frames, Items, Record, Sink, chain, one_value, received
from waiting import Board, eventually

GATE, SENT = 0, 1


class OnDemand(SourceRoutine):
    """Sends frame number n as soon as the board's gate is past n; ends at `until`."""

    def __init__(self, board: Board, until: int | None = None, shape: tuple[int, ...] = (60, 80, 3)) -> None:
        super().__init__("camera")
        self.board = board
        self.until = until
        self.shape = shape
        self.next = 0

    def main_logic(self) -> Any:
        self.board[SENT] = self.next  # the one before has gone out on all wires
        if self.next == self.until:
            raise EndOfStream
        if self.board[GATE] <= self.next:
            time.sleep(0.0005)
            return None
        frame = self.loan(self.shape)
        frame[...] = self.next % 251
        self.next += 1
        return frame


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture(params=["within", "across"])
def pipe(request: pytest.FixtureRequest, board: Board) -> Iterator[Pipe]:
    """A camera on demand, and a screen, in one flow or in two; built but not started."""
    pipe = Pipe(policy="block", grace_period=2)
    camera, screen = OnDemand(board), Sink("screen")
    if request.param == "across":
        chain(pipe, camera, screen)
    else:
        pipe.create_flow("flow", True, camera, screen)
    pipe.build()
    yield pipe
    pipe.join(to_kill=True)


def test_a_tap_that_is_made_before_the_start_misses_nothing_that_it_has_time_for(pipe: Pipe, board: Board) -> None:
    tap = pipe.tap("camera")
    pipe.notify_event(START_EVENT_NAME)
    for number in range(20):
        board[GATE] = number + 1
        assert one_value(tap.read(timeout=10)) == number
        assert tap.meta is not None
        assert (tap.meta.origin, tap.meta.sequence) == ("camera", number)
    tap.close()


def test_a_tap_gives_the_newest(pipe: Pipe, board: Board) -> None:
    pipe.notify_event(START_EVENT_NAME)
    with pipe.tap("camera") as tap:
        board[GATE] = 50
        board.wait(SENT, 50)
        assert one_value(tap.read(timeout=10)) == 49
        with pytest.raises(TimeoutError, match=r"0\.05 s"):
            tap.read(timeout=0.05)
        with pytest.raises(TimeoutError):
            tap.read(timeout=0)
        board[GATE] = 51
        assert one_value(tap.read(timeout=10)) == 50


def test_a_tap_never_slows_the_pipe(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    source, record = Frames("source", 1000, (40, 40, 3), loan=True), Record("record", tmp_path / "r", one_value)
    chain(pipe, source, record)
    pipe.build()
    taps = [pipe.tap(source) for _ in range(3)]
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert [message.value for message in received(tmp_path / "r")] == [n % 251 for n in range(1000)]
    assert [one_value(frame) for frame in taps[0]] in ([], [999 % 251])  # the memory that the last one is in may be gone
    assert pipe.statistics().routines["source"].copied_bytes == 0
    for tap in taps:
        tap.close()


def test_a_tap_costs_no_second_copy() -> None:
    pipe = Pipe(policy="block")
    chain(pipe, source := Frames("source", 50, (100, 100)), Sink("sink"))
    pipe.build()
    tap = pipe.tap(source)
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    tap.close()
    statistics = pipe.statistics().routines["source"]
    assert (statistics.sent, statistics.copied_bytes) == (50, 50 * 100 * 100)


def test_a_tap_whose_frames_are_all_kept_never_starves_the_pipe(tmp_path: Path) -> None:
    pipe = Pipe(policy="block")
    source, record = Frames("source", None, (40, 40, 3), loan=True), Record("record", tmp_path / "r", one_value)
    chain(pipe, source, record)
    pipe.build()
    taps = [pipe.tap(source) for _ in range(8)]
    pipe.notify_event(START_EVENT_NAME)
    kept = [(tap.meta.sequence if tap.meta else -1, frame) for tap in taps for _, frame in zip(range(6), tap, strict=False)]
    pipe.join(to_kill=True)
    assert len(kept) == 48
    kept.clear()
    for tap in taps:
        tap.close()
    values = [message.value for message in received(tmp_path / "r")]
    assert values == [n % 251 for n in range(len(values))]


def test_frames_that_were_read_stay_as_they_were(pipe: Pipe, board: Board) -> None:
    pipe.notify_event(START_EVENT_NAME)
    kept = []
    with pipe.tap("camera") as tap:
        for number in range(30):
            board[GATE] = number + 1
            frame = tap.read(timeout=10)
            assert not frame.flags.writeable
            kept.append(frame[5:9, ::3])
    board[GATE] = 200
    eventually(lambda: pipe.statistics().routines["screen"].received == 200)
    pipe.notify_event(KILL_EVENT_NAME)
    pipe.join()
    assert [one_value(view) for view in kept] == list(range(30))


@pytest.mark.parametrize(
    "payload",
    [7, "text", {"k": [1, 2]}, np.arange(3), np.arange(5000), np.zeros((50, 60))],
    ids=["number", "text", "dict", "small array", "large array", "matrix"],
)
@pytest.mark.parametrize("routine", ["source", "middle"])
def test_a_tap_shows_any_payload_of_a_source_or_a_middle_routine(payload: Any, routine: str) -> None:
    pipe = Pipe(policy="block")
    pipe.create_flow("flow", True, Items("source", [payload]), Forward("middle"), Sink("sink"))
    pipe.build()
    tap = pipe.tap(routine)
    pipe.notify_event(START_EVENT_NAME)
    (arrived,) = tap
    assert np.array_equal(arrived, payload) if isinstance(payload, np.ndarray) else arrived == payload
    tap.close()
    pipe.join()


def test_a_destination_can_not_be_tapped() -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Items("source", range(5)), Sink("sink"))
    pipe.build()
    with pytest.raises(PipeStateError, match="'sink' sends nothing that could be tapped"):
        pipe.tap("sink")
    pipe.join(to_kill=True)


def test_taps_of_several_routines_at_once(board: Board) -> None:
    pipe = Pipe(policy="block", grace_period=2)
    routines: list[Routine] = [OnDemand(board), Forward("one"), Forward("two"), Sink("screen")]
    pipe.create_flow("a", True, *routines[:2])
    pipe.create_flow("b", True, *routines[2:])
    pipe.link(Wire(routines[1], routines[2]))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    taps = [pipe.tap(routine) for routine in ("camera", "one", "two", "camera", "two")]
    for number in range(10):
        board[GATE] = number + 1
        for tap in taps:
            assert one_value(tap.read(timeout=10)) == number
    for tap in taps:
        tap.close()
    pipe.join(to_kill=True)


def test_taps_are_taken_again_and_again(pipe: Pipe, board: Board) -> None:
    pipe.notify_event(START_EVENT_NAME)
    for number in range(40):
        with pipe.tap("camera") as tap:
            board[GATE] = number + 1
            assert one_value(tap.read(timeout=10)) == number


def test_only_so_many_taps_at_a_time(pipe: Pipe, board: Board) -> None:
    pipe.notify_event(START_EVENT_NAME)
    taps = [pipe.tap("camera") for _ in range(8)]
    with pytest.raises(PipeStateError, match="all 8 taps"):
        pipe.tap("camera")
    board[GATE] = 1
    assert [one_value(tap.read(timeout=10)) for tap in taps] == [0] * 8
    taps.pop().close()

    def again() -> bool:
        try:
            taps.append(pipe.tap("camera"))
        except PipeStateError:
            return False
        return True

    eventually(again, "a place for one more tap")
    for tap in taps:
        tap.close()


def test_a_place_is_not_given_away_while_a_frame_read_through_it_lives(pipe: Pipe, board: Board) -> None:
    pipe.notify_event(START_EVENT_NAME)
    tap = pipe.tap("camera")
    board[GATE] = 1
    kept = tap.read(timeout=10)
    tap.close()
    for number in range(1, 21):
        with pipe.tap("camera") as other:
            board[GATE] = number + 1
            assert one_value(other.read(timeout=10)) == number
    assert one_value(kept) == 0


# ---- the end -------------------------------------------------------------------------------------


def test_a_tap_ends_with_its_routine() -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Frames("source", 5), Sink("sink"))
    pipe.build()
    tap = pipe.tap("source")
    pipe.notify_event(START_EVENT_NAME)
    got = [one_value(frame) for frame in tap]
    assert got[-1] == 4
    assert list(tap) == []
    with pytest.raises(StopIteration):
        tap.read(timeout=1)
    tap.close()
    pipe.join()


@pytest.mark.timeout(20)
def test_a_tap_of_a_routine_that_has_ended_already_ends_at_once() -> None:
    board = Board()

    class Waits(DestinationRoutine):
        def main_logic(self, data: Any) -> None:
            board.wait(GATE)

    pipe = Pipe(policy="block")
    chain(pipe, Items("source", [1]), Waits("waits"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["source"].state == "ended")
    try:
        assert list(pipe.tap("source")) == []
    finally:
        board[GATE] = 1
        pipe.join()


@pytest.mark.timeout(20)
def test_a_tap_that_has_ended_stays_so_when_the_routine_starts_again(board: Board) -> None:
    class Again(OnDemand):
        def setup(self) -> None:
            self.next = 0

    pipe = Pipe(policy="block")
    chain(pipe, Again(board, until=3), Sink("sink"))
    pipe.build()
    taps: list[Tap] = []
    for run in range(1, 4):
        board[GATE] = 0
        pipe.notify_event(START_EVENT_NAME)
        eventually(lambda: pipe.statistics().routines["camera"].state == "running")
        taps.append(pipe.tap("camera"))
        board[GATE] = 3
        assert one_value(list(taps[-1])[-1]) == 2
        # Both: the camera's streams end, and with them the sink, just before its state says so.
        eventually(lambda: {routine.state for routine in pipe.statistics().routines.values()} == {"ended"})
        assert pipe.statistics().routines["sink"].received == 3 * run
        assert [list(tap) for tap in taps] == [[]] * run
    pipe.join()
    for tap in taps:
        tap.close()


def reads_until_the_end(tap: Tap, got: list[Any]) -> None:
    got.extend(one_value(frame) for frame in tap)


@pytest.mark.parametrize("how", ["kill", "close"])
def test_a_reader_that_waits_is_called_out(pipe: Pipe, how: str) -> None:
    pipe.notify_event(START_EVENT_NAME)
    tap = pipe.tap("camera")
    got: list[Any] = []
    thread = threading.Thread(target=reads_until_the_end, args=(tap, got))
    thread.start()
    ends: dict[str, Callable[[], None]] = {"kill": lambda: pipe.join(to_kill=True), "close": tap.close}
    ends[how]()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert got == []
    tap.close()


@pytest.mark.timeout(20)
def test_a_tap_with_something_to_read_ends_after_a_kill(pipe: Pipe, board: Board) -> None:
    pipe.notify_event(START_EVENT_NAME)
    tap = pipe.tap("camera")
    board[GATE] = 2
    board.wait(SENT, 2)
    first = tap.read(timeout=10)
    board[GATE] = 4
    board.wait(SENT, 4)
    pipe.join(to_kill=True)
    assert [one_value(frame) for frame in tap] in ([], [3])
    assert one_value(first) == 1
    tap.close()


def test_a_stop_does_not_end_a_tap(pipe: Pipe, board: Board) -> None:
    tap = pipe.tap("camera")
    pipe.notify_event(START_EVENT_NAME)
    board[GATE] = 1
    assert one_value(tap.read(timeout=10)) == 0
    pipe.notify_event(STOP_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["camera"].state == "stopped")
    with pytest.raises(TimeoutError):
        tap.read(timeout=0.05)
    pipe.notify_event(START_EVENT_NAME)
    board[GATE] = 2
    assert one_value(tap.read(timeout=10)) == 1
    tap.close()


def test_closing(pipe: Pipe, board: Board) -> None:
    pipe.notify_event(START_EVENT_NAME)
    tap = pipe.tap("camera")
    board[GATE] = 1
    frame = next(tap)
    tap.close()
    tap.close()
    assert list(tap) == []
    with pytest.raises(StopIteration):
        tap.read()
    pipe.join(to_kill=True)
    tap.close()
    assert one_value(frame) == 0
    assert list(tap) == []


def test_a_frame_outlives_tap_and_pipe() -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Frames("source", 1, (100, 100), loan=True), Sink("sink"))
    pipe.build()
    tap = pipe.tap("source")
    pipe.notify_event(START_EVENT_NAME)
    frame = next(tap)[20:30]
    tap.close()
    pipe.join()
    del tap, pipe
    assert one_value(frame) == 0
    assert frame.shape == (10, 100)


def test_a_routine_that_hangs_holds_up_only_those_who_tap_it(board: Board) -> None:
    class Hangs(SourceRoutine):
        def main_logic(self) -> Any:
            board.wait(2)
            raise EndOfStream

    pipe = Pipe(grace_period=2)
    hangs, camera, screen = Hangs("hangs"), OnDemand(board), Sink("screen")
    chain(pipe, hangs, Sink("sink"))
    pipe.create_flow("camera", False, camera)
    pipe.create_flow("screen", False, screen)
    pipe.link(Wire(camera, screen))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["hangs"].state == "running")
    taps: list[Tap] = []
    thread = threading.Thread(target=lambda: taps.append(pipe.tap("hangs")))
    thread.start()
    eventually(lambda: bool(pipe._built()._line._questions), "a question")
    with pipe.tap("camera") as tap:
        board[GATE] = 1
        assert one_value(tap.read(timeout=10)) == 0
    pipe.notify_event(LINK_EVENT_NAME, specific_routine="hangs", link_routine_name="screen")
    pipe.create_flow("late", False, late := Sink("late"))
    pipe.link(Wire(camera, late))
    pipe.build()
    assert thread.is_alive()
    board[2] = 1
    thread.join(timeout=10)
    assert list(taps[0]) == []
    assert not pipe._built()._line._questions
    pipe.join(to_kill=True)


# ---- what is refused -----------------------------------------------------------------------------


def test_mistakes(pipe: Pipe) -> None:
    with pytest.raises(UnknownTarget, match="'nobody'") as caught:
        pipe.tap("nobody")
    assert caught.value.known == ["camera", "screen"]
    with pytest.raises(UnknownTarget):
        pipe.tap(Sink("stranger"))
    pipe.join(to_kill=True)
    with pytest.raises(PipeStateError, match="ended"):
        pipe.tap("camera")


@pytest.mark.timeout(20)
def test_a_tap_of_a_flow_that_died() -> None:
    class Dies(Frames):
        def main_logic(self) -> Any:
            os._exit(1)

    pipe = Pipe(policy="block", grace_period=1)
    board = Board()

    class Waits(DestinationRoutine):
        def setup(self) -> None:
            board.wait(GATE)

        def main_logic(self, data: Any) -> None:
            return None

    chain(pipe, Dies("dies", 1), Waits("waits"))
    pipe.build()
    before = pipe.tap("dies")
    pipe.notify_event(START_EVENT_NAME)
    try:
        eventually(lambda: pipe.statistics().routines["dies"].state == "failed")
        assert list(before) == []
        with pytest.raises(PipeStateError, match=r"'dies'|ended"):
            pipe.tap("dies")
    finally:
        board[GATE] = 1
        with pytest.raises(PipeFailed, match="'dies' exited with status 1"):
            pipe.join()
        before.close()
