"""BatchRoutine: many messages in one call, of many wires in turn, and a result for each."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    BatchRoutine,
    FloatingRoutine,
    Pipe,
    Routine,
    RoutineError,
    Wire,
)
from routines import Frames, Items, Record, chain, one_value, received
from waiting import Board, eventually

CALLS, SEEN, GATE = 0, 1, 2
LONG = 3600.0


class Batches(BatchRoutine):
    """Applies a function to a batch; writes down what each batch was made of."""

    def __init__(
        self, path: Path, function: Callable[[list[Any]], Any] = list, board: Board | None = None, **options: Any
    ) -> None:
        super().__init__("batches", **options)
        self.path = path
        self.function = function
        self.board = board or Board()

    def main_logic(self, batch: list[Any]) -> Any:
        with self.path.open("a") as file:
            file.write(",".join(f"{meta.origin}:{meta.sequence}" for meta in self.metas) + "\n")
        assert self.meta is self.metas[0]
        assert len(batch) == len(self.metas)
        self.board.add(CALLS)
        self.board.add(SEEN, len(batch))
        return self.function(batch)

    def seen(self) -> list[list[tuple[str, int]]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        split = ([part.split(":") for part in line.split(",")] for line in lines)
        return [[(origin, int(sequence)) for origin, sequence in line] for line in split]


def many(pipe: Pipe, sources: list[Routine], batches: BatchRoutine, *after: Routine) -> None:
    for routine in (*sources, batches, *after):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(*(Wire(source, batches) for source in sources))
    if after:
        pipe.link(Wire(batches, after))


def fill_first(pipe: Pipe, sources: list[Routine], waiting: int) -> None:
    """Starts the sources, and the others only when the queues are full."""
    pipe.build()
    for source in sources:
        pipe.notify_event(START_EVENT_NAME, specific_routine=source.name)
    eventually(lambda: sum(wire.waiting for wire in pipe.statistics().wires.values()) == waiting)
    pipe.notify_event(START_EVENT_NAME)


def test_one_of_each_wire_in_turn_and_a_result_for_each(tmp_path: Path) -> None:
    sources = [Frames(f"s{n}", 20, (40, 40)) for n in range(8)]
    batches = Batches(tmp_path / "b", batch_size=8)
    record = Record("record", tmp_path / "r", one_value)
    pipe = Pipe(policy="block", capacity=3)
    many(pipe, list(sources), batches, record)
    fill_first(pipe, list(sources), 8 * 3)
    pipe.join()
    for batch in batches.seen()[:3]:
        assert sorted(origin for origin, _ in batch) == [source.name for source in sources]
    assert sum(len(batch) for batch in batches.seen()) == 8 * 20
    got = received(tmp_path / "r")
    for source in sources:  # each result with the meta of its own message, in order
        mine = [message for message in got if message.origin == source.name]
        assert [(message.sequence, message.value) for message in mine] == [(n, n) for n in range(20)]
    statistics = pipe.statistics()
    assert statistics.routines["batches"].sent == statistics.routines["record"].received == 160
    assert statistics.routines["batches"].copied_bytes == 0  # forwarded where they lie
    assert sum(wire.private_bytes for wire in statistics.wires.values()) == 0


def test_fair_among_eight_sources(tmp_path: Path) -> None:
    """As fast as they can, into a detector that can't keep up: none gets less than half its share."""
    sources = [Frames(f"s{n}", None, (16, 16)) for n in range(8)]
    board = Board()
    batches = Batches(tmp_path / "b", lambda batch: None, board, batch_size=8, max_wait=0.02)
    batches.set_const_fps(100)
    pipe = Pipe(auto_pacing_mechanism=True)
    many(pipe, list(sources), batches)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(SEEN, 800)
    pipe.join(to_kill=True)
    shares = Counter(origin for batch in batches.seen() for origin, _ in batch)
    assert len(shares) == 8
    assert min(shares.values()) >= 0.5 * sum(shares.values()) / 8, shares


def test_what_came_within_max_wait(tmp_path: Path) -> None:
    """A full batch is not waited for; one that does not fill is handed over after max_wait."""
    board = Board()
    source = Items("source", [1, 2, 3, 4, 5])
    batches = Batches(tmp_path / "b", lambda batch: None, board, batch_size=4, max_wait=0.05)
    pipe = Pipe(policy="block", capacity=8)
    chain(pipe, source, batches)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME, specific_routine="source")
    eventually(lambda: pipe.statistics().wires["source", "batches"].waiting == 5)
    pipe.notify_event(START_EVENT_NAME, specific_routine="batches")
    pipe.join()
    assert [len(batch) for batch in batches.seen()] == [4, 1]


def test_a_message_alone_waits_max_wait_and_no_longer(tmp_path: Path) -> None:
    board = Board()
    batches = Batches(tmp_path / "b", lambda batch: None, board, batch_size=4, max_wait=0.05)
    source = Frames("source", None, (4, 4))
    source.set_const_fps(1 / LONG)
    pipe = Pipe(policy="block")
    chain(pipe, source, batches)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(CALLS)
    assert board[SEEN] == 1
    pipe.join(to_kill=True)


