"""Destinations that write detections and events: lines of JSON, or rows of a database."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pipert_shm.data import Data, Meta
from pipert_shm.errors import describe, shown
from pipert_shm.routine import DestinationRoutine
from pipert_shm.video.detection import NOT_FINITE, DetectedFrame, Detections, finite, found_in
from pipert_shm.video.files import Appender
from pipert_shm.video.opencv import VideoError

_MOST_ITEMS = 1_000  # an array or container in `additional_data` with more items is written as a text
_MOST_LEVELS = 32
_EVENT_COLUMNS = (
    *("id", "phase", "rule", "kind", "camera", "sequence", "time", "started", "zone", "label", "track_id", "score"),
    *("left", "top", "right", "bottom", "count", "more"),
)
_COLUMNS = 'origin, sequence, capture_time, "left", top, "right", bottom, score, label, track_id, pts, additional_data, more'


def jsonable(value: Any, levels: int = _MOST_LEVELS) -> Any:
    """Converts a value of `additional_data` to one that JSON knows (RFC 8259).

    NaN and infinity become null, and arrays become lists. A value that JSON has no form for becomes the text that Python shows
    of it. So does a container of more than 1,000 items, and one that is nested more than 32 levels deep.

    >>> jsonable({"seen": np.array([1.5, float("nan")]), "zone": (1, 2), 3: {"a"}})
    {'seen': [1.5, None], 'zone': [1, 2], '3': "{'a'}"}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        if value.size > _MOST_ITEMS or value.dtype.kind not in "biuf":
            return f"array of shape {value.shape}, {value.dtype}"
        return jsonable(value.tolist(), levels)
    if isinstance(value, np.generic):
        return jsonable(value.item(), levels) if value.dtype.kind in "biufU" else shown(value)
    if levels and isinstance(value, Mapping) and len(value) <= _MOST_ITEMS:
        return {key if isinstance(key, str) else shown(key): jsonable(item, levels - 1) for key, item in value.items()}
    if levels and isinstance(value, list | tuple) and len(value) <= _MOST_ITEMS:
        return [jsonable(item, levels - 1) for item in value]
    return shown(value)


def additional_json(data: object) -> str | None:
    """Returns the `additional_data` of a payload as JSON; None if it is empty."""
    more = data.additional_data if isinstance(data, Data) else None
    return json.dumps(jsonable(more), allow_nan=False) if more else None


def line_of(meta: Meta, found: Detections, data: object) -> dict[str, Any]:
    """Returns what a line of JSON tells of a frame's detections.

    :param found: those of the payload whose boxes are finite.
    :param data: the payload.
    """
    line: dict[str, Any] = {
        "origin": meta.origin,
        "sequence": meta.sequence,
        "capture_time": meta.capture_time,
        "boxes": found.boxes.tolist(),
    }
    if meta.pts is not None:
        line["pts"] = jsonable(meta.pts)
    if found.scores is not None:
        line["scores"] = [jsonable(score) for score in found.scores.tolist()]
    if found.class_ids is not None:
        line["labels"] = found.labels
    if found.track_ids is not None:
        line["track_ids"] = found.track_ids.tolist()
    line |= _more_columns(found)
    if isinstance(data, Data) and data.additional_data:
        line["additional_data"] = jsonable(data.additional_data)
    return line


def _more_columns(found: Detections) -> dict[str, list[Any]]:
    """What detections have besides boxes, scores, classes and tracks: lists with an item for each."""
    more: dict[str, list[Any]] = {}
    for name, column in (("keypoints", found.keypoints), ("corners", found.corners)):
        if column is not None:
            more[name] = [jsonable(row) for row in column]
    if found.masks is not None:
        more["outlines"] = [[line.round(1).tolist() for line in found.outlines(each)] for each in range(len(found))]
    if found.data:
        more["data"] = [{name: jsonable(column[row]) for name, column in found.data.items()} for row in range(len(found))]
    return more


def _more_rows(found: Detections) -> Iterable[str | None]:
    """The same as a JSON object for each detection; None without any."""
    columns = _more_columns(found)
    if not columns:
        return repeat(None)
    return [json.dumps({name: column[row] for name, column in columns.items()}) for row in range(len(found))]


