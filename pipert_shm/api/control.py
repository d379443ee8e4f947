"""The routes that control a pipe, and those that say how it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Body, Depends, HTTPException, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from pipert_shm.api.diagnosis import moment_of
from pipert_shm.api.guard import require_own_site
from pipert_shm.api.models import (
    Command,
    FindingModel,
    Health,
    Link,
    Notified,
    Problem,
    Rate,
    Readiness,
    Removed,
    Restarted,
    StatisticsModel,
    Structure,
    Unlink,
    Why,
    statistics_model,
)
from pipert_shm.diagnosis import diagnose
from pipert_shm.errors import PayloadError, PipeFailed, PipeStateError, WiresValidation
from pipert_shm.events import (
    KILL_EVENT_NAME,
    LINK_EVENT_NAME,
    START_EVENT_NAME,
    STOP_EVENT_NAME,
    UNLINK_EVENT_NAME,
    UPDATE_FPS_NAME,
)
from pipert_shm.pipe import Pipe

Responses = dict[int | str, dict[str, Any]]

_ADDRESSING = {"self", "event_name", "specific_flow_routines", "specific_routine"}

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])


async def _pipe_of(request: Request) -> Pipe:
    pipe: Pipe = request.app.state.pipe
    return pipe


# Kept by the application, not by closures: FastAPI's caches hold endpoints, and a pipe's memory lives as long as the pipe.
OfPipe = Annotated[Pipe, Depends(_pipe_of)]
RoutineName = Annotated[str, Path(description="A routine's name.", examples=["camera"])]
FlowName = Annotated[str, Path(description="A flow's name, or that which replicas share.", examples=["camera"])]
EventName = Annotated[str, Path(description="An event's name.", examples=["start"])]
Parameters = Annotated[
    Command | None,
    Body(
        openapi_examples={
            "parameters": {"summary": "An event with parameters", "value": {"extra_args": {"factor": 2}}},
            "none": {"summary": "An event without; the body may be left out, too", "value": {}},
        }
    ),
]

ABSENT: Responses = {404: {"model": Problem, "description": "No such routine, flow or event; `known` has those there are"}}
STATE: Responses = {409: {"model": Problem, "description": "Not as the pipe is now: it has ended, or is not built yet"}}
MISFIT: Responses = {422: {"model": Problem, "description": "The parameters or the body do not fit"}}

looking = APIRouter(tags=["look"])
changing = APIRouter(tags=["control"], dependencies=[Depends(require_own_site)])


def _route(router: APIRouter, path: str, *methods: str, responses: Responses) -> Callable[[_Endpoint], _Endpoint]:
    """Adds an endpoint by these methods, with and without a slash at its end."""

    def add(endpoint: _Endpoint) -> _Endpoint:
        for method in methods:
            name = f"{endpoint.__name__}_{method.lower()}"
            router.add_api_route(path, endpoint, methods=[method], operation_id=name, responses=responses)
            router.add_api_route(f"{path}/", endpoint, methods=[method], include_in_schema=False)
        return endpoint

    return add


# Plain functions: a call that waits for the pipe waits in a thread of the pool, and not in the server's loop.

# ---- control -------------------------------------------------------------------------------------


@_route(changing, "/start", "POST", "GET", responses=STATE)
def start(pipe: OfPipe) -> Notified:
    """Starts all routines."""
    return _notify(pipe, START_EVENT_NAME)


@_route(changing, "/pause", "POST", "GET", responses=STATE)
def pause(pipe: OfPipe) -> Notified:
    """Stops all routines after the message in hand; `/start` goes on."""
    return _notify(pipe, STOP_EVENT_NAME)


@_route(changing, "/kill", "POST", "GET", responses=STATE)
def kill(pipe: OfPipe) -> Notified:
    """Ends the pipe, and then the server."""
    return _notify(pipe, KILL_EVENT_NAME)


@_route(changing, "/routines/events/{event}/execute", "POST", "GET", responses={**ABSENT, **STATE, **MISFIT})
def execute(pipe: OfPipe, event: EventName, body: Parameters = None) -> Notified:
    """Notifies every routine that handles it of an event."""
    return _notify(pipe, event, None, body)


@_route(changing, "/routines/{routine}/events/{event}/execute", "POST", "GET", responses={**ABSENT, **STATE, **MISFIT})
def execute_on_routine(pipe: OfPipe, routine: RoutineName, event: EventName, body: Parameters = None) -> Notified:
    """Notifies one routine of an event; `kill` ends the whole pipe all the same."""
    return _notify(pipe, event, routine, body)


@_route(changing, "/routines/{routine}/fps", "POST", responses={**ABSENT, **STATE, **MISFIT})
def set_fps(pipe: OfPipe, routine: RoutineName, body: Rate) -> Notified:
    """Limits how often a routine's `main_logic` is called, from the next call on; until its flow is restarted."""
    return _notify(pipe, UPDATE_FPS_NAME, routine, Command(extra_args={"fps": body.fps}))


