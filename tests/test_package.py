"""What is packed, and what a package says that is not compiled."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from conftest import PACKAGE_ROOT, RunScript

HIDING = """
import sys
sys.path.insert(0, {path!r})
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]  # an old one finds the compiled part
import pipert_shm
"""


def test_the_licence_is_a_file_and_goes_along() -> None:
    project = (PACKAGE_ROOT / "pyproject.toml").read_text()
    assert 'license = "MIT"\nlicense-files = ["LICENSE"]\n' in project
    assert (PACKAGE_ROOT / "LICENSE").read_text().startswith("MIT License\n")


def test_a_free_threaded_python_is_refused(run_script: RunScript) -> None:
    pytest.importorskip("setuptools")
    no_gil = 'import runpy, sysconfig; sysconfig.get_config_vars()["Py_GIL_DISABLED"] = 1'
    end = run_script(f"{no_gil}; runpy.run_path({str(PACKAGE_ROOT / 'setup.py')!r})")
    assert end.returncode == 1
    assert end.stderr.startswith("pipert_shm does not run on a free-threaded Python, for which OpenCV has no wheels")


def test_source_that_hides_the_installed_package_says_so(tmp_path: Path, run_script: RunScript) -> None:
    """As a program in a clone's root has it, where the package is installed and the clone not compiled."""
    hiding = tmp_path / "clone" / "pipert_shm"
    hiding.mkdir(parents=True)
    for path in (PACKAGE_ROOT / "pipert_shm").iterdir():
        if path.suffix != ".so":
            (hiding / path.name).symlink_to(path)
    end = run_script(HIDING.format(path=str(hiding.parent)))
    assert end.returncode == 1
    said = end.stderr.splitlines()[-1]
    assert said.startswith(f"ImportError: {hiding} has pipert_shm's source without its compiled part, and hides ")


def test_compiled_for_another_build_of_python_it_names_the_free_threaded_one(tmp_path: Path, run_script: RunScript) -> None:
    """Such a Python does not look at files of the stable ABI."""
    no_gil = 'import sysconfig; sysconfig.get_config_vars()["Py_GIL_DISABLED"] = 1'
    end = run_script(f'import sys; {no_gil}; sys.modules["pipert_shm._native"] = None; import pipert_shm')
    assert end.returncode == 1
    said = end.stderr.splitlines()[-1]
    assert said == "ImportError: pipert_shm does not run on a free-threaded Python: take the usual build"


SUBINTERPRETER = """
import sys
{first}
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
try:
    made = interpreters.create(isolated={isolated})
except TypeError:
    made = interpreters.create("isolated" if {isolated} else "legacy")
try:
    said = interpreters.run_string(made, "import sys; sys.path[:] = " + repr(sys.path) + "; import pipert_shm")
except Exception as error:
    said = error
print(said)
"""


@pytest.mark.parametrize("first", ["", "import pipert_shm"], ids=["at first", "beside the main one"])
@pytest.mark.parametrize("isolated", [True, False])
def test_a_subinterpreter_is_refused_by_name(isolated: bool, first: str, run_script: RunScript) -> None:
    end = run_script(SUBINTERPRETER.format(isolated=isolated, first=first))
    assert "ImportError" in end.stdout
    assert "pipert_shm" in end.stdout, "it is NumPy or cffi that says something"
    assert "subinterpreter" in end.stdout


def test_a_wheel_has_the_benchmarks_and_none_of_the_tools_of_the_clone() -> None:
    """The command's modules are those that its main module imports, by relative imports: a wheel has another name for it."""
    reached, left = set(), {"__main__", "__init__"}
    while left:
        module = left.pop()
        reached.add(module)
        for node in ast.walk(ast.parse((PACKAGE_ROOT / "bench" / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                left |= {node.module} if node.module else {alias.name for alias in node.names}
            assert not (isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "bench" and not node.level)
        left -= reached
    (not_packed,) = re.findall(r"^NOT_PACKED = (\{.*?\})", (PACKAGE_ROOT / "setup.py").read_text(), re.M)
    assert {path.stem for path in (PACKAGE_ROOT / "bench").glob("*.py")} - ast.literal_eval(not_packed) == reached


@pytest.mark.parametrize("extra", ["", "bench", "demo", "dev", "docs"])
def test_the_lock_has_what_the_project_asks_for_and_names_no_place(extra: str) -> None:
    """Else `make lock` was forgotten."""
    project = tomllib.loads((PACKAGE_ROOT / "pyproject.toml").read_text())["project"]
    lock = (PACKAGE_ROOT / ".ci" / "lock.txt").read_text()
    assert not re.search(r"file:|https?:|index-url", lock)
    locked: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.M):
        locked.setdefault(name, []).append(version)
    for text in project["optional-dependencies"][extra] if extra else project["dependencies"]:
        asked = Requirement(text)
        if asked.name != "pipert_shm":
            versions = locked[re.sub(r"[-_.]+", "-", asked.name).lower()]
            assert all(version in asked.specifier for version in versions), text
