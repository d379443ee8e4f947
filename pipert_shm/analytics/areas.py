"""The settings of zones and lines: what may be said of them, for which camera, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

from pipert_shm.errors import shown, suggestion
from pipert_shm.limits import check_choice, is_number

Point: TypeAlias = tuple[float, float]
Settings: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Zones or lines as they are given: settings by name, by camera."""

MOST_POINTS = 100  # of a polygon
MOST_AREAS = 100  # of a camera
FARTHEST = 100_000.0  # pixels

ANCHORS: dict[str, tuple[Point, ...]] = {  # which points of a box count, as shares of its width and height
    "bottom_centre": ((0.5, 1.0),),
    "centre": ((0.5, 0.5),),
    "top_centre": ((0.5, 0.0),),
    "left_centre": ((0.0, 0.5),),
    "right_centre": ((1.0, 0.5),),
    "box": ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)),
}


@dataclass(frozen=True, slots=True)
class Area:
    """A zone, or a line.

    Attributes:
        points: the corners of a zone, or the two ends of a line.
        labels: which objects count, by their class's name; None: all.
        anchor: which point of an object's box counts; of `box` all four corners do.
    """

    points: tuple[Point, ...]
    labels: frozenset[str] | None
    anchor: str

    @property
    def in_shares(self) -> bool:
        """Whether the points are shares of the frame's width and height, and not pixels."""
        return are_shares(self.points)


def are_shares(points: Iterable[Point]) -> bool:
    """Whether all numbers are from 0 to 1: a zone of that size in pixels would be one pixel large."""
    return all(0 <= number <= 1 for point in points for number in point)


def read_zones(given: object) -> dict[str, dict[str, Area]]:
    """Reads the zones of all cameras.

    :raises ValueError, TypeError: when something is wrong with them; the text names the camera and the zone.

    >>> read_zones({"yard": {"gate": {"polygon": [[0, 0], [1, 0], [1, 1]], "labels": ["person"]}}})["yard"]["gate"].anchor
    'bottom_centre'
    >>> read_zones({"yard": {"gate": {"polygon": [[0, 0], [1, 0]]}}})
    Traceback (most recent call last):
    ValueError: zone 'gate' of camera 'yard': a polygon has from 3 to 100 points, not 2
    """
    return _read("zone", given, "polygon", "bottom_centre")


def read_lines(given: object) -> dict[str, dict[str, Area]]:
    """Reads the lines of all cameras.

    :raises ValueError, TypeError: when something is wrong with them; the text names the camera and the line.
    """
    return _read("line", given, "points", "box")


def plain(areas: Mapping[str, Mapping[str, Area]], key: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Areas as settings that YAML and JSON know, from which they are read again.

    :param key: what their points are called: `polygon` or `points`.
    """
    standard = "bottom_centre" if key == "polygon" else "box"
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for camera, its in areas.items():
        found[camera] = {}
        for name, area in its.items():
            one: dict[str, Any] = {key: [list(point) for point in area.points]}
            if area.labels is not None:
                one["labels"] = sorted(area.labels)
            if area.anchor != standard:
                one["anchor"] = area.anchor
            found[camera][name] = one
    return found


def _read(kind: str, given: object, key: str, anchor: str) -> dict[str, dict[str, Area]]:
    what = f"{kind}s"
    example = f"{{'yard': {{'gate': {{'{key}': [[0.1, 0.5], …]}}}}}}"
    found: dict[str, dict[str, Area]] = {}
    for camera, its in _mapping(what, given, f"a mapping of cameras, such as {example}").items():
        found[camera] = {}
        areas = _mapping(f"the {what} of camera {camera!r}", its, f"a mapping of names, as in {example}")
        if len(areas) > MOST_AREAS:
            raise ValueError(f"camera {camera!r} has {len(areas)} {what}; there may be {MOST_AREAS}")
        for name, settings in areas.items():
            where = f"{kind} {name!r} of camera {camera!r}"
            found[camera][name] = _area(where, settings, key, anchor)
    return found


def _area(where: str, given: object, key: str, anchor: str) -> Area:
    settings = _mapping(where, given, f"a mapping with {key}, labels and anchor")
    check_keys(where, settings, (key, "labels", "anchor"), needed=(key,))
    chosen = settings.get("anchor", anchor)
    check_choice(f"anchor of {where}", chosen, ANCHORS)
    points = read_points(where, settings[key])
    if key == "polygon":
        if not 3 <= len(points) <= MOST_POINTS:
            raise ValueError(f"{where}: a polygon has from 3 to {MOST_POINTS} points, not {len(points)}")
        if not _surface(points):
            raise ValueError(f"{where}: its points lie on one line, so nothing can be inside: {shown(settings[key])}")
    elif len(points) != 2 or points[0] == points[1]:
        raise ValueError(f"{where}: a line has two different points, not {shown(settings[key])}")
    return Area(points, read_labels(where, settings.get("labels")), chosen)


def _surface(points: tuple[Point, ...]) -> bool:
    """Whether a polygon's points do not all lie on one line."""
    (left, top), *others = points
    edges = [(x - left, y - top) for x, y in others]
    return any(abs(x * y2 - y * x2) > 1e-12 for x, y in edges for x2, y2 in edges)


def read_points(where: str, given: object) -> tuple[Point, ...]:
    """Reads points.

    :raises ValueError: when they are no pairs of finite numbers, or too far away.
    """
    form = f"{where}: points are pairs of numbers, x and y, in pixels or as shares of the frame from 0 to 1"
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise ValueError(f"{form}, not {shown(given)}")
    points = []
    for point in given:
        if isinstance(point, str | Mapping) or not isinstance(point, Collection) or len(point) != 2:
            raise ValueError(f"{form}, not {shown(point)}")
        x, y = point
        if not (is_number(x) and is_number(y) and abs(x) <= FARTHEST and abs(y) <= FARTHEST):
            raise ValueError(f"{form}, not {shown(point)}")
        points.append((float(x), float(y)))
    return tuple(points)


def read_labels(where: str, given: object) -> frozenset[str] | None:
    """Reads the names of classes; None: any.

    :raises TypeError: when they are no list of texts.
    :raises ValueError: when the list is empty, so that nothing could ever count.
    """
    if given is None:
        return None
    names = () if isinstance(given, str | Mapping) or not isinstance(given, Iterable) else tuple(given)
    if isinstance(given, str | Mapping) or any(not isinstance(name, str) for name in names) or not isinstance(given, Iterable):
        raise TypeError(f"{where}: labels are a list of class names, such as ['person'], not {shown(given)}")
    if not names:
        raise ValueError(f"{where}: labels are empty, so nothing would ever count; leave them out for all objects")
    return frozenset(names)


def check_keys(where: str, settings: Mapping[str, Any], known: Collection[str], needed: Collection[str] = ()) -> None:
    """:raises ValueError: when a key is not known, or one that is needed is missing."""
    for key in settings:
        if key not in known:
            raise ValueError(f"{where} takes no {shown(key)}; it takes: {', '.join(known)}{suggestion(key, known)}")
    if missing := [key for key in needed if key not in settings]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")


def _mapping(what: str, given: object, form: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise TypeError(f"{what}: {form} is needed, not {shown(given)}")
    for name in given:
        if not is_name(name):
            raise TypeError(f"{what}: a name is a text in Unicode that is not empty, without NUL, not {shown(name)}")
    return given


def is_name(name: object) -> TypeGuard[str]:
    """Whether it is a text that is not empty, and that files, metrics and JSON can tell."""
    return isinstance(name, str) and bool(name) and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in name)
