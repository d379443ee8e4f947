"""Zones and lines that are drawn by mouse: what a press, a move and a release do, and how it looks. Knows no browser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from io import StringIO
from typing import Any, Literal

from ruamel.yaml import YAML

Kind = Literal["zone", "line"]
Spot = list[float]  # x and y, as shares of the picture

NEAR = 0.02  # how near a press has to be to a point, as a share of the picture's width
_COLOURS = {"zone": "#38bdf8", "line": "#fb923c"}
_CHOSEN = "#facc15"


@dataclass(slots=True)
class Shape:
    """A zone or a line.

    Attributes:
        points: as shares of the picture's width and height.
        more: its other settings: labels and anchor.
    """

    kind: Kind
    points: list[Spot]
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What its points are called in the settings."""
        return "polygon" if self.kind == "zone" else "points"

    @property
    def most(self) -> int:
        """How many points it may have."""
        return 100 if self.kind == "zone" else 2

    @property
    def least(self) -> int:
        """How many points it needs."""
        return 3 if self.kind == "zone" else 2


class Drawing:
    """What is drawn on one camera's picture.

    :param size: of the camera's frames, in pixels: by it, zones in pixels become shares.

    Attributes:
        shapes: by name.
        chosen: the name of the one that the mouse works on; None: of none.
        is_growing: whether a press adds a point to it.

    >>> drawing = Drawing((640, 480))
    >>> drawing.begin("line")
    'line 1'
    >>> for x, y in ((0.5, 1.0), (0.5, 0.25)):
    ...     drawing.press(x, y)
    ...     drawing.release()
    >>> drawing.settings()
    ({}, {'line 1': {'points': [[0.5, 1.0], [0.5, 0.25]]}})
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.shapes: dict[str, Shape] = {}
        self.chosen: str | None = None
        self.is_growing = False
        self._held: int | None = None  # the point that follows the mouse

    def load(self, zones: Mapping[str, Mapping[str, Any]], lines: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes settings, as `Zones` has them. A line of a zone's name is called otherwise."""
        kinds: tuple[tuple[Kind, Mapping[str, Mapping[str, Any]]], ...] = (("zone", zones), ("line", lines))
        for kind, areas in kinds:
            for name, settings in areas.items():
                shape = Shape(kind, [])
                given = settings[shape.key]
                in_shares = all(0 <= number <= 1 for point in given for number in point)
                across, down = (1, 1) if in_shares else self.size
                shape.points = [[x / across, y / down] for x, y in given]
                shape.more = {key: value for key, value in settings.items() if key != shape.key}
                self.shapes[name if name not in self.shapes else f"{name} (line)"] = shape

    def settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The zones and the lines, as `Zones` takes them, in shares. One that is not finished is left out."""
        told: dict[Kind, dict[str, Any]] = {"zone": {}, "line": {}}
        for name, shape in self.shapes.items():
            if len(shape.points) >= shape.least:
                points = [[round(x, 4), round(y, 4)] for x, y in shape.points]
                told[shape.kind][name] = {shape.key: points, **shape.more}
        return told["zone"], told["line"]

    # ---- what people do --------------------------------------------------------------------------

    def begin(self, kind: Kind) -> str:
        """Begins a zone or a line; the next presses are its points. Returns its name."""
        self.drop_unfinished()
        number = 1
        while (name := f"{kind} {number}") in self.shapes:
            number += 1
        self.shapes[name] = Shape(kind, [])
        self.chosen, self.is_growing = name, True
        return name

    def choose(self, name: str | None) -> None:
        """Has the mouse work on this one."""
        self.drop_unfinished()
        self.chosen = name if name in self.shapes else None

    def rename(self, name: str) -> None:
        """Gives the chosen one another name.

        :raises ValueError: when it is empty, or another one's.
        """
        if self.chosen is None or name == self.chosen:
            return
        if not name.strip() or name in self.shapes:
            raise ValueError(f"{name!r} is another one's name" if name.strip() else "a name can't be empty")
        self.shapes = {name if old == self.chosen else old: shape for old, shape in self.shapes.items()}
        self.chosen = name

    def remove(self) -> None:
        """Removes the chosen one."""
        if self.chosen is not None:
            del self.shapes[self.chosen]
        self.release()
        self.chosen, self.is_growing = None, False

    def drop_unfinished(self) -> None:
        """Ends what is being drawn: with too few points it is nothing."""
        self.release()  # beside the picture nobody hears that the mouse lets go
        if self.chosen is not None and len(self.shapes[self.chosen].points) < self.shapes[self.chosen].least:
            self.remove()
        self.is_growing = False

    def press(self, x: float, y: float, *, to_remove: bool = False) -> None:
        """A press of the mouse: adds a point, takes hold of one, adds one in the middle of an edge, or removes one."""
        if self.chosen is None:
            return
        shape = self.shapes[self.chosen]
        near = self._near(shape.points, x, y)
        if self.is_growing:
            if near == 0 and len(shape.points) >= shape.least:  # the first point again: it is closed
                self.is_growing = False
                return
            shape.points.append(_within(x, y))
            self.is_growing = len(shape.points) < shape.most
        elif near is not None and to_remove:
            if len(shape.points) > shape.least:
                del shape.points[near]
        elif near is not None:
            self._held = near
        elif (edge := self._near(_middles(shape), x, y)) is not None and len(shape.points) < shape.most:
            shape.points.insert(edge + 1, _within(x, y))
            self._held = edge + 1

    def move(self, x: float, y: float) -> bool:
        """A move of the mouse; whether something has moved with it."""
        if self._held is None or self.chosen is None:
            return False
        self.shapes[self.chosen].points[self._held] = _within(x, y)
        return True

    def release(self) -> None:
        """The mouse lets go."""
        self._held = None

    def _near(self, points: list[Spot], x: float, y: float) -> int | None:
        steep = self.size[1] / self.size[0]
        far = [((x - px) ** 2 + ((y - py) * steep) ** 2) ** 0.5 for px, py in points]
        return far.index(min(far)) if far and min(far) <= NEAR else None

    # ---- how it looks ----------------------------------------------------------------------------

    def svg(self, width: int, height: int) -> str:
        """What is drawn, for a picture of this size."""
        parts = []
        for name, shape in self.shapes.items():
            colour = _CHOSEN if name == self.chosen else _COLOURS[shape.kind]
            spots = [(x * width, y * height) for x, y in shape.points]
            if not spots:
                continue
            text = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
            tag = "polygon" if shape.kind == "zone" and not (name == self.chosen and self.is_growing) else "polyline"
            inner = f'fill="{colour}" fill-opacity="0.15"' if tag == "polygon" else 'fill="none"'
            parts.append(f'<{tag} points="{text}" {inner} stroke="{colour}" stroke-width="2"/>')
            x, y = min(spots, key=lambda spot: spot[1])
            parts.append(
                f'<text x="{x + 6:.1f}" y="{max(14, y - 6):.1f}" fill="{colour}" font-size="14" stroke="#000" stroke-width="3" '
                f'paint-order="stroke">{escape(name)}</text>'
            )
            if name == self.chosen:
                middles = [(x * width, y * height) for x, y in _middles(shape)] if not self.is_growing else []
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colour}"/>' for x, y in spots]
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="none" stroke="{colour}"/>' for x, y in middles]
        return "".join(parts)


def _middles(shape: Shape) -> list[Spot]:
    """The middles of a zone's edges, at which a point can be added."""
    if shape.kind == "line":
        return []
    nexts = [*shape.points[1:], *shape.points[:1]]
    return [[(x + x2) / 2, (y + y2) / 2] for (x, y), (x2, y2) in zip(shape.points, nexts, strict=True)]


