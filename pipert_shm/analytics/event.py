"""What a rule saw happen: the one form in which rules tell it, clips are cut by it, and sinks send it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from pipert_shm.errors import shown

EventKind: TypeAlias = Literal["enter", "leave", "line", "dwell", "count", "absence"]
Phase: TypeAlias = Literal["start", "end", "instant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionEvent:
    """Something that happened in front of a camera.

    What lasts is told twice, with the same `id`: when it starts, and when it ends. What happens in a moment is told once.

    Attributes:
        id: the same for the start and the end of what happened, and for nothing else.
        phase: `start`, `end` or `instant`.
        rule: name of the rule.
        kind: `enter` or `leave` a zone, cross a `line`, `dwell` in a zone, `count` of objects, or `absence` of any.
        camera: the frame's origin.
        sequence: the frame's number, by its origin.
        time: when this frame was captured, seconds since the epoch.
        started: when it began, seconds since the epoch: `time` of its start.
        zone: name of the zone or line, if the rule has one.
        label: class name of the object, if it is about one that has a class.
        track_id: of the object, if it is about one that is tracked.
        score: of the object, 0 to 1, if it is about one.
        box: of the object: left, top, right, bottom in pixels of the frame; right and bottom are exclusive.
        count: how many objects there are, if the rule counts.
        more: what else there is to say; values that JSON knows.

    >>> event = DetectionEvent(
    ...     id="1", phase="instant", rule="gate", kind="enter", camera="yard", sequence=7, time=2.0, started=2.0
    ... )
    >>> DetectionEvent.from_dict(event.to_dict()) == event
    True
    """

    id: str
    phase: Phase
    rule: str
    kind: EventKind
    camera: str
    sequence: int
    time: float
    started: float
    zone: str | None = None
    label: str | None = None
    track_id: int | None = None
    score: float | None = None
    box: tuple[float, float, float, float] | None = None
    count: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.phase not in get_args(Phase):
            raise ValueError(f"an event's phase is one of {', '.join(get_args(Phase))}, not {shown(self.phase)}")
        if self.kind not in get_args(EventKind):
            raise ValueError(f"an event's kind is one of {', '.join(get_args(EventKind))}, not {shown(self.kind)}")

    def to_dict(self) -> dict[str, Any]:
        """Returns it as values that JSON knows; what is None is left out, and so is an empty `more`."""
        found = {name: value for name, value in asdict(self).items() if value is not None and value != {}}
        if self.box is not None:
            found["box"] = list(self.box)
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectionEvent:
        """Makes one of what `to_dict` gave.

        :raises ValueError: when something is missing, unknown, or out of range.
        """
        given = dict(values)
        if isinstance(given.get("box"), list):
            given["box"] = tuple(given["box"])
        try:
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"these values are not an event's: {error}") from error
