"""Two cameras with a sink each, between which wires are linked and unlinked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from killing import FAST, running, snapshot_of
from pipert_shm import LINK_EVENT_NAME, UNLINK_EVENT_NAME, Pipe, Routine, SourceRoutine, Wire
from routines import Sink
from waiting import eventually

GATE, TAKEN, SEEN = 0, 1, 2


class Camera(SourceRoutine):
    """Sends frames for ever, loaned, the pixels of each being its number % 251."""

    def __init__(self, name: str, fps: float = 0) -> None:
        super().__init__(name)
        self.set_const_fps(fps)

    def main_logic(self) -> np.ndarray:
        frame = self.loan((40, 50, 3))
        frame[...] = self.meta.sequence % 251
        return frame


def link(pipe: Pipe, sender: str, receiver: str, **settings: Any) -> None:
    pipe.notify_event(LINK_EVENT_NAME, specific_routine=sender, link_routine_name=receiver, **settings)


def unlink(pipe: Pipe, sender: str, receiver: str) -> None:
    pipe.notify_event(UNLINK_EVENT_NAME, specific_routine=sender, unlink_routine_name=receiver)


@contextmanager
def two_cameras(*flows: str, screen: Routine | None = None, fps: float = 500, **options: Any) -> Iterator[Pipe]:
    """camera -> preview, and clock -> screen: in the flows that are named, one for each of these four."""
    pipe = Pipe(policy="block", capacity=2, grace_period=2)
    routines = [Camera("camera", fps), Sink("preview"), Camera("clock", fps), screen or Sink("screen")]
    for flow in dict.fromkeys(flows):
        members = [routine for routine, name in zip(routines, flows, strict=True) if name == flow]
        pipe.create_flow(flow, False, *members, **{**FAST, **options})
    pipe.link(Wire(routines[0], routines[1]), Wire(routines[2], routines[3]))
    with running(pipe):
        yield pipe


APART = ("camera", "preview", "clock", "screen")
TOGETHER = ("one",) * 4
across_and_within = pytest.mark.parametrize("flows", [APART, TOGETHER], ids=["across", "within"])


def moves(pipe: Pipe, sender: str = "camera", receiver: str = "screen", messages: int = 1) -> None:
    """Until a wire has carried so many messages from now on."""
    before = wire(pipe, sender, receiver).received
    eventually(lambda: wire(pipe, sender, receiver).received >= before + messages, f"motion from {sender} to {receiver}")


def wire(pipe: Pipe, sender: str = "camera", receiver: str = "screen") -> Any:
    return pipe.statistics().wires[sender, receiver]


def drained(pipe: Pipe, sender: str = "camera", receiver: str = "screen") -> None:
    """Until nothing is left of a wire that was unlinked."""
    names = list(pipe.statistics().routines)
    ends = names.index(sender), names.index(receiver)

    def gone() -> bool:
        shot = snapshot_of(pipe)
        return not any((e["sender"], e["receiver"]) == ends and shot.unswept(n) for n, e in enumerate(shot.edges))

    eventually(gone, f"the end of the wire from {sender} to {receiver}")
