"""A running pipe is changed again and again while a receiver takes nothing: one that is stopped, or keeps what it got."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipert_shm
from applying import Step, Yard, branches, numbers_in, routine, wire, yard
from pipert_shm import DestinationRoutine, NotApplied, SourceRoutine
from test_apply_soak import at_rest
from test_attach import ended_well, process
from waiting import Board, eventually

READY, GO = 0, 1  # cells of a board
FEW = range(1, 5)  # holder bits, so that they are used up soon


@pytest.fixture
def few_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("graph.bits", "launcher.incarnations"):
        monkeypatch.setattr(f"pipert_shm.{module}.BITS", FEW)


@contextmanager
def stopped(it: Yard, flow: str) -> Iterator[None]:
    """The flow's process stands still meanwhile."""
    pid = it.pid(flow)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_sender_is_replaced_again_and_again_before_a_stopped_receiver(
    tmp_path: Path, few_bits: None, caplog: pytest.LogCaptureFixture
) -> None:
    """More often than there are bits: what the receiver leaves of the earliest is given up, and counted."""
    with yard(tmp_path, branches(tmp_path)) as it:
        it.moves("step", "sink")
        with stopped(it, "sink"):
            for number in range(len(FEW) + 2):
                it.data["routines"]["step"]["parameters"]["size"] = 1 + number % 2
                assert list(it.apply(patience=30).difference.replaced) == ["step"]
                eventually(lambda: it.pipe.statistics().wires["step", "sink"].waiting > 0, "a message that waits")
            assert it.pipe.statistics().wires["step", "sink"].dropped["crash"]
            it.moves("numbers", "writer")
        it.moves("step", "sink")
        assert it.pipe.statistics().wires["numbers", "writer"].lost == 0
        assert len([record for record in caplog.records if "holder bits or memory are short" in record.message]) == 1


class Frames(SourceRoutine):
    """Sends frames that are too large to lie in a message."""

    def main_logic(self) -> np.ndarray:
        return np.full(10_000, self.meta.sequence)


class Keeper(DestinationRoutine):
    """Keeps what it gets: the first two arrays of each process before it, and copies of the others."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._kept: list[np.ndarray] = []

    def main_logic(self, data: np.ndarray) -> None:
        self._kept.append(data)


def test_a_change_without_bits_is_refused_and_the_old_flow_runs_on(tmp_path: Path, few_bits: None) -> None:
    """Frames that are kept can't be given up. Then nothing is cut, and no process ends."""
    data = branches(tmp_path)
    data["routines"]["numbers"] = {"class": f"{__name__}.Frames", "parameters": {}, "fps": 200.0}
    data["routines"]["sink"] = {"class": f"{__name__}.Keeper", "parameters": {}}
    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        data["routines"]["step"]["parameters"]["size"] = 2
        it.apply()  # the last bit
        it.moves("step", "sink")
        pids = it.pids()
        data["routines"]["step"]["parameters"]["size"] = 3
        with pytest.raises(NotApplied, match="no holder bits left") as caught:
            it.apply()
        assert caught.value.restored
        assert it.pids() == pids
        it.moves("step", "sink")


def test_an_attached_process_that_is_stopped_holds_no_change_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the bits of its taps, and no more: what is replaced has others. When it goes on, its taps have ended."""
    for module in ("graph.bits", "launcher.incarnations", "launcher.taps"):
        monkeypatch.setattr(f"pipert_shm.{module}.BITS", range(1, 10), raising=False)
    board, data = Board(), branches(tmp_path)
    data["pipe"]["name"] = f"stopped-{os.getpid()}"

    def look() -> None:
        with pipert_shm.attach(data["pipe"]["name"]) as its, its.tap("step") as step, its.tap("numbers") as numbers:
            assert len(step.read(timeout=10)) == len(numbers.read(timeout=10))
            board[READY] = 1
            board.wait(GO)
            assert len(list(step)) <= 1  # what waited, and then its end
            numbers.read(timeout=10)

    with yard(tmp_path, data) as it:
        it.moves("step", "sink")
        pid = process(look)
        board.wait(READY)
        os.kill(pid, signal.SIGSTOP)
        try:
            for number in range(10):
                data["routines"]["step"]["parameters"]["size"] = 2 + number % 2
                it.apply(patience=30)
                it.moves("step", "sink")
        finally:
            os.kill(pid, signal.SIGCONT)
            board[GO] = 1
        ended_well(pid)
        assert it.pipe.statistics().wires["step", "sink"].dropped["crash"] == 0


# ---- random ones ---------------------------------------------------------------------------------


def changed(first: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """Another pipeline, in which branches come, go and are replaced before a sink that is there all the time."""
    data = {
        **first,
        "routines": {name: dict(its) for name, its in first["routines"].items()},
        "flows": dict(first["flows"]),
        "wires": [wire("numbers", "writer", policy="block")],
    }
    if dice.random() < 0.8:
        data["wires"].append(wire("numbers", "sink", policy="drop_oldest", capacity=dice.randint(1, 3)))
    for name in dice.sample(("a", "b", "c"), dice.randint(1, 3)):
        data["routines"][name] = routine(Step, size=dice.randint(1, 3))
        data["flows"][name] = {"routines": [name]}
        data["wires"].append(wire("numbers", name, policy="drop_newest", capacity=dice.randint(1, 4)))
        data["wires"].append(wire(name, "sink", policy=dice.choice(("block", "drop_oldest")), capacity=dice.randint(1, 4)))
    return data


def soak(directory: Path, rounds: int, seed: int) -> int:
    """Applies so many random differences before a stopped sink; how many messages were given up."""
    dice = random.Random(seed)
    first = branches(directory)
    del first["routines"]["step"], first["flows"]["step"]
    first["routines"]["numbers"]["fps"] = 300.0
    first["wires"] = [first["wires"][0], wire("numbers", "sink", policy="drop_oldest")]
    with yard(directory, first) as it:
        it.moves("numbers", "sink")
        for _ in range(3):
            it.data = changed(first, dice)
            it.apply()
        before = at_rest(it, first, rings=2)
        given_up = 0
        with stopped(it, "sink"):
            for _ in range(rounds):
                it.data = changed(first, dice)
                it.apply()
                given_up += sum(wire.dropped["crash"] for wire in it.pipe.statistics().wires.values())
            it.moves("numbers", "writer")
        after = at_rest(it, first, rings=2)
        assert after == before
        it.moves("numbers", "sink")
        assert it.pipe.statistics().wires["numbers", "writer"].lost == 0
        it.pipe.join(to_kill=True)
    numbers = numbers_in(directory / "written")
    assert (numbers == range(len(numbers))).all()
    return given_up


def test_random_differences_before_a_stopped_receiver_leave_nothing(tmp_path: Path) -> None:
    """`python tests/test_apply_stopped.py 1000` applies more of them, with all bits."""
    soak(tmp_path, int(os.environ.get("PIPERT_APPLIES", "10")), seed=6)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        print(soak(Path(directory), int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
