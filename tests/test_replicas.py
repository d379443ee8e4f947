"""Replicas: several processes that run one flow, each message going to the one that has the least to do."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm import (
    START_EVENT_NAME,
    DestinationRoutine,
    MiddleRoutine,
    Pipe,
    PipeFailed,
    RoutineError,
    UnknownTarget,
    Wire,
    events,
)
from routines import Forward, Frames, Items, Record, chain, one_value, received
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
    lost = statistics.routines["worker#0"].lost_in_crash
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
    lost = statistics.routines["worker#0"].lost_in_crash + statistics.wires["source", "worker#0"].lost
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
