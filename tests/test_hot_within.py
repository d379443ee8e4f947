"""Frames that C hands over within a flow, and what may go wrong on the way: see csrc/hot/within.c."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hot_ends import SHAPE, Across, Within
from pipert_shm import (
    DestinationRoutine,
    EndOfStream,
    Meta,
    Pipe,
    Routine,
    SharedMemoryTransmitter,
    SourceRoutine,
    Wire,
    binding,
)
from routines import Record, received
from waiting import Board

both = pytest.mark.parametrize("kind", [Across, Within])


def test_more_dimensions_than_c_knows_are_passed_by_reference_all_the_same() -> None:
    shape = (2,) * 9 + (16,)
    with Within(near=2) as ends:
        frame = ends.frame(7, shape)
        ends.send_in_python(frame)
        for box in range(2):
            got = ends.take_in_python(box)
            assert (got.shape, int(got.min()), int(got.max()), got.flags.writeable) == (shape, 7, 7, False)
        assert ends.counters["copied_bytes"] == 0
        del got, frame


@pytest.mark.parametrize("make", [lambda ends: ends.loan((1,), "S5000").reshape(()), lambda ends: ends.loan((4096,))[4096:]])
@pytest.mark.parametrize("kind", [Across, Within])
def test_arrays_without_dimensions_or_elements(kind: type[Any], make: Any) -> None:
    with kind(transmitter=SharedMemoryTransmitter(1)) as ends:
        for _ in range(3):
            array = make(ends)
            ends.send_in_python(array)
            got = ends.take_in_python()
            assert (got.shape, got.dtype, got.flags.writeable) == (array.shape, array.dtype, False)
            del got, array


@both
def test_a_threshold_that_no_array_reaches(kind: type[Any]) -> None:
    """More than 64 bits of it."""
    with kind(transmitter=SharedMemoryTransmitter((1 << 64) + 5)) as ends:
        frame = ends.frame(7)
        ends.send_in_python(frame)
        got = ends.take_in_python()
        assert frame.flags.writeable, "it was sent where it lies"
        assert int(got.min()) == 7
        del frame, got


class Refusing(dict[int, Any]):
    def __setitem__(self, token: int, message: Any) -> None:
        raise MemoryError


def test_what_can_t_be_laid_out_for_all_is_laid_out_for_none() -> None:
    with Within(near=2) as ends:
        first: dict[int, Any] = {}
        ends.sender.send_on(ends.outbox._posting.post.address, 3, 1, [first, Refusing()], None)
        holder, token = [ends.frame(1)], ends.sender.token
        assert ends.sender.send(holder, ends.meta(), 0, 0) < 0
        assert (len(holder), first, ends.sender.token) == (1, {}, token)
        del holder
        gc.collect()
        assert ends.held_slots() == 0


@both
def test_a_payload_that_goes_while_the_meta_is_read(kind: type[Any]) -> None:
    class Emptying(Meta):
        @property
        def origin_number(self) -> int:
            holder.clear()
            gc.collect()
            return 0

        @origin_number.setter
        def origin_number(self, number: int) -> None: ...

    with kind() as ends:
        holder = [ends.frame(1)]
        with pytest.raises(TypeError, match="a list of one payload"):
            ends.sender.send(holder, Emptying(ends.names, 0, 1, 1), ends.outbox.ring, 0)
        assert ends.held_slots() == 0


@both
def test_a_send_that_fails_leaves_nothing_behind(kind: type[Any]) -> None:
    """Nor does the next message carry anything of it."""
    with kind() as ends:
        meta = ends.meta(captured_ns="noon")
        with pytest.raises(ValueError, match=r"meta.captured_ns must be from 0 to 2\*\*64 - 1, not 'noon'"):
            ends.send_in_python({"frame": ends.frame(1)}, meta)
        assert not any(ends.tables)
        assert ends.outbox._posting.post.slots == []
        assert ends.held_slots() == 0
        edge = binding.EdgeRecord(ends.segment.process, 0)
        assert edge.dropped()["error"] == 1
        ends.send_in_python({"frame": ends.frame(2)})
        assert int(ends.take_in_python()["frame"].min()) == 2


@both
def test_what_a_call_left_is_not_handed_to_the_next_run(kind: type[Any]) -> None:
    """Nobody took the payload of a call that raised; the next run finds a notice, and no message."""

    calls = 0

    def main_logic(frame: np.ndarray) -> None:
        nonlocal calls
        calls += 1
        raise EOFError

    with kind() as ends:
        ends.send_in_c(ends.frame(1))
        with pytest.raises(EOFError):
            ends.receiver.run(main_logic, False, 0, 0, 0)
        ends.boxes[0]._port.notify()
        assert ends.receiver.run(main_logic, False, 0, 0, 0) == binding.FOUND
        assert (calls, ends.receiver.status, ends.held_slots()) == (1, binding.NOTICE, 0)


def test_a_damaged_head_is_for_python(caplog: pytest.LogCaptureFixture) -> None:
    with Within() as ends:
        for damaged in (b"", b"short", bytes(31), bytes(425), "text"):
            ends.send_in_c(ends.frame(1))
            ((token, (opener, _, sent_ns)),) = ends.tables[0].items()
            ends.tables[0][token] = (opener, damaged, sent_ns)  # type: ignore[assignment]
            assert ends.receiver.run(None, False, 0, 0, 0) == binding.FOUND
            assert ends.receiver.status == binding.OK
            assert list(ends.tables[0]) == [token]
            ends.tables[0].clear()
            del opener


def test_more_bytes_in_a_head_than_a_message_has_are_not_read() -> None:
    with Within() as ends:
        ends.boxes[0]._port.delivery.head = 1 << 31
        assert len(ends.receiver.raw()) == binding.DELIVERY_BYTES + binding.MESSAGE_BYTES


def test_a_meta_is_replaced_by_a_meta_only() -> None:
    with pytest.raises(TypeError, match="meta must be a Meta, not int"):
        Odd("source", "pts", 0, bare=True).meta = 5  # type: ignore[assignment]


# ---- in a pipe -----------------------------------------------------------------------------------

COUNT, EVERY = 60, 10


class Odd(SourceRoutine):
    """Writes something into the meta of every tenth message."""

    def __init__(self, name: str, field: str, value: Any, *, bare: bool) -> None:
        super().__init__(name)
        self.field, self.value, self.bare = field, value, bare

    def main_logic(self) -> Any:
        number = self.meta.sequence
        if number == COUNT:
            raise EndOfStream
        if number and number % EVERY == 0:
            setattr(self.meta, self.field, self.value)
        frame = self.loan(SHAPE)
        frame[:] = number
        return frame if self.bare else {"frame": frame}


@pytest.mark.parametrize("across", [True, False], ids=["across", "within"])
@pytest.mark.parametrize("bare", [True, False], ids=["frame", "dict"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("captured_ns", "noon"),
        ("captured_ns", np.zeros(3)),
        ("sequence", None),
        ("origin_number", 1 << 32),
        ("pts", "late"),
    ],
    ids=["time", "array", "number", "origin", "stamp"],
)  # fmt: skip
def test_what_nobody_could_have_meant_costs_its_own_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, field: str, value: Any, bare: bool, across: bool
) -> None:
    """The log names the message; it is counted as sent and dropped, and the others arrive."""
    source = Odd("source", field, value, bare=bare)
    record = Record("record", tmp_path / "record", lambda got: int((got if bare else got["frame"])[0, 0, 0]))
    pipe = Pipe(policy="block")
    flows: list[list[Routine]] = [[source], [record]] if across else [[source, record]]
    for flow in flows:
        pipe.create_flow(flow[0].name, False, *flow)
    pipe.link(Wire(source, record))
    wrong = range(EVERY, COUNT, EVERY)
    with pipe:
        pipe.build()
        pipe.notify_event("start")
    assert [message.value for message in received(tmp_path / "record")] == [n for n in range(COUNT) if n not in wrong]
    wire = pipe.statistics().wires["source", "record"]
    assert (wire.sent, wire.received, wire.dropped["error"]) == (COUNT, COUNT - len(wrong), len(wrong))
    if field != "sequence":
        assert f"message {EVERY} was not sent" in caplog.text


class Source(SourceRoutine):
    """Frames in slots, and everything else, in turn."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(name)
        self.count = count

    def main_logic(self) -> Any:
        number = self.meta.sequence
        if number == self.count:
            raise EndOfStream
        if number % 7 == 3:
            return np.full(SHAPE, number % 251, np.uint8)
        frame = self.loan(SHAPE)
        frame[:] = number % 251
        if number % 7 == 5:
            return {"frame": frame}
        if number % 11 == 0:
            self.meta.pts = float(number)
        return frame


