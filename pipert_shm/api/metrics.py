"""Metrics for Prometheus, read out of shared memory when they are asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pipert_shm import native
from pipert_shm.api.models import Problem
from pipert_shm.pipe import Pipe
from pipert_shm.segments import list_pipe
from pipert_shm.statistics import Latency, PipeStatistics

UP_TO_S = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROUTINE_STATES = ("built", "running", "stopping", "stopped", "ended", "failed")
FLOW_STATES = ("running", "restarting", "failed", "ended")

_BELOW = [bisect_right(native.BUCKET_NS, int(end * 1e9)) for end in UP_TO_S]  # how many of our buckets each of theirs takes in

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
        yield from _routines(now)
        yield from _wires(now)
        yield from _flows(now)
        yield from self._rings()

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


def _routines(now: PipeStatistics) -> Iterator[Metric]:
    labels = ["routine", "flow"]
    for field, name, help_text in (
        ("received", "messages_received", "Messages taken from all wires."),
        ("sent", "messages_sent", "Messages sent, once each."),
        ("errors", "errors", "Exceptions of a routine's code, and messages that could not be sent or decoded."),
        ("logs_lost", "logs_lost", "Log records that did not reach the parent."),
        ("copied_bytes", "copied_bytes", "Bytes copied into shared memory to be sent."),
        ("in_band_bytes", "in_band_bytes", "Bytes pickled."),
        ("busy_s", "busy_seconds", "Time in main_logic."),
        ("lost_in_crash", "lost_in_crash", "Messages in hand when their process died."),
    ):
        family = CounterMetricFamily(f"pipert_{name}", help_text, labels=labels)
        for routine in now.routines.values():
            family.add_metric([routine.name, routine.flow], getattr(routine, field))
        yield family
    states = GaugeMetricFamily("pipert_routine_state", "1 for the state that a routine is in.", labels=[*labels, "state"])
    ages = HistogramMetricFamily("pipert_age_seconds", "From capture to receipt.", labels=labels)
    for routine in now.routines.values():
        for state in ROUTINE_STATES:
            states.add_metric([routine.name, routine.flow, state], state == routine.state)
        _add(ages, [routine.name, routine.flow], routine.age)
    yield from (states, ages)


def _wires(now: PipeStatistics) -> Iterator[Metric]:
    labels = ["sender", "receiver"]
    for field, kind, name, help_text in (
        ("sent", CounterMetricFamily, "sent", "Messages that the sender offered to the wire."),
        ("received", CounterMetricFamily, "received", "Messages that the receiver got."),
        ("waiting", GaugeMetricFamily, "waiting", "Messages in the queue."),
        ("capacity", GaugeMetricFamily, "capacity", "Messages that the queue holds."),
        ("linked", GaugeMetricFamily, "linked", "1 while the sender sends on it."),
        ("private_bytes", CounterMetricFamily, "private_bytes", "Bytes copied on receipt: the receiver kept too many frames."),
        (
            "protocol_errors",
            CounterMetricFamily,
            "protocol_errors",
            "Descriptors that did not fit their slots; never, that is.",
        ),
    ):
        family = kind(f"pipert_wire_{name}", help_text, labels=labels)
        for wire in now.wires.values():
            family.add_metric([wire.sender, wire.receiver], getattr(wire, field))
        yield family
    dropped = CounterMetricFamily("pipert_wire_dropped", "Messages that were lost, by reason.", labels=[*labels, "reason"])
    hops = HistogramMetricFamily("pipert_hop_seconds", "From publication to receipt.", labels=labels)
    for wire in now.wires.values():
        for reason, count in wire.dropped.items():
            dropped.add_metric([wire.sender, wire.receiver, reason], count)
        _add(hops, [wire.sender, wire.receiver], wire.hop)
    yield from (dropped, hops)


def _flows(now: PipeStatistics) -> Iterator[Metric]:
    restarts = CounterMetricFamily("pipert_flow_restarts", "Restarts of a flow.", labels=["flow"])
    exits = GaugeMetricFamily("pipert_flow_last_exit", "Exit status of the last death, negative: the signal.", labels=["flow"])
    states = GaugeMetricFamily("pipert_flow_state", "1 for the state that a flow is in.", labels=["flow", "state"])
    for flow in now.flows.values():
        restarts.add_metric([flow.name], flow.restarts)
        exits.add_metric([flow.name], flow.last_exit)
        for state in FLOW_STATES:
            states.add_metric([flow.name, state], state == flow.state)
    yield from (restarts, exits, states)


def _add(family: HistogramMetricFamily, labels: list[str], latency: Latency) -> None:
    """Adds a histogram; its sum is as exact as our buckets are: to 1/16."""
    below = list(accumulate(latency.counts, initial=0))
    buckets = [(str(end), float(below[count])) for end, count in zip(UP_TO_S, _BELOW, strict=True)]
    total_ns = sum(end * count for end, count in zip(native.BUCKET_NS, latency.counts, strict=True))
    family.add_metric(labels, [*buckets, ("+Inf", float(below[-1]))], sum_value=total_ns / 1e9)
