"""Files whose flows are for several hosts: `pipert-shm run` of them, and `--watch`.

This process must have no session of Zenoh, since it forks flows that open theirs. So a process beside has the other hosts apply
the file, and with `--watch` another one, `pipert-shm apply`, does that after each change.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import typer

from pipert_shm.agents.beside import Brought, bring
from pipert_shm.agents.splitting import Part
from pipert_shm.applying.apply import await_setup
from pipert_shm.cli.run import load, run_loaded, run_watched
from pipert_shm.cli.several import check_for_hosts
from pipert_shm.cli.watching import Address, Loaded, say_all
from pipert_shm.errors import ConfigError, PipeStateError
from pipert_shm.pipe import Pipe
from pipert_shm.pipeline_file.loading import PipelineFile
from pipert_shm.shm.finding import made_from
from pipert_shm.system.streams import say


def run_on_hosts(path: Path, api: Address | None, *, check: bool, watch: bool) -> int:
    """Has the other hosts apply a file, and runs the part of this host, if it has one. The others go on when that ends.

    :param check: only look whether the file can be divided.
    :param watch: apply the file whenever it has changed, and start afresh when code has.
    :raises ConfigError: when a host can't, and all are as they were before.
    :raises PipeStateError: when a pipe of this host runs from the file already: each wire has one receiver.
    :raises PipertError: as `run` does. What fails before all routines run is put back on the other hosts.
    """
    if check and watch:
        raise typer.BadParameter("give either --check or --watch")
    if check:
        check_for_hosts(PipelineFile(path))
        say(f"{path} is fit to be divided among its hosts, which check their parts: see `pipert-shm apply --dry-run`")
        return 0
    return run_watched(path, api, OnHosts(path)) if watch else run_loaded(OnHosts(path), api)


class OnHosts:
    """A file for several hosts, as `run_loaded` and `run_watched` take it.

    Attributes:
        hosts: the others that run parts of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._brought: Brought | None = None
        self._is_up = False
        self.hosts: list[str] = []

    def load(self) -> Loaded | None:
        """Has the other hosts apply the file; this host's part, or None if it has none.

        :raises PipertError: when that can't be; then they are as they were before.
        """
        file = PipelineFile(self._path)
        _require_no_other(file)
        self._brought = brought = bring(str(file.path), file.path.read_text(encoding="utf-8"))
        self.hosts = list(brought.done)
        say_all("\n".join(brought.lines))
        if brought.text is None:
            say("pipert-shm: no flow is for this host: all is done")
            return None
        try:
            return load(self._path, brought.text)
        except ConfigError as error:  # of a part: told as faults of the whole file
            raise ConfigError([file.fault(Part("", {}).place_of(one.field), one.message) for one in error.faults]) from None

    def started(self, pipe: Pipe) -> None:
        """Waits until all routines of this host run. Then other hosts end what the file no longer names."""
        await_setup(pipe)
        self._is_up = True
        if self._brought is not None:
            say_all("\n".join(self._brought.finish()))

    def failed(self) -> None:
        """Has the other hosts go back to what they had, if not all has come up here."""
        if self._brought is not None and self._brought.text is not None and not self._is_up:
            self._brought.take_back()

    def apply(self) -> bool:
        """Brings all hosts to what the file says now. Returns False where no pipe of this host runs, and it has to be run."""
        if not made_from(os.path.realpath(self._path)):
            return False
        command = [sys.executable, "-m", "pipert_shm.cli", "apply", str(self._path)]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        outcome = "changed: applied" if told.returncode == 0 else "changed, and is not applied:"
        say_all(f"{self._path.name} {outcome}\n{told.stdout}{told.stderr.replace('pipert-shm: ', '')}")
        return True


def _require_no_other(file: PipelineFile) -> None:
    if runs := made_from(file.real_path):
        raise PipeStateError(
            f"pipe {runs[0].name!r} ({runs[0].pipe_id}) runs from {file.path} already: `pipert-shm apply` brings it and all "
            f"hosts to what the file says; `pipert-shm ctl {runs[0].pipe_id} kill` ends it"
        )
