"""The order after replicas under random interleavings: the real `Reordering`, beside a model of all other processes.

Between any two of its looks at what they share, the others take some steps: a sender announces a ticket, pushes it and confirms
it; a replica takes it, pushes its result and says that it is done; one dies, and its successor's queue can't be read at once.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from pipert_shm.binding import FOREVER
from pipert_shm.flow import reordering
from pipert_shm.flow.reordering import Reordering
from pipert_shm.flow.ticket_order import TicketOrder
from pipert_shm.message.types import NOTHING

DIRECT = 99  # an edge without tickets that may always have something
STEP_NS = 20_000
STUCK = 20_000  # looks


def test_what_is_free_stays_free_when_an_idle_replica_gets_a_later_ticket() -> None:
    """Its edge looks then as if an earlier result could come of it: that says nothing of what waits in another's queue."""
    lanes = {0: (1, 1), 1: (2, 2), 2: (3, 3)}  # the last one announced, and done
    order: TicketOrder[str, str] = TicketOrder({"camera": {edge: (lambda edge=edge: lanes[edge]) for edge in lanes}}, 4)  # type: ignore[misc]
    order.add("camera", 3, 2, "third")
    free = order.free()
    assert free == {"camera": {0, 1}}
    lanes[0] = (4, 1)
    assert order.needed(free) == {0, 1}
    assert not order.free()  # so it has to wait for the result of 4, if it is not let through now
    assert order.release("camera") == (2, "third")


@dataclass
class Lane:
    """An edge to a replica."""

    announced: int = 0
    pushed: int = 0
    done: int = 0
    queue: deque[int] = field(default_factory=deque)

    def finish(self, ticket: int) -> None:
        self.done = max(self.done, ticket)


@dataclass(eq=False)
class Results:
    """What one life of a replica has pushed."""

    queue: deque[tuple[int, Any]] = field(default_factory=deque)
    dead: bool = False
    readable: bool = False


