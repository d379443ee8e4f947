"""A running camera, and flows that are added to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from killing import FAST, running
from pipert_shm import START_EVENT_NAME, Pipe, Wire
from pipert_shm.transmitters import DataTransmitter
from routines import Frames, Sink
from waiting import eventually


@contextmanager
def camera_pipe(*, capacity: int = 2, grace: float = 2, **options: Any) -> Iterator[tuple[Pipe, Frames]]:
    """A camera and a preview, running, each in a flow of its own."""
    pipe = Pipe(policy="block", capacity=capacity, grace_period=grace, **options)
    camera = Frames("camera", None, loan=True)
    preview = Sink("preview")
    pipe.create_flow("camera", False, camera, **FAST)
    pipe.create_flow("preview", False, preview, **FAST)
    pipe.link(Wire(camera, preview))
    with running(pipe):
        yield pipe, camera


def add_sink(pipe: Pipe, camera: Any, sink: Any, **options: Any) -> None:
    """Adds a flow of one sink, named after it, and starts it."""
    pipe.create_flow(sink.name, False, sink, **{**FAST, **options})
    pipe.link(Wire(camera, sink))
    pipe.build()
    pipe.notify_event(START_EVENT_NAME)


def fork_servers_of(pipe: Pipe) -> list[int]:
    assert pipe._session is not None
    return sorted(pipe._session._fork_servers)


def moves(pipe: Pipe, sender: str, receiver: str, messages: int = 10) -> None:
    """Until a wire has carried so many messages from now on."""
    before = pipe.statistics().wires[sender, receiver].received
    eventually(
        lambda: pipe.statistics().wires[sender, receiver].received >= before + messages, f"motion from {sender} to {receiver}"
    )


class Doubled(DataTransmitter):
    """Doubles what is sent."""

    def transmit(self) -> Callable[[Any], Any]:
        return lambda frame: frame * 2

    def receive(self) -> Callable[[Any], Any]:
        return lambda frame: frame
