"""What a run ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("pipert_shm", "numpy", "opencv-python", "iceoryx2", "pyzmq", "eclipse-zenoh", "PipeRT", "ray")


def describe() -> dict[str, Any]:
    """Machine, versions, and when."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": f"{os.cpu_count()} x {_cpu()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nice": os.nice(0),
        "load": f"{os.getloadavg()[0]:.2f}",
        "commit": _commit(),
        "packages": {package: _version(package) for package in PACKAGES},
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    if __package__ != "bench":
        return "none, a package that is installed"
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
