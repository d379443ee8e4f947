"""Every public name has one home, and importing the package loads none of what it may not need."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import pipert_shm
from conftest import RunScript

PACKAGE = Path(pipert_shm.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.stem != "__init__"
}


def defined_in(path: Path) -> set[str]:
    """Names that a module binds at its top level other than by importing them."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


HOMES = {module: defined_in(path) for module, path in MODULES.items()}


def test_all_is_sorted_and_without_doubles() -> None:
    assert len(set(pipert_shm.__all__)) == len(pipert_shm.__all__)
    assert set(pipert_shm.__all__) == {name for name in pipert_shm.__all__ if not name.startswith("_")}


@pytest.mark.parametrize("name", pipert_shm.__all__)
def test_every_public_name_has_one_home(name: str) -> None:
    homes = [module for module, names in HOMES.items() if name in names]
    assert len(homes) == 1, f"{name} is defined in {homes}"
    home = importlib.import_module(f"pipert_shm.{homes[0]}")
    exported = getattr(pipert_shm, name)
    assert exported is getattr(home, name)
    if inspect.isclass(exported) or inspect.isfunction(exported):
        assert exported.__module__ == home.__name__
        assert inspect.getdoc(exported), f"{name} has no docstring"


def test_what_the_package_imports_it_exports() -> None:
    """Nothing public comes in by the back door."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipert_shm"):
            imported |= {alias.asname or alias.name for alias in node.names}
    assert imported == set(pipert_shm.__all__)


def test_every_error_is_a_pipert_error() -> None:
    for module in MODULES:
        if module in ("bridges.rpc", "bridges.cockpit", "cli.demo"):
            continue  # those load what not everybody has installed
        for name, value in vars(importlib.import_module(f"pipert_shm.{module}")).items():
            internal = name in ("Stopping", "Deferred", "Unanswered", "HungUp", "Barren") or name.startswith(
                "_"
            )  # control flow of the framework's own, and what has a public base
            if inspect.isclass(value) and issubclass(value, Exception) and value.__module__.startswith("pipert_shm"):
                assert internal or issubclass(value, pipert_shm.PipertError), name
                assert internal or name in pipert_shm.__all__, f"{name} can be raised, but not caught by name"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"pipert_shm.*no_such_thing"):
        getattr(pipert_shm, "no_such_thing")  # noqa: B009 - a plain access would not pass the type checker


def test_importing_the_package_loads_no_front_end_and_no_opencv(run_script: RunScript) -> None:
    script = run_script(
        """
import sys
import pipert_shm

heavy = ["cv2", "fastapi", "pydantic", "uvicorn", "starlette", "zerorpc", "gevent", "socketio", "nicegui", "asyncio"]
heavy += ["prometheus_client", "multiprocessing"]
print([name for name in heavy if name in sys.modules])
"""
    )
    assert script.stderr == ""
    assert script.lines == ["[]"]


def test_importing_the_package_compiles_few_patterns_and_makes_few_dataclasses(run_script: RunScript) -> None:
    """They were half of what an import took: `Pattern` compiles at the first use, and all of `Frozen` share their methods."""
    script = run_script(
        """
import collections, dataclasses, re, sys
import numpy

made = collections.Counter()

def counted(what, function):
    def count(*arguments, **named):
        made[what] += 1
        return function(*arguments, **named)
    return count

re._compiler.compile = counted("patterns", re._compiler.compile)
dataclasses._process_class = counted("dataclasses", dataclasses._process_class)
import pipert_shm
print(made["patterns"] < 25, made["dataclasses"] < 30, *made.items())
"""
    )
    assert script.stderr == ""
    assert script.stdout.startswith("True True"), script.stdout


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
