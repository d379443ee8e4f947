"""The route that traces the pipe: `POST /trace`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from pipert_shm.api.guard import require_own_site
from pipert_shm.api.models import Problem
from pipert_shm.pipe import Pipe

LONGEST_S = 60.0
MEDIA_TYPE = "application/octet-stream"

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}, "description": "A file for Perfetto"},
    409: {"model": Problem, "description": "The pipe has ended, is not built yet, or is being traced already"},
    422: {"model": Problem, "description": "The seconds do not fit"},
    501: {"model": Problem, "description": "The pipe's program lacks the extra `trace`"},
}

router = APIRouter(tags=["look"], dependencies=[Depends(require_own_site)])


@router.post("/trace", response_class=Response, responses=_RESPONSES)
def trace(
    request: Request, seconds: Annotated[float, Query(gt=0, le=LONGEST_S, description="How long it is traced.")] = 5.0
) -> Response:
    """What becomes of every frame in the next seconds, as a file for https://ui.perfetto.dev. See `Pipe.tracing`."""
    pipe: Pipe = request.app.state.pipe
    try:
        report, content = pipe._trace(seconds)
    except ImportError as error:
        return Response(Problem(detail=str(error)).model_dump_json(), 501, media_type="application/json")
    headers = {"Content-Disposition": 'attachment; filename="trace.pftrace"', "X-Trace-Report": str(report)}
    return Response(content, media_type=MEDIA_TYPE, headers=headers)
