"""Who is in which zone, and for how long; who crosses a line; and what `supervision` says of the same tracks."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from media import frames_of, vtest
from pipert_shm import Annotator, Zones
from pipert_shm.analytics.areas import Area
from pipert_shm.analytics.geometry import Polygon, anchors_of
from pipert_shm.analytics.kept import Kept, Tallies
from pipert_shm.analytics.movement import MOST_TRACKS, Heat, Sides, Speeds, Stays
from pipert_shm.api.preview import picture_of
from pipert_shm.testing import RoutineHarness
from pipert_shm.video import DetectedFrame, Detections, MotionDetector, Tracker
from walking import FRAME, at, seen

RIGHT = {"polygon": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]}
UP = {"points": [[0.5, 1], [0.5, 0]], "anchor": "centre"}


def zones_of(sent: DetectedFrame) -> dict[str, Any]:
    told: dict[str, Any] = sent.additional_data["zones"]
    return told


def watched(*frames: tuple[float, dict[int, float]], **settings: Any) -> list[dict[str, Any]]:
    """What is told of each frame, given by its time and its tracks."""
    settings = {"zones": {"yard": {"right": RIGHT}}, "lines": {"yard": {"up": UP}}, **settings}
    zones = Zones("zones", **settings)
    zones.setup()
    told = []
    for number, (seconds, tracks) in enumerate(frames):
        at(zones, seconds, number)
        told.append(zones_of(zones.main_logic(seen(tracks))))
    return told


# ---- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zones": []}, "zones: a mapping of cameras"),
        ({"zones": {"yard": [1]}}, "the zones of camera 'yard'"),
        ({"zones": {"yard": {"gate": {}}}}, "zone 'gate' of camera 'yard' lacks polygon"),
        ({"zones": {"yard": {"gate": {"polygn": []}}}}, "takes no 'polygn'; it takes: .*polygon"),
        ({"zones": {"yard": {"gate": {"polygon": [[0, 0], [1, 1], [2, 2]]}}}}, "zone 'gate'.* lie on one line"),
        (
            {"zones": {"yard": {"gate": {"polygon": [[0, 0], [1, "a"], [2, 2]]}}}},
            "zone 'gate'.* pairs of numbers.* not \\[1, 'a'\\]",
        ),
        ({"zones": {"yard": {"gate": {**RIGHT, "labels": "person"}}}}, "zone 'gate'.* list of class names.* not 'person'"),
        ({"zones": {"yard": {"gate": {**RIGHT, "labels": []}}}}, "zone 'gate'.* nothing would ever count"),
        ({"zones": {"yard": {"gate": {**RIGHT, "anchor": "bottom_center"}}}}, "did you mean 'bottom_centre'"),
        ({"lines": {"yard": {"door": {"points": [[0, 0], [0, 0]]}}}}, "line 'door' of camera 'yard': .* two different points"),
        (
            {"ground": {"yard": {"points": [[0, 0]] * 4, "metres": [[0, 0]] * 4}}},
            "the ground of camera 'yard': points are four",
        ),
        ({"heat_map": 0}, "heat_map must be a number of seconds, more than 0"),
        ({"clock": "wall"}, "unknown clock 'wall'"),
    ],
)
def test_a_wrong_setting_is_told_by_camera_and_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Zones("zones", **settings)


def test_settings_are_told_as_they_can_be_given_again() -> None:
    zones = Zones("zones", zones={"yard": {"right": {**RIGHT, "labels": ["person"]}}}, lines={"yard": {"up": UP}})
    assert zones.settings == Zones("again", **zones.settings).settings
    assert zones.settings["zones"]["yard"]["right"]["labels"] == ["person"]


# ---- zones ---------------------------------------------------------------------------------------


def test_a_stay_is_measured_by_capture_time_and_bridges_a_lost_track() -> None:
    told = watched((0, {1: 60}), (0.5, {1: 70}), (1.5, {}), (2.5, {1: 70}), (3, {1: 20}), (5.1, {}), (5.2, {1: 70}))
    assert [its["zones"]["right"].get("seconds") for its in told] == [[0.0], [0.5], [], [2.5], [], [], [0.0]]


def test_a_stall_of_the_camera_is_no_stay() -> None:
    told = watched((0, {1: 60}), (1, {1: 60}), (600, {1: 60}), (599, {1: 60}), (600, {1: 60}))
    assert [its["zones"]["right"]["seconds"] for its in told] == [[0.0], [1.0], [3.0], [3.0], [4.0]]


def test_shares_fit_frames_of_any_size_and_format() -> None:
    with RoutineHarness(Zones("zones", zones={"yard": {"right": RIGHT}})) as harness:
        large = harness.send(seen({1: 150, 2: 90}, frame=np.zeros((150, 200), np.uint8)), origin="yard", format="i420")
        small = harness.send(seen({1: 150, 2: 90}), origin="yard")
    assert zones_of(large)["zones"]["right"] == {
        "polygon": [[100, 0], [200, 0], [200, 100], [100, 100]],
        "rows": [0],
        "seconds": [0.0],
    }
    assert zones_of(small)["zones"]["right"]["rows"] == [1]


def test_cameras_are_not_mixed_and_labels_choose() -> None:
    zones = Zones("zones", zones={"yard": {"right": {**RIGHT, "labels": ["car"]}}, "door": {"right": RIGHT}})
    zones.setup()
    told = {}
    for number, camera in enumerate(("yard", "door", "hall")):
        at(zones, 1.0, number, camera)
        told[camera] = zones_of(zones.main_logic(seen({1: 70, 2: 80}, cars=(2,))))["zones"]
    assert {camera: {name: its["rows"] for name, its in zone.items()} for camera, zone in told.items()} == {
        "yard": {"right": [1]},
        "door": {"right": [0, 1]},
        "hall": {},
    }
    assert dict(zones._tallies) == {
        ("entered", "yard", "right", "car"): 1,
        ("inside", "yard", "right", "car"): 1,
        ("entered", "door", "right", "person"): 1,
        ("entered", "door", "right", "car"): 1,
        ("inside", "door", "right", "person"): 1,
        ("inside", "door", "right", "car"): 1,
    }


def test_boxes_that_are_not_finite_and_detections_without_tracks() -> None:
    found = Detections(np.array([[np.nan] * 4, [60, 0, 70, 50]]))
    zones = Zones("zones", zones={"yard": {"right": RIGHT}})
    zones.setup()
    at(zones, 1.0)
    assert zones_of(zones.main_logic(DetectedFrame(FRAME, found)))["zones"]["right"]["rows"] == [1]
    zones.set_zones("yard", lines={"up": UP})
    with pytest.raises(TypeError, match="lines of camera 'yard' need track ids: wire a Tracker before 'zones'"):
        zones.main_logic(DetectedFrame(FRAME, found))


def test_zones_are_set_while_it_runs_and_outlive_its_run() -> None:
    zones = Zones("zones", zones={"yard": {"right": RIGHT}}, lines={"yard": {"up": UP}})
    with RoutineHarness(zones) as harness:
        harness.send(seen({1: 70}), origin="yard")
        harness.notify("set_zones", camera="yard", zones={"left": {"polygon": [[0, 0], [50, 0], [50, 100]]}})
        told = zones_of(harness.send(seen({1: 45}), origin="yard"))
        assert ([*told["zones"]], [*told["lines"]]) == (["left"], ["up"])
        assert told["lines"]["up"]["in"] == {"person": 1}  # the line has not changed, and knows on which side the track was
        with pytest.raises(ValueError, match="zone 'left' of camera 'yard'"):
            zones.set_zones("yard", zones={"left": {"polygon": []}})
    with RoutineHarness(zones) as harness:
        assert [*zones_of(harness.send(seen({1: 20}), origin="yard"))["zones"]] == ["left"]


# ---- lines, speeds, heat --------------------------------------------------------------------------


def test_a_crossing_is_seen_although_the_track_was_lost_meanwhile() -> None:
    told = watched((0, {1: 40}), (0.5, {}), (1, {}), (1.5, {1: 60}), (2, {1: 40}), (4.1, {}), (4.2, {1: 60}))
    assert [its["lines"]["up"]["crossed"] for its in told] == [[], [], [], [[0, "out"]], [[0, "in"]], [], []]
    assert (told[-1]["lines"]["up"]["in"], told[-1]["lines"]["up"]["out"]) == ({"person": 1}, {"person": 1})


def test_a_speed_is_taken_over_a_second_on_the_ground() -> None:
    ground = {"yard": {"points": [[0, 0], [1, 0], [1, 1], [0, 1]], "metres": [[0, 0], [10, 0], [10, 10], [0, 10]]}}
    steps = [(number / 10, {1: 10 + 2 * number + (number % 2) / 2}) for number in range(21)]  # 2 m/s, and a trembling box
    speeds = [its["speeds"][0] for its in watched(*steps, ground=ground)]
    assert speeds[:4] == [None] * 4
    assert speeds[10:] == pytest.approx([2.0] * 11, abs=0.06)


def test_the_heat_map_fades_and_does_not_grow() -> None:
    heat = Heat(10.0)
    for number in range(100):
        told = heat.look(np.array([[15.0, 50.0]]), (100, 100), number / 10)
    assert told.shape == (36, 64)
    assert divmod(int(told.argmax()), 64) == (18, 9)
    for number in range(100):
        told = heat.look(np.array([[85.0, 50.0], [np.nan, 1.0], [500.0, 1.0]]), (100, 100), 40 + number / 10)
    assert divmod(int(told.argmax()), 64) == (18, 54)
    assert 0 < told[18, 9] < told[18, 54] / 2


def test_what_is_known_of_tracks_is_bounded() -> None:
    stays, sides, speeds = Stays(3600.0), Sides(3600.0), Speeds()
    for start in range(0, 4 * MOST_TRACKS, 1000):
        tracks = range(start, start + 1000)
        stays.look(tracks, 0.0)
        sides.look(tracks, [1] * 1000, 0.0)
        speeds.look(tracks, np.zeros((1000, 2)), 0.0)
    assert len(stays._since) == len(sides._sides) == len(speeds._places) == MOST_TRACKS


def test_metrics_have_a_bound_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    zones = Zones("zones", zones={"yard": {"right": RIGHT}})
    zones._tallies = Tallies(1)
    zones.setup()
    at(zones, 0.0)
    zones.main_logic(seen({1: 70}))
    assert [*zones.labelled()] == [
        ("zone_entered", "Tracks that have come into a zone.", True, {"camera": "yard", "zone": "right", "label": "person"}, 1)
    ]
    assert (zones.counters["entered"], zones.counters["uncounted"]) == (1, 1)
    assert "have room for" in caplog.text


def test_long_names_are_counted_under_shorter_ones_that_differ() -> None:
    tallies = Tallies(3)
    long = ("entered", "摄" * 120, "gate", "person"), ("entered", "摄" * 121, "gate", "person")
    for _ in range(2):
        assert tallies.add(long[0])
        assert tallies.add(long[1], 2)
        assert tallies.put(("inside", "a\ud800", "gate" * 40, ""), 5)
        tallies._places = None  # as in the flow's next process
    told = dict(tallies)
    assert list(told.values()) == [2, 4, 5]
    assert [name[0] for name in told] == ["entered", "entered", "inside"]
    assert all(name[1].startswith("摄" * 28 + "…") for name in [*told][:2])


def test_what_is_kept_is_whole_or_as_before() -> None:
    kept = Kept(20)
    kept.write([1])
    with pytest.raises(ValueError, match="there is room for 20"):
        kept.write(["x" * 20])
    kept._memory[kept._place(2) : kept._place(2) + 8] = bytes(8)  # a write that a death has interrupted
    assert (kept.read(), kept.version) == ([1], 1)


# ---- pictures ------------------------------------------------------------------------------------


def test_zones_and_lines_are_drawn() -> None:
    zones = Zones("zones", zones={"yard": {"right": RIGHT}}, lines={"yard": {"up": UP}}, heat_map=5.0)
    zones.setup()
    at(zones, 0.0)
    sent = zones.main_logic(seen({1: 70}))
    bare = DetectedFrame(sent.frame, sent.detections)
    annotator = Annotator(name="annotator")
    for drawn, plain in (
        (annotator.main_logic(sent).frame, annotator.main_logic(bare).frame),
        (picture_of(sent), picture_of(bare)),
    ):
        assert (drawn[:, 51] != plain[:, 51]).any(axis=1).sum() > 50
        assert not sent.frame.any()


# ---- beside OpenCV and supervision ---------------------------------------------------------------


@pytest.mark.parametrize("anchor", ["bottom_centre", "box"])
def test_boxes_are_inside_of_any_polygon_as_opencv_says_point_by_point(anchor: str) -> None:
    rng = np.random.default_rng(7)
    edges = rng.integers(0, 48, (300, 2))
    boxes = np.hstack([edges, edges + 2 * rng.integers(0, 8, (300, 2))]).astype(np.float32)  # many lie on edges and corners
    boxes[0, 2], boxes[1, 1] = np.nan, np.inf
    inside = 0
    for corners in range(3, 12):
        points = tuple((float(x) + 2, float(y)) for x, y in rng.integers(0, 50, (corners, 2)))
        zone = Polygon(Area(points, None, anchor), (64, 64))
        expected = np.asarray(np.isfinite(boxes).all(axis=1))
        for row in np.flatnonzero(expected):
            its = anchors_of(boxes[row : row + 1], anchor)[0].tolist()
            expected[row] = all(cv2.pointPolygonTest(zone.points, point, False) >= 0 for point in its)
        assert zone.contain(boxes).tolist() == expected.tolist()
        inside += int(expected.sum())
    assert inside > 50
    assert not zone.contain(boxes[:0]).size


def test_tracks_of_a_real_clip_are_where_supervision_says() -> None:
    import supervision as sv

    area = [[115, 85], [270, 90], [260, 260], [120, 250]]
    detector, tracker = MotionDetector("motion", min_area=150), Tracker("tracker")
    zones = Zones(
        "zones",
        zones={"yard": {"area": {"polygon": area}}},
        lines={
            "yard": {
                "box": {"points": [[192, 288], [192, 0]]},
                "centre": {"points": [[192, 288], [192, 0]], "anchor": "centre"},
            }
        },
        lost=0.25,  # theirs forgets a track that is missing in two frames; with 2 s, ours counts those, too
    )
    for routine in (detector, tracker, zones):
        routine.setup()
    ends = sv.Point(192, 288), sv.Point(192, 0)
    theirs = {"box": sv.LineZone(*ends), "centre": sv.LineZone(*ends, triggering_anchors=[sv.Position.CENTER])}
    polygon = sv.PolygonZone(np.array(area))
    differ = found = 0
    for number, frame in enumerate(frames_of(vtest(), 200)):
        data = tracker.main_logic(detector.main_logic(cv2.resize(frame, (384, 288), interpolation=cv2.INTER_AREA)))
        at(zones, number / 10, number)
        told = zones_of(zones.main_logic(data))
        its = data.detections.to_supervision()
        for line in theirs.values():
            line.trigger(its)
        differ += len(set(told["zones"]["area"]["rows"]) ^ set(np.flatnonzero(polygon.trigger(its)).tolist()))
        found += len(told["zones"]["area"]["rows"])

    def counts(count: int) -> dict[str, int]:
        return {"": count} if count else {}

    assert found > 200
    assert differ <= found / 100  # theirs goes by whole pixels
    for name, line in theirs.items():
        assert (told["lines"][name]["in"], told["lines"][name]["out"]) == (counts(line.in_count), counts(line.out_count))
    assert theirs["centre"].in_count + theirs["centre"].out_count > 1
