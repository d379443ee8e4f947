"""Metrics for Prometheus, read out of shared memory when they are asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pipert_shm import binding
from pipert_shm.api.models import Problem
from pipert_shm.flow_statistics import FlowStatistics
from pipert_shm.measures import Measure, measures
from pipert_shm.pipe import Pipe
from pipert_shm.shm.listing import list_pipe
from pipert_shm.statistics import Latency, RoutineStatistics, WireStatistics

UP_TO_S = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_BELOW = [bisect_right(binding.BUCKET_NS, int(end * 1e9)) for end in UP_TO_S]  # how many of our buckets each of theirs takes in

router = APIRouter(tags=["look"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        409: {"model": Problem, "description": "The pipe is not built yet"},
    },
)
def metrics(request: Request) -> Response:
    """Everything that `/statistics` has, and who holds how many slots of whose rings, in Prometheus's text format."""
    pipe: Pipe = request.app.state.pipe
    pipe._built()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PipeCollector(pipe))
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


class PipeCollector(Collector):
    """A collector for a Prometheus registry of yours; the names of its metrics begin with `pipert_`. Any thread.

    It costs the flows nothing.

    :raises PipeStateError: on collection, when the pipe is not built.
    """

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def describe(self) -> list[Metric]:
        """Nothing: what it will collect is not known before the pipe is built."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The pipe as it is now."""
        now = self._pipe.statistics()
        yield from _metrics(RoutineStatistics, now.routines.values(), ("routine", "name"), ("flow", "flow"))
        yield from _metrics(WireStatistics, now.wires.values(), ("sender", "sender"), ("receiver", "receiver"))
        yield from _metrics(FlowStatistics, now.flows.values(), ("flow", "name"))
        yield from self._rings()
        yield from self._labelled()

    def _labelled(self) -> Iterator[Metric]:
        """What routines count by labels of their own, such as the zones of cameras: memory that their processes share."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        plan = self._pipe._built().plan
        for name in plan.present:
            labelled = getattr(plan.get(name).routine, "labelled", None)
            for metric, text, grows, labels, value in () if labelled is None else labelled():
                if metric not in families:
                    kind = CounterMetricFamily if grows else GaugeMetricFamily
                    families[metric] = kind(f"pipert_{metric}", text, labels=["routine", *labels])
                families[metric].add_metric([name, *labels.values()], value)
        yield from families.values()

    def _rings(self) -> Iterator[Metric]:
        held = GaugeMetricFamily(
            "pipert_slots_held", "Slots of a ring that a routine holds.", labels=["ring", "segment", "holder"]
        )
        free = GaugeMetricFamily("pipert_slots_free", "Slots of a ring that nobody holds.", labels=["ring", "segment"])
        total = GaugeMetricFamily("pipert_slots", "Slots that a ring has.", labels=["ring", "segment"])
        memory = GaugeMetricFamily("pipert_memory_bytes", "Bytes of a segment in /dev/shm.", labels=["ring", "segment"])
        listing = list_pipe(self._pipe._built().segment.pipe_id)
        for segment in listing.segments if listing is not None else ():
            labels = [segment.what.removeprefix("ring of "), segment.name.rpartition("-")[2]]
            memory.add_metric(labels, segment.size)
            if segment.slots is not None:
                total.add_metric(labels, segment.slots[0])
                free.add_metric(labels, segment.free)
                for holder, count in segment.held.items():
                    held.add_metric([*labels, holder], count)
        yield from (total, free, held, memory)


def _metrics(statistics: type, found: Iterable[Any], *labels: tuple[str, str]) -> Iterator[Metric]:
    """The metrics of all routines, wires or flows.

    :param statistics: the class that says what is measured.
    :param labels: each label, and the field that it is taken from.
    """
    items = list(found)
    for field, measure in measures(statistics).items():
        if not measure.metric:
            continue
        family = _FAMILIES[measure.kind](
            f"pipert_{measure.metric}",
            measure.text,
            labels=[*(label for label, _ in labels), *_own_label(measure)],
        )
        for item in items:
            _add(family, measure, [getattr(item, source) for _, source in labels], getattr(item, field))
        yield family


_FAMILIES: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "state": GaugeMetricFamily,
    "reasons": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _own_label(measure: Measure) -> list[str]:
    return [measure.label] if measure.kind == "state" else ["reason"] if measure.kind == "reasons" else []


def _add(family: Any, measure: Measure, labels: list[str], value: Any) -> None:
    """Adds what one routine, wire or flow has to a metric, if it has it; for a state, 1 for the one that it is in."""
    if value is None:
        return
    if measure.kind == "state":
        for state in measure.states:
            family.add_metric([*labels, state], state == value)
    elif measure.kind == "reasons":
        for reason, count in value.items():
            family.add_metric([*labels, reason], count)
    elif measure.kind == "histogram":
        _add_histogram(family, labels, value)
    else:
        family.add_metric(labels, value)


def _add_histogram(family: HistogramMetricFamily, labels: list[str], latency: Latency) -> None:
    """Adds a histogram; its sum is as exact as our buckets are: to 1/16."""
    below = list(accumulate(latency.counts, initial=0))
    buckets = [(str(end), float(below[count])) for end, count in zip(UP_TO_S, _BELOW, strict=True)]
    total_ns = sum(end * count for end, count in zip(binding.BUCKET_NS, latency.counts, strict=True))
    family.add_metric(labels, [*buckets, ("+Inf", float(below[-1]))], sum_value=total_ns / 1e9)
