"""What happens at a full queue, by policy, within a flow and across flows; and that every loss is counted under its reason."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm import (
    KILL_EVENT_NAME,
    START_EVENT_NAME,
    DestinationRoutine,
    EndOfStream,
    Pipe,
    QueueNetwork,
    Routine,
    SourceRoutine,
    Wire,
    WireStatistics,
)
from routines import Frames, Items, Record, Sink, received
from waiting import Board, eventually

SEEN, GATE, OTHER = 0, 1, 2


class Burst(SourceRoutine):
    """Sends 0, waits until the receiver has that in hand, then sends 1, 2, … up to `count` as fast as it may."""

    def __init__(self, board: Board, count: int, make: Callable[[int], Any] = int) -> None:
        super().__init__("burst")
        self.board = board
        self.count = count
        self.make = make
        self.next = 0

    def main_logic(self) -> Any:
        if self.next == 1:
            self.board.wait(SEEN)
        if self.next == self.count:
            raise EndOfStream
        self.next += 1
        return self.make(self.next - 1)


def first_number(data: Any) -> int:
    return data if isinstance(data, int) else int(data.flat[0])


class Held(Record):
    """Records; but its main_logic returns from message number n (from 1) only when the board's gate is at n."""

    def __init__(self, board: Board, path: Path) -> None:
        super().__init__("held", path, first_number)
        self.board = board

    def main_logic(self, data: Any) -> None:
        super().main_logic(data)
        self.board.add(SEEN)
        self.board.wait(GATE, self.board[SEEN], timeout=60)


def place_in_flows(pipe: Pipe, across: bool, *routines: Routine) -> None:
    if across:
        for routine in routines:
            pipe.create_flow(f"flow of {routine.name}", False, routine)
    else:
        pipe.create_flow("flow", False, *routines)


def adds_up(wire: WireStatistics) -> None:
    assert wire.sent == wire.received + wire.lost + wire.waiting, wire
    assert wire.protocol_errors == 0


def losses(wire: WireStatistics) -> dict[str, int]:
    return {reason: count for reason, count in wire.dropped.items() if count}


both = pytest.mark.parametrize("across", [False, True], ids=["within", "across"])


# ---- one wire ------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("capacity", [1, 2, 5])
@pytest.mark.parametrize(("policy", "reason"), [("drop_oldest", "oldest"), ("drop_newest", "newest")])
def test_dropping(tmp_path: Path, policy: Any, reason: str, capacity: int, across: bool) -> None:
    board = Board()
    burst, held = Burst(board, 50), Held(board, tmp_path / "r")
    pipe = Pipe()
    place_in_flows(pipe, across, burst, held)
    pipe.link(Wire(burst, held, policy=policy, capacity=capacity))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["burst"].state == "ended")
    wire = pipe.statistics().wires["burst", "held"]
    assert (wire.policy, wire.capacity) == (policy, capacity)
    assert (wire.sent, wire.received, wire.waiting) == (50, 1, capacity)
    assert losses(wire) == {reason: 49 - capacity}
    board[GATE] = 100
    pipe.join()
    kept = range(50 - capacity, 50) if policy == "drop_oldest" else range(1, capacity + 1)
    assert [message.value for message in received(tmp_path / "r")] == [0, *kept]
    adds_up(pipe.statistics().wires["burst", "held"])


@both
@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_blocking(tmp_path: Path, capacity: int, across: bool) -> None:
    board = Board()
    burst, held = Burst(board, 50), Held(board, tmp_path / "r")
    pipe = Pipe()
    place_in_flows(pipe, across, burst, held)
    pipe.link(Wire(burst, held, policy="block", capacity=capacity))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    for taken in range(1, 6):
        in_hand_waiting_and_blocked = (taken + capacity + 1, taken, capacity, 0)

        def stuck(expected: tuple[int, ...] = in_hand_waiting_and_blocked) -> bool:
            wire = pipe.statistics().wires["burst", "held"]
            return (wire.sent, wire.received, wire.waiting, wire.lost) == expected

        eventually(stuck, str(in_hand_waiting_and_blocked))
        board[GATE] = taken
    board[GATE] = 100
    pipe.join()
    assert [message.value for message in received(tmp_path / "r")] == list(range(50))
    wire = pipe.statistics().wires["burst", "held"]
    assert (wire.sent, wire.received, wire.lost) == (50, 50, 0)


