"""A routine's states: the table of what orders do in them, and that a routine acts by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from killing import await_states, running
from pipert_shm import START_EVENT_NAME, STOP_EVENT_NAME, EndOfStream, Pipe, PipeFailed, SourceRoutine
from pipert_shm.routine import DestinationRoutine
from pipert_shm.shm.states import REACTIONS, Order, Reaction, State
from routines import Items, Sink, chain
from waiting import Board, eventually

DOCS = Path(__file__).parent.parent / "docs" / "architecture.md"
COLUMNS = {"start": Order.START, "stop": Order.STOP, "kill": Order.KILL, "a call on its thread": Order.CALL}
SETUPS, CALLS, CLEANUPS, GATE = range(4)


def documented() -> dict[State, dict[Order, str]]:
    """The table in docs/architecture.md."""
    section = DOCS.read_text().split("## A routine's states\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    head, _, *body = rows
    return {
        State[name.upper()]: {COLUMNS[column]: cell for column, cell in zip(head[1:], cells, strict=True)}
        for name, *cells in body
    }


def test_the_documented_table_is_the_one_in_the_code() -> None:
    assert documented() == {
        state: {order: reaction.value for order, reaction in reactions.items()} for state, reactions in REACTIONS.items()
    }


def test_every_order_has_a_reaction_in_every_state() -> None:
    assert set(REACTIONS) == set(State)
    assert all(set(reactions) == set(Order) for reactions in REACTIONS.values())
    assert {reaction for reactions in REACTIONS.values() for reaction in reactions.values()} == set(Reaction)


def test_numbers_stay_as_they_are_in_shared_memory() -> None:
    assert {state.name: int(state) for state in State} == {
        "BUILT": 0,
        "RUNNING": 1,
        "STOPPED": 2,
        "ENDED": 3,
        "FAILED": 4,
        "STOPPING": 5,
    }


class Steps(SourceRoutine):
    """Counts its calls on a board; does in each what it was given."""

    def __init__(self, name: str, board: Board, **does: Callable[[], Any]) -> None:
        super().__init__(name)
        self.board = board
        self.does = does

    def _step(self, cell: int, name: str) -> Any:
        self.board.add(cell)
        return self.does.get(name, lambda: None)()

    def setup(self) -> None:
        self._step(SETUPS, "setup")

    def main_logic(self) -> Any:
        return self._step(CALLS, "main_logic")

    def cleanup(self) -> None:
        self._step(CLEANUPS, "cleanup")


def steps(board: Board, **does: Callable[[], Any]) -> Pipe:
    pipe = Pipe(grace_period=5)
    source = Steps("source", board, **does)
    source.set_const_fps(1000)
    chain(pipe, source, Sink("sink"))
    return pipe


def state_of(pipe: Pipe) -> str:
    return pipe.statistics().routines["source"].state


def order(pipe: Pipe, event: str) -> None:
    pipe.notify_event(event, specific_routine="source")


@pytest.mark.parametrize("where", ["setup", "main_logic", "cleanup"])
def test_stopping_until_its_own_code_has_returned(where: str) -> None:
    board = Board()
    cell = {"setup": SETUPS, "main_logic": CALLS, "cleanup": CLEANUPS}[where]
    with running(steps(board, **{where: lambda: board.wait(GATE, 1, timeout=60)})) as pipe:
        if where == "cleanup":
            await_states(pipe, source="running")
            order(pipe, STOP_EVENT_NAME)
        board.wait(cell)
        order(pipe, STOP_EVENT_NAME)
        await_states(pipe, source="stopping")
        order(pipe, START_EVENT_NAME)  # has its turn when the run is through
        board[GATE] = 1
        board.wait(SETUPS, 2)
        await_states(pipe, source="running")
        assert board[CLEANUPS] == 1


def test_orders_in_a_row_are_obeyed_in_turn() -> None:
    """However far the routine has come with the one before: it stops once for each start, and does what it was told last."""
    board = Board()
    pipe = steps(board)
    pipe.build()
    order(pipe, STOP_EVENT_NAME)
    await_states(pipe, source="stopped")
    for _ in range(20):
        order(pipe, START_EVENT_NAME)
        order(pipe, STOP_EVENT_NAME)
    eventually(lambda: board[CLEANUPS] == 20 and state_of(pipe) == "stopped", "20 runs")
    assert board[SETUPS] == 20
    order(pipe, STOP_EVENT_NAME)
    order(pipe, START_EVENT_NAME)
    order(pipe, START_EVENT_NAME)
    board.wait(CALLS, board[CALLS] + 10)
    assert board[SETUPS] == 21
    pipe.join(to_kill=True)
    assert board[CLEANUPS] == 21
    assert state_of(pipe) == "stopped"


def end_of_stream() -> None:
    raise EndOfStream


def error() -> None:
    raise ValueError("broken")


@pytest.mark.parametrize(
    ("does", "state"), [({"main_logic": end_of_stream}, "ended"), ({"setup": error}, "failed"), ({"cleanup": error}, "failed")]
)
def test_what_is_over_heeds_a_start_and_no_stop(does: dict[str, Callable[[], Any]], state: str) -> None:
    board = Board()
    pipe = steps(board, **does)
    pipe.build()
    for run in (1, 2):
        order(pipe, START_EVENT_NAME)
        board.wait(SETUPS, run)
        if state == "ended":  # else the stop may come first
            await_states(pipe, source=state)
        order(pipe, STOP_EVENT_NAME)
        await_states(pipe, source=state)
        order(pipe, STOP_EVENT_NAME)
    pipe.notify_event(START_EVENT_NAME, specific_routine="sink")
    assert state_of(pipe) == state
    if state == "failed":
        with pytest.raises(PipeFailed):
            pipe.join(to_kill=True)
    else:
        pipe.join(to_kill=True)


class Breaks(DestinationRoutine):
    """Its runner breaks, once, at its third message."""

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def setup(self) -> None:
        self.board.add(SETUPS)

    def main_logic(self, data: Any) -> None:
        self.board.add(CALLS)
        if self.board[CALLS] == 3:
            inbox = self._runtime._inbox  # type: ignore[union-attr]
            accept = inbox.accept

            def broken(*status: int) -> int:
                inbox.accept = accept
                raise RuntimeError("a bug of ours")

            inbox.accept = broken

    def cleanup(self) -> None:
        self.board.add(CLEANUPS)


def test_a_bug_of_ours_fails_the_routine_and_closes_what_it_opened(caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    pipe = Pipe()
    source = Items("source", [{"no": "array"}] * 10**6)  # which no call in C would take
    source.set_const_fps(200)
    chain(pipe, source, Breaks("breaks", board))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    await_states(pipe, breaks="failed")
    board.wait(CLEANUPS)
    routine = pipe.statistics().routines["breaks"]
    assert routine.errors == 1
    eventually(lambda: "RuntimeError: a bug of ours" in caplog.text, "a line in the log")
    assert "Traceback" in caplog.text
    pipe.notify_event(START_EVENT_NAME, specific_routine="breaks")  # its thread is there still
    board.wait(CALLS, 10)
    await_states(pipe, breaks="running")
    pipe.join(to_kill=True)
    assert board[SETUPS] == board[CLEANUPS] == 2
