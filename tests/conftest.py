"""What every test gets: a check that it leaves nothing behind, and scripts that run as real processes.

`leaves_nothing` applies to all tests by itself. A test that orphans processes on purpose (it kills their parent) waits for
them with `processes.reap_orphans()`, since orphans become children of the test process.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import huge_pages
import pipert_shm
import private_shm
import processes
from pipert_shm.testing.leftovers import SHM as SHM
from pipert_shm.testing.leftovers import Possessions as Possessions
from pipert_shm.testing.plugin import fail_on_leftovers

PACKAGE_ROOT = Path(pipert_shm.__file__).parent.parent
GROWN = 16 << 20  # bytes of a worker's own memory, after which that is moved into large pages again

settings.register_profile(
    "pipert_shm",
    deadline=None,  # an example forks processes: its time says more of the machine than of the code
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("pipert_shm")


def pytest_configure(config: pytest.Config) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of the programs that tests start would compile the package anew
    # In the background of a shell, or under nohup, these are ignored, and so they would be by all programs that tests start.
    for number, usual in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGQUIT, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)
    config.addinivalue_line("markers", "shm: lists or sweeps /dev/shm, and so can't run beside tests that use the same one")
    processes.adopt_orphans()
    if hasattr(config, "workerinput") and os.environ.get("PRIVATE_SHM"):  # one of several workers: see `make test`
        private_shm.take()


def pytest_collection_finish() -> None:
    _settle()


def pytest_runtest_logfinish() -> None:
    if huge_pages.grown() > GROWN:  # by what tests have imported
        _settle()


def _settle() -> None:
    gc.freeze()  # what is here now never becomes garbage: the collections after each test pass over it
    huge_pages.collapse()


# ---- nothing is left behind ----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a process, a thread, a file descriptor, a segment or a mapping of one behind."""
    before = Possessions()
    yield
    try:
        fail_on_leftovers(request, before)
    finally:
        processes.kill_all_but(before.children)


# ---- scripts -------------------------------------------------------------------------------------


@dataclass
class Finished:
    """How a script ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()


class Script:
    """A Python script that runs as a process group of its own.

    :param wrap: a command that the interpreter is run by.
    """

    def __init__(self, path: Path, wrap: tuple[str, ...] = ()) -> None:
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)}
        environment.pop("PYTHONUNBUFFERED", None)  # with it a line is written in pieces, and mixes with those of other flows
        self.process = subprocess.Popen(
            [*wrap, sys.executable, "-W", "error", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def wait_for_line(self, *lines: str) -> None:
        """Reads the output until each of these lines has come, in any order."""
        assert self.process.stdout is not None
        missing = set(lines)
        for got in self.process.stdout:
            missing.discard(got.rstrip("\n"))
            if not missing:
                return
        raise AssertionError(f"the script ended without {missing}: {self.finish().stderr}")

    def interrupt(self) -> None:
        """What a terminal does at Ctrl-C: SIGINT to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def finish(self, timeout: float = 30.0) -> Finished:
        """Waits for the end."""
        streams = [stream for stream in (self.process.stdout, self.process.stderr) if stream is not None]
        with ThreadPoolExecutor() as pool:  # not communicate(), which loses what wait_for_line() has read ahead
            rest = [pool.submit(stream.read) for stream in streams]
            done = wait(rest, timeout).not_done
            if done:
                self.kill()
        out, err = (text.result() for text in rest)
        self.process.wait()
        for stream in streams:
            stream.close()
        assert not done, f"the script did not end within {timeout} s\n{out}\n{err}"
        return Finished(self.process.returncode, out, err)

    def kill(self) -> None:
        """SIGKILL to the whole process group."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


StartScript = Callable[..., Script]
RunScript = Callable[..., Finished]


@pytest.fixture
def start_script(tmp_path: Path) -> Iterator[StartScript]:
    """Starts a script, given its text, in a process of its own."""
    scripts: list[Script] = []

    def start(text: str, wrap: tuple[str, ...] = ()) -> Script:
        path = tmp_path / f"script{len(scripts)}.py"
        path.write_text(textwrap.dedent(text))
        scripts.append(Script(path, wrap))
        return scripts[-1]

    yield start
    for script in scripts:
        script.kill()
        with script.process:
            pass


@pytest.fixture
def run_script(start_script: StartScript) -> RunScript:
    """Runs a script, given its text, to its end."""

    def run(text: str, wrap: tuple[str, ...] = (), timeout: float = 30.0) -> Finished:
        return start_script(text, wrap).finish(timeout)

    return run


# ---- the command line ----------------------------------------------------------------------------

StartCli = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_cli(tmp_path: Path) -> Iterator[StartCli]:
    """Starts `pipert-shm` with these arguments, in a process group of its own.

    `path` comes first on its module path, `cwd` is its working directory, `wrap` a command that it is run by.
    """
    started: list[subprocess.Popen[str]] = []

    def start(
        *arguments: str | Path,
        path: Path | None = None,
        cwd: Path = tmp_path,
        wrap: tuple[str, ...] = (),
        **environment: str,
    ) -> subprocess.Popen[str]:
        search = [str(PACKAGE_ROOT)] if path is None else [str(path), str(PACKAGE_ROOT)]
        process = subprocess.Popen(
            [*wrap, sys.executable, "-m", "pipert_shm.cli", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search), **environment},
            cwd=cwd,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        with process:
            pass


RunCli = Callable[..., Finished]


@pytest.fixture
def run_cli(start_cli: StartCli) -> RunCli:
    """Runs `pipert-shm` with these arguments to its end."""

    def run(*arguments: str | Path, **options: Any) -> Finished:
        process = start_cli(*arguments, **options)
        out, err = process.communicate(timeout=60)
        return Finished(process.returncode, out, err)

    return run
