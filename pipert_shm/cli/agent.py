"""The agent of a host: `pipert-shm agent`. What it needs is imported when it is called."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipert_shm.cli.remote import examples

if TYPE_CHECKING:
    from pipert_shm.hosts.session import Hub

EXAMPLES = examples(
    "pipert-shm agent --name edge-1 --hub tcp/10.0.0.7:7447",
    "pipert-shm agent gpu-1/ --label gpu=true    with the folder that `pipert-shm hub invite gpu-1` made",
)


# longer than 40 lines: half of them say what its arguments are
def agent(
    invitation: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="What `pipert-shm hub invite` made: name, hub and certificate of this host."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the host is called in `host:`. Each name is there once.")] = None,
    hub: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where the hub listens: tcp/HOST:PORT or tls/HOST:PORT.")
    ] = None,
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
    from pipert_shm.control.log_output import TERMINAL_FORMAT

    labels = dict(map(_label, label or []))
    logging.basicConfig(level=logging.INFO, format=TERMINAL_FORMAT)
    logger = logging.getLogger("agent")
    way = _way(invitation, name, hub, (ca, certificate, key))
    name = way.host or ""
    try:
        running = Agent(name, labels, way, Store(state or default_state(name)), logger, more=handlers)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: running.stop())
    try:
        running.wait()
    finally:
        running.close(and_pipes=end_pipes)


def _way(invitation: Path | None, name: str | None, hub: str | None, files: tuple[str | None, str | None, str | None]) -> Hub:
    """The hub, and who this host is."""
    from pipert_shm.agents.reaching import hub_of
    from pipert_shm.hosts.authority import read_invitation

    if invitation is not None:
        told = read_invitation(invitation)
        name, hub, files = name or told.name, hub or told.hub, (told.ca, told.certificate, told.key)
    if name is None or hub is None:
        raise typer.BadParameter("give the folder that `pipert-shm hub invite` made, or --name and --hub")
    return hub_of(hub, ca=files[0], certificate=files[1], key=files[2], host=name)


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
