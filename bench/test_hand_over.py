"""The hand-over of hand_over.py as pytest-benchmark entries, so that they are saved and compared like all others."""

from __future__ import annotations

from collections import deque

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.hand_over import CONTROL, FEWEST, QUEUE, WAYS, Result

_readings: deque[float] = deque()


def measured() -> float:
    """The clock of these benchmarks: it reads what was measured from one process to another, which no clock of one can."""
    return _readings.popleft()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.benchmark(timer=measured)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # numpy has threads; none of ours runs meanwhile
def test_hand_over(benchmark: BenchmarkFixture, hand_overs: dict[str, Result], way: str) -> None:
    result = hand_overs[way]
    for sheet in result.sheets:
        assert sheet.received == sheet.sent >= FEWEST
        assert sheet.wrong == 0
    durations = result.latencies_us / 1e6
    for duration in durations:
        _readings.extend((0.0, float(duration)))
    benchmark.group = f"1080p, one way, {result.pace.name}"
    benchmark.extra_info.update(
        p99_us=result.p99_us,
        rounds_p50_us=result.medians_us.tolist(),
        to_control=result.ratio_to(hand_overs[CONTROL]),
        queue_to_this=hand_overs[QUEUE].ratio_to(result),
    )
    benchmark.pedantic(lambda: None, rounds=len(durations))  # type: ignore[no-untyped-call]
