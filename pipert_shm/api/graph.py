"""The graph of a pipe as a picture (SVG): routines in their flows, and what is on the wires."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import dist

from pipert_shm.api.motion import Motion
from pipert_shm.statistics import PipeStatistics

COLOURS = {
    "running": "#22c55e",
    "restarting": "#f59e0b",
    "stopping": "#a3a3a3",
    "failed": "#ef4444",
    "stopped": "#94a3b8",
    "built": "#60a5fa",
    "ended": "#64748b",
}

# In pixels of a picture that is scaled to fit.
WIDE, HIGH = 190, 84  # a routine
ALONG, ACROSS = 170, 46  # room between routines, along the way of frames and across it
MARGIN = 26
TITLE = 24
LABEL_WIDE, LABEL_HIGH = 130, 46  # of a wire: two lines of text; the width that most have, so that labels stand still

BOW, BOW_UPRIGHT = 100, 250  # how far a wire is pulled aside that goes round a routine; it gets three quarters of that
ROUND, ROUND_UPRIGHT = 50, 190  # room for that at the edge

_STEPS = sorted((step / 40 for step in range(4, 37)), key=lambda step: abs(step - 0.5))

Point = tuple[float, float]
Curve = tuple[Point, Point, Point, Point]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a routine stands: how far along the way of frames, and how far across it."""

    along: int
    across: int


def places_of(now: PipeStatistics) -> dict[str, Place]:
    """A place for each routine: behind all that it receives from, next to its flow's others, and apart from other flows'."""
    depth = _depths(now)
    flows: dict[str, list[str]] = {}
    for name, routine in now.routines.items():
        flows.setdefault(routine.flow, []).append(name)
    places: dict[str, Place] = {}
    taken: list[list[tuple[int, int]]] = []  # per lane, the stretches that flows have
    for members in sorted(flows.values(), key=lambda names: min(depth[name] for name in names)):
        stretch = min(depth[name] for name in members), max(depth[name] for name in members)
        lanes = max(sum(depth[name] == step for name in members) for step in range(stretch[0], stretch[1] + 1))
        first = 0
        while any(_overlaps(stretch, other) for lane in taken[first : first + lanes] for other in lane):
            first += 1
        taken.extend([] for _ in range(first + lanes - len(taken)))
        for lane in taken[first : first + lanes]:
            lane.append(stretch)
        filled: dict[int, int] = {}
        for name in members:
            places[name] = Place(depth[name], first + filled.get(depth[name], 0))
            filled[depth[name]] = filled.get(depth[name], 0) + 1
    return places


def _depths(now: PipeStatistics) -> dict[str, int]:
    """How many wires each routine is behind the first, by the longest way; wires make no cycles."""
    depth = dict.fromkeys(now.routines, 0)
    for _ in now.routines:
        for wire in now.wires.values():
            if wire.linked:
                depth[wire.receiver] = min(len(depth), max(depth[wire.receiver], depth[wire.sender] + 1))
    return depth


