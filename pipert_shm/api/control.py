"""Control over HTTP: a FastAPI application for a pipe, and a server for it beside the flows.

The server runs in the process that built the pipe, so a flow that dies does not take it along.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipert_shm.errors import PipeFailed, PipertError, PipeStateError, UnknownEvent, UnknownTarget
from pipert_shm.events import KILL_EVENT_NAME, START_EVENT_NAME, STOP_EVENT_NAME
from pipert_shm.pipe import Pipe

SLOW_CLIENT_S = 3  # what a client that is in the middle of a request gets when the server ends

_ADDRESSING = {"self", "event_name", "specific_flow_routines", "specific_routine"}

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])


class Command(BaseModel):
    """The body of a request that executes an event; it may be left out.

    Attributes:
        extra_args: the event's parameters.
    """

    model_config = ConfigDict(extra="forbid")

    extra_args: dict[str, Any] = Field(default_factory=dict, examples=[{"factor": 2}])


class Notified(BaseModel):
    """What was done.

    Attributes:
        event: the event's name.
        routine: whom it was sent to; null: every routine that handles it.
        outcome: `on its way`, or what became of a kill.
    """

    event: str
    routine: str | None
    outcome: str


class RoutineStructure(BaseModel):
    """One routine, and the events that it handles besides those that all do."""

    flow_name: str
    routine_name: str
    events: list[str]


class Structure(BaseModel):
    """The pipe's routines, and the events that all of them handle. Spelt as PipeRT-Cockpit reads it."""

    Routines: list[RoutineStructure]
    Events: list[str]


class _Counters(BaseModel):
    model_config = ConfigDict(from_attributes=True)


_NoneForNan = BeforeValidator(lambda value: None if value != value else value)


class LatencyModel(_Counters):
    """A distribution of durations, microseconds; null where there is none yet."""

    count: int
    p50_us: Annotated[float | None, _NoneForNan]
    p99_us: Annotated[float | None, _NoneForNan]


class RoutineModel(_Counters):
    """The fields of `pipert_shm.RoutineStatistics`."""

    name: str
    flow: str
    state: str
    received: int
    sent: int
    errors: int
    logs_lost: int
    copied_bytes: int
    in_band_bytes: int
    busy_s: float
    age: LatencyModel


class WireModel(_Counters):
    """The fields of `pipert_shm.WireStatistics`."""

    sender: str
    receiver: str
    policy: str
    capacity: int
    sent: int
    received: int
    waiting: int
    dropped: dict[str, int]
    private_bytes: int
    protocol_errors: int
    hop: LatencyModel


class Statistics(BaseModel):
    """The pipe at one moment: `time_s` is monotonic, so that rates are differences over it."""

    time_s: float
    routines: list[RoutineModel]
    wires: list[WireModel]


class Problem(BaseModel):
    """Why a request was refused.

    Attributes:
        detail: what is wrong.
        known: the names that there are, where one was not known.
    """

    detail: str
    known: list[str] = []


router = APIRouter()


async def _pipe_of(request: Request) -> Pipe:
    pipe: Pipe = request.app.state.pipe
    return pipe


# Kept by the application, not by closures: FastAPI's caches hold endpoints, and a pipe's memory lives as long as the pipe.
OfPipe = Annotated[Pipe, Depends(_pipe_of)]


def _route(path: str) -> Callable[[_Endpoint], _Endpoint]:
    """Adds an endpoint by POST and by GET, with and without a slash at its end."""

    def add(endpoint: _Endpoint) -> _Endpoint:
        for method in ("POST", "GET"):
            name = f"{endpoint.__name__}_{method.lower()}"
            router.add_api_route(path, endpoint, methods=[method], operation_id=name)
            router.add_api_route(f"{path}/", endpoint, methods=[method], include_in_schema=False)
        return endpoint

    return add


# Plain functions: a call that waits for the pipe waits in a thread of the pool, and not in the server's loop.


@_route("/start")
def start(pipe: OfPipe) -> Notified:
    """Starts all routines."""
    return _notify(pipe, START_EVENT_NAME)


@_route("/pause")
def pause(pipe: OfPipe) -> Notified:
    """Stops all routines after the message in hand; `/start` goes on."""
    return _notify(pipe, STOP_EVENT_NAME)


@_route("/kill")
def kill(pipe: OfPipe) -> Notified:
    """Ends the pipe, and then the server."""
    return _notify(pipe, KILL_EVENT_NAME)


@_route("/pipe/structure")
def structure(pipe: OfPipe) -> Structure:
    """The routines with their flows and events, and the events that every routine handles."""
    return Structure.model_validate(pipe.get_pipe_structure())


@_route("/statistics")
def statistics(pipe: OfPipe) -> Statistics:
    """What every routine and wire has done so far."""
    now = pipe.statistics()
    return Statistics(
        time_s=now.time_s,
        routines=[RoutineModel.model_validate(routine) for routine in now.routines.values()],
        wires=[WireModel.model_validate(wire) for wire in now.wires.values()],
    )


