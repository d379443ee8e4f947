"""The statistics' classes are one table: what is read of a record, the API, the metrics and `top` have what it has."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry
from pydantic import BaseModel

from pipert_shm import FlowStatistics, Pipe, RoutineStatistics, WireStatistics, binding
from pipert_shm.api.metrics import PipeCollector
from pipert_shm.api.models import FlowModel, RoutineModel, WireModel
from pipert_shm.cli.top import compare, look
from pipert_shm.measures import measured, measures, words
from routines import Items, Sink, chain

CLASSES = (RoutineStatistics, WireStatistics, FlowStatistics)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    chain(pipe, Items("camera", [1]), Sink("screen"))
    with pipe:
        pipe.build()
        yield pipe
        pipe.join(to_kill=True)


def test_the_binding_reads_each_word_that_the_table_names(pipe: Pipe) -> None:
    process = pipe._built().segment.process
    assert binding.RoutineRecord(process, 0).counters().keys() == words(RoutineStatistics).keys()
    assert binding.EdgeRecord(process, 0).counters().keys() == words(WireStatistics).keys()


@pytest.mark.parametrize(
    ("model", "statistics"), [(RoutineModel, RoutineStatistics), (WireModel, WireStatistics), (FlowModel, FlowStatistics)]
)
def test_the_api_describes_each_measure_as_the_table_does(model: type[BaseModel], statistics: type) -> None:
    assert {name: field.description for name, field in model.model_fields.items()} == {
        name: measure and measure.text for name, _, measure in measured(statistics)
    }


def test_each_metric_of_the_table_is_collected(pipe: Pipe) -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PipeCollector(pipe))
    lines = generate_latest(registry).decode().splitlines()
    found = {line.split()[2].removesuffix("_total") for line in lines if line.startswith("# HELP")}
    for statistics in CLASSES:
        named = {f"pipert_{measure.metric}" for measure in measures(statistics).values() if measure.metric}
        assert named <= found


def test_top_reports_each_field_of_the_table(pipe: Pipe) -> None:
    now = look()
    report = compare(now, now)["pipes"]
    (mine,) = [one for one in report if one["pipe_id"] == pipe._built().segment.pipe_id]
    json.dumps(mine)
    for part, statistics in zip(("routines", "wires", "flows"), CLASSES, strict=True):
        for entry in mine[part]:
            assert {name for name, _, _ in measured(statistics)} <= entry.keys()


@pytest.mark.parametrize("statistics", CLASSES)
def test_the_docstring_says_what_is_measured(statistics: type) -> None:
    for name, measure in measures(statistics).items():
        assert f"        {name}: {measure.text[0].lower()}{measure.text[1:]}" in (statistics.__doc__ or "")
