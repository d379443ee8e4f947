"""A pipe whose build() must refuse it, and a routine that handles events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipert_shm import START_EVENT_NAME, Pipe, PipertError, PipeStateError, Routine, SourceRoutine, Wire, events
from routines import Sink, chain


def pipe_of(*flows: tuple[Routine, ...], wires: tuple[Wire, ...] = ()) -> Pipe:
    pipe = Pipe(policy="block", grace_period=1)
    for number, routines in enumerate(flows):
        pipe.create_flow(f"flow{number}", False, *routines)
    pipe.link(*wires)
    return pipe


def refuses(pipe: Pipe, error: type[PipertError], *words: str) -> None:
    """build() raises this very error, with these words in it."""
    with pytest.raises(error) as caught:
        pipe.build()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(PipeStateError):
        pipe.join()  # it is not built


class Handles(SourceRoutine):
    def main_logic(self) -> None:
        return None

    @events("known")
    def handler(self, needed: int, optional: int = 0) -> None:
        return None


@contextmanager
def handling_pipe() -> Iterator[Pipe]:
    """A pipe that runs: `handles`, which handles the event `known`, and `sink`."""
    pipe = Pipe(grace_period=1)
    chain(pipe, Handles("handles"), Sink("sink"))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)
    yield pipe
    pipe.join(to_kill=True)
