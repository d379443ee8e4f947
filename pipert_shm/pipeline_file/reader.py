"""Reads a YAML file in bounded time and memory, and knows the line of each field."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML, MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipert_shm.errors import ConfigError, Fault, shortened, suggestion

Where: TypeAlias = tuple[str | int, ...]  # a field: ("wires", 0, "policy")

MOST_BYTES = 1 << 19  # in the worst case these take some seconds
MOST_VALUES = 50_000  # of a file; the values of an alias count at each use
MOST_LEVELS = 100
_MERGE = "tag:yaml.org,2002:merge"


class YamlFile:
    """The values of a YAML 1.2 file, and their lines. Use it on one thread.

    :param text: its content, in place of what is on the disk.
    :raises ConfigError: when the file can't be read, is not YAML, is too large or nested too deep, or an alias contains itself.

    Attributes:
        path: the file.
        data: its values: dicts, lists and scalars. All uses of an alias are the same object.
    """

    def __init__(self, path: Path, text: str | None = None) -> None:
        self.path = path
        self._given = text
        self._children: dict[int, dict[str | int, tuple[int, Node]]] = {}
        yaml = YAML(typ="safe", pure=True)
        yaml.Composer, yaml.Constructor = _Composer, _Constructor
        try:
            root: Node | None = yaml.compose(self._text())
            if root is None:
                raise self._refusal(0, "the file is empty; it needs routines and flows")
            self._root = root
            self._check_size()
            self.data: Any = yaml.constructor.construct_document(root)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = shortened(", ".join(part for part in (error.context, error.problem) if part), 300)
            raise self._refusal(
                mark.line + 1 if mark else 0, said if isinstance(error, _Unfit) else f"this is not YAML: {said}"
            ) from None
        except (OSError, UnicodeDecodeError, YAMLError) as error:
            said = error.strerror or "" if isinstance(error, OSError) else " ".join(str(error).split())
            raise self._refusal(0, f"can't be read: {said}") from None

    def _text(self) -> str:
        if self._given is not None:
            content = self._given.encode()
        else:
            with self.path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise self._refusal(0, f"it is larger than {MOST_BYTES:,} bytes; keep long lists in files of their own")
        return content.decode("utf-8")

    def _check_size(self) -> None:
        """Counts the values that aliases make of the file, and measures each anchor once."""
        sizes: dict[int, tuple[int, int] | None] = {}  # values and levels; None while it is being measured

        def size(node: Node) -> tuple[int, int]:
            known = sizes.get(id(node), (0, 0))
            if known is None:
                raise self._refusal(_line(node), "what this anchor names has an alias of itself in it")
            if known == (0, 0):
                sizes[id(node)] = None
                parts = [size(part) for part in _parts(node)]
                known = sizes[id(node)] = (
                    1 + sum(count for count, _ in parts),
                    1 + max((levels for _, levels in parts), default=0),
                )
                if known[1] > MOST_LEVELS:
                    raise self._refusal(_line(node), f"its aliases nest it more than {MOST_LEVELS} levels deep")
                if known[0] > MOST_VALUES:
                    raise self._refusal(_line(node), f"its aliases make more than {MOST_VALUES:,} values of it")
            return known

        size(self._root)

    def _refusal(self, line: int, message: str) -> ConfigError:
        return ConfigError([Fault(str(self.path), line, "", message)])

    def fault(self, field: Where, message: str) -> Fault:
        """Makes a fault with the line of the field, or of the innermost part of it that exists."""
        node, line = self._root, _line(self._root)
        for part in field:
            known = self._children_of(node)
            found = known.get(part) or known.get(str(part))  # a number may be a key
            if found is None:
                break
            line, node = found
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in field).lstrip(".")
        return Fault(str(self.path), line, shortened(name, 500), message)

    def _children_of(self, node: Node) -> dict[str | int, tuple[int, Node]]:
        if id(node) not in self._children:
            children: dict[str | int, tuple[int, Node]] = {}
            if isinstance(node, SequenceNode):
                children.update((number, (_line(item), item)) for number, item in enumerate(node.value))
            elif isinstance(node, MappingNode):
                # Merged keys come first here, so the mapping's own keys win.
                children.update((str(key.value), (_line(key), value)) for key, value in node.value)
            self._children[id(node)] = children
        return self._children[id(node)]


class _Unfit(MarkedYAMLError):
    """The file is YAML, but breaks a rule of this reader."""


class _Composer(Composer):
    """Refuses a file that is nested too deep, before recursion fails, or that has too many values."""

    _level = 0
    _count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._level += 1
        self._count += 1
        if self._level > MOST_LEVELS:
            raise self._error(f"nested more than {MOST_LEVELS} levels deep")
        if self._count > MOST_VALUES:
            raise self._error(f"these are more than {MOST_VALUES:,} values; keep long lists in files of their own")
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def _error(self, problem: str) -> _Unfit:
        return _Unfit(None, None, problem, self.parser.peek_event().start_mark)


class _Constructor(SafeConstructor):
    """Reports the line of a value that can't be made, such as a number of 5,000 digits, or the 31st of February."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise _Unfit(None, None, f"no value can be made of this: {error}", node.start_mark) from None


def _line(node: Node) -> int:
    line: int = node.start_mark.line
    return line + 1


def _parts(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise _Unfit(None, None, "a key must be a text", key.start_mark)
        return [value for _, value in node.value]
    return list(node.value) if isinstance(node, SequenceNode) else []


def listed(what: str, names: Iterable[str], meant: str) -> str:
    """A text that lists the known names, and suggests the one that was probably meant.

    >>> listed("there are", ["source", "destinations"], "sources")
    "there are: source, destinations; did you mean 'source'?"
    """
    known = list(names)
    return (shortened(f"{what}: {', '.join(known)}", 400) if known else f"{what} none") + suggestion(meant, known)
