"""The states of routines and flows and the ends of processes, as records hold them, and what each order does in each state."""

from __future__ import annotations

from enum import Enum, IntEnum


class State(IntEnum):
    """A routine's state."""

    BUILT = 0
    RUNNING = 1
    STOPPED = 2
    ENDED = 3
    FAILED = 4
    STOPPING = 5  # told to stop, but still busy with a message or in cleanup()

    @property
    def over(self) -> bool:
        """Whether it has ended or failed, and goes on only after a new start."""
        return self in (State.ENDED, State.FAILED)

    @property
    def active(self) -> bool:
        """Whether a run has begun and not ended."""
        return self in (State.RUNNING, State.STOPPING)


class Order(Enum):
    """What a flow tells a routine to do."""

    START = "start"
    STOP = "stop"
    KILL = "kill"
    CALL = "call"


class Reaction(Enum):
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


_RESTS = {Order.START: Reaction.RUN, Order.STOP: Reaction.NOTHING, Order.KILL: Reaction.LEAVE, Order.CALL: Reaction.CALL_NOW}

REACTIONS: dict[State, dict[Order, Reaction]] = {
    State.BUILT: {**_RESTS, Order.STOP: Reaction.MARK},
    State.RUNNING: {
        Order.START: Reaction.NOTHING,
        Order.STOP: Reaction.STOP,
        Order.KILL: Reaction.STOP_AND_LEAVE,
        Order.CALL: Reaction.CALL,
    },
    State.STOPPING: dict.fromkeys(Order, Reaction.WAIT),
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


class EndReason(IntEnum):
    """Why the last process of a flow ended."""

    NONE = 0  # there was none
    DIED = 1  # it exited, or a signal that we did not send ended it
    HANG = 2  # killed: a call took longer than the routine's `hang_timeout`
    MAX_RSS = 3  # killed: it took more memory than the flow's `max_rss`
    ORDER = 4  # killed: `restart_flow()` asked for it
    START = 5  # it could not be started
    END = 6  # the pipe ended
