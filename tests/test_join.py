"""Join: a message of each input that belong together; what finds no partner is dropped and counted, not kept."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import processes
from killing import FAST, await_motion, await_successor, pid_of, running
from pipert_shm import (
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UNLINK_EVENT_NAME,
    BatchRoutine,
    EndOfStream,
    Join,
    MiddleRoutine,
    Pipe,
    RoutineError,
    SourceRoutine,
    Wire,
)
from pipert_shm.join import Matcher
from routines import Apply, Forward, Frames, Record, chain, one_value, received
from waiting import Board, eventually

SHAPE = (64, 64, 3)
GATE = 0


class Joined(MiddleRoutine):
    """Sends on what was joined: by sender its value, and the sequence numbers of all."""

    def __init__(self, name: str, join: Join) -> None:
        super().__init__(name)
        self.join = join

    def main_logic(self, data: dict[str, Any]) -> Any:
        assert len(self.metas) == len(data)
        assert self.meta.captured_ns == min(meta.captured_ns for meta in self.metas)
        values = {name: one_value(part) if isinstance(part, np.ndarray) else part for name, part in data.items()}
        return values, [meta.sequence for meta in self.metas], self.meta.sequence


def run(pipe: Pipe) -> None:
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()


def adds_up(pipe: Pipe) -> None:
    statistics = pipe.statistics()
    for wire in statistics.wires.values():
        assert wire.sent == wire.received + wire.lost + wire.waiting, wire


@pytest.mark.parametrize("across", [True, False], ids=["across", "within"])
def test_two_branches_of_one_source(tmp_path: Path, across: bool) -> None:
    source, direct, by_way = (
        Frames("source", 50, SHAPE),
        Forward("direct"),
        Apply("detector", lambda frame: one_value(frame) * 2),
    )
    joined = Joined("joined", Join(by="seq"))
    record = Record("record", tmp_path / "r")
    routines = (source, direct, by_way, joined, record)
    pipe = Pipe(policy="block")
    if across:
        for routine in routines:
            pipe.create_flow(routine.name, False, routine)
    else:
        pipe.create_flow("flow", False, *routines)
    pipe.link(Wire(source, [direct, by_way]), Wire(by_way, joined), Wire(direct, joined), Wire(joined, record))
    run(pipe)
    got = [(message.sequence, *message.value) for message in received(tmp_path / "r")]
    assert got == [(n, {"detector": n * 2, "direct": n}, [n, n], n) for n in range(50)]
    assert all(wire.lost == 0 for wire in pipe.statistics().wires.values())
    adds_up(pipe)


@pytest.mark.parametrize("slow", [3, 7])
def test_a_slow_branch_that_skips(tmp_path: Path, slow: int) -> None:
    """A detector that takes every third frame: the frames between have no partner, and are counted."""

    class Detector(MiddleRoutine):
        def main_logic(self, data: np.ndarray) -> Any:
            return None if self.meta.sequence % slow else one_value(data)

    source, detector, joined = Frames("source", 60, SHAPE), Detector("detector"), Joined("joined", Join(by="seq", depth=slow))
    record = Record("record", tmp_path / "r")
    pipe = Pipe(policy="block")
    for routine in (source, detector, joined, record):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, [detector, joined]), Wire(detector, joined), Wire(joined, record))
    run(pipe)
    pairs = [message.value[0] for message in received(tmp_path / "r")]
    wire = pipe.statistics().wires["source", "joined"]
    assert all(pair == {"source": n, "detector": n} for pair, n in zip(pairs, (p["source"] for p in pairs), strict=True))
    assert [pair["source"] for pair in pairs] == sorted({pair["source"] for pair in pairs})
    # How far the detector lags is the scheduler's: a pair that comes too late for the depth is dropped on both wires.
    assert wire.received == len(pairs)
    assert wire.dropped["join"] == wire.lost == 60 - len(pairs)
    assert pipe.statistics().wires["detector", "joined"].received == len(pairs)
    assert pipe.statistics().routines["joined"].received == 2 * len(pairs)
    assert wire.private_bytes == 0
    adds_up(pipe)


class Timed(SourceRoutine):
    """Numbers, captured at given times."""

    def __init__(self, name: str, times: list[float]) -> None:
        super().__init__(name)
        self.times = times

    def main_logic(self) -> int:
        if self.meta.sequence == len(self.times):
            raise EndOfStream
        self.meta.captured_ns = int(self.times[self.meta.sequence] * 1e9) + 1_000_000_000
        return self.meta.sequence


def test_by_time(tmp_path: Path) -> None:
    """Two cameras out of step, one of which misses a frame."""
    left = Timed("left", [0.00, 0.10, 0.20, 0.30, 0.40])
    right = Timed("right", [0.01, 0.12, 0.33, 0.39, 0.50])
    joined = Joined("joined", Join(by="time", tolerance=0.035))
    record = Record("record", tmp_path / "r")
    pipe = Pipe(policy="block")
    for routine in (left, right, joined, record):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(left, joined), Wire(right, joined), Wire(joined, record))
    run(pipe)
    pairs = [(message.value[0]["left"], message.value[0]["right"]) for message in received(tmp_path / "r")]
    assert pairs == [(0, 0), (1, 1), (3, 2), (4, 3)]
    wires = pipe.statistics().wires
    assert (wires["left", "joined"].dropped["join"], wires["right", "joined"].dropped["join"]) == (1, 1)
    adds_up(pipe)


def test_a_silent_input_does_not_pile_the_others_up(tmp_path: Path) -> None:
    """No more than `depth` wait; the source is not held up, and nothing of it is copied."""
    source, silent = Frames("source", 100, SHAPE), Apply("silent", lambda frame: None)
    joined, record = Joined("joined", Join(by="seq", depth=4)), Record("record", tmp_path / "r")
    pipe = Pipe(policy="block")
    for routine in (source, silent, joined, record):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, [silent, joined]), Wire(silent, joined), Wire(joined, record))
    run(pipe)
    wire = pipe.statistics().wires["source", "joined"]
    assert (wire.sent, wire.received, wire.dropped["join"], wire.private_bytes) == (100, 0, 100, 0)
    assert pipe.statistics().routines["joined"].received == 0
    assert received(tmp_path / "r") == []


def waiting_for_partners(tmp_path: Path, board: Board) -> Pipe:
    """Six frames wait in a join for their partners, which come when the board's gate opens; the join is stopped."""

    def gated(frame: np.ndarray) -> int:
        board.wait(GATE, 1, timeout=60)
        return one_value(frame)

    source, late = Frames("source", 6, SHAPE), Apply("late", gated)
    joined, record = Joined("joined", Join(by="seq")), Record("record", tmp_path / "r")
    pipe = Pipe(policy="block", capacity=10)
    for routine in (source, late, joined, record):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, [late, joined]), Wire(late, joined), Wire(joined, record))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["joined"].received == 6)
    pipe.notify_event(STOP_EVENT_NAME, specific_routine="joined")
    eventually(lambda: pipe.statistics().routines["joined"].state == "stopped")
    return pipe


