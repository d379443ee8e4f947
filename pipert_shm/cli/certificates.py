"""The command line for certificates: `pipert-shm hub init`, `invite`, `revoke`, `invited`."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from pipert_shm.cli.remote import examples, print_json

certificates = typer.Typer()


def _host_name(name: str) -> str:
    from pipert_shm.hosts.access import check_host_name

    try:
        return check_host_name(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


DEFAULT_FOLDER = Path("pipert-hub")
Folder = Annotated[Path, typer.Option("--dir", file_okay=False, metavar="DIR", help="The authority's folder.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace what is there already.")]


@certificates.command(
    epilog=examples(
        "pipert-shm hub init --name hub.example",
        "pipert-shm hub init --name hub.example --name 10.0.0.7    it is reached by either",
    )
)
def init(
    folder: Folder = DEFAULT_FOLDER,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name or IP address by which hosts reach the hub; by default this machine's."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the hub listens.")] = 7447,
    days: Annotated[int, typer.Option(min=1, help="How long the authority and the hub's certificate are good.")] = 3650,
    replace: Replace = False,
) -> None:
    """Make an authority, which invites hosts, and the hub's certificate.

    Whoever has the folder can let in hosts: keep it where the hub runs, or better elsewhere. The hub needs all of it but
    `ca.key`.
    """
    from pipert_shm.hosts.authority import Authority

    authority = Authority.create(folder, name or [socket.getfqdn()], port, days=days, replace=replace)
    print(f"{folder}: an authority for the hub {authority.hub}; `pipert-shm hub invite NAME` lets in a host")


@certificates.command(
    epilog=examples(
        "pipert-shm hub invite edge-1                 a host with a camera",
        "pipert-shm hub invite laptop --operator      from here files are applied",
    )
)
def invite(
    host: Annotated[str, typer.Argument(parser=_host_name, metavar="NAME", help="The host's name.")],
    folder: Folder = DEFAULT_FOLDER,
    days: Annotated[int, typer.Option(min=1, help="How long the certificate is good.")] = 365,
    operator: Annotated[
        bool, typer.Option("--operator", help="It may ask other hosts to do something, and so run code there.")
    ] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", file_okay=False, metavar="DIR", help="Where it goes.")] = None,
    replace: Replace = False,
) -> None:
    """Make a folder with what a host needs to connect: its certificate and key, the authority's certificate, the hub's address.

    Copy the folder to the host, and give it to `pipert-shm agent`. The certificate may only do what this host does: publish as
    this host, and read what is sent to it.
    """
    from pipert_shm.hosts.authority import Authority

    made = Authority(folder).invite(host, days=days, is_operator=operator, out=out, replace=replace)
    print(f"{made}: the invitation of {host}, with its private key")


@certificates.command(epilog=examples("pipert-shm hub revoke edge-1"))
def revoke(host: Annotated[str, typer.Argument(metavar="NAME")], folder: Folder = DEFAULT_FOLDER) -> None:
    """Let a host in no more, whatever certificate it has.

    A hub that runs from this folder takes it over at once. A new invitation of the same name lets in who has that one only.
    """
    from pipert_shm.hosts.authority import Authority

    Authority(folder).revoke(host)
    print(f"{host} may do nothing any more")


@certificates.command(epilog=examples("pipert-shm hub invited", "pipert-shm hub invited --json"))
def invited(
    folder: Folder = DEFAULT_FOLDER, as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False
) -> None:
    """List the hosts that were invited, and when their certificates end."""
    from dataclasses import asdict

    from pipert_shm.display.tables import Table
    from pipert_shm.hosts.authority import Authority

    hosts = Authority(folder).hosts
    if as_json:
        print_json([asdict(host) for host in hosts])
        return
    rows = [
        (host.name, "operator" if host.is_operator else "host", "revoked" if host.is_revoked else host.expires)
        for host in hosts
    ]
    print(Table(("name", "kind", "until"), rows))
