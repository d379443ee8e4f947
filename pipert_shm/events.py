"""Events: their names, the `@events` mark, and which method of a routine handles which."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipert_shm.errors import UnknownEvent, UnknownTarget

START_EVENT_NAME = "start"
STOP_EVENT_NAME = "stop"
KILL_EVENT_NAME = "kill"
UNLINK_EVENT_NAME = "unlink"
UNLINK = UNLINK_EVENT_NAME
LINK_EVENT_NAME = "link"
LINK = LINK_EVENT_NAME
LOG_DATA = "log_data"
UPDATE_FPS_NAME = "update_fps"
PEER_FAILED_EVENT_NAME = "on_peer_failed"

LIFECYCLE_EVENTS = (START_EVENT_NAME, STOP_EVENT_NAME, KILL_EVENT_NAME)
INTERNAL_EVENTS = (*LIFECYCLE_EVENTS, LINK_EVENT_NAME, UNLINK_EVENT_NAME, LOG_DATA, UPDATE_FPS_NAME)

_MARK = "__pipert_events__"
_Method = TypeVar("_Method", bound=Callable[..., Any])


def check_name(what: str, name: str) -> None:
    """:raises ValueError: for a name of a routine, a flow or an event that can't stand in the path of an HTTP request."""
    if "/" in name:
        raise ValueError(f"{what} can't be called {name!r}: over HTTP its name is a part of a path, and '/' divides those")
    if name in ("", ".", ".."):
        raise ValueError(f"{what} can't be called {name!r}: over HTTP its name is a part of a path, and that is none")


def events(name: str) -> Callable[[_Method], _Method]:
    """Marks a routine's method as a handler of the event `name`.

    The mark is inherited, also by a method that overrides the marked one. An event may have several handlers, and a method
    may handle several events. A handler runs in its routine's process, beside `main_logic`, on the flow's control thread: it
    may set attributes that `main_logic` reads, and should return soon. An exception in it is logged, and nothing else.

    :param name: not empty, `.` or `..`, and with no `/` in it.
    :raises ValueError: when it is or has.

    >>> class Zoom:
    ...     @events("zoom")
    ...     def set_zoom(self, factor: float) -> None:
    ...         self.factor = factor
    >>> handlers_of(Zoom)
    {'zoom': ['set_zoom']}
    """
    check_name("an event", name)

    def mark(method: _Method) -> _Method:
        setattr(method, _MARK, (*getattr(method, _MARK, ()), name))
        return method

    return mark


def handlers_of(cls: type) -> dict[str, list[str]]:
    """The names of the methods that handle each event, base classes' first."""
    handlers: dict[str, list[str]] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            for name in getattr(value, _MARK, ()):
                methods = handlers.setdefault(name, [])
                if attribute not in methods:
                    methods.append(attribute)
    return handlers


def _link(
    link_routine_name: str, policy: str | None = None, capacity: int | None = None, timeout: float | None = None
) -> None: ...
def _unlink(unlink_routine_name: str) -> None: ...
def _update_fps(fps: float) -> None: ...


_BUILT_IN = {
    LINK_EVENT_NAME: (inspect.signature(_link),),
    UNLINK_EVENT_NAME: (inspect.signature(_unlink),),
    UPDATE_FPS_NAME: (inspect.signature(_update_fps),),
}


@dataclass(frozen=True, slots=True)
class Event:
    """An event on its way: its name, the routines it goes to, and its parameters."""

    name: str
    routines: tuple[str, ...]
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Audience:
    """Who can be addressed, and what they handle: what a process needs to check an event before it is sent."""

    flows: dict[str, tuple[str, ...]]
    handlers: dict[str, dict[str, tuple[inspect.Signature, ...]]]
    copies: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def picklable(self) -> Audience:
        """The same, of names only: what handlers are annotated with, and their default values, need not pickle."""

        def bare(signature: inspect.Signature) -> inspect.Signature:
            parameters = [
                parameter.replace(
                    annotation=parameter.empty, default=parameter.empty if parameter.default is parameter.empty else None
                )
                for parameter in signature.parameters.values()
            ]
            return inspect.Signature(parameters)

        handlers = {
            routine: {event: tuple(map(bare, signatures)) for event, signatures in by_event.items()}
            for routine, by_event in self.handlers.items()
        }
        return Audience(self.flows, handlers, self.copies)

    def address(
        self,
        name: str,
        flow_routines: dict[str, Iterable[str]] | None,
        specific_routine: str | None,
        params: dict[str, Any],
    ) -> Event:
        """The event, addressed.

        :raises UnknownTarget: when a flow or routine does not exist.
        :raises UnknownEvent: when none of those addressed handles it, or a handler's required parameter is missing.
        """
        routines = self._targets(flow_routines, specific_routine)
        self._check(name, routines, params)
        if name == LINK_EVENT_NAME:
            self._targets(None, params["link_routine_name"])
        return Event(name, routines, params)

    def _targets(self, flow_routines: dict[str, Iterable[str]] | None, specific_routine: str | None) -> tuple[str, ...]:
        everyone = [routine for routines in self.flows.values() for routine in routines]
        if specific_routine is not None:
            if specific_routine in everyone:
                return (specific_routine,)
            if specific_routine not in self.copies:
                raise UnknownTarget("routine", specific_routine, everyone)
            return self.copies[specific_routine]
        if not flow_routines:
            return tuple(everyone)
        targets: list[str] = []
        for name, wanted in flow_routines.items():
            flows = (name,) if name in self.flows else self.copies.get(name, ())
            if not flows:
                raise UnknownTarget("flow", name, list(self.flows))
            members = [routine for flow in flows for routine in self.flows.get(flow, ())]
            chosen: list[str] = []
            for routine in wanted:
                named = (routine,) if routine in members else self.copies.get(routine, ())
                if not named or not set(named) <= set(members):
                    raise UnknownTarget(f"routine in flow {name!r} named", routine, members)
                chosen.extend(named)
            targets.extend(chosen or members)
        return tuple(targets)

    def _check(self, name: str, routines: tuple[str, ...], params: dict[str, Any]) -> None:
        signatures = [signature for routine in routines for signature in self.handlers[routine].get(name, ())]
        signatures += _BUILT_IN.get(name, ())
        if not signatures and name not in INTERNAL_EVENTS:
            known = {event for routine in routines for event in self.handlers[routine]}
            raise UnknownEvent(name, sorted({*known, *LIFECYCLE_EVENTS, LINK_EVENT_NAME, UNLINK_EVENT_NAME, LOG_DATA}))
        for signature in signatures:
            try:
                signature.bind(**accepted(signature, params))
            except TypeError as error:
                raise UnknownEvent(name, [], f"event {name!r}: {error}; its handler is {name}{signature}") from None


def accepted(signature: inspect.Signature, params: dict[str, Any]) -> dict[str, Any]:
    """Those of an event's parameters that a handler of this signature takes."""
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return params
    return {name: value for name, value in params.items() if name in signature.parameters}
