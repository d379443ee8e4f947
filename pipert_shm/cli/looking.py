"""The command line to look at frames: `pipert-shm view`. What it needs is imported by it, so that `--help` costs nothing."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pipert_shm.cli.remote import examples

looking = typer.Typer()


@looking.command(
    "view",
    epilog=examples(
        "pipert-shm view yard                      the last routine of it that sends anything",
        "pipert-shm view yard/detector --in page   in a browser of this machine",
    ),
)
def _view(
    target: Annotated[str, typer.Argument(metavar="PIPE[/ROUTINE]", help="A running pipe's name or id, and a routine of it.")],
    way: Annotated[
        Literal["window", "terminal", "page"] | None,
        typer.Option("--in", help="Where; by default the first that there is."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: a free one.")] = 0,
) -> None:
    """Look at what a routine of a running pipe sends, with the boxes of its detections.

    In a window where there is a screen, in the terminal where that shows pictures (kitty's protocol, or sixel), else on a page
    that only this machine can open. The newest frame is shown: the pipe does not wait for it. `q` closes the window; Ctrl-C
    ends it anywhere.
    """
    from pipert_shm.cli.view import view

    view(target, way, port)