@runtime_checkable
class Event(Protocol):
    """An event of a rule, such as a `DetectionEvent`."""

    def to_dict(self) -> dict[str, Any]:
        """Returns it as values that JSON knows."""


def events_in(data: object) -> list[dict[str, Any]] | None:
    """Returns the events of a payload that is one or a list of them; None of another payload."""
    events = data if isinstance(data, list | tuple) else [data]
    if not all(isinstance(event, Event) for event in events):
        return None
    return [jsonable(event.to_dict()) for event in events if isinstance(event, Event)]


def _cannot_add(path: Path, what: str, error: Exception) -> VideoError:
    cause = getattr(error, "strerror", None) or describe(error)
    return VideoError(str(path), f"can't add {what} to {str(path)!r}: {cause}; check that the disk has room, and the values")


class JsonLinesWriter(DestinationRoutine):
    """Appends a line of JSON for each `DetectedFrame`, `Detections` or event to a text file. Others may read it meanwhile.

    The line of an event is what its `to_dict()` says. Of a list of events each has a line. The line of detections is
    `{"origin": "camera", "sequence": 0, "capture_time": 1764000000.0, "boxes": [[left, top, right, bottom], …]}`: seconds since
    the epoch, and pixels. It also has

    - `pts`, seconds, if the origin knows the frame's position in its video;
    - `scores`, `labels` and `track_ids`, lists with an item for each box, if the detections have them (a score of NaN is null);
    - `keypoints`, for each box a list of x, y and how likely the point is to be seen; `corners` of boxes that are turned;
      `outlines` of masks, for each box a list of polygons in pixels; and `data`, what else is told of each detection;
    - `additional_data`, if the payload has any. A value that JSON has no form for is written as a text, and an array of more
      than 1,000 values as its shape.

    A detection whose box has NaN or infinity is left out. The counter `not_finite` counts these.

    Several writers, in any processes, may append to the same file: each line stays whole.

    :param path: of the file; a missing directory is made.
    """

    counter_names = (NOT_FINITE,)

    def __init__(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        super().__init__(name)
        self.path = Path(path)
        self._file: Appender | None = None

    def setup(self) -> None:
        """Opens the file.

        :raises OSError: when the file can't be made or written to.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = Appender(self.path)

    def main_logic(self, data: DetectedFrame | Detections | Event | Sequence[Event]) -> None:
        """Writes one line, or of a list of events one for each. If that fails, no part of them is left in the file.

        :raises TypeError: when the payload is neither a `DetectedFrame` nor `Detections` nor events.
        :raises VideoError: when a line can't be written, for example on a full disk.
        """
        assert self._file is not None, "setup() comes first"
        lines = events_in(data)
        if lines is None:
            lines = [line_of(self.meta, finite(self, found_in(data)), data)]
        if not lines:
            return
        try:
            self._file.append("".join(f"{json.dumps(line, allow_nan=False)}\n" for line in lines).encode())
        except (OSError, TypeError, ValueError) as error:
            raise _cannot_add(self.path, "a line", error) from error

    def cleanup(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class SqliteWriter(DestinationRoutine):
    """Adds a row for each detection or event to a table of an SQLite database. Others may read it meanwhile.

    Events stand in the table `events`. Its columns are those of a `DetectionEvent`, with left, top, right and bottom for its
    box, and more as JSON. An event that comes again, with the same id and phase, takes the place of its row.

    Detections stand in the table `detections`. Its columns are origin, sequence, capture_time (seconds since the epoch), left,
    top, right, bottom (pixels), score, label, track_id, pts (seconds), additional_data and more. The last six are NULL if the
    detections, the origin or the payload don't have them. additional_data is JSON, as in `JsonLinesWriter`, and stands in each
    row of its frame. more is a JSON object with the detection's keypoints, corners, outlines and data. A frame
    without detections has no row. The rows of one frame are written in one transaction. A table of an earlier version gets the
    columns that it lacks.

    A detection whose box has NaN or infinity is left out. The counter `not_finite` counts these.

    :param path: of the database; a missing directory is made.
    """

    counter_names = (NOT_FINITE,)

    def __init__(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        super().__init__(name)
        self.path = Path(path)
        self._database: sqlite3.Connection | None = None

    def setup(self) -> None:
        """Opens the database, and makes the table if it is missing.

        :raises OSError, sqlite3.Error: when that fails.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(self.path)
        self._database.executescript(
            """
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = NORMAL;
            CREATE TABLE IF NOT EXISTS detections (
                origin TEXT NOT NULL, sequence INTEGER NOT NULL, capture_time REAL NOT NULL,
                "left" REAL NOT NULL, top REAL NOT NULL, "right" REAL NOT NULL, bottom REAL NOT NULL,
                score REAL, label TEXT, track_id INTEGER, pts REAL, additional_data TEXT, more TEXT
            );
            CREATE INDEX IF NOT EXISTS detections_by_time ON detections (capture_time);
            CREATE TABLE IF NOT EXISTS events (
                id TEXT NOT NULL, phase TEXT NOT NULL, rule TEXT NOT NULL, kind TEXT NOT NULL, camera TEXT NOT NULL,
                sequence INTEGER NOT NULL, time REAL NOT NULL, started REAL NOT NULL, zone TEXT, label TEXT,
                track_id INTEGER, score REAL, "left" REAL, top REAL, "right" REAL, bottom REAL, count INTEGER, more TEXT,
                PRIMARY KEY (id, phase)
            );
            CREATE INDEX IF NOT EXISTS events_by_time ON events (time);
            """
        )
        there = [column[1] for column in self._database.execute("PRAGMA table_info (detections)")]
        for column, kind in (("pts", "REAL"), ("additional_data", "TEXT"), ("more", "TEXT")):
            if column not in there:
                self._database.execute(f"ALTER TABLE detections ADD COLUMN {column} {kind}")

    def main_logic(self, data: DetectedFrame | Detections | Event | Sequence[Event]) -> None:
        """Adds the rows of one message, all or none.

        :raises TypeError: when the payload is neither a `DetectedFrame` nor `Detections` nor events.
        :raises VideoError: when the rows can't be written: the disk is full, another program has locked the database, or SQLite
            does not take a value.
        """
        assert self._database is not None, "setup() comes first"
        events = events_in(data)
        if events is not None:
            places = ", ".join("?" * len(_EVENT_COLUMNS))
            columns = ", ".join(f'"{column}"' for column in _EVENT_COLUMNS)
            self._add(f"INSERT OR REPLACE INTO events ({columns}) VALUES ({places})", [_row_of(event) for event in events])
            return
        found = finite(self, found_in(data))
        message = (self.meta.origin, self.meta.sequence, self.meta.capture_time)
        rows = zip(
            found.boxes.tolist(),
            repeat(None) if found.scores is None else found.scores.tolist(),
            repeat(None) if found.class_ids is None else found.labels,
            repeat(None) if found.track_ids is None else found.track_ids.tolist(),
            _more_rows(found),
            strict=False,
        )
        rest = (self.meta.pts, additional_json(data))
        self._add(
            f"INSERT INTO detections ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(*message, *box, score, label, track, *rest, more) for box, score, label, track, more in rows],
        )

    def _add(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        assert self._database is not None
        if not rows:
            return
        try:
            with self._database:
                self._database.executemany(statement, rows)
        except (sqlite3.Error, ValueError, OverflowError) as error:
            raise _cannot_add(self.path, "rows", error) from error

    def cleanup(self) -> None:
        """Closes the database."""
        if self._database is not None:
            self._database.close()
            self._database = None


def _row_of(event: dict[str, Any]) -> tuple[Any, ...]:
    box = dict(zip(("left", "top", "right", "bottom"), event.get("box") or (), strict=False))
    more = {"more": json.dumps(event["more"], allow_nan=False)} if "more" in event else {}
    values = event | box | more
    return tuple(values.get(column) for column in _EVENT_COLUMNS)
