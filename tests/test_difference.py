"""What differs between two pipelines: computed, with no pipe."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipert_shm.applying.difference import Difference, between
from pipert_shm.applying.shape import Shape, shape_of
from pipert_shm.pipeline_file.schema import Pipeline

NAMES = ("a", "b", "c", "d", "e")
SETTABLE = "threshold"


def is_settable(routine: str, parameter: str) -> bool:
    return parameter == SETTABLE


def compare(before: dict[str, Any], after: dict[str, Any]) -> Difference:
    return between(shape(before), shape(after), is_settable)


def shape(data: dict[str, Any]) -> Shape:
    return shape_of(Pipeline.model_validate(data))


ROUTINES = st.fixed_dictionaries(
    {"class": st.sampled_from(["one.A", "one.B"])},
    optional={
        "parameters": st.dictionaries(
            st.sampled_from([SETTABLE, "size", "deep"]), st.sampled_from([1, 1.0, True, "1", [1], [True], {"x": 1}]), max_size=2
        ),
        "fps": st.sampled_from([0.0, 5.0]),
        "hang_timeout": st.sampled_from([1.0, 2.0]),
        "max_errors": st.sampled_from([1, 2]),
    },
)
FLOW_OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "auto_wire": st.booleans(),
    "replicas": st.sampled_from([1, 2]),
    "restart": st.sampled_from(["always", "never"]),
    "max_rss": st.sampled_from([1, 2]),
    "nice": st.sampled_from([0, 1]),
}
WIRE_OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "policy": st.sampled_from(["block", "drop_oldest"]),
    "capacity": st.sampled_from([1, 2]),
    "max_age": st.sampled_from([0.5, 1.0]),
    "data_transmitter": st.sampled_from([{"class": "one.T"}, {"class": "one.T", "parameters": {"x": 1}}]),
}


@st.composite
def pipelines(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    flows: dict[str, dict[str, Any]] = {}
    for name in names:
        flow = draw(st.sampled_from(["f", "g", "h"]))
        flows.setdefault(flow, {"routines": []})["routines"].append(name)
    for its in flows.values():
        its.update(draw(st.fixed_dictionaries({}, optional=FLOW_OPTIONS)))
    wired = {pair for its in flows.values() if its.get("auto_wire") for pair in pairwise(its["routines"])}
    pairs = draw(st.lists(st.sampled_from([(x, y) for x in names for y in names]), unique=True, max_size=6))
    wires = [
        {"source": one, "destinations": [other], **draw(st.fixed_dictionaries({}, optional=WIRE_OPTIONS))}
        for one, other in pairs
        if one != other and (one, other) not in wired
    ]
    routines = {name: draw(ROUTINES) for name in names}
    return {"routines": routines, "flows": flows, "wires": wires, "pipe": {"capacity": draw(st.sampled_from([1, 2]))}}


@given(pipelines(), pipelines())
def test_the_difference_makes_one_of_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    difference = compare(before, after)
    assert difference.applied_to(shape(before)).wires == shape(after).wires
    made = difference.applied_to(shape(before))
    assert (made.flows, made.routines) == (shape(after).flows, shape(after).routines)
    assert bool(difference.lines()) == bool(difference) == (shape(before) != shape(after) or bool(difference))


@given(pipelines())
def test_nothing_differs_from_itself(pipeline: dict[str, Any]) -> None:
    difference = compare(pipeline, copy.deepcopy(pipeline))
    assert not difference
    assert str(difference) == "nothing differs"


@given(pipelines(), pipelines())
def test_a_flow_is_changed_in_one_way_only(before: dict[str, Any], after: dict[str, Any]) -> None:
    """And what has no part in it is left alone."""
    it = compare(before, after)
    ways = [*it.removed, *it.added, *it.rebuilt, *it.replaced]
    assert len(ways) == len(set(ways))
    assert not it.eased.keys() & {*ways}
    assert not {shape(after).flow_of[routine] for routine in it.live} & {*ways}
    lost = {routine for name in (*it.removed, *it.rebuilt) for routine in it.before.flows[name].routines}
    assert not any(lost.intersection(pair) for pair in it.cut)
    for pair, wire in it.before.wires.items():
        if it.after.wires.get(pair) == wire and not lost.intersection(pair):
            assert pair not in it.cut


# ---- what changes in which way -------------------------------------------------------------------

PIPELINE: dict[str, Any] = {
    "routines": {
        "camera": {"class": "one.Camera"},
        "detector": {"class": "one.Detector", "parameters": {SETTABLE: 5, "size": 3}},
        "writer": {"class": "one.Writer"},
    },
    "flows": {"camera": {"routines": ["camera"]}, "detect": {"routines": ["detector"]}, "write": {"routines": ["writer"]}},
    "wires": [
        {"source": "camera", "destinations": ["detector"]},
        {"source": "detector", "destinations": ["writer"], "policy": "block"},
    ],
}


def edited(edit: Callable[[dict[str, Any]], object]) -> Difference:
    after = copy.deepcopy(PIPELINE)
    edit(after)
    return compare(PIPELINE, after)


@pytest.mark.parametrize(
    ("edit", "lines"),
    [
        (
            lambda it: it["routines"]["detector"]["parameters"].update({SETTABLE: 7}),
            ["~ routine 'detector', without a restart: routines.detector.parameters.threshold: 5 -> 7"],
        ),
        (
            lambda it: it["routines"]["detector"]["parameters"].update({SETTABLE: 7, "size": 4}),
            [
                "~ flow 'detect' gets a new process: routines.detector.parameters.size: 3 -> 4; "
                "routines.detector.parameters.threshold: 5 -> 7"
            ],
        ),
        (
            lambda it: it["routines"]["detector"]["parameters"].pop("size"),
            ["~ flow 'detect' gets a new process: routines.detector.parameters.size: 3 -> (not given)"],
        ),
        (
            lambda it: it["routines"]["camera"].update({"fps": 5.0}),
            ["~ routine 'camera', without a restart: routines.camera.fps: none -> 5.0"],
        ),
        (
            lambda it: it["routines"]["camera"].update({"class": "one.Other"}),
            ["~ flow 'camera' gets a new process: routines.camera.class: 'one.Camera' -> 'one.Other'"],
        ),
        (
            lambda it: it["flows"]["write"].update({"max_restarts": 9, "nice": 3}),
            ["~ flow 'write' gets a new process: flows.write.nice: none -> 3; flows.write.max_restarts: 5 -> 9"],
        ),
        (
            lambda it: it["flows"]["write"].update({"max_restarts": 9}),
            ["~ flow 'write', without a restart: flows.write.max_restarts: 5 -> 9"],
        ),
        (
            lambda it: it["flows"]["detect"].update({"replicas": 2}),
            ["~ flow 'detect' is removed, and added anew: flows.detect.replicas: 1 -> 2", "+ wire camera -> detector"],
        ),
        (
            lambda it: [
                it["flows"]["detect"].update({"replicas": 2, "nice": 3}),
                it["routines"]["detector"].update({"fps": 5.0}),
            ],
            [
                "~ flow 'detect' is removed, and added anew: flows.detect.replicas: 1 -> 2; flows.detect.nice: none -> 3; "
                "routines.detector.fps: none -> 5.0",
            ],
        ),
        (
            lambda it: it["wires"][0].update({"policy": "block"}),
            ["~ wire camera -> detector is linked anew: wires.camera -> detector.policy: none -> 'block'"],
        ),
        (
            lambda it: it["wires"].append({"source": "camera", "destinations": ["writer"]}),
            ["+ wire camera -> writer"],
        ),
        (lambda it: it.update({"pipe": {"capacity": 3}}), ["! pipe.capacity: none -> 3: not while the pipe runs"]),
        (lambda it: it.update({"api": {"port": 0}}), ["! api: none -> {'port': 0}: not while the pipe runs"]),
    ],
)
def test_what_changes_in_which_way(edit: Callable[[dict[str, Any]], object], lines: list[str]) -> None:
    assert edited(edit).lines()[: len(lines)] == lines


def test_a_routine_that_moves_takes_both_flows_along() -> None:
    def move(it: dict[str, Any]) -> None:
        it["flows"] = {"camera": {"routines": ["camera", "detector"]}, "write": {"routines": ["writer"]}}

    it = edited(move)
    assert (it.removed, list(it.rebuilt), it.cut) == (("detect",), ["camera"], ())
    assert it.linked == (("camera", "detector"), ("detector", "writer"))


def test_one_wire_to_several_is_one_to_each() -> None:
    def split(it: dict[str, Any]) -> None:
        it["wires"][0]["destinations"] = ["detector", "writer"]

    assert edited(split).linked == (("camera", "writer"),)


@pytest.mark.parametrize(
    "setting", [("flows", "detect", "max_restarts", 9), ("flows", "detect", "nice", 1), ("routines", "detector", "fps", 3.0)]
)
def test_a_flow_that_has_failed_is_made_anew_whatever_differs_in_it_and_that_is_said(
    setting: tuple[str, str, str, Any],
) -> None:
    section, name, what, value = setting
    before, after = shape(PIPELINE), copy.deepcopy(PIPELINE)
    after[section][name][what] = value
    healthy, failed = (between(before, shape(after), is_settable, failed=failed) for failed in ((), ("detect", "camera")))
    assert not healthy.rebuilt
    assert list(failed.rebuilt) == ["detect"]
    assert failed.lines()[0].startswith(f"~ flow 'detect' has failed, is removed, and added anew: {section}.{name}.{what}: ")
    assert failed.as_json()["flows"]["failed"] == ["detect"]
    assert (failed.eased, failed.live, failed.replaced) == ({}, {}, {})
    assert not between(before, before, is_settable, failed=("detect",)), "nobody asked for it"
