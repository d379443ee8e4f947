"""The command line to look at frames, and where their time goes: `pipert-shm view` and `trace`. What a command needs is imported
by it, so that `--help` costs nothing.
"""

from __future__ import annotations

from pathlib import Path
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


@looking.command(
    epilog=examples(
        "pipert-shm trace yard                               5 seconds, into yard.pftrace",
        "pipert-shm trace 127.0.0.1:8080 --seconds 1 -o t.pftrace",
    )
)
def trace(
    pipe: Annotated[str, typer.Argument(metavar="PIPE|URL", help="Its name or id; or where it is controlled: 127.0.0.1:8080.")],
    seconds: Annotated[float, typer.Option(min=0.01, max=60, metavar="SECONDS", help="How long it is traced.")] = 5.0,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", dir_okay=False, writable=True, help="Where it goes; by default PIPE.pftrace."
        ),
    ] = None,
    token: Annotated[str | None, typer.Option(envvar="PIPERT_TOKEN", help="The bearer token, where it asks for one.")] = None,
) -> None:
    """Show where the time of each frame goes: trace a running pipe for some seconds.

    The file has a row for each routine and each wire: calls, spans, waits for messages, room and slots, queues, drops with
    their reasons, restarts; arrows follow each frame. Open it at https://ui.perfetto.dev, which reads it in your browser and
    sends it nowhere. The pipe goes on meanwhile. The program that runs it needs the extra `trace`.
    """
    from pipert_shm.cli.trace import default_file, is_url, trace_by_name, trace_over_http
    from pipert_shm.trace.recording import whole_file

    path = output or default_file(pipe)
    with whole_file(path) as file:
        content, report = trace_over_http(pipe, seconds, token) if is_url(pipe) else trace_by_name(pipe, seconds)
        file.write(content)
    print(f"{path}: {report}; open it at https://ui.perfetto.dev")
