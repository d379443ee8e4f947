"""Brings a running pipe to what a file says: `pipert-shm apply`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import typer

from pipert_shm.cli.remote import call_http, examples, print_json
from pipert_shm.errors import ConfigError, PipeStateError

if TYPE_CHECKING:
    from pipert_shm.pipeline_file.loading import PipelineFile

PATIENCE = 600.0  # seconds: each setup() may take a minute, there and back
FOR_EACH = 4.0  # seconds more for each flow: it may take one to be forked, and one to run; there and back

EXAMPLES = examples(
    "pipert-shm apply yard.yaml                      the pipe that `pipert-shm run yard.yaml` runs",
    "pipert-shm apply yard.yaml --dry-run            what would change",
    "pipert-shm apply yard.yaml --to 10.0.0.5:8080   over HTTP, with the token in PIPERT_TOKEN",
    "pipert-shm apply hosts.yaml                      a file with a section `hosts`: on all of them, or on none",
)


def apply(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE.yaml")],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|URL", help="The pipe's name or id, or where its control listens; else the one of this file."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
    token: Annotated[str | None, typer.Option(envvar="PIPERT_TOKEN", help="The bearer token, for a URL.")] = None,
    reachable_only: Annotated[
        bool, typer.Option("--reachable-only", help="Leave out hosts that can't be reached. By default nothing is done then.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take the place of another file whose pipe has this name on other hosts.")
    ] = False,
) -> None:
    """Bring a running pipe to what its file says now.

    Only what differs is changed: flows come and go, wires are linked anew, parameters are set where the routine has a method
    for that, and else the flow's process is replaced. All the rest goes on. What fails is put back, and told with its line.

    With a section `hosts`, each flow is brought to the host that it names, by the agent there. Where one of them fails, all are
    put back.
    """
    several = for_several_hosts(file)
    if several is not None and to is None:
        from pipert_shm.cli.several import apply_to_hosts

        told = apply_to_hosts(several, dry_run=dry_run, reachable_only=reachable_only, take_over=take_over)
    elif several is not None or reachable_only or take_over:
        several_only = "--reachable-only and --take-over for those with a section `hosts`"
        raise typer.BadParameter(f"--to is for files of one host, and {several_only}")
    else:
        told = apply_file(file, to, dry_run=dry_run, token=token)
    if as_json:
        print_json(told)
    else:
        print("\n".join(told["changes"]) or "nothing differs")


def for_several_hosts(path: Path) -> Any:
    """The `PipelineFile`, if its flows are for several hosts; else None.

    :raises ConfigError: when it has a section `hosts`, and faults.
    """
    from pipert_shm.pipeline_file.loading import PipelineFile

    return PipelineFile(path) if names_hosts(path) else None


def names_hosts(path: Path) -> bool:
    """Whether a file has a section `hosts`."""
    from pipert_shm.pipeline_file.reader import YamlFile

    try:
        data = YamlFile(path).data
    except ConfigError:
        return False  # who loads it says what is wrong
    return isinstance(data, dict) and "hosts" in data


def apply_file(path: Path, to: str | None, *, dry_run: bool, token: str | None) -> dict[str, Any]:
    """Has a running pipe apply a file; what it says of that.

    :param to: the pipe's name or id, or the URL of its control; by default the pipe that runs from this very file.
    :raises ConfigError, NotApplied: when the file has faults, or could not be applied.
    :raises UnknownTarget: when there is no such pipe.
    :raises PipeStateError: when there are several, or one of the file's name that runs from another file.
    :raises RemoteRefusal: when nothing answers at the URL, or the answer is no.
    """
    from pipert_shm.applying.service import KIND, question
    from pipert_shm.attached import attach
    from pipert_shm.pipeline_file.loading import PipelineFile

    file = PipelineFile(path)  # its faults are told here, before anybody is asked
    text = path.read_text(encoding="utf-8")
    patience = PATIENCE + FOR_EACH * sum(flow.replicas for flow in file.settings.flows.values())
    if to is not None and is_url(to):
        url = to if "://" in to else f"http://{to}"
        asked = f"/pipeline?{urlencode({'dry_run': json.dumps(dry_run)})}"
        answer: dict[str, Any] = call_http(url, asked, token=token, body=text.encode(), method="PUT", patience=patience)
        return answer
    with attach(to or pipe_of(file)) as pipe:
        asking = question(text, str(path), file.real_path, dry_run=dry_run)
        told: dict[str, Any] = json.loads(pipe.relay(KIND, asking, timeout=patience))
        return told


def pipe_of(file: PipelineFile) -> str:
    """The id of the pipe that runs from a file."""
    from pipert_shm.shm.finding import find_made_from

    try:
        return find_made_from(file.real_path, file.pipe_name).pipe_id
    except PipeStateError as error:
        raise PipeStateError(f"{error}; --to NAME|ID says which pipe is meant") from None


def is_url(to: str) -> bool:
    """Whether it is an address, such as 127.0.0.1:8080, and no pipe's name."""
    host, colon, port = to.rpartition(":")
    return "://" in to or bool(host and colon and port.isdigit())
