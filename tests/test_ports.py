"""A sender that is called out of a wait goes on where it was."""

from __future__ import annotations

import numpy as np
import pytest

from loop import Loop
from pipert_shm.shm.slots import Stopping
from routines import one_value


def interrupted(loop: Loop, payload: object) -> None:
    loop.interrupt()
    with pytest.raises(Stopping):
        loop.send(payload)
    loop.obey()


def test_interrupted_at_a_full_queue() -> None:
    with Loop(capacity=2, timeout=60) as loop:
        loop.send(1)
        loop.send(2)
        interrupted(loop, 3)
        assert loop.receive() == 1
        loop.outbox.flush()
        assert [loop.receive(), loop.receive()] == [2, 3]
        assert loop.held_slots() == 0


def test_interrupted_for_want_of_a_message_slot() -> None:
    """Nothing of the message is out yet then: it is not a message slot that there is not that must be sent."""
    with Loop(capacity=16, message_slots=8, timeout=60) as loop:
        for number in range(8):
            loop.send(number)
        interrupted(loop, np.full(5000, 8, np.uint8))
        assert [loop.receive() for _ in range(8)] == list(range(8))
        loop.outbox.flush()
        assert one_value(loop.receive()) == 8
        assert loop.held_slots() == 0


def test_interrupted_for_want_of_a_slot() -> None:
    with Loop(slots=6, capacity=16, timeout=60) as loop:
        for number in range(6):
            loop.send(np.full(5000, number, np.uint8))
        interrupted(loop, np.full(5000, 6, np.uint8))
        assert [one_value(loop.receive()) for _ in range(6)] == list(range(6))
        loop.outbox.flush()
        assert one_value(loop.receive()) == 6
        assert loop.held_slots() == 0


@pytest.mark.parametrize("capacity", [2, 16])
def test_given_up_while_interrupted(capacity: int) -> None:
    """At a full queue, or without a message slot."""
    with Loop(capacity=capacity, message_slots=8, timeout=60) as loop:
        count = min(capacity, 8)
        for number in range(count):
            loop.send(number)
        interrupted(loop, np.full(5000, 8, np.uint8))
        loop.outbox.abandon()
        assert [loop.receive() for _ in range(count)] == list(range(count))
        assert loop.held_slots() == 0
        assert loop.trip("more") == "more"
