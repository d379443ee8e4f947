"""The hosts at a hub, and what runs there: `pipert-shm hosts`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from pipert_shm.cli.remote import examples, print_json

EXAMPLES = examples(
    "pipert-shm hosts --hub tcp/10.0.0.7:7447",
    "pipert-shm hosts --hub yard.yaml        the hub and certificates of a pipeline's file",
    "PIPERT_HUB=yard.yaml pipert-shm hosts --json | jq '.[].pipes'",
)


def hosts(
    hub: Annotated[
        str | None, typer.Option(envvar="PIPERT_HUB", metavar="ADDRESS|FILE", help="The hub, or a file with a section `hosts`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """List the hosts whose agents can be reached: labels, versions, and what runs there."""
    from pipert_shm.agents.asking import Asker
    from pipert_shm.agents.reaching import hub_from

    with Asker(hub_from(hub)) as asker:
        about = asker.hosts()
    if as_json:
        print_json(list(about.values()))
        return
    for line in lines_of(about):
        print(line)


def lines_of(about: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """For people."""
    from pipert_shm.display.tables import printable

    if not about:
        return ["no agent is at this hub"]
    lines = []
    for host, its in about.items():
        labels = ", ".join(f"{key}={value}" for key, value in its["labels"].items()) or "no labels"
        since = datetime.fromtimestamp(its["since"], UTC).strftime("%Y-%m-%d %H:%M UTC")
        lines.append(f"{host}: {labels}; pipert_shm {its['version']}, Python {its['python']}, {its['machine']}; since {since}")
        for pipe in its["pipes"].values():
            lines.append(f"  {pipe['name']}: {pipe['state']}{': ' if pipe['error'] else ''}{pipe['error']}")
    return [printable(line) for line in lines]
