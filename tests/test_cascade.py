"""Do a second detector, and tiles, find what is there, where it is, and without copying frames?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from media import Beginning, carphone, centerface, frames_of
from pipert_shm import (
    START_EVENT_NAME,
    Cascade,
    CenterFaceHead,
    DetectedFrame,
    Detections,
    Detector,
    DnnDetector,
    Pipe,
    Tiles,
    Wire,
)
from pipert_shm.testing import RoutineHarness
from pipert_shm.video.formats import from_bgr
from pipert_shm.video.models.joining import concatenated
from pipert_shm.video.models.parts import part_around
from pipert_shm.video.models.tiles import joined, starts
from routines import Record, received

BLUE, GREEN = (255, 0, 0), (0, 255, 0)


class Spots(Detector):
    """Finds each blot of a colour, as a box of all that is not black in it."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.seen: list[np.ndarray] = []

    def detect(self, frame: np.ndarray) -> Detections:
        self.seen.append(frame)
        found = []
        for number, channel in enumerate((0, 1)):
            rows, columns = np.nonzero(frame[..., channel] > 100)
            if rows.size:
                found.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, rows.size, number))
        table = np.array(found, np.float32).reshape(-1, 6)
        return Detections(table[:, :4], table[:, 4] / 10_000, table[:, 5], ["blue", "green"])


def picture(*blots: tuple[int, int, int, int, tuple[int, int, int]], size: tuple[int, int] = (200, 300)) -> np.ndarray:
    frame = np.zeros((*size, 3), np.uint8)
    for left, top, right, bottom, colour in blots:
        frame[top:bottom, left:right] = colour
    return frame


CARS = Detections(
    [[0, 0, 100, 100], [100, 0, 200, 100], [0, 150, 50, 200]], [0.9, 0.8, 0.7], [2, 2, 0], ["person", "dog", "car"]
)
TWO = picture((10, 20, 30, 40, BLUE), (120, 30, 130, 35, GREEN), (10, 160, 20, 170, BLUE))


def test_the_best_result_stands_in_the_row_of_its_box() -> None:
    spots = Spots()
    cascade = Cascade(spots, "plates", classes=["car"], column="plate")
    (sent,) = cascade.main_logic([DetectedFrame(TWO, CARS)])
    found = sent.detections
    assert found.data["plate_label"].tolist() == ["blue", "green", ""]
    assert found.data["plate_box"][:2].tolist() == [[10, 20, 30, 40], [120, 30, 130, 35]]
    assert np.isnan(found.data["plate_box"][2]).all()
    assert np.isnan(found.data["plate_score"][2])
    assert sent.frame is TWO
    assert all(np.shares_memory(part, TWO) for part in spots.seen)
    assert "plate_label" not in CARS.data
    assert cascade.counters["looked_at"] == 2


def test_all_results_are_detections_that_know_whose_they_are() -> None:
    both = picture((10, 20, 30, 40, BLUE), (50, 20, 60, 40, GREEN), (120, 30, 130, 35, GREEN))
    (sent,) = Cascade(Spots(), classes=["car"], keep="all").main_logic([DetectedFrame(both, CARS)])
    found = sent.detections
    assert found.labels == ["car", "car", "person", "blue", "green", "green"]
    assert found.data["id"].tolist() == list(range(6))
    assert found.data["parent"].tolist() == [-1, -1, -1, 0, 0, 1]
    (third,) = Cascade(Spots(), classes=["blue"], keep="all").main_logic([sent])
    assert third.detections.labels[-1] == "blue"
    assert third.detections.data["parent"].tolist()[-1] == 3
    assert third.detections.data["id"].tolist() == list(range(7))


