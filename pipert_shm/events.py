"""Events: their names, the `@events` mark, and which method of a routine handles which."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar, cast

from pipert_shm.errors import UnknownEvent, UnknownTarget, shown, suggestion
from pipert_shm.frozen import Frozen
from pipert_shm.limits import Policy, check_queue, checked_fps
from pipert_shm.opaque import pack, unpack

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
PEER_RETURNED_EVENT_NAME = "on_peer_returned"

LIFECYCLE_EVENTS = (START_EVENT_NAME, STOP_EVENT_NAME, KILL_EVENT_NAME)
EVENTS_OF_A_ROUTINE = (START_EVENT_NAME, STOP_EVENT_NAME, UNLINK_EVENT_NAME)  # that each has in get_pipe_structure()
INTERNAL_EVENTS = (*LIFECYCLE_EVENTS, LINK_EVENT_NAME, UNLINK_EVENT_NAME, LOG_DATA, UPDATE_FPS_NAME)

LARGEST_PARAMETERS = 1 << 20  # bytes that one event's parameters may take

_NAMES = {"a pipe": "yard", "a routine": "camera", "a flow": "capture", "an event": "zoom"}  # examples
_MARK = "__pipert_events__"
_Method = TypeVar("_Method", bound=Callable[..., Any])


def check_name(what: str, name: str) -> str:
    """The name, as a plain `str`.

    :raises TypeError: when it is not a str.
    :raises ValueError: when a routine, a flow or an event can't be called so: it has to fit into the path of an HTTP request.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what} must be called by a str, not {shown(name)}; {_NAMES.get(what, 'name')!r}, say")
    if "/" in name:
        raise ValueError(f"{what} can't be called {shown(name)}: over HTTP its name is a part of a path, and '/' divides those")
    if name in ("", ".", ".."):
        raise ValueError(f"{what} can't be called {name!r}: over HTTP its name is a part of a path, and that is none")
    return plain(name)


def plain(text: str) -> str:
    """The text as a plain `str`, where it may be of a subclass."""
    return str.__str__(text)


def events(name: str) -> Callable[[_Method], _Method]:
    """Marks a routine's method as a handler of the event `name`.

    The mark is inherited, also by a method that overrides the marked one. An event may have several handlers, and a method
    may handle several events. A handler runs in its routine's process, at the same time as `main_logic`, on the flow's thread
    for handlers: it may set attributes that `main_logic` reads. Later events of the flow wait for it, including starts and
    stops, so it should return soon. An exception in it is logged and counted, and ends nothing.

    :param name: not empty, `.` or `..`, and with no `/` in it.
    :raises TypeError: when the name is not a str, or the marked object is not a method.
    :raises ValueError: when the name is not a valid one.

    >>> class Zoom:
    ...     @events("zoom")
    ...     def set_zoom(self, factor: float) -> None:
    ...         self.factor = factor
    >>> handlers_of(Zoom)
    {'zoom': ['set_zoom']}
    """
    if inspect.isfunction(name):
        raise TypeError(f'@events takes the name of an event: @events("zoom") above def {name.__name__}(self, …)')
    check_name("an event", name)

    def mark(method: _Method) -> _Method:
        if not callable(method):
            raise TypeError(f"@events({name!r}) marks a method, and can't mark {shown(method)}")
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


class Wiring(Frozen):
    """The checked request of a `link` or `unlink` event. A setting that is None is the earlier wire's, or else the pipe's."""

    receiver: str
    policy: Policy | None = None
    capacity: int | None = None
    timeout: float | None = None


class Event(Frozen):
    """An event on its way. Its parameters stay packed, since it passes through processes that must not run users' code.

    Attributes:
        name: the event's name.
        routines: the names of the routines that get it.
        params: its parameters, packed; empty when there are none.
        wiring: what a `link` or `unlink` event asks of the launcher; else None.
    """

    name: str
    routines: tuple[str, ...]
    params: bytes = b""
    wiring: Wiring | None = None

    def parameters(self) -> dict[str, Any]:
        """The parameters. May raise anything, as `payload.unpack` does."""
        parameters: dict[str, Any] = unpack(self.params) if self.params else {}
        return parameters


def pack_parameters(name: str, params: dict[str, Any]) -> bytes:
    """An event's parameters, as an `Event` carries them.

    :raises PayloadError: when they are too large, nested too deep, or don't pickle.
    """
    return pack(f"the event {name!r}", params, LARGEST_PARAMETERS) if params else b""


