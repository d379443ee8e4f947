"""Calls of a pipe that come too early or too late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipert_shm import START_EVENT_NAME, STOP_EVENT_NAME, Pipe, PipeStateError, Wire
from refusing import handling_pipe, pipe_of
from routines import Items, Sink, chain


@pytest.fixture
def running() -> Iterator[Pipe]:
    with handling_pipe() as pipe:
        yield pipe


def test_calls_before_build() -> None:
    pipe = pipe_of((Items("source", []),))
    calls: list[Callable[[], Any]] = [pipe.join, pipe.statistics, lambda: pipe.tap("source"), lambda: pipe.join(to_kill=True)]
    for call in calls:
        with pytest.raises(PipeStateError, match="not built"):
            call()


def test_nothing_to_build(running: Pipe) -> None:
    with pytest.raises(PipeStateError, match=r"build\(\).*nothing"):
        running.build()


def test_building_after_the_end() -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Items("source", [1]), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    extra = Sink("extra")
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("link", lambda: pipe.link(Wire(Items("new", []), extra))),
        ("build", pipe.build),
        ("create_flow", lambda: pipe.create_flow("more", False, extra)),
    ]
    for name, call in calls:
        with pytest.raises(PipeStateError, match=f"{name}\\(\\)"):
            call()
    assert extra.flow_name is None


def test_calls_after_the_end() -> None:
    pipe = Pipe(policy="block")
    handles = Items("source", [1])
    chain(pipe, handles, Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    pipe.join()
    for event in (START_EVENT_NAME, STOP_EVENT_NAME):
        with pytest.raises(PipeStateError, match=f"ended.*'{event}'"):
            pipe.notify_event(event)
    with pytest.raises(PipeStateError, match="ended"):
        handles.notify_event(START_EVENT_NAME)
    with pytest.raises(PipeStateError, match="ended"):
        pipe.tap("source")
    pipe.notify_event("kill")  # there is nothing left to kill, which is what was wanted
    pipe.join()
    pipe.join(to_kill=True)
