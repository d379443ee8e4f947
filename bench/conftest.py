from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.hand_over import PACES, Pace, Result, measure, table
from pipert_shm.memory import is_stale, pipe_ids

ROUNDS = 5

_results = pytest.StashKey[dict[Pace, dict[str, Result]]]()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    before = set(pipe_ids())
    yield
    left = [pipe_id for pipe_id in pipe_ids() if pipe_id not in before and is_stale(pipe_id)]
    assert not left, f"/dev/shm still holds segments of {left}"


@pytest.fixture(params=PACES, ids=lambda pace: pace.name, scope="session")
def hand_overs(request: pytest.FixtureRequest) -> dict[str, Result]:
    """All ways at one pace, measured in turn within one stretch of time."""
    results = request.config.stash.setdefault(_results, {})
    pace: Pace = request.param
    if pace not in results:
        results[pace] = measure(pace, ROUNDS)
    return results[pace]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    results = config.stash.get(_results, {})
    if results:
        terminalreporter.section("hand-overs")
        for line in table(results.values()):
            terminalreporter.write_line(line)
