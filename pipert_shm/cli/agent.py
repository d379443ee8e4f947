"""The agent of a host: `pipert-shm agent`. What it needs is imported when it is called."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from pipert_shm.cli.remote import examples

EXAMPLES = examples(
    "pipert-shm agent --name edge-1 --hub tcp/10.0.0.7:7447",
    "pipert-shm agent --name gpu-1 --label gpu=true --hub tls/hub:7447 --ca ca.pem --certificate gpu-1.pem --key gpu-1.key",
)


def agent(
    name: Annotated[str, typer.Option(help="What the host is called in `host:`. Each name is there once.")],
    hub: Annotated[str, typer.Option(metavar="ADDRESS", help="Where the hub listens: tcp/HOST:PORT or tls/HOST:PORT.")],
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="By which flows choose hosts. May be repeated.")
    ] = None,
    ca: Annotated[str | None, typer.Option(metavar="FILE", help="Certificate of the authority, for tls/.")] = None,
    certificate: Annotated[str | None, typer.Option(metavar="FILE", help="This host's certificate.")] = None,
    key: Annotated[str | None, typer.Option(metavar="FILE", help="Its private key.")] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where it keeps what it runs. By default below $STATE_DIRECTORY or $XDG_STATE_HOME."),
    ] = None,
    end_pipes: Annotated[
        bool, typer.Option("--end-pipes", help="End the pipes with the agent: in containers, which end them anyway.")
    ] = False,
) -> None:
    """Run the agent of this host, which runs the flows that files name it for.

    It connects to the hub, and listens nowhere. What it was told it keeps on disk, and brings up again after a reboot. Its
    pipes are processes of their own, which go on when the agent dies or is restarted. Code is imported from the working
    directory and from what is installed. Needs the extra `hosts`.
    """
    from pipert_shm.agents.agent import Agent
    from pipert_shm.agents.kept import Store
    from pipert_shm.cli.forwarded import handlers
    from pipert_shm.cli.reaching import hub_of
    from pipert_shm.control.log_output import TERMINAL_FORMAT

    labels = dict(map(_label, label or []))
    logging.basicConfig(level=logging.INFO, format=TERMINAL_FORMAT)
    logger = logging.getLogger("agent")
    way = hub_of(hub, ca=ca, certificate=certificate, key=key)
    try:
        running = Agent(name, labels, way, Store(state or default_state(name)), logger, more=handlers(name))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: running.stop())
    try:
        running.wait()
    finally:
        running.close(and_pipes=end_pipes)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE, such as gpu=true")
    return key, value


def default_state(name: str) -> Path:
    """Where an agent keeps its state: what systemd says, or below the user's own directory."""
    systemd = os.environ.get("STATE_DIRECTORY")
    if systemd:
        return Path(systemd.partition(":")[0]) / name
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home, "pipert-shm", name)
