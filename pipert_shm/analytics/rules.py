"""Rules: what is to be told as an event, and when it holds for long enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pipert_shm.analytics.areas import check_keys, is_name, read_labels
from pipert_shm.analytics.event import EventKind
from pipert_shm.errors import shown
from pipert_shm.limits import check_choice, check_seconds, is_count, is_number

KINDS: tuple[EventKind, ...] = get_args(EventKind)
MOST_RULES = 200
DIRECTIONS = ("both", "in", "out")

_ALL = ("name", "kind", "cameras", "labels", "min_score", "cool_down")
_OF_KIND: dict[str, tuple[str, ...]] = {
    "enter": ("zone", "for", "clear", "lost"),
    "leave": ("zone", "for", "clear", "lost"),
    "dwell": ("zone", "seconds", "clear", "lost"),
    "count": ("zone", "at_least", "at_most", "for", "clear"),
    "absence": ("zone", "seconds", "clear"),
    "line": ("line", "direction"),
}
_NEEDED: dict[str, tuple[str, ...]] = {"dwell": ("seconds",), "absence": ("seconds",), "line": ("line",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule, as `read_rules` reads it: see `EventSource`.

    Attributes:
        name: unique among the rules of a routine.
        kind: what it watches for.
        area: name of the zone, or of the line; None: the whole picture.
        cameras: which cameras it is for; None: all.
        labels: which classes count; None: all.
        min_score: of a detection that counts.
        hold: seconds for which something has to hold until it begins.
        clear: seconds for which it has to be over until it ends.
        lost: seconds for which a track that is not seen is taken to be where it was.
        cool_down: seconds after an event in which the rule tells of no new one for that camera.
        at_least: how many objects there have to be.
        at_most: how many there may be; None: any number.
        direction: of a crossing that counts.
    """

    name: str
    kind: EventKind
    area: str | None = None
    cameras: frozenset[str] | None = None
    labels: frozenset[str] | None = None
    min_score: float = 0.0
    hold: float = 0.0
    clear: float = 0.0
    lost: float = 0.0
    cool_down: float = 0.0
    at_least: int = 0
    at_most: int | None = None
    direction: str = "both"

    @property
    def needs_tracks(self) -> bool:
        """Whether it is about single objects."""
        return self.kind not in ("count", "absence")


def read_rules(given: object) -> tuple[Rule, ...]:
    """Reads rules.

    :raises ValueError, TypeError: when something is wrong with them; the text names the rule.

    >>> read_rules([{"name": "crowd", "kind": "count", "zone": "gate", "at_least": 3}])[0].at_least
    3
    >>> read_rules([{"name": "crowd", "kind": "count", "zone": "gate"}])
    Traceback (most recent call last):
    ValueError: rule 'crowd' (count) lacks at_least or at_most
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"rules are a list of mappings, such as [{{'name': 'gate', 'kind': 'enter'}}], not {shown(given)}")
    rules = tuple(_rule(number, settings) for number, settings in enumerate(given))
    if not rules:
        raise ValueError("rules are empty, so there would never be an event")
    if len(rules) > MOST_RULES:
        raise ValueError(f"there are {len(rules)} rules; there may be {MOST_RULES}")
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two rules are called {shown(twice[0])}; each needs a name of its own")
    return rules


def _rule(number: int, given: object) -> Rule:
    if not isinstance(given, Mapping):
        raise TypeError(f"rule {number}: a mapping with name and kind is needed, not {shown(given)}")
    name = given.get("name")
    if not is_name(name):
        raise ValueError(f"rule {number}: its name must be a text in Unicode that is not empty, without NUL, not {shown(name)}")
    check_choice(f"kind of rule {name!r}", given.get("kind"), KINDS)
    kind: EventKind = given["kind"]
    where = f"rule {name!r} ({kind})"
    check_keys(where, given, (*_ALL, *_OF_KIND[kind]), needed=_NEEDED.get(kind, ()))
    for key in ("for", "clear", "lost", "cool_down"):
        check_seconds(f"{key} of {where}", given.get(key, 0))
    if "seconds" in given:
        check_seconds(f"seconds of {where}", given["seconds"], positive=True)
    area = given.get("line" if kind == "line" else "zone")
    if area is not None and (not isinstance(area, str) or not area):
        raise TypeError(f"{where}: a zone or line is told by its name, not by {shown(area)}")
    direction = given.get("direction", "both")
    check_choice(f"direction of {where}", direction, DIRECTIONS)
    at_least, at_most = _bounds(where, given) if kind == "count" else (0, None)
    return Rule(
        name=name,
        kind=kind,
        area=area,
        cameras=_cameras(where, given.get("cameras")),
        labels=read_labels(where, given.get("labels")),
        min_score=_score(where, given.get("min_score", 0.0)),
        hold=float(given.get("seconds", given.get("for", 0.0))),
        clear=float(given.get("clear", 0.0)),
        lost=float(given.get("lost", 2.0)),
        cool_down=float(given.get("cool_down", 0.0)),
        at_least=at_least,
        at_most=at_most,
        direction=direction,
    )


def _bounds(where: str, given: Mapping[str, Any]) -> tuple[int, int | None]:
    least, most = given.get("at_least"), given.get("at_most")
    if least is None and most is None:
        raise ValueError(f"{where} lacks at_least or at_most")
    for key, value in (("at_least", least), ("at_most", most)):
        if value is not None and not is_count(value, 0):
            raise ValueError(f"{key} of {where} must be a whole number of at least 0, not {shown(value)}")
    if most is None and not least:
        raise ValueError(f"{where}: at_least: 0 always holds; give a larger number, or at_most")
    if least is not None and most is not None and least > most:
        raise ValueError(f"{where}: at_least: {least} and at_most: {most} never hold together")
    return int(least or 0), None if most is None else int(most)


def _cameras(where: str, given: object) -> frozenset[str] | None:
    if given is None:
        return None
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"{where}: cameras are a list of names of routines, such as ['yard'], not {shown(given)}")
    names = tuple(given)
    if not names or any(not isinstance(name, str) for name in names):
        raise TypeError(f"{where}: cameras are a list of names of routines, such as ['yard'], not {shown(names)}")
    return frozenset(names)


def _score(where: str, given: object) -> float:
    if not is_number(given) or not 0 <= given <= 1:  # type: ignore[operator]
        raise ValueError(f"min_score of {where} must be a number from 0 to 1, not {shown(given)}")
    return float(given)  # type: ignore[arg-type]
