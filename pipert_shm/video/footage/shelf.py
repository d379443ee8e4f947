"""Where footage lies: the names of files say of which camera and which time they are, so no index can be wrong.

    DIRECTORY/gate/clips/2026-11-30/10-15-03.250_ID.mp4     with a .jpg and a .json beside it
    DIRECTORY/gate/all/2026-11-30/10/10-15-00.250+60.040.mp4

Names have UTC. `+60.040` is how many seconds the file plays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

CLIPS, ALL = "clips", "all"
SUFFIX = ".mp4"

_SEGMENT = re.compile(r"(\d\d-\d\d-\d\d\.\d{3})\+(\d+\.\d{3})(?:-\d+)?\.mp4")
_LONGEST_ID = 80  # bytes of an event's id in a file's name
_TIME = "%H-%M-%S"


def folder_of(directory: Path, camera: str) -> Path:
    """Where a camera's footage lies."""
    return directory / (quote(camera, safe=" ") if camera not in ("", ".", "..") else "%2E" * len(camera))


def camera_of(folder: Path) -> str:
    """Which camera's footage lies in this folder."""
    return unquote(folder.name)


def clip_path(folder: Path, time: float, id: str) -> Path:
    """The file for a clip that is about this time (seconds since the epoch)."""
    safe = re.sub(r"[^\w.-]", "-", id[:_LONGEST_ID]).encode()[:_LONGEST_ID].decode(errors="ignore")
    return folder / CLIPS / f"{_utc(time):%Y-%m-%d}" / f"{_clock(time)}_{safe}{SUFFIX}"


def segment_path(folder: Path, time: float, seconds: float | None = None) -> Path:
    """The file for all that came from this time on.

    :param seconds: how long it plays; None while that is not known.
    """
    plays = "" if seconds is None else f"+{seconds:.3f}"
    return folder / ALL / f"{_utc(time):%Y-%m-%d}" / f"{_utc(time):%H}" / f"{_clock(time)}{plays}{SUFFIX}"


def time_of_part(path: Path) -> float | None:
    """When a file of `segment_path` begins, by its name and its folder; None if it has another name."""
    match = re.match(r"\d\d-\d\d-\d\d\.\d{3}", path.name)
    return None if match is None else _time(path.parent.parent.name, match[0])


class Segment(NamedTuple):
    """A file of the continuous recording.

    Attributes:
        camera: its camera.
        path: where it is.
        start: when it begins, seconds since the epoch.
        seconds: how long it plays.
    """

    camera: str
    path: Path
    start: float
    seconds: float

    @property
    def end(self) -> float:
        """When it ends, seconds since the epoch."""
        return self.start + self.seconds


def cameras(directory: Path) -> list[Path]:
    """The folders of all cameras.

    :raises OSError: when there is no such directory.
    """
    return sorted(each for each in directory.iterdir() if any((each / kind).is_dir() for kind in (CLIPS, ALL)))


def segments(folder: Path, begin: float = 0.0, end: float = float("inf")) -> Iterator[Segment]:
    """The files of a camera's continuous recording that have something of this time, oldest first."""
    camera = camera_of(folder)
    for day in _sorted(folder / ALL):
        for hour in _sorted(day):
            if not _may_have(day.name, hour.name, begin, end):
                continue
            for path in _sorted(hour):
                match = _SEGMENT.fullmatch(path.name)
                start = None if match is None else _time(day.name, match[1])
                if match is None or start is None:
                    continue
                found = Segment(camera, path, start, float(match[2]))
                if found.start < end and found.end > begin:
                    yield found


def _may_have(day: str, hour: str, begin: float, end: float) -> bool:
    start = _time(day, f"{hour}-00-00.000")
    # A file that begins in this hour may go on for an hour, and longer without key frames.
    return start is not None and start < end and start + 2 * 3600 + 600 > begin


def _sorted(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # removed meanwhile, or somebody's file
        return []


def _utc(time: float) -> datetime:
    return datetime.fromtimestamp(time, UTC)


def _clock(time: float) -> str:
    at = _utc(time)
    return f"{at:{_TIME}}.{at.microsecond // 1000:03}"


def _time(day: str, clock: str) -> float | None:
    try:
        return datetime.strptime(f"{day} {clock}000", f"%Y-%m-%d {_TIME}.%f").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
