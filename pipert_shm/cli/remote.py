"""Control of a pipe that another process runs: `pipert-shm ctl` by its name or over HTTP, `pipert-shm rpc` over zerorpc."""

from __future__ import annotations

import json
import os
import socket
from http.client import HTTPException
from typing import Annotated, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

import typer

from pipert_shm.errors import RemoteRefusal
from pipert_shm.events import KILL_EVENT_NAME, START_EVENT_NAME, STOP_EVENT_NAME
from pipert_shm.extras import to_install

PATIENCE_S = 60.0  # how long an answer may take; that to `kill` comes when the pipe has ended

ctl = typer.Typer(help="Control a pipe by its name, or over HTTP: start, pause, kill, events, statistics.")
rpc = typer.Typer(help="Control a pipe over zerorpc, by PipeRT2's calls.")


def examples(*lines: str) -> str:
    """The end of a help text."""
    return "\n\n".join(["Examples:", *(f"- {line}" for line in lines)])


def print_json(value: Any) -> None:
    """For scripts."""
    print(json.dumps(value, indent=2))


# ---- HTTP ----------------------------------------------------------------------------------------


def call_http(
    url: str,
    path: str,
    arguments: dict[str, Any] | None = None,
    token: str | None = None,
    *,
    body: bytes | None = None,
    method: str = "POST",
    patience: float = PATIENCE_S,
) -> Any:
    """Posts to the HTTP control at `url`; its answer.

    :param url: such as `http://127.0.0.1:8080`.
    :param arguments: of an event.
    :param token: for `Authorization: Bearer`.
    :param body: a pipeline's text, where it takes one.
    :param patience: seconds that the answer may take.
    :raises RemoteRefusal: when nothing answers there, or the answer is no.
    """
    kind = "application/json" if body is None else "application/yaml"
    if arguments is not None:
        body = json.dumps({"extra_args": arguments}).encode()
    headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        request = Request(url.rstrip("/") + path, body, headers, method=method)
        with build_opener(ProxyHandler({})).open(request, timeout=patience) as answer:
            return json.load(answer)
    except HTTPError as error:
        with error:
            raise RemoteRefusal(f"{url} refuses: {detail_of(error)}") from None
    except URLError as error:
        raise RemoteRefusal(f"nothing answers at {url}: {error.reason}; is `pipert-shm run --api` up there?") from None
    except (OSError, HTTPException, ValueError) as error:  # a connection that breaks, an address or an answer that is none
        raise RemoteRefusal(f"{url} is not the control of a pipe: {error or type(error).__name__}") from None


def detail_of(error: HTTPError) -> str:
    """Why a server refuses."""
    try:
        answer = json.load(error)
    except ValueError:
        answer = None
    detail = answer.get("detail") if isinstance(answer, dict) else None
    return str(detail or f"{error.code} {error.reason}")


def event_path(event: str, routine: str | None) -> str:
    """Of an event for one routine, or for all that handle it."""
    to = f"{quote(routine, safe='')}/" if routine is not None else ""
    return f"/routines/{to}events/{quote(event, safe='')}/execute"


@ctl.callback(
    epilog=examples(
        "pipert-shm ctl yard pause                        the pipe of this machine that is called yard",
        "pipert-shm ctl 127.0.0.1:8080 pause              over HTTP",
        "pipert-shm ctl yard event SET_THRESHOLD --routine detector value=60",
        "pipert-shm ctl yard stats | jq '.wires[].dropped'",
        "pipert-shm ctl yard@edge-1 pause                 the part that another host runs (PIPERT_HUB says the hub)",
        "pipert-shm ctl 'yard@*' kill                     all hosts end their parts, and forget them",
    )
)
def _ctl(
    context: typer.Context,
    pipe: Annotated[
        str, typer.Argument(metavar="PIPE|URL", help="Its name, PIPE@HOST or id, or where it is controlled: 127.0.0.1:8080.")
    ],
    token: Annotated[str | None, typer.Option(envvar="PIPERT_TOKEN", help="The bearer token, where it asks for one.")] = None,
) -> None:
    """Control a pipe: one of this machine by its name, or one that `pipert-shm run --api` or an `APIWrapper` serves."""
    context.obj = _url(pipe), pipe, token


def _url(pipe: str) -> str | None:
    """The URL that is meant; None where it is a pipe's name."""
    if "://" in pipe:
        return pipe
    host, _, port = pipe.rpartition(":")
    return f"http://{pipe}" if host and port.rstrip("/").isdigit() else None


def _far(pipe: str) -> tuple[str, str] | None:
    from pipert_shm.cli.far import far

    return far(pipe)


def _notify(context: typer.Context, path: str, event: str, routine: str | None, arguments: dict[str, Any] | None) -> None:
    """Has an event notified.

    :param path: of the request where it goes over HTTP.
    """
    url, pipe, token = context.obj
    if url is not None:
        answer = call_http(url, path, arguments, token)
    elif (elsewhere := _far(pipe)) is not None:
        from pipert_shm.cli.far import notify as notify_far

        for host, outcome in notify_far(*elsewhere, event, routine, arguments).items():
            print(f"{host}: {event}: {outcome}")
        return
    else:
        from pipert_shm.cli.by_name import notify

        answer = notify(pipe, event, routine, arguments)
    print(f"{answer['event']}: {answer['outcome']}")


@ctl.command("start")
def _ctl_start(context: typer.Context) -> None:
    """Start all routines."""
    _notify(context, "/start", START_EVENT_NAME, None, None)


@ctl.command("pause")
def _ctl_pause(context: typer.Context) -> None:
    """Stop all routines after the message in hand; `start` goes on."""
    _notify(context, "/pause", STOP_EVENT_NAME, None, None)


