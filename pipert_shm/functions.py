"""Routines made of functions, and the check that a function runs when it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pipert_shm.errors import RoutineError, shown
from pipert_shm.routine import FPSRoutine, MiddleRoutine, Routine


class FunctionalMiddleRoutine(MiddleRoutine):
    """A middle routine made of a function: its result is sent, and None sends nothing. Detections of other libraries are sent
    as in `from_callable`.

    :param func: takes the payload, and `self.meta` if it has a parameter `meta`. It may be a lambda, since flows are forked.
        None: set `logic` before `build()`.
    :raises RoutineError: when it can't be called, or is `async def` or a generator function.

    Attributes:
        logic: the function.

    >>> import numpy as np
    >>> FunctionalMiddleRoutine(lambda frame: frame[::2, ::2], "half").main_logic(np.zeros((4, 6))).shape
    (2, 3)
    """

    def __init__(self, func: Callable[..., Any] | None = None, name: str | None = None) -> None:
        if func is not None:
            _require_function("FunctionalMiddleRoutine", func, name)
        super().__init__(name)
        if func is not None:
            require_plain(self.name, "its function", func)
        self.logic = func
        self._asked: Callable[..., Any] | None = None  # the function of which `_takes_meta` is known
        self._takes_meta = False

    def main_logic(self, data: Any) -> Any:
        """The function's result."""
        assert self.logic is not None  # build() has seen to that
        if self._asked is not self.logic:
            self._asked, self._takes_meta = self.logic, takes_meta(self.logic)
        result = self.logic(data, meta=self.meta) if self._takes_meta else self.logic(data)
        return _sendable(result, data) if _is_found(result) else result


def from_callable(func: Callable[..., Any], name: str | None = None) -> FPSRoutine:
    """A routine whose `main_logic` is any callable: a function, a bound method, an object with `__call__`.

    Its role is inferred from its wires. A source is called with no argument, or with None if it needs one, and raises
    `EndOfStream` at its end; others are called with the payload. A function with a parameter `meta` behind that gets the `meta`
    of the message in hand: its origin, times and `format`, which it may set, too.

    A function may be another library's model: what `supervision`, Ultralytics or `inference-models` found is sent as a
    `DetectedFrame`, with the frame that the function was given; if it was given none, as `Detections`.

    :param name: by default the function's name; for a lambda, `FPSRoutine` and a number.
    :raises RoutineError: when it can't be called, or is `async def` or a generator function.

    >>> def shout(text):
    ...     return text.upper()
    >>> routine = from_callable(shout)
    >>> routine.name, routine.main_logic("hello")
    ('shout', 'HELLO')
    >>> def brightness(frame, meta):
    ...     return meta.origin, float(frame.mean()), meta.format

    """
    _require_function("from_callable", func, name)
    own = getattr(func, "__name__", "<lambda>")
    name = name or (None if own == "<lambda>" else own)
    routine = _WithMeta(name) if callable(func) and takes_meta(func) else FPSRoutine(name)
    require_plain(routine.name, "its function", func)
    if isinstance(routine, _WithMeta):
        routine.function = func
    else:
        setattr(routine, "main_logic", _sending(func))  # noqa: B010 - a plain assignment would not pass the type checker
    return routine


def _sending(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which returns what can be sent."""

    def main_logic(*data: Any) -> Any:
        result = function(*data)
        return _sendable(result, *data) if _is_found(result) else result

    setattr(main_logic, "__wrapped__", function)  # noqa: B010 - as above; its signature is that of the function
    return main_logic


def _is_found(result: Any) -> bool:
    """Whether another library has found something: see `pipert_shm.video.models.foreign`."""
    kind = type(result[0] if type(result) is list and result else result)
    known = _IS_FOUND.get(kind)
    if known is None:
        library = kind.__module__.partition(".")[0]
        known = (library, kind.__name__) in _FOUND or (library == "inference_models" and hasattr(kind, "to_supervision"))
        _IS_FOUND[kind] = known
    return known


_IS_FOUND: dict[type[Any], bool] = {}
_FOUND = {("supervision", "Detections"), ("supervision", "KeyPoints"), ("ultralytics", "Results")}


def _sendable(result: Any, data: Any = None) -> Any:
    from pipert_shm.video.models.foreign import as_payload

    return as_payload(result, data)


class _WithMeta(FPSRoutine):
    """A routine made of a function that takes the meta, too."""

    function: Callable[..., Any]

    @property
    def main_logic(self) -> _Call:  # type: ignore[override]
        """Calls the function. It is made anew for each replica, which has a meta of its own."""
        return _Call(self, self.function)


class _Call:
    """Calls a function with the meta of a routine's message. It has the signature of the function, without that."""

    def __init__(self, routine: Routine, function: Callable[..., Any]) -> None:
        self._routine = routine
        self._function = function
        told = inspect.signature(function)
        self.__signature__ = told.replace(parameters=[each for each in told.parameters.values() if each.name != "meta"])

    def __call__(self, *data: Any) -> Any:
        result = self._function(*data, meta=self._routine.meta)
        return _sendable(result, *data) if _is_found(result) else result


def takes_meta(function: Callable[..., Any]) -> bool:
    """Whether a function has a parameter `meta` that can be given by name, behind that for the payload."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # of C
        return False
    by_name = inspect.Parameter.POSITIONAL_OR_KEYWORD
    only_by_name = inspect.Parameter.KEYWORD_ONLY
    return any(
        each.name == "meta" and (each.kind is only_by_name or (each.kind is by_name and place > 0))
        for place, each in enumerate(parameters)
    )


def _require_function(call: str, func: Any, name: Any) -> None:
    """:raises TypeError: when the name or a routine stands in the function's place."""
    if callable(name) and not callable(func):
        raise TypeError(f"the function comes before the name: {call}(function, {shown(func)}), not {call}({shown(func)}, …)")
    if isinstance(func, Routine) or (isinstance(func, type) and issubclass(func, Routine)):
        raise TypeError(f"{call}() makes a routine of a function, and {shown(func)} is a routine or a class of them already")


def require_plain(routine: str, what: str, function: Any) -> None:
    """:raises RoutineError: when a call of the function would not run its body."""
    if not callable(function):
        raise RoutineError(routine, f"{what} can't be called: it is {shown(function)}")
    for code in (function, getattr(type(function), "__call__", None)):  # noqa: B004 - an object may have an `async def __call__`
        if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
            advice = "write `def`, and call asyncio.run(…) in it where it needs a coroutine"
            raise RoutineError(routine, f"{what} is `async def`, and a call of it runs nothing: {advice}")
        if inspect.isgeneratorfunction(code):
            advice = "return a result instead of `yield`; several results may be one list"
            raise RoutineError(routine, f"{what} is a generator function, and a call of it runs nothing: {advice}")
