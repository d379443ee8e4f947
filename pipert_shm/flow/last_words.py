"""What a routine of ours has to say at the end of its stream, such as the end of what has begun."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from pipert_shm.data import Meta
from pipert_shm.errors import SharedMemoryFull
from pipert_shm.flow.context import Context
from pipert_shm.shm.slots import Stopping
from pipert_shm.shm.states import State


class Calls(Protocol):
    """What is asked of those who call `main_logic` otherwise."""

    def call_user(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls the routine's code."""

    def _send(self, send: Callable[..., None], *message: Any) -> None:
        """Sends something."""

    def _report_error(self, metas: list[Meta], error: BaseException) -> None:
        """Logs and counts an error."""


class Waits(Protocol):
    """Whether to go on."""

    state: State

    def obey(self) -> bool:
        """Obeys the commands that came."""


def say_last(context: Context, calls: Calls, control: Waits) -> None:
    """Calls `_at_end` of a routine that has one, after its last message, and sends what that returns, if anything.

    It waits for room as any send does, until the routine is stopped or killed.
    """
    routine, outbox = context.plan.routine, context.outbox
    if not callable(getattr(type(routine), "_at_end", None)):  # what a user calls so on an object is none of ours
        return
    ask = routine._at_end  # type: ignore[attr-defined]
    routine.meta = Meta(context.names, context.plan.origin, 0)
    try:
        result = calls.call_user(ask)
        if result is not None:
            calls._send(outbox.send, [result], routine.meta, 0)
    except (Stopping, SharedMemoryFull):
        pass  # it goes on below
    except BaseException as error:  # SystemExit, too: it ends no run here, as it ends none in main_logic
        calls._report_error([routine.meta], error)
    while outbox.unsent and control.state is State.RUNNING:
        control.obey()
        with suppress(Stopping):
            try:
                calls._send(outbox.flush)
            except SharedMemoryFull as error:
                calls._report_error([routine.meta], error)
                return
