"""The states of routines and flows, as they stand in their records in the control segment, and what orders do in them."""

from __future__ import annotations

from enum import Enum, IntEnum


class State(IntEnum):
    """A routine's state."""

    BUILT = 0
    RUNNING = 1
    STOPPED = 2
    ENDED = 3
    FAILED = 4
    STOPPING = 5  # told to stop, with its message in hand or in cleanup() still

    @property
    def over(self) -> bool:
        """Whether it goes on only after a new start."""
        return self in (State.ENDED, State.FAILED)

    @property
    def active(self) -> bool:
        """Whether a run has begun and is not through."""
        return self in (State.RUNNING, State.STOPPING)


class Order(Enum):
    """What a routine is told by its flow."""

    START = "start"
    STOP = "stop"
    KILL = "kill"
    CALL = "call"


class Answer(Enum):
    """What a routine does when it is told something; in words, as docs/architecture.md has them."""

    RUN = "begins a run: `running`"
    MARK = "`stopped`"
    STOP = "`stopping`"
    STOP_AND_LEAVE = "`stopping`, and again when it rests"
    CALL = "does it between two messages"
    CALL_NOW = "does it"
    LEAVE = "its thread ends"
    WAIT = "later, when it rests"
    NOTHING = "nothing"


_RESTS = {Order.START: Answer.RUN, Order.STOP: Answer.NOTHING, Order.KILL: Answer.LEAVE, Order.CALL: Answer.CALL_NOW}

ANSWERS: dict[State, dict[Order, Answer]] = {
    State.BUILT: {**_RESTS, Order.STOP: Answer.MARK},
    State.RUNNING: {
        Order.START: Answer.NOTHING,
        Order.STOP: Answer.STOP,
        Order.KILL: Answer.STOP_AND_LEAVE,
        Order.CALL: Answer.CALL,
    },
    State.STOPPING: dict.fromkeys(Order, Answer.WAIT),
    State.STOPPED: _RESTS,
    State.ENDED: _RESTS,
    State.FAILED: _RESTS,
}


class FlowState(IntEnum):
    """A flow's state."""

    RUNNING = 1
    RESTARTING = 2
    FAILED = 3
    ENDED = 4