def test_what_is_too_small_or_too_much_is_counted() -> None:
    boxes = Detections(
        [[0.0, 0.0, 10.0, 100.0], [0.0, 0.0, 40.0, 40.0], [50.0, 50.0, 90.0, 90.0], [0.0, 0.0, np.nan, 9.0]],
        [0.1, 0.2, 0.9, 0.9],
    )
    cascade = Cascade(Spots(), most=2, smallest=20)
    cascade.main_logic([DetectedFrame(TWO, boxes)])
    assert {name: cascade.counters[name] for name in ("looked_at", "too_small", "too_many")} == {
        "looked_at": 2,
        "too_small": 0,
        "too_many": 1,
    }
    cascade.main_logic([DetectedFrame(TWO, boxes.select([0]))])
    assert cascade.counters["too_small"] == 1


@pytest.mark.parametrize("format", ["i420", "nv12"])
def test_boxes_of_a_planar_frame(format: str) -> None:
    frame = from_bgr(picture((20, 20, 40, 40, BLUE)), format)  # type: ignore[arg-type]
    found = Detections([[11, 11, 61, 61]])
    with RoutineHarness(Cascade(Spots(), "cascade")) as harness:
        sent = harness.send(DetectedFrame(frame, found), format=format)  # type: ignore[arg-type]
    assert np.abs(sent.detections.data["second_box"][0] - (20, 20, 40, 40)).max() <= 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep": "some"}, "unknown keep"),
        ({"margin": -1}, "margin is a share"),
        ({"classes": "car"}, "classes are a list"),
        ({"column": ""}, "column is what"),
        ({"most": 0}, "most must be"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Cascade(Spots(), **settings)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="another Detector"):
        Cascade(len)  # type: ignore[arg-type]


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(ValueError, match="lorry"):
        Cascade(Spots(), classes=["lorry"]).main_logic([DetectedFrame(TWO, CARS)])


# ---- tiles ---------------------------------------------------------------------------------------


def test_an_object_on_the_edge_of_tiles_is_one() -> None:
    pytest.importorskip("supervision")
    frame = picture((90, 40, 120, 60, BLUE), (250, 150, 260, 160, GREEN))
    spots = Spots()
    tiles = Tiles(spots, size=(100, 100), overlap=0.1, whole=False)
    tiles.setup()
    (sent,) = tiles.main_logic([frame])
    found = sent.detections
    assert sorted(zip(found.labels, found.boxes.tolist(), strict=True)) == [
        ("blue", [90, 40, 120, 60]),
        ("green", [250, 150, 260, 160]),
    ]
    assert tiles.counters["tiles"] == len(spots.seen) == 4 * 3
    assert all(np.shares_memory(part, frame) for part in spots.seen)


def test_a_small_frame_is_one_tile() -> None:
    pytest.importorskip("supervision")
    spots = Spots()
    tiles = Tiles(spots, size=(640, 640))
    tiles.setup()
    tiles.main_logic([TWO])
    assert [part.shape for part in spots.seen] == [TWO.shape]


@given(st.integers(1, 5000), st.integers(2, 1500), st.floats(0, 0.9), st.sampled_from([1, 2]))
def test_tiles_cover_everything(length: int, tile: int, overlap: float, step: int) -> None:
    length, tile = length * step, tile * step
    begins = starts(length, tile, overlap, step)
    ends = [min(begin + tile, length) for begin in begins]
    assert begins[0] == 0
    assert ends[-1] == length
    assert all(begin % step == 0 for begin in begins)
    assert all(following <= end for end, following in zip(ends, begins[1:], strict=False))


@given(st.lists(st.tuples(*[st.floats(-50, 400)] * 4), max_size=6), st.sampled_from(["bgr", "i420"]))
def test_a_part_lies_in_the_frame(boxes: Sequence[tuple[float, float, float, float]], format: str) -> None:
    for left, top, right, bottom in boxes:
        part = part_around((left, top, right, bottom), (300, 200), format)  # type: ignore[arg-type]
        if part is None:
            continue
        assert 0 <= part[0] < part[0] + part[2] <= 300
        assert 0 <= part[1] < part[1] + part[3] <= 200
        assert part[0] <= max(0, left)
        assert part[0] + part[2] >= min(300, right)


