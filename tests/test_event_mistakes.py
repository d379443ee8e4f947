"""Events with wrong names, targets or parameters are told by notify_event()."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pipert_shm import (
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    PayloadError,
    Pipe,
    PipeStateError,
    UnknownEvent,
    UnknownTarget,
    events,
)
from pipert_shm.events import LARGEST_PARAMETERS
from refusing import Handles, handling_pipe
from routines import Sink, chain
from waiting import Board


@pytest.fixture
def running() -> Iterator[Pipe]:
    with handling_pipe() as pipe:
        yield pipe


def test_unknown_event(running: Pipe) -> None:
    with pytest.raises(UnknownEvent, match=r"'unheard'.*handle: .*known") as caught:
        running.notify_event("unheard")
    assert caught.value.event == "unheard"
    assert "known" in caught.value.known
    with pytest.raises(UnknownEvent, match="'known'"):
        running.notify_event("known", {"sink": []}, needed=1)  # another routine handles it, but that one is not addressed


@pytest.mark.parametrize("event", ["known", START_EVENT_NAME, STOP_EVENT_NAME])
def test_unknown_targets(running: Pipe, event: str) -> None:
    with pytest.raises(UnknownTarget, match=r"flow 'nowhere'.*handles") as caught:
        running.notify_event(event, {"nowhere": []}, needed=1)
    assert (caught.value.target, caught.value.known) == ("nowhere", ["handles", "sink"])
    with pytest.raises(UnknownTarget, match="'sink'"):
        running.notify_event(event, {"handles": ["sink"]}, needed=1)
    with pytest.raises(UnknownTarget, match="routine 'nobody'"):
        running.notify_event(event, specific_routine="nobody", needed=1)


def test_missing_parameter_of_a_handler(running: Pipe) -> None:
    with pytest.raises(UnknownEvent, match=r"'known'.*'needed'"):
        running.notify_event("known")
    with pytest.raises(UnknownEvent, match="'needed'"):
        running.notify_event("known", optional=1)


def test_parameter_that_does_not_pickle(running: Pipe) -> None:
    with pytest.raises(PayloadError, match=r"'known'.*'needed'.*cannot pickle '_thread\.lock'"):
        running.notify_event("known", needed=threading.Lock())
    running.notify_event("known", needed=1)  # the pipe still takes events


def test_parameter_that_is_too_large(running: Pipe) -> None:
    with pytest.raises(PayloadError, match=r"'known'.*20,000,\d+ bytes.*1,048,576.*wire") as caught:
        running.notify_event("known", needed=bytes(20_000_000))
    assert caught.value.size is not None
    assert caught.value.size > 20_000_000
    assert caught.value.limit == LARGEST_PARAMETERS
    running.notify_event("known", needed=1)


@pytest.mark.parametrize("name", ["flow_routines", "only_if_built", "name", "event", "self_"])
def test_parameters_of_any_name_reach_their_handler(name: str) -> None:
    class Takes(Handles):
        board = Board()

        @events("any")
        def any(self, **parameters: Any) -> None:
            self.board[0] = list(parameters.items()) == [(name, 7)]

    pipe = Pipe()
    chain(pipe, takes := Takes("takes"), Sink("sink"))
    pipe.build()
    try:
        pipe.notify_event("any", **{name: 7})  # type: ignore[arg-type]
    finally:
        pipe.join(to_kill=True)
    assert takes.board[0] == 1


@pytest.mark.parametrize("mistake", [{"event_name": "unheard"}, {"event_name": "start", "specific_routine": "nobody"}])
def test_mistaken_events_before_build_are_told_by_build(mistake: dict[str, Any]) -> None:
    pipe = Pipe()
    chain(pipe, Handles("handles"), Sink("sink"))
    pipe.notify_event(**mistake)
    with pytest.raises((UnknownEvent, UnknownTarget)):
        pipe.build()


def test_events_of_a_routine_that_is_in_no_pipe() -> None:
    with pytest.raises(PipeStateError, match="'alone'"):
        Handles("alone").notify_event(START_EVENT_NAME)