@both
def test_blocking_with_a_time_out(tmp_path: Path, across: bool) -> None:
    board = Board()
    burst, held = Burst(board, 8), Held(board, tmp_path / "r")
    pipe = Pipe()
    place_in_flows(pipe, across, burst, held)
    pipe.link(Wire(burst, held, policy="block", capacity=2, timeout=0.05))
    pipe.build()
    started = pipe.statistics().time_s
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["burst"].state == "ended")
    assert pipe.statistics().time_s - started >= 5 * 0.05
    assert losses(pipe.statistics().wires["burst", "held"]) == {"timeout": 5}
    board[GATE] = 100
    pipe.join()
    assert [message.value for message in received(tmp_path / "r")] == [0, 1, 2]
    adds_up(pipe.statistics().wires["burst", "held"])


def test_a_time_out_that_is_not_reached_loses_nothing(tmp_path: Path) -> None:
    pipe = Pipe(policy="block", timeout=30)
    source, record = Items("source", range(300)), Record("record", tmp_path / "r")
    place_in_flows(pipe, True, source, record)
    pipe.link(Wire(source, record))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert [message.value for message in received(tmp_path / "r")] == list(range(300))


@both
def test_the_largest_capacity(across: bool) -> None:
    source, sink = Items("source", range(50)), Sink("sink")
    pipe = Pipe(policy="block", capacity=65536)
    place_in_flows(pipe, across, source, sink)
    pipe.link(Wire(source, sink))
    pipe.build()
    assert pipe._session is not None
    for routine in pipe._session.plan.routines:
        assert routine.slots <= 65535  # which is all that a descriptor can name
        assert routine.message_slots <= 65535
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert pipe.statistics().wires["source", "sink"].received == 50


@pytest.mark.parametrize(
    ("options", "wire_options", "expected"),
    [
        ({}, {}, ("drop_oldest", 2, None)),
        ({"policy": "block", "capacity": 7, "timeout": 3}, {}, ("block", 7, 3)),
        ({"policy": "block", "capacity": 7, "timeout": 3}, {"policy": "drop_newest"}, ("drop_newest", 7, None)),
        ({"policy": "block", "timeout": 3}, {"capacity": 4}, ("block", 4, 3)),
        ({"network": QueueNetwork(4, True, timeout=2)}, {}, ("block", 4, 2)),
        ({"network": QueueNetwork(4, True, timeout=2)}, {"timeout": 5}, ("block", 4, 5)),
    ],
)
def test_a_wire_s_settings_go_before_the_pipe_s(options: Any, wire_options: Any, expected: Any) -> None:
    pipe = Pipe(**options)
    source, sink = Items("source", []), Sink("sink")
    place_in_flows(pipe, True, source, sink)
    pipe.link(Wire(source, sink, **wire_options))
    pipe.build()
    wire = pipe.statistics().wires["source", "sink"]
    assert pipe._session is not None
    assert (wire.policy, wire.capacity, pipe._session.plan.edges[0].timeout) == expected
    pipe.join(to_kill=True)


# ---- other reasons -------------------------------------------------------------------------------


@both
def test_what_comes_after_the_receiver_s_end(tmp_path: Path, across: bool) -> None:
    class Enough(DestinationRoutine):
        def main_logic(self, data: Any) -> None:
            if data == 4:
                raise EndOfStream

    pipe = Pipe(policy="block")
    source, enough = Items("source", range(50)), Enough("enough")
    place_in_flows(pipe, across, source, enough)
    pipe.link(Wire(source, enough))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    wire = pipe.statistics().wires["source", "enough"]
    assert (wire.sent, wire.received, losses(wire)) == (50, 5, {"ended": 45})


@both
def test_what_a_kill_finds_unsent(tmp_path: Path, across: bool) -> None:
    board = Board()
    burst, held = Burst(board, 50), Held(board, tmp_path / "r")
    pipe = Pipe()
    place_in_flows(pipe, across, burst, held)
    pipe.link(Wire(burst, held, policy="block"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().wires["burst", "held"].sent == 4)
    pipe.notify_event(KILL_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["burst"].state == "stopped")
    board[GATE] = 100
    pipe.join()
    wire = pipe.statistics().wires["burst", "held"]
    assert (wire.sent, wire.received + wire.waiting, losses(wire)) == (4, 3, {"stopped": 1})


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "block"])
def test_a_memory_budget_with_room_for_few_slots(tmp_path: Path, policy: Any) -> None:
    """A ring of three slots for a queue of eight: the policy decides, and nothing of it is an error."""
    board = Board()
    burst, held = Burst(board, 30, lambda n: np.full(5_000_000, n, np.uint8)), Held(board, tmp_path / "r")
    pipe = Pipe(memory_budget=17_000_000)
    place_in_flows(pipe, True, burst, held)
    pipe.link(Wire(burst, held, policy=policy, capacity=8))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    if policy == "block":
        eventually(lambda: pipe.statistics().wires["burst", "held"].waiting == 2)
    else:
        eventually(lambda: pipe.statistics().routines["burst"].state == "ended")
        assert losses(pipe.statistics().wires["burst", "held"]) == {"no_slot": 27}
    board[GATE] = 100
    pipe.join()
    got = [message.value for message in received(tmp_path / "r")]
    assert got == {"drop_oldest": [0, 28, 29], "drop_newest": [0, 1, 2], "block": list(range(30))}[policy]
    adds_up(pipe.statistics().wires["burst", "held"])
    assert pipe.statistics().routines["burst"].errors == 0


