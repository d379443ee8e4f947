"""Makes objects of the classes that a pipeline's file names, and checks their parameters first."""

from __future__ import annotations

import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from pydantic import ValidationError

from pipert_shm.errors import Fault, PipertError, closest, describe, shown, suggestion
from pipert_shm.pipeline_file import hints
from pipert_shm.pipeline_file.reader import Where, YamlFile, listed
from pipert_shm.pipeline_file.schema import MadeOf

NO_HINT = inspect.Parameter.empty
_BOOLEANS = {"yes": "true", "y": "true", "on": "true", "no": "false", "n": "false", "off": "false"}  # of YAML 1.1


MAPPINGS = (
    "dict_type",
    "model_type",
    "dataclass_type",
    "model_attributes_type",
)  # pydantic's faults


class Maker:
    """Makes objects, and collects the faults of their parameters in `faults`. One thread at a time.

    A parameter `{class: …, parameters: {…}}` is an object, too, at any depth, also in lists and mappings. Parameters with type
    hints are checked. Texts are never taken for numbers or booleans. If a parameter takes a callable or a class, a text is its
    import path, and a class whose objects can't be called stands for a function that makes one.

    :param file: the file that describes the objects.
    :param allowed: what it may import, besides what this package offers; None: anything.

    Attributes:
        named: what it has imported.
        arguments: those of each object that a section describes, as they were given in the file, by the section's place.
    """

    def __init__(self, file: YamlFile, allowed: frozenset[str] | None = None) -> None:
        self._file = file
        self._allowed = allowed
        self.named: set[str] = set()
        self.arguments: dict[Where, dict[str, Any]] = {}
        self.faults: list[Fault] = []
        self._fields: list[Where] = []  # the fields of these faults

    def make(self, path: Where, made_of: MadeOf, kind: type[Any] = object, **more: Any) -> Any:
        """Makes an object of the class; None when there are faults.

        :param path: the section that describes it.
        :param kind: the class or base class that it must have.
        :param more: further arguments, besides the parameters.
        """
        before = len(self.faults)
        call = self._bound(path, made_of, self._callable(path, made_of, kind), more)
        return self._called(path, call) if len(self.faults) == before else None

    def note(self, path: Where, message: str) -> None:
        """Notes a fault."""
        self.faults.append(self._file.fault(path, message))
        self._fields.append(path)

    def _called(self, path: Where, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # of a user's __init__: anything
            self.note((*path, "parameters"), told(error))

    def _callable(self, path: Where, made_of: MadeOf, kind: type[Any] = object) -> Callable[..., Any] | None:
        """Imports the class that the section names; None when that is not a class."""
        cls = self._imported((*path, "class"), made_of.cls)
        if cls is None or (callable(cls) if kind is object else inspect.isclass(cls) and issubclass(cls, kind)):
            return cast("Callable[..., Any] | None", cls)
        self.note((*path, "class"), f"{made_of.cls} is not a {'class' if kind is object else kind.__name__}")
        return None

    def _imported(self, path: Where, name: str) -> Any:
        if self._allowed is not None and name not in self._allowed and not _is_public(name):
            self.note(path, f"{name} is not named in the file that the pipe runs, and a client may name nothing else")
            return None
        self.named.add(name)
        try:
            return pkgutil.resolve_name(name)
        except Exception as error:  # of a user's module: anything
            self.note(path, told(error) + (_meant(name) if isinstance(error, AttributeError) else ""))

    # ---- arguments -------------------------------------------------------------------------------

    def _bound(
        self, path: Where, made_of: MadeOf, cls: Callable[..., Any] | None, more: Mapping[str, Any]
    ) -> Callable[[], Any]:
        """Returns a call of the class with its arguments. Each argument is checked, and its faults are noted."""
        at = (*path, "parameters")
        accepted = _parameters(cls)
        for name in [name for name in more if name in made_of.parameters]:
            self.note((*at, name), f"{name!r} is given by the file itself; leave it away")
        if accepted is not None:
            self._check_names(at, made_of, accepted, more)
        kinds = hints.of(cls, accepted or {})
        given = {
            name: self._argument(
                (*at, name), value, kinds.get(name, NO_HINT), (accepted or {}).get(name) or _inherited(cls, name)
            )
            for name, value in made_of.parameters.items()
        }
        self.arguments[path] = given
        arguments = {**given, **more}
        positional = _positional(accepted or {}, arguments)
        return partial(cls, *positional, **arguments) if cls is not None else _nothing

    def _check_names(
        self, at: Where, made_of: MadeOf, accepted: Mapping[str, inspect.Parameter], more: Mapping[str, Any]
    ) -> None:
        kinds = {parameter.kind for parameter in accepted.values()}
        names = [name for name, parameter in accepted.items() if parameter.kind is not parameter.VAR_KEYWORD]
        missing = [name for name in names if name not in made_of.parameters and name not in more and _is_needed(accepted[name])]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            for name in [name for name in made_of.parameters if name not in names]:
                others = [known for known in names if known not in more]
                self.note((*at, name), f"{made_of.cls} takes no {name!r}; {listed('it takes', others, name)}")
                missing = [other for other in missing if other != closest(name, others)]
            for name in [name for name in more if name not in names]:
                self.note(at[:-1], f"{made_of.cls} takes no {name!r}: give its __init__ one, and pass it to super().__init__")
        for name in missing:
            self.note((*at, name), f"is missing: {made_of.cls} needs it")

    def _argument(self, path: Where, value: Any, hint: Any, parameter: inspect.Parameter | None) -> Any:
        before = len(self.faults)
        if parameter is not None and parameter.kind is parameter.VAR_POSITIONAL and hint is not NO_HINT:
            hint = list[hint]
        built = self._built(path, value, hint)
        if value is None and parameter is not None and parameter.default is None:
            return None
        if hint is not NO_HINT:
            return self._fitting(path, built, hint, before)
        if parameter is not None and isinstance(parameter.default, bool) and is_boolean_word(value):
            self.note(path, f"{shown(value)} is a text{boolean_advice(value)}")
        return built

    def _fitting(self, path: Where, value: Any, hint: Any, since: int) -> Any:
        """Converts the value to its type hint: a list to a tuple, for example.

        :param since: how many faults there were before its parts were made. The later ones are about these parts.
        """
        fitting, misfits = hints.checked(value, hint)
        told = self._fields[since:]
        messages: dict[Where, list[str]] = {}
        for fault in misfits:
            place = hints.place_in(value, fault["loc"])
            said = told_of_misfit(fault)
            messages.setdefault((*path, *place), []).append(f"as a key: {said}" if fault["loc"][-1:] == ("[key]",) else said)
        for place, found in messages.items():
            deeper = [other for other in (*messages, *told) if other[: len(place)] == place and other != place]
            if not deeper and place not in told:  # else it is of another member of a union, or of such a part
                self.note(place, _joined(found))
        return fitting

    def _built(self, path: Where, value: Any, hint: Any) -> Any:
        """Makes the objects that are described in the value."""
        if isinstance(value, dict):
            if "class" in value and not hints.wants_mapping(hint):
                return self._object(path, value, hint)
            return {key: self._built((*path, str(key)), item, hints.inner(hint, str(key))) for key, item in value.items()}
        if isinstance(value, list):
            return [self._built((*path, place), item, hints.inner(hint, place)) for place, item in enumerate(value)]
        if isinstance(value, str) and hints.wants_code(hint):
            return self._imported(path, value)
        return value

    def _object(self, path: Where, value: dict[Any, Any], hint: Any) -> Any:
        try:
            made_of = MadeOf.model_validate(value)
        except ValidationError as error:
            for fault in error.errors():
                self.note((*path, *location(fault["loc"])), told_of_setting(dict(fault), ["class", "parameters"]))
            return None
        if not hints.wants_callable(hint):
            return self.make(path, made_of)
        before = len(self.faults)
        cls = self._callable(path, made_of)
        call = self._bound(path, made_of, cls, {})
        if len(self.faults) > before:
            return None
        return self._called(path, call) if _makes_callables(cls) else call


def _is_public(name: str) -> bool:
    package, _, rest = name.replace(":", ".").partition(".")
    return package == "pipert_shm" and rest in sys.modules[package].__all__


def _nothing() -> None:
    """Takes the place of a class that can't be imported."""


def _makes_callables(cls: Any) -> bool:
    return inspect.isclass(cls) and any("__call__" in vars(base) for base in cls.__mro__)


def _is_needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is NO_HINT and parameter.kind is not parameter.VAR_POSITIONAL


def _meant(path: str) -> str:
    """Suggests another last part for a class's path whose module has no such name."""
    module, _, last = path.rpartition(".")
    try:
        return suggestion(last, [known for known in dir(pkgutil.resolve_name(module)) if not known.startswith("_")])
    except Exception:  # the module does not load, which another fault says
        return ""


def _parameters(cls: Any) -> Mapping[str, inspect.Parameter] | None:
    """The parameters of its signature; None if they are not known."""
    try:
        return inspect.signature(cls).parameters
    except (TypeError, ValueError):
        return None


def _inherited(cls: Any, name: str) -> inspect.Parameter | None:
    """The parameter of a base class to which a class with `**options` probably passes it."""
    for base in cls.__mro__[1:] if inspect.isclass(cls) else ():
        if name in (parameters := _parameters(base) or {}):
            return parameters[name]
    return None


def _positional(accepted: Mapping[str, inspect.Parameter], given: dict[str, Any]) -> list[Any]:
    """Takes out the arguments that can't be given by name, and those before `*arguments`."""
    positional: list[Any] = []
    several = next((name for name, each in accepted.items() if each.kind is each.VAR_POSITIONAL and name in given), None)
    for name, parameter in accepted.items():
        if name == several:
            positional += given.pop(name)
        elif parameter.kind is parameter.POSITIONAL_ONLY or (several and parameter.kind is parameter.POSITIONAL_OR_KEYWORD):
            if name not in given and parameter.default is NO_HINT:
                break
            positional.append(given.pop(name, parameter.default))
    return positional


# ---- texts ---------------------------------------------------------------------------------------


def is_boolean_word(value: Any) -> bool:
    """Whether YAML 1.1 would take the value for true or false."""
    return isinstance(value, str) and value.lower() in _BOOLEANS


def boolean_advice(value: str) -> str:
    """Says what to write instead of `no`."""
    return f": in YAML 1.2 only true and false are booleans; write {_BOOLEANS[value.lower()]}"


def location(parts: tuple[str | int, ...]) -> Where:
    """The field of a pydantic location."""
    return tuple(part for part in parts if part != "[key]")


def told_of_setting(error: dict[str, Any], known: list[str]) -> str:
    """The text for a fault that pydantic found in a section.

    :param known: the names of the section's settings.
    """
    if error["type"] == "extra_forbidden":
        return f"there is no such setting; {listed('there are', known, str(error['loc'][-1]))}"
    return "is missing" if error["type"] == "missing" else told_of_misfit(error)


def told_of_misfit(error: dict[str, Any]) -> str:
    """The text for a fault that pydantic found, with the given value if that is short."""
    given = error["input"]
    if error["type"] in ("missing", "missing_argument"):
        return f"{'item ' if isinstance(error['loc'][-1], int) else ''}{error['loc'][-1]!r} is missing"
    if error["type"] in ("sequence_str", "list_type") and isinstance(given, str):
        return f"Input should be a list, such as [{given}], not {shown(given)}"
    message: str = error["msg"]
    if error["type"] in MAPPINGS:
        message = "Input should be a mapping, with lines such as 'name: value'"
    if given is None or isinstance(given, str | int | float | bool):
        message += f", not {shown(given)}"
    if error["type"] == "bool_type" and is_boolean_word(given):
        message += boolean_advice(given)
    return message


def _joined(messages: list[str]) -> str:
    """Joins the faults that the members of a union have with one value."""
    first, *others = dict.fromkeys(messages)
    if not others:
        return first
    bodies = [message.partition(", not ") for message in (first, *others)]
    if len({given for _, _, given in bodies}) > 1:
        return "; ".join((first, *others))
    said = " or ".join(dict.fromkeys(body.removeprefix("Input should be ") for body, _, _ in bodies))
    return f"Input should be {said}{bodies[0][1]}{bodies[0][2]}"


def told(error: Exception) -> str:
    """An error's text, and the place where it was raised if that is in the user's code."""
    if isinstance(error, PipertError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = (__file__, pkgutil.__file__)
    theirs = [frame for frame in frames if frame.filename not in own and "importlib" not in frame.filename]
    place = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
    return describe(error) + place
