"""Whether two hosts have the same code: the source of the modules that a file names, without importing them."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

ABSENT = "absent"
INSTALLED = {"site-packages", "dist-packages"}  # folders whose packages are others' work
OWN = "pipert_shm"  # whose version is compared as a whole


def modules_in(data: Any) -> set[str]:
    """The modules of the classes that a pipeline names, at any depth, other than those of this package.

    >>> sorted(modules_in({"routines": {"a": {"class": "faces.Faces", "parameters": {"model": {"class": "nets.small.Net"}}}}}))
    ['faces', 'nets.small']
    """
    return {name for path in _classes_in(data) if (name := path.rpartition(".")[0]) and name.partition(".")[0] != OWN}


def _classes_in(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        path = data.get("class")
        if isinstance(path, str):
            yield path.replace(":", ".")
        data = list(data.values())
    if isinstance(data, list):
        for part in data:
            yield from _classes_in(part)


def sources_of(modules: Iterable[str], directory: str) -> dict[str, str]:
    """A hash of the source of each module, and of those that it imports from its own folder or package, and so on.

    A module that this host does not have is `absent`; one that is only imported is left out then. No code of any runs, so
    modules that are imported by a computed name are not found.

    :param directory: where is looked before `sys.path`.
    """
    found: dict[str, str] = {}
    for name in sorted(modules):
        path = _file_of(name, [directory, *sys.path])
        if path is None:
            found[name] = ABSENT
        else:
            _add(found, name, path)
    return found


def _file_of(module: str, search: list[str]) -> Path | None:
    spec: ModuleSpec | None = None
    PathFinder.invalidate_caches()
    parts = module.split(".")
    for number in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:number]), search)
        if spec is None:
            return None
        search = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec is not None and spec.origin is not None and Path(spec.origin).is_file() else None


def _add(found: dict[str, str], module: str, path: Path) -> None:
    """Adds a module and what it imports of its own folder; of an installed package, of that package only."""
    package = module.partition(".")[0]
    root = path.parents[len(module.split(".")) - (path.name != "__init__.py")]
    is_installed = not INSTALLED.isdisjoint(root.parts) or root == Path(sysconfig.get_path("stdlib"))
    waiting = [(module, path)]
    while waiting:
        name, file = waiting.pop()
        if name in found:
            continue
        source = file.read_bytes()
        found[name] = hashlib.sha256(source).hexdigest()
        for imported in _imported(name, file, source):
            top = imported.partition(".")[0]
            its = None if top == OWN or (is_installed and top != package) else _below(root, imported)
            if its is not None:
                waiting.append((imported, its))


def _below(root: Path, module: str) -> Path | None:
    place = root.joinpath(*module.split("."))
    return next((file for file in (place / "__init__.py", place.with_name(f"{place.name}.py")) if file.is_file()), None)


def _imported(module: str, file: Path, source: bytes) -> set[str]:
    """The names that a module may import, with the packages that they are in; its own, too."""
    if file.suffix != ".py":
        return set()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # who imports it is told of that
        return set()
    own = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    names = {module}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*own[: len(own) - node.level + 1], *filter(None, [node.module])] if node.level else [node.module or ""]
            names |= {".".join(filter(None, [*base, *more])) for more in ([], *([alias.name] for alias in node.names))}
    return {name.rsplit(".", cut)[0] for name in names if name for cut in range(name.count(".") + 1)}


def differing(told: dict[str, dict[str, str]]) -> list[str]:
    """What differs between hosts, in words.

    :param told: the hashes that each host has told, by host. `absent` counts only where it is said of a host that needs it.
    """
    found = []
    for module in sorted({module for its in told.values() for module in its}):
        by_hash: dict[str, list[str]] = {}
        for host, its in sorted(told.items()):
            if its.get(module, ABSENT) != ABSENT:
                by_hash.setdefault(its[module], []).append(host)
        if len(by_hash) > 1:
            groups = " and ".join(f"{', '.join(hosts)} ({digest[:12]})" for digest, hosts in by_hash.items())
            found.append(f"module {module!r} is not the same on {groups}: install the same code on all of them")
    return found
