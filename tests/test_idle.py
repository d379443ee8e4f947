"""A pipe that waits uses no CPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import processes
from lifecycle import Counting
from pipert_shm import START_EVENT_NAME, Pipe
from routines import Forward, Sink, chain
from waiting import eventually


@pytest.fixture
def known() -> set[int]:
    return set(processes.descendants())


@pytest.fixture
def starved() -> Iterator[Pipe]:
    """A source that rests, and two flows that wait for it."""
    pipe = Pipe(policy="block")
    source = Counting("source", None)
    source.set_const_fps(0.001)
    chain(pipe, source, Forward("middle"), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    eventually(lambda: pipe.statistics().routines["sink"].received == 1)
    yield pipe
    pipe.join(to_kill=True)


@pytest.fixture
def blocked() -> Iterator[Pipe]:
    """Senders that wait at full queues, for a receiver that is stopped."""
    pipe = Pipe(policy="block")
    chain(pipe, Counting("source", None), Forward("middle"), Sink("sink"))
    pipe.build()
    for routine in ("source", "middle"):
        pipe.notify_event(START_EVENT_NAME, specific_routine=routine)
    eventually(lambda: all(wire.waiting == wire.capacity for wire in pipe.statistics().wires.values()))
    yield pipe
    pipe.join(to_kill=True)


@pytest.mark.parametrize("idle", ["starved", "blocked"])
def test_waiting_costs_no_cpu(request: pytest.FixtureRequest, known: set[int], idle: str) -> None:
    request.getfixturevalue(idle)
    flows = sorted(set(processes.descendants()) - known)
    assert len(flows) == 4  # with the launcher
    settled = processes.cpu_seconds(flows)
    seconds = 2.0
    threading.Event().wait(seconds)  # the one thing here that is about time itself
    assert processes.cpu_seconds(flows) - settled < 0.01 * seconds
