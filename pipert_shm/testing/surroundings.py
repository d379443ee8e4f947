"""What stands around a routine under test: those who send to it, who takes what it sends, and the memory between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pipert_shm import binding
from pipert_shm.control.messages import HandleEvent, StartRoutines
from pipert_shm.data import Format, FrameData, Meta
from pipert_shm.errors import shown
from pipert_shm.events import (
    KILL_EVENT_NAME,
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    UNLINK_EVENT_NAME,
    check_event_name,
    checked_flow_routines,
    pack_parameters,
)
from pipert_shm.graph.model import Defaults
from pipert_shm.graph.names import Names
from pipert_shm.graph.plan import audience_of, make_plan
from pipert_shm.limits import is_count, is_number
from pipert_shm.routine import DestinationRoutine, Role, Routine, SourceRoutine
from pipert_shm.shm.states import State
from pipert_shm.testing.running import InlineRunner
from pipert_shm.testing.stage import Stage
from pipert_shm.transmitters import SharedMemoryTransmitter
from pipert_shm.wire import Wire

SENDER = "source"
LAST_SEQUENCE = (1 << 63) - 1
LAST_TIME = 1e10  # seconds; since the epoch, that is the 23rd century
RESULTS = "results of the harness"
FLOW = "harness"


class Output(NamedTuple):
    """A message that the routine sent, as a receiver gets it. Its arrays are copies, read-only, and can be kept.

    Attributes:
        payload: what `main_logic` returned.
        meta: what is known of the message, with its origin and its times.
    """

    payload: Any
    meta: Meta


class Passed(NamedTuple):
    """A message as it was known elsewhere, in a recording for example, to be sent to a routine as it is.

    Attributes:
        sender: who sends it.
        payload: what it carries.
        origin: the source that it comes from.
        sequence: its number there.
        captured_ns: when it was captured, CLOCK_MONOTONIC, ns.
        tell: writes into its meta what else is known of it.
    """

    sender: str
    payload: Any
    origin: str
    sequence: int
    captured_ns: int
    tell: Callable[[Meta], None]


class Notification(NamedTuple):
    """An event that the routine notified by `self.notify_event`.

    Attributes:
        name: the event's name.
        routines_by_flow: the routines that it was addressed to, by flow; empty when none were named.
        specific_routine: the one routine that it was addressed to, or None.
        parameters: what its handlers would get, by name.
    """

    name: str
    routines_by_flow: dict[str, list[str]]
    specific_routine: str | None
    parameters: dict[str, Any]


class _Feeder(SourceRoutine):
    """Stands for who sends to the routine; the test makes its messages."""

    def main_logic(self) -> None:
        """Nothing: it is never called."""


class Collector(DestinationRoutine):
    """Takes what the routine sends."""

    def __init__(self, outputs: list[Output]) -> None:
        super().__init__(RESULTS)
        self.outputs = outputs

    def main_logic(self, data: Any) -> None:
        """Keeps it."""
        self.outputs.append(Output(data, self.meta))


class Surroundings:
    """One routine on a stage. `begin()` starts it; `end()` and `close()` have to follow.

    :param senders: their names; none for a source.
    :param outputs: gets what the routine sends.
    :param notified: gets the events that the routine notifies.
    :raises RoutineError: when the routine does not fit, as `Pipe.build()` does.
    """

    def __init__(
        self, routine: Routine, role: Role, senders: Sequence[str], outputs: list[Output], notified: list[Notification]
    ) -> None:
        feeders = [_Feeder(name) for name in senders]
        flows: dict[str, Sequence[Routine]] = {f"flow of {feeder.name}": [feeder] for feeder in feeders}
        flows[FLOW] = [routine]
        wires = [Wire(feeder, routine) for feeder in feeders]
        if role is not Role.DESTINATION:
            collector = Collector(outputs)
            flows[RESULTS] = [collector]
            wires.append(Wire(routine, collector))
        plan = make_plan(flows, wires, Defaults("block", 2, None, SharedMemoryTransmitter()))
        self._routine = routine
        self._notified = notified
        self._names = plan.names
        self._audience = audience_of(plan)
        self._next: dict[str, int] = {}  # by origin: the number of its next message
        self._run = 1
        notifiers = {item.name: partial(self._note, item.name) for item in plan.routines}
        self.stage = Stage(plan, FLOW, routine._logger, notifiers, private=(RESULTS,))

    @property
    def runner(self) -> InlineRunner:
        """The routine at work."""
        return self.stage.runners[self._routine.name]

    def begin(self) -> None:
        """Starts the routine, and who is around it.

        :raises BaseException: what `setup()` raised.
        """
        self.stage.handling.put(StartRoutines(tuple((name, self._run) for name in self.stage.runners)))
        for runner in self.stage.runners.values():
            runner.step()

    def notify(self, name: str, parameters: dict[str, Any]) -> None:
        """See `RoutineHarness.notify`."""
        handling, runner = self.stage.handling, self.runner
        event = self._audience.address(name, None, self._routine.name, parameters)
        if event.name in (LINK_EVENT_NAME, UNLINK_EVENT_NAME):
            raise ValueError(f"a harness has no wires that the event {event.name!r} could change: test it in a pipe")
        if event.name == START_EVENT_NAME:
            resting = [name for name, other in self.stage.runners.items() if not other.state.active]  # who takes results, too
            self._run += 1
            handling.put(StartRoutines(tuple((name, self._run) for name in resting)))
        else:
            handling.put(HandleEvent(event, 0))
        if event.name == KILL_EVENT_NAME and runner.state.active:
            runner.end(State.STOPPED)
        elif runner.is_occupied:
            self.step()

    def feed(
        self,
        payloads: Mapping[str, Any],
        origin: str | None,
        sequence: int | None,
        pts: float | None,
        captured_ns: int,
        format: Format | None,
    ) -> None:
        """Has each of these senders send a message."""
        origins = {sender: sender if origin is None else origin for sender in payloads}
        # Messages that are sent together have one number, so that a join matches them though one sender has sent more before.
        number = max(self._next.get(source, 0) for source in origins.values()) if sequence is None else int(sequence)
        self._next.update(dict.fromkeys(origins.values(), number + 1))
        for sender, payload in payloads.items():
            meta = Meta(self._names, self._number_of(origins[sender]), number, captured_ns, pts=pts)
            frame = payload.get_frame() if isinstance(payload, FrameData) else payload
            meta.describe(format, len(frame) if isinstance(frame, np.ndarray) and frame.ndim else 0)
            self.stage.runners[sender].feed(payload, meta)

    def pass_on(self, message: Passed) -> None:
        """Has its sender send a message as it is."""
        self._next[message.origin] = message.sequence + 1
        meta = Meta(self._names, self._number_of(message.origin), message.sequence, message.captured_ns)
        message.tell(meta)
        self.stage.runners[message.sender].feed(message.payload, meta)

    def _number_of(self, origin: str) -> int:
        """By which messages name their origin: there may be more of them than routines here."""
        if origin not in self._names.values():
            self._names = Names({**self._names, max(self._names) + 1: origin})
            for runner in self.stage.runners.values():
                runner.wiring.learn_names(self._names)
        return max(number for number, name in self._names.items() if name == origin)

    def step(self) -> bool:
        """Has the routine do one thing, and takes what it has sent; whether it had anything to do."""
        try:
            return self.runner.step()
        finally:
            collector = self.stage.runners.get(RESULTS)
            while collector is not None and collector.step():
                pass

    def _note(
        self,
        routine: str,
        event_name: str,
        flow_routines: dict[str, Iterable[str]] | None,
        specific_routine: str | None,
        params: dict[str, Any],
        *,
        only_if_built: bool = False,
    ) -> None:
        """What the routine notifies events by."""
        name = check_event_name(event_name)
        pack_parameters(name, params)  # as in a pipe, what does not pickle is an error
        self._notified.append(Notification(name, checked_flow_routines(flow_routines), specific_routine, params))


def checked_senders(routine: Routine, role: Role, senders: Sequence[str] | None) -> tuple[str, ...]:
    """:raises ValueError: when they don't suit the routine."""
    if role is Role.SOURCE:
        if senders:
            raise ValueError(f"routine {routine.name!r} is a source, and has no senders")
        return ()
    if senders is None:
        if routine.join is not None:
            raise ValueError(f"routine {routine.name!r} has a join: name those who send to it, senders=['camera', 'detector']")
        return (SENDER,)
    if isinstance(senders, str) or not senders or len(set(senders)) < len(senders):
        raise ValueError(f"senders must be a list of different names, such as ['camera', 'detector'], not {shown(senders)}")
    return tuple(senders)


def check_place(sequence: Any, pts: Any) -> None:
    """Checks where a message says that it stands. What is None is not given.

    :raises ValueError: when one of them is of a wrong type or out of range.
    """
    if sequence is not None and not (is_count(sequence, 0) and sequence <= LAST_SEQUENCE):
        raise ValueError(f"sequence must be a whole number from 0 to {LAST_SEQUENCE}, not {shown(sequence)}")
    if pts is not None and not (is_number(pts) and abs(pts) <= LAST_TIME):
        raise ValueError(f"pts must be a number of seconds, at most {LAST_TIME:,.0f}, not {shown(pts)}")


def captured_at(capture_time: Any) -> int:
    """CLOCK_MONOTONIC at a time since the epoch.

    :raises ValueError: when that is no such time, or was before that clock began.
    """
    if not (is_number(capture_time) and 0 <= capture_time <= LAST_TIME):
        raise ValueError(f"capture_time must be in seconds since the epoch, such as time.time(), not {shown(capture_time)}")
    captured = binding.now_ns() - round((time.time() - float(capture_time)) * 1e9)
    if captured < 0:
        raise ValueError(
            f"capture_time is in seconds since the epoch, such as time.time(), and {capture_time} is before this "
            f"machine was started"
        )
    return captured
