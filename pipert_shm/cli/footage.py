"""The command line for what cameras have recorded: `pipert-shm footage`. What it needs is imported when it is called."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipert_shm.cli.remote import examples, print_json

if TYPE_CHECKING:
    from pipert_shm.video.footage.shelf import Segment

EXAMPLES = examples(
    "pipert-shm footage /var/lib/footage                         what there is, of which camera and time",
    "pipert-shm footage /var/lib/footage --camera gate --from 2026-11-30T10:15 --to 2026-11-30T10:20 --export gate.mp4",
)

GAP_S = 2.0
"""Seconds: footage with a longer gap is shown as two spans."""


def _time(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time such as 2026-11-30T10:15:00, or with +00:00 for UTC") from None


def footage(
    directory: Annotated[Path, typer.Argument(exists=True, file_okay=False, metavar="DIR", help="The footage.")],
    camera: Annotated[str | None, typer.Option(metavar="NAME", help="Only this camera.")] = None,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="From this time on; local, or with its zone.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Up to this time.")] = None,
    target: Annotated[
        Path | None, typer.Option("--export", dir_okay=False, metavar="FILE.mp4", help="Copy this time of one camera there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Show what cameras have recorded continuously, or copy a part of it to a file.

    Reads the names of files, and so can be used while cameras record. A copy begins with the key frame before its time and is
    not encoded anew. Where the camera sent nothing, it has a gap; where the pictures' size changes, a further file begins.
    """
    from pipert_shm.video.footage.shelf import camera_of, cameras, segments

    since, until = (_time(begin) if begin else 0.0), (_time(end) if end else float("inf"))
    if until <= since:
        raise typer.BadParameter("--to must be later than --from")
    folders = [folder for folder in cameras(directory) if camera in (None, camera_of(folder))]
    if camera is not None and not folders:
        known = ", ".join(map(camera_of, cameras(directory))) or "none"
        raise typer.BadParameter(f"nothing of a camera {camera!r} is in {directory}; of these there is: {known}")
    found = {camera_of(folder): list(segments(folder, since, until)) for folder in folders}
    if target is not None:
        _export(found, since, until, target)
    elif as_json:
        print_json([_told(span) for each in found.values() for span in _spans(each)])
    else:
        _show(found)


def _export(found: dict[str, list[Segment]], since: float, until: float, target: Path) -> None:
    from pipert_shm.video.footage.reading import export

    chosen = [each for each in found.values() if each]
    if len(chosen) != 1:
        what = (
            "nothing of that time is there" if not chosen else f"there are several cameras: {', '.join(found)}; give --camera"
        )
        raise typer.BadParameter(what)
    if target.exists():
        raise typer.BadParameter(f"{target} is there already")
    if target.suffix != ".mp4":
        raise typer.BadParameter(f"{target} must end with .mp4")
    for path in export(chosen[0], since, until, target):
        print(path)


def _spans(found: Sequence[Segment]) -> list[list[Segment]]:
    """Files that follow each other without a gap."""
    spans: list[list[Segment]] = []
    for segment in found:
        if spans and abs(segment.start - spans[-1][-1].end) <= GAP_S:
            spans[-1].append(segment)
        else:
            spans.append([segment])
    return spans


def _told(span: Sequence[Segment]) -> dict[str, object]:
    files = [str(segment.path) for segment in span]
    size = sum(segment.path.stat().st_size for segment in span if segment.path.exists())
    return {"camera": span[0].camera, "start": span[0].start, "end": span[-1].end, "bytes": size, "files": files}


def _show(found: dict[str, list[Segment]]) -> None:
    from pipert_shm.display.tables import printable

    for camera, each in found.items():
        for span in _spans(each):
            told = _told(span)
            start, end = (datetime.fromtimestamp(at).astimezone() for at in (span[0].start, span[-1].end))
            seconds, size = span[-1].end - span[0].start, told["bytes"]
            print(
                f"{printable(camera)}  {start:%Y-%m-%d %H:%M:%S%z} to {end:%Y-%m-%d %H:%M:%S%z}  {seconds:8.0f} s  "
                f"{len(span):5} files  {size / 1e6:10.1f} MB"  # type: ignore[operator]
            )
        if not each:
            print(f"{printable(camera)}  nothing of that time")
    if not found:
        print("nothing is recorded there")