def test_what_waits_at_a_stop_waits_on(tmp_path: Path) -> None:
    board = Board()
    pipe = waiting_for_partners(tmp_path, board)
    wire = pipe.statistics().wires["source", "joined"]
    assert (wire.received, wire.dropped["join"]) == (6, 0)
    board[GATE] = 1
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert [message.sequence for message in received(tmp_path / "r")] == list(range(6))
    assert sum(wire.dropped["join"] for wire in pipe.statistics().wires.values()) == 0
    adds_up(pipe)


def test_what_waits_at_a_kill_is_dropped(tmp_path: Path) -> None:
    board = Board()
    pipe = waiting_for_partners(tmp_path, board)
    board[GATE] = 1
    pipe.join(to_kill=True)
    wire = pipe.statistics().wires["source", "joined"]
    assert (wire.received, wire.dropped["join"]) == (0, 6)


@pytest.mark.parametrize("ordered", [True, False])
def test_replicas_are_one_input(tmp_path: Path, ordered: bool) -> None:
    source, worker = Frames("source", 60, SHAPE), Forward("worker")
    joined, record = Joined("joined", Join(by="seq", depth=30)), Record("record", tmp_path / "r")
    pipe = Pipe(policy="block", capacity=3)
    for routine in (source, joined, record):
        pipe.create_flow(routine.name, False, routine)
    pipe.create_flow("workers", False, worker, replicas=3, ordered=ordered)
    pipe.link(Wire(source, [worker, joined]), Wire(worker, joined), Wire(joined, record))
    run(pipe)
    got = [message.value[0] for message in received(tmp_path / "r")]
    dropped = pipe.statistics().wires["source", "joined"].dropped["join"]
    assert len(got) == 60 - dropped
    assert all(values == {"source": number, "worker": number} for values, number in zip(got, expected(got), strict=True))
    assert not (ordered and dropped)
    adds_up(pipe)


def expected(got: list[dict[str, int]]) -> list[int]:
    return sorted(values["source"] for values in got)


