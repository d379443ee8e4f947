"""Both ends of a wire that C passes frames on, in this process: across flows, and within one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from loop import NAMES, Flow, Loop
from pipert_shm import Meta, binding
from pipert_shm.message.inbox import Inbox
from pipert_shm.message.outbox import Outbox
from pipert_shm.message.types import LocalMessages
from pipert_shm.shm.segments import ControlSegment

SHAPE = (48, 64, 3)
SOURCE, RECEIVER = True, False


FOR_PYTHON = np.zeros(5003, np.uint8)  # an array of a form that was not described yet


class Stop(Exception):
    """Ends a loop of receipts."""


class Hot:
    """What `Across` and `Within` have in common.

    Attributes:
        names: of the routines.
        out: the sender's port.
        boxes: of the receivers.
    """

    segment: ControlSegment
    outbox: Outbox
    names: tuple[str, ...]
    out: binding.Port
    boxes: list[Inbox]
    loan: Callable[..., np.ndarray]
    held_slots: Callable[[], int]
    _sequence: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None: ...

    @property
    def sender(self) -> Any:
        return self.out.hot

    @property
    def receiver(self) -> Any:
        return self.boxes[0]._port.hot

    @property
    def tables(self) -> list[LocalMessages]:
        """What waits within the flow."""
        return [table for box in self.boxes for table in box._tables.values()]

    def frame(self, value: int = 0, shape: tuple[int, ...] = SHAPE, dtype: Any = np.uint8) -> np.ndarray:
        frame = self.loan(shape, dtype)
        frame[...] = value
        return frame

    def meta(self, **others: Any) -> Meta:
        self._sequence += 1
        return Meta(self.names, 0, self._sequence, others.pop("captured_ns", binding.now_ns()), **others)

    def send_in_python(self, payload: Any, meta: Meta | None = None) -> None:
        holder = [payload]
        del payload
        self.outbox.send(holder, meta or self.meta())

    def take_in_python(self, box: int = 0) -> Any:
        status = self.boxes[box].receive(0)
        assert status == binding.OK, status
        return self.boxes[box].take()[0]

    def send_in_c(self, *results: Any) -> int:
        """Lets the loop send these, then something that is not for it. The outcome that ended it."""
        waiting = [*results, FOR_PYTHON]
        del results
        outcome: int = self.sender.run(lambda: waiting.pop(0), SOURCE, self.outbox.ring, 0, 0)
        self.sender.take_result()
        return outcome

    def take_in_c(self, count: int = 1, handle: Callable[[np.ndarray], Any] = lambda frame: None, box: int = 0) -> int:
        """Lets the loop receive so many, which must wait, and then finds nothing. How many it was called with."""
        port, got = self.boxes[box]._port, 0

        def main_logic(frame: np.ndarray) -> Any:
            nonlocal got
            got += 1
            if got == count:
                port.notify()
            return handle(frame)

        try:
            outcome = port.hot.run(main_logic, RECEIVER, 0, 0, 0)
            assert (outcome, port.hot.status) == (binding.FOUND, binding.NOTICE), (outcome, port.hot.status)
        finally:
            port.noticed()
        return got


class Across(Loop, Hot):  # type: ignore[misc]
    """A wire from flow to flow, both of whose ends have met such a frame before."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.names, self.out, self.boxes = NAMES, self._port, [self.inbox]
        for _ in range(2):
            self.send_in_python(self.frame())
            self.take_in_python()

    def __enter__(self) -> Self:
        return self


class Within(Flow, Hot):  # type: ignore[misc]
    """Wires within a flow."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.out, self.boxes = self.outbox._port, self.inboxes

    def __enter__(self) -> Self:
        return self
