"""The keeper of one pipe of an agent: what it does when its process, its disk or its file is not as it should be."""

from __future__ import annotations

import fcntl
import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipert_shm import HostsError
from pipert_shm.agents.keeper import COMMAND, Keeper, wait_after
from pipert_shm.agents.kept import Kept, Store, Told
from pipert_shm.hosts import Hub
from waiting import eventually

NEVER_UP = (sys.executable, "-I", "-S", "-c", "import signal; signal.pause()")
TOLD = Told("1", "pipe: {name: yard}", ())


class Changing(Keeper):
    """Notes what it was changed to."""

    changed_to: Told | None = None

    def _ask_to_be(self, told: Told) -> list[str]:
        self.changed_to = told
        return []


def keeper(directory: Path, told: Told = TOLD, command: Sequence[str] = COMMAND) -> Changing:
    hub = Hub(connect="tcp/127.0.0.1:1")
    return Changing(Kept("yard", told), Store(directory), "edge-1", hub, logging.getLogger("keeper"), command)


def test_a_process_that_has_not_said_its_number_yet_is_ended_at_once(tmp_path: Path) -> None:
    its = keeper(tmp_path, command=NEVER_UP)
    failures: list[BaseException] = []

    def start() -> None:
        try:
            its.start()
        except HostsError as error:
            failures.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    eventually(lambda: its._process is not None, "the process")
    ending = threading.Thread(target=its.end)
    ending.start()
    ending.join(30)  # it was killed after 60 s
    assert not ending.is_alive()
    starting.join(30)
    assert (len(failures), its.state) == (1, "stopped")


def test_what_can_not_be_started_is_said_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    its = keeper(tmp_path, Told("1", "pipe: [", ("gate",)))
    its.begin()
    eventually(lambda: its.state == "waiting", "the failure")
    assert its.error.startswith("it can't be started: ParserError")
    eventually(lambda: caplog.text.count("started again in") >= 2, "another attempt")
    its.end()
    assert its.state == "stopped"


def test_a_night_of_deaths_does_not_end_the_attempts() -> None:
    assert wait_after(100_000) == 30.0


def test_a_pipe_that_runs_though_nothing_is_kept_of_it_is_changed(tmp_path: Path) -> None:
    its = keeper(tmp_path)
    with its._store.path("yard", "lock").open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        its.start()
        assert (its.state, its.changed_to) == ("running", TOLD)
        its.leave()


@pytest.mark.parametrize("pipe", ["../../etc/cron.d/yard", "/yard", "ya\0rd"])
def test_a_name_leads_out_of_no_directory(tmp_path: Path, pipe: str) -> None:
    store = Store(tmp_path / "state")
    with pytest.raises(HostsError, match="it names a file"):
        store.save(Kept(pipe, TOLD))
    assert list(tmp_path.rglob("*yard*")) == []