class Audience(Frozen):
    """The flows and routines that can be addressed, and the events that they handle, to check an event before it is sent."""

    flows: dict[str, tuple[str, ...]]
    handlers: dict[str, dict[str, tuple[inspect.Signature, ...]]]
    replicas: dict[str, tuple[str, ...]]

    def picklable(self) -> Audience:
        """A copy without the handlers' annotations and default values, which need not pickle."""

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
        return Audience(self.flows, handlers, self.replicas)

    def without(self, flows: Collection[str]) -> Audience:
        """The same without these flows."""
        kept = {name: routines for name, routines in self.flows.items() if name not in flows}
        handlers = {routine: self.handlers[routine] for routines in kept.values() for routine in routines}
        replicas = {
            name: those for name, those in self.replicas.items() if any(one in kept or one in handlers for one in those)
        }
        return Audience(kept, handlers, replicas)

    def only(self, flows: Collection[str]) -> Audience:
        """These flows alone."""
        return self.without([name for name in self.flows if name not in flows])

    def extended(self, other: Audience) -> Audience:
        """The same with the flows of another."""
        return Audience({**self.flows, **other.flows}, {**self.handlers, **other.handlers}, {**self.replicas, **other.replicas})

    def address(
        self,
        name: str,
        flow_routines: dict[str, Iterable[str]] | None,
        specific_routine: str | None,
        params: dict[str, Any],
    ) -> Event:
        """The event with its address, checked before it is sent.

        :raises UnknownTarget: when a flow or routine does not exist.
        :raises UnknownEvent: when no addressed routine handles it, or a handler's required parameter is missing.
        :raises ValueError: when a name is not a str, it is addressed in two ways, or a built-in event's parameter is wrong.
        :raises PayloadError: when the parameters are too large, nested too deep, or don't pickle.
        """
        name = check_event_name(name)
        routines = self._targets(flow_routines, specific_routine)
        self._check(name, routines, params)
        wiring = self._wiring(name, params)
        if name == UPDATE_FPS_NAME:
            checked_fps(params["fps"])
        return Event(name, routines, pack_parameters(name, params), wiring)

    def _wiring(self, name: str, params: dict[str, Any]) -> Wiring | None:
        """The change of wires that the event asks for, if it does."""
        if name == UNLINK_EVENT_NAME:
            return Wiring(_checked_str("unlink_routine_name", params["unlink_routine_name"]))
        if name != LINK_EVENT_NAME:
            return None
        receiver = _checked_str("link_routine_name", params["link_routine_name"])
        self._targets(None, receiver)
        policy, capacity, timeout = (params.get(setting) for setting in ("policy", "capacity", "timeout"))
        check_queue(policy, capacity, timeout)
        return Wiring(
            receiver,
            None if policy is None else cast(Policy, plain(policy)),
            None if capacity is None else int(capacity),
            None if timeout is None else float(timeout),
        )

    def _targets(self, flow_routines: dict[str, Iterable[str]] | None, specific_routine: str | None) -> tuple[str, ...]:
        everyone = [plain(routine) for routines in self.flows.values() for routine in routines]
        if specific_routine is not None:
            if flow_routines:
                raise ValueError(
                    f"an event goes to specific_routine or to those of specific_flow_routines: give {specific_routine!r} or "
                    f"{shown(flow_routines)}"
                )
            specific_routine = _checked_str("specific_routine", specific_routine)
            if specific_routine in everyone:
                return (specific_routine,)
            if specific_routine not in self.replicas:
                raise UnknownTarget("routine", specific_routine, everyone)
            return tuple(map(plain, self.replicas[specific_routine]))
        if not flow_routines:
            return tuple(everyone)
        targets: list[str] = []
        for name, wanted in checked_flow_routines(flow_routines).items():
            flows = (name,) if name in self.flows else self.replicas.get(name, ())
            if not flows:
                raise UnknownTarget("flow", name, list(self.flows))
            members = [routine for flow in flows for routine in self.flows.get(flow, ())]
            chosen: list[str] = []
            for routine in wanted:
                named = (routine,) if routine in members else self.replicas.get(routine, ())
                if not named or not set(named) <= set(members):
                    raise UnknownTarget(f"routine in flow {name!r} named", routine, members)
                chosen.extend(named)
            targets.extend(chosen or members)
        return tuple(map(plain, targets))

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
        if name in INTERNAL_EVENTS:
            self._refuse_strangers(name, signatures, params)

    @staticmethod
    def _refuse_strangers(name: str, signatures: list[inspect.Signature], params: dict[str, Any]) -> None:
        """:raises UnknownEvent: when a built-in event has a parameter that neither it nor a handler takes."""
        strangers = sorted(set(params).difference(*(accepted(signature, params) for signature in signatures)))
        if strangers:
            taken = sorted({parameter for signature in signatures for parameter in signature.parameters})
            raise UnknownEvent(
                name,
                [],
                f"event {name!r} takes no {', '.join(strangers)}; it takes: {', '.join(taken) or 'nothing'}"
                f"{suggestion(strangers[0], taken)}",
            )


def check_event_name(name: Any) -> str:
    """The name, as a plain `str`.

    :raises ValueError: when it is not a str.
    """
    return _checked_str("an event's name", name)


def _checked_str(what: str, value: Any) -> str:
    """The value, as a plain `str`.

    :raises ValueError: when it is not a str.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a str, not {shown(value)}")
    return plain(value)


def checked_flow_routines(flow_routines: Any) -> dict[str, list[str]]:
    """The address of an event, as new lists; empty for None.

    :raises ValueError: when it is not a dict of lists of names.
    """
    form = "specific_flow_routines must be a dict of lists of routines' names, by flow, such as {'detect': ['detector']}"
    if flow_routines is None:
        return {}
    if not isinstance(flow_routines, dict):
        raise ValueError(f"{form}; not {shown(flow_routines)}")
    lists: dict[str, list[str]] = {}
    for flow, routines in flow_routines.items():
        if isinstance(routines, str) or not isinstance(routines, Iterable):
            raise ValueError(f"{form}; not {shown(routines)} for {shown(flow)}")
        lists[_checked_str("a flow's name", flow)] = [_checked_str("a routine's name", routine) for routine in routines]
    return lists


def accepted(signature: inspect.Signature, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of an event that a handler of this signature takes."""
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return params
    return {name: value for name, value in params.items() if name in signature.parameters}
