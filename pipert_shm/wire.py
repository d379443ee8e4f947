"""Wires, and the queue settings of a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any, Literal, NamedTuple

from pipert_shm.display.tables import HtmlRepr
from pipert_shm.errors import WiresValidation, shown
from pipert_shm.limits import MOST_UNDER_WAY, Policy, check_queue, check_seconds, is_count
from pipert_shm.routine import Role, Routine
from pipert_shm.transmitters import DataTransmitter

RIGHT_CALL = 'Wire(camera, [detector, screen], policy="block", capacity=8)'


def _made_of(given: object) -> str:
    """A hint for the error that refuses a class in place of a routine."""
    return ", which is a class: make a routine of it" if isinstance(given, type) and issubclass(given, Routine) else ""


def check_transmitter(transmitter: Any, call: str) -> None:
    """Checks a transmitter; None stands for the default.

    :param call: an example of a right call, for the error's text.
    :raises TypeError: when it is not a transmitter.
    """
    if transmitter is not None and not isinstance(transmitter, DataTransmitter):
        raise TypeError(f"data_transmitter must be a DataTransmitter, not {shown(transmitter)}; give settings by name: {call}")


def _check_window(window: Any) -> None:
    """:raises ValueError: when it is no number of messages that may be under way between two hosts."""
    if window is not None and window != "auto" and not (is_count(window) and window <= MOST_UNDER_WAY):
        raise ValueError(f"window must be 'auto', or a whole number from 1 to {MOST_UNDER_WAY}, not {shown(window)}")


class QueueSettings(NamedTuple):
    """A queue's settings: what happens when it is full, how many messages it holds, and how many seconds a sender waits."""

    policy: Policy
    capacity: int
    timeout: float | None


def queue_settings(policy: Policy | None, capacity: int | None, timeout: float | None, base: QueueSettings) -> QueueSettings:
    """The settings of a queue: those that are given, and the base's for those that are None.

    A wire with a policy and no time-out of its own has none, even if the base has one.
    """
    return QueueSettings(
        policy or base.policy, capacity or base.capacity, timeout if timeout is not None or policy is not None else base.timeout
    )


