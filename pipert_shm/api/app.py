"""The FastAPI application: its routes, its guard, and how errors become answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from pipert_shm.api import control, docs, elsewhere, front, hls, journal, metrics, pipeline, preview, tracing, webrtc
from pipert_shm.api.elsewhere import Elsewhere
from pipert_shm.api.hls import Sessions
from pipert_shm.api.journal import Journal
from pipert_shm.api.models import Problem
from pipert_shm.api.preview import Previews
from pipert_shm.api.streams import Streams
from pipert_shm.api.webrtc import Peers
from pipert_shm.errors import PayloadError, PipertError, PipeStateError, UnknownEvent, UnknownTarget
from pipert_shm.pipe import Pipe, check_pipe
from pipert_shm.web.addresses import check_token
from pipert_shm.web.guard import Guard

DESCRIPTION = """\
Control of a running pipe, and a look into it.

Every route may end with a slash. A refusal is a `Problem`: it says what is wrong, and lists the known names where a name was
not known. Browsers may use it from its own pages, and from those of the origins that it was told.
"""

_GUARDED: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The token was not shown"},
    403: {"model": Problem, "description": "The Host or the Origin is not one that may ask"},
    413: {
        "model": Problem,
        "description": "The body is larger than four mebibytes, or an event's parameters are too large or nested too deep",
    },
}


def create_app(
    pipe: Pipe,
    *,
    token: str | None = None,
    hosts: Collection[str] = (),
    origins: Collection[str] = (),
    dashboard: bool = False,
) -> FastAPI:
    """The HTTP control of a pipe, as an ASGI application; `APIWrapper` serves it, and any ASGI server can.

    `/kill` ends the pipe; the server that runs the application ends with it where that is an `APIWrapper`.

    Any number of clients may ask at once. Requests are refused that name another host than localhost, an IP address or one of
    `hosts`, and those that browsers send for pages of other sites than its own and `origins`.

    >>> from pipert_shm import DestinationRoutine, Pipe, SourceRoutine, create_app
    >>> pipe = Pipe()
    >>> pipe.create_flow("flow", True, SourceRoutine("camera"), DestinationRoutine("screen"))
    >>> app = create_app(pipe, token="a long secret", origins=["https://cockpit.example"])
    >>> app.title
    'pipert_shm'

    :param token: what clients have to show, as `Authorization: Bearer …`; a browser opens `/?token=…` once. Without
        one, requests that come in on another address than a loopback address are refused.
    :param hosts: names by which it is reached, as in a `Host` header, without the port.
    :param origins: sites whose pages may use it, such as `https://cockpit.example:8000`.
    :param dashboard: whether there is a page at `/` that shows the pipe, and controls it; in one application of a process. It
        needs the `dashboard` extra.
    :raises ImportError: when the dashboard is wanted, and NiceGUI is not installed.
    :raises TypeError: when the token is no str.
    :raises ValueError: when it is empty, or can't be shown in a header.
    """
    check_pipe("create_app(pipe, …)", pipe)
    check_token(token)
    shown = [Depends(HTTPBearer(auto_error=False))] if token else []  # it is the guard that checks; this tells the schema
    app = FastAPI(
        title="pipert_shm",
        description=DESCRIPTION,
        responses=_GUARDED,
        lifespan=_live,
        dependencies=shown,
        docs_url=None,  # these pages of FastAPI's load scripts from elsewhere
        redoc_url=None,
    )
    app.state.pipe = pipe
    app.state.has_token = token is not None
    _add_state(app, pipe)
    _add_routes(app, dashboard)
    app.add_exception_handler(PipertError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_as_told)
    for kind in (RequestValidationError, 400):  # FastAPI answers 400 to a body that is not even text
        app.add_exception_handler(kind, _refuse_body)
    app.add_middleware(Guard, token=token, hosts=hosts, origins=origins)
    if origins:  # around the guard: what a browser asks before a request shows no token
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Location"],
        )
    return app


def _add_state(app: FastAPI, pipe: Pipe) -> None:
    app.state.journal = Journal(pipe)
    app.state.previews = Previews(pipe)
    app.state.streams = streams = Streams(pipe)
    app.state.hls, app.state.peers = Sessions(streams), Peers(streams)
    app.state.elsewhere = None


def _add_routes(app: FastAPI, dashboard: bool) -> None:
    for router in (
        control.changing,
        pipeline.router,
        control.looking,
        elsewhere.router,
        metrics.router,
        journal.router,
        preview.router,
        hls.router,
        webrtc.router,
        tracing.router,
        docs.router,
    ):
        app.include_router(router)
    app.mount(docs.FILES, docs.docs_files())
    if dashboard:
        from pipert_shm.api.dashboard import add_dashboard  # heavy

        add_dashboard(app)
    else:
        app.include_router(front.router)


@asynccontextmanager
async def _live(app: FastAPI) -> AsyncIterator[None]:
    app.state.journal.start()
    yield
    end_streams(app)
    await app.state.peers.close()
    await app.state.hls.close()


def follow_hosts(app: FastAPI, hosts: Elsewhere) -> None:
    """Has an application show the parts of other hosts, too."""
    app.state.elsewhere = hosts


def end_streams(app: FastAPI) -> None:
    """Ends all answers that would go on as long as the pipe does. Any thread."""
    app.state.journal.stop()
    app.state.previews.close()
    app.state.streams.close()
    if app.state.elsewhere is not None:
        app.state.elsewhere.close()


def _refuse(_: Request, error: Exception) -> JSONResponse:
    status, known = 500, []
    if isinstance(error, UnknownTarget | UnknownEvent):
        known = error.known
        status = 404 if known else 422  # a known event whose parameters don't fit names no others
    elif isinstance(error, PayloadError):
        status = 422 if error.limit is None else 413
    elif isinstance(error, PipeStateError):
        status = 409
    return JSONResponse(Problem(detail=str(error), known=known).model_dump(), status)


def _refuse_as_told(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse(Problem(detail=error.detail).model_dump(), error.status_code, error.headers)


def _refuse_body(request: Request, error: Exception) -> JSONResponse:
    faults = ["the body is not JSON"]
    if isinstance(error, RequestValidationError):
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}" for fault in error.errors()
        ]
    if "json" not in request.headers.get("Content-Type", "json"):
        faults.append(f"say Content-Type: application/json, not {request.headers['Content-Type']}")
    return JSONResponse(Problem(detail="; ".join(faults)).model_dump(), 422)
