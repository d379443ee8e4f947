"""What is known of one camera's zones and lines, frame after frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipert_shm.analytics.areas import Area, Point, are_shares
from pipert_shm.analytics.geometry import Ground, Polygon, Segment, anchors_of, in_pixels, rounded
from pipert_shm.analytics.movement import Heat, Sides, Speeds, Stays
from pipert_shm.analytics.seen_time import SeenTime
from pipert_shm.video.detection import Detections

Count = Callable[[str, str, str], None]  # what happened, at which zone or line, and the object's label

ENTERED, CROSSED_IN, CROSSED_OUT = "entered", "crossed_in", "crossed_out"


@dataclass(frozen=True, slots=True)
class Plane:
    """The ground that a camera sees: four points, and where they are in metres."""

    points: tuple[Point, ...]
    metres: tuple[Point, ...]


@dataclass(slots=True)
class Placed:
    """The zones, lines and the ground in pixels of frames of one size."""

    size: tuple[int, int]
    zones: dict[str, Polygon]
    lines: dict[str, Segment]
    ground: Ground | None


@dataclass(slots=True)
class Watched:
    """A line: who is where, and how many have crossed it, by label."""

    sides: Sides
    entered: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)


class CameraZones:
    """The zones and lines of one camera. `look` is called with each of its frames, in order.

    :param lost: seconds for which a track is remembered that is not seen.
    :param heat: the half-life of the heat map, seconds; None: there is none.
    :param count: is told what is to be counted.
    """

    def __init__(self, seen: SeenTime, lost: float, heat: float | None, count: Count) -> None:
        self.seen = seen
        self._lost = lost
        self._count = count
        self._heat = None if heat is None else Heat(heat)
        self._speeds = Speeds()
        self._zones: dict[str, Area] = {}
        self._lines: dict[str, Area] = {}
        self._plane: Plane | None = None
        self._stays: dict[str, Stays] = {}
        self._watched: dict[str, Watched] = {}
        self._placed: Placed | None = None

    def settle(self, zones: dict[str, Area], lines: dict[str, Area], plane: Plane | None) -> None:
        """Takes these settings. What is known of a zone or line that has not changed stays known."""
        self._stays = {
            name: self._stays[name] if self._zones.get(name) == area and name in self._stays else Stays(self._lost)
            for name, area in zones.items()
        }
        self._watched = {
            name: self._watched[name] if self._lines.get(name) == area else Watched(Sides(self._lost))
            for name, area in lines.items()
        }
        self._zones, self._lines, self._plane, self._placed = zones, lines, plane, None

    def look(self, found: Detections, size: tuple[int, int], now: float) -> dict[str, Any]:
        """Returns what is told of the frame: see `Zones`.

        :param size: width and height of the frame.
        """
        placed = self._placed
        if placed is None or placed.size != size:
            placed = self._placed = self._place(size)
        labels = found.labels
        told: dict[str, Any] = {
            "zones": {name: self._zone(name, zone, found, labels, now) for name, zone in placed.zones.items()},
            "lines": {name: self._line(name, line, found, labels, now) for name, line in placed.lines.items()},
        }
        if placed.ground is not None and found.track_ids is not None:
            told["speeds"] = self._speeds.look(found.track_ids.tolist(), placed.ground.places(found.boxes), now)
        if self._heat is not None:
            told["heat_map"] = self._heat.look(anchors_of(found.boxes, "bottom_centre")[:, 0], size, now)
        return told

    def _place(self, size: tuple[int, int]) -> Placed:
        ground = None
        if self._plane is not None:
            corners = self._plane.points
            ground = Ground(in_pixels(corners, are_shares(corners), size), self._plane.metres)
        return Placed(
            size,
            {name: Polygon(area, size) for name, area in self._zones.items()},
            {name: Segment(area, size) for name, area in self._lines.items()},
            ground,
        )

    def _zone(self, name: str, zone: Polygon, found: Detections, labels: list[str], now: float) -> dict[str, Any]:
        rows = _chosen(zone.area, labels)
        inside = rows[zone.contain(found.boxes[rows])].tolist()
        told: dict[str, Any] = {"polygon": rounded(zone.points), "rows": inside}
        if found.track_ids is not None:
            ids = found.track_ids[inside].tolist()
            stays, came = self._stays[name].look([track for track in ids if track >= 0], now)
            its = iter(stays)
            told["seconds"] = [None if track < 0 else next(its) for track in ids]
            for track in came:
                self._count(ENTERED, name, labels[inside[ids.index(track)]])
        return told

    def _line(self, name: str, line: Segment, found: Detections, labels: list[str], now: float) -> dict[str, Any]:
        watched = self._watched[name]
        crossed: list[tuple[int, str]] = []
        if found.track_ids is not None:
            rows = _chosen(line.area, labels)
            rows = rows[found.track_ids[rows] >= 0]
            ways = watched.sides.look(found.track_ids[rows].tolist(), line.sides(found.boxes[rows]).tolist(), now)
            crossed = [(row, way) for row, way in zip(rows.tolist(), ways, strict=True) if way is not None]
        for row, way in crossed:
            counts = watched.entered if way == "in" else watched.left
            counts[labels[row]] = counts.get(labels[row], 0) + 1
            self._count(CROSSED_IN if way == "in" else CROSSED_OUT, name, labels[row])
        return {
            "points": rounded(line.points),
            "crossed": [[row, way] for row, way in crossed],
            "in": dict(watched.entered),
            "out": dict(watched.left),
        }


def _chosen(area: Area, labels: list[str]) -> np.ndarray:
    """The rows of the objects that count."""
    if area.labels is None:
        return np.arange(len(labels))
    return np.array([row for row, label in enumerate(labels) if label in area.labels], np.int64)
