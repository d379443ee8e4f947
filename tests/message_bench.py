"""A pipe between whose processes messages are damaged or lost, and that says whether all of it still answers."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from killing import FAST, await_successor, pid_of
from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    DestinationRoutine,
    Pipe,
    PipeFailed,
    PipertError,
    Routine,
    SourceRoutine,
    Wire,
    attached,
    events,
)
from pipert_shm.control.messages import Message
from pipert_shm.launcher import fork_server
from pipert_shm.parent import session
from processes import descendants, reap_orphans
from tampering import Tampering, tampering
from waiting import Board, eventually

PINGS: dict[str, int] = {"left": 0, "right": 1, "source": 2, "sink": 3, "other": 4, "extra": 5, "extra source": 6}
_LOST = re.compile(r"(?P<who>.+): a message came to nothing \((?P<kind>[^)]+)\)")
GATE = 14
SOON = 3.0  # seconds in which a pipe has to answer


class Pinged(Routine):
    """Answers the event `ping` on the board, logs at `say`, and notifies what it is told to."""

    board: Board

    @events("ping")
    def ping(self, number: int) -> None:
        self.board[PINGS[self.name]] = number

    @events("say")
    def say(self) -> None:
        self._logger.error("said")

    @events("relay")
    def relay(self, what: str, to: str, parameters: dict[str, Any]) -> None:
        self.notify_event(what, specific_routine=to, **parameters)

    @events("fail")
    def fail(self) -> None:
        self.fails = True


class Source(Pinged, SourceRoutine):
    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board
        self.set_const_fps(300)

    def main_logic(self) -> int:
        return self.meta.sequence


class Sink(Pinged, DestinationRoutine):
    fails = False

    def __init__(self, name: str, board: Board) -> None:
        super().__init__(name)
        self.board = board

    def setup(self) -> None:
        if self.fails:
            self.fails = False
            raise RuntimeError("on purpose")

    def main_logic(self, data: int) -> None: ...


class Heard(logging.Handler):
    """Counts the messages that came to nothing, by receiver and kind."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: Counter[tuple[str, str]] = Counter()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.texts.append(text)
        match = _LOST.match(re.sub("of flow '.*?'", "of a flow", text))
        if match:
            self.lost[match["who"], match["kind"]] += 1

    def kinds(self) -> Counter[str]:
        kinds: Counter[str] = Counter()
        for (_, kind), times in list(self.lost.items()):
            kinds[kind] += times
        return kinds


