"""Routines made of functions, and the check that a function runs when it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pipert_shm.errors import RoutineError, shown
from pipert_shm.routine import FPSRoutine, MiddleRoutine, Routine


class FunctionalMiddleRoutine(MiddleRoutine):
    """A middle routine made of a function: its result is sent, and None sends nothing.

    :param func: takes the payload. It may be a lambda, since flows are forked. None: set `logic` before `build()`.
    :raises RoutineError: when it can't be called, or is `async def` or a generator function.

    Attributes:
        logic: the function.

    >>> import numpy as np
    >>> FunctionalMiddleRoutine(lambda frame: frame[::2, ::2], "half").main_logic(np.zeros((4, 6))).shape
    (2, 3)
    """

    def __init__(self, func: Callable[[Any], Any] | None = None, name: str | None = None) -> None:
        if func is not None:
            _require_function("FunctionalMiddleRoutine", func, name)
        super().__init__(name)
        if func is not None:
            require_plain(self.name, "its function", func)
        self.logic = func

    def main_logic(self, data: Any) -> Any:
        """The function's result."""
        assert self.logic is not None  # build() has seen to that
        return self.logic(data)


def from_callable(func: Callable[..., Any], name: str | None = None) -> FPSRoutine:
    """A routine whose `main_logic` is any callable: a function, a bound method, an object with `__call__`.

    Its role is inferred from its wires. A source is called with no argument, or with None if it needs one, and raises
    `EndOfStream` at its end; others are called with the payload.

    :param name: by default the function's name; for a lambda, `FPSRoutine` and a number.
    :raises RoutineError: when it can't be called, or is `async def` or a generator function.

    >>> def shout(text):
    ...     return text.upper()
    >>> routine = from_callable(shout)
    >>> routine.name, routine.main_logic("hello")
    ('shout', 'HELLO')
    """
    _require_function("from_callable", func, name)
    own = getattr(func, "__name__", "<lambda>")
    routine = FPSRoutine(name or (None if own == "<lambda>" else own))
    require_plain(routine.name, "its function", func)
    setattr(routine, "main_logic", func)  # noqa: B010 - a plain assignment would not pass the type checker
    return routine


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
