"""What every test gets: a check that it leaves nothing behind, and scripts that run as real processes.

`leaves_nothing` applies to all tests by itself. A test that orphans processes on purpose (it kills their parent) waits for
them with `processes.reap_orphans()`, since orphans become children of the test process.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import pipert_shm
import processes
from waiting import eventually

SHM = Path("/dev/shm")
TEARDOWN = 5.0  # seconds that processes and threads have to end in after a test
PACKAGE_ROOT = Path(pipert_shm.__file__).parent.parent

settings.register_profile(
    "pipert_shm",
    deadline=None,  # an example forks processes: its time says more of the machine than of the code
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("pipert_shm")


def pytest_configure() -> None:
    processes.adopt_orphans()


def pytest_collection_finish() -> None:
    gc.freeze()  # what is here now never becomes garbage: the collections after each test pass over it


# ---- nothing is left behind ----------------------------------------------------------------------


def _open_files() -> set[tuple[int, str]]:
    files = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            files.add((int(entry), os.readlink(f"/proc/self/fd/{entry}")))
        except FileNotFoundError:
            continue  # the one that listdir itself had open
    return files


def _mapped() -> set[str]:
    """Segments of pipes that are mapped here, by address."""
    with open("/proc/self/maps") as maps:
        return {line.strip() for line in maps if "/dev/shm/pipert-" in line}


def _in_use(name: str) -> bool:
    """Whether any process holds the lock of the pipe that this segment belongs to; a look that disturbs nobody."""
    control = SHM / (name.rsplit("-", 1)[0] + "-c")
    try:
        fd = os.open(control, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        query = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind: int = struct.unpack_from("h", fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query))[0]
    finally:
        os.close(fd)
    return kind != fcntl.F_UNLCK


@dataclass
class Possessions:
    """What this process has at one moment."""

    children: set[int] = field(default_factory=lambda: set(processes.descendants()))
    threads: set[threading.Thread] = field(default_factory=lambda: set(threading.enumerate()))
    files: set[tuple[int, str]] = field(default_factory=_open_files)
    segments: set[str] = field(default_factory=lambda: {path.name for path in SHM.glob("pipert-*")})
    mappings: set[str] = field(default_factory=_mapped)

    def left_by_now(self) -> list[str]:
        """What there is now beyond that. Segments of pipes that other processes run, on purpose, don't count."""
        now = Possessions()
        return [
            *(processes.describe(pid) for pid in now.children - self.children),
            *(repr(thread) for thread in now.threads - self.threads),
            *(f"file descriptor {number}: {target}" for number, target in now.files - self.files),
            *(f"/dev/shm/{name}" for name in now.segments - self.segments if not _in_use(name)),
            *(f"mapping {line}" for line in now.mappings - self.mappings),
        ]


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a process, a thread, a file descriptor, a segment or a mapping of one behind."""
    before = Possessions()
    yield
    request.node.funcargs.clear()  # pytest would keep the values of fixtures, a pipe perhaps, alive until after this
    try:
        if before.left_by_now():
            eventually(lambda: gc.collect() >= 0 and not before.left_by_now(), "an end without leftovers", TEARDOWN)
    except AssertionError:
        pytest.fail("left behind:\n  " + "\n  ".join(before.left_by_now()), pytrace=False)
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

    def wait_for_line(self, line: str) -> None:
        """Reads the output up to this line."""
        assert self.process.stdout is not None
        for got in self.process.stdout:
            if got.rstrip("\n") == line:
                return
        raise AssertionError(f"the script ended without {line!r}: {self.finish().stderr}")

    def interrupt(self) -> None:
        """What a terminal does at Ctrl-C: SIGINT to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def finish(self, timeout: float = 30.0) -> Finished:
        """Waits for the end."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"the script did not end within {timeout} s\n{out}\n{err}") from None
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
