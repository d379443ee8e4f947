"""Who carries letters to a server, and how it says that one did not arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipert_shm.errors import PipertError
from pipert_shm.sinks.letter import Letter


class Undelivered(PipertError):
    """Letters did not arrive, or nobody knows whether they did. They are sent again, after a pause.

    Attributes:
        arrived: how many of the first of them did.
        wait: seconds that the server asks to wait; None if it does not ask.
    """

    def __init__(self, why: str, *, arrived: int = 0, wait: float | None = None) -> None:
        super().__init__(why)
        self.arrived = arrived
        self.wait = wait


class LetterRefused(PipertError):
    """The server has got the letters, and does not take one of them, as it is. None of them has arrived."""


class Courier(Protocol):
    """One connection to a server. Only the sink's sending thread uses it.

    Attributes:
        most: how many letters `deliver` takes.
    """

    @property
    def most(self) -> int:
        """See above."""

    def deliver(self, letters: Sequence[Letter]) -> Mapping[int, str] | None:
        """Returns when the server has all letters, in this order.

        :return: why the server takes some of them never, by their place. All others have arrived.
        :raises Undelivered: when not all arrived; some may have.
        :raises LetterRefused: when none arrived because of one of them.
        :raises Exception: any other one counts as `Undelivered`.
        """

    def close(self) -> None:
        """Ends the connection. It may be broken."""
