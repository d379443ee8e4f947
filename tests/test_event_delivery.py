"""Events arrive in the order in which they were sent, from any thread; a handler that fails costs nothing else."""

from __future__ import annotations

import threading

import pytest

from lifecycle import CLEANUPS, Counting
from pipert_shm import KILL_EVENT_NAME, START_EVENT_NAME, Pipe, events
from routines import Sink, chain
from waiting import Board


class Hears(Counting):
    heard: tuple[int, ...] = ()

    @events("number")
    def hear(self, number: int) -> None:
        self.heard = (*self.heard, number)

    def cleanup(self) -> None:
        self.board[CLEANUPS] = self.heard == tuple(range(200))


@pytest.mark.parametrize("when", ["before build", "after build"])
def test_events_arrive_in_order(when: str) -> None:
    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, hears := Hears("hears", None, board), Sink("sink"))
    if when == "after build":
        pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    for number in range(100):
        pipe.notify_event("number", number=number)
    for number in range(100, 200):
        hears.notify_event("number", {"hears": ["hears"]}, number=number)
    pipe.notify_event(KILL_EVENT_NAME)
    if when == "before build":
        pipe.build()
    pipe.join()
    assert board[CLEANUPS] == 1


def test_events_from_many_threads_at_once() -> None:
    class Sums(Hears):
        def hear(self, number: int) -> None:
            self.heard = (*self.heard, number)

        def cleanup(self) -> None:
            self.board[CLEANUPS] = sorted(self.heard) == list(range(400))

    board = Board()
    pipe = Pipe(policy="block")
    chain(pipe, Sums("sums", None, board), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)

    def notify(first: int) -> None:
        for number in range(first, first + 100):
            pipe.notify_event("number", number=number)

    threads = [threading.Thread(target=notify, args=(first,)) for first in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.join(to_kill=True)
    assert board[CLEANUPS] == 1


def test_an_exception_in_a_handler_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Counting):
        @events("fail")
        def fail(self) -> None:
            raise LookupError("no such thing")

    pipe = Pipe(policy="block")
    chain(pipe, Fails("fails", 3), Sink("sink"))
    pipe.build()
    pipe.notify_event("fail")
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    assert "routine 'fails' of flow 'fails': event 'fail' failed: LookupError: no such thing" in caplog.messages
    assert pipe.statistics().routines["fails"].errors == 1
    assert pipe.statistics().routines["sink"].received == 3
