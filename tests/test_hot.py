"""Frames that C passes from one `main_logic` to the next: see csrc/hot/."""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import operator
import os
import pickle
import struct
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from loop import NAMES, Loop
from pipert_shm import DestinationRoutine, EndOfStream, Meta, MiddleRoutine, Pipe, SourceRoutine, Wire, binding
from pipert_shm.binding import hot
from pipert_shm.errors import PayloadError
from pipert_shm.message.layouts import write_layout
from pipert_shm.shm import head
from pipert_shm.shm.slots import Stopping
from waiting import Board, eventually

SHAPE = (48, 64, 3)
SOURCE, RECEIVER = True, False


class Enough(Exception):
    """Ends a loop in C."""


class InC(Loop):
    """A wire both of whose ends have met such a frame before, as after the first messages of a pipe."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sender, self.receiver = self._port.hot, self.inbox._port.hot
        for _ in range(2):
            self.trip(self.frame())

    def __enter__(self) -> InC:
        return self

    def frame(self, value: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
        frame = self.loan(shape)
        frame[...] = value
        return frame

    def run(self, main_logic: Callable[..., Any], source: bool) -> int:
        path, ring = (self.sender, self.outbox.ring) if source else (self.receiver, 0)
        assert ring is not None
        outcome: int = path.run(main_logic, source, ring, 0, 0)
        return outcome

    def send_all_in_c(self, *results: Any) -> None:
        waiting = list(results)

        def main_logic() -> Any:
            if not waiting:
                raise Enough
            return waiting.pop(0)

        with pytest.raises(Enough):
            self.run(main_logic, SOURCE)

    def receive_all_in_c(self, count: int, handle: Callable[[np.ndarray], Any] = lambda frame: None) -> None:
        def main_logic(frame: np.ndarray) -> Any:
            nonlocal count
            if count == 0:
                raise Enough
            count -= 1
            return handle(frame)

        self.send(self.frame())  # which it raises on
        with pytest.raises(Enough):
            self.run(main_logic, RECEIVER)
        assert count == 0
        self.receiver.take_payload()


@pytest.fixture
def wire() -> Iterator[InC]:
    with InC(slots=16, capacity=8) as made:
        yield made


def test_frames_arrive_as_they_were_sent_and_the_last_view_lets_go(wire: InC) -> None:
    seen: list[np.ndarray] = []
    wire.send_all_in_c(wire.frame(1), wire.frame(2))
    wire.receive_all_in_c(2, lambda frame: seen.append(frame[10:, ::2]))
    assert [int(view.min()) for view in seen] == [int(view.max()) for view in seen] == [1, 2]
    assert wire.held_slots() == 2
    seen.pop()
    assert wire.held_slots() == 1
    seen.clear()
    assert wire.held_slots() == 0


def test_what_is_received_never_becomes_writable(wire: InC) -> None:
    wire.send_all_in_c(wire.frame(1))
    kept: list[np.ndarray] = []
    wire.receive_all_in_c(1, kept.append)
    (frame,) = kept
    assert isinstance(frame.base, hot.Lease)
    for view in (frame, frame[1:], frame.reshape(-1), np.asarray(frame.data)):
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        frame[0] = 1


def test_a_lease_can_t_be_made_by_hand() -> None:
    with pytest.raises(TypeError, match="cannot create"):
        hot.Lease()


def test_the_sender_s_array_is_read_only_once_it_is_sent(wire: InC) -> None:
    frame = wire.frame(3)
    wire.send_all_in_c(frame)
    assert not frame.flags.writeable
    wire.receive_all_in_c(1)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda wire: wire.frame(shape=(96, 64, 3)), id="of another shape"),
        pytest.param(lambda wire: wire.frame().view(np.int8), id="of another dtype"),
    ],
)
def test_an_array_of_a_form_that_is_new_is_left_to_python_untouched(wire: InC, other: Callable[[InC], Any]) -> None:
    result = other(wire)
    results = [result]
    assert wire.run(results.pop, SOURCE) == binding.RESULT
    assert wire.sender.take_result() is result
    assert wire.sender.take_result() is None
    assert wire.outbox._posting.post.slots == []
    assert binding.RoutineRecord(wire.segment.process, 0).sequence == 0


@dataclass
class Seen:
    """What a detector sends."""

    frame: np.ndarray
    boxes: np.ndarray


OTHERS: dict[str, Callable[[InC], Any]] = {
    "in no slot": lambda wire: np.full(SHAPE, 5, np.uint8),
    "of a subclass": lambda wire: wire.frame(5).view(np.recarray),
    "in a dictionary": lambda wire: {"frame": wire.frame(5), "plain": np.full(SHAPE, 6, np.uint8)},
    "crops in a list": lambda wire: [wire.frame(7)[3:, 5:], wire.frame(8).T],
    "in a dataclass": lambda wire: Seen(wire.frame(5), np.arange(200, dtype=np.float32).reshape(50, 4)),
    "no array": lambda wire: [0, "text", None, b"12"],
    "bytes": lambda wire: bytes(100_000),
    "large text": lambda wire: "text" * 5000,
    "empty": lambda wire: [np.zeros((0, 3)), np.array(3.5), np.zeros((1,) * 9, np.int8)],
    "of many types": lambda wire: [np.zeros(3, kind) for kind in ("<i2", ">f8", "c8", "M8[ns]", "U3", "S5", "?", "O")],
    "records": lambda wire: [np.zeros(3000, [("x", "f4"), ("y", "i8")])],
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_array_in_a_slot_goes_to_python_and_back_in_c(wire: InC, what: str) -> None:
    """Twice, since the first time its arrays' layouts are learnt."""
    for _ in range(2):
        result = OTHERS[what](wire)
        same = pickle.dumps(result, 5)
        wire.send_all_in_c(result)
        assert wire.sender.calls == 1
        del result
        got: list[Any] = []
        wire.receive_all_in_c(1, got.append)
        assert pickle.dumps(copy.deepcopy(got[0]), 5) == pickle.dumps(copy.deepcopy(pickle.loads(same)), 5)
        got.clear()
        gc.collect()
        assert wire.held_slots() == 0