@_route("/routines/events/{event}/execute")
def execute(pipe: OfPipe, event: str, body: Command | None = None) -> Notified:
    """Notifies every routine that handles it of an event."""
    return _notify(pipe, event, None, body)


@_route("/routines/{routine}/events/{event}/execute")
def execute_on_routine(pipe: OfPipe, routine: str, event: str, body: Command | None = None) -> Notified:
    """Notifies one routine of an event; `kill` ends the whole pipe all the same."""
    return _notify(pipe, event, routine, body)


def _notify(pipe: Pipe, event: str, routine: str | None = None, body: Command | None = None) -> Notified:
    parameters = body.extra_args if body else {}
    taken = sorted(_ADDRESSING & parameters.keys())
    if taken:
        raise HTTPException(422, f"an event's parameter can't be named {' or '.join(taken)}: the path says whom it goes to")
    pipe._built()
    try:
        pipe.notify_event(event, specific_routine=routine, **parameters)
    except ValueError as error:  # they are too large to be sent
        raise HTTPException(422, str(error)) from None
    outcome = "on its way"
    if event == KILL_EVENT_NAME:
        outcome = "the pipe has ended"
        try:
            pipe.join()
        except PipeFailed as failure:
            outcome = f"the pipe has ended, and had failed before: {failure}"
    return Notified(event=event, routine=routine, outcome=outcome)


def _refuse(_: Request, error: Exception) -> JSONResponse:
    status, known = 500, []
    if isinstance(error, UnknownTarget | UnknownEvent):
        known = error.known
        status = 404 if known else 422  # a known event whose parameters don't fit names no others
    elif isinstance(error, PipeStateError):
        status = 409
    return JSONResponse(Problem(detail=str(error), known=known).model_dump(), status)


def _refuse_body(_: Request, error: Exception) -> JSONResponse:
    faults = ["the body is not JSON"]
    if isinstance(error, RequestValidationError):
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    return JSONResponse(Problem(detail="; ".join(faults)).model_dump(), 422)


def create_app(pipe: Pipe) -> FastAPI:
    """The HTTP control of a pipe. Every route takes POST and GET, with and without a slash at its end.

    `/kill` ends the pipe; the server that runs the application ends with it where that is an `APIWrapper`.

    There is no authentication: serve it on a loopback address only.
    """
    refusals: dict[int | str, dict[str, Any]] = {
        404: {"model": Problem, "description": "No such routine or event; `known` has those that there are"},
        409: {"model": Problem, "description": "The pipe has ended, or is not built yet"},
        422: {"model": Problem, "description": "The parameters or the body do not fit"},
    }
    app = FastAPI(title="pipert_shm", description="Control of a running pipe.", responses=refusals)
    app.state.pipe = pipe
    app.include_router(router)
    app.add_exception_handler(PipertError, _refuse)
    for kind in (RequestValidationError, 400):  # a 400 is FastAPI's for a body that is not even text
        app.add_exception_handler(kind, _refuse_body)
    return app


class APIWrapper:
    """Serves a pipe's HTTP control.

    :param host: a loopback address.
    :param port: the TCP port; 0 takes a free one, which the pipe's logger tells.
    :raises ValueError: when `host` is not a loopback address.
    """

    def __init__(self, host: str, port: int, pipe: Pipe) -> None:
        if not _is_loopback(host):
            raise ValueError(
                f"the control can't be bound to {host!r}: it has no authentication yet, so anyone who reaches it could end "
                f"the pipe; use 127.0.0.1, ::1 or localhost (and a tunnel or a proxy that asks who is there)"
            )
        self._address = (host, port)
        self._pipe = pipe

    def run(self) -> None:
        """Serves until the pipe is killed, by `/kill` or otherwise, or Ctrl-C, which kills the pipe. Then both have ended.

        :raises PipeStateError: when the pipe is not built.
        :raises OSError: when the port is taken.
        :raises PipeFailed: as `Pipe.join` does, when a routine failed for good or a flow's process died.
        """
        gone = self._pipe._built().gone
        app = create_app(self._pipe)
        server = _Server(uvicorn.Config(app, log_config=None, lifespan="off"))

        def end_with_pipe() -> None:
            gone.wait()
            server.should_exit = True

        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        with socket.create_server(self._address, family=family) as listener:
            threading.Thread(target=end_with_pipe, name="api-end", daemon=True).start()
            self._pipe.logger.info("the control listens on %s, port %d", *listener.getsockname()[:2])
            try:
                server.run(sockets=[listener])
            except KeyboardInterrupt:
                self._pipe.logger.info("interrupted: the pipe is killed")
        self._pipe.join(to_kill=True)


class _Server(uvicorn.Server):
    """Hangs up on clients that are slow when it ends; to their requests that is a disconnection, and not a failure."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(SLOW_CLIENT_S, self._hang_up)
        await super().shutdown(sockets)

    def _hang_up(self) -> None:
        for connection in self.server_state.connections:
            connection.transport.abort()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
