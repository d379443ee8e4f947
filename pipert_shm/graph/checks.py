"""What a graph must be like: names that differ, no cycle, and routines that fit their wires and survive a fork."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from pipert_shm.errors import RoutineError, UniqueRoutineName, WiresValidation, shown
from pipert_shm.events import handlers_of
from pipert_shm.functions import FunctionalMiddleRoutine, require_plain
from pipert_shm.join import Join
from pipert_shm.limits import check_count, check_seconds
from pipert_shm.routine import BatchRoutine, DestinationRoutine, FPSRoutine, MiddleRoutine, Role, Routine, SourceRoutine


def check_names(flows: dict[str, Sequence[Routine]]) -> dict[int, str]:
    """The flow of each routine, by the routine's `id()`.

    :raises UniqueRoutineName: when two routines have the same name.
    """
    seen: dict[str, str] = {}
    flow_of = {}
    for flow, routines in flows.items():
        for routine in routines:
            if routine.name in seen:
                raise UniqueRoutineName(
                    routine.name, f"there are two of this name (flows {seen[routine.name]!r} and {flow!r}); give each its own"
                )
            seen[routine.name] = flow
            flow_of[id(routine)] = flow
    return flow_of


def sorted_by_wires(routines: list[Routine], pairs: list[tuple[Routine, Routine]]) -> list[Routine]:
    """Senders before receivers.

    :raises WiresValidation: when there is a cycle; it names one.
    """
    following: dict[int, list[Routine]] = {id(routine): [] for routine in routines}
    for source, destination in pairs:
        following[id(source)].append(destination)
    order: list[Routine] = []
    state: dict[int, str] = {}
    path: list[Routine] = []

    def visit(routine: Routine) -> None:
        if state.get(id(routine)) == "done":
            return
        if state.get(id(routine)) == "open":
            start = next(i for i, other in enumerate(path) if other is routine)
            names = " -> ".join(repr(other.name) for other in [*path[start:], routine])
            raise WiresValidation(f"the wires make a cycle: {names}")
        state[id(routine)] = "open"
        path.append(routine)
        for other in following[id(routine)]:
            visit(other)
        path.pop()
        state[id(routine)] = "done"
        order.append(routine)

    for routine in routines:
        visit(routine)
    return order[::-1]


def refuse_unforkable(routine: Routine) -> None:
    """:raises RoutineError: when an attribute can't cross a fork."""
    for name, value in vars(routine).items():
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else (value,)
        for item in (value, *values):
            what = _unforkable(item)
            if what:
                raise RoutineError(
                    routine.name, f"attribute {name!r} holds {what}, which does not survive a fork: open it in setup()"
                )


def _unforkable(value: object) -> str | None:
    if isinstance(value, threading.Thread):
        return "a thread"
    socket = sys.modules.get("socket")
    if socket is not None and isinstance(value, socket.socket):
        return "a socket"
    kind = type(value)
    if kind.__module__.split(".")[0] == "cv2" and kind.__name__ in ("VideoCapture", "VideoWriter") and value.isOpened():  # type: ignore[attr-defined]
        return f"an open cv2.{kind.__name__}"
    if kind.__module__.split(".")[0] == "torch" and getattr(value, "is_cuda", False) is True:
        return "a CUDA tensor"
    return None


def logic_of(routine: Routine, role: Role) -> Callable[..., Any]:
    """The routine's `main_logic`, callable with no argument for a source and with the payload for the others.

    :raises RoutineError: when there is none, its signature does not fit the role, or the routine can't run for another reason.
    """
    logic: Callable[..., Any] | None = getattr(routine, "main_logic", None)
    if logic is None or not callable(logic) or getattr(logic, "__func__", None) in _PLACEHOLDERS:
        raise RoutineError(routine.name, f"{type(routine).__name__} has no main_logic")
    _check_runnable(routine)
    signature = inspect.signature(logic)
    arguments: tuple[None, ...] = () if role is Role.SOURCE else (None,)
    if _takes(signature, arguments):
        return logic
    if role is Role.SOURCE and routine.role is None and _takes(signature, (None,)):
        return lambda: logic(None)
    wanted = "main_logic(self)" if role is Role.SOURCE else "main_logic(self, data)"
    raise RoutineError(
        routine.name, f"as a {role.value} it needs {wanted}, but {type(routine).__name__} has main_logic{signature}"
    )


def _check_runnable(routine: Routine) -> None:
    """:raises RoutineError: when a call of one of its methods would run nothing, or a limit of it is out of range."""
    names = ["main_logic", "setup", "cleanup"]
    names += sorted({method for methods in handlers_of(type(routine)).values() for method in methods})
    for name in names:
        if hasattr(routine, name):
            require_plain(routine.name, f"{name}()", getattr(routine, name))
    if isinstance(routine, FunctionalMiddleRoutine):
        require_plain(routine.name, "its function, `logic`,", routine.logic)
    try:
        if routine.hang_timeout is not None:
            check_seconds("hang_timeout", routine.hang_timeout, positive=True, none="never")
        if routine.max_errors is not None:
            check_count("max_errors", routine.max_errors)
    except ValueError as error:
        raise RoutineError(routine.name, str(error)) from None
    if routine.join is not None and not isinstance(routine.join, Join):
        raise RoutineError(routine.name, f'join must be a Join, such as Join(by="seq"), not {shown(routine.join)}')


_PLACEHOLDERS = {cls.main_logic for cls in (SourceRoutine, MiddleRoutine, DestinationRoutine, BatchRoutine, FPSRoutine)}


def _takes(signature: inspect.Signature, arguments: tuple[None, ...]) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True
