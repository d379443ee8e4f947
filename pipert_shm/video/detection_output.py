"""Destinations: what writes what was found in frames, as lines or rows."""

from __future__ import annotations

import json
import os
import sqlite3
from itertools import repeat
from pathlib import Path
from typing import Any

from pipert_shm.errors import describe
from pipert_shm.routine import DestinationRoutine
from pipert_shm.video.detection import DetectedFrame, Detections
from pipert_shm.video.files import Appender
from pipert_shm.video.opencv import VideoError


def _found_in(data: DetectedFrame | Detections) -> Detections:
    """:raises TypeError: when it is neither of the two."""
    if isinstance(data, DetectedFrame):
        return data.detections
    if isinstance(data, Detections):
        return data
    raise TypeError(
        f"a DetectedFrame or Detections are needed, not a {type(data).__name__}: put a detector before this routine"
    )


def _cannot_add(path: Path, what: str, error: Exception) -> VideoError:
    cause = getattr(error, "strerror", None) or describe(error)
    return VideoError(str(path), f"can't add {what} to {str(path)!r}: {cause}; check that the disk has room, and the values")


class JsonLinesWriter(DestinationRoutine):
    """Appends a line for each `DetectedFrame` (or `Detections`) to a text file, which can be read meanwhile.

    A line is `{"origin": "camera", "sequence": 0, "capture_time": 1764000000.0, "boxes": [[left, top, right, bottom], …]}`,
    and has `pts`, seconds, where the origin tells where in its video a frame stands, and `scores`, `labels` and `track_ids`, a
    list of as many, where the detections have them.

    :param path: of the file; its directory is made where it is missing.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        super().__init__(name)
        self.path = Path(path)
        self._file: Appender | None = None

    def setup(self) -> None:
        """Opens the file.

        :raises OSError: when it can't be made or written to.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = Appender(self.path)

    def main_logic(self, data: DetectedFrame | Detections) -> None:
        """Writes one line, or nothing of it.

        :raises TypeError: when it is neither of the two.
        :raises VideoError: when it can't be written: the disk is full, or JSON does not take a value.
        """
        assert self._file is not None, "setup() comes first"
        found = _found_in(data)
        line: dict[str, Any] = {
            "origin": self.meta.origin,
            "sequence": self.meta.sequence,
            "capture_time": self.meta.capture_time,
            "boxes": found.boxes.tolist(),
        }
        if self.meta.pts is not None:
            line["pts"] = self.meta.pts
        if found.scores is not None:
            line["scores"] = found.scores.tolist()
        if found.class_ids is not None:
            line["labels"] = found.labels
        if found.track_ids is not None:
            line["track_ids"] = found.track_ids.tolist()
        try:
            self._file.append(json.dumps(line, allow_nan=False).encode() + b"\n")
        except (OSError, TypeError, ValueError) as error:
            raise _cannot_add(self.path, "a line", error) from error

    def cleanup(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class SqliteWriter(DestinationRoutine):
    """Adds a row for each thing found to table `detections` of an SQLite database, which can be read meanwhile.

    Its columns: origin, sequence, capture_time, left, top, right, bottom, score, label, track_id, pts; the last four are NULL
    where the detections, or the origin, don't have them. The rows of one frame are there together, or none of them. A table of
    an earlier version, without pts, is given that column.

    :param path: of the database; its directory is made where it is missing.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        super().__init__(name)
        self.path = Path(path)
        self._database: sqlite3.Connection | None = None

    def setup(self) -> None:
        """Opens the database, and makes the table where it is missing.

        :raises OSError, sqlite3.Error: when that can't be done.
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
                score REAL, label TEXT, track_id INTEGER, pts REAL
            );
            CREATE INDEX IF NOT EXISTS detections_by_time ON detections (capture_time);
            """
        )
        if "pts" not in [column[1] for column in self._database.execute("PRAGMA table_info (detections)")]:
            self._database.execute("ALTER TABLE detections ADD COLUMN pts REAL")

    def main_logic(self, data: DetectedFrame | Detections) -> None:
        """Adds the rows of one frame, or none of them.

        :raises TypeError: when it is neither of the two.
        :raises VideoError: when they can't be written: the disk is full, another program locks it, or a value is none that
            SQLite takes.
        """
        assert self._database is not None, "setup() comes first"
        found = _found_in(data)
        if not len(found):
            return
        message = (self.meta.origin, self.meta.sequence, self.meta.capture_time)
        rows = zip(
            found.boxes.tolist(),
            repeat(None) if found.scores is None else found.scores.tolist(),
            repeat(None) if found.class_ids is None else found.labels,
            repeat(None) if found.track_ids is None else found.track_ids.tolist(),
            strict=False,
        )
        try:
            with self._database:
                self._database.executemany(
                    "INSERT INTO detections VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [(*message, *box, score, label, track, self.meta.pts) for box, score, label, track in rows],
                )
        except (sqlite3.Error, ValueError, OverflowError) as error:
            raise _cannot_add(self.path, "rows", error) from error

    def cleanup(self) -> None:
        """Closes the database."""
        if self._database is not None:
            self._database.close()
            self._database = None
