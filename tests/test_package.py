"""What is packed, and what a package says that is not compiled."""

from __future__ import annotations

import re
from pathlib import Path

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


def test_a_source_distribution_has_what_compiles_it() -> None:
    """setuptools takes along what `setup.py` names as sources and headers, but not the script that names them."""
    (script,) = re.findall(r'cffi_modules=\["(.*?):', (PACKAGE_ROOT / "setup.py").read_text())
    assert f"include {script}" in (PACKAGE_ROOT / "MANIFEST.in").read_text().splitlines()
    assert (PACKAGE_ROOT / script).is_file()


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
