"""Random commands to a running pipe of real processes, beside a simple model of what has to come of them.

`COMMANDS_EXAMPLES` and `COMMANDS_STEPS` in the environment make a run longer.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from killing import FAST, await_states, pid_of
from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    DestinationRoutine,
    EndOfStream,
    MiddleRoutine,
    Pipe,
    PipeFailed,
    PipertError,
    SourceRoutine,
    Wire,
    WiresValidation,
    events,
)
from waiting import Board, eventually

EXAMPLES = int(os.environ.get("COMMANDS_EXAMPLES", "5"))
STEPS = int(os.environ.get("COMMANDS_STEPS", "25"))
SOON = 10.0
SOURCES, MIDDLES, SINKS = ("a", "b"), ("m",), ("s", "t")
NAMES = (*SOURCES, *MIDDLES, *SINKS)
BASE = (("a", "m"), ("m", "s"), ("b", "t"))  # wires of the first build, which are never unlinked
EXTRA = (("a", "t"), ("b", "s"))  # linked and unlinked
TOLD, LOST, TWICE, END = 0, 20, 40, 60  # cells: what each routine was told; gaps and doubles that it saw; whether to end


class Told:
    board: Board
    cell: int

    @events("tell")
    def tell(self, number: int) -> None:
        self.board[TOLD + self.cell] = number


class Source(Told, SourceRoutine):
    def __init__(self, name: str, board: Board, cell: int) -> None:
        super().__init__(name)
        self.board, self.cell = board, cell
        self.set_const_fps(400)

    def main_logic(self) -> tuple[str, int]:
        if self.board[END]:
            raise EndOfStream
        return self.name, self.meta.sequence


class Middle(Told, MiddleRoutine):
    def __init__(self, name: str, board: Board, cell: int) -> None:
        super().__init__(name)
        self.board, self.cell = board, cell

    def main_logic(self, data: Any) -> Any:
        return data


class Sink(Told, DestinationRoutine):
    """Sees whether messages of the base wires come in order, each once; over stops and starts, since attributes stay."""

    def __init__(self, name: str, board: Board, cell: int) -> None:
        super().__init__(name)
        self.board, self.cell = board, cell
        self.last: dict[str, int] = {}

    def main_logic(self, data: Any) -> None:
        origin, number = data
        last = self.last.get(origin)
        if last is not None and number <= last:
            self.board.add(TWICE + self.cell)
        if last is not None and number > last + 1 and (origin, self.name) in (("a", "s"), ("b", "t")):
            self.board.add(LOST + self.cell)
        self.last[origin] = number


class Commands(RuleBasedStateMachine):
    """The model: what each routine's state has to become, and which wires there are."""

    def __init__(self) -> None:
        super().__init__()
        self.board = Board(80)
        self.pipe = Pipe(policy="block", grace_period=2.0)
        kinds = {**dict.fromkeys(SOURCES, Source), **dict.fromkeys(MIDDLES, Middle), **dict.fromkeys(SINKS, Sink)}
        self.routines: dict[str, Any] = {name: kinds[name](name, self.board, n) for n, name in enumerate(NAMES)}
        for name, routine in self.routines.items():
            self.pipe.create_flow(name, False, routine, **FAST)
        self.pipe.link(*(Wire(self.routines[a], self.routines[b]) for a, b in BASE))
        self.states = dict.fromkeys(NAMES, "built")
        self.linked = set(BASE)
        self.killed = False  # whether messages may have been lost
        self.numbers = 0
        self.taps: list[Any] = []
        self.ended = False

    @initialize()
    def build(self) -> None:
        self.pipe.build()

    # ---- commands ----------------------------------------------------------------------------------

    @rule()
    def start_all(self) -> None:
        self.pipe.notify_event(START_EVENT_NAME)
        self.states = dict.fromkeys(self.states, "running")

    @rule(data=st.data())
    def start_one(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.states)))
        self.pipe.notify_event(START_EVENT_NAME, specific_routine=name)
        self.states[name] = "running"

    @rule()
    def stop_all(self) -> None:
        self.pipe.notify_event(STOP_EVENT_NAME)
        self.states = dict.fromkeys(self.states, "stopped")

    @rule(data=st.data())
    def stop_one(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.states)))
        self.pipe.notify_event(STOP_EVENT_NAME, specific_routine=name)
        self.states[name] = "stopped"

    @rule(data=st.data())
    def kill(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.states)))
        with suppress(ProcessLookupError):
            os.kill(pid_of(self.pipe, name), signal.SIGKILL)
        self.killed = True

    @rule(data=st.data())
    def restart(self, data: Any) -> None:
        self.pipe.restart_flow(data.draw(st.sampled_from(sorted(self.states))))
        self.killed = True

    @rule(wire=st.sampled_from(EXTRA))
    def link(self, wire: tuple[str, str]) -> None:
        sender, receiver = wire
        if wire in self.linked:
            with pytest.raises(WiresValidation):
                self.pipe.notify_event("link", specific_routine=sender, link_routine_name=receiver)
            return
        with suppress(WiresValidation):  # as long as too many of its earlier lives are not drained
            self.pipe.notify_event("link", specific_routine=sender, link_routine_name=receiver)
            self.linked.add(wire)

    @rule(wire=st.sampled_from(EXTRA))
    def unlink(self, wire: tuple[str, str]) -> None:
        sender, receiver = wire
        self.pipe.notify_event("unlink", specific_routine=sender, unlink_routine_name=receiver)
        self.linked.discard(wire)

    @rule(data=st.data())
    def tap(self, data: Any) -> None:
        name = data.draw(st.sampled_from([*SOURCES, *MIDDLES]))
        try:
            self.taps.append(self.pipe.tap(name))
        except PipertError:  # its flow is down just now
            self.taps.append(None)

    @precondition(lambda self: self.taps)
    @rule()
    def untap(self) -> None:
        tap = self.taps.pop()
        if tap is not None:
            tap.close()

    @precondition(lambda self: len(self.states) < len(NAMES) + 3)
    @rule()
    def add(self) -> None:
        """A later build()."""
        name = f"late{len(self.states)}"
        late = Sink(name, self.board, len(self.states))
        self.pipe.create_flow(name, False, late, **FAST)
        self.pipe.link(Wire(self.routines["m"], late))
        self.pipe.build()
        self.states[name] = "built"
        self.linked.add(("m", name))

    @rule()
    def tell(self) -> None:
        """Whoever is addressed hears it, dead or not: those that die meanwhile don't."""
        self.numbers += 1
        self.pipe.notify_event("tell", number=self.numbers)

    @rule()
    def settle(self) -> None:
        """All states become what the model says, and every wire between two that run carries messages."""
        self._await_states()
        self._await_motion()
        assert any(self._is_heard() for _ in range(5 if self.killed else 1)), "not all answer"

    def _is_heard(self) -> bool:
        """What is told to a process that is dying goes with it."""
        self.numbers += 1
        self.pipe.notify_event("tell", number=self.numbers)
        cells = [TOLD + n for n in range(len(self.states))]
        try:
            eventually(lambda: all(self.board[cell] == self.numbers for cell in cells), "an answer of all", 2.0)
        except AssertionError:
            return False
        return True

    def _await_states(self) -> None:
        eventually(lambda: all(flow.state == "running" for flow in self.pipe.statistics().flows.values()), "flows", SOON)
        try:
            await_states(self.pipe, **self.states)
        except AssertionError:
            found = {name: routine.state for name, routine in self.pipe.statistics().routines.items()}
            raise AssertionError(f"states: {found}, not {self.states}") from None

    def _await_motion(self) -> None:
        """Lossless wires stand when a receiver does not run."""
        stuck = {name for name, state in self.states.items() if state != "running"}
        for _ in NAMES:
            stuck |= {sender for sender, receiver in self.linked if receiver in stuck}
        moving = [(a, b) for a, b in self.linked if not {a, b} & stuck and self._is_fed(a, stuck)]
        before = {wire: self.pipe.statistics().wires[wire].received for wire in moving}
        eventually(
            lambda: all(self.pipe.statistics().wires[wire].received > number for wire, number in before.items()),
            f"{moving} to move",
            SOON,
        )

    def _is_fed(self, name: str, stuck: set[str]) -> bool:
        return name in SOURCES or any(b == name and a not in stuck and self._is_fed(a, stuck) for a, b in self.linked)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if self.pipe._session is None:
            return
        assert not any(self.board[TWICE + n] for n in range(len(self.states))), "a message came twice, or too late"
        if not self.killed:
            assert not any(self.board[LOST + n] for n in range(len(self.states))), "a message was lost"
            wires = self.pipe.statistics().wires
            assert not any(wires[wire].lost for wire in BASE)

    def teardown(self) -> None:
        if self.pipe._session is None:
            return
        try:
            self.settle()
            self.pipe.notify_event(START_EVENT_NAME)
            self.states = dict.fromkeys(self.states, "running")
            self.settle()
            self.nothing_is_lost_or_doubled()
            self.board[END] = 1
            self.states = dict.fromkeys(self.states, "ended")
            self._await_states()
        finally:
            with suppress(PipeFailed):
                self.pipe.join(to_kill=True)
            while self.taps:
                self.untap()


def test_random_commands() -> None:
    run_state_machine_as_test(
        Commands,
        # Shrinking would repeat what took long because it failed: a wait for what never came.
        settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS, phases=[Phase.explicit, Phase.generate]),
    )
