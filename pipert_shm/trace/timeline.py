"""What happened when, on which track: made of the events that the processes of a pipe have noted.

A frame is its origin, as messages carry it, and its sequence; a wire is the numbers of the routines at its ends. Some parts of
a frame's way are not noted but follow from what is: its time in a queue, a receiver's waking up, and the encoding of a result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from pipert_shm import binding
from pipert_shm.binding import trace
from pipert_shm.graph.names import number_of
from pipert_shm.parent.tracing import Noted

Frame = tuple[int, int]

PLAIN = {
    trace.LOAN: "loan",
    trace.WAIT: "wait for a message",
    trace.ROOM: "wait for room",
    trace.SLOT: "wait for a slot",
    trace.REST: "rest",
}
NAMED = (trace.SPAN, trace.THREAD, trace.COMMAND, trace.EVENT, trace.ERROR, trace.FLOW)
REASONS = {number: name for name, number in binding.REASONS.items()}


class Track(NamedTuple):
    """A row of the trace.

    Attributes:
        kind: `flow`, `events` (of a flow), `routine`, `thread` (of a routine), or `wire`.
        number: of the flow or the routine; of a wire's sender.
        other: of a wire's receiver, or of a thread.
        lane: of a wire. Messages wait at the same time, and slices of one row may only contain each other.
    """

    kind: str
    number: int
    other: int = 0
    lane: int = 0


@dataclass(slots=True)
class Slice:
    """Something that took a while; or happened at once, if it ends when it begins and is `instant`.

    Attributes:
        frames: that it is about; the first is its own.
        arrows: numbers of the arrows that begin, end or pass here.
    """

    track: Track
    name: str
    begin: int
    end: int
    frames: tuple[Frame, ...] = ()
    notes: dict[str, str | int] = field(default_factory=dict)
    arrows: list[int] = field(default_factory=list)
    instant: bool = False


class Event(NamedTuple):
    """An event as a process noted it: see csrc/trace.h."""

    time_ns: int
    began_ns: int
    sequence: int
    origin: int
    routine: int
    other: int
    kind: int
    detail: int
    name: str
    flow: int

    @property
    def frame(self) -> tuple[Frame, ...]:
        """Its frame, if it is about one."""
        return () if self.origin == trace.NO_FRAME else ((self.origin, self.sequence),)


def timeline(noted: Iterable[Noted]) -> list[Slice]:
    """All that the processes have noted, in the order in which it began."""
    builder = _Builder()
    for event in sorted(_events(noted)):
        builder.add(event)
    return builder.finish()


def _events(noted: Iterable[Noted]) -> Iterable[Event]:
    for process in noted:
        names = process.names
        for row in process.events.tolist():
            name = names[row[5]] if row[6] in NAMED and row[5] < len(names) else ""
            yield Event._make((*row, name, process.flow))


class _Builder:
    def __init__(self) -> None:
        self._slices: list[Slice] = []
        self._woken: dict[int, int] = {}  # by routine: when its last sleep ended, if nothing was received since
        self._members: dict[int, list[Frame]] = defaultdict(list)  # by routine, of its next call
        self._steps: dict[tuple[int, Frame], list[Slice]] = defaultdict(list)  # of a frame in a routine, in order
        self._sends: dict[tuple[int, Frame], Slice] = {}
        self._rooms: dict[tuple[int, Frame], int] = {}  # by sender: when it had room for a frame
        self._hops: list[tuple[int, int, Slice]] = []  # sender, receiver, and what became of a message between them
        self._taken: dict[tuple[int, int], list[Slice]] = defaultdict(list)  # by sender and token
        self._down: dict[int, Slice] = {}

    # ---- what was noted --------------------------------------------------------------------------

    def add(self, event: Event) -> None:
        """Adds one event. They come in the order of their time."""
        kind = event.kind
        if kind in PLAIN:
            self._put(event, PLAIN[kind])
            if kind == trace.WAIT:
                self._woken[event.routine] = event.time_ns
            elif kind == trace.ROOM:
                self._rooms.update(((event.routine, frame), event.time_ns) for frame in event.frame)
        elif kind == trace.MEMBER:
            self._members[event.routine] += event.frame
        elif kind in (trace.CALL, trace.DECODE, trace.SEND):
            self._add_step(event)
        elif kind == trace.RECEIVE:
            self._add_receipt(event)
        elif kind in (trace.DROP, trace.DISCARD, trace.TAKEN, trace.LOST):
            self._add_loss(event)
        elif kind == trace.TOKEN:
            for taken in self._taken.pop((event.routine, event.sequence), ()):
                taken.frames = ((event.origin, event.began_ns),)
        elif kind == trace.FLOW:
            self._add_flow(event)
        else:
            self._add_named(event)

    def _put(self, event: Event, name: str, track: Track | None = None) -> Slice:
        track = track or Track("routine", event.routine)
        made = Slice(track, name, min(event.began_ns, event.time_ns), event.time_ns, event.frame)
        self._slices.append(made)
        return made

    def _mark(self, event: Event, name: str, track: Track) -> Slice:
        made = Slice(track, name, event.time_ns, event.time_ns, event.frame, instant=True)
        self._slices.append(made)
        return made

    def _add_step(self, event: Event) -> None:
        frames = event.frame
        if event.kind == trace.CALL:
            name = "main_logic"
            frames += tuple(self._members.pop(event.routine, ()))
        elif event.kind == trace.DECODE:
            name = "decode"
        else:
            name = "send" if number_of(event.origin) == event.routine else "forward"
        made = self._put(event, name)
        made.frames = frames
        for frame in frames:
            if event.kind == trace.SEND:
                self._sends[event.routine, frame] = made
                self._add_encoding(event, frame)
            self._steps[event.routine, frame].append(made)

    def _add_encoding(self, event: Event, frame: Frame) -> None:
        """What was done from the end of the call to the beginning of the send."""
        before = self._steps[event.routine, frame]
        if before and before[-1].name == "main_logic" and before[-1].end < event.began_ns:
            self._slices.append(Slice(Track("routine", event.routine), "encode", before[-1].end, event.began_ns, (frame,)))

    def _add_receipt(self, event: Event) -> None:
        woken = self._woken.pop(event.routine, None)
        if woken is not None and woken < event.time_ns:
            self._slices.append(Slice(Track("routine", event.routine), "wake", woken, event.time_ns, event.frame))
        made = self._put(event, "queue", Track("wire", event.other, event.routine))
        made.begin = max([made.begin, *(self._rooms.get((event.other, frame), 0) for frame in event.frame)])
        self._hops.append((event.other, event.routine, made))

    def _add_loss(self, event: Event) -> None:
        ends = (event.other, event.routine) if event.kind == trace.DISCARD else (event.routine, event.other)
        reason = REASONS.get(event.detail, str(event.detail))
        made = self._mark(event, f"dropped: {reason}", Track("wire", *ends))
        made.notes["reason"] = reason
        if event.kind == trace.LOST:
            made.frames = ()
            made.notes["messages"] = event.began_ns
        if event.kind == trace.TAKEN:
            self._taken[event.routine, event.sequence].append(made)
        self._hops.append((*ends, made))

    def _add_flow(self, event: Event) -> None:
        track = Track("flow", event.routine)
        made = self._mark(event, event.name, track)
        number = event.sequence - (1 << 64) if event.sequence >> 63 else event.sequence
        made.notes["pid" if event.name == "up" else "exit code"] = number
        if event.name == "down":
            self._down[event.routine] = made
        elif (down := self._down.pop(event.routine, None)) is not None:
            self._slices.append(Slice(track, "restart", down.begin, event.time_ns))

    def _add_named(self, event: Event) -> None:
        if event.kind == trace.ERROR:
            self._mark(event, f"error: {event.name}", Track("routine", event.routine))
        elif event.kind == trace.EVENT:
            self._put(event, event.name, Track("events", event.flow)).notes["routine number"] = event.routine
        elif event.kind == trace.THREAD:
            made = self._put(event, event.name, Track("thread", event.routine, event.sequence))
            made.frames = ()
        elif event.kind == trace.COMMAND:
            self._put(event, f"command: {event.name}")
        elif event.kind == trace.SPAN:
            self._put(event, event.name)

    # ---- what follows from it --------------------------------------------------------------------

    def finish(self) -> list[Slice]:
        """All slices, with their arrows and lanes."""
        arrows = 0
        for steps in self._steps.values():  # through a routine
            for passage in _passages(steps):
                arrows += len(passage) > 1
                for step in passage if len(passage) > 1 else ():
                    step.arrows.append(arrows)
        for sender, receiver, hop in self._hops:  # and from one to the next
            for frame in hop.frames:
                arrows += 1
                self._draw(arrows, sender, receiver, frame, hop)
        _give_lanes([slice for slice in self._slices if slice.track.kind == "wire" and not slice.instant])
        return sorted(self._slices, key=lambda slice: (slice.begin, -slice.end))

    def _draw(self, arrow: int, sender: int, receiver: int, frame: Frame, hop: Slice) -> None:
        """An arrow from a send to what became of the message, and on to the receiver."""
        hop.arrows.append(arrow)
        send = self._sends.get((sender, frame))
        if send is not None:
            send.arrows.append(arrow)
            hop.begin = max(hop.begin, min(send.begin, hop.end))  # within a flow a message is stamped before the send
            if hop.instant and send.end < hop.begin and hop.notes["reason"] in ("oldest", "no_slot", "ended"):
                hop.begin, hop.instant = send.begin, False  # it had waited in the queue
        if not hop.notes:
            after = (step for step in self._steps.get((receiver, frame), ()) if step.begin >= hop.end)
            for step in islice(after, 1):  # those before are of the same frame, which came another way
                step.arrows.append(arrow)


def _passages(steps: Iterable[Slice]) -> list[list[Slice]]:
    """The steps of a frame in a routine, in order, apart for each time that it came: it may come several ways."""
    passages: list[list[Slice]] = [[]]
    for step in steps:
        if step.name in ("decode", "main_logic") and any(one.name == "main_logic" for one in passages[-1]):
            passages.append([])
        passages[-1].append(step)
    return passages


def _give_lanes(slices: Sequence[Slice]) -> None:
    """Gives slices of one wire that overlap different lanes."""
    lanes: dict[Track, list[int]] = defaultdict(list)  # when the last slice of each ends
    for slice in sorted(slices, key=lambda slice: slice.begin):
        ends = lanes[slice.track]
        lane = next((number for number, end in enumerate(ends) if end <= slice.begin), len(ends))
        ends[lane : lane + 1] = [slice.end]
        slice.track = slice.track._replace(lane=lane)
