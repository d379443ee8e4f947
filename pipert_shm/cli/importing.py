"""The command line that imports configurations: `pipert-shm import`. What it needs is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipert_shm.cli.remote import examples

EXAMPLES = examples(
    "pipert-shm import frigate.yml -o yard.yaml",
    "pipert-shm import frigate.yml --model yolo11n.onnx > yard.yaml",
)


def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FRIGATE.yml")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", dir_okay=False, help="The file to write; else to stdout.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The ONNX file of the network, in place of Frigate's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over the file, if there is one.")] = False,
) -> int:
    """Make a pipeline file of a configuration of Frigate's.

    Cameras, zones, objects, recordings and MQTT are taken over. What has no counterpart is listed, on stderr and as comments in
    the file. Nothing is started, and Frigate's file stays as it is.
    """
    from pipert_shm.importing.frigate import import_frigate
    from pipert_shm.system.streams import say

    if output is not None and output.exists() and not force:
        raise typer.BadParameter(f"{output} is there already; give another name, or --force")
    imported = import_frigate(file, model)
    text = imported.text(file.name)
    if output is None:
        print(text, end="")
    else:
        output.write_text(text)
    for each in imported.notes.to_do:
        say(f"pipert-shm: to do: {each}")
    for each in imported.left_out():
        say(f"pipert-shm: left out: {each}")
    if output is not None:
        say(f"pipert-shm: {output} is written; check it with: pipert-shm run {output} --check")
    return 0