def _within(x: float, y: float) -> Spot:
    return [min(1.0, max(0.0, x)), min(1.0, max(0.0, y))]


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Settings as they stand in a pipeline's file, under `parameters:`.

    >>> print(as_yaml({"zones": {"yard": {"gate": {"polygon": [[0, 0], [1, 0], [1, 1]], "labels": ["person"]}}}}), end="")
    zones:
      yard:
        gate: {polygon: [[0, 0], [1, 0], [1, 1]], labels: [person]}
    """
    writer = YAML(typ="rt")
    writer.width = 4096
    text = StringIO()
    filled = {kind: {camera: _in_lines(areas) for camera, areas in its.items() if areas} for kind, its in settings.items()}
    writer.dump({kind: its for kind, its in filled.items() if its}, text)
    return text.getvalue()


def _in_lines(areas: Mapping[str, Any]) -> dict[str, Any]:
    """Each area on a line of its own."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    def flowing(value: Any) -> Any:
        found: Any
        if isinstance(value, Mapping):
            found = CommentedMap((key, flowing(item)) for key, item in value.items())
        elif isinstance(value, list):
            found = CommentedSeq(map(flowing, value))
        else:
            return value
        found.fa.set_flow_style()
        return found

    return {name: flowing(area) for name, area in areas.items()}
