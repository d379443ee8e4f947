"""A configuration of which every setting is either taken or listed as left over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pipert_shm.errors import shown

Path: TypeAlias = tuple[str, ...]

_YES = {"true", "yes", "on", "1"}
_NO = {"false", "no", "off", "0"}


def dotted(path: Path) -> str:
    """Returns how a setting is called in messages: `cameras.gate.detect.fps`."""
    return ".".join(path)


@dataclass
class Notes:
    """What a reader of the new file has to know: settings without a counterpart, and what has to be done by hand.

    Attributes:
        left: why each setting was left out, by its path.
        to_do: what has to be done before the file runs as the old one did.
        taken: the paths of the settings that were read.
    """

    left: dict[Path, str] = field(default_factory=dict)
    to_do: list[str] = field(default_factory=list)
    taken: set[Path] = field(default_factory=set)

    def leave(self, path: Path, why: str) -> None:
        """Says why a setting is left out."""
        self.taken.add(path)
        self.left.setdefault(path, why)

    def ask(self, what: str) -> None:
        """Says what has to be done by hand; once, however often it is found."""
        if what not in self.to_do:
            self.to_do.append(what)


class Section:
    """A mapping of a configuration, with those that stand behind it: where it says nothing, the next one does.

    :param notes: where it is noted what was taken.
    :param layers: mappings, each with its path; the first one that has a key wins.
    """

    def __init__(self, notes: Notes, *layers: tuple[Path, Mapping[str, Any]]) -> None:
        self.notes = notes
        self._layers = layers

    @property
    def path(self) -> Path:
        """Of the first of its mappings."""
        return self._layers[0][0]

    def __contains__(self, key: str) -> bool:
        return any(values.get(key) is not None for _, values in self._layers)

    def keys(self) -> list[str]:
        """Returns the keys, those of the first mapping first."""
        return list(dict.fromkeys(key for _, values in self._layers for key in values))

    def take(self, key: str) -> Any:
        """Returns a value as it is; None if no mapping has it."""
        found = None
        for path, values in self._layers:
            if values.get(key) is not None:
                self.notes.taken.add((*path, key))
                found = values[key] if found is None else found
        return found

    def text(self, key: str) -> str | None:
        """Returns a value as text."""
        value = self.take(key)
        return None if value is None else str(value)

    def flag(self, key: str, default: bool) -> bool:
        """Returns a boolean, also one that YAML 1.1 writes as `yes` or `on`."""
        value = self.take(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        said = str(value).strip().lower()
        if said not in _YES | _NO:
            self._refuse(key, value, "true or false")
            return default
        return said in _YES

    def number(self, key: str) -> float | None:
        """Returns a number; None, and a note, if it is none."""
        value = self.take(key)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        try:
            return float(value)
        except (TypeError, ValueError):
            self._refuse(key, value, "a number")
            return None

    def texts(self, key: str) -> list[str]:
        """Returns a list of texts, also of a single one or one with commas."""
        value = self.take(key)
        if value is None:
            return []
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, list):
            return [str(part) for part in value]
        self._refuse(key, value, "a list")
        return []

    def section(self, key: str) -> Section:
        """Returns a mapping within this one; an empty one if there is none."""
        inner = []
        for path, values in self._layers:
            value = values.get(key)
            if isinstance(value, Mapping):
                inner.append(((*path, key), value))
            elif value is not None:
                self.notes.leave((*path, key), f"a mapping is expected here, not {shown(value)}")
        return Section(self.notes, *(inner or [((*self.path, key), {})]))

    def sections(self) -> Iterator[tuple[str, Section]]:
        """Yields each mapping within this one by its key."""
        for key in self.keys():
            yield key, self.section(key)

    def leave(self, key: str, why: str) -> None:
        """Says of a key, where there is one, why it is left out."""
        for path, values in self._layers:
            if values.get(key) is not None:
                self.notes.leave((*path, key), why)

    def over(self, *others: Section) -> Section:
        """Returns this one with others behind it."""
        return Section(self.notes, *self._layers, *(layer for other in others for layer in other._layers))

    def _refuse(self, key: str, value: Any, wanted: str) -> None:
        path = next((*path, key) for path, values in self._layers if values.get(key) is not None)
        self.notes.leave(path, f"this is to be {wanted}, not {shown(value)}")


def leftovers(values: Mapping[str, Any], taken: set[Path], at: Path = ()) -> Iterator[Path]:
    """Yields the settings that were not taken: the outermost ones of which no part was."""
    for key, value in values.items():
        path = (*at, str(key))
        if path in taken or value is None:
            continue
        inside = isinstance(value, Mapping) and any(each[: len(path)] == path for each in taken)
        if inside:
            yield from leftovers(value, taken, path)
        else:
            yield path
