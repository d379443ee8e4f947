"""Replicas: several processes that run one flow, each message going to the one that has the least to do."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm import (
    KILL_EVENT_NAME,
    START_EVENT_NAME,
    UNLINK_EVENT_NAME,
    DestinationRoutine,
    MiddleRoutine,
    Pipe,
    PipeFailed,
    RoutineError,
    UnknownTarget,
    Wire,
    events,
)
from pipert_shm.graph.sizing import HELD_BACK
from pipert_shm.statistics import PipeStatistics
from routines import Burst, Forward, Frames, Items, Record, chain, one_value, received
from waiting import Board, eventually

SHAPE = (48, 64, 3)
COUNT = 60
GATE, HELD, TAKEN = 0, 1, 2


class Worker(MiddleRoutine):
    """Says which replica it was. The first message that number `slow` gets it holds until the gate opens."""

    def __init__(self, name: str, board: Board, slow: int | None = None) -> None:
        super().__init__(name)
        self.board = board
        self.slow = slow
        self.factor = 1

    def main_logic(self, data: np.ndarray) -> Any:
        number = int(self.name.rpartition("#")[2])
        if number == self.slow and not self.board[GATE]:
            self.board[HELD] = 1
            self.board.wait(GATE, timeout=60)
        self.board.add(TAKEN + number)
        return self.name, one_value(data) * self.factor

    @events("TIMES")
    def times(self, factor: int) -> None:
        self.factor = factor
        self.board.add(10 + int(self.name.rpartition("#")[2]))


def replicated(pipe: Pipe, source: Any, worker: Worker, record: Record, count: int, **options: Any) -> None:
    pipe.create_flow("source", False, source)
    pipe.create_flow("workers", False, worker, replicas=count, **options)
    pipe.create_flow("record", False, record)
    pipe.link(Wire(source, worker), Wire(worker, record))


@pytest.mark.parametrize("count", [2, 5])
def test_each_message_goes_to_one_of_them(tmp_path: Path, count: int) -> None:
    pipe = Pipe(policy="block")
    record = Record("record", tmp_path / "r")
    replicated(pipe, Frames("source", COUNT, SHAPE), Worker("worker", Board()), record, count)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    got = received(tmp_path / "r")
    assert sorted((message.sequence, message.value[1]) for message in got) == [(n, n) for n in range(COUNT)]
    shares = Counter(message.value[0] for message in got)
    assert set(shares) == {f"worker#{number}" for number in range(count)}
    statistics = pipe.statistics()
    for name, share in shares.items():
        wire = statistics.wires["source", name]
        assert (wire.sent, wire.received, wire.lost) == (share, share, 0)
        assert [seq for seq, (who, _) in ((m.sequence, m.value) for m in got) if who == name] == sorted(
            m.sequence for m in got if m.value[0] == name
        )
    assert statistics.routines["source"].copied_bytes == COUNT * np.prod(SHAPE)  # once, not once per replica
    assert set(statistics.flows) == {"source", "record", *(f"workers#{number}" for number in range(count))}


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest"])
def test_the_one_with_the_least_to_do_gets_it(tmp_path: Path, policy: Any) -> None:
    """One that is held up gets what it is in, or even nothing behind it, while the others take the rest."""
    board = Board()
    pipe = Pipe(policy="block", auto_pacing_mechanism=True)
    source, worker, record = Frames("source", COUNT, SHAPE), Worker("worker", board, slow=1), Record("record", tmp_path / "r")
    pipe.create_flow("source", False, source)
    pipe.create_flow("workers", False, worker, replicas=3)
    pipe.create_flow("record", False, record)
    pipe.link(Wire(source, worker, policy=policy, capacity=4), Wire(worker, record))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(HELD)
    eventually(lambda: board[TAKEN] + board[TAKEN + 2] >= COUNT - 1 - 4)
    board[GATE] = 1
    pipe.join()
    assert sorted(message.value[1] for message in received(tmp_path / "r")) == list(range(COUNT))


def test_events_by_the_plain_name_reach_all(tmp_path: Path) -> None:
    board = Board(20)
    pipe = Pipe(policy="block")
    replicated(pipe, Frames("source", None, SHAPE), Worker("worker", board), Record("record", tmp_path / "r"), 2)
    pipe.build()
    pipe.notify_event("TIMES", specific_routine="worker", factor=2)
    eventually(lambda: [board[10], board[11]] == [1, 1])
    pipe.notify_event("TIMES", {"workers": []}, factor=3)
    eventually(lambda: [board[10], board[11]] == [2, 2])
    pipe.notify_event("TIMES", {"workers": ["worker"]}, factor=3)
    eventually(lambda: [board[10], board[11]] == [3, 3])
    pipe.notify_event("TIMES", {"workers#1": ["worker#1"]}, factor=4)
    eventually(lambda: [board[10], board[11]] == [3, 4])
    pipe.notify_event("TIMES", specific_routine="worker#0", factor=4)
    eventually(lambda: [board[10], board[11]] == [4, 4])
    nobody: list[dict[str, Iterable[str]]] = [{"workers#1": ["worker#0"]}, {"workers#1": ["worker"]}, {"workers#7": []}]
    for targets in nobody:
        with pytest.raises(UnknownTarget, match=r"workers?#1"):
            pipe.notify_event("TIMES", targets, factor=1)
    pipe.join(to_kill=True)


def lost_by(statistics: PipeStatistics, name: str) -> int:
    """What was lost in the hands of a killed routine, on the way to it, and on its way out of it."""
    ways = [wire.lost for ends, wire in statistics.wires.items() if name in ends]
    return sum(ways, statistics.routines[name].lost_in_crash)


def test_a_killed_replica_loses_what_it_had_in_hand(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block")
    replicated(pipe, Frames("source", COUNT, SHAPE), Worker("worker", board, slow=0), Record("record", tmp_path / "r"), 2)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(HELD)
    board[GATE] = 1
    os.kill(pipe.statistics().flows["workers#0"].pid, signal.SIGKILL)
    pipe.join()
    statistics = pipe.statistics()
    lost = lost_by(statistics, "worker#0")
    assert lost <= 1
    values = [message.value[1] for message in received(tmp_path / "r")]
    assert len(set(values)) == len(values) == COUNT - lost
    assert statistics.flows["workers#0"].restarts == 1


def test_a_replica_that_fails_for_good_leaves_its_part_to_the_others(tmp_path: Path) -> None:
    board = Board()
    pipe = Pipe(policy="block", capacity=1)
    source, worker, record = Frames("source", COUNT, SHAPE), Worker("worker", board, slow=0), Record("record", tmp_path / "r")
    replicated(pipe, source, worker, record, 2, max_restarts=0)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(HELD)
    os.kill(pipe.statistics().flows["workers#0"].pid, signal.SIGKILL)
    with pytest.raises(PipeFailed, match="workers#0"):
        pipe.join()
    statistics = pipe.statistics()
    values = [message.value[1] for message in received(tmp_path / "r")]
    lost = lost_by(statistics, "worker#0")
    assert lost <= 3
    assert len(set(values)) == len(values) == COUNT - lost
    assert statistics.routines["worker#1"].received == len(values)


def test_a_flow_of_several_routines_and_replicas_after_replicas(tmp_path: Path) -> None:
    class Last(DestinationRoutine):
        def main_logic(self, data: np.ndarray) -> None:
            path = [hop.routine for hop in self.meta.hops]
            assert path[0].split("#")[1] == path[1].split("#")[1]
            with (tmp_path / self.name).open("a") as file:
                file.write(f"{self.meta.sequence} {path[1]}\n")

    source, one, two, last = Frames("source", COUNT, SHAPE), Forward("one"), Forward("two"), Last("last")
    pipe = Pipe(policy="block")
    pipe.create_flow("source", False, source)
    pipe.create_flow("middle", True, one, two, replicas=2)
    pipe.create_flow("end", False, last, replicas=2)
    pipe.link(Wire(source, one), Wire(two, last))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    lines = [line.split() for number in range(2) for line in (tmp_path / f"last#{number}").read_text().splitlines()]
    assert sorted(int(sequence) for sequence, _ in lines) == list(range(COUNT))
    assert {name for _, name in lines} == {"two#0", "two#1"}
    assert all(routine.errors == 0 for routine in pipe.statistics().routines.values())


def test_what_can_have_no_replicas() -> None:
    with pytest.raises(ValueError, match="replicas must be a whole number of at least 1"):
        Pipe().create_flow("flow", False, Forward("one"), replicas=0)
    pipe = Pipe()
    source, record = Items("source", []), Forward("record")
    pipe.create_flow("sources", False, source, replicas=2)
    pipe.create_flow("record", False, record)
    pipe.link(Wire(source, record))
    with pytest.raises(RoutineError, match="a source can't have replicas"):
        pipe.build()


def test_a_name_that_a_replica_has(tmp_path: Path) -> None:
    pipe = Pipe()
    worker = Worker("worker", Board())
    pipe.create_flow("source", False, source := Frames("source", 1))
    pipe.create_flow("workers", False, worker, replicas=2)
    pipe.create_flow("record", False, record := Record("worker#1", tmp_path / "r"))
    pipe.link(Wire(source, worker), Wire(worker, record))
    with pytest.raises(Exception, match="two of this name"):
        pipe.build()


def test_the_structure_shows_the_flow_as_it_was_made(tmp_path: Path) -> None:
    pipe = Pipe()
    chain(pipe, Frames("source", 1), Worker("worker", Board()), Record("record", tmp_path / "r"), replicas=1)
    names = [routine["routine_name"] for routine in pipe.get_pipe_structure()["Routines"]]
    assert names == ["source", "worker", "record"]


# ---- the order after them ------------------------------------------------------------------------


class Uneven(Worker):
    """Takes longer for some messages; has no result for some, and fails on some."""

    def main_logic(self, data: np.ndarray) -> Any:
        value = one_value(data)
        for _ in range(value % 5 * 20):
            np.sort(np.arange(20_000)[::-1])
        if value % 7 == 3:
            return None
        if value % 11 == 5:
            raise ValueError("on purpose")
        return super().main_logic(data)


def expected(count: int) -> list[int]:
    return [n for n in range(count) if n % 7 != 3 and n % 11 != 5]


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("policy", ["block", "drop_oldest"])
def test_the_order_is_restored(tmp_path: Path, count: int, policy: Any) -> None:
    pipe = Pipe(policy="block", auto_pacing_mechanism=True)
    record = Record("record", tmp_path / "r")
    source, worker = Frames("source", COUNT, SHAPE), Uneven("worker", Board())
    pipe.create_flow("source", False, source)
    pipe.create_flow("workers", False, worker, replicas=count, ordered=True)
    pipe.create_flow("record", False, record)
    pipe.link(Wire(source, worker, policy=policy), Wire(worker, record))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert [message.sequence for message in received(tmp_path / "r")] == expected(COUNT)
    assert len({message.value[0] for message in received(tmp_path / "r")}) == count
    statistics = pipe.statistics()
    for wire in statistics.wires.values():
        assert (wire.sent, wire.lost, wire.private_bytes) == (wire.received, 0, 0)


def test_a_late_result_holds_the_others_back_and_no_more_than_a_few(tmp_path: Path) -> None:
    """And the replicas behind the others wait, until it comes."""
    board = Board()
    pipe = Pipe(policy="block", capacity=2)
    source, worker, record = Frames("source", COUNT, SHAPE), Worker("worker", board, slow=1), Record("record", tmp_path / "r")
    replicated(pipe, source, worker, record, 3, ordered=True)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    full = [("source", f"worker#{number}") for number in range(3)] + [("worker#0", "record"), ("worker#2", "record")]
    in_hands = 4  # of the source, and of each worker
    sent = 1 + len(full) * 2 + in_hands + 2 * HELD_BACK  # the first one went to worker#0, and waits for nothing

    def is_full() -> bool:
        now = pipe.statistics()
        return all(now.wires[wire].waiting == 2 for wire in full) and now.routines["source"].sent == sent

    eventually(is_full)
    board[GATE] = 1
    pipe.join()
    assert [message.sequence for message in received(tmp_path / "r")] == list(range(COUNT))
    assert sum(wire.private_bytes for wire in pipe.statistics().wires.values()) == 0


def _sent_by_first(pipe: Pipe, count: int) -> bool:
    return pipe.statistics().wires["worker#0", "last"].sent == count


def test_nobody_waits_for_what_a_killed_replica_had() -> None:
    """Also when nothing more is sent to it."""
    board = Board()
    pipe = Pipe(policy="block")
    source, worker, last = Burst("source", board, 8), Worker("worker", board, slow=1), Ordered("last", board)
    pipe.create_flow("source", False, source)
    pipe.create_flow("workers", False, worker, replicas=2, ordered=True)
    pipe.create_flow("last", False, last)
    pipe.link(Wire(source, worker), Wire(worker, last))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board[8] = 2
    board.wait(HELD)
    for taken in range(1, 4):
        board.wait(TAKEN, taken)
        eventually(partial(_sent_by_first, pipe, taken))
        board[8] = 2 + taken
    board.wait(TAKEN, 4)
    assert board[10] <= 1
    os.kill(pipe.statistics().flows["workers#1"].pid, signal.SIGKILL)
    board.wait(10, 4)
    assert pipe.statistics().routines["worker#1"].lost_in_crash == 1
    assert pipe.statistics().wires["source", "worker#1"].sent == 1
    pipe.notify_event(KILL_EVENT_NAME)
    board[8] = 1 << 60
    board[GATE] = 1  # the slow one may have got one more
    pipe.join()
    assert board[11] == 0


def test_nobody_waits_for_what_there_was_no_room_for() -> None:
    board = Board()
    pipe = Pipe(policy="block")
    source, worker, last = Burst("source", board, 8), Gate("worker", board), Ordered("last", board)
    pipe.create_flow("source", False, source)
    pipe.create_flow("workers", False, worker, replicas=2, ordered=True)
    pipe.create_flow("last", False, last)
    pipe.link(Wire(source, worker, policy="drop_newest", capacity=1), Wire(worker, last))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board[8] = 2
    wires = [("source", "worker#0"), ("source", "worker#1")]
    eventually(lambda: all(pipe.statistics().wires[wire].received == 1 for wire in wires))  # one in each of their hands
    board[8] = 4
    eventually(lambda: all(pipe.statistics().wires[wire].waiting == 1 for wire in wires))
    board[8] = 5
    eventually(lambda: sum(pipe.statistics().wires[wire].dropped["newest"] for wire in wires) == 1)
    board[GATE] = 1
    board.wait(10, 4)
    board[8] = 6
    board.wait(10, 5)
    pipe.notify_event(KILL_EVENT_NAME)
    board[8] = 1 << 60
    pipe.join()
    assert board[11] == 0


class Gate(MiddleRoutine):
    """Counts, then waits for the gate."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: np.ndarray) -> np.ndarray:
        self.board.add(HELD)
        self.board.wait(GATE, timeout=60)
        return data


