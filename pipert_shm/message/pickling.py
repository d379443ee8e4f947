"""Pickling of payloads: what picklers write to, how they take arrays and classes, and what does not pickle."""

from __future__ import annotations

import copyreg
import dataclasses
import pickle
from collections.abc import Callable, Iterator
from functools import reduce
from importlib import import_module
from typing import Any

import numpy as np

from pipert_shm import binding
from pipert_shm.errors import shown, text_of
from pipert_shm.message.layouts import array_elsewhere, read_layout

# A pickler is given it in the place of an array, which is then unpickled from `buffers`. It is writable: in the place of a
# read-only buffer pickle would make what it finds there read-only, and take nothing but buffers.
MARKER = pickle.PickleBuffer(bytearray(1))


class Stream:
    """A file for picklers. It keeps piece by piece what is written; large pieces are the payload's own, not copied.

    Attributes:
        pieces: what was written.
    """

    def __init__(self) -> None:
        self.pieces: list[Any] = []
        self.write = self.pieces.append

    def take(self) -> list[memoryview]:
        """Takes out what was written."""
        pieces = [piece.raw() if type(piece) is pickle.PickleBuffer else memoryview(piece) for piece in self.pieces]
        self.pieces.clear()
        return pieces

    def clear(self) -> None:
        """Forgets what was written."""
        self.pieces.clear()


def large_buffer(buffer: pickle.PickleBuffer, threshold: int) -> np.ndarray | None:
    """The bytes of a buffer that pickle asks about; None where there are fewer than `threshold`, which go into the pickle."""
    raw = buffer.raw()
    return None if raw.nbytes < threshold else np.frombuffer(raw, np.uint8)


def plain_pickler(stream: Stream) -> pickle.Pickler:
    """A pickler that writes arrays and buffers into the pickle. Arrays are writable when they are unpickled.

    It knows of other types what copyreg knows now.
    """
    pickler = pickle.Pickler(stream, 5)
    pickler.dispatch_table = {np.ndarray: _reduce_in_band, **copyreg.dispatch_table}
    return pickler


def _reduce_in_band(array: np.ndarray) -> Any:
    reduced: Any = array.__reduce_ex__(5)
    if array.flags.writeable or len(reduced) != 2:
        return reduced
    return _copy_of, reduced  # pickle makes bytes of what can't be written to, and the array would then be read-only again


def _copy_of(make: Any, arguments: tuple[Any, ...]) -> np.ndarray:
    array: np.ndarray = make(*arguments)
    return array.copy(order="K")


class SharingPickler(pickle.Pickler):
    """A pickler that passes on as they are objects that don't pickle; of containers and dataclasses, the parts that don't.

    :param share: reduces an object to itself.
    """

    def __init__(self, stream: Stream, callback: Callable[[pickle.PickleBuffer], bool], share: Callable[[Any], Any]) -> None:
        super().__init__(stream, 5, buffer_callback=callback)
        self._share = share

    def reducer_override(self, thing: Any) -> Any:
        """How to reduce anything that is no plain container."""
        kind = type(thing)
        if kind in self.dispatch_table or _pickles(thing):
            return NotImplemented
        # The fields of a dataclass are looked at one by one, unless it pickles in a way of its own.
        plain = all(getattr(kind, name) is getattr(object, name) for name in ("__reduce_ex__", "__reduce__"))
        return NotImplemented if plain and dataclasses.is_dataclass(kind) else self._share(thing)


class _Nowhere:
    """A file that keeps nothing."""

    @staticmethod
    def write(data: Any) -> int:
        return len(data)


def _pickles(thing: Any) -> bool:
    pickler = pickle.Pickler(_Nowhere(), 5, buffer_callback=lambda buffer: False)
    try:
        pickler.dump(thing)
    except Exception:
        return False
    return True


def culprit(payload: object, error: BaseException) -> tuple[str, str]:
    """Which part of a payload does not pickle, as a path, and why. The search runs the code of the payload's own classes."""
    try:
        return _find_culprit(payload, error)
    except BaseException:
        return f"data ({type(payload).__name__})", text_of(error)


def _find_culprit(payload: object, error: BaseException, where: str = "data", depth: int = 4) -> tuple[str, str]:
    for name, part in parts_of(payload, where):
        try:
            pickle.dumps(part, 5)
        except BaseException as inner:
            return _find_culprit(part, inner, name, depth - 1) if depth else (name, text_of(inner))
    return f"{where} ({type(payload).__name__})", text_of(error)


def parts_of(payload: object, where: str) -> Iterator[tuple[str, object]]:
    """The parts of a payload, each with its path.

    :param where: the payload's own path.
    """
    if isinstance(payload, dict):
        for key, value in payload.items():
            yield f"{where}[{shown(key)}]", value
    elif isinstance(payload, list | tuple | set | frozenset):
        for index, value in enumerate(payload):
            yield f"{where}[{index}]", value
    elif dataclasses.is_dataclass(payload):
        for field in dataclasses.fields(payload):
            yield f"{where}.{field.name}", getattr(payload, field.name, None)
    elif hasattr(payload, "__dict__"):
        for name, value in vars(payload).items():
            yield f"{where}.{name}", value


def name_of_class(kind: type) -> bytes | None:
    """What stands for a class in a pickle; None where no import gives the class, so that pickle says what it says then."""
    module, name = kind.__module__, kind.__qualname__
    try:
        found = _find(module, name)
    except (ImportError, AttributeError):
        return None
    return f"{module}:{name}".encode() if found is kind else None


def class_of_name(name: bytes) -> type:
    """:raises ImportError, AttributeError: when it is not here."""
    found: type = _find(*name.decode().split(":"))
    return found


def _find(module: str, name: str) -> Any:
    return reduce(getattr, name.split("."), import_module(module))


binding.pickle_rules(name_of_class, class_of_name, read_layout, array_elsewhere)
