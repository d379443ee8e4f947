"""Message points: every kind of message between a pipe's processes is damaged, lost, doubled or senseless, at its receiver.

What fails then is that message, and perhaps what it was about, which a restart of the flow at hand mends; nobody waits for
ever, all others go on, and the pipe ends clean.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
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
    SourceRoutine,
    Wire,
    events,
    session,
)
from pipert_shm.control import messages
from pipert_shm.control.channel import packets_of
from pipert_shm.control.messages import KINDS, Message
from tampering import DAMAGES, NOBODYS_QUESTION, SAMPLES, Tampering, named_in_log, tampering
from waiting import Board, eventually

PINGS: dict[str, int] = {"left": 0, "right": 1, "source": 2, "sink": 3, "other": 4, "extra": 5, "extra source": 6}
_LOST = re.compile(r"(?P<who>.+): a message came to nothing \((?P<kind>[^)]+)\)")
SOON = 3.0  # seconds in which a pipe has to answer


class Pinged:
    """Answers the event `ping` on the board, logs at `say`, and notifies what it is told to."""

    board: Board
    name: str
    _logger: logging.Logger

    @events("ping")
    def ping(self, number: int) -> None:
        self.board[PINGS[self.name]] = number

    @events("say")
    def say(self) -> None:
        self._logger.error("said")

    @events("relay")
    def relay(self, what: str, to: str, parameters: dict[str, Any]) -> None:
        self.notify_event(what, specific_routine=to, **parameters)  # type: ignore[attr-defined]

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
        match = _LOST.match(text)
        if match:
            self.lost[match["who"], match["kind"]] += 1

    def kinds(self) -> Counter[str]:
        kinds: Counter[str] = Counter()
        for (_, kind), count in list(self.lost.items()):
            kinds[kind] += count
        return kinds


class Bench:
    """A pipe to tamper with: `source` to `sink`, with `other` to be linked; `extra`, of a fork server; and a pair beside them."""

    def __init__(self, orders: Tampering) -> None:
        self.orders = orders
        self.board = Board()
        self.heard = Heard()
        self.logger = logging.getLogger("bench")
        self.logger.handlers, self.logger.propagate = [self.heard], False
        self.pings = 0
        self.added = 0
        self.pipe = Pipe(policy="drop_oldest", logger=self.logger, grace_period=2.0)
        routines = [Source("left", self.board), Sink("right", self.board), Source("source", self.board)]
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

    def ping(self, *names: str) -> None:
        self.pings += 1
        for name in names:
            self.pipe.notify_event("ping", specific_routine=name, number=self.pings)

    def answered(self, *names: str) -> bool:
        return all(self.board[PINGS[name]] == self.pings for name in names)

    def received(self, *wire: str) -> int:
        sender, receiver = wire
        return self.pipe.statistics().wires[sender, receiver].received

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
        patch.setattr(session, "LOOK_EVERY", 0.2)
        it = Bench(orders)
        it.build()
        try:
            yield it
        finally:
            orders.forget()
            ended = threading.Thread(target=lambda: contextlib.suppress(PipeFailed).__enter__() and None)
            ended = threading.Thread(target=_end, args=(it.pipe,))
            ended.start()
            ended.join(10)
            assert not ended.is_alive(), "join(to_kill=True) waits for ever"


def _end(pipe: Pipe) -> None:
    with suppress(PipeFailed):
        pipe.join(to_kill=True)


# ---- every kind, damaged in every way, at every receiver --------------------------------------------

RECEIVERS: dict[str, tuple[type[Message], Callable[[Bench], object]]] = {
    "the launcher, of the parent": (messages.Notify, lambda it: it.ping("left")),
    "the pipe's parent": (messages.Answer, lambda it: it.ping("left")),
    "the flow": (messages.HandleEvent, lambda it: it.ping("source")),
    "the launcher, of flow 'source'": (messages.Handled, lambda it: it.ping("source")),
    "a fork server": (messages.Reap, lambda it: os.kill(pid_of(it.pipe, "extra"), signal.SIGKILL)),
    "the launcher, of a fork server": (messages.Reaped, lambda it: os.kill(pid_of(it.pipe, "extra"), signal.SIGKILL)),
    "the relay of log records": (messages.Record, lambda it: it.pipe.notify_event("say", specific_routine="source")),
}
"""How packets come to each receiver: before a message of which kind, and what makes somebody send one."""


def _in_groups(size: int) -> Iterator[tuple[Message, ...]]:
    for start in range(0, len(SAMPLES), size):
        yield SAMPLES[start : start + size]


def test_every_kind_has_a_sample() -> None:
    assert tuple(type(sample) for sample in SAMPLES) == KINDS


def test_every_kind_damaged_in_every_way_at_every_receiver(record_property: Any) -> None:
    points = 0
    with bench() as it:
        it.grow()
        for receiver, (carrier, trigger) in RECEIVERS.items():
            for group in _in_groups(4):
                expected = Counter({key: count for key, count in it.heard.lost.items() if key[0] == receiver})
                packets = []
                for sample in group:
                    (packet,) = packets_of(sample, NOBODYS_QUESTION)
                    for name, damage in DAMAGES.items():
                        packets += damage(packet)
                        expected[receiver, named_in_log(name, type(sample))] += 1
                points += len(packets)
                dead = pid_of(it.pipe, "extra")
                it.orders.insert(packets, carrier)
                trigger(it)
                eventually(lambda: it.orders.is_done, f"a {carrier.__name__}", SOON)

                def is_counted(receiver: str = receiver, expected: Counter[tuple[str, str]] = expected) -> bool:
                    return Counter({key: n for key, n in it.heard.lost.items() if key[0] == receiver}) == expected

                try:
                    eventually(is_counted, f"all to be counted by {receiver}", SOON)
                except AssertionError:
                    counted = Counter({key: n for key, n in it.heard.lost.items() if key[0] == receiver})
                    raise AssertionError(f"{receiver}: {expected - counted} missing, {counted - expected} too many") from None
                if carrier in (messages.Reap, messages.Reaped):
                    await_successor(it.pipe, "extra", dead)
            it.others_go_on()
            it.all_go_on()
            it.await_moves(("extra source", "extra"))
    record_property("points", points)
    assert points == len(KINDS) * len(DAMAGES) * len(RECEIVERS)
    assert not [text for text in it.heard.texts if "waiting for what comes" in text or "an order of the launcher's" in text]