VICTIMS = [["workers#0"], ["workers#0", "workers#1"], ["source"], ["record"], ["source", "workers#1"]]


@pytest.mark.parametrize("victims", VICTIMS, ids=" and ".join)
def test_the_order_after_kills(victims: list[str]) -> None:
    """What a killed process had is lost and counted; nobody waits for it, and nothing comes out of order."""
    board = Board()
    pipe = Pipe(policy="block")
    source, worker, record = Frames("source", None, SHAPE), Uneven("worker", board), Ordered("record", board)
    source.set_const_fps(200)
    pipe.create_flow("source", False, source, max_restarts=100)
    pipe.create_flow("workers", False, worker, replicas=3, ordered=True, max_restarts=100)
    pipe.create_flow("record", False, record, max_restarts=100)
    pipe.link(Wire(source, worker), Wire(worker, record))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    for _ in range(6):
        board.wait(10, board[10] + 20)
        for victim in victims:
            pid = pipe.statistics().flows[victim].pid
            if pid:
                os.kill(pid, signal.SIGKILL)
    board.wait(10, board[10] + 40)
    pipe.join(to_kill=True)
    assert board[11] == 0, "out of order"
    statistics = pipe.statistics()
    assert statistics.routines["record"].errors == 0


class Ordered(DestinationRoutine):
    """Counts on the board what comes, and what comes out of order."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def main_logic(self, data: Any) -> None:
        if self.meta.sequence < self.board[12]:
            self.board.add(11)
        self.board[12] = self.meta.sequence
        self.board.add(10)


def test_the_stream_ends_behind_what_is_lost(tmp_path: Path) -> None:
    """The last messages are in the hands of a replica that is killed: the end comes all the same."""
    board = Board()
    pipe = Pipe(policy="block")
    source, worker, record = Frames("source", 4, SHAPE), Worker("worker", board, slow=1), Record("record", tmp_path / "r")
    replicated(pipe, source, worker, record, 2, ordered=True)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(HELD)
    board[GATE] = 1
    os.kill(pipe.statistics().flows["workers#1"].pid, signal.SIGKILL)
    pipe.join()
    got = [message.sequence for message in received(tmp_path / "r")]
    assert got == sorted(got)
    assert len(got) == 4 - lost_by(pipe.statistics(), "worker#1")


def test_an_ordered_chain(tmp_path: Path) -> None:
    class Third(MiddleRoutine):
        def main_logic(self, data: np.ndarray) -> Any:
            return None if one_value(data) % 3 == 0 else data

    source, record = Frames("source", COUNT, SHAPE), Record("record", tmp_path / "r", one_value)
    other = Record("other", tmp_path / "o", one_value)
    third, last = Third("third"), Forward("last")
    pipe = Pipe(policy="block")
    pipe.create_flow("source", False, source)
    pipe.create_flow("middle", True, third, last, replicas=2, ordered=True)
    pipe.create_flow("ends", False, record, other)
    pipe.link(Wire(source, third), Wire(last, [record, other]))
    pipe.build()
    with pipe.tap("last#0") as tap:
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
        assert all(one_value(frame) % 3 for frame in tap)
    for path in ("r", "o"):
        assert [message.value for message in received(tmp_path / path)] == [n for n in range(COUNT) if n % 3]


def test_an_ordered_flow_that_can_have_no_order(tmp_path: Path) -> None:
    def build(*flow: Any, wires: list[Wire], sink_replicas: int = 1) -> None:
        pipe = Pipe()
        pipe.create_flow("source", False, source)
        pipe.create_flow("flow", False, *flow, replicas=2, ordered=True)
        pipe.create_flow("sink", False, sink, replicas=sink_replicas)
        pipe.link(*wires)
        pipe.build()

    source, sink, one, two = Frames("source", 1), Forward("sink"), Forward("one"), Forward("two")
    with pytest.raises(Exception, match="have to be a chain"):
        build(one, two, wires=[Wire(source, [one, two]), Wire(one, sink), Wire(two, sink)])
    source, sink, one = Frames("source", 1), Forward("sink"), Forward("one")
    with pytest.raises(Exception, match="can't have replicas itself"):
        build(one, wires=[Wire(source, one), Wire(one, sink)], sink_replicas=2)


def test_the_replicas_are_unlinked_by_their_plain_name() -> None:
    board = Board()
    pipe = Pipe(policy="block")
    source, worker, last = Frames("source", None, SHAPE), Worker("worker", board), Ordered("last", board)
    other = Ordered("other", Board())
    for routine in (source, last, other):
        pipe.create_flow(routine.name, False, routine)
    pipe.create_flow("workers", False, worker, replicas=2)
    pipe.link(Wire(source, [worker, other]), Wire(worker, last))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(10, 5)
    pipe.notify_event(UNLINK_EVENT_NAME, specific_routine="source", unlink_routine_name="worker")
    for number in range(2):
        eventually(partial(_is_over, pipe, f"worker#{number}"))
    wires = pipe.statistics().wires
    assert [wires["source", name].linked for name in ("worker#0", "worker#1", "other")] == [False, False, True]
    pipe.join(to_kill=True)


def _is_over(pipe: Pipe, name: str) -> bool:
    return pipe.statistics().routines[name].state == "ended"
