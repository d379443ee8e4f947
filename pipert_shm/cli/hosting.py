"""The commands for several hosts: `pipert-shm hub`, `agent`, `hosts` and `export`."""

from __future__ import annotations

import typer

from pipert_shm.cli import agent, export, hosts
from pipert_shm.cli.hub import hub

hosting = typer.Typer()
hosting.add_typer(hub, name="hub")
hosting.command(epilog=agent.EXAMPLES)(agent.agent)
hosting.command(epilog=hosts.EXAMPLES)(hosts.hosts)
hosting.command(epilog=export.EXAMPLES)(export.export)
