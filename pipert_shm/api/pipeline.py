"""The route that brings the pipe to what a pipeline's text says."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool

from pipert_shm.api.control import MISFIT, STATE, OfPipe
from pipert_shm.api.guard import require_own_site
from pipert_shm.api.models import Applied
from pipert_shm.applying.service import apply_text
from pipert_shm.errors import ConfigError, NotApplied

router = APIRouter(tags=["control"], dependencies=[Depends(require_own_site)])

DryRun = Annotated[bool, Query(description="Only tell what would change.")]

_BODY = {
    "requestBody": {
        "required": True,
        "description": "A pipeline's file, in YAML. It may name the classes that the pipe's own file names, and pipert_shm's.",
        "content": {"application/yaml": {"schema": {"type": "string"}}},
    }
}


@router.put("/pipeline", operation_id="apply_put", responses={**STATE, **MISFIT}, openapi_extra=_BODY)
@router.put("/pipeline/", include_in_schema=False)
async def apply(request: Request, pipe: OfPipe, dry_run: DryRun = False) -> Applied:
    """Brings the pipe to what a pipeline's file says: what differs is changed, and all the rest goes on. It takes a token."""
    if not request.app.state.has_token:
        raise HTTPException(403, "a pipeline names classes and files, so this takes a token: give the server one, token=…")
    try:
        text = (await request.body()).decode()
    except UnicodeDecodeError as error:
        raise HTTPException(422, f"the body is not UTF-8: {error}") from None
    try:
        done = await run_in_threadpool(apply_text, pipe, text, dry_run=dry_run)
    except NotApplied as error:
        raise HTTPException(409, str(error)) from None
    except ConfigError as error:
        raise HTTPException(422, str(error)) from None
    return Applied(dry_run=dry_run, changes=done.difference.lines())
