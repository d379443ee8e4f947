"""Parameters of routines: what constructors were given, and the mark `@parameter` of those that can be set while they run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Self, TypeVar

from pipert_shm.errors import shown

_MARK = "__pipert_parameter__"
_Method = TypeVar("_Method", bound=Callable[..., Any])


class MadeWith:
    """A base of routines, which notes what their constructors are given: of that another host can make the same."""

    _made_with: tuple[tuple[Any, ...], dict[str, Any]] = (), {}

    def __new__(cls, /, *arguments: Any, **named: Any) -> Self:
        """Notes it."""
        made = super().__new__(cls)
        made._made_with = arguments, named
        return made


def parameter(name: str) -> Callable[[_Method], _Method]:
    """Marks a routine's method as the one that sets the parameter `name` of its `__init__` while the routine runs.

    `pipert-shm apply` calls it when that parameter has changed in the pipeline's file, and restarts nothing. A parameter
    without such a method takes a new process. The mark is inherited, also by a method that overrides the marked one.

    The method runs as a handler of an event does: in the routine's process, at the same time as `main_logic`, on the flow's
    thread for handlers. It may be called before the first `setup()`. If it raises, the change is rolled back.

    :param name: that of the parameter.
    :raises TypeError: when the name is not a str, or the marked object is not a method.
    :raises ValueError: when the name can't be that of a parameter.

    >>> class Detector:
    ...     def __init__(self, threshold: float = 0.5) -> None:
    ...         self.set_threshold(threshold)
    ...     @parameter("threshold")
    ...     def set_threshold(self, value: float) -> None:
    ...         if not 0 <= value <= 1:
    ...             raise ValueError(f"threshold must be from 0 to 1, not {value}")
    ...         self.threshold = value
    >>> setters_of(Detector)
    {'threshold': 'set_threshold'}
    """
    if inspect.isfunction(name):
        raise TypeError(f'@parameter takes the name of a parameter: @parameter("size") above def {name.__name__}(self, value)')
    if not isinstance(name, str):
        raise TypeError(f"@parameter takes the name of a parameter, such as 'size', not {shown(name)}")
    if not name.isidentifier():
        raise ValueError(f"@parameter({name!r}): no parameter can have this name")

    def mark(method: _Method) -> _Method:
        if not callable(method):
            raise TypeError(f"@parameter({name!r}) marks a method, and can't mark {shown(method)}")
        setattr(method, _MARK, name)
        return method

    return mark


def setters_of(cls: type) -> dict[str, str]:
    """The name of the method that sets each parameter that can be set while a routine of this class runs."""
    setters: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            name = getattr(value, _MARK, None)
            if name is not None:
                setters[name] = attribute
    return setters
