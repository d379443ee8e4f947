"""Describes a routine of a program as a pipeline's file would: by its class, and by what its constructor was given.

So another host can make the same one. What can't be described is refused by name: an object does not travel, and what was set
on a routine after it was made would be lost without a word.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from pipert_shm.errors import RoutineError, shown
from pipert_shm.routine import Routine

TAKEN_ALONG = {"hang_timeout", "max_errors", "_const_fps"}  # attributes that a file has settings for
_OURS = frozenset(vars(Routine("x"))) - {"_made_with"}  # attributes that belong to the pipe, or to the call of the constructor


def described(routine: Routine) -> dict[str, Any]:
    """The routine's section of a pipeline's file.

    :raises RoutineError: when another host can't make the same one of that.
    """
    section: dict[str, Any] = {"class": _path_of(routine), "parameters": _parameters_of(routine)}
    for setting in ("hang_timeout", "max_errors"):
        if setting in vars(routine) and vars(routine)[setting] is not None:
            section[setting] = vars(routine)[setting]
    if routine._const_fps:
        section["fps"] = float(routine._const_fps)
    return section


def check_twin(routine: Routine, make: Callable[[], Routine]) -> None:
    """Checks that a routine which is made anew is like this one.

    :param make: makes it.
    :raises RoutineError: when an attribute with a plain value is another one.
    """
    changed = dict(_differing(routine, make()))
    if changed:
        twins = make(), make()
        by_itself = dict(_differing(*twins))  # such as a random number: each one has its own
        changed = {name: pair for name, pair in changed.items() if name not in by_itself}
    for name, (value, made) in changed.items():
        raise RoutineError(
            routine.name,
            f"its attribute {name!r} is {shown(value)}, and in one that another host makes it is {shown(made)}: only what the "
            "constructor is given goes there, so let the constructor set it",
        )


def _path_of(routine: Routine) -> str:
    """The import path of its class."""
    cls = type(routine)
    path = f"{cls.__module__}.{cls.__qualname__}"
    if cls.__module__ == "__main__":
        raise RoutineError(
            routine.name,
            f"its class {cls.__qualname__} is in the program itself, which other hosts don't import: put it in a module",
        )
    logic = vars(routine).get("main_logic") or vars(routine).get("function")
    if callable(logic):
        raise RoutineError(
            routine.name,
            f"it is made of {shown(inspect.unwrap(logic))}, and functions don't travel: write a class, in a module",
        )
    try:
        found = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError):
        found = None
    if found is not cls or "." in cls.__qualname__:
        raise RoutineError(
            routine.name, f"its class can't be imported as {path}, as another host does: define it at the top of a module"
        )
    return path


def _parameters_of(routine: Routine) -> dict[str, Any]:
    """What its constructor was given, by name, without the name of the routine."""
    arguments, named = routine._made_with
    signature = inspect.signature(type(routine))
    bound = signature.bind(*arguments, **named).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    bound.pop("name", None)
    return {name: _plain(routine.name, name, value) for name, value in bound.items()}


def _plain(routine: str, where: str, value: Any) -> Any:
    """The value, as a file has it."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if type(value) in (list, tuple):
        return [_plain(routine, f"{where}[{place}]", item) for place, item in enumerate(value)]
    if isinstance(value, Mapping) and all(type(key) is str for key in value) and "class" not in value:
        return {key: _plain(routine, f"{where}[{key!r}]", item) for key, item in value.items()}
    raise RoutineError(
        routine,
        f"its constructor was given {where}={shown(value)}, and to another host go numbers, texts, booleans, None, paths, and "
        "lists and dicts of those: give it such a value, and let it make the rest",
    )


def _differing(one: Routine, other: Routine) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The attributes with plain values that differ."""
    mine, theirs = vars(one), vars(other)
    for name, value in mine.items():
        if name in _OURS or name in TAKEN_ALONG or name == "_made_with" or not _is_plain(value):
            continue
        made = theirs.get(name)
        if _is_plain(made) and (type(value) is not type(made) or (value != made and value == value)):
            yield name, (value, made)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or type(value) in (bool, int, float, str)
