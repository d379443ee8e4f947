"""How a rule watches one camera: what it has seen, what has begun, and what it tells. Knows no routine and no clock."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pipert_shm.analytics.event import DetectionEvent, Phase
from pipert_shm.analytics.rules import Rule

MOST_OBJECTS = 4_096  # that a rule knows of a camera
RULES, NO_ZONE, FORGOTTEN, RESTART, END = (
    "rules",
    "zone",
    "forgotten",
    "restart",
    "end",
)  # what may end an event before its time


@dataclass(frozen=True, slots=True)
class Moment:
    """A frame: its origin, its number there, when it was captured, its position in its video, and the time seen so far."""

    camera: str
    sequence: int
    time: float
    now: float
    pts: float | None = None


@dataclass(frozen=True, slots=True)
class Object:
    """A detection that counts for a rule."""

    track_id: int | None
    label: str | None
    score: float | None
    box: tuple[float, float, float, float]


@dataclass(slots=True)
class Sight:
    """What a rule sees in a frame.

    Attributes:
        inside: the objects in the rule's zone.
        outside: the tracks that are seen elsewhere.
        crossed: the objects that have just crossed the rule's line, and in which direction.
    """

    inside: Sequence[Object] = ()
    outside: frozenset[int] = frozenset()
    crossed: Sequence[tuple[Object, str]] = ()


class Watch(Protocol):
    """A rule that watches one camera."""

    teller: Teller

    def look(self, moment: Moment, sight: Sight) -> list[DetectionEvent]:
        """Looks at a frame; returns what has happened, in order."""

    def close(self, moment: Moment, why: str) -> list[DetectionEvent]:
        """Ends what has begun."""


def watch_of(rule: Rule) -> Watch:
    """Begins to watch a camera by a rule."""
    if rule.kind == "line":
        return LineWatch(rule)
    return ObjectWatch(rule) if rule.needs_tracks else CountWatch(rule)


class Teller:
    """Makes the events of a rule and camera, and keeps its peace while it cools down.

    Attributes:
        silenced: how many events were not told, since the rule was cooling down.
    """

    def __init__(self, rule: Rule) -> None:
        self.silenced = 0
        self._rule = rule
        self._quiet_until: float | None = None

    def may_begin(self, now: float) -> bool:
        """Whether it may tell of something new."""
        return self._quiet_until is None or now >= self._quiet_until

    def instant(self, moment: Moment, one: Object, **more: Any) -> list[DetectionEvent]:
        """What happened in a moment; nothing while it cools down."""
        if not self.may_begin(moment.now):
            self.silenced += 1
            return []
        return [self._made("instant", moment, one, None, more)]

    def start(self, moment: Moment, one: Object | None, count: int | None, **more: Any) -> DetectionEvent:
        """Something that lasts has begun."""
        return self._made("start", moment, one, count, more)

    def end(self, begun: DetectionEvent, moment: Moment, one: Object | None, count: int | None, **more: Any) -> DetectionEvent:
        """It is over."""
        self._told(moment.now)
        ended = ended_of(begun, moment, **more)
        return replace(ended, count=count, **({} if one is None else _about(one)))

    def _made(
        self, phase: Phase, moment: Moment, one: Object | None, count: int | None, more: Mapping[str, Any]
    ) -> DetectionEvent:
        self._told(moment.now)
        pts = {} if moment.pts is None else {"pts": round(moment.pts, 3)}
        return DetectionEvent(
            id=uuid.uuid4().hex,
            phase=phase,
            rule=self._rule.name,
            kind=self._rule.kind,
            camera=moment.camera,
            sequence=moment.sequence,
            time=moment.time,
            started=moment.time,
            zone=self._rule.area,
            count=count,
            more={**more, **pts},
            **({} if one is None else _about(one)),
        )

    def _told(self, now: float) -> None:
        self._quiet_until = now + self._rule.cool_down


def ended_of(begun: DetectionEvent, moment: Moment, **more: Any) -> DetectionEvent:
    """The end of what has begun."""
    pts = {} if moment.pts is None else {"pts": round(moment.pts, 3)}
    return replace(begun, phase="end", sequence=moment.sequence, time=moment.time, more={**begun.more, **more, **pts})


def _about(one: Object) -> dict[str, Any]:
    return {"track_id": one.track_id, "label": one.label, "score": one.score, "box": one.box}


@dataclass(slots=True)
class Known:
    """An object that is inside, or was a short while ago.

    Attributes:
        came: when it was inside first; seconds of the time seen.
        last: when it was inside last.
        missed: since when it is not inside; None while it is.
        held: whether it has been inside for long enough.
        begun: the event that it began.
    """

    one: Object
    came: float
    last: float
    missed: float | None = None
    held: bool = False
    begun: DetectionEvent | None = None


class ObjectWatch:
    """Watches single objects: who enters, leaves, or stays."""

    def __init__(self, rule: Rule) -> None:
        self.teller = Teller(rule)
        self._rule = rule
        self._known: OrderedDict[int, Known] = OrderedDict()

    def look(self, moment: Moment, sight: Sight) -> list[DetectionEvent]:
        """Looks at a frame. Objects without a track are left out."""
        told: list[DetectionEvent] = []
        inside = {one.track_id: one for one in sight.inside if one.track_id is not None and one.track_id >= 0}
        for track in [track for track in self._known if track not in inside]:
            told += self._miss(track, track in sight.outside, moment)
        for track, one in inside.items():
            told += self._meet(track, one, moment)
        while len(self._known) > MOST_OBJECTS:
            told += self._part(self._known.popitem(last=False)[1], moment, ended_by=FORGOTTEN)
        return told

    def close(self, moment: Moment, why: str) -> list[DetectionEvent]:
        """Ends what has begun."""
        told = []
        for known in self._known.values():
            if known.begun is not None:
                told.append(self.teller.end(known.begun, moment, known.one, None, ended_by=why))
        self._known.clear()
        return told

    def _meet(self, track: int, one: Object, moment: Moment) -> list[DetectionEvent]:
        """An object is inside."""
        known = self._known.get(track)
        if known is None:
            known = self._known[track] = Known(one, moment.now, moment.now)
        self._known.move_to_end(track)
        known.one, known.last, known.missed = one, moment.now, None
        is_new = not known.held and moment.now - known.came >= self._rule.hold
        known.held = known.held or is_new
        if self._rule.kind == "enter" and is_new:
            return self.teller.instant(moment, one)
        if self._rule.kind == "dwell" and known.held and known.begun is None and self.teller.may_begin(moment.now):
            known.begun = self.teller.start(moment, one, None, seconds=_seconds(moment.now - known.came))
            return [known.begun]
        return []

    def _miss(self, track: int, is_outside: bool, moment: Moment) -> list[DetectionEvent]:
        """An object that was inside is not."""
        known = self._known[track]
        if known.missed is None:
            known.missed = moment.now
        if known.held or not is_outside:  # before that it has to be inside without a break
            patience = self._rule.clear if is_outside else self._rule.lost
            if moment.now - known.missed < patience:
                return []
        del self._known[track]
        return self._part(known, moment)

    def _part(self, known: Known, moment: Moment, **why: str) -> list[DetectionEvent]:
        seconds = _seconds(known.last - known.came)
        if known.begun is not None:
            return [self.teller.end(known.begun, moment, known.one, None, seconds=seconds, **why)]
        if self._rule.kind == "leave" and known.held:
            return self.teller.instant(moment, known.one, seconds=seconds, **why)
        return []


class CountWatch:
    """Watches how many there are: enough, few enough, or none."""

    def __init__(self, rule: Rule) -> None:
        self.teller = Teller(rule)
        self._rule = rule
        self._latch = Latch(rule.hold, rule.clear)
        self._begun: DetectionEvent | None = None

    def look(self, moment: Moment, sight: Sight) -> list[DetectionEvent]:
        """Looks at a frame."""
        count = len(sight.inside)
        most = 0 if self._rule.kind == "absence" else self._rule.at_most
        held = self._latch.look(count >= self._rule.at_least and (most is None or count <= most), moment.now)
        if held and self._begun is None and self.teller.may_begin(moment.now):
            self._begun = self.teller.start(moment, None, count)
            return [self._begun]
        if not held and self._begun is not None:
            begun, self._begun = self._begun, None
            return [self.teller.end(begun, moment, None, count)]
        return []

    def close(self, moment: Moment, why: str) -> list[DetectionEvent]:
        """Ends what has begun."""
        begun, self._begun = self._begun, None
        self._latch = Latch(self._rule.hold, self._rule.clear)
        return [] if begun is None else [self.teller.end(begun, moment, None, begun.count, ended_by=why)]


class LineWatch:
    """Watches a line."""

    def __init__(self, rule: Rule) -> None:
        self.teller = Teller(rule)
        self._rule = rule

    def look(self, moment: Moment, sight: Sight) -> list[DetectionEvent]:
        """Looks at a frame."""
        told = []
        for one, way in sight.crossed:
            if self._rule.direction in ("both", way):
                told += self.teller.instant(moment, one, direction=way)
        return told

    def close(self, moment: Moment, why: str) -> list[DetectionEvent]:
        """Ends nothing: a crossing does not last."""
        return []


@dataclass(slots=True)
class Latch:
    """Whether something holds: it has to hold for `hold` seconds to begin, and not to hold for `clear` seconds to be over.

    >>> latch = Latch(1.0, 2.0)
    >>> [latch.look(*seen) for seen in ((True, 0.0), (True, 1.0), (False, 1.5), (True, 2.0), (False, 3.0), (False, 5.0))]
    [False, True, True, True, True, False]
    """

    hold: float
    clear: float
    held: bool = False
    since: float | None = field(default=None)  # when it began to be otherwise

    def look(self, holds: bool, now: float) -> bool:
        """Notes whether it holds now; returns whether it counts as held."""
        if holds == self.held:
            self.since = None
            return self.held
        if self.since is None:
            self.since = now
        if now - self.since >= (self.hold if holds else self.clear):
            self.held, self.since = holds, None
        return self.held


def _seconds(value: float) -> float:
    return round(value, 3)
