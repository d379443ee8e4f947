"""The command line that writes manifests: `pipert-shm export`. What it needs is imported when it is called."""

from __future__ import annotations

import importlib
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipert_shm.cli.remote import examples

EXAMPLES = examples(
    "pipert-shm export compose yard.yaml -o there && docker compose -f there/compose.yaml up",
    "pipert-shm export kubernetes yard.yaml --image registry.example/yard:1    to stdout",
    "pipert-shm export systemd yard.yaml -o there    a folder for each machine",
)


class Manager(StrEnum):
    """Who starts the processes."""

    kubernetes = "kubernetes"
    compose = "compose"
    systemd = "systemd"


def export(
    manager: Annotated[Manager, typer.Argument(metavar="kubernetes|compose|systemd")],
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE.yaml")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", file_okay=False, metavar="DIR", help="Where the files go; else to stdout.")
    ] = None,
    image: Annotated[str, typer.Option(help="The image of the containers; see examples/deploy.")] = "pipert",
    authority: Annotated[
        Path, typer.Option("--dir", file_okay=False, metavar="DIR", help="The folder of `pipert-shm hub init`.")
    ] = Path("pipert-hub"),
) -> None:
    """Write what starts the hub and the agents of a pipeline for several hosts.

    Each host gets an agent, a /dev/shm as large as its part needs, and its certificate: hosts that have none are invited. The
    file is applied from a host of its own, named by `hosts: {name: …}`, and runs the flows that name no host. Files and cameras
    that the pipeline reads are opened to know how large their frames are. Nothing is started.
    """
    from pipert_shm.exporting.deployment import INVITATION, deployment_of
    from pipert_shm.exporting.systemd import FOLDER
    from pipert_shm.system.streams import say

    invitation = FOLDER if manager is Manager.systemd else INVITATION
    deployment = deployment_of(file, authority, invitation)
    files = importlib.import_module(f"pipert_shm.exporting.{manager}").files_of(deployment, image)
    if deployment.assumed:
        say(f"pipert-shm: how large the frames are of {', '.join(deployment.assumed)} is assumed; see `pipert-shm doctor`")
    if output is None:
        for path, data in files.items():
            print(f"# ---- {path}\n{data.decode()}" if len(files) > 1 else data.decode())
        return
    for path, data in files.items():
        _write(output / path, data, is_secret=path in deployment.files or deployment.has_tls)
    how_many = "1 file" if len(files) == 1 else f"{len(files)} files"
    print(f"{output}: {how_many} for {', '.join(host.name for host in (*deployment.hosts, deployment.applier))}")


def _write(path: Path, data: bytes, *, is_secret: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if is_secret else 0o644), "wb") as file:
        file.write(data)
