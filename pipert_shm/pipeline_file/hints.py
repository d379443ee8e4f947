"""Type hints of callables, and checks of a file's values against them."""

from __future__ import annotations

import collections.abc
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Strict, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

_CONTAINERS = (list, tuple, set, frozenset, dict, collections.abc.Sequence, collections.abc.Mapping, collections.abc.Set)
_UNIONS = (Union, types.UnionType)


def of(function: Any, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Returns the type hints of a callable's parameters, by name. Hints that can't be resolved are left out.

    :param function: a class or another callable.
    :param parameters: the parameters of its signature.
    """
    found = {}
    for name, parameter in parameters.items():
        if parameter.annotation is inspect.Parameter.empty:
            continue
        for names in _namespaces(function):
            try:
                found[name] = _resolved(parameter.annotation, names)
                break
            except Exception:  # of a user's annotation: anything, such as a name that only type checkers import
                continue
    return found


def _namespaces(function: Any) -> list[dict[str, Any]]:
    """The namespaces in which the names of its hints may stand."""
    if not inspect.isclass(function):
        return [getattr(inspect.unwrap(function), "__globals__", {})]
    own = getattr(inspect.unwrap(function.__init__), "__globals__", {})
    return [own, *(vars(sys.modules[base.__module__]) for base in function.__mro__ if base.__module__ in sys.modules)]


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    return typing.get_type_hints(holder, names, include_extras=True)["it"]


def checked(value: Any, hint: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Returns the value converted to its hint, and pydantic's faults.

    A list is taken for a tuple or a set, a text for a path, and an enum's value or name for the enum. But a text is not taken
    for a number, nor a number for a text, nor anything but a boolean for a boolean. A hint that pydantic can't use is not
    checked.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(_strict(hint), config=ConfigDict(arbitrary_types_allowed=True))
        return adapter.validate_python(value), []
    except ValidationError as error:
        return value, [dict(fault) for fault in error.errors(include_url=False)]
    except Exception:  # of a user's hints and their instance checks: anything
        return value, []


def _strict(hint: Any) -> Any:
    """The hint, changed where pydantic would convert too freely or could not check."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is bool or hint is int or hint is float:
        return Annotated[hint, Strict()]
    if isinstance(hint, typing.NewType):
        return _strict(hint.__supertype__)
    if inspect.isclass(hint) and issubclass(hint, Enum):
        return Annotated[hint, BeforeValidator(_member_by_name(hint))]
    if _is_protocol(origin or hint):
        return Annotated[Any, AfterValidator(_has_members(origin or hint))]
    if origin is Annotated:
        return Annotated[(_strict(arguments[0]), *arguments[1:])]
    if origin in _UNIONS:
        return Union[tuple(map(_strict, arguments))]  # noqa: UP007 - made here
    if (origin or hint) is collections.abc.Iterable:  # pydantic would make an iterator, which can be read only once
        return collections.abc.Sequence[_strict(arguments[0]) if arguments else Any]  # type: ignore[misc]
    if origin in _CONTAINERS and arguments:
        return origin[tuple(each if each is ... else _strict(each) for each in arguments)]
    return hint


def _is_protocol(hint: Any) -> bool:
    return inspect.isclass(hint) and bool(getattr(hint, "_is_protocol", False)) and hint.__module__ != "collections.abc"


def _member_by_name(kind: type[Enum]) -> Any:
    values = [member.value for member in kind]

    def member(value: Any) -> Any:
        return kind.__members__.get(value, value) if isinstance(value, str) and value not in values else value

    return member


def _has_members(protocol: Any) -> Any:
    from typing_extensions import get_protocol_members  # which pydantic brings

    def check(value: Any) -> Any:
        lacking = sorted(name for name in get_protocol_members(protocol) if not hasattr(value, name))
        if lacking:
            said = {"name": protocol.__name__, "lacking": ", ".join(lacking), "kind": type(value).__name__}
            raise PydanticCustomError("protocol", "Input should be a {name}, but its type, {kind}, has no {lacking}", said)
        return value

    return check


def place_in(value: Any, location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """The part of pydantic's location that leads into the value. The rest names members of unions, for example."""
    place: list[str | int] = []
    inside = value
    for part in location:
        is_item = isinstance(inside, list) and isinstance(part, int) and part < len(inside)
        if is_item or (isinstance(inside, dict) and part in inside):
            place.append(part)
            inside = inside[part]
    return tuple(place)


# ---- what a hint takes ---------------------------------------------------------------------------


def _members(hint: Any) -> list[Any]:
    """The members of a union, also within `Annotated`; otherwise the hint alone."""
    if get_origin(hint) is Annotated:
        return _members(get_args(hint)[0])
    if get_origin(hint) in _UNIONS:
        return [member for each in get_args(hint) for member in _members(each)]
    return [hint]


def _is_callable(hint: Any) -> bool:
    return (get_origin(hint) or hint) is collections.abc.Callable


def wants_callable(hint: Any) -> bool:
    """Whether the hint takes a function."""
    return any(map(_is_callable, _members(hint)))


def wants_code(hint: Any) -> bool:
    """Whether the hint takes only functions or classes, and no text."""
    members = [member for member in _members(hint) if member is not type(None)]
    return bool(members) and all(_is_callable(each) or (get_origin(each) or each) is type for each in members)


def wants_mapping(hint: Any) -> bool:
    """Whether the hint takes a mapping. A key `class` in it has no special meaning then."""
    kinds = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
    return any((get_origin(each) or each) in kinds or typing.is_typeddict(each) for each in _members(hint))


def inner(hint: Any, key: object) -> Any:
    """The hint of an item of a list or a mapping."""
    for each in _members(hint):
        origin, arguments = get_origin(each), get_args(each)
        if not arguments or origin in (Literal, type) or _is_callable(each):
            continue
        if origin is tuple and isinstance(key, int) and ... not in arguments:
            return arguments[key] if key < len(arguments) else Any
        if isinstance(key, int) == (len(arguments) == 1 or origin is tuple):
            return arguments[-1] if origin is not tuple else arguments[0]
    return Any
