"""Files whose flows are for several hosts: `pipert-shm apply` of them, and the check of `pipert-shm run`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipert_shm.errors import ConfigError
from pipert_shm.pipeline_file.loading import PipelineFile
from pipert_shm.system.streams import say

if TYPE_CHECKING:
    from pipert_shm.agents.rollout import Rollout
    from pipert_shm.agents.splitting import Part

APPLY_S = 600.0  # that the pipe of this host may take


def apply_to_hosts(file: PipelineFile, *, dry_run: bool, reachable_only: bool, take_over: bool) -> dict[str, Any]:
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

        rollout = roll_out(
            file, asker, dry_run=dry_run, reachable_only=reachable_only, take_over=take_over, check_here=check_here
        )
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
