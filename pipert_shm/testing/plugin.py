"""A pytest plugin with two fixtures: one fails a test which leaves anything behind, the other replays recordings.

Nothing of it is active by itself. Name the plugin in the `conftest.py` at your project's root, and a fixture in the tests that
need it; or, for all of them, in `pyproject.toml`:

    pytest_plugins = ["pipert_shm.testing.plugin"]      # conftest.py

    [tool.pytest.ini_options]                           # pyproject.toml
    usefixtures = ["leaves_nothing"]

pytest is no dependency of the package: this module is the one that imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipert_shm.testing.leftovers import Possessions


@pytest.fixture
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a process, a thread, a file descriptor, a segment in /dev/shm or a mapping of one behind.

    They have 5 seconds to end. What was there before the test does not count, nor do segments of pipes that other processes
    run. Libraries that start a thread or open a file at their first use should be used before, in `conftest.py` for example.
    """
    before = Possessions()
    yield
    fail_on_leftovers(request, before)


def fail_on_leftovers(request: pytest.FixtureRequest, before: Possessions) -> None:
    """Fails the test of a fixture that is just torn down, when anything is left of it.

    :param before: what there was when the fixture began.
    """
    request.node.funcargs.clear()  # pytest would keep the values of fixtures, a pipe perhaps, alive until after this
    left = before.left_by_now() and before.left_after()
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
def replay(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    """Runs a routine or a pipe on a recording: `replay("yard.mcap", Detector("detector"))` returns what it sent.

    It takes what `pipert_shm.video.replayed.replayed` takes. The path of a recording may begin at the folder of the test.
    """
    replayed = import_module("pipert_shm.video.replayed").replayed  # by name: it stands above this folder, and loads OpenCV

    def run(path: Path | str, target: Any, **options: Any) -> list[Any]:
        found: list[Any] = replayed(_found(request, Path(path)), target, **options)
        return found

    return run


def _found(request: pytest.FixtureRequest, path: Path) -> Path:
    """A path, as it is or from the folder of the test."""
    beside = request.path.parent / path
    return beside if beside.exists() else path