class Wire(HtmlRepr):
    """Carries what one routine returns to others.

    :param source: the sender.
    :param destinations: the receivers; each gets every message, through a queue of its own.
    :param data_transmitter: how payloads travel; by default the pipe's.
    :param policy: what a sender does when a queue is full: `drop_oldest` (real time: the newest frames win), `drop_newest`, or
        `block` (nothing is lost). By default the pipe's.
    :param capacity: messages that a queue holds, 1 to 65536. By default the pipe's, and unless it blocks, room for batches.
        `build()` refuses a capacity that is too small for the batches before or after the wire.
    :param timeout: seconds after which a blocked sender drops the message; None: never. By default the pipe's.
    :param max_age: a message that is older than this many seconds, from its capture to its receipt, is dropped and counted as
        `expired`. None: never.
    :param codec: how payloads travel where the wire goes to another host (`Pipe(hosts=…)`): see `RemoteSender`.
    :param window: the most messages under way to another host, or `auto`.
    :raises ValueError, WiresValidation: when an argument is out of range, there is no destination, or source and destination
        are interchanged.
    :raises TypeError: when a routine or the transmitter is of another type.

    >>> from pipert_shm import DestinationRoutine, SourceRoutine, Wire
    >>> camera, screen, disk = SourceRoutine("camera"), DestinationRoutine("screen"), DestinationRoutine("disk")
    >>> Wire(camera, disk, policy="block", capacity=8), Wire(camera, screen, max_age=0.5)
    (Wire('camera' -> 'disk', policy='block', capacity=8), Wire('camera' -> 'screen', max_age=0.5))
    """

    # longer than 40 lines: its parameters, and their checks
    def __init__(
        self,
        source: Routine,
        destinations: Iterable[Routine] | Routine,
        data_transmitter: DataTransmitter | None = None,
        policy: Policy | None = None,
        capacity: int | None = None,
        timeout: float | None = None,
        max_age: float | None = None,
        *,
        codec: str | None = None,
        window: int | Literal["auto"] | None = None,
    ) -> None:
        if not isinstance(source, Routine):
            raise TypeError(f"a wire's source must be a routine, not {shown(source)}{_made_of(source)}: {RIGHT_CALL}")
        if isinstance(destinations, str | Mapping) or not isinstance(destinations, Routine | Iterable):
            what = shown(destinations) + _made_of(destinations)
            raise TypeError(f"a wire's destinations must be routines, not {what}: {RIGHT_CALL}")
        self.source = source
        self.destinations = (destinations,) if isinstance(destinations, Routine) else tuple(destinations)
        for destination in self.destinations:
            if not isinstance(destination, Routine):
                what = shown(destination) + _made_of(destination)
                raise TypeError(f"a wire's destinations must be routines, not {what}: {RIGHT_CALL}")
        check_transmitter(data_transmitter, RIGHT_CALL)
        check_queue(policy, capacity, timeout)
        if max_age is not None:
            check_seconds("max_age", max_age, positive=True, none="keep them however old")
        _check_window(window)
        self.codec, self.window = codec, window
        self.data_transmitter = data_transmitter
        self.policy = policy
        self.capacity = None if capacity is None else int(capacity)
        self.timeout = None if timeout is None else float(timeout)
        self.max_age = None if max_age is None else float(max_age)
        if not self.destinations:
            raise WiresValidation(f"the wire from {source.name!r} has no destinations")
        if source.role is Role.DESTINATION and all(to.role is Role.SOURCE for to in self.destinations):
            right = ", ".join(f"Wire({to.name}, {source.name})" for to in self.destinations)
            raise WiresValidation(
                f"Wire({self.ends}) leads from a DestinationRoutine to a SourceRoutine; the sender comes first: {right}"
            )

    def __repr__(self) -> str:
        given = "".join(
            f", {setting}={value!r}"
            for setting in ("policy", "capacity", "timeout", "max_age", "codec", "window", "data_transmitter")
            if (value := vars(self).get(setting)) is not None
        )
        return f"Wire({self.ends}{given})"

    def to(self, destinations: tuple[Routine, ...]) -> Wire:
        """The same wire to these destinations."""
        wire = copy(self)
        wire.destinations = destinations
        return wire

    def settings(self, base: QueueSettings) -> QueueSettings:
        """The settings of its queues, in a pipe with these defaults."""
        return queue_settings(self.policy, self.capacity, self.timeout, base)

    def between(self, others: Mapping[int, Routine]) -> Wire:
        """The wire with other routines at its ends.

        :param others: by the `id()` of those that they replace.
        """
        wire = copy(self)
        wire.source = others.get(id(self.source), self.source)
        wire.destinations = tuple(others.get(id(to), to) for to in self.destinations)
        return wire

    @property
    def ends(self) -> str:
        """The names of its source and destinations, as text."""
        return f"{self.source.name!r} -> {', '.join(repr(to.name) for to in self.destinations)}"


class QueueNetwork:
    """Queue settings of a pipe, by PipeRT2's names.

    :param max_queue_sizes: messages that each queue holds.
    :param put_block: whether a sender waits for room (`block`) or makes room (`drop_oldest`).
    :param get_block: accepted for compatibility with PipeRT2, and not used: a receiver always waits for a message.
    :param timeout: seconds that a blocked sender waits before it drops the message; None: for ever.
    """

    def __init__(
        self, max_queue_sizes: int = 1, put_block: bool = False, get_block: bool = True, timeout: float | None = 1
    ) -> None:
        for name, value in (("put_block", put_block), ("get_block", get_block)):
            if not isinstance(value, bool):
                call = "QueueNetwork(max_queue_sizes=4, put_block=True, timeout=2)"
                raise TypeError(f"{name} must be True or False, not {shown(value)}: {call}")
        self.policy: Policy = "block" if put_block else "drop_oldest"
        check_queue(self.policy, max_queue_sizes, timeout)
        self.capacity = int(max_queue_sizes)
        self.timeout = None if timeout is None else float(timeout)