@_route(changing, "/routines/{routine}/link", "POST", responses={**ABSENT, **STATE, **MISFIT})
def link(pipe: OfPipe, routine: RoutineName, body: Link) -> Notified:
    """Wires a routine to one more receiver; all that it sends from then on goes there, too."""
    settings = body.model_dump(exclude={"receiver"}, exclude_none=True)
    return _notify(pipe, LINK_EVENT_NAME, routine, Command(extra_args={"link_routine_name": body.receiver, **settings}))


@_route(changing, "/routines/{routine}/unlink", "POST", responses={**ABSENT, **STATE, **MISFIT})
def unlink(pipe: OfPipe, routine: RoutineName, body: Unlink) -> Notified:
    """Takes a wire away; what was sent over it still arrives. A receiver whose last wire it was ends."""
    return _notify(pipe, UNLINK_EVENT_NAME, routine, Command(extra_args={"unlink_routine_name": body.receiver}))


@_route(changing, "/flows/{flow}/restart", "POST", responses={**ABSENT, **STATE})
def restart(pipe: OfPipe, flow: FlowName) -> Restarted:
    """Ends a flow's process at once (SIGKILL) and starts it afresh; the rest of the pipe goes on."""
    pipe.restart_flow(flow)
    return Restarted(flow=flow, outcome="on its way")


@_route(changing, "/flows/{flow}", "DELETE", responses={**ABSENT, **STATE, **MISFIT})
def remove(
    pipe: OfPipe,
    flow: FlowName,
    receivers_wait: Annotated[
        bool, Query(description="Routines that are left without an incoming wire wait for another one, and do not end.")
    ] = False,
) -> Removed:
    """Removes a flow with its wires; answers when its process is gone. What it sent is still delivered."""
    pipe._built()
    try:
        pipe.remove_flow(flow, receivers_wait=receivers_wait)
    except WiresValidation as error:  # others need it
        raise HTTPException(422, str(error)) from None
    return Removed(flow=flow, outcome="removed")


# ---- how it is -----------------------------------------------------------------------------------


@_route(looking, "/pipe/structure", "POST", "GET", responses={})
def structure(pipe: OfPipe) -> Structure:
    """The routines with their flows and events, and the events that every routine handles."""
    return Structure.model_validate(pipe.get_pipe_structure())


@_route(looking, "/statistics", "POST", "GET", responses=STATE)
def statistics(pipe: OfPipe) -> StatisticsModel:
    """The counters of every routine, wire and flow, also after the pipe's end."""
    return statistics_model(pipe.statistics())


@_route(looking, "/why", "GET", responses={**STATE, **MISFIT})
async def why(
    pipe: OfPipe, seconds: Annotated[float, Query(ge=0.05, le=5, description="The time that it looks at.")] = 1.0
) -> Why:
    """What slows the pipe down, what it loses and why, and what to try: in words, from the counters of the next moments."""
    before = await run_in_threadpool(moment_of, pipe)
    await asyncio.sleep(seconds)
    now = await run_in_threadpool(moment_of, pipe)
    findings = [FindingModel.model_validate(finding) for finding in diagnose(now, before)]
    return Why(seconds=now.statistics.time_s - before.statistics.time_s, findings=findings)


@_route(looking, "/health", "GET", responses={})
def health() -> Health:
    """Answers as long as the server does, whatever becomes of the pipe. Needs no token."""
    return Health(status="ok")


@_route(looking, "/ready", "GET", responses={503: {"model": Readiness, "description": "Not all of the pipe can work"}})
def ready(pipe: OfPipe, response: Response) -> Readiness:
    """Whether every flow is up and no routine has failed; a pipe that was not started yet, or is paused, is ready. Needs no
    token.
    """
    try:
        now = pipe.statistics()
    except PipeStateError as error:
        problems = [str(error)]
    else:
        problems = [f"flow {flow.name!r}: {flow.state}" for flow in now.flows.values() if flow.state != "running"]
        problems += [f"routine {routine.name!r}: failed" for routine in now.routines.values() if routine.state == "failed"]
    if problems:
        response.status_code = 503
    return Readiness(ready=not problems, problems=problems)


def _notify(pipe: Pipe, event: str, routine: str | None = None, body: Command | None = None) -> Notified:
    parameters = body.extra_args if body else {}
    taken = sorted(_ADDRESSING & parameters.keys())
    if taken:
        raise HTTPException(422, f"an event's parameter can't be named {' or '.join(taken)}: the path says whom it goes to")
    pipe._built()
    try:
        pipe.notify_event(event, specific_routine=routine, **parameters)
    except PayloadError:
        raise  # it knows whether they are too large
    except (ValueError, WiresValidation) as error:  # they don't fit, or name wires that can't be
        raise HTTPException(422, str(error)) from None
    outcome = "on its way"
    if event == KILL_EVENT_NAME:
        outcome = "the pipe has ended"
        try:
            pipe._join()  # and not until this is answered, as join() does
        except PipeFailed as failure:
            outcome = f"the pipe has ended, and had failed before: {failure}"
    return Notified(event=event, routine=routine, outcome=outcome)