def _overlaps(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def draw(motion: Motion, *, upright: bool = False) -> str:
    """The graph as it is now.

    :param upright: whether frames go down the page (for a phone), rather than to the right.
    """
    places = places_of(motion.now)
    if not places:
        return ""  # all flows were removed
    corners = [_corner(place, upright) for place in places.values()]
    width, height = max(x for x, _ in corners) + WIDE + MARGIN, max(y for _, y in corners) + HIGH + MARGIN
    if any(_passes(places[wire.sender], places[wire.receiver]) for wire in motion.now.wires.values() if wire.linked):
        width, height = (width + ROUND_UPRIGHT, height) if upright else (width, height + ROUND)
    style = f"width:100%;max-width:{width * 8 // 5}px"
    parts = [f'<svg viewBox="0 0 {width} {height}" style="{style}" role="img" aria-label="graph">']
    parts.append(
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="16" markerHeight="16" orient="auto" '
        'markerUnits="userSpaceOnUse"><path d="M0 0L8 4L0 8z" fill="#94a3b8"/></marker></defs>'
    )
    parts += _draw_flows(motion.now, places, upright)
    parts += _draw_wires(motion, places, upright)
    parts += _draw_routines(motion, places, upright)
    return "".join([*parts, "</svg>"])


def _corner(place: Place, upright: bool) -> tuple[int, int]:
    """The upper left corner of a place, x and y."""
    if upright:
        return MARGIN + place.across * (WIDE + ACROSS), MARGIN + TITLE + place.along * (HIGH + ALONG // 2 + TITLE)
    return MARGIN + place.along * (WIDE + ALONG), MARGIN + TITLE + place.across * (HIGH + ACROSS + TITLE)


def _text(x: float, y: float, text: str, size: int, colour: str = "#e2e8f0", anchor: str = "middle", weight: int = 400) -> str:
    style = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}"'
    style += ' paint-order="stroke" stroke="#0b1220" stroke-width="4"'  # which keeps it legible on a wire
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{escape(text)}</text>'


def _draw_flows(now: PipeStatistics, places: dict[str, Place], upright: bool) -> list[str]:
    parts = []
    for name, flow in now.flows.items():
        corners = [_corner(places[routine.name], upright) for routine in now.routines.values() if routine.flow == name]
        left, top = min(x for x, _ in corners) - 12, min(y for _, y in corners) - TITLE - 4
        width = max(x for x, _ in corners) + WIDE + 12 - left
        height = max(y for _, y in corners) + HIGH + 12 - top
        colour = COLOURS.get(flow.state, "#64748b")
        title = name if flow.state in ("running", "ended") else f"{name}: {flow.state}"
        title += f" ↻{flow.restarts}" if flow.restarts else ""
        box = f'x="{left}" y="{top}" width="{width}" height="{height}" rx="14"'
        parts.append(f'<rect {box} fill="{colour}" fill-opacity=".08" stroke="{colour}" stroke-dasharray="5 4"/>')
        parts.append(_text(left + 12, top + 18, _short(title, width // 8), 14, "#cbd5e1", "start"))
    return parts


def _draw_wires(motion: Motion, places: dict[str, Place], upright: bool) -> list[str]:
    lines, labels = [], []
    wires = [wire for wire in motion.now.wires.values() if wire.linked]
    curves = [_curve(places[wire.sender], places[wire.receiver], upright) for wire in wires]
    notes = [f"{wire.waiting}/{wire.capacity} wait" + (f" · {wire.lost:,} lost" if wire.lost else "") for wire in wires]
    routines = [_Box(x, y, WIDE, HIGH) for x, y in (_corner(place, upright) for place in places.values())]
    spots = _spots(curves, [max(LABEL_WIDE, 8 * len(note)) for note in notes], routines)
    for wire, (start, one, two, end), note, (x, y) in zip(wires, curves, notes, spots, strict=True):
        rate, loses = motion.wire_rate(wire), motion.loss_rate(wire) > 0
        colour = "#ef4444" if loses else "#38bdf8" if rate else "#475569"
        way = "M{} {}C{} {} {} {} {} {}".format(*start, *one, *two, *end)
        style = f'fill="none" stroke="{colour}" stroke-width="{4 if rate else 2}"'
        lines.append(f'<path d="{way}" {style} marker-end="url(#tip)"/>')
        labels.append(_text(x, y - 4, f"{rate:.1f}/s", 19, "#7dd3fc" if rate else "#94a3b8", weight=700))
        labels.append(_text(x, y + 16, note, 14, "#fca5a5" if wire.lost else "#94a3b8"))
    return lines + labels


def _curve(sender: Place, receiver: Place, upright: bool) -> Curve:
    """From the sender's side to the receiver's: a cubic Bézier curve's four points."""
    (x1, y1), (x2, y2) = _corner(sender, upright), _corner(receiver, upright)
    aside = (BOW_UPRIGHT if upright else BOW) if _passes(sender, receiver) else 0
    if upright:
        x1, y1, x2 = x1 + WIDE // 2, y1 + HIGH, x2 + WIDE // 2
        return (x1, y1), (x1 + aside, y1 + 50), (x2 + aside, y2 - 50), (x2, y2)
    x1, y1, y2 = x1 + WIDE, y1 + HIGH // 2, y2 + HIGH // 2
    return (x1, y1), (x1 + 60, y1 + aside), (x2 - 60, y2 + aside), (x2, y2)


def _passes(sender: Place, receiver: Place) -> bool:
    """Whether there may be routines on the straight way between them: the wire goes round these."""
    return sender.across == receiver.across and receiver.along - sender.along > 1


@dataclass(frozen=True, slots=True)
class _Box:
    """A rectangle by its upper left corner."""

    x: float
    y: float
    wide: float
    high: float

    def common(self, other: _Box) -> float:
        """The area that both cover."""
        wide = min(self.x + self.wide, other.x + other.wide) - max(self.x, other.x)
        high = min(self.y + self.high, other.y + other.high) - max(self.y, other.y)
        return max(0.0, wide) * max(0.0, high)


def _spots(curves: list[Curve], widths: list[int], taken: list[_Box]) -> list[Point]:
    """Where each wire's label stands: on the wire, as near its middle as other labels and the routines allow."""
    taken, spots = list(taken), [(0.0, 0.0)] * len(curves)
    for number in sorted(
        range(len(curves)), key=lambda number: dist(curves[number][0], curves[number][3])
    ):  # short: less choice
        points, wide = [_point(curves[number], step) for step in _STEPS], widths[number]
        boxes = [_Box(x - wide / 2, y - LABEL_HIGH / 2, wide, LABEL_HIGH) for x, y in points]
        covered = [sum(box.common(other) for other in taken) for box in boxes]
        best = covered.index(min(covered))
        taken.append(boxes[best])
        spots[number] = points[best]
    return spots


def _point(curve: Curve, step: float) -> Point:
    """Of a curve, so far along it: 0 is its start, 1 its end."""
    weights = (1 - step) ** 3, 3 * step * (1 - step) ** 2, 3 * step**2 * (1 - step), step**3
    x, y = (sum(weight * point[axis] for weight, point in zip(weights, curve, strict=True)) for axis in (0, 1))
    return x, y


def _draw_routines(motion: Motion, places: dict[str, Place], upright: bool) -> list[str]:
    parts = []
    for name, place in places.items():
        routine = motion.now.routines[name]
        x, y = _corner(place, upright)
        colour = COLOURS.get(routine.state, "#64748b")
        parts.append(f'<g data-routine="{escape(name)}"><title>{escape(name)}: {escape(routine.state)}</title>')
        parts.append(
            f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="10" fill="#0f172a" stroke="{colour}" stroke-width="3"/>'
        )
        parts.append(f'<rect x="{x}" y="{y}" width="10" height="{HIGH}" rx="5" fill="{colour}"/>')
        parts.append(_text(x + 20, y + 26, _short(name, 19), 17, anchor="start", weight=600))
        parts.append(_text(x + 20, y + 68, f"{motion.fps(name):.1f}", 34, colour, "start", 700))
        note = f"{routine.errors:,} errors" if routine.errors else routine.state
        parts.append(_text(x + WIDE - 10, y + 68, note, 13, "#fca5a5" if routine.errors else "#94a3b8", "end"))
        parts.append("</g>")
    return parts


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
