"""What an edge to a replica says of its tickets: by it others know which results may still come."""

from __future__ import annotations

import pytest

from loop import Loop
from pipert_shm import binding
from pipert_shm.shm.slots import Stopping


def send_into_a_full_queue(loop: Loop) -> binding.EdgeRecord:
    loop.send("first")
    loop.interrupt()
    with pytest.raises(Stopping):
        loop.send("second")  # announced, and not in the queue
    loop.obey()
    assert loop.receive() == "first"
    return binding.EdgeRecord(loop.segment.process, 0)


def test_a_ticket_counts_as_pushed_only_once_its_message_is() -> None:
    with Loop(capacity=1, timeout=60, ticketed=True) as loop:
        edge = send_into_a_full_queue(loop)
        assert not loop.inbox.unread({0})
        assert (edge.tickets()[0], edge.pushed_ticket()) == (2, 1)  # so the empty queue says nothing about ticket 2
        loop.outbox.flush()
        assert edge.pushed_ticket() == 2
        assert loop.receive() == "second"


def test_one_that_is_given_up_is_as_if_it_had_never_been() -> None:
    with Loop(capacity=1, timeout=60, ticketed=True) as loop:
        edge = send_into_a_full_queue(loop)
        loop.outbox.abandon()
        assert (edge.tickets()[0], edge.pushed_ticket()) == (1, 1)


def test_what_a_dead_sender_announced_counts_as_pushed() -> None:
    with Loop(capacity=1, timeout=60, ticketed=True) as loop:
        edge = send_into_a_full_queue(loop)
        edge.settle_tickets()
        assert edge.pushed_ticket() == 2