class Bench:
    """A pipe to tamper with: `source` to `sink` and `other`; `extra`, which a fork server forks; and a pair beside them."""

    def __init__(self, orders: Tampering) -> None:
        self.orders = orders
        self.board = Board()
        self.heard = Heard()
        self.logger = logging.getLogger("bench")
        self.logger.handlers, self.logger.propagate = [self.heard], False
        logging.getLogger(attached.__name__).handlers = [self.heard]  # a process that attaches logs by its own
        self.pings = 0
        self.added = 0
        self.pipe = Pipe(policy="drop_oldest", logger=self.logger, grace_period=1.0)
        routines: list[Routine] = [Source("left", self.board), Sink("right", self.board), Source("source", self.board)]
        routines += [Sink("sink", self.board), Sink("other", self.board), Source("extra source", self.board)]
        for routine in routines:
            self.pipe.create_flow(routine.name, False, routine, **FAST)
        left, right, self.source, sink, other, self.extra_source = routines
        self.pipe.link(Wire(left, right), Wire(self.source, [sink, other]), Wire(self.extra_source, other))

    def build(self) -> None:
        self.pipe.build()
        self.pipe.notify_event(START_EVENT_NAME)

    def grow(self) -> None:
        """Adds `extra`."""
        extra = Sink("extra", self.board)
        self.pipe.create_flow("extra", False, extra, **FAST)
        self.pipe.link(Wire(self.extra_source, extra))
        self.pipe.build()
        self.pipe.notify_event(START_EVENT_NAME)

    def grow_in_vain(self) -> None:
        """Adds a flow that nobody needs."""
        self.added += 1
        PINGS[f"more{self.added}"] = 15
        more = Sink(f"more{self.added}", self.board)
        self.pipe.create_flow(more.name, False, more, **FAST)
        self.pipe.link(Wire(self.extra_source, more))
        self.pipe.build()

    def shrink(self) -> None:
        """Adds a flow that nobody needs, and removes it."""
        self.grow_in_vain()
        PINGS.pop(f"more{self.added}")
        self.pipe.remove_flow(f"more{self.added}")

    def ping(self, *names: str) -> None:
        self.pings += 1
        for name in names:
            self.pipe.notify_event("ping", specific_routine=name, number=self.pings)

    def answered(self, *names: str) -> bool:
        return all(self.board[PINGS[name]] == self.pings for name in names)

    def received(self, *wire: str) -> int:
        sender, receiver = wire
        return self.pipe.statistics().wires[sender, receiver].received

    def await_count(self, key: tuple[str, str], least: int, what: object) -> None:
        """Until so many messages of a kind came to nothing at a receiver."""
        eventually(lambda: self.heard.lost[key] >= least, f"{what} to be counted by {key[0]}", SOON)

    def await_log(self, kind: type[Message], more_than: int) -> None:
        eventually(lambda: self.heard.kinds()[kind.__name__] > more_than, f"{kind.__name__} in the log", SOON)

    def await_moves(self, *wires: tuple[str, str], timeout: float = SOON) -> None:
        before = {wire: self.received(*wire) for wire in wires}
        eventually(lambda: all(self.received(*wire) > count + 1 for wire, count in before.items()), f"{wires} to move", timeout)

    def state(self, name: str) -> str:
        return self.pipe.statistics().routines[name].state

    def is_linked(self) -> bool:
        return self.pipe.statistics().wires["source", "other"].linked

    def others_go_on(self) -> None:
        """Those beside move, and hear what they are told."""
        self.await_moves(("left", "right"))
        self.ping("left", "right")
        eventually(lambda: self.answered("left", "right"), "an answer of those beside", SOON)

    def all_go_on(self) -> None:
        names = ("source", "sink", "other", "extra source")
        self.ping(*names)
        eventually(lambda: self.answered(*names), "an answer of all", SOON)
        self.await_moves(("source", "sink"))

    def mend(self) -> None:
        """What an operator would do: stops and starts, and restarts of the flows at hand, until all are well."""
        pipe, flows = self.pipe, ("source", "sink", "other")
        for name in flows:
            pipe.notify_event(STOP_EVENT_NAME, specific_routine=name)
        for flow in flows:
            pid = pid_of(pipe, flow)
            pipe.restart_flow(flow)
            await_successor(pipe, flow, pid)
        pipe.notify_event(START_EVENT_NAME)
        if not self.is_linked():
            with suppress(PipertError):
                pipe.notify_event("link", specific_routine="source", link_routine_name="other")


@contextmanager
def bench() -> Iterator[Bench]:
    """The pipe, which has to end in time, and with nothing that failed for good."""
    with tampering() as orders, pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "PATIENCE", 0.5)
        patch.setattr(session, "LONG_PATIENCE", 0.5)
        patch.setattr(fork_server, "PATIENCE", 0.5)
        patch.setattr(attached, "PATIENCE", 0.5)
        before = set(descendants())
        it = Bench(orders)
        it.build()
        try:
            yield it
        finally:
            orders.forget()
            _end(it.pipe)
            reap_orphans(before)  # of fork servers that were killed


def _end(pipe: Pipe, *, to_kill: bool = True) -> None:
    """By a thread of its own, since it may wait for ever."""
    how: list[object] = []

    def end() -> None:
        try:
            pipe.join(to_kill=to_kill)
            how.append(None)
        except BaseException as error:
            how.append(error)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    thread.join(10)
    assert how, f"join(to_kill={to_kill}) waits for ever"
    assert how[0] is None or isinstance(how[0], PipeFailed), how
