"""What was found in frames, as lines and as rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media import Beginning, bikes, frames_of
from pipert_shm import START_EVENT_NAME, Meta, Pipe
from pipert_shm.analytics.event import DetectionEvent
from pipert_shm.video import DetectedFrame, Detections, JsonLinesWriter, MotionDetector, SqliteWriter
from pipert_shm.video.detection_output import jsonable
from routines import chain
from test_output import grey, run

NAN, INF = float("nan"), float("inf")
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
        ("camera", 0, 1.0, 2.0, 3.0, 4.5, None, None, None, None, None, None),
        ("camera", 0, 5.0, 6.0, 7.0, 8.0, None, None, None, None, None, None),
        ("camera", 1, 1.0, 2.0, 3.0, 4.5, 0.5, "dog", 7, 0.04, None, None),
        ("camera", 1, 5.0, 6.0, 7.0, 8.0, 0.25, "cat", -1, 0.04, None, None),
    ]
    assert all(isinstance(row[2], float) for row in rows)


@pytest.mark.parametrize("columns", ["", ", pts REAL"])
def test_a_table_of_an_earlier_version_gets_the_columns_that_it_lacks(tmp_path: Path, columns: str) -> None:
    database = sqlite3.connect(tmp_path / "db")
    database.execute(
        f"""
        CREATE TABLE detections (
            origin TEXT NOT NULL, sequence INTEGER NOT NULL, capture_time REAL NOT NULL,
            "left" REAL NOT NULL, top REAL NOT NULL, "right" REAL NOT NULL, bottom REAL NOT NULL,
            score REAL, label TEXT, track_id INTEGER{columns}
        )
        """
    )
    given = ("door", 3, 1.5, 1, 2, 3, 4)
    database.execute(
        f"INSERT INTO detections VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL{', NULL' if columns else ''})", given
    )
    database.commit()
    database.close()
    for _ in range(2):
        run(SqliteWriter(tmp_path / "db"), PLAIN)
    rows = rows_of(tmp_path / "db")
    assert rows[0] == ("door", 3, 1.5, 1.0, 2.0, 3.0, 4.0, *[None] * 6)
    assert [(*row[:2], *row[3:]) for row in rows[1:]] == [("camera", 0, *box, *[None] * 6) for box in BOXES] * 2


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


def test_events_have_lines_and_rows_of_their_own(tmp_path: Path) -> None:
    given: dict[str, Any] = {"rule": "gate", "kind": "dwell", "camera": "yard", "sequence": 7, "started": 1.0}
    begin = DetectionEvent(id="a", phase="start", time=1.0, box=(1.0, 2.0, 3.0, 4.5), track_id=3, more={"speed": NAN}, **given)
    end = DetectionEvent(id="a", phase="end", time=2.0, zone="gate", count=2, **given)
    lines, rows = JsonLinesWriter(tmp_path / "lines"), SqliteWriter(tmp_path / "db")
    for writer in (lines, rows):
        writer.setup()
        writer.main_logic([begin, end])
        writer.main_logic(begin)
        writer.main_logic([])
        with pytest.raises(TypeError):
            writer.main_logic([begin, "end"])  # type: ignore[list-item]
        writer.cleanup()
    told = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert told == [{**begin.to_dict(), "more": {"speed": None}}, end.to_dict(), {**begin.to_dict(), "more": {"speed": None}}]
    database = sqlite3.connect(tmp_path / "db")
    found = database.execute(
        'SELECT phase, time, "left", bottom, track_id, zone, count, more FROM events ORDER BY time'
    ).fetchall()
    database.close()
    assert found == [
        ("start", 1.0, 1.0, 4.5, 3, None, None, '{"speed": null}'),
        ("end", 2.0, None, None, None, "gate", 2, None),
    ]


# ---- what can't be written as it is --------------------------------------------------------------

ODD_BOXES: list[list[float]] = [[1, 2, 3, 4], [NAN, 0, 5, 5], [5, 6, 7, 8], [0, 0, INF, 5], [0, -INF, 1, 1]]
ODD = Detections(
    ODD_BOXES,
    [0.5, 0.5, NAN, 0.5, 0.5],
    [0, 0, 1, 0, 0],
    ("cat", "dog"),
    [1, 2, 3, 4, 5],
)


def strictly(line: str) -> Any:
    """As RFC 8259 has it: Python itself would take NaN."""
    return json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


def with_more(found: Detections, **more: Any) -> DetectedFrame:
    data = DetectedFrame(grey(0), found)
    data.additional_data.update(more)
    return data


def test_finds_that_are_not_finite_are_left_out_and_counted_and_the_others_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines, rows = JsonLinesWriter(tmp_path / "lines", "lines"), SqliteWriter(tmp_path / "db", "rows")
    for writer in (lines, rows):
        run(writer, ODD, DetectedFrame(grey(0), ODD), PLAIN)
        assert dict(writer.counters) == {"not_finite": 6}
    for line in lines.path.read_text().splitlines()[:2]:
        said = strictly(line)
        assert said["boxes"] == [[1, 2, 3, 4], [5, 6, 7, 8]]
        assert (said["scores"], said["labels"], said["track_ids"]) == ([0.5, None], ["cat", "dog"], [1, 3])
    assert [row[3:10] for row in rows_of(rows.path)[:2]] == [(1, 2, 3, 4, 0.5, "cat", 1), (5, 6, 7, 8, None, "dog", 3)]
    assert len(rows_of(rows.path)) == 2 + 2 + len(BOXES)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2, "one for each writer"
    assert (
        warnings[0]
        == "3 of 5 boxes are not finite, such as [nan, 0.0, 5.0, 5.0]: these are left out, and counted as not_finite"
    )


def test_additional_data_is_written_with_the_finds(tmp_path: Path) -> None:
    more = {"weather": "fog", "zone": (1, 2), "speed": np.float32(2.5), "heat": np.array([[1, 2]]), "nothing": None}
    as_json = {"weather": "fog", "zone": [1, 2], "speed": 2.5, "heat": [[1, 2]], "nothing": None}
    lines, rows = JsonLinesWriter(tmp_path / "lines"), SqliteWriter(tmp_path / "db")
    for writer in (lines, rows):
        run(writer, with_more(FULL, **more), with_more(Detections([]), **more), DetectedFrame(grey(0), FULL))
    said = [strictly(line) for line in lines.path.read_text().splitlines()]
    assert [line.get("additional_data") for line in said] == [as_json, as_json, None]
    written = [row[-2] for row in rows_of(rows.path)]
    assert [None if value is None else strictly(value) for value in written] == [as_json, as_json, None, None]


def endless() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (NAN, None),
        ({"a": [INF, np.float64(NAN)]}, {"a": [None, None]}),
        ({1: True, ("a", 2): "b"}, {"1": True, "('a', 2)": "b"}),
        (np.arange(3), [0, 1, 2]),
        (np.zeros((1080, 1920), np.uint8), "array of shape (1080, 1920), uint8"),
        (np.array([object]), "array of shape (1,), object"),
        (np.datetime64("2026-01-01"), "np.datetime64('2026-01-01')"),
        (b"x", "b'x'"),
        (2j, "2j"),
        ("\ud800", "\ud800"),
        (Path("x"), "PosixPath('x')"),
    ],
)
def test_what_json_has_nothing_like_is_written_as_a_text(value: Any, expected: Any) -> None:
    assert strictly(json.dumps(jsonable(value), allow_nan=False)) == expected


def test_what_has_no_end_or_is_long_is_cut() -> None:
    assert len(json.dumps(jsonable(endless()))) < 100
    assert len(jsonable(list(range(100_000)))) < 300


@pytest.mark.parametrize("make", [JsonLinesWriter, SqliteWriter])
def test_what_is_no_find_is_refused(tmp_path: Path, make: Callable[[Path], JsonLinesWriter | SqliteWriter]) -> None:
    writer = make(tmp_path / "file")
    writer.setup()
    with pytest.raises(TypeError, match="a DetectedFrame or Detections are needed, not a ndarray: wire a detector before"):
        writer.main_logic(grey(0))  # type: ignore[arg-type]
    writer.cleanup()
