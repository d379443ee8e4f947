"""Frigate's zones, as zones here."""

from __future__ import annotations

from typing import Any

from pipert_shm.errors import shown
from pipert_shm.importing.section import Section

INERTIA = 3  # frames in a zone after which Frigate takes an object to be there
LOST = 5  # seconds without a detection after which it takes an object to be gone
DIGITS = 4  # of a share of the picture: finer than a pixel of 8K


def polygon(section: Section, key: str, size: tuple[int, int] | None) -> list[list[float]] | None:
    """Returns the corners as shares of the picture's width and height; None, and a note, where they can't be read.

    Frigate takes a text with commas, or a list of texts `x,y`. Numbers above 1 are pixels of the picture that it detects in.

    :param size: width and height of that picture.
    """
    given = section.take(key)
    texts = [str(each) for each in given] if isinstance(given, list) else [str(given)]
    try:
        numbers = [float(part) for text in texts for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    path = (*section.path, key)
    if len(numbers) < 6 or len(numbers) % 2:
        section.notes.leave(path, f"at least three points are expected, as x,y,x,y,x,y, not {shown(given)}")
        return None
    width, height = 1, 1
    if max(numbers) > 1:
        if size is None:
            section.notes.leave(path, "these are pixels, and detect.width and detect.height don't say of what picture")
            return None
        width, height = size
    points = zip(numbers[::2], numbers[1::2], strict=True)
    return [[_share(x / width), _share(y / height)] for x, y in points]


def _share(value: float) -> float:
    return round(min(max(value, 0.0), 1.0), DIGITS)


def zones(camera: Section, size: tuple[int, int] | None, fps: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns a camera's zones by name, and the rules that Frigate follows in them.

    :param size: width and height of the picture that Frigate detects in.
    :param fps: how many frames a second it looks at.
    """
    found: dict[str, Any] = {}
    rules: list[dict[str, Any]] = []
    for name, section in camera.section("zones").sections():
        if not section.flag("enabled", True):
            section.notes.leave(section.path, "it is switched off")
            continue
        points = polygon(section, "coordinates", size)
        if points is None:
            continue
        found[name] = {"polygon": points}
        if labels := section.texts("objects"):
            found[name]["labels"] = labels
        camera_name = camera.path[-1]
        rule = {"kind": "dwell", "cameras": [camera_name], "zone": name, "lost": LOST}
        inertia = section.number("inertia") or INERTIA
        rules.append({"name": f"{camera_name}_{name}", **rule, "seconds": round(inertia / fps, 2)})
        if seconds := section.number("loitering_time"):
            rules.append({"name": f"{camera_name}_{name}_loitering", **rule, "seconds": seconds})
    return found, rules
