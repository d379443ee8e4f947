"""The hub that hosts meet at: `pipert-shm hub`. What it needs is imported when it is called."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Annotated

import typer

from pipert_shm.cli.certificates import certificates
from pipert_shm.cli.remote import examples

hub = typer.Typer(invoke_without_command=True)
hub.add_typer(certificates)


@hub.callback(
    epilog=examples(
        "pipert-shm hub                                   at port 7447, for networks where everybody may read all",
        "pipert-shm hub --listen tls/0.0.0.0:7447 --ca ca.pem --certificate hub.pem --key hub.key",
    )
)
def _hub(
    context: typer.Context,
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where agents and wires connect to: tcp/HOST:PORT or tls/HOST:PORT.")
    ] = "tcp/0.0.0.0:7447",
    ca: Annotated[str | None, typer.Option(metavar="FILE", help="Certificate of the authority, for tls/.")] = None,
    certificate: Annotated[str | None, typer.Option(metavar="FILE", help="The hub's own certificate.")] = None,
    key: Annotated[str | None, typer.Option(metavar="FILE", help="Its private key.")] = None,
) -> None:
    """Run the hub that the agents of all hosts connect to: a Zenoh router.

    It keeps nothing: when it is restarted, all connect again, and pipelines go on meanwhile. Needs the extra `hosts`.
    """
    if context.invoked_subcommand is None:
        run_hub(listen, ca, certificate, key)


def run_hub(listen: str, ca: str | None, certificate: str | None, key: str | None) -> None:
    """Runs it until a signal ends it.

    :raises HostsError: when the address does not fit, or can't be listened at, or a file can't be read.
    """
    from pipert_shm.agents.hub import Router
    from pipert_shm.cli.reaching import hub_of

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with Router(hub_of(listen=listen, ca=ca, certificate=certificate, key=key), None, logging.getLogger("hub")):
        over.wait()