class World:
    """A sender, its replicas, and what `Reordering` sees of them. Each `yield` of a process ends one of its steps."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.capacity, self.rate = self.random.choice((1, 2, 3)), self.random.choice((0.05, 0.2, 0.8))
        count, self.eagerness = self.random.choice((3, 4)), self.random.random()
        self.drops, self.deaths, self.direct = (self.random.random() < part for part in (0.3, 0.5, 0.7))
        self.lanes = [Lane() for _ in range(count)]
        self.results = [[Results(readable=True)] for _ in range(count)]
        self.processes: dict[Any, Iterator[None]] = {number: self.replica(number) for number in range(count)}
        self.processes["sender"] = self.sender()
        self.dying: set[int] = set()
        self.now = self.looked_last = 0
        # As an inbox and a reception:
        self.paused: set[int] = set()
        self.nothing_came = False
        self.edge = SimpleNamespace(number=0)

    # ---- the other processes -------------------------------------------------------------------------

    def advance(self) -> None:
        for _ in range(self.random.choice((0, 0, 1, 2, 5, 12))):
            self.now += STEP_NS
            victim = self.random.randrange(len(self.lanes))
            if self.deaths and victim not in self.dying and self.random.random() < 0.004:
                self.dying.add(victim)
                self.processes[victim] = self.death(victim)
            name, process = self.random.choice(list(self.processes.items()))
            if next(process, self) is self and self.processes[name] is process:
                del self.processes[name]

    def sender(self) -> Iterator[None]:
        ticket = 0
        while True:
            yield
            fewest = min(len(lane.queue) for lane in self.lanes)
            if self.random.random() > self.rate or (fewest == self.capacity and not self.drops):
                continue
            ticket += 1
            lane = self.random.choice([lane for lane in self.lanes if len(lane.queue) == fewest])
            lane.announced = ticket
            yield
            if len(lane.queue) == self.capacity:
                lane.queue.popleft()
            lane.queue.append(ticket)
            yield
            lane.pushed = ticket

    def replica(self, number: int) -> Iterator[None]:
        lane, results, pause = self.lanes[number], self.results[number][-1], self.random.choice((0, 3, 20))
        pushed = lane.pushed
        yield
        if pushed > lane.done and not lane.queue:
            results.queue.append((pushed, NOTHING))
            yield
            lane.finish(pushed)
        while True:
            yield
            if not lane.queue:
                continue
            ticket = lane.queue.popleft()
            for _ in range(self.random.randint(0, pause)):
                yield
            while len(results.queue) >= self.capacity:
                yield
            results.queue.append((ticket, NOTHING if self.random.random() < 0.1 else "result"))
            yield
            lane.finish(ticket)

    def death(self, number: int) -> Iterator[None]:
        self.results[number][-1].dead = True
        yield
        results = Results()
        self.results[number].append(results)
        self.processes[number] = self.replica(number)
        self.processes[results] = self.attachment(number, results)
        self.dying.remove(number)

    def attachment(self, number: int, results: Results) -> Iterator[None]:
        for _ in range(self.random.choice((0, 10, 40))):
            yield
        while not results.readable:
            earlier = self.results[number][: self.results[number].index(results)]
            results.readable = all(one.readable for one in earlier)
            yield

    # ---- what `Reordering` sees ----------------------------------------------------------------------

    def tickets(self, number: int) -> tuple[int, int]:
        self.advance()
        done = self.lanes[number].done
        self.advance()
        return self.lanes[number].announced, done

    def pause(self, number: int, paused: bool) -> None:
        (self.paused.add if paused else self.paused.discard)(number)

    def unread(self, edges: set[int]) -> int:
        waiting = 0
        for number in edges:
            for results in self.results[number].copy():
                self.advance()
                waiting += len(results.queue)
        return waiting

    def receive(self, timeout_ns: int) -> Any:
        until = self.now + timeout_ns
        self.nothing_came = False
        for _ in range(STUCK):
            for number in range(self.looked_last + 1, self.looked_last + 2 + len(self.lanes)):
                self.advance()
                message = self.look(number % (len(self.lanes) + 1))
                if message is not None:
                    return message
            if self.random.random() < 0.05:
                return None  # for a notice
            if self.now >= until:
                self.nothing_came = True
                return None
        raise AssertionError("nothing ever comes")

    def look(self, number: int) -> Any:
        if number == len(self.lanes):
            if self.direct and self.random.random() < self.eagerness:
                self.looked_last, self.edge = number, SimpleNamespace(number=DIRECT)
                return "direct", SimpleNamespace(ticket=None)
            return None
        results = self.results[number][0]
        dead = results.dead
        if number in self.paused or not results.readable:
            return None
        self.advance()
        if results.queue:
            ticket, payload = results.queue.popleft()
            self.looked_last, self.edge = number, SimpleNamespace(number=number)
            return payload, SimpleNamespace(ticket=(0, ticket))
        if dead and len(self.results[number]) > 1:
            self.results[number].pop(0)
        return None

    def unless_tombstone(self, message: Any) -> Any:
        return None if message[0] is NOTHING else message


def reordering_in(world: World, monkeypatch: pytest.MonkeyPatch) -> Reordering:
    def edge_record(_: None, number: int) -> SimpleNamespace:
        return SimpleNamespace(tickets=lambda: world.tickets(number))

    beside = SimpleNamespace(EdgeRecord=edge_record, now_ns=lambda: world.now, FOREVER=FOREVER)
    monkeypatch.setattr(reordering, "binding", beside)
    context: Any = SimpleNamespace(
        host=SimpleNamespace(segment=SimpleNamespace(process=None)),
        inbox=world,
        record=SimpleNamespace(words=SimpleNamespace(handled=0)),
        plan=SimpleNamespace(restores={"workers": {0: {number: number for number in range(len(world.lanes))}}}),
    )
    reception: Any = world
    return Reordering(context, reception)


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_no_interleaving_puts_a_result_before_an_earlier_one(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(first, first + 100):
        world = World(seed)
        order, last, taken = reordering_in(world, monkeypatch), 0, 0
        while taken < 100:
            message = order.next(world.random.choice((FOREVER, 5_000_000, 0)))
            if message is None:
                continue
            taken += 1
            if message[1].ticket is not None:
                _, number = message[1].ticket
                assert number > last, f"seed {seed}: {number} came after {last}"
                last = number
