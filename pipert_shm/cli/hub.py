"""The hub that hosts meet at: `pipert-shm hub`. What it needs is imported when it is called."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from pipert_shm.cli.certificates import certificates
from pipert_shm.cli.remote import examples

PORT = 7447

hub = typer.Typer(invoke_without_command=True)
hub.add_typer(certificates)


@hub.callback(
    epilog=examples(
        "pipert-shm hub                     at port 7447, for networks where everybody may read all",
        "pipert-shm hub --dir pipert-hub    for those that `pipert-shm hub invite` has let in",
    )
)
def _hub(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Option("--dir", file_okay=False, metavar="DIR", help="The folder that `pipert-shm hub init` made.")
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Where hosts connect to: tcp/HOST:PORT, or with --dir tls/HOST:PORT."),
    ] = None,
) -> None:
    """Run the hub that the agents of all hosts connect to: a Zenoh router.

    It keeps nothing: when it is restarted, all connect again, and pipelines go on meanwhile. With --dir each host may do only
    what its certificate says, and who is invited or revoked meanwhile is taken in or shut out at once. Needs the extra `hosts`.
    """
    if context.invoked_subcommand is None:
        run_hub(folder, listen)


def run_hub(folder: Path | None, listen: str | None) -> None:
    """Runs it until a signal ends it.

    :raises HostsError: when the address does not fit, or can't be listened at, or a file can't be read.
    """
    from pipert_shm.agents.hub import Router, run_for_invited
    from pipert_shm.agents.reaching import hub_of

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logger = logging.getLogger("hub")
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    if folder is not None:
        run_for_invited(folder, listen, over, logger)
        return
    with Router(hub_of(listen=listen or f"tcp/0.0.0.0:{PORT}"), None, logger):
        over.wait()