def test_an_input_that_is_unlinked_is_still_one(tmp_path: Path) -> None:
    """Also for the next process: it has no results, until the wire is there again, and drains what it left."""
    source, other = Frames("source", None, SHAPE), Forward("other")
    joined, record = Joined("joined", Join(by="seq", depth=30)), Record("record", tmp_path / "r")
    source.set_const_fps(200)
    pipe = Pipe(policy="block", capacity=4)
    for routine in (source, other, joined, record):
        pipe.create_flow(routine.name, False, routine, **FAST)
    pipe.link(Wire(source, [other, joined]), Wire(other, joined), Wire(joined, record))
    with running(pipe):
        await_motion(pipe)
        for _ in range(3):
            stopped = pid_of(pipe, "joined")
            processes.stop(stopped)
            eventually(lambda: pipe.statistics().wires["other", "joined"].waiting == 4, "messages that are not read")
            pipe.notify_event(UNLINK_EVENT_NAME, unlink_routine_name="joined", specific_routine="other")
            eventually(lambda: pipe.statistics().wires["other", "joined"].waiting == 4, "messages that are not read")
            os.kill(stopped, signal.SIGKILL)
            await_successor(pipe, "joined", stopped)
            eventually(lambda: pipe.statistics().wires["other", "joined"].waiting == 0, "an end of what was sent")
            before = pipe.statistics().wires["source", "joined"].sent
            eventually(lambda before=before: pipe.statistics().wires["source", "joined"].sent > before + 50)  # type: ignore[misc]
            pipe.notify_event(LINK_EVENT_NAME, link_routine_name="joined", specific_routine="other")
            await_motion(pipe)
        assert pipe.statistics().routines["joined"].errors == 0
    assert {tuple(message.value[0]) for message in received(tmp_path / "r")} == {("source", "other")}


@pytest.mark.parametrize(
    "options", [{"by": "frame"}, {"by": "time"}, {"by": "seq", "tolerance": 0.1}, {"by": "time", "tolerance": -1}, {"depth": 0}]
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"by|tolerance|depth"):
        Join(**options)


def test_a_join_of_one_wire_or_of_batches(tmp_path: Path) -> None:
    class Joining(BatchRoutine):
        join = Join()

        def main_logic(self, batch: list[Any]) -> None: ...

    one = Pipe()
    chain(one, Frames("source", 1), Joined("joined", Join()), Record("record", tmp_path / "r"))
    with pytest.raises(RoutineError, match="of two wires or more"):
        one.build()
    batches = Pipe()
    sources = [Frames("a", 1), Frames("b", 1)]
    joining = Joining("joining")
    for routine in (*sources, joining):
        batches.create_flow(routine.name, False, routine)
    batches.link(*(Wire(source, joining) for source in sources))
    with pytest.raises(RoutineError, match="not of batches"):
        batches.build()


# ---- the rule ------------------------------------------------------------------------------------


@given(st.data())
def test_whatever_comes_is_matched_or_dropped_once(data: st.DataObject) -> None:
    """Against what can be said of any order of arrival: partners are within the tolerance, each message is used once, no more
    than `depth` wait, and with exact keys and depth enough nothing that has its partners is dropped."""
    inputs = [f"i{n}" for n in range(data.draw(st.integers(2, 4)))]
    tolerance = data.draw(st.sampled_from([0.0, 1.5, 4.0]))
    depth = data.draw(st.integers(1, 30))
    streams = {name: sorted(set(data.draw(st.lists(st.integers(0, 25), max_size=25)))) for name in inputs}
    matcher: Matcher[tuple[str, int]] = Matcher(inputs, tolerance, depth)
    arrivals = [name for name, stream in streams.items() for _ in stream]
    sets: list[list[tuple[str, int]]] = []
    dropped: list[tuple[str, int]] = []
    taken: dict[str, int] = defaultdict(int)
    for name in data.draw(st.permutations(arrivals)):
        key = streams[name][taken[name]]
        taken[name] += 1
        dropped += [item for _, item in matcher.add(name, key, (name, key))]
        matched = matcher.match()
        if matched is not None:
            sets.append(matched)
        assert matcher.match() is None
    dropped += [item for _, item in matcher.clear()]
    used = [item for matched in sets for item in matched]
    assert sorted(used + dropped) == sorted((name, key) for name, stream in streams.items() for key in stream)
    for matched in sets:
        assert [name for name, _ in matched] == inputs
        keys = [key for _, key in matched]
        assert max(keys) - min(keys) <= tolerance
    if tolerance == 0 and depth >= 25:
        assert [matched[0][1] for matched in sets] == sorted(set.intersection(*(set(stream) for stream in streams.values())))


def test_what_comes_out_of_order_is_dropped() -> None:
    matcher: Matcher[str] = Matcher("ab", 0, 5)
    assert matcher.add("a", 3, "a3") == []
    assert matcher.add("a", 2, "a2") == [("a", "a2")]
    assert matcher.add("a", 3, "again") == [("a", "again")]
    assert matcher.add("b", 3, "b3") == []
    assert matcher.match() == ["a3", "b3"]
