from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipert_shm.shm.segments import is_stale, pipe_ids


@pytest.fixture(autouse=True)
def _leaves_nothing_behind() -> Iterator[None]:
    before = set(pipe_ids())
    yield
    left = [pipe_id for pipe_id in pipe_ids() if pipe_id not in before and is_stale(pipe_id)]
    assert not left, f"/dev/shm still holds segments of {left}"
