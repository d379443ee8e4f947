"""The command line: `pipert-shm`. What a command needs is imported by it, so that `--help` costs nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import pipert_shm
from pipert_shm.cli import importing
from pipert_shm.cli.apply import EXAMPLES, apply, names_hosts
from pipert_shm.cli.footage import EXAMPLES as FOOTAGE_EXAMPLES
from pipert_shm.cli.footage import footage
from pipert_shm.cli.hosting import hosting
from pipert_shm.cli.looking import looking
from pipert_shm.cli.model import EXAMPLES as MODEL_EXAMPLES
from pipert_shm.cli.model import model
from pipert_shm.cli.remote import PATIENCE_S, ctl, examples, print_json, rpc
from pipert_shm.errors import ConfigError, PipeFailed, PipertError
from pipert_shm.system.streams import say

OK, FAILED, UNREADABLE, INTERRUPTED = 0, 1, 2, 130
EXIT_STATUS = "Exit status: 0 when all went well, 1 when something failed, 2 for wrong arguments, 130 after Ctrl-C."

# As a user meets them: running one, looking at one that runs, changing it, files and networks, many hosts.
ORDER = (
    *("run", "doctor", "demo", "ls", "top", "why", "view", "ctl", "apply", "stream", "trace", "footage", "import", "model"),
    *("agent", "hosts", "hub", "export", "rpc", "bench", "clean"),
)

QUIET_OPENCV = {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}


class _Commands(TyperGroup):
    """Makes a command's result the exit status, and of an error a line on stderr."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns the names in the order of `ORDER`; one that is not there comes last."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            status = super().invoke(ctx)
        except (ImportError, OSError, PipertError) as error:
            if isinstance(error, BrokenPipeError):
                raise  # of `| head`
            status = _fail(*_lines_of(error))
        except KeyboardInterrupt:
            status = INTERRUPTED
        ctx.exit(status or OK)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A shared-memory, zero-copy frame pipeline for video analytics.",
    epilog=EXIT_STATUS,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"pipert_shm {pipert_shm.__version__}")
        raise typer.Exit


