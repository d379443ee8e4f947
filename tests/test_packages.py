"""What is in the packages: the source distribution is whole, and a wheel built from it is the one built from the clone."""

from __future__ import annotations

import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from zipfile import ZipFile

import pytest

from conftest import PACKAGE_ROOT

NOT_SHIPPED = (".ci/run", ".gitignore")
MADE_BY_SETUPTOOLS = ("PKG-INFO", "setup.cfg", "pipert_shm.egg-info/*")
HOOK = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

# Also without debug information, which has the name of the directory that it was compiled in.
UNOPTIMISED = """#!/bin/bash
exec cc "${@/#-O[0-9]/-O0}" -g0
"""


def build(hook: str, source: Path, out: Path) -> Path:
    """What `python -m build` does, without an environment of its own, and compiled in a third of the time."""
    compiler = out / "cc"
    compiler.write_text(UNOPTIMISED)
    compiler.chmod(0o755)
    end = subprocess.run(
        [sys.executable, "-c", HOOK, hook, str(out)],
        cwd=source,
        env={**os.environ, "CC": str(compiler), "LDSHARED": "cc -shared"},
        capture_output=True,
        text=True,
    )
    assert end.returncode == 0, end.stderr
    return out / end.stdout.splitlines()[-1]


def tracked() -> list[str]:
    if not (PACKAGE_ROOT / ".git").exists():
        pytest.skip("this is no clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PACKAGE_ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [name for name in listed.split("\0") if name]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows, and some that lie about in a clone that is used."""
    root = tmp_path_factory.mktemp("clone")
    for name in tracked():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((PACKAGE_ROOT / name).read_bytes())
    for name in ("csrc/build/stress", "csrc/ring.o", "docs/_build/html/index.html", "tests/__pycache__/a.pyc", "out/b"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture(scope="module")
def unpacked(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of the clone."""
    out = tmp_path_factory.mktemp("sdist")
    subprocess.run(["tar", "xzf", build("build_sdist", clone, out), "-C", out], check=True)
    (root,) = (path for path in out.iterdir() if path.is_dir())
    return root


def test_the_source_distribution_is_the_repository_without_its_ci(unpacked: Path) -> None:
    shipped = [path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()]
    ours = {name for name in shipped if not any(fnmatch(name, pattern) for pattern in MADE_BY_SETUPTOOLS)}
    assert ours == {name for name in tracked() if not any(fnmatch(name, pattern) for pattern in NOT_SHIPPED)}


def test_make_and_docker_find_in_the_source_distribution_what_they_read(unpacked: Path) -> None:
    copied = [line[1:] for line in (unpacked / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    (lock,) = (line.split()[2] for line in (unpacked / "Makefile").read_text().splitlines() if line.startswith("LOCK :="))
    assert lock in copied
    assert [name for name in copied if not (unpacked / name).exists()] == []
    plan = subprocess.run(["make", "--dry-run", "demo"], cwd=unpacked, capture_output=True, text=True)
    assert plan.returncode == 0, plan.stderr  # there is a rule for each file that it needs, or the file


def test_the_wheel_from_the_source_distribution_is_that_of_the_clone(clone: Path, unpacked: Path, tmp_path: Path) -> None:
    contents = []
    for source in (clone, unpacked):
        (tmp_path / source.name).mkdir()
        wheel = build("build_wheel", source, tmp_path / source.name)
        with ZipFile(wheel) as archive:
            contents.append({name: archive.read(name) for name in archive.namelist()})
    ours, theirs = contents
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
