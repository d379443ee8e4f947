"""Metrics for Prometheus, as its own parser reads them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from pipert_shm import Pipe, PipeStateError
from pipert_shm.api.metrics import PipeCollector
from routines import Frames, Gated, Items, Sink, chain
from serving import Served, serving
from waiting import Board, eventually

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
GATE, TAKEN = 0, 1


def camera_and_gate(board: Board) -> Pipe:
    """A camera whose screen takes only as many frames as the board lets it."""
    pipe = Pipe(policy="drop_newest", capacity=2, grace_period=1)
    chain(pipe, Frames("camera", 10, (40, 50, 3), loan=True), Gated("screen", board, GATE, TAKEN))
    return pipe


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(make=camera_and_gate) as one:
        yield one
        one.board[GATE] = 100


def scrape(served: Served) -> Samples:
    response = served.client.get("/metrics")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_what_is_scraped_is_what_the_pipe_counts(served: Served) -> None:
    served.do("/start")
    eventually(lambda: served.pipe.statistics().routines["camera"].state == "ended", "the camera's end")
    eventually(lambda: served.pipe.statistics().routines["screen"].received == 1, "a frame in hand")
    samples, now = scrape(served), served.pipe.statistics()
    wire, ends = now.wires["camera", "screen"], {"sender": "camera", "receiver": "screen"}
    assert wire.waiting in (1, 2)  # one when the queue was full before the screen took its first
    assert wire.dropped["newest"] == 10 - 1 - wire.waiting
    for reason, count in wire.dropped.items():
        assert value(samples, "pipert_wire_dropped_total", **ends, reason=reason) == count
    assert value(samples, "pipert_wire_sent_total", **ends) == wire.sent == 10
    assert value(samples, "pipert_wire_waiting", **ends) == wire.waiting
    assert value(samples, "pipert_wire_capacity", **ends) == 2
    assert value(samples, "pipert_wire_linked", **ends) == 1
    assert value(samples, "pipert_messages_sent_total", routine="camera", flow="camera") == 10
    assert value(samples, "pipert_messages_received_total", routine="screen", flow="screen") == 1
    for state in ("built", "running", "stopping", "stopped", "ended", "failed"):
        expected = state == "ended"
        assert value(samples, "pipert_routine_state", routine="camera", flow="camera", state=state) == expected

    held = [
        count
        for (name, labels), count in samples.items()
        if name == "pipert_slots_held" and {("ring", "camera"), ("holder", "screen")} <= labels
    ]
    assert max(held) >= 1 + wire.waiting  # of frames, in hand and in the queue; of messages, fewer
    assert value(samples, "pipert_flow_restarts_total", flow="screen") == 0


def test_histograms_add_up(served: Served) -> None:
    served.board[GATE] = 100
    served.do("/start")
    eventually(lambda: served.pipe.statistics().routines["screen"].state == "ended", "the end of all")
    samples, hop = scrape(served), served.pipe.statistics().wires["camera", "screen"].hop
    ends = {"sender": "camera", "receiver": "screen"}
    assert value(samples, "pipert_hop_seconds_count", **ends) == hop.count > 0
    assert value(samples, "pipert_hop_seconds_bucket", **ends, le="+Inf") == hop.count
    buckets = [
        (float(dict(labels)["le"]), count) for (name, labels), count in samples.items() if name == "pipert_hop_seconds_bucket"
    ]
    counts = [count for _, count in sorted(buckets)]
    assert counts == sorted(counts)
    for end, count in buckets:
        if 0 < count < hop.count:  # the count-th of them is the last one below
            below, above = (hop.percentile_us((count + half) / hop.count * 100) for half in (-0.5, 0.5))
            assert below <= end * 1e6 < above
    longest, total = hop.percentile_us(100) / 1e6, value(samples, "pipert_hop_seconds_sum", **ends)
    assert longest <= total <= longest * hop.count


def test_errors_and_restarts_are_counted_per_routine_and_flow(served: Served) -> None:
    served.pipe.restart_flow("screen")
    eventually(lambda: served.pipe.statistics().flows["screen"].restarts == 1, "a restart")
    samples = scrape(served)
    assert value(samples, "pipert_flow_restarts_total", flow="screen") == 1
    assert value(samples, "pipert_flow_last_exit", flow="screen") == -9
    assert value(samples, "pipert_errors_total", routine="camera", flow="camera") == 0


def test_the_collector_serves_a_registry_of_the_users() -> None:
    pipe = Pipe(policy="block")
    chain(pipe, Items("numbers", range(5)), Sink("sink"))
    registry = CollectorRegistry()
    registry.register(PipeCollector(pipe))
    with pytest.raises(PipeStateError, match="not built"):
        list(registry.collect())
    pipe.build()
    pipe.notify_event("start")
    pipe.join()
    received = {"routine": "sink", "flow": "sink"}
    assert registry.get_sample_value("pipert_messages_received_total", received) == 5
    assert registry.get_sample_value("pipert_busy_seconds_total", received) == pipe.statistics().routines["sink"].busy_s
