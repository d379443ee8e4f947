"""The states of routines and flows, as they stand in their records in the control segment."""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """A routine's state."""

    BUILT = 0
    RUNNING = 1
    STOPPED = 2
    ENDED = 3
    FAILED = 4

    @property
    def over(self) -> bool:
        """Whether it goes on only after a new start."""
        return self in (State.ENDED, State.FAILED)


class FlowState(IntEnum):
    """A flow's state."""

    RUNNING = 1
    RESTARTING = 2
    FAILED = 3
    ENDED = 4
