"""UNLINK: at a sender that is blocked, between two runs, and of a wire that does not exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifecycle import GATE, TAKEN, Counting, numbers, reaches
from pipert_shm import START_EVENT_NAME, UNLINK, UNLINK_EVENT_NAME, Pipe, Wire
from routines import Gated, Record, Sink, chain
from waiting import Board, eventually


@pytest.mark.parametrize("across", [False, True], ids=["within", "across"])
def test_a_wire_is_unlinked_while_its_sender_is_blocked_on_it(tmp_path: Path, across: bool) -> None:
    board = Board()
    pipe = Pipe(policy="block", grace_period=2)
    source, gated, record = Counting("source", 30), Gated("gated", board, GATE, TAKEN), Record("record", tmp_path / "r")
    if across:
        for routine in (source, gated, record):
            pipe.create_flow(routine.name, False, routine)
    else:
        pipe.create_flow("flow", False, source, gated, record)
    pipe.link(Wire(source, (gated, record)))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().wires["source", "gated"].sent == 4)
    pipe.notify_event(UNLINK, specific_routine="source", unlink_routine_name="gated")
    reaches(pipe, "ended", "source", "record")
    board[GATE] = 1000
    pipe.join()
    assert numbers(tmp_path / "r") == list(range(30))
    wire = pipe.statistics().wires["source", "gated"]
    assert wire.received >= 3
    assert wire.sent == wire.received + wire.lost


def test_a_start_after_an_unlink(tmp_path: Path) -> None:
    class Again(Counting):
        def setup(self) -> None:
            self.next = 0

    pipe = Pipe(policy="block")
    source, one, other = Again("source", 5), Record("one", tmp_path / "one"), Record("other", tmp_path / "other")
    for routine in (source, one, other):
        pipe.create_flow(routine.name, False, routine)
    pipe.link(Wire(source, (one, other)))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    reaches(pipe, "ended")
    pipe.notify_event(UNLINK_EVENT_NAME, specific_routine="source", unlink_routine_name="one")
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["other"].received == 10)
    reaches(pipe, "ended")
    pipe.join()
    assert numbers(tmp_path / "one") == list(range(5))
    assert numbers(tmp_path / "other") == 2 * list(range(5))


def test_an_unlink_of_what_is_not_linked_is_told(caplog: pytest.LogCaptureFixture) -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", 3), Sink("sink"))
    pipe.build()
    pipe.notify_event(UNLINK, specific_routine="source", unlink_routine_name="nobody")
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert "unlink: there is no wire from 'source' to 'nobody'" in caplog.messages
    assert pipe.statistics().routines["sink"].received == 3
