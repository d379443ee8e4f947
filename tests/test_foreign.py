"""Processes that were forked from the one that built a pipe: every method is refused there, at once, and writes to nothing."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from killing import running
from pipert_shm import Pipe, PipeStateError, Wire
from pipert_shm.api import create_app
from routines import Frames, Sink, chain
from waiting import PATIENCE, Board

REFUSED, OTHER, DONE, WRITTEN = range(4)  # cells of a board


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe(grace_period=1)
    chain(pipe, Frames("camera", None), Sink("screen"))
    with running(pipe):
        yield pipe


CALLS: dict[str, Callable[[Pipe], Any]] = {
    "notify_event": lambda pipe: pipe.notify_event("log_data"),
    "start": lambda pipe: pipe.notify_event("start"),
    "join": lambda pipe: pipe.join(),
    "kill": lambda pipe: pipe.join(to_kill=True),
    "tap": lambda pipe: pipe.tap("camera"),
    "statistics": lambda pipe: pipe.statistics(),
    "build": lambda pipe: pipe.build(),
    "create_flow": lambda pipe: pipe.create_flow("late", False, Sink("late")),
    "link": lambda pipe: pipe.link(Wire(pipe.flows["camera"].routines["camera"], Sink("late"))),
    "link event": lambda pipe: pipe.notify_event("link", specific_routine="camera", link_routine_name="screen"),
    "restart_flow": lambda pipe: pipe.restart_flow("camera"),
    "set_const_fps": lambda pipe: pipe.flows["camera"].routines["camera"].set_const_fps(5),
    "a routine's notify_event": lambda pipe: pipe.flows["camera"].routines["camera"].notify_event("log_data"),
}


def in_a_child(body: Callable[[], None]) -> int:
    """Runs it in a forked child; its exit status."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_every_method_is_refused(pipe: Pipe) -> None:
    board = Board()

    def call_all() -> None:
        # What a web worker would have where the parent has its channels.
        strangers = [end for _ in range(40) for end in socket.socketpair()]
        for call in CALLS.values():
            try:
                call(pipe)
                board.add(OTHER)
            except PipeStateError as error:
                board.add(
                    REFUSED if f"forked from the one that built the pipe (process {os.getppid()})" in str(error) else OTHER
                )
        board[WRITTEN] = len(select.select(strangers, [], [], 0)[0])
        board[DONE] = 1

    assert in_a_child(call_all) == 0
    assert (board[DONE], board[REFUSED], board[OTHER], board[WRITTEN]) == (1, len(CALLS), 0, 0)
    before = pipe.statistics().routines["screen"].received
    while pipe.statistics().routines["screen"].received == before:
        pass


def test_a_child_leaves_the_block(pipe: Pipe) -> None:
    """By its end or an exception of its own, which stays what it is."""
    board = Board()

    def leave() -> None:
        with pipe:
            pass
        try:
            with pipe:
                raise KeyError
        except KeyError:
            board[DONE] = 1

    assert in_a_child(leave) == 0
    assert board[DONE] == 1
    assert not pipe._built().gone.is_set()


def test_the_http_control_in_a_worker(pipe: Pipe) -> None:
    """As under gunicorn --preload: it says why it can't."""
    board = Board()

    def ask() -> None:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from fastapi.testclient import TestClient
        client = TestClient(create_app(pipe), base_url="http://localhost", client=("127.0.0.1", 1))
        for path in ("/start", "/statistics"):
            answer = client.get(path)
            board.add(REFUSED if answer.status_code == 409 and "forked from" in answer.json()["detail"] else OTHER)

    assert in_a_child(ask) == 0
    assert (board[REFUSED], board[OTHER]) == (2, 0)


def test_a_flow_has_its_routine_s_own_methods() -> None:
    """The pipe's are refused in a flow, too, where they would do nothing."""
    board = Board()
    pipe = Pipe(grace_period=1)

    class Asks(Sink):
        def main_logic(self, data: Any) -> None:
            try:
                pipe.notify_event("log_data")
            except PipeStateError:
                board.add(REFUSED)

    chain(pipe, Frames("camera", None), Asks("screen"))
    with running(pipe):
        board.wait(REFUSED, timeout=PATIENCE)


def test_a_pipe_that_was_only_made_here_may_be_built_in_a_child() -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Frames("camera", 3), Sink("screen"))
    board = Board()

    def run() -> None:
        pipe.build()
        pipe.notify_event("start")
        pipe.join()
        board[DONE] = pipe.statistics().routines["screen"].received

    assert in_a_child(run) == 0
    assert board[DONE] == 3
