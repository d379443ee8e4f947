"""What the control thread tells a routine's thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pipert_shm.shm.states import Order


@dataclass(slots=True)
class Start:
    """Begin the run of this number."""

    order: ClassVar[Order] = Order.START
    run: int


@dataclass(slots=True)
class Stop:
    """End the run after the message in hand."""

    order: ClassVar[Order] = Order.STOP


@dataclass(slots=True)
class Shutdown:
    """End the run, and then the thread.

    Attributes:
        patience: seconds that messages which wait for room may take until then.
    """

    order: ClassVar[Order] = Order.KILL
    patience: float = 0


@dataclass(slots=True)
class Call:
    """Call this on the routine's thread, between two messages."""

    order: ClassVar[Order] = Order.CALL
    action: Callable[[], None]


Command = Start | Stop | Shutdown | Call
