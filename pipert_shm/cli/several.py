"""Files whose flows are for several hosts: `pipert-shm run` and `apply` of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from pipert_shm.errors import ConfigError, PipeStateError
from pipert_shm.pipeline_file.loading import PipelineFile
from pipert_shm.system.streams import say

if TYPE_CHECKING:
    from pipert_shm.agents.rollout import Rollout
    from pipert_shm.agents.splitting import Part

APPLY_S = 600.0  # that the pipe of this host may take


def apply_to_hosts(file: PipelineFile, *, dry_run: bool, reachable_only: bool) -> dict[str, Any]:
    """Has all hosts apply a file: the pipe of this host, which runs already, and the agents of the others. All, or none.

    :raises ConfigError, NotApplied: when a host can't, and all are as they were before.
    :raises HostsError: when the hub can't be reached.
    :raises UnknownTarget: when flows are for this host, and no pipe of the file runs here.
    """
    from pipert_shm.agents.asking import Asker
    from pipert_shm.agents.rollout import finish, roll_out, take_back
    from pipert_shm.agents.splitting import hub_by

    assert file.settings.hosts is not None
    hub = hub_by(file.settings.hosts, file.fault)
    with Asker(hub) as asker:
        own: list[str] = []

        def check_here(rollout: Rollout) -> None:
            own[:] = _applied_here(file, rollout, dry_run=True)

        rollout = roll_out(file, asker, dry_run=dry_run, reachable_only=reachable_only, check_here=check_here)
        if dry_run:
            return _told(file, rollout, own, dry_run=True)
        try:
            own = _applied_here(file, rollout, dry_run=False)
        except BaseException:
            for failure in take_back(asker, rollout):
                say(f"pipert-shm: not put back: {failure}")
            raise
        finish(asker, rollout)
        return _told(file, rollout, own, dry_run=False)


def _applied_here(file: PipelineFile, rollout: Rollout, *, dry_run: bool) -> list[str]:
    from pipert_shm.agents.rollout import text_here
    from pipert_shm.applying.service import KIND, question
    from pipert_shm.attached import attach
    from pipert_shm.cli.apply import pipe_of
    from pipert_shm.shm.finding import made_from

    if rollout.here is None:
        return [
            f"! pipe {pipe.name!r} of this host has no flow in the file any more, and goes on: "
            f"`pipert-shm ctl {pipe.pipe_id} kill` ends it"
            for pipe in made_from(file.real_path)
        ]
    text = text_here(file, rollout)
    with attach(pipe_of(file)) as pipe, _as_of(file, rollout.here):
        answer = json.loads(pipe.relay(KIND, question(text, str(file.path), file.real_path, dry_run=dry_run), timeout=APPLY_S))
    return [str(line) for line in answer["changes"]]


@contextmanager
def _as_of(file: PipelineFile, part: Part) -> Iterator[None]:
    """Makes faults of this host's part those of the whole file."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError([file.fault(part.place_of(one.field), one.message) for one in error.faults]) from None


def _told(file: PipelineFile, rollout: Rollout, own: list[str], *, dry_run: bool) -> dict[str, Any]:
    """What `apply` prints."""
    from pipert_shm.agents.rollout import lines_of

    by_host = {host: lines for host, lines in sorted(rollout.changes.items()) if lines}
    return {"dry_run": dry_run, "changes": lines_of(rollout, own), "here": own, "hosts": by_host, "missing": rollout.missing}


# ---- run -----------------------------------------------------------------------------------------


def run_on_hosts(file: PipelineFile, api: tuple[str, int] | None, *, check: bool, watch: bool) -> int:
    """Has the other hosts apply a file, and runs the part of this host, if it has one. The others go on when that ends.

    :param check: only look whether the file can be divided.
    :param watch: is refused.
    :raises ConfigError: when a host can't, and all are as they were before.
    :raises PipeStateError: when a pipe of this host runs from the file already: each wire has one receiver.
    :raises PipertError: as `run` does. What fails before all routines run is put back on the other hosts.
    """
    from pipert_shm.agents.beside import bring
    from pipert_shm.applying.apply import await_setup
    from pipert_shm.cli.run import run
    from pipert_shm.pipe import Pipe

    if watch:
        raise typer.BadParameter("--watch is for files of one host; say `pipert-shm apply` after a change")
    if check:
        check_for_hosts(file)
        say(f"{file.path} is fit to be divided among its hosts, which check their parts: see `pipert-shm apply --dry-run`")
        return 0
    _require_no_other(file)
    brought = bring(str(file.path), file.path.read_text(encoding="utf-8"))
    _say_all(brought.lines)
    if brought.text is None:
        say("pipert-shm: no flow is for this host: all is done")
        return 0
    is_up = False

    def started(pipe: Pipe) -> None:
        nonlocal is_up
        await_setup(pipe)
        is_up = True
        _say_all(brought.finish())

    try:
        return run(file.path, api, started, text=brought.text, hosts=list(brought.done))
    except BaseException as error:
        if not is_up:
            brought.take_back()
        if isinstance(error, ConfigError):
            raise ConfigError([file.fault(_place_of(one.field), one.message) for one in error.faults]) from None
        raise


def _say_all(lines: Iterable[str]) -> None:
    for line in lines:
        say(f"pipert-shm: {line}")


def _place_of(field: str) -> tuple[str | int, ...]:
    """The field of the whole file that a field of a part comes from: as `Part.place_of`, but without its wires."""
    from pipert_shm.agents.splitting import Part

    return Part("", {}).place_of(field)


def _require_no_other(file: PipelineFile) -> None:
    from pipert_shm.shm.finding import made_from

    if runs := made_from(file.real_path):
        raise PipeStateError(
            f"pipe {runs[0].name!r} ({runs[0].pipe_id}) runs from {file.path} already: `pipert-shm apply` brings it and all "
            f"hosts to what the file says; `pipert-shm ctl {runs[0].pipe_id} kill` ends it"
        )


def check_for_hosts(file: PipelineFile) -> None:
    """Checks a file without asking the hub: that it can be divided, wherever its flows will run.

    :raises ConfigError: when it can't.
    """
    from pipert_shm.agents.splitting import hub_by, split

    assert file.settings.hosts is not None
    hub_by(file.settings.hosts, file.fault)
    names = {name: _assumed(flow.host) for name, flow in file.settings.flows.items()}
    split(file, {name: {host: file.settings.flows[name].replicas} for name, host in names.items()}, "here")


def _assumed(host: str | dict[str, str] | None) -> str:
    if isinstance(host, dict):
        return ".".join(f"{key}-{value}" for key, value in sorted(host.items()))
    return "here" if host is None else host
