"""What rules tell of: when something begins and ends, on made tracks, and on any."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipert_shm import DetectionEvent, EventSource, Zones
from pipert_shm.analytics import event_source, watching
from pipert_shm.analytics.kept import Tallies
from pipert_shm.testing import RoutineHarness
from pipert_shm.video import DetectedFrame, Detections
from walking import FRAME, at, seen

RIGHT = {"polygon": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]}
UP = {"points": [[0.5, 1], [0.5, 0]], "anchor": "centre"}
IN, OUT = 70.0, 20.0  # inside of the zone `right`, and outside


class Yard:
    """A camera with a zone and a line, and what the rules tell of it."""

    def __init__(self, *rules: Mapping[str, Any], **settings: Any) -> None:
        self.zones = Zones("zones", zones={"yard": {"right": RIGHT}}, lines={"yard": {"up": UP}})
        self.events = EventSource("events", rules=rules, **settings)
        self.told: list[DetectionEvent] = []
        self.sequence = 0
        self.zones.setup()
        self.events.setup()

    def see(self, seconds: float, tracks: dict[int, float], camera: str = "yard", **how: Any) -> list[DetectionEvent]:
        """What is told of a frame."""
        for routine in (self.zones, self.events):
            at(routine, seconds, self.sequence, camera)
        self.sequence += 1
        told = self.events.main_logic(self.zones.main_logic(seen(tracks, **how))) or []
        self.told += told
        return told

    def run(self, frames: Iterable[tuple[float, dict[int, float]]]) -> list[tuple[float, str, int | None]]:
        """When is told what, of whom."""
        return [(seconds, event.phase, event.track_id) for seconds, tracks in frames for event in self.see(seconds, tracks)]


def rule(kind: str, **settings: Any) -> dict[str, Any]:
    area = {"line": "up"} if kind == "line" else {"zone": "right"}
    return {"name": kind, "kind": kind, **area, **settings}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("enter", "rules are a list of mappings"),
        ([], "rules are empty"),
        ([{"kind": "enter"}], "rule 0: its name must be a text"),
        ([rule("enter"), rule("enter")], "two rules are called 'enter'"),
        ([{"name": "gate", "kind": "entr"}], "unknown kind of rule 'gate' 'entr'.*did you mean 'enter'"),
        ([rule("dwell")], r"rule 'dwell' \(dwell\) lacks seconds"),
        ([rule("line", clear=1)], r"rule 'line' \(line\) takes no 'clear'; it takes: .*direction"),
        ([rule("line", direction="up")], "unknown direction of rule 'line'"),
        ([rule("count")], "lacks at_least or at_most"),
        ([rule("count", at_least=0)], "at_least: 0 always holds"),
        ([rule("count", at_least=3, at_most=2)], "never hold together"),
        ([rule("count", at_least=1.5)], "at_least of rule 'count' .* whole number"),
        ([rule("enter", **{"for": -1})], "for of rule 'enter' .* number of seconds"),
        ([rule("absence", seconds=0)], "seconds of rule 'absence' .* more than 0"),
        ([rule("enter", labels="person")], "rule 'enter' .* list of class names"),
        ([rule("enter", cameras="yard")], "rule 'enter' .* list of names of routines"),
        ([rule("enter", min_score=2)], "min_score of rule 'enter' .* from 0 to 1"),
    ],
)
def test_a_wrong_rule_is_told_by_its_name(rules: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        EventSource("events", rules=rules)


# ---- kinds ---------------------------------------------------------------------------------------


def test_who_enters_has_to_stay_for_a_while_and_may_be_lost_meanwhile() -> None:
    yard = Yard(rule("enter", **{"for": 1.0}))
    passes_by = [(0, {1: IN}), (0.5, {1: OUT})]
    stays = [(1, {1: IN}), (1.5, {}), (2, {1: IN}), (3, {1: IN}), (4, {1: OUT}), (5, {1: IN}), (6, {1: IN})]
    assert yard.run([*passes_by, *stays]) == [(2, "instant", 1), (6, "instant", 1)]
    [event, _] = yard.told
    assert (event.kind, event.zone, event.label, event.camera, event.sequence) == ("enter", "right", "person", "yard", 4)
    assert event.box == (66, 30, 74, 50)


def test_who_leaves_is_gone_for_a_while() -> None:
    yard = Yard(rule("leave", clear=1.0, lost=2.0))
    goes_out_and_back = [(0, {1: IN}), (1, {1: OUT}), (1.5, {1: IN})]
    goes = [(2, {1: OUT}), (3, {1: OUT})]
    assert yard.run([*goes_out_and_back, *goes]) == [(3, "instant", 1)]
    assert yard.told[0].more == {"seconds": 1.5}
    assert yard.run([(3, {2: IN}), (4, {}), (5, {}), (6, {2: IN}), (7, {}), (9, {})]) == [(9, "instant", 2)]


def test_who_dwells_is_told_at_the_start_and_the_end() -> None:
    yard = Yard(rule("dwell", seconds=2.0, clear=0.5, lost=1.0))
    frames = [(0, {1: IN}), (1, {}), (2, {1: IN, 2: IN}), (3, {1: IN, 2: OUT}), (3.5, {1: OUT}), (4, {1: OUT})]
    assert yard.run(frames) == [(2, "start", 1), (4, "end", 1)]
    start, end = yard.told
    assert (end.id, end.started) == (start.id, start.time)
    assert end.time - end.started == pytest.approx(2.0, abs=0.5)
    assert (start.more, end.more) == ({"seconds": 2.0}, {"seconds": 3.0})


def test_a_count_has_to_hold_and_to_be_over() -> None:
    yard = Yard(rule("count", at_least=2, **{"for": 1.0}, clear=1.0))
    two, one = {1: IN, 2: IN, 3: OUT}, {1: IN, 2: OUT}
    frames = [(0, two), (0.5, one), (1, two), (2, two), (2.5, one), (3, two), (4, one), (5, one)]
    assert yard.run(frames) == [(2, "start", None), (5, "end", None)]
    assert [event.count for event in yard.told] == [2, 1]


def test_counts_need_no_tracks_and_labels_choose() -> None:
    events = EventSource("events", rules=[{"name": "cars", "kind": "count", "at_most": 0, "labels": ["car"], "min_score": 0.5}])
    events.setup()
    at(events, 1.0)
    found = Detections([[0, 0, 9, 9]] * 2, [0.4, 0.9], [1, 0], ["person", "car"])
    assert [event.count for event in events.main_logic(DetectedFrame(FRAME, found)) or ()] == [0]


def test_an_absence_is_no_stall() -> None:
    yard = Yard(rule("absence", seconds=5.0, clear=1.0))
    frames = [
        (0, {1: IN}),
        (1, {}),
        (100, {1: OUT}),
        (102, {}),
        (104, {}),
        (105, {1: IN}),
        (105.5, {}),
        (106, {1: IN}),
        (107, {1: IN}),
    ]
    assert yard.run(frames) == [(104, "start", None), (107, "end", None)]


def test_a_line_is_crossed_in_a_direction() -> None:
    frames = [(0, {1: OUT, 2: IN}), (1, {1: IN, 2: OUT})]
    yard = Yard(rule("line", direction="in"))
    assert yard.run(frames) == [(1, "instant", 2)]
    assert (yard.told[0].zone, yard.told[0].more) == ("up", {"direction": "in"})
    assert Yard(rule("line")).run(frames) == [(1, "instant", 1), (1, "instant", 2)]


def test_a_rule_cools_down_and_says_what_it_left_out() -> None:
    yard = Yard(rule("enter", cool_down=3.0), rule("dwell", seconds=1.0, cool_down=3.0))
    frames = [(0, {1: IN, 2: IN}), (1, {1: IN, 2: IN}), (2, {1: IN, 2: IN}), (3, {1: IN, 2: IN}), (4, {1: IN, 2: IN, 3: IN})]
    assert yard.run(frames) == [(0, "instant", 1), (1, "start", 1), (4, "instant", 3), (4, "start", 2)]
    assert yard.events.counters["silenced"] == 1


def test_a_rule_without_a_zone_is_about_the_whole_picture() -> None:
    yard = Yard({"name": "anybody", "kind": "enter"})
    assert yard.run([(0, {1: OUT, -1: IN}), (1, {1: IN, 2: OUT})]) == [(0, "instant", 1), (1, "instant", 2)]


def test_a_video_has_its_own_time() -> None:
    rules = [{"name": "stay", "kind": "dwell", "seconds": 2}]
    with RoutineHarness(EventSource("events", rules=rules, clock="video")) as harness:
        sent = [harness.send(seen({1: IN}), pts=pts) for pts in (10.0, 11.0, 12.0)]
        with pytest.raises(ValueError, match=r"clock: video needs meta\.pts, and 'source' has set none"):
            harness.send(seen({1: IN}))
    assert [bool(one) for one in sent] == [False, False, True]
    assert sent[2][0].more == {"seconds": 2.0, "pts": 12.0}


# ---- what is missing -----------------------------------------------------------------------------


def test_events_that_the_metrics_have_no_room_for_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    events = EventSource("events", rules=[{"name": name, "kind": "count", "at_least": 1} for name in ("one", "two", "three")])
    events._tallies = Tallies(1)
    with RoutineHarness(events) as harness:
        assert len(harness.send(seen({1: IN})) or ()) == 3
    assert (events.counters["started"], events.counters["uncounted"]) == (3, 2)
    assert caplog.text.count("others are counted as uncounted") == 1


def test_a_rule_that_lacks_something_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    yard = Yard(rule("enter"), {"name": "typo", "kind": "enter", "zone": "rihgt", "cameras": ["yard"]})
    assert len(yard.run([(0, {1: IN}), (1, {1: IN})])) == 1
    assert yard.events.counters["unwatched"] == 2
    assert caplog.text.count("rule 'typo' (enter): camera 'yard' has no zone 'rihgt'") == 1
    assert "it has: right" in caplog.text

    events = EventSource(
        "alone", rules=[rule("count", at_least=1), rule("enter"), {"name": "all", "kind": "count", "at_least": 1}]
    )
    events.setup()
    at(events, 0.0)
    [event] = events.main_logic(DetectedFrame(FRAME, Detections([[0, 0, 9, 9]]))) or []
    assert event.rule == "all"
    assert "rule 'count' (count): it is about zone 'right', and nothing tells of any: wire a Zones before" in caplog.text
    assert "rule 'enter' (enter): it needs track ids" in caplog.text
    with pytest.raises(TypeError, match="wire a detector before 'alone'"):
        events.main_logic(FRAME)  # type: ignore[arg-type]


def test_a_clip_is_asked_for_with_each_event(caplog: pytest.LogCaptureFixture) -> None:
    events = EventSource("events", rules=[{"name": "stay", "kind": "dwell", "seconds": 1}], clips=True)
    with RoutineHarness(events) as harness:
        sent = [harness.send(seen(tracks), capture_time=None) for tracks in ({1: IN},)]
        assert sent == [None]
    events.setup()
    at(events, 0.0)
    events.main_logic(seen({1: IN}))
    at(events, 1.0)
    assert events.main_logic(seen({1: IN}))
    assert events.counters["no_clip"] == 1
    assert "no clip is recorded" in caplog.text


# ---- ends that must not be lost --------------------------------------------------------------------


def test_what_has_begun_ends_after_a_restart_of_the_run() -> None:
    yard = Yard(rule("dwell", seconds=1.0))
    yard.run([(0, {1: IN}), (1, {1: IN})])
    yard.events.setup()  # as in a new process, which has the same memory
    assert yard.run([(2, {1: IN}), (3, {1: IN})]) == [(2, "end", 1), (3, "start", 1)]
    assert (yard.told[1].id, yard.told[1].more["ended_by"]) == (yard.told[0].id, "restart")
    yard.events.setup()
    assert [event.phase for event in yard.see(4, {})] == ["end"]
    yard.events.setup()  # a death before the next frame: whether the end was sent is not known
    assert [event.phase for event in yard.see(5, {})] == ["end"]
    yard.events.cleanup()
    yard.events.setup()
    assert yard.see(6, {}) == []


def test_what_has_begun_ends_when_its_rule_or_zone_is_gone() -> None:
    yard = Yard(rule("dwell", seconds=1.0), rule("count", at_least=1))
    yard.run([(0, {1: IN}), (1, {1: IN})])
    yard.events.set_rules([rule("dwell", seconds=1.0)])
    assert [(event.rule, event.phase, event.more) for event in yard.see(2, {1: IN})] == [
        ("count", "end", {"ended_by": "rules"})
    ]
    yard.zones.set_zones("yard", zones={})
    assert [(event.rule, event.more["ended_by"]) for event in yard.see(3, {1: IN})] == [("dwell", "zone")]


def test_what_has_begun_ends_when_its_camera_is_forgotten() -> None:
    events = EventSource("events", rules=[{"name": "anybody", "kind": "count", "at_least": 1}])
    events.setup()
    told = []
    for number in range(65):  # PerOrigin keeps 64
        at(events, 1.0, number, f"camera-{number}")
        told += events.main_logic(seen({1: IN})) or []
    at(events, 2.0, 65, "camera-64")
    told += events.main_logic(seen({1: IN})) or []
    assert [(event.camera, event.more["ended_by"]) for event in told if event.phase == "end"] == [("camera-0", "forgotten")]


def test_what_is_known_of_objects_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_OBJECTS", 3)
    monkeypatch.setattr(event_source, "MOST_OPEN", 2)
    yard = Yard(rule("dwell", seconds=1.0, lost=3600.0))
    yard.run([(0, {track: IN for track in range(3)}), (1, {track: IN for track in range(3)})])
    assert yard.events.counters["not_kept"] == 1
    assert yard.run([(2, {7: IN})]) == [(2, "end", 0)]
    assert yard.told[-1].more["ended_by"] == "forgotten"


# ---- whatever comes --------------------------------------------------------------------------------

SECONDS = st.sampled_from([0.0, 0.5, 1.0, 2.0])
RULES = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"kind": st.just("enter"), "for": SECONDS, "clear": SECONDS, "lost": SECONDS, "cool_down": SECONDS}
        ),
        st.fixed_dictionaries(
            {"kind": st.just("leave"), "for": SECONDS, "clear": SECONDS, "lost": SECONDS, "cool_down": SECONDS}
        ),
        st.fixed_dictionaries({"kind": st.just("dwell"), "seconds": st.just(1.0), "clear": SECONDS, "lost": SECONDS}),
        st.fixed_dictionaries({"kind": st.just("count"), "at_least": st.just(2), "for": SECONDS, "clear": SECONDS}),
        st.fixed_dictionaries({"kind": st.just("absence"), "seconds": st.just(1.0), "clear": SECONDS, "cool_down": SECONDS}),
        st.fixed_dictionaries({"kind": st.just("line")}),
    ),
    min_size=1,
    max_size=3,
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["frame"] * 12 + ["restart", "death", "rules", "zones"]),
        st.sampled_from([0.0, 0.1, 0.5, 0.5, 1.0, 30.0, -0.3]),
        st.dictionaries(st.integers(0, 2), st.sampled_from([IN, OUT]), max_size=3),
        st.sampled_from(["yard", "door"]),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(RULES, STEPS, RULES)
def test_each_start_has_one_end_and_no_id_comes_twice(rules: Any, steps: Any, others: Any) -> None:
    named, other = (
        [{**rule(one["kind"]), **one, "name": f"{one['kind']}-{number}"} for number, one in enumerate(some)]
        for some in (rules, others)
    )
    yard = Yard(*named)
    yard.zones.set_zones("door", zones={"right": RIGHT}, lines={"up": UP})
    seconds, last, repeated = 100.0, list[DetectionEvent](), set[str]()
    for step, more, tracks, camera in steps:
        seconds += more
        if step == "restart":
            yard.events.cleanup()
            yard.events.setup()
        elif step == "death":  # of the process, whose memory the next one inherits
            repeated.update(event.id for event in last if event.phase == "end")
            yard.events.setup()
        elif step == "rules":
            yard.events.set_rules(other)
        elif step == "zones":
            yard.zones.set_zones("yard", zones={"right": RIGHT} if len(tracks) > 1 else {})
        else:
            last = yard.see(seconds, tracks, camera)
    yard.events.cleanup()
    yard.events.setup()  # whatever is open ends with the next frame of its camera
    for camera in ("yard", "door"):
        yard.see(seconds + 1, {}, camera)
    phases: dict[str, list[str]] = {}
    for event in yard.told:
        phases.setdefault(event.id, []).append(event.phase)
        assert DetectionEvent.from_dict(event.to_dict()) == event
    doubled = {event for event, its in phases.items() if its == ["start", "end", "end"]}
    assert doubled <= repeated  # it is told again rather than lost
    assert {tuple(its) for event, its in phases.items() if event not in doubled} <= {("start", "end"), ("instant",)}
    begun = {event.id: event for event in yard.told if event.phase == "start"}
    for event in yard.told:
        if event.phase == "end":
            assert event.started == begun[event.id].time
            assert event.sequence >= begun[event.id].sequence
            assert (event.rule, event.camera, event.track_id) == (
                begun[event.id].rule,
                begun[event.id].camera,
                begun[event.id].track_id,
            )


def test_odd_names_break_neither_metrics_nor_frames() -> None:
    for name in ("a\0b", "\ud800", ""):
        with pytest.raises(TypeError, match="a name is a text in Unicode that is not empty, without NUL"):
            Zones("zones", zones={"yard": {name: {"polygon": [[0, 0], [1, 0], [1, 1]]}}})
        with pytest.raises(ValueError, match="rule 0: its name must be a text in Unicode that is not empty"):
            EventSource("events", rules=[{"name": name, "kind": "enter"}])
    tallies = Tallies(2)  # the labels of a model may be anything
    assert tallies.add(("entered", "a\0b", "\ud800"))
    assert dict(tallies) == {("entered", "a\ufffdb", "\\ud800"): 1}


def test_more_than_can_be_kept_over_a_death_is_counted_and_a_score_that_is_none_is_left_out() -> None:
    events = EventSource("events", rules=[{"name": "n" * 30_000, "kind": "dwell", "seconds": 0.001}])
    found = Detections([[0, 0, 9, 9]] * 40, scores=[float("nan")] * 40, track_ids=list(range(40)))
    with RoutineHarness(events) as harness:
        harness.send(DetectedFrame(np.zeros((48, 64, 3), np.uint8), found), origin="yard")
        time.sleep(0.002)
        sent = harness.send(DetectedFrame(np.zeros((48, 64, 3), np.uint8), found), origin="yard")
        assert [event.score for event in sent or ()] == [None] * 40
        assert events.counters["not_kept"] == 20
