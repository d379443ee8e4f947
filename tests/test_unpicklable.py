"""Payloads that can't be sent or can't be loaded are told by routine and field, and cost only themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from loop import Loop
from payloads import ARRAY, Expect, Plain, Reading, WorseThanNone
from pipert_shm import START_EVENT_NAME, PayloadError, Pipe
from routines import Items, chain


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop() as loop:
        yield loop


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        (threading.Lock(), "data (lock)"),
        ({"fine": 1, "culprit": threading.Lock()}, "data['culprit']"),
        ([1, [2, {"k": (3, threading.Lock())}]], "data[1][1]['k'][1]"),
        (Reading(ARRAY, [Plain(threading.Lock())]), "data.parts[0].value"),
        (lambda: 1, "data (function)"),
        (np.array([1, threading.Lock()], object), "data"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_unpicklable_payloads_are_told_by_routine_and_field(loop: Loop, payload: Any, where: str) -> None:
    with pytest.raises(PayloadError) as caught:
        loop.send(payload)
    assert caught.value.routine == "sender"
    assert caught.value.field.startswith(where), caught.value.field
    assert "'sender'" in str(caught.value)
    assert where in str(caught.value)
    assert loop.held_slots() == 0
    assert loop.trip([1, ARRAY])[0] == 1


def test_unpicklable_after_a_frame_was_referenced(loop: Loop) -> None:
    loan = loop.loan((100, 100))
    loan[...] = 3
    with pytest.raises(PayloadError, match=r"data\[1\]"):
        loop.send([loan, threading.Lock()])
    assert loop.trip(loan)[0, 0] == 3
    del loan
    assert loop.held_slots() == 0


def test_the_routine_goes_on_after_an_unpicklable_payload(caplog: pytest.LogCaptureFixture) -> None:
    items = [1, Reading(ARRAY, [threading.Lock()]), 2, {"k": lambda: 0}, 3]
    pipe = Pipe(policy="block")
    expect = Expect("expect", items)
    chain(pipe, Items("items", items), expect)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    statistics = pipe.statistics()
    wire = statistics.wires["items", "expect"]
    assert (wire.sent, wire.received, wire.dropped["error"], wire.waiting) == (5, 3, 2, 0)
    assert statistics.routines["items"].errors == 2
    assert expect.board[0] == 3
    records = [record for record in caplog.records if record.name == "Pipe.items.items"]
    assert ["data.parts[0]" in record.getMessage() for record in records] == [True, False]
    assert ["data['k']" in record.getMessage() for record in records] == [False, True]


def test_the_receiver_goes_on_after_a_payload_that_does_not_load(caplog: pytest.LogCaptureFixture) -> None:
    items = [1, [ARRAY, WorseThanNone()], 2]
    pipe = Pipe(policy="block")
    expect = Expect("expect", items)
    chain(pipe, Items("items", items), expect)
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    statistics = pipe.statistics()
    wire = statistics.wires["items", "expect"]
    assert (wire.sent, wire.received, wire.dropped["error"], wire.waiting) == (3, 2, 1, 0)
    assert statistics.routines["expect"].errors == 1
    assert expect.board[0] == 2
    (record,) = (record for record in caplog.records if record.name == "Pipe.expect.expect")
    assert "ArithmeticError: this can't be loaded" in record.getMessage()
