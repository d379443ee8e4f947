"""What the log says of calls that fail: whose they are, how often they fail, and what to do where that is known."""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from pipert_shm import DestinationRoutine, EndOfStream, Pipe, SourceRoutine
from pipert_shm.errors import PipertError
from pipert_shm.flow import failures
from pipert_shm.flow.failures import FORGOTTEN, MOST_KINDS, PERIOD, WAY, Failures
from pipert_shm.flow.write_advice import ADVICE, advice
from routines import Frames, Items, Sink, chain
from waiting import eventually

# ---- in a pipe -------------------------------------------------------------------------------------


class Clumsy(DestinationRoutine):
    """Fails in one way on every message, says so itself, and in another way on number 7."""

    def main_logic(self, data: Any) -> None:
        self._logger.error("the same words")
        if self.meta.sequence == 7:
            raise LookupError("seven")
        if self.meta.sequence % 2 == 0:
            raise ValueError("even")


def lines_of(logger: logging.Logger, pipe: Pipe, level: int = logging.ERROR) -> list[str]:
    """What a pipe logs from its start to its end, with no more than the message in each line."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(level)
    logger.addHandler(handler)
    logger.propagate = False
    pipe.build()
    pipe.notify_event("start")
    pipe.join()
    logger.removeHandler(handler)
    return stream.getvalue().splitlines()


def test_errors_name_their_routine_and_none_is_lost() -> None:
    logger = logging.getLogger("nameless")
    pipe = Pipe(logger=logger, policy="block")
    chain(pipe, Items("numbers", range(21)), Clumsy("clumsy"), flow="flow of {}")
    lines = lines_of(logger, pipe)
    who = "routine 'clumsy' of flow 'flow of clumsy': main_logic failed on message"
    told = [line for line in lines if line.startswith("routine ")]
    assert told[0] == f"{who} 0: ValueError: even"
    assert told[2] == f"{who} 7: LookupError: seven"
    assert re.fullmatch(rf"{who} 6: ValueError: even … again 3 times in the last [\d.]+ s", told[1])
    assert re.fullmatch(rf"{who} 20: ValueError: even … again 7 times in the last [\d.]+ s", told[3])
    assert len(told) == 4
    assert lines.count('    raise ValueError("even")') == 1
    assert lines.count("the same words") == 21  # the routine's own lines are its own
    assert pipe.statistics().routines["clumsy"].errors == 12


class Scribbler(DestinationRoutine):
    def main_logic(self, data: Any) -> None:
        data["frame"][0] = 1


def test_a_write_to_a_frame_that_came_from_another_flow() -> None:
    logger = logging.getLogger("scribbler")
    pipe = Pipe(logger=logger, policy="block")
    frame = np.zeros((64, 64), np.uint8)
    chain(pipe, Items("frames", [{"frame": frame}, {"frame": frame}]), Scribbler("scribbler"))
    first, *_, again = lines_of(logger, pipe)
    assert "main_logic failed on message 0: ValueError: assignment destination is read-only" in first
    assert "writable(frame)" in first
    assert "on message 1: ValueError: assignment destination is read-only … again once" in again


class Keeper(DestinationRoutine):
    first: np.ndarray | None = None

    def main_logic(self, data: np.ndarray) -> None:
        if self.first is None:
            self.first = data
        else:
            self.first[...] = 0


def test_a_write_to_a_frame_that_was_kept() -> None:
    logger = logging.getLogger("keeper")
    pipe = Pipe(logger=logger, policy="block")
    chain(pipe, Frames("frames", 2, loan=True), Keeper("keeper"))
    assert "writable(frame)" in lines_of(logger, pipe)[0]


class Twice(SourceRoutine):
    """Two messages each time that it is started."""

    def setup(self) -> None:
        self.left = 2

    def main_logic(self) -> int:
        if not self.left:
            raise EndOfStream
        self.left -= 1
        return 0


def fails(data: Any) -> None:
    raise ValueError("always")


def test_the_end_of_a_run_ends_the_count() -> None:
    logger, told = logging.getLogger("runs"), Told()
    logger.addHandler(told)
    logger.propagate = False
    pipe, sink = Pipe(logger=logger, policy="block"), Sink("sink")
    sink.main_logic = fails  # type: ignore[method-assign]
    chain(pipe, Twice("twice"), sink)
    pipe.build()
    with pipe:
        for run in (1, 2):
            pipe.notify_event("start")
            eventually(lambda run=run: pipe.statistics().routines["sink"].errors == 2 * run)  # type: ignore[misc]
            eventually(lambda: pipe.statistics().routines["sink"].state == "ended")
    logger.removeHandler(told)
    assert [record.exc_text is not None for record in told.records] == [True, False, True, False]


# ---- by itself, and by a clock that the test sets ---------------------------------------------------


class Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage().removeprefix("routine 'r' of flow 'f': ") for record in self.records]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def its(told: Told) -> Failures:
    logger = logging.Logger("failures")
    logger.addHandler(told)
    return Failures(logger, "r", "f")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(failures, "monotonic", lambda: clock.now)
    return clock


def fail(its: Failures, error: Exception, number: int = 0) -> None:
    try:
        raise error
    except type(error) as raised:
        its.tell("it failed on {}", raised, on=f"message {number}", sequence=number)


def test_a_line_of_its_own_each_period(its: Failures, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "PERIOD", 0.05)
    fail(its, ValueError("v"))
    assert (told.lines, told.records[0].exc_info is not None) == (["it failed on message 0: ValueError: v"], True)
    fail(its, ValueError("v"), 1)
    assert len(told.lines) == 1
    eventually(lambda: len(told.lines) == 2, "the line of the second one")
    assert told.lines[1].startswith("it failed on message 1: ValueError: v … again once in the last ")
    assert told.records[1].sequence == 1  # type: ignore[attr-defined]
    assert not told.records[1].exc_info
    its.end()
    assert len(told.lines) == 2


def test_at_most_ten_lines_a_minute(its: Failures, told: Told, clock: SimpleNamespace) -> None:
    """The timers don't run by the test's clock; what they do is called as they would."""
    for number in range(600):
        fail(its, ValueError("abc"[number % 3]), number)
        clock.now += 0.1
        if its._timer is not None and clock.now >= its._quiet_until:
            its._tell_all(clock.now)
    its.end()
    in_full = [line for line in told.lines if "again" not in line]
    again = [int(count) for line in told.lines for count in re.findall(r"again (\d+) times", line)]
    assert len(in_full) == 3
    assert len(again) <= 60 / PERIOD + 3  # the last ones are told at the end
    assert sum(again) + len(in_full) == 600


def test_an_error_that_comes_again_much_later_is_told_in_full(its: Failures, told: Told, clock: SimpleNamespace) -> None:
    fail(its, ValueError("v"))
    clock.now += FORGOTTEN + 1
    fail(its, ValueError("v"), 1)
    assert told.lines == ["it failed on message 0: ValueError: v", "it failed on message 1: ValueError: v"]


def number_23() -> None:
    raise ValueError("number 23")


def test_what_is_not_equal_is_told_in_full(its: Failures, told: Told) -> None:
    for number in range(3 * MOST_KINDS):
        fail(its, ValueError(f"number {chr(97 + number)}"), number)
    fail(its, LookupError("number 23"))
    try:
        raise ValueError("number 23")  # in another line
    except ValueError as error:
        its.tell("it failed on {}", error, on="message 24")
    its.tell("it failed", raised_by(lambda: number_23()))
    its.tell("it failed", raised_by(lambda: number_23()))  # the same line, called from another one
    its.tell("setup failed", ValueError("number 23"))
    assert len(told.lines) == 3 * MOST_KINDS + 5
    assert all(record.exc_info for record in told.records)
    assert len(its._kinds) == MOST_KINDS


def test_those_that_differ_in_numbers_only_are_equal(its: Failures, told: Told) -> None:
    for number in range(20):
        fail(its, ValueError(f"bad frame {number} at {number / 7}"), number)
    its.end()
    assert len(told.lines) == 2
    assert told.lines[1].startswith("it failed on message 19: ValueError: bad frame 19 at 2.7")
    assert "again 19 times" in told.lines[1]


def test_whoever_ends_a_stream_by_the_wrong_exception_is_told_the_right_one(its: Failures, told: Told) -> None:
    fail(its, StopIteration())
    assert told.lines[0].endswith("; to end a stream, raise EndOfStream")


def test_an_exception_that_is_raised_again_and_again(its: Failures, told: Told) -> None:
    kept = ValueError("kept")
    for number in range(20):
        fail(its, kept, number)
    its.end()
    assert len(told.lines) <= WAY + 1


def test_the_last_count_comes_before_another_error(its: Failures, told: Told) -> None:
    for number in range(5):
        fail(its, ValueError("v"), number)
    fail(its, LookupError("other"), 5)
    first, again, other = told.lines
    assert "ValueError" in first
    assert again.startswith("it failed on message 4: ValueError: v … again 4 times")
    assert "LookupError" in other


def test_a_new_run_is_told_of_in_full(its: Failures, told: Told) -> None:
    for _ in range(2):
        fail(its, ValueError("v"))
        its.end()
    assert len(told.lines) == 2
    assert all(record.exc_info for record in told.records)


def test_where_there_is_no_thread_left(its: Failures, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise OSError("can't start new thread")

    monkeypatch.setattr("pipert_shm.flow.failures.calls.start_thread", refuse)
    for number in range(3):
        fail(its, ValueError("v"), number)
    assert [" … again once" in line for line in told.lines] == [False, True, True]


def test_long_errors_are_told_once(its: Failures, told: Told) -> None:
    for _ in range(2):
        fail(its, ValueError("x" * 10_000))
    its.end()
    assert len(told.lines[0]) > 10_000
    assert len(told.lines[1]) < 1_000


# ---- writes to frames ------------------------------------------------------------------------------


def read_only(array: np.ndarray) -> np.ndarray:
    """As one that came: nobody can make it writable again."""
    return np.frombuffer(memoryview(array.tobytes()), array.dtype).reshape(array.shape)


@dataclass(slots=True)
class Shot:
    image: np.ndarray


def item(payload: Any) -> None:
    payload[...] = 0


def in_place(payload: Any) -> None:
    payload += 1


def drawing(payload: Any) -> None:
    cv2.rectangle(
        payload,
        (1, 1),
        (5, 5),
        (0, 0, 255),
    )


def destination(payload: Any) -> None:
    cv2.GaussianBlur(np.zeros_like(payload), (3, 3), 0, dst=payload)


def output(payload: Any) -> None:
    np.add(payload, 1, out=payload)


def flat(payload: Any) -> None:
    payload.flat[0] = 1


def sorting(payload: Any) -> None:
    payload.sort()


def flag(payload: Any) -> None:
    payload.flags.writeable = True


def buffer(payload: Any) -> None:
    memoryview(payload)[0, 0, 0] = 1


def in_a_dict(payload: Any) -> None:
    data = {"frame": payload}
    data["frame"][0] = 1


def in_an_object(payload: Any) -> None:
    shots = [Shot(payload)]
    shots[0].image[0] = 1


def a_crop(payload: Any) -> None:
    crop = payload[:2, :2]
    crop[0] = 1


def in_a_function_of_others(payload: Any) -> None:
    np.fill_diagonal(payload[:, :, 0], 1)


def wrapped(payload: Any) -> None:
    try:
        payload[0] = 1
    except ValueError as error:
        raise RuntimeError("drawing failed") from error


def a_warning(payload: Any) -> None:
    tensor = payload  # as torch.from_numpy(payload) warns where warnings are errors
    warnings.warn(f"The given NumPy array is not writable {tensor.shape}", UserWarning, stacklevel=1)


WRITES = [item, in_place, drawing, destination, output, flat, sorting, flag, buffer, in_a_dict, in_an_object, a_crop,
          in_a_function_of_others, wrapped, a_warning]  # fmt: skip


def raised_by(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


@pytest.mark.parametrize("write", WRITES, ids=lambda write: str(write.__name__))
def test_writes_to_what_was_received(write: Callable[[Any], None]) -> None:
    frame = read_only(np.zeros((8, 8, 3), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = raised_by(lambda: write(frame))
    assert advice(error, [frame]) == ADVICE
    assert advice(error, [{"frame": frame}]) == ADVICE
    assert "writable(frame)" in ADVICE


TABLE = read_only(np.zeros((8, 8, 3), np.uint8))


def own_table(frame: np.ndarray) -> None:
    TABLE[...] = 1


def test_a_write_of_a_frame_to_something_else() -> None:
    frame, table, holder = read_only(np.ones((8, 8, 3), np.uint8)), TABLE, SimpleNamespace(table=TABLE, kept=None)
    holder.kept = frame

    def local() -> None:
        table[...] = frame

    def attribute() -> None:
        holder.table[...] = frame

    for call in (local, attribute):
        assert advice(raised_by(call), [frame]) == ""


def number(text: Any) -> int:
    return int(text)


def test_errors_that_have_nothing_to_do_with_frames(tmp_path: Any) -> None:
    frame = read_only(np.ones((8, 8, 3), np.uint8))

    def file_system() -> None:
        raise OSError(30, "Read-only file system", str(frame.shape))

    def its_own_error() -> None:
        raise PipertError(f"the database is read-only {frame.shape}")

    assert advice(raised_by(lambda: own_table(frame)), [frame]) == ""
    assert advice(raised_by(lambda: own_table(np.zeros(3))), [np.zeros(3)]) == ""
    for call in (lambda: number("x"), file_system, its_own_error, lambda: {"": 0}["read-only"]):
        assert advice(raised_by(call), [frame]) == ""
    assert advice(ValueError("read-only"), [frame]) == ""  # raised nowhere


class Hostile:
    def __getattribute__(self, name: str) -> Any:
        raise SystemError("no")


def test_values_that_can_not_be_looked_at() -> None:
    frame, hostile = read_only(np.ones((8, 8, 3), np.uint8)), Hostile()

    def write() -> None:
        frame[...] = hostile and 1

    assert advice(raised_by(write), [hostile, frame]) in (ADVICE, "")