def test_arrays_in_what_is_pickled_lie_where_they_were_written_and_are_read_only(wire: InC) -> None:
    for _ in range(2):
        frame = wire.frame(5)
        wire.send_all_in_c(Seen(frame, np.arange(4.0)))
        assert not frame.flags.writeable
        got: list[Any] = []
        wire.receive_all_in_c(1, got.append)
        (seen,) = got
        assert isinstance(seen.frame.base, hot.Lease)
        for array in (seen.frame, seen.boxes):
            assert array.flags.aligned
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
        assert wire.held_slots() == 1
        del frame, seen
        got.clear()
        assert wire.held_slots() == 0


def test_an_array_that_is_in_a_payload_twice_stays_one(wire: InC) -> None:
    for _ in range(2):
        small, large = np.arange(4.0), wire.frame(5)
        wire.send_all_in_c({"all": [small, large, small], "again": large, "another": small.copy()})
        got: list[Any] = []
        wire.receive_all_in_c(1, got.append)
        (first, second, third), again, another = got.pop().values()
        assert first is third
        assert second is again
        assert first is not another
        assert first.tolist() == another.tolist()
        del large, second, again
        assert wire.held_slots() == 0


class Refuses:
    """Neither it nor what it becomes can be had."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __reduce__(self) -> Any:
        if self.when == "packed":
            raise LookupError("not this")
        return operator.truediv, (1, 0)


def test_a_payload_that_does_not_pickle_is_told_by_python_and_leaves_nothing(wire: InC) -> None:
    results = [[wire.frame(), Refuses("packed")]]
    assert wire.run(results.pop, SOURCE) == binding.REFUSED
    assert wire.sender.take_result() is not None
    error = wire.sender.take_error()
    assert isinstance(error, PayloadError)
    assert "data[1] (Refuses): not this" in str(error)
    del error
    with pytest.raises(PayloadError):
        wire.outbox.refuse(PayloadError("it", "data", "no"), 0)
    assert binding.EdgeRecord(wire.segment.process, 0).dropped()["error"] == 1
    gc.collect()
    assert wire.held_slots() == 0


def test_a_message_that_does_not_unpickle_is_dropped_by_python(wire: InC) -> None:
    wire.send([wire.frame(), Refuses("unpacked")])
    assert wire.run(lambda payload: None, RECEIVER) == binding.FOUND
    assert wire.inbox.accept(wire.receiver.status) == binding.OK
    with pytest.raises(ZeroDivisionError):
        wire.inbox.take()
    assert wire.receiver.take_error() is None
    assert binding.EdgeRecord(wire.segment.process, 0).dropped()["error"] == 1
    gc.collect()
    assert wire.held_slots() == 0


def test_an_array_that_its_buffer_has_no_room_for() -> None:
    layout = write_layout(np.zeros(8), (8,))
    for _ in range(2):
        assert binding.array_at(bytes(72), 8, layout).tolist() == [0.0] * 8
        for buffer, offset in ((bytes(63), 0), (bytes(72), 9), (bytes(72), 2**64 - 1)):
            with pytest.raises(ValueError, match="an array that is larger than its buffer"):
                binding.array_at(buffer, offset, layout)
        with pytest.raises(OverflowError):
            binding.array_at(bytes(72), -1, layout)
        assert binding.array_at(memoryview(bytes(72)), 8, layout).tolist() == [0.0] * 8
        with pytest.raises(ValueError, match="buffer is smaller than requested size"):
            binding.array_at(memoryview(bytes(72)), 16, layout)


def test_no_array_of_references_is_made_of_memory() -> None:
    layout = struct.pack("=BB2q", 1, 2, 1, 8) + b"|O"  # as a damaged message might have it
    for memory in (bytes(8), memoryview(bytes(8))):
        with pytest.raises(ValueError, match="cannot create an OBJECT array from memory buffer"):
            binding.array_at(memory, 0, layout)


@pytest.mark.parametrize(
    "name", [b"", b"os", b"no_such_module:Name", b"os:no_such_name", (0, 0, b""), (b"12", 0, b""), (1,), 5, None]
)
def test_a_name_that_stands_for_nothing(wire: InC, name: Any) -> None:
    with pytest.raises((ImportError, AttributeError, LookupError, ValueError, TypeError, struct.error)):
        wire.receiver.persistent_load(name)


def test_a_form_that_is_new_is_described_once(wire: InC) -> None:
    """And more of them than are remembered."""
    for axes in range(1, 12):
        for _ in range(2):
            frame = wire.loan((8,) * min(axes, 4) + (1,) * max(0, axes - 4))
            frame[...] = axes
            shape = frame.shape
            got = wire.trip(frame)
            assert (got.shape, int(got.min()), int(got.max())) == (shape, axes, axes)
            del frame, got


def test_an_error_keeps_what_the_call_got(wire: InC) -> None:
    wire.send_all_in_c(wire.frame(1), wire.frame(2))

    def main_logic(frame: np.ndarray) -> None:
        if frame[0, 0, 0] == 2:
            raise LookupError("the second")

    with pytest.raises(LookupError, match="the second"):
        wire.run(main_logic, RECEIVER)
    assert wire.receiver.calls == 1
    payload = wire.receiver.take_payload()
    assert payload.max() == 2
    assert wire.receiver.take_payload() is None


def test_other_receipts_are_left_to_python(wire: InC) -> None:
    def main_logic(frame: np.ndarray) -> None:
        raise AssertionError

    wire.send(wire.frame(3, shape=(96, 64, 3)))  # for a form is taught by Python
    assert wire.run(main_logic, RECEIVER) == binding.FOUND
    assert wire.inbox.accept(wire.receiver.status) == binding.OK
    assert int(wire.inbox.take()[0].min()) == 3
    wire.inbox._port.notify()
    assert wire.run(main_logic, RECEIVER) == binding.FOUND
    assert wire.receiver.status == binding.NOTICE
    wire.inbox._port.noticed()
    wire._port.close_outs()
    assert wire.run(main_logic, RECEIVER) == binding.FOUND
    assert wire.receiver.status == binding.CLOSED


def test_a_frame_that_is_too_old_is_left_to_python() -> None:
    with InC(max_age=10.0) as wire:
        frame = wire.frame(1)
        wire.outbox.send([frame], Meta(NAMES, 0, 1, binding.now_ns() - 11_000_000_000))
        del frame
        assert wire.run(lambda frame: None, RECEIVER) == binding.FOUND
        assert wire.inbox.accept(wire.receiver.status) not in (binding.OK, binding.CLOSED)
        assert binding.EdgeRecord(wire.segment.process, 0).dropped()["expired"] == 1
        assert wire.held_slots() == 0


def test_a_send_that_waits_lets_go_of_the_gil() -> None:
    with InC(capacity=2, timeout=60) as wire:
        frames = [wire.frame(number) for number in range(4)]
        sender = threading.Thread(target=lambda: wire.send_all_in_c(*frames))
        sender.start()
        eventually(lambda: binding.Incarnation(wire.segment.process, 0).waiting() == 2, "a full queue")
        assert [int(wire.receive().max()) for _ in range(4)] == [0, 1, 2, 3]
        sender.join()
        frames.clear()


def test_a_send_that_waits_is_called_out_of_it_and_goes_on_later() -> None:
    with InC(capacity=2, timeout=60) as wire:
        for number in range(2):
            wire.send(wire.frame(number))
        frames = [wire.frame(2)]
        threading.Timer(0.05, wire.interrupt).start()
        assert wire.run(frames.pop, SOURCE) == binding.SENT
        assert wire.sender.status == binding.NOTICE
        with pytest.raises(Stopping):
            wire.outbox.finish(wire.sender.status)
        wire.obey()
        assert wire.outbox.unsent
        assert wire.outbox.ring is None
        assert [int(wire.receive().max()) for _ in range(2)] == [0, 1]
        wire.outbox.flush()
        assert int(wire.receive().max()) == 2


def test_nothing_is_left_referred_to(wire: InC) -> None:
    """Of the objects that C handles, after many rounds: an object too many is a leak, one too few a crash."""
    kept: list[Any] = [NAMES, np.dtype(np.uint8), wire.sender, wire.receiver, None]
    meta = Meta(NAMES, 0, 1, 2, pts=0.5)

    def round_trip() -> None:
        wire.outbox.send([wire.frame(1)], meta)
        wire.send_all_in_c(wire.frame(1))
        wire.receive_all_in_c(2, lambda frame: wire.receiver.meta)
        wire.receiver.meta = meta
        wire.receiver.meta = None

    wire.outbox.send([wire.frame(1)], meta)  # with a stamp it is of another kind
    wire.receive()
    round_trip()
    gc.collect()
    before = [sys.getrefcount(thing) for thing in (*kept, meta)]
    objects = len(gc.get_objects())
    for _ in range(200):
        round_trip()
    gc.collect()
    after = [sys.getrefcount(thing) for thing in (*kept, meta)]
    apart = [now - then for now, then in zip(after, before, strict=True)]
    assert all(abs(one) < 20 for one in apart), apart
    assert abs(len(gc.get_objects()) - objects) < 100
    assert wire.held_slots() == 0


def test_the_kinds_of_a_message_are_the_same_in_c_and_in_python() -> None:
    assert (hot.KIND_ARRAY, hot.KIND_TICKETED, hot.KIND_STAMPED) == (head.ARRAY, head.TICKETED, head.STAMPED)


# ---- in a pipe -----------------------------------------------------------------------------------


class Frames(SourceRoutine):
    """Sends so many loaned frames."""

    def __init__(self, board: Board, count: int, name: str = "frames") -> None:
        super().__init__(name)
        self.board, self.count = board, count

    def main_logic(self) -> np.ndarray:
        if self.meta.sequence == self.count:
            raise EndOfStream
        frame = self.loan(SHAPE)
        frame[...] = self.meta.sequence % 251
        return frame


def run(*routines: Any, look: Callable[[Pipe], None] = lambda pipe: None, **options: Any) -> Pipe:
    pipe = Pipe(policy="block", **options)
    for routine in routines:
        pipe.create_flow(routine.name, False, routine)
    for sender, receiver in itertools.pairwise(routines):
        pipe.link(Wire(sender, receiver))
    with pipe:
        pipe.build()
        pipe.notify_event("start")
        look(pipe)
    return pipe


def test_meta_is_that_of_each_message_whoever_looks_and_whenever() -> None:
    class Relay(MiddleRoutine):
        def main_logic(self, frame: np.ndarray) -> np.ndarray:
            if frame[0, 0, 0] % 3 == 0:
                assert self.meta is self.meta
                assert self.metas == [self.meta]
            if frame[0, 0, 0] % 5 == 0:
                self.meta.pts = float(self.meta.sequence)
            return frame

    class Check(DestinationRoutine):
        def setup(self) -> None:
            self.kept: list[tuple[int, Meta]] = []

        def main_logic(self, frame: np.ndarray) -> None:
            self.kept.append((int(frame[0, 0, 0]), self.meta))

        def cleanup(self) -> None:
            assert self.meta.sequence == 249
            for number, (value, meta) in enumerate(self.kept):
                hops = [hop.routine for hop in meta.hops]
                assert (value, meta.sequence, meta.origin, hops) == (number, number, "frames", ["relay", "check"])
                assert meta.pts == (number if number % 5 == 0 else None)
                assert 0 < meta.captured_ns <= meta.hops[0].sent_ns <= meta.hops[0].received_ns <= meta.hops[1].sent_ns
            board[0] = len(self.kept)

    board = Board()
    run(Frames(board, 250), Relay("relay"), Check("check"))
    assert board[0] == 250


def test_more_hops_than_a_message_keeps() -> None:
    class Relay(MiddleRoutine):
        def main_logic(self, frame: np.ndarray) -> np.ndarray:
            return frame

    class Check(DestinationRoutine):
        def main_logic(self, frame: np.ndarray) -> None:
            names = [hop.routine for hop in self.meta.hops]
            assert names == [*(f"relay{number}" for number in range(3, 18)), "check"]
            board.add(0)

    board = Board()
    run(Frames(board, 20), *(Relay(f"relay{number}") for number in range(18)), Check("check"))
    assert board[0] == 20


def test_errors_are_counted_in_a_row_and_the_next_frame_is_handled() -> None:
    class Picky(DestinationRoutine):
        max_errors = 3

        def main_logic(self, frame: np.ndarray) -> None:
            if frame[0, 0, 0] % 4 in (1, 2):
                raise ValueError("of no use")
            board.add(0)

    board = Board()
    pipe = run(Frames(board, 40), Picky("picky"))
    assert board[0] == 20
    assert (pipe.statistics().routines["picky"].errors, pipe.statistics().flows["picky"].restarts) == (20, 0)


def test_settings_that_change_are_seen_at_once() -> None:
    """A source that sets its own pace in `main_logic`."""

    class Slowing(Frames):
        def main_logic(self) -> np.ndarray:
            if self.meta.sequence == 100:
                self.set_const_fps(1 / 3600)
            self.board[0] = self.meta.sequence
            return super().main_logic()

    class Sink(DestinationRoutine):
        def main_logic(self, frame: np.ndarray) -> None:
            board[1] = self.meta.sequence

    def look(pipe: Pipe) -> None:
        board.wait(1, 100)
        slowing.set_const_fps(0)
        board.wait(1, 150)

    board = Board()
    slowing = Slowing(board, 200)
    run(slowing, Sink("sink"), look=look)
    assert board[0] == 200


class Holding(SourceRoutine):
    """Waits for a slot in a call of `main_logic` until told; then it sends frame after frame."""

    def __init__(self, board: Board) -> None:
        super().__init__("holding")
        self.board = board

    def main_logic(self) -> np.ndarray:
        if self.meta.sequence == 60:  # those before were sent in C
            kept: list[np.ndarray] = []

            def let_go() -> None:
                self.board.wait(1)
                threading.Event().wait(0.5)  # the order is obeyed meanwhile; if it is not, this shows nothing
                kept.clear()

            thread = threading.Thread(target=let_go)
            thread.start()
            self.board[0] = 1
            while thread.is_alive():
                kept.append(self.loan(SHAPE))
            kept.clear()
        return self.loan(SHAPE)


class Quiet(SourceRoutine):
    def main_logic(self) -> None:
        threading.Event().wait(0.02)


class Counting(DestinationRoutine):
    def __init__(self, name: str, board: Board, cell: int) -> None:
        super().__init__(name)
        self.board, self.cell = board, cell

    def main_logic(self, frame: np.ndarray) -> None:
        self.board.add(self.cell)


def test_a_wire_that_is_linked_while_main_logic_waits_for_a_slot() -> None:
    board = Board()
    holding, sink, late = Holding(board), Counting("sink", board, 2), Counting("late", board, 3)
    pipe = Pipe(policy="block", capacity=4)
    pipe.create_flow("one", False, holding, late)
    pipe.create_flow("two", False, sink, quiet := Quiet("quiet"))
    pipe.link(Wire(holding, sink), Wire(quiet, late))
    with pipe:
        pipe.build()
        pipe.notify_event("start")
        board.wait(0)
        pipe.notify_event("link", specific_routine="holding", link_routine_name="late")
        board[1] = 1
        board.wait(2, 200)
        board.wait(3, 100)
        pipe.notify_event("kill")


def test_a_rate_that_is_set_while_main_logic_waits_for_a_slot() -> None:
    board = Board()
    holding, sink = Holding(board), Counting("sink", board, 2)

    def look(pipe: Pipe) -> None:
        board.wait(0)
        holding.set_const_fps(1 / 3600)
        board[1] = 1
        board.wait(2, 61)
        assert board[2] < 64  # it makes up for one interval
        threading.Event().wait(0.2)  # in which it would send some thousand
        pipe.notify_event("kill")

    run(holding, sink, look=look, capacity=4)
    assert 61 <= board[2] < 64


def test_a_call_that_raised_keeps_no_frame_alive() -> None:
    class Last(Frames):
        def main_logic(self) -> np.ndarray:
            gc.disable()
            frame = super().main_logic() if self.meta.sequence < self.count else self.loan(SHAPE)
            self.last = weakref.ref(frame)
            if self.meta.sequence == self.count:
                raise EndOfStream
            return frame

        def cleanup(self) -> None:
            self.board[0] = 1 if self.last() is None else 2

    board = Board()
    run(Last(board, 50), Counting("sink", board, 2))
    assert board[0] == 1


def test_numpy_s_integers_in_a_meta_and_one_that_is_replaced() -> None:
    class Dated(Frames):
        def main_logic(self) -> np.ndarray:
            frame = super().main_logic()
            self.meta.captured_ns = np.int64(1000 + self.meta.sequence)  # type: ignore[assignment]
            return frame

    class Replacing(MiddleRoutine):
        def main_logic(self, frame: np.ndarray) -> np.ndarray:
            if self.meta.sequence in (3, 60):
                self.meta = Meta(("nobody",), 0, 77)
            else:
                assert self.meta.captured_ns == 1000 + self.meta.sequence
                assert self.meta.sequence == frame[0, 0, 0]
            return frame

    class Check(DestinationRoutine):
        def main_logic(self, frame: np.ndarray) -> None:
            assert self.meta.captured_ns == 1000 + self.meta.sequence
            board.add(0)

    board = Board()
    pipe = run(Dated(board, 120), Replacing("replacing"), Check("check"))
    assert board[0] == 120
    assert not any(routine.errors for routine in pipe.statistics().routines.values())


def test_calls_that_fail_count_as_busy() -> None:
    class Failing(Frames):
        def main_logic(self) -> np.ndarray:
            if self.meta.sequence >= 40 and board[0] < 5:
                board.add(0)
                threading.Event().wait(0.05)
                raise ValueError("on purpose")
            return super().main_logic()

    board = Board()
    pipe = run(Failing(board, 50), Counting("sink", board, 2))
    assert pipe.statistics().routines["frames"].busy_s >= 0.25


def test_a_child_that_is_forked_as_a_result_dies_is_not_the_routine() -> None:
    home = 0

    class Forks:
        def __del__(self) -> None:
            child = os.fork()
            if child:
                os.waitpid(child, 0)

    class Sink(Counting):
        def main_logic(self, frame: np.ndarray) -> Forks | None:  # type: ignore[override]
            super().main_logic(frame)
            if os.getpid() != home:
                board[4] = 1
            return Forks() if self.meta.sequence in (50, 60) else None

        def setup(self) -> None:
            nonlocal home
            home = os.getpid()

    board = Board()
    warnings.simplefilter("ignore", DeprecationWarning)  # to fork a process with threads is what this is about
    run(Frames(board, 100), Sink("sink", board, 2))
    assert (board[2], board[4]) == (100, 0)


def test_a_main_logic_that_is_not_python_does_not_keep_others_out(caplog: pytest.LogCaptureFixture) -> None:
    """It never lets go of the GIL, and commands come by another thread."""

    board = Board()

    class Source(SourceRoutine):
        main_logic = staticmethod(functools.partial(operator.setitem, board._cells.data, 0, 1))  # which 3.14 would bind

    class Sink(DestinationRoutine):
        def main_logic(self, frame: np.ndarray) -> None: ...

    def look(pipe: Pipe) -> None:
        board.wait(0)
        pipe.notify_event("kill")

    run(Source("source"), Sink("sink"), look=look, grace_period=3)
    assert caplog.text == "", "it had to be killed"
