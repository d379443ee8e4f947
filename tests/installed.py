"""Tries a wheel in a new environment, as a user has it: `python tests/installed.py WHEEL` runs the demo and some tests.

It runs in a directory that has the tests and not the package, so that what is imported is what was installed. It needs only the
standard library, and so it also runs in a bare root of another system (see docs/releasing.md).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from email import message_from_bytes
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100", "httpx>=0.27")
# Every part of the compiled core, processes that die, and pipeline files.
CORE = ("functional", "payload", "ports", "readonly", "recovery", "tickets", "yaml_file", "zero_copy")
OF_VIDEO = ("fork_safety",)


def requirements(wheel: Path, has_opencv: bool) -> list[str]:
    """What to install. Where OpenCV has no wheel, the wheel comes with all of its other dependencies."""
    if has_opencv:
        return [f"{wheel}[demo]", *TOOLS]
    with ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        needed = message_from_bytes(archive.read(metadata)).get_all("Requires-Dist", [])
    return [*(name for name in needed if "extra ==" not in name and not name.startswith("opencv")), *TOOLS]


def try_wheel(wheel: Path, at: Path) -> None:
    has_opencv = "musllinux" not in wheel.name
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*command: str | Path) -> None:
        print("+", *command, flush=True)
        subprocess.run(command, check=True, cwd=at, env=environment)

    programs = at / "environment" / "bin"
    venv.create(programs.parent, with_pip=True)
    install = (programs / "python", "-m", "pip", "install", "--quiet", "--no-compile")
    run(*install, *requirements(wheel, has_opencv))
    if has_opencv:
        run(programs / "pipert-shm", "demo")
    else:
        run(*install, "--no-deps", wheel)
    shutil.copytree(ROOT / "tests", at / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", at)  # pytest's settings
    run(programs / "python", "-m", "pytest", "-q", *(f"tests/test_{name}.py" for name in CORE + OF_VIDEO * has_opencv))


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        raise SystemExit("usage: python tests/installed.py WHEEL (make wheels puts them into dist/)")
    with TemporaryDirectory() as directory:
        try:
            try_wheel(Path(sys.argv[1]).resolve(), Path(directory))
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{Path(sys.argv[1]).name} failed: {error}") from error


if __name__ == "__main__":
    main()
