"""Says in words what slows the pipes of this machine down: `pipert-shm why`."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from textwrap import wrap
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.text import Text

from pipert_shm.agents.names import HUB_VARIABLE
from pipert_shm.diagnosis import Finding, Moment, diagnose, take
from pipert_shm.display.tables import printable
from pipert_shm.errors import UnknownTarget
from pipert_shm.frozen import Frozen
from pipert_shm.shm.listing import Control, list_pipe
from pipert_shm.shm.segments import pipe_ids

COLOURS = {"problem": "bold red", "cost": "bold yellow", "note": "bold"}


class Look(Frozen):
    """A pipe at one moment; or why it can't be read.

    Attributes:
        name: what it is called; empty where that is unknown.
        moment: None where it can't be read.
        problem: why not.
    """

    pipe_id: str
    name: str
    moment: Moment | None
    problem: str = ""


def look(wanted: str | None = None) -> dict[str, Look]:
    """At the pipes of this machine that run, by id.

    :param wanted: the id or the name of a pipe, or a part of one of them; None for all.
    """
    looks = {}
    for pipe_id in pipe_ids():
        listing = list_pipe(pipe_id)
        if listing is None or listing.state == "stale":
            continue
        try:
            with Control(pipe_id, stale=False) as control:
                moment = take(control.process, control.flows, control.routines, listing.segments)
        except FileNotFoundError:
            continue  # it has ended meanwhile
        except (OSError, ValueError, LookupError) as error:
            looks[pipe_id] = Look(pipe_id, listing.name, None, str(error))
            continue
        looks[pipe_id] = Look(pipe_id, listing.name, moment)
    return looks if wanted is None else chosen(looks, wanted)


class Named(Protocol):
    """Anything that is of one pipe."""

    @property
    def name(self) -> str:
        """The pipe's name."""


N = TypeVar("N", bound=Named)


def chosen(looks: dict[str, N], wanted: str) -> dict[str, N]:
    """Those that are called so; where there are none, those whose id or name contains it, in any case.

    :raises UnknownTarget: when there is none.
    """
    exact = {pipe_id: one for pipe_id, one in looks.items() if wanted in (pipe_id, one.name)}
    part = wanted.casefold()
    found = exact or {
        pipe_id: one for pipe_id, one in looks.items() if part in pipe_id.casefold() or part in one.name.casefold()
    }
    if not found:
        at_host = "@" in wanted and not os.environ.get(HUB_VARIABLE)
        hint = f"{HUB_VARIABLE} says the hub, where a pipe of another host is meant" if at_host else ""
        raise UnknownTarget("pipe", wanted, [one.name or pipe_id for pipe_id, one in looks.items()], hint)
    return found


def examine(wanted: str | None, seconds: float) -> list[dict[str, Any]]:
    """Looks at the pipes twice, and says what was found out of each, as plain values for JSON. Ctrl-C ends the time between.

    :raises UnknownTarget: when no pipe is called so.
    """
    before = look(wanted)
    with suppress(KeyboardInterrupt):  # then what is known so far is told
        time.sleep(seconds if before else 0)
    now = look()
    return [_report(one, now.get(pipe_id)) for pipe_id, one in before.items()]


def _report(before: Look, now: Look | None) -> dict[str, Any]:
    report: dict[str, Any] = {"pipe_id": before.pipe_id, "name": before.name, "problem": "", "seconds": 0.0, "findings": []}
    if now is None:
        return {**report, "problem": "it has ended meanwhile"}
    if before.moment is None or now.moment is None:
        return {**report, "problem": now.problem or before.problem}
    findings = diagnose(now.moment, before.moment)
    seconds = now.moment.statistics.time_s - before.moment.statistics.time_s
    return {**report, "seconds": seconds, "findings": [as_dict(finding) for finding in findings]}


def as_dict(finding: Finding) -> dict[str, Any]:
    """A finding as plain values."""
    names = ("kind", "severity", "about", "where", "what", "why", "advice", "drawn_from")
    return {name: list(value) if isinstance(value := getattr(finding, name), tuple) else value for name in names}


def show(reports: list[dict[str, Any]], console: Console) -> None:
    """Prints it for people."""
    if not reports:
        console.print(Text("no pipe runs on this machine"))
    for report in reports:
        name = f"{report['name']} ({report['pipe_id']})" if report["name"] else report["pipe_id"]
        told = report["problem"] or f"in {report['seconds']:.1f} s"
        console.print(Text(printable(f"pipe {name}: {told}"), style="bold"))
        for number, finding in enumerate(report["findings"], 1):
            _show_one(number, finding, console)


def _show_one(number: int, finding: dict[str, Any], console: Console) -> None:
    where = f", {finding['about']} {finding['where']}" if finding["where"] else ""
    head = f"{number}. {finding['severity']}: {finding['kind']}{where}"
    console.print(Text(f"\n{printable(head)}", style=COLOURS[finding["severity"]]))
    for line in filter(None, (finding["what"], finding["why"])):
        _indented(line, 3, console)
    for advice in finding["advice"]:
        _indented(f"try: {advice}", 8, console)
    _indented(f"from: {finding['drawn_from']}", 9, console, style="dim")


def _indented(line: str, further: int, console: Console, style: str = "") -> None:
    for piece in wrap(printable(line), console.width, initial_indent="   ", subsequent_indent=" " * further):
        console.print(Text(piece, style=style))
