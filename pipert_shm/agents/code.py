"""Whether two hosts have the same code: the source of the modules that a file names, without importing them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

ABSENT = "absent"
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
    """A hash of the source of each module; `absent` where this host does not have it.

    What a module imports by itself is not looked at. No code of it runs.

    :param directory: where is looked before `sys.path`.
    """
    return {name: _hash(name, [directory, *sys.path]) for name in sorted(modules)}


def _hash(module: str, search: list[str]) -> str:
    spec: ModuleSpec | None = None
    PathFinder.invalidate_caches()
    parts = module.split(".")
    for number in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:number]), search)
        if spec is None:
            return ABSENT
        search = list(spec.submodule_search_locations or [])
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return ABSENT
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


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