@ctl.command("kill")
def _ctl_kill(context: typer.Context) -> None:
    """End the pipe, and wait until it has ended."""
    _notify(context, "/kill", KILL_EVENT_NAME, None, None)


@ctl.command("event")
def _ctl_event(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The event's name.")],
    parameters: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Its parameters; values are JSON where they can be.")
    ] = None,
    routine: Annotated[str | None, typer.Option(help="Notify this routine only.")] = None,
) -> None:
    """Notify an event: to all routines that handle it, or to one."""
    _notify(context, event_path(name, routine), name, routine, dict(map(_parameter, parameters or [])))


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@ctl.command("stats")
def _ctl_stats(context: typer.Context) -> None:
    """Print, as JSON, what each routine and wire has done so far."""
    url, pipe, token = context.obj
    if url is not None:
        print_json(call_http(url, "/statistics", token=token))
        return
    if (elsewhere := _far(pipe)) is not None:
        from pipert_shm.cli.far import ask

        answers = {host: answer.value for host, answer in ask(*elsewhere, "statistics").items()}
        print_json(answers if elsewhere[1] == "*" else answers[elsewhere[1]])
        return
    from pipert_shm.cli.by_name import statistics_of

    print_json(statistics_of(pipe))


# ---- zerorpc -------------------------------------------------------------------------------------


def call_rpc(endpoint: str, name: str, *arguments: Any, key: str | None = None) -> Any:
    """Calls an `RPCPipeWrapper`; its answer.

    :param endpoint: such as `tcp://127.0.0.1:4242`.
    :param key: the server's key, if it has one.
    :raises RemoteRefusal: when nothing answers there, the call fails there, or the key is none.
    :raises ImportError: when zerorpc is not installed.
    """
    try:
        import zerorpc
    except ImportError as error:
        raise ImportError(f"rpc needs zerorpc: {to_install('rpc')}") from error
    _knock(endpoint)
    client = zerorpc.Client(timeout=None)  # `execute join` waits for the pipe's end; that the server is there, heartbeats tell
    try:
        if key:
            from pipert_shm.bridges.rpc import use_key

            use_key(client, key)
        client.connect(endpoint)
        return client(name, *arguments)
    except zerorpc.RemoteError as error:
        raise RemoteRefusal(f"{endpoint} refuses: {error.name}: {error.msg}") from None
    except zerorpc.LostRemote:
        whose = "with this key" if key else "without a key"
        raise RemoteRefusal(f"{endpoint} does not answer; is it an RPCPipeWrapper's, {whose}?") from None
    except ValueError as error:
        raise RemoteRefusal(str(error)) from None
    except zerorpc.zmq.ZMQError as error:
        raise RemoteRefusal(f"{endpoint} is no endpoint: {error}; it looks like tcp://127.0.0.1:4242") from None
    finally:
        client.close()


def _knock(endpoint: str) -> None:
    """Refuses at once when no server listens; zerorpc would wait for 10 s."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if endpoint.startswith("tcp://") and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S).close()
        except OSError as error:
            raise RemoteRefusal(
                f"nothing answers at {endpoint}: {error}; is RPCPipeWrapper(pipe).run_rpc_server() up there?"
            ) from None


@rpc.callback(
    epilog=examples(
        "pipert-shm rpc tcp://127.0.0.1:4242 execute start",
        "pipert-shm rpc tcp://127.0.0.1:4242 execute SET_THRESHOLD '{\"value\": 60}'",
        "pipert-shm rpc tcp://127.0.0.1:4242 execute join '{\"to_kill\": true}'",
        "PIPERT_KEY=… pipert-shm rpc tcp://10.0.0.5:4242 statistics",
    )
)
def _rpc(
    context: typer.Context,
    endpoint: Annotated[
        str, typer.Argument(metavar="ENDPOINT", help="Where RPCPipeWrapper serves, such as tcp://127.0.0.1:4242.")
    ],
) -> None:
    """Control a pipe over zerorpc, by PipeRT2's calls: one that an `RPCPipeWrapper` serves. Needs the rpc extra.

    The key of a server that has one is read from the variable PIPERT_KEY; arguments are seen by every user of the machine.
    """
    context.obj = endpoint


def _call_rpc(context: typer.Context, name: str, *arguments: Any) -> None:
    answer = call_rpc(context.obj, name, *arguments, key=os.environ.get("PIPERT_KEY"))
    if answer is not None:
        print_json(answer)


@rpc.command("start")
def _rpc_start(context: typer.Context) -> None:
    """Start all routines."""
    _call_rpc(context, "start")


@rpc.command("pause")
def _rpc_pause(context: typer.Context) -> None:
    """Stop all routines after the message in hand; `start` goes on."""
    _call_rpc(context, "pause")


@rpc.command("kill")
def _rpc_kill(context: typer.Context) -> None:
    """End the pipe, and wait until it has ended."""
    _call_rpc(context, "kill")


def _json_object(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{text!r} is not a JSON object, such as '{{\"value\": 60}}'")
    return value


@rpc.command("execute")
def _rpc_execute(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The event's name, or join.")],
    arguments: Annotated[
        Any, typer.Argument(parser=_json_object, metavar="JSON", help="What `Pipe.notify_event` or `Pipe.join` takes.")
    ] = None,
) -> None:
    """Notify an event, or wait for the pipe's end (join)."""
    _call_rpc(context, "execute", name, arguments)


@rpc.command("structure")
def _rpc_structure(context: typer.Context) -> None:
    """Print, as JSON, the routines with their flows and events."""
    _call_rpc(context, "structure")


@rpc.command("statistics")
def _rpc_statistics(context: typer.Context) -> None:
    """Print, as JSON, what each routine and wire has done so far."""
    _call_rpc(context, "statistics")