# ---- several wires -------------------------------------------------------------------------------


@both
def test_a_stuck_real_time_receiver_does_not_slow_a_blocking_one(tmp_path: Path, across: bool) -> None:
    board = Board()
    burst, held, record = Burst(board, 200), Held(board, tmp_path / "held"), Record("record", tmp_path / "r")
    pipe = Pipe()
    place_in_flows(pipe, across, burst, held, record)
    pipe.link(Wire(burst, held, policy="drop_oldest"), Wire(burst, record, policy="block"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["record"].state == "ended")  # and the other one still has the first in hand
    assert board[SEEN] == 1
    assert [message.value for message in received(tmp_path / "r")] == list(range(200))
    board[GATE] = 100
    pipe.join()
    assert [message.value for message in received(tmp_path / "held")] == [0, 198, 199]
    for wire in pipe.statistics().wires.values():
        adds_up(wire)


@both
def test_a_blocking_receiver_does_not_keep_messages_from_a_real_time_one(tmp_path: Path, across: bool) -> None:
    """The message for which the sender waits at one wire has already gone out on the other."""
    board = Board()
    burst, held, sink = Burst(board, 20), Held(board, tmp_path / "r"), Sink("sink", board, OTHER)
    pipe = Pipe()
    place_in_flows(pipe, across, burst, held, sink)
    pipe.link(Wire(burst, held, policy="block"), Wire(burst, sink, policy="drop_newest", capacity=20))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(OTHER, 4)
    wire = pipe.statistics().wires["burst", "held"]
    assert (wire.received, wire.waiting) == (1, 2)
    board[GATE] = 100
    pipe.join()
    assert [message.value for message in received(tmp_path / "r")] == list(range(20))
    assert board[OTHER] == 20


@both
def test_senders_take_turns(tmp_path: Path, across: bool) -> None:
    class GatedRecord(Record):
        def main_logic(self, data: Any) -> None:
            board.wait(GATE)
            super().main_logic(data)

    board = Board()
    sources, record = [Items(f"s{n}", range(4)) for n in range(3)], GatedRecord("record", tmp_path / "r")
    pipe = Pipe(policy="block", capacity=4)
    place_in_flows(pipe, across, *sources, record)
    pipe.link(*(Wire(source, record) for source in sources))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: all(pipe.statistics().routines[source.name].state == "ended" for source in sources))
    board[GATE] = 1
    pipe.join()
    origins = [message.origin for message in received(tmp_path / "r")]
    assert len(origins) == 12
    assert all(len(set(origins[n : n + 3])) == 3 for n in range(1, 7))  # the first may have come before the others were there


@both
@pytest.mark.parametrize("payload", ["frame", "number"])
@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "block"])
def test_order_and_sums_at_full_speed(tmp_path: Path, policy: Any, payload: str, across: bool) -> None:
    count = 1500
    pipe = Pipe(policy=policy)
    source: Routine = Items("source", range(count))
    if payload == "frame":
        source = Frames("source", count, (40, 50, 3), loan=across)
    records = [Record(f"r{n}", tmp_path / f"r{n}", first_number) for n in (0, 1)]
    place_in_flows(pipe, across, source, *records)
    pipe.link(Wire(source, records))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    for record in records:
        messages = received(record.path)
        sequences = [message.sequence for message in messages]
        assert all(a < b for a, b in pairwise(sequences))
        assert [message.value for message in messages] == [n if payload == "number" else n % 251 for n in sequences]
        wire = pipe.statistics().wires["source", record.name]
        assert (wire.sent, wire.received, wire.waiting) == (count, len(messages), 0)
        adds_up(wire)
        if policy == "block":
            assert len(messages) == count
        if policy == "drop_oldest":
            assert sequences[-1] == count - 1
        if policy == "drop_newest":
            assert sequences[0] == 0