class Keeping(DestinationRoutine):
    """Keeps some frames for a while, and looks at what waits in its process when it ends."""

    def __init__(self, name: str, board: Board, cell: int) -> None:
        super().__init__(name)
        self.board, self.cell = board, cell

    def setup(self) -> None:
        self.kept: list[Any] = []
        self.last = -1

    def main_logic(self, payload: Any) -> None:
        frame = payload["frame"] if isinstance(payload, dict) else payload
        assert frame[0, 0, 0] == frame[-1, -1, -1] == self.meta.sequence % 251
        assert self.meta.sequence > self.last
        self.last = self.meta.sequence
        self.kept.append(frame)
        if len(self.kept) > self.cell:
            self.kept.clear()
        self.board.add(self.cell)

    def cleanup(self) -> None:
        self.kept.clear()
        if self.meta.sequence == 1999:
            waiting: Any = self._runtime
            self.board[8 + self.cell] = sum(len(table) for table in waiting._inbox._tables.values())


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest"])
def test_payloads_of_all_kinds_in_turn_by_both_ways(policy: Any) -> None:
    """C and Python take turns at both ends, and no message waits for ever."""
    board = Board()
    source = Source("source", 2000)
    sinks = [Keeping(f"sink{number}", board, number) for number in range(3)]
    pipe = Pipe(policy=policy, capacity=2)
    pipe.create_flow("flow", False, source, *sinks)
    pipe.link(*(Wire(source, sink) for sink in sinks))
    with pipe:
        pipe.build()
        pipe.notify_event("start")
    statistics = pipe.statistics()
    for number, sink in enumerate(sinks):
        wire = statistics.wires["source", sink.name]
        assert (wire.sent, wire.received + sum(wire.dropped.values())) == (2000, 2000)
        assert wire.received == board[number]
        assert (policy == "block") <= (wire.received == 2000)
        assert statistics.routines[sink.name].errors == 0
    assert [board[8 + number] for number in range(3)] == [0, 0, 0]