@pytest.mark.parametrize("event", ["stop", "kill", "end"])
def test_what_waits_for_others_is_handled_at_the_end(tmp_path: Path, event: str) -> None:
    batches = Batches(tmp_path / "b", batch_size=100, max_wait=LONG)
    source, record = Items("source", [1, 2, 3]), Record("record", tmp_path / "r")
    silent = Frames("silent", None, (4, 4))
    silent.set_const_fps(1 / LONG)
    pipe = Pipe(policy="block", capacity=8)
    many(pipe, [source, silent] if event != "end" else [source], batches, record)
    pipe.build()
    expected = 3 + (event != "end")
    pipe.notify_event(START_EVENT_NAME)
    if event != "end":
        eventually(lambda: pipe.statistics().routines["batches"].received == expected)
        assert batches.seen() == []
    if event == "stop":
        pipe.notify_event(STOP_EVENT_NAME, specific_routine="batches")
        eventually(lambda: pipe.statistics().routines["record"].received == expected)
    pipe.join(to_kill=event != "end")
    assert [len(batch) for batch in batches.seen()] == [expected]


FAULTS: dict[str, tuple[Callable[[list[Any]], Any], str]] = {
    "too few": (lambda batch: batch[:-1], "main_logic returned 2 results; a list of 3 results is wanted"),
    "no list": (lambda batch: np.array(batch), "main_logic returned ndarray; a list of 3 results is wanted"),
    "raises": (lambda batch: 1 // 0, "main_logic failed on messages 0, 1, 2: ZeroDivisionError"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_batch_is_told_and_the_next_one_goes_on(tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    wrong, text = FAULTS[fault]

    def function(batch: list[Any]) -> Any:
        return wrong(batch) if 0 in batch else [value * 10 for value in batch]

    batches = Batches(tmp_path / "b", function, batch_size=3, max_wait=LONG)
    pipe = Pipe(policy="block", capacity=8)
    chain(pipe, Items("source", range(6)), batches, Record("record", tmp_path / "r"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert [message.value for message in received(tmp_path / "r")] == [30, 40, 50]
    assert pipe.statistics().routines["batches"].errors == 1
    assert sum(text in message for message in caplog.messages) == 1


@pytest.mark.parametrize("result", ["some", "none"])
def test_none_sends_nothing(tmp_path: Path, result: str) -> None:
    def function(batch: list[int]) -> Any:
        return [value if value % 2 else None for value in batch] if result == "some" else None

    pipe = Pipe(policy="block", capacity=8)
    batches = Batches(tmp_path / "b", function, batch_size=4)
    chain(pipe, Items("source", range(10)), batches, Record("record", tmp_path / "r"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    expected = [1, 3, 5, 7, 9] if result == "some" else []
    assert [(message.sequence, message.value) for message in received(tmp_path / "r")] == [(n, n) for n in expected]


@pytest.mark.parametrize("across", [True, False], ids=["across", "within"])
def test_as_a_destination_and_within_a_flow(tmp_path: Path, across: bool) -> None:
    batches = Batches(tmp_path / "b", lambda batch: None, batch_size=4)
    source = Frames("source", 30, (40, 40))
    pipe = Pipe(policy="block")
    if across:
        chain(pipe, source, batches)
    else:
        pipe.create_flow("flow", True, source, batches)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert [sequence for batch in batches.seen() for _, sequence in batch] == list(range(30))
    assert max(len(batch) for batch in batches.seen()) <= 4


def test_what_a_killed_batch_had_is_counted_and_no_more(tmp_path: Path) -> None:
    board = Board()

    def hold(batch: list[Any]) -> list[Any]:
        if not board[GATE]:
            board[GATE] = 1
            board.wait(GATE, 2)
        return batch

    batches = Batches(tmp_path / "b", hold, board, batch_size=4, max_wait=LONG)
    pipe = Pipe(policy="block", capacity=8)
    record = Record("record", tmp_path / "r", one_value)
    chain(pipe, Frames("source", 40, (40, 40)), batches, record)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    board.wait(GATE)
    os.kill(pipe.statistics().flows["batches"].pid, signal.SIGKILL)
    pipe.join()
    assert [message.value for message in received(tmp_path / "r")] == list(range(4, 40))
    assert pipe.statistics().routines["batches"].lost_in_crash == 4


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"max_wait": -1}, "max_wait must be a number of seconds, from 0"),
        ({"max_wait": float("nan")}, "max_wait must be a number of seconds, from 0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        BatchRoutine("b", **options)


def test_it_needs_a_wire_and_a_main_logic(tmp_path: Path) -> None:
    pipe = Pipe()
    chain(pipe, Batches(tmp_path / "b"), Record("record", tmp_path / "r"))
    with pytest.raises(FloatingRoutine, match="needs a wire that leads to it"):
        pipe.build()
    pipe = Pipe()
    chain(pipe, Items("source", []), BatchRoutine("plain"), Record("record", tmp_path / "r"))
    with pytest.raises(RoutineError, match="has no main_logic"):
        pipe.build()
