"""How large modules, classes and functions may be, and what folders may take from each other.

The lines of docstrings do not count in classes and functions: they are the reference. What is longer has its reason beside it:
a comment `# longer than 400 lines: …` below the module's docstring, or above the class or the function.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import PACKAGE_ROOT

MODULES = sorted((PACKAGE_ROOT / "pipert_shm").rglob("*.py"))
C_FILES = sorted((PACKAGE_ROOT / "csrc").glob("*.[ch]"))
MODULE, CLASS, FUNCTION = 400, 300, 40
REASON = r"# longer than {} lines: \S+"


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE_ROOT))


def parts_of(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node, CLASS
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, FUNCTION


def last_of(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno


def docstrings_in(tree: ast.stmt) -> int:
    """How many lines the docstrings in it have."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    texts = [node.body[0] for node in nodes if ast.get_docstring(node) is not None]
    return sum(last_of(text) - text.lineno + 1 for text in texts)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_and_its_parts_are_short_or_say_why_not(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    tree = ast.parse(text)
    after_docstring = "\n".join(lines[: tree.body[0].end_lineno + 3 if tree.body and tree.body[0].end_lineno else 3])
    assert len(lines) <= MODULE or re.search(REASON.format(MODULE), after_docstring), f"{len(lines)} lines"
    for node, limit in parts_of(tree):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        length = last_of(node) - first + 1 - docstrings_in(node)
        assert length <= limit or re.search(REASON.format(limit), lines[first - 2]), f"{node.name}: {length} lines"


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_a_file_of_the_c_core_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MODULE


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_folder_takes_only_public_names_of_another(path: Path) -> None:
    own = path.relative_to(PACKAGE_ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipert_shm"):
            theirs = tuple(node.module.split("."))
            if theirs[: len(own)] != own or len(own) == 1:
                private = [alias.name for alias in node.names if alias.name.startswith("_") and node.module != "pipert_shm"]
                assert not private, f"from {node.module} import {', '.join(private)}"


@pytest.mark.parametrize("folder", [path.parent for path in MODULES if path.name == "__init__.py"], ids=name_of)
def test_a_folder_says_what_it_answers(folder: Path) -> None:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert text
    assert len(text) > 20