@app.callback()
def _pipert_shm(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None: ...


app.add_typer(ctl, name="ctl")
app.add_typer(rpc, name="rpc")
app.add_typer(hosting)
app.add_typer(looking)
app.command(epilog=FOOTAGE_EXAMPLES)(footage)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; its exit status.

    :param argv: the arguments, without the program's name; by default the process's own.
    """
    try:
        app(args=None if argv is None else list(argv), prog_name="pipert-shm")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED
    return OK


# ---- running -------------------------------------------------------------------------------------


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8080")
    return host.strip("[]"), int(port)


@app.command(
    epilog=examples(
        "pipert-shm run motion.yaml                         to its end, or Ctrl-C",
        "pipert-shm run motion.yaml --api 127.0.0.1:8080    with HTTP control: see `pipert-shm ctl`",
        "pipert-shm run motion.yaml --check                 validate only",
        "pipert-shm run motion.py --watch                   afresh at each change of the code",
    )
)
def run(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE.yaml|FILE.py")],
    api: Annotated[
        Any,
        typer.Option(
            parser=_address,
            metavar="HOST:PORT",
            help="Listen there for HTTP control; on any but a loopback address with a token, in PIPERT_TOKEN.",
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Validate the file, its classes and its wires; run nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Start afresh when the code or the parameters change.")] = False,
) -> int:
    """Run a pipeline.

    A YAML file names routines by their classes, flows and wires; docs/pipeline.schema.json describes it to editors. A Python
    file defines a function `make_pipe()`, which takes nothing and returns a `Pipe` that is not built.

    The pipe is built and started, and runs until its streams end, it is killed, or Ctrl-C (or SIGTERM) ends it cleanly. When
    a flow has failed for good it says which, with its exit status.
    """
    from pipert_shm.cli.run import load, run, run_watched

    if file.suffix in (".yaml", ".yml") and names_hosts(file):
        from pipert_shm.cli.run_on_hosts import run_on_hosts

        return run_on_hosts(file, api, check=check, watch=watch)
    if check:
        if watch:
            raise typer.BadParameter("give either --check or --watch")
        load(file)
        print(f"{file} is fit to run")
        return OK
    return (run_watched if watch else run)(file, api)


app.command(epilog=EXAMPLES)(apply)
app.command("import", epilog=importing.EXAMPLES)(importing.import_)
app.command(epilog=MODEL_EXAMPLES)(model)


@app.command(
    epilog=examples(
        "pipert-shm demo                               a clip that is installed: vtest.avi, or that of the demo extra",
        "pipert-shm demo --video walk.mp4 --out walk   a video of yours",
        "pipert-shm demo --video rtsp://camera/live    a stream, until Ctrl-C",
    )
)
def demo(
    video: Annotated[
        str | None, typer.Option(metavar="PATH", help="A video file, or a stream's URL (default: a clip that is installed).")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.")] = Path("out"),
) -> int:
    """Find motion in a video, in three processes.

    Decodes a video, finds what moves, and writes an annotated copy (annotated.mp4) and a line of JSON per frame
    (detections.jsonl), in three processes that hand the frames on without copying them. Then it prints what was sent,
    received, dropped and copied, and how long it took. Ctrl-C ends it; what was written until then stays.
    """
    for name, value in QUIET_OPENCV.items():
        os.environ.setdefault(name, value)  # it would write to stderr what the error message says better
    from pipert_shm.cli.demo import chosen_clip, run_demo

    outcome = run_demo(video if video is not None else str(chosen_clip(sys.stderr)), out, sys.stderr)
    if outcome.frames:
        print(outcome.report())
    if outcome.failure:
        return _fail(outcome.failure)
    return INTERRUPTED if outcome.interrupted else OK


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog=examples("pipert-shm bench --help", "pipert-shm bench --quick hand-over    one section, in half a minute"),
)
def bench(context: typer.Context) -> int:
    """Measure on this machine what a hand-over and a pipe cost, beside other libraries. Takes the benchmarks' arguments.

    The other libraries come with the extra `bench`. One that is not installed is named, and the rest are measured.
    """
    import importlib.util

    package = "pipert_shm.bench"
    if importlib.util.find_spec(package) is None:  # in a clone it lies beside the package
        sys.path.insert(0, str(Path(pipert_shm.__file__).parent.parent))
        package = "bench"
    status: int | None = importlib.import_module(f"{package}.__main__").main(context.args)
    return status or OK


# ---- this machine --------------------------------------------------------------------------------


@app.command(epilog=examples("pipert-shm top", "pipert-shm top yard", "pipert-shm top --once --json | jq '.pipes[].wires[]'"))
def top(
    pipe: Annotated[
        str | None, typer.Argument(metavar="[PIPE]", help="Its name or id, or a part of one; by default all pipes that run.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print what happens within one interval, and end.")] = False,
    as_json: Json = False,
    interval: Annotated[float, typer.Option(min=0.05, metavar="SECONDS", help="Time between two looks.")] = 1.0,
) -> None:
    """Show what every running pipe of this machine does: rates, latency, queues, drops, CPU and memory.

    Reads shared memory and /proc only: the pipes don't notice. Rates and latencies are those of the last interval. `own` is
    a process's own memory, `shared` what it has seen of the frames. Arrow keys and PgUp, PgDn, Home and End scroll; `/` filters
    by the names of pipes, flows and routines. End it with q or Ctrl-C.

    Where PIPERT_HUB names a hub, the pipes of all of its hosts are shown, too, by their names `PIPE@HOST`.
    """
    from rich.console import Console

    from pipert_shm.cli.far import top_elsewhere
    from pipert_shm.cli.top import report_once, show_live, show_once

    console = Console(markup=False, highlight=False, emoji=False)  # names are shown as they are
    with top_elsewhere(pipe, interval) as elsewhere:
        if not once:
            if as_json or not console.is_terminal:
                raise typer.BadParameter("give --once: the live table needs a terminal")
            show_live(interval, console, pipe, elsewhere)
            return
        report = report_once(interval, pipe, elsewhere)
    if as_json:
        print_json(report)
    else:
        show_once(report, console)


@app.command(
    epilog=examples(
        "pipert-shm why                all pipes of this machine",
        "pipert-shm why motion         the pipe that `pipert-shm run motion.yaml` runs",
        "pipert-shm why --json | jq '.[].findings[].what'",
    )
)
def why(
    pipe: Annotated[
        str | None, typer.Argument(metavar="[PIPE]", help="Its name or id, or a part of one; by default all pipes that run.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.05, metavar="SECONDS", help="Time between the two looks.")] = 3.0,
    as_json: Json = False,
) -> None:
    """Say in words what slows a running pipe down, what it loses and why, and what to try.

    Takes the counters twice, some seconds apart, from shared memory and /proc: the pipe doesn't notice. What matters most comes
    first: the routine that all others wait for, wires that drop and the reason, sources that leave frames out, frames that are
    copied, errors, restarts, a machine without free processors. Each finding says by which numbers it goes. Ctrl-C ends the
    wait, and shows what is known so far.
    """
    from rich.console import Console

    from pipert_shm.cli.far import ask, far
    from pipert_shm.cli.why import examine, show

    if pipe is not None and (elsewhere := far(pipe)) is not None:
        answers = ask(*elsewhere, "why", seconds + PATIENCE_S, seconds=seconds)
        reports = [report for answer in answers.values() for report in answer.value]
    else:
        reports = examine(pipe, seconds)
    if as_json:
        print_json(reports)
    else:
        show(reports, Console(markup=False, highlight=False, emoji=False))


@app.command()
def clean() -> int:
    """Remove what pipes without a living process left in shared memory.

    Pipes that run are never touched.
    """
    from pipert_shm.shm.segments import is_stale, pipe_ids, sweep_stale

    for pipe_id in sweep_stale():
        print(f"removed {pipe_id}")
    left = [pipe_id for pipe_id in pipe_ids() if is_stale(pipe_id)]
    if left:
        return _fail(f"can't remove {', '.join(left)} from /dev/shm, which is read-only or not ours to write to")
    return OK


@app.command(
    epilog=examples(
        "pipert-shm doctor                     this machine",
        "docker run IMAGE pipert-shm doctor    what it is like in there",
        "pipert-shm doctor motion.yaml         how large /dev/shm has to be for this pipeline",
    )
)
def doctor(
    file: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="[FILE.yaml|FILE.py]")
    ] = None,
    as_json: Json = False,
) -> int:
    """Check whether this machine, container and user can run pipes, and say what to do where not.

    Looks at the kernel, size and permissions of /dev/shm, limits of memory and files, OpenCV, cameras, and what dead pipes
    have left. `missing` is what some pipes need and others don't: a camera, an extra. Fails where a pipe could not run; a
    warning is no failure.

    With a file, such as `pipert-shm run` takes, work out how much of /dev/shm this pipeline needs, ring by ring, and say the
    `shm_size` for Docker, Compose and Kubernetes. The files, cameras and streams that it reads are opened to know how large
    their frames are; what could only be assumed is named. Ends with 0 when the pipeline fits into the /dev/shm that is there,
    with 1 when it does not, and with 2 when the file can't be read.
    """
    if file is not None:
        return _doctor_for(file, as_json)
    from dataclasses import asdict

    from pipert_shm.cli.doctor import examine

    findings = examine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{finding.status:7}  {finding.check:13}  {finding.found}")
            if finding.advice:
                print(f"{'':7}  {'':13}  -> {finding.advice}")
    return FAILED if any(finding.status == "failure" for finding in findings) else OK


def _doctor_for(file: Path, as_json: bool) -> int:
    for name, value in QUIET_OPENCV.items():
        os.environ.setdefault(name, value)  # the table says better what it would write of a stream that does not answer
    from pipert_shm.cli.shm_needs import examine_file

    try:
        examination = examine_file(file)
    except (ImportError, OSError, PipertError) as error:
        _fail(*_lines_of(error))
        return UNREADABLE
    if as_json:
        print_json(examination.as_json())
    else:
        print(examination)
    return OK if examination.fits else FAILED


def _lines_of(error: Exception) -> list[str]:
    if isinstance(error, ConfigError):
        return str(error).splitlines()
    return error.causes if isinstance(error, PipeFailed) else [str(error)]


def _fail(*messages: str) -> int:
    for message in messages:
        say(f"pipert-shm: {' '.join(message.split())}")
    return FAILED
