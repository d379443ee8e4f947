"""Control of a pipe of this machine by its name: `pipert-shm ctl NAME`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipert_shm.attached import attach
from pipert_shm.errors import PipertError, RemoteRefusal
from pipert_shm.events import KILL_EVENT_NAME

KILL_PATIENCE_S = 60.0  # how long the end of a pipe may take


def notify(
    pipe: str,
    event: str,
    routine: str | None = None,
    arguments: dict[str, Any] | None = None,
    flow_routines: dict[str, Iterable[str]] | None = None,
) -> dict[str, Any]:
    """Notifies an event; what HTTP answers to that. A kill is waited for.

    :raises RemoteRefusal: when there is no such pipe, or it refuses.
    """
    try:
        with attach(pipe) as attached:
            attached.notify_event(event, flow_routines, routine, **(arguments or {}))
            outcome = "on its way"
            if event == KILL_EVENT_NAME:
                outcome = "the pipe has ended" if attached.await_end(KILL_PATIENCE_S) else "the pipe is ending"
    except (PipertError, ValueError, OSError) as error:
        raise RemoteRefusal(f"pipe {pipe}: {error}") from None
    return {"event": event, "routine": routine, "outcome": outcome}


def statistics_of(pipe: str) -> Any:
    """The counters, as HTTP answers them.

    :raises RemoteRefusal: when there is no such pipe, or it refuses.
    """
    from pipert_shm.api.models import statistics_model  # heavy

    try:
        with attach(pipe) as attached:
            return statistics_model(attached.statistics()).model_dump(mode="json")
    except (PipertError, OSError) as error:
        raise RemoteRefusal(f"pipe {pipe}: {error}") from None
