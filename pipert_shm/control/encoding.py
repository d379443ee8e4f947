"""How a message is turned into bytes and back."""

from __future__ import annotations

import io
import pickle
import types
import typing
import zlib
from typing import Any, Union

from pipert_shm.control.messages import KINDS, Message

_CODES = {kind: code for code, kind in enumerate(KINDS)}
PROTOCOL = zlib.crc32(
    repr([(kind.__name__, str(kind.FIELDS)) for kind in KINDS]).encode()
)  # of this version: all of its messages
_PLAIN = {("builtins", name) for name in ("frozenset", "set", "getattr")}


def kind_of(code: int) -> str:
    """The name of a kind, for the log."""
    return KINDS[code].__name__ if code < len(KINDS) else f"unknown kind {code}"


def encode(message: Message) -> tuple[int, bytes]:
    """The code of a message's kind, and its body."""
    return _CODES[type(message)], pickle.dumps(message.values(), 5)


def decode(code: int, body: bytes) -> Message:
    """The message that has this code and body.

    :raises LookupError: when no kind has this code.
    :raises TypeError: when the fields are not those of the kind, in number or type.
    :raises Exception: when pickle can't read the body.
    """
    if code >= len(KINDS):
        raise LookupError(f"there are only {len(KINDS)} kinds of messages")
    kind = KINDS[code]
    values = _OwnClasses(io.BytesIO(body)).load()
    message = kind(*values)
    for (name, hint), value in zip(kind.FIELDS.items(), message.values(), strict=True):
        if not _fits(value, hint):
            raise TypeError(f"{name} is {type(value).__name__}, not {hint}")
    return message


class _OwnClasses(pickle.Unpickler):
    """Loads only the classes that messages are made of."""

    def find_class(self, module: str, name: str) -> Any:
        own = module == "inspect" or module.startswith("pipert_shm.")  # inspect: the signatures of handlers
        if "." in name or not (own or (module, name) in _PLAIN):
            raise pickle.UnpicklingError(f"no message is made of {module}.{name}")
        return super().find_class(module, name)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type; a container's items are checked as well."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, Union):
        return any(_fits(value, argument) for argument in arguments)
    if origin is None:
        return hint is Any or isinstance(value, type(None) if hint is None else hint)
    if not isinstance(value, origin):
        return False
    if origin is dict:
        key, item = arguments
        return all(_fits(one, key) and _fits(other, item) for one, other in value.items())
    if origin is tuple and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    return all(_fits(one, arguments[0]) for one in value)