def test_joining_keeps_what_belongs_to_the_best() -> None:
    pytest.importorskip("supervision")
    found = Detections(
        [[0, 0, 10, 10], [0, 0, 10, 30], [0, 0, 10, 10]], [0.9, 0.5, 0.4], [0, 0, 1], data={"plate": ["a", "b", "c"]}
    )
    one = joined(found, 0.5)
    assert sorted(zip(one.data["plate"].tolist(), one.boxes.tolist(), strict=True)) == [
        ("a", [0, 0, 10, 30]),
        ("c", [0, 0, 10, 10]),
    ]


def test_columns_that_some_lack() -> None:
    with_masks = Detections([[0, 0, 4, 4]], masks=np.full((1, 2, 2), 7, np.uint8), keypoints=np.zeros((1, 1, 3)))
    others = Detections([[1, 1, 2, 2]], masks=np.full((1, 4, 4), 9, np.uint8), keypoints=np.zeros((1, 3, 3)), track_ids=[5])
    both = concatenated([with_masks, others, Detections([])])
    assert both.masks is not None
    assert both.keypoints is not None
    assert both.masks.tolist() == [np.full((4, 4), 7).tolist(), np.full((4, 4), 9).tolist()]
    assert both.track_ids is not None
    assert both.track_ids.tolist() == [-1, 5]
    assert np.isnan(both.keypoints[0, 1:]).all()
    assert concatenated([]).boxes.shape == (0, 4)
    with pytest.raises(ValueError, match="can't be joined"):
        concatenated([Detections([[0, 0, 1, 1]], data={"a": [1]}), Detections([[0, 0, 1, 1]], data={"a": [[1, 2]]})])


# ---- with a real network -------------------------------------------------------------------------


def square(data: DetectedFrame) -> tuple[object, ...]:
    found = data.detections
    return (found.labels, found.boxes.tolist(), found.data["parent"].tolist())


class Squares(Detector):
    """Finds the left and the right half."""

    def detect(self, frame: np.ndarray) -> Detections:
        height, width = frame.shape[:2]
        halves = [[0, 0, width // 2, height], [width // 2, 0, width, height]]
        return Detections(halves, [1, 1], [0, 1], ["left", "right"])


def test_a_real_network_behind_another_detector_in_a_pipe(tmp_path: Path) -> None:
    """What it finds in the halves of pictures of a face is what it finds in them when they are cut out by hand."""
    camera, first = Beginning(carphone(), 6, "camera"), Squares("squares")
    inner = DnnDetector(centerface(), CenterFaceHead(threshold=0.2), size=(96, 160), batch_size=4, backend="opencv")
    cascade = Cascade(inner, "faces", keep="all", batch_size=3)
    record = Record("record", tmp_path / "got", square)
    with Pipe(policy="block") as pipe:
        pipe.create_flow("camera", False, camera)
        pipe.create_flow("detect", True, first, cascade)
        pipe.create_flow("record", False, record)
        pipe.link(Wire(camera, first), Wire(cascade, record))
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        pipe.join()
        statistics = pipe.statistics().routines
        assert statistics["faces"].counters["looked_at"] == 12
        assert statistics["faces"].counters["opencv"] == 1
        assert statistics["camera"].copied_bytes == statistics["squares"].copied_bytes == 0
    alone = DnnDetector(centerface(), CenterFaceHead(threshold=0.2), size=(96, 160), backend="opencv")
    alone.setup()
    faces = 0
    for frame, message in zip(frames_of(carphone(), 6), received(tmp_path / "got"), strict=True):
        halves = Squares().detect(frame).boxes.astype(int).tolist()
        expected = [
            found.moved(left, top).boxes.tolist()
            for left, top, right, bottom in halves
            for found in alone.detect([frame[top:bottom, left:right]])
        ]
        labels, boxes, parents = message.value
        assert boxes[2:] == [box for its in expected for box in its]
        assert parents == [-1, -1, *(number for number, its in enumerate(expected) for _ in its)]
        assert labels[2:] == ["face"] * len(boxes[2:])
        faces += len(boxes) - 2
    assert faces >= 6
