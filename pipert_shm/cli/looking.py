"""The commands that look at pipes: `pipert-shm ls`, `view`, `stream` and `trace`.

What a command needs is imported by it, so that `--help` costs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipert_shm.cli.remote import PATIENCE_S, examples, print_json

looking = typer.Typer()


@looking.command(
    "view",
    epilog=examples(
        "pipert-shm view yard                      the last routine of it that sends anything",
        "pipert-shm view yard/detector --in page   in a browser of this machine",
        "pipert-shm view yard@edge-1/camera        of the part that another host runs (PIPERT_HUB says the hub)",
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
    "stream",
    epilog=examples(
        "pipert-shm stream yard camera rtsp://media.example:8554/yard    to a server, by RTSP",
        "pipert-shm stream yard detector https://media.example/yard/whip --width 1280    by WHIP",
        "pipert-shm stream yard detector /srv/www/yard                   as HLS, into a directory",
    ),
)
def _stream(
    pipe: Annotated[str, typer.Argument(metavar="PIPE", help="A running pipe's name or id.")],
    routine: Annotated[str, typer.Argument(metavar="ROUTINE", help="A routine of it that sends frames.")],
    where: Annotated[str, typer.Argument(metavar="rtsp://…|https://…|DIRECTORY", help="Where to; https:// is for WHIP.")],
    width: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="The most in a row; wider frames are scaled down.")
    ] = None,
    fps: Annotated[float, typer.Option(metavar="FPS", help="The most frames a second.")] = 30.0,
    bit_rate: Annotated[int | None, typer.Option(metavar="BITS", help="Bits a second; by default what suits the size.")] = None,
    token: Annotated[str | None, typer.Option(envvar="PIPERT_WHIP_TOKEN", help="The bearer token, for WHIP.")] = None,
) -> None:
    """Stream what a routine of a running pipe sends, with the boxes of its detections, as H.264.

    To a server that takes it by RTSP or WHIP, or as HLS into a directory. The pipe does not wait for it. A server that is not
    there, or is lost, is tried again. It ends with the pipe, or at Ctrl-C. RTSP and HLS need the extra `pyav`, WHIP needs
    `webrtc`.
    """
    from pipert_shm.cli.stream import stream
    from pipert_shm.streaming.encoding import StreamSettings
    from pipert_shm.streaming.routines import check_where
    from pipert_shm.web.addresses import check_token

    try:
        check_where(where)
        check_token(token)
        settings = StreamSettings(width, fps, bit_rate)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    stream(pipe, routine, where, token, settings)


@looking.command("ls", epilog=examples("pipert-shm ls", "pipert-shm ls yard", "pipert-shm ls yard gate --json | jq '.[].file'"))
def _list(
    pipes: Annotated[
        list[str] | None, typer.Argument(metavar="[PIPE]...", help="Names or ids, or parts of them; by default all pipes.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """List the pipes that have shared memory on this machine.

    Lists the pipes that have segments in /dev/shm: id, alive or stale, name, process that built it, size, and the file that it
    runs from. Below it, each segment:
    what it is, whose ring (flow and pid), size, slots, and how many of them each routine holds; a slot may have several
    holders. Changes nothing, and holds up no pipe.
    """
    from dataclasses import asdict

    from pipert_shm.cli.why import chosen
    from pipert_shm.shm.listing import list_pipe, text_of
    from pipert_shm.shm.segments import pipe_ids
    from pipert_shm.system.streams import say

    found = {listing.pipe_id: listing for listing in map(list_pipe, pipe_ids()) if listing is not None}
    wanted = {pipe_id for name in pipes or () for pipe_id in chosen(found, name)}
    listings = [listing for pipe_id, listing in found.items() if not pipes or pipe_id in wanted]
    if as_json:
        print_json([asdict(listing) for listing in listings])
        return
    if not listings:
        say("pipert-shm: no pipe has shared memory on this machine")
    for listing in listings:
        print(*text_of(listing), sep="\n")


@looking.command(
    epilog=examples(
        "pipert-shm trace yard                               5 seconds, into yard.pftrace",
        "pipert-shm trace 127.0.0.1:8080 --seconds 1 -o t.pftrace",
        "pipert-shm trace yard@edge-1                        the part that another host runs (PIPERT_HUB says the hub)",
    )
)
def trace(
    pipe: Annotated[str, typer.Argument(metavar="PIPE|URL", help="Its name, PIPE@HOST or id; or its control: 127.0.0.1:8080.")],
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
    from pipert_shm.cli.far import far, one
    from pipert_shm.cli.trace import default_file, is_url, trace_by_name, trace_over_http
    from pipert_shm.trace.recording import whole_file

    path = output or default_file(pipe)
    with whole_file(path) as file:
        if is_url(pipe):
            content, report = trace_over_http(pipe, seconds, token)
        elif (elsewhere := far(pipe)) is not None:
            answer = one(*elsewhere, "trace", seconds + PATIENCE_S, seconds=seconds)
            content, report = answer.body, answer.value
        else:
            content, report = trace_by_name(pipe, seconds)
        file.write(content)
    print(f"{path}: {report}; open it at https://ui.perfetto.dev")
