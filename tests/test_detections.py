"""What detections carry besides boxes: keypoints, corners, masks, further columns. All of it goes wherever they go."""

from __future__ import annotations

import json
import pickle
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipert_shm.video import Annotator, DetectedFrame, Detections, JsonLinesWriter, Placement, SqliteWriter
from pipert_shm.video.recorded import json_from_payload, payload_from_json


def everything() -> Detections:
    """Two detections with all that there can be; the first one's mask is the left half of its box."""
    masks = np.zeros((2, 10, 10), np.uint8)
    masks[0, :, :5] = 255
    masks[1] = 255
    return Detections(
        [[10, 20, 50, 60], [100, 40, 120, 80]],
        scores=[0.9, 0.5],
        class_ids=[0, 1],
        names=("cat", "dog"),
        track_ids=[7, -1],
        keypoints=np.array([[[12, 22, 1], [30, 30, 0.25]], [[101, 41, 1], [102, 42, 1]]]),
        corners=[[[10, 20], [50, 20], [50, 60], [10, 60]], [[100, 60], [110, 40], [120, 60], [110, 80]]],
        masks=masks,
        data={"plate": ["AB 1", "CD 2"], "speed": np.array([1.5, np.nan])},
    )


def columns(found: Detections) -> dict[str, Any]:
    more = {name: column.tolist() for name, column in found.data.items() if name != "speed"}
    names = ("boxes", "scores", "class_ids", "track_ids", "keypoints", "corners", "masks")
    return more | {name: None if getattr(found, name) is None else getattr(found, name).tolist() for name in names}


def test_selected_detections_keep_all_that_belongs_to_them() -> None:
    found = everything()
    for rows in (np.array([False, True]), [1], slice(1, None), found.boxes[:, 0] > 50):
        one = found.select(rows)
        assert (one.labels, one.data["plate"].tolist(), len(one)) == (["dog"], ["CD 2"], 1)
        assert np.all(one.masks == 255)
    assert found.select([1, 0]).labels == ["dog", "cat"]
    assert columns(found.select([])) == columns(found.select(slice(0, 0)))
    assert found.of_classes(["dog", 0]).labels == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"there is no class 'cow'; these are \['cat', 'dog'\]"):
        found.of_classes(["cow"])
    with pytest.raises(ValueError, match="these detections have no classes"):
        Detections([[0, 0, 1, 1]]).of_classes(["cat"])


def test_moved_and_scaled_ones_are_for_the_same_picture_elsewhere() -> None:
    found = everything().scaled(2, 0.5).moved(1, -1)
    assert found.boxes[0].tolist() == [21, 9, 101, 29]
    assert found.keypoints is not None
    assert found.keypoints[0].tolist() == [[25, 10, 1], [61, 14, 0.25]], "how likely they are seen stays"
    assert found.corners is not None
    assert found.corners[1].tolist() == [[201, 29], [221, 19], [241, 29], [221, 39]]
    assert everything().moved(0, 0).boxes is not everything().boxes


def test_a_mask_is_stretched_over_its_box() -> None:
    found = everything()
    whole = found.mask(0, (100, 200, 3))
    assert np.argwhere(whole).min(axis=0).tolist() == [20, 10]
    assert np.argwhere(whole).max(axis=0).tolist() == [59, 29], "the left half of the box"
    assert whole.sum() == 40 * 20
    (line,) = found.outlines(0)
    assert abs(line - [20, 40]).max(axis=0).tolist() == pytest.approx([10, 20], abs=2)
    with pytest.raises(ValueError, match="these detections have no masks"):
        Detections([[0, 0, 1, 1]]).mask(0, (4, 4))


def test_a_box_that_is_cut_off_keeps_the_mask_of_what_is_left() -> None:
    before, clipped = everything(), everything().clipped(200, 40)
    assert clipped.boxes[0].tolist() == [10, 20, 50, 40]
    assert (clipped.mask(0, (40, 200)) == before.mask(0, (100, 200))[:40]).all()
    moved = everything().moved(-20, 0)
    assert (moved.clipped(200, 100).mask(0, (100, 200)) == moved.mask(0, (100, 200))).all(), "a part lies outside"
    assert not Detections([[np.nan, 0, 5, 5]], masks=np.ones((1, 4, 4), bool)).clipped(9, 9).mask(0, (9, 9)).any()


def test_detections_come_back_from_the_networks_input() -> None:
    found = Detections([[100, 140, 740, 500]], keypoints=[[[320, 320, 1]]], masks=np.ones((1, 8, 8), bool))
    restored = Placement((1280, 720), (0, 140, 640, 500), (0.5, 0.5)).restored(found)
    assert restored.boxes.tolist() == [[200, 0, 1280, 720]]
    assert restored.keypoints is not None
    assert restored.keypoints.tolist() == [[[640, 360, 1]]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keypoints": [[1, 2, 3]]}, r"keypoints has the shape \(1, 3\); with 1 boxes \(1, any, 3\) is needed"),
        ({"keypoints": [[[1, 2]]]}, r"keypoints has the shape \(1, 1, 2\)"),
        ({"corners": np.zeros((1, 3, 2))}, r"corners has the shape \(1, 3, 2\); with 1 boxes \(1, 4, 2\) is needed"),
        ({"masks": np.zeros((2, 4, 4), np.uint8)}, r"masks has the shape \(2, 4, 4\)"),
        ({"masks": np.zeros((1, 4, 4))}, "masks are uint8 from 0 to 255, or bool, not float64"),
        ({"data": {"plate": ["a", "b"]}}, r"data\['plate'\] has the shape \(2,\); it needs a row for each of the 1 boxes"),
        ({"data": {"plate": [object()]}}, "data has columns of numbers or texts by their names; 'plate' has object"),
    ],
)
def test_columns_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detections([[0, 0, 1, 1]], **given)


