"""The parts of the pipe that other hosts run: for the route `/hosts`, and as a panel of the dashboard."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from fastapi import APIRouter, Request

from pipert_shm.agents.counts import heard
from pipert_shm.api.graph import COLOURS
from pipert_shm.api.models import HostModel, HostsModel, statistics_model
from pipert_shm.statistics import PipeStatistics

router = APIRouter(tags=["look"])


@dataclass(frozen=True, slots=True)
class HostLook:
    """A host at the last look.

    Attributes:
        problem: why it tells nothing; empty where it does.
        now: its counters; None where it tells none. Names are `ROUTINE@HOST` and `FLOW@HOST`.
        before: those of the look before.
    """

    host: str
    problem: str
    now: PipeStatistics | None = None
    before: PipeStatistics | None = None


class Elsewhere:
    """Follows the parts of other hosts, by a process of its own that begins with the first look. No look waits. Any thread.

    :param file: the pipeline's file, whose section `hosts` says how to reach the hub.
    :param hosts: that run a part of it now.
    """

    def __init__(self, file: str, hosts: Iterable[str]) -> None:
        self._command = [sys.executable, "-m", "pipert_shm.agents.reporting", file, *hosts]
        self._lock = threading.Lock()
        self._looks = [HostLook(host, "it was not asked yet: ask again in a second") for host in sorted(hosts)]
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def look(self) -> list[HostLook]:
        """The newest of all hosts."""
        with self._lock:
            if self._process is None and not self._closed:
                self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True, start_new_session=True)
                threading.Thread(target=self._read, args=(self._process,), name="hosts-look", daemon=True).start()
            return self._looks

    def close(self) -> None:
        """Looks no more."""
        with self._lock:
            process, self._process, self._closed = self._process, None, True
        if process is not None:
            process.kill()
            process.wait()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._looks = self._followed(json.loads(line))
        if not self._closed:
            self._looks = [HostLook(look.host, "the process that asks the hosts has ended") for look in self._looks]

    def _followed(self, told: dict[str, Any]) -> list[HostLook]:
        before = {look.host: look.now for look in self._looks}
        return [
            HostLook(host, its["problem"], its["counts"] and at_host(heard(its["counts"]), host), before.get(host))
            for host, its in told.items()
        ]


def at_host(now: PipeStatistics, host: str) -> PipeStatistics:
    """The same with names that say the host."""

    def on(name: str) -> str:
        return f"{name}@{host}"

    return PipeStatistics(
        now.time_s,
        routines={on(name): replace(its, name=on(name), flow=on(its.flow)) for name, its in now.routines.items()},
        wires={
            (on(one), on(other)): replace(its, sender=on(one), receiver=on(other)) for (one, other), its in now.wires.items()
        },
        flows={on(name): replace(its, name=on(name)) for name, its in now.flows.items()},
    )


@router.get("/hosts/", include_in_schema=False)
@router.get("/hosts", operation_id="hosts_get")
def hosts(request: Request) -> HostsModel:
    """The parts of the pipe that other hosts run, as they were a second ago; none where its file names no hosts."""
    elsewhere: Elsewhere | None = request.app.state.elsewhere
    return HostsModel(hosts=[_model(look) for look in (elsewhere.look() if elsewhere else [])])


def _model(look: HostLook) -> HostModel:
    statistics = None if look.now is None else statistics_model(look.now)
    return HostModel(host=look.host, problem=look.problem, statistics=statistics)


def panel_of(looks: list[HostLook]) -> str:
    """The hosts as HTML: the routines of each, or why it tells nothing."""
    parts = ["<h2>On other hosts</h2>"]
    for look in looks:
        if look.now is None:
            parts.append(f'<div class="bad"><b>{escape(look.host)}</b>: {escape(look.problem)}</div>')
            continue
        for name, routine in look.now.routines.items():
            fps = look.now.fps(name, look.before) if look.before else 0.0
            colour = COLOURS.get(routine.state, "#94a3b8")
            counts = f"{routine.received:,} received, {routine.sent:,} sent, {routine.errors:,} errors"
            parts.append(
                f'<div><b style="color:{colour}">{escape(name)}</b> {routine.state}, {fps:.1f} fps '
                f'<span class="small">{counts}</span></div>'
            )
    return "".join(parts)
