"""What was found in frames, as lines and as rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from media import Beginning, bikes, frames_of
from pipert_shm import START_EVENT_NAME, Meta, Pipe
from pipert_shm.video import DetectedFrame, Detections, JsonLinesWriter, MotionDetector, SqliteWriter
from routines import chain
from test_output import grey, run

BOXES: list[list[float]] = [[1, 2, 3, 4.5], [5, 6, 7, 8]]
PLAIN = Detections(BOXES)
FULL = Detections(BOXES, [0.5, 0.25], [1, 0], ("cat", "dog"), [7, -1])
PAYLOADS: list[DetectedFrame | Detections] = [DetectedFrame(grey(0), PLAIN), FULL, Detections([])]


def test_a_line_says_what_was_found_and_can_be_read_meanwhile(tmp_path: Path) -> None:
    writer = JsonLinesWriter(tmp_path / "new" / "lines.jsonl")
    writer.setup()
    for number, payload in enumerate(PAYLOADS):
        writer.meta = Meta(("camera",), 0, number, pts=number / 25 if number else None)
        writer.main_logic(payload)
    lines = [json.loads(line) for line in writer.path.read_text().splitlines()]
    writer.cleanup()
    times = [line.pop("capture_time") for line in lines]
    assert lines == [
        {"origin": "camera", "sequence": 0, "boxes": BOXES},
        {
            "origin": "camera",
            "sequence": 1,
            "pts": 0.04,
            "boxes": BOXES,
            "scores": [0.5, 0.25],
            "labels": ["dog", "cat"],
            "track_ids": [7, -1],
        },
        {"origin": "camera", "sequence": 2, "pts": 0.08, "boxes": []},
    ]
    assert all(isinstance(time, float) for time in times)


@pytest.mark.parametrize("make", [JsonLinesWriter, SqliteWriter])
def test_what_an_earlier_run_wrote_stays(tmp_path: Path, make: Callable[[Path], JsonLinesWriter | SqliteWriter]) -> None:
    for _ in range(2):
        run(make(tmp_path / "file"), FULL)
    if make is JsonLinesWriter:
        assert len((tmp_path / "file").read_text().splitlines()) == 2
    else:
        assert len(rows_of(tmp_path / "file")) == 4


def rows_of(path: Path) -> list[Any]:
    database = sqlite3.connect(path)
    rows = database.execute("SELECT * FROM detections ORDER BY rowid").fetchall()
    database.close()
    return rows


def test_a_row_for_each_find_can_be_read_meanwhile(tmp_path: Path) -> None:
    writer = SqliteWriter(tmp_path / "new" / "found.sqlite")
    writer.setup()
    for number, payload in enumerate(PAYLOADS):
        writer.meta = Meta(("camera",), 0, number, pts=number / 25 if number else None)
        writer.main_logic(payload)
    rows = rows_of(writer.path)
    writer.cleanup()
    assert [(*row[:2], *row[3:]) for row in rows] == [
        ("camera", 0, 1.0, 2.0, 3.0, 4.5, None, None, None, None),
        ("camera", 0, 5.0, 6.0, 7.0, 8.0, None, None, None, None),
        ("camera", 1, 1.0, 2.0, 3.0, 4.5, 0.5, "dog", 7, 0.04),
        ("camera", 1, 5.0, 6.0, 7.0, 8.0, 0.25, "cat", -1, 0.04),
    ]
    assert all(isinstance(row[2], float) for row in rows)


def test_a_table_of_an_earlier_version_gets_the_column_that_it_lacks(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "db")
    database.execute(
        """
        CREATE TABLE detections (
            origin TEXT NOT NULL, sequence INTEGER NOT NULL, capture_time REAL NOT NULL,
            "left" REAL NOT NULL, top REAL NOT NULL, "right" REAL NOT NULL, bottom REAL NOT NULL,
            score REAL, label TEXT, track_id INTEGER
        )
        """
    )
    database.execute("INSERT INTO detections VALUES ('door', 3, 1.5, 1, 2, 3, 4, NULL, NULL, NULL)")
    database.commit()
    database.close()
    for _ in range(2):
        run(SqliteWriter(tmp_path / "db"), PLAIN)
    rows = rows_of(tmp_path / "db")
    assert rows[0] == ("door", 3, 1.5, 1.0, 2.0, 3.0, 4.0, None, None, None, None)
    assert [(*row[:2], *row[3:]) for row in rows[1:]] == [("camera", 0, *box, None, None, None, None) for box in BOXES] * 2


def test_the_rows_are_those_of_one_loop(tmp_path: Path) -> None:
    with Pipe(policy="block") as pipe:
        chain(pipe, Beginning(bikes(), 60, "camera"), MotionDetector("detector"), SqliteWriter(tmp_path / "db", "writer"))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
    detector = MotionDetector()
    detector.setup()
    expected = [
        (number, *box, number / 25)
        for number, frame in enumerate(frames_of(bikes(), 60))
        for box in detector.detect(frame).boxes.tolist()
    ]
    assert [(row[1], *row[3:7], round(row[10], 6)) for row in rows_of(tmp_path / "db")] == expected
    assert len(expected) > 50