def test_all_of_it_goes_through_pickles_recordings_and_to_other_hosts() -> None:
    found = everything()
    assert columns(pickle.loads(pickle.dumps(found))) == columns(found)
    plain, arrays = json_from_payload(DetectedFrame(np.zeros((8, 8, 3), np.uint8), found))
    assert columns(payload_from_json(plain, arrays).detections) == columns(found)
    plain, _ = json_from_payload(Detections([[0, 0, 1, 1]], scores=[0.5]))
    assert len(json.loads(plain)["$Detections"]) == 5, "which earlier versions read"


def test_a_pickle_of_an_earlier_version_is_read() -> None:
    found = Detections([[0, 0, 1, 1]])
    old: Detections = object.__new__(Detections)
    for name in ("boxes", "scores", "class_ids", "names", "track_ids"):
        setattr(old, name, getattr(found, name))
    assert (old.keypoints, old.corners, old.masks, old.data) == (None, None, None, {})
    assert old.select([0]).boxes.tolist() == [[0, 0, 1, 1]]
    with pytest.raises(AttributeError, match="'Detections' object has no attribute 'colour'"):
        old.colour  # type: ignore[attr-defined]  # noqa: B018


def test_supervision_gets_it_and_gives_it_back() -> None:
    found = everything()
    theirs = found.to_supervision((100, 200))
    assert theirs.mask is not None
    assert (theirs.mask[0] == found.mask(0, (100, 200))).all()
    assert np.asarray(theirs.data["xyxyxyxy"]).shape == (2, 4, 2)
    assert columns(Detections.from_supervision(theirs, found.names)) == columns(found)
    assert Detections.from_supervision(theirs).labels == ["cat", "dog"], "names are in its data"
    one = theirs[theirs.class_id == 1]
    assert isinstance(one, type(theirs))
    assert Detections.from_supervision(one).data["plate"].tolist() == ["CD 2"]
    theirs.data.pop("masks_in_boxes")
    of_whole = Detections.from_supervision(theirs)
    assert (of_whole.mask(0, (100, 200)) ^ found.mask(0, (100, 200))).sum() < 10, "made of its whole masks"
    assert found.to_supervision().mask is None


def test_keypoints_of_supervision() -> None:
    found = everything()
    points = found.to_key_points()
    assert points.xy.tolist()[0] == [[12, 22], [30, 30]]
    again = Detections.from_supervision(points)
    assert again.keypoints is not None
    assert again.keypoints.tolist() == np.asarray(found.keypoints).tolist()
    assert (again.boxes.tolist(), again.labels) == ([[12, 22, 30, 30], [101, 41, 102, 42]], ["cat", "dog"])
    with pytest.raises(ValueError, match="these detections have no keypoints"):
        Detections([]).to_key_points()


def test_writers_write_all_of_it(tmp_path: Path) -> None:
    data = DetectedFrame(np.zeros((100, 200, 3), np.uint8), everything())
    lines, base = JsonLinesWriter(tmp_path / "lines.jsonl"), SqliteWriter(tmp_path / "base.sqlite")
    for writer in (lines, base):
        writer.setup()
        writer.main_logic(data)
        writer.cleanup()
    line = json.loads((tmp_path / "lines.jsonl").read_text())
    assert line["keypoints"][0] == [[12, 22, 1], [30, 30, 0.25]]
    assert line["corners"][1][0] == [100, 60]
    assert line["data"] == [{"plate": "AB 1", "speed": 1.5}, {"plate": "CD 2", "speed": None}]
    assert len(line["outlines"][0][0]) >= 4
    with sqlite3.connect(tmp_path / "base.sqlite") as database:
        rows = [json.loads(more) for (more,) in database.execute("SELECT more FROM detections")]
    database.close()
    assert [row["data"]["plate"] for row in rows] == ["AB 1", "CD 2"]
    assert rows[0]["outlines"] == line["outlines"][0]


def test_the_annotator_draws_what_there_is() -> None:
    plain = Annotator().main_logic(DetectedFrame(np.zeros((100, 200, 3), np.uint8), Detections(everything().boxes)))
    drawn = Annotator().main_logic(DetectedFrame(np.zeros((100, 200, 3), np.uint8), everything()))
    assert plain.frame[41, 101].tolist() == [0, 255, 0], "a box"
    assert drawn.frame[42, 102].tolist() == [0, 128, 255], "a keypoint"
    assert drawn.frame[50, 100].tolist() != [0, 255, 0], "the turned box, and not the one around it"
    assert drawn.frame[40, 29].tolist() == [255, 128, 0], "the mask's right edge"
