"""Wires, and the queue settings of a pipe."""

from __future__ import annotations

from collections.abc import Iterable

from pipert_shm.errors import WiresValidation
from pipert_shm.limits import LARGEST_CAPACITY, POLICIES, Policy, check_queue
from pipert_shm.routine import Routine
from pipert_shm.transmit import DataTransmitter

__all__ = ["LARGEST_CAPACITY", "POLICIES", "Policy", "QueueNetwork", "Wire", "check_queue"]


class Wire:
    """Carries what one routine returns to others.

    :param source: the sender.
    :param destinations: the receivers; each gets every message, through a queue of its own.
    :param data_transmitter: how payloads travel; by default the pipe's.
    :param policy: what a sender does when a queue is full: `drop_oldest` (real time: the newest frames win), `drop_newest`, or
        `block` (nothing is lost). By default the pipe's.
    :param capacity: messages that a queue holds, 1 to 65536. By default the pipe's.
    :param timeout: seconds after which a blocked sender drops the message; None: never. By default the pipe's.
    :param max_age: seconds since its capture after which a message is dropped when it comes, counted as `expired`. None: never.
    :raises ValueError, WiresValidation: when an argument is out of range, or there is no destination.

    >>> from pipert_shm import DestinationRoutine, SourceRoutine, Wire
    >>> camera, screen, disk = SourceRoutine("camera"), DestinationRoutine("screen"), DestinationRoutine("disk")
    >>> Wire(camera, disk, policy="block", capacity=8), Wire(camera, screen, max_age=0.5)
    (Wire('camera' -> 'disk'), Wire('camera' -> 'screen'))
    """

    def __init__(
        self,
        source: Routine,
        destinations: Iterable[Routine] | Routine,
        data_transmitter: DataTransmitter | None = None,
        policy: Policy | None = None,
        capacity: int | None = None,
        timeout: float | None = None,
        max_age: float | None = None,
    ) -> None:
        check_queue(policy, capacity, timeout)
        if max_age is not None and not max_age > 0:
            raise ValueError(f"max_age must be more than 0 (seconds), not {max_age}")
        self.source = source
        self.destinations = (destinations,) if isinstance(destinations, Routine) else tuple(destinations)
        if not all(isinstance(destination, Routine) for destination in self.destinations):
            raise TypeError(f"destinations must be routines, not {destinations!r}")
        self.data_transmitter = data_transmitter
        self.policy = policy
        self.capacity = capacity
        self.timeout = timeout
        self.max_age = max_age
        if not self.destinations:
            raise WiresValidation(f"the wire from {source.name!r} has no destinations")

    def __repr__(self) -> str:
        return f"Wire({self.source.name!r} -> {', '.join(repr(d.name) for d in self.destinations)})"


class QueueNetwork:
    """Queue settings of a whole pipe, by PipeRT2's names.

    :param max_queue_sizes: messages that each queue holds.
    :param put_block: whether a sender waits for room (`block`) or makes room (`drop_oldest`).
    :param timeout: seconds that a blocked sender waits before it drops the message; None: for ever.
    """

    def __init__(self, max_queue_sizes: int = 1, put_block: bool = False, timeout: float | None = 1) -> None:
        self.policy: Policy = "block" if put_block else "drop_oldest"
        self.capacity = max_queue_sizes
        self.timeout = timeout
        check_queue(self.policy, self.capacity, self.timeout)
