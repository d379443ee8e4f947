"""`pipert-shm doctor`: what it finds on this machine, and on one where something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import cv2
import pytest

from conftest import RunCli
from pipert_shm import binding
from pipert_shm.cli import doctor
from pipert_shm.cli.doctor import Finding, examine
from pipert_shm.extras import to_install
from pipert_shm.shm.segments import ControlSegment, sweep_stale
from test_full import mounted
from test_full import pytestmark as needs_mounts

pytestmark = pytest.mark.shm

ExamineBy = Callable[..., tuple[int, dict[str, Finding]]]

CHECKS = [
    "platform",
    "python",
    "kernel",
    "/dev/shm size",
    "/dev/shm use",
    "container",
    "limits",
    "opencv",
    "cameras",
    "extras",
    "pipes",
]


def finding(check: str) -> Finding:
    (found,) = [finding for finding in examine() if finding.check == check]
    return found


@pytest.fixture
def examine_by(run_cli: RunCli) -> ExamineBy:
    """Exit status and findings of a process that is run by a command."""

    def examine_by(*wrap: str, **options: Any) -> tuple[int, dict[str, Finding]]:
        end = run_cli("doctor", "--json", wrap=wrap, **options)
        assert end.stderr == ""
        return end.returncode, {found["check"]: Finding(**found) for found in json.loads(end.stdout)}

    return examine_by


def test_a_sound_machine(run_cli: RunCli) -> None:
    before = set(Path("/dev/shm").iterdir())
    end = run_cli("doctor")
    assert (end.returncode, end.stderr) == (0, "")
    heads = [line for line in end.lines if not line.startswith(" ")]
    assert [line[9:24].strip() for line in heads] == CHECKS
    assert {line[:7].strip() for line in heads} <= {"ok", "missing", "warning"}
    assert f"ok       python         {'.'.join(map(str, sys.version_info[:3]))} " in end.stdout
    assert set(Path("/dev/shm").iterdir()) == before


@needs_mounts
def test_dev_shm_as_docker_makes_it(examine_by: ExamineBy) -> None:
    status, found = examine_by(*mounted("size=64m"))
    size = found["/dev/shm size"]
    assert (status, size.status) == (0, "warning")
    assert size.found == "67 MB, 67 MB free; a pipe takes half of that at most: 5 frames of 1080p"
    assert "docker run --shm-size=1g" in size.advice
    assert found["/dev/shm use"].status == "ok"


@needs_mounts
def test_a_full_dev_shm(examine_by: ExamineBy) -> None:
    fill = "sh", "-c", 'head -c 64k /dev/zero >/dev/shm/full; exec "$@"', "sh"
    status, found = examine_by(*mounted("size=64k"), *fill)
    use = found["/dev/shm use"]
    assert (status, use.status, use.advice) == (1, "failure", "see what fills it: pipert-shm ls, du -h /dev/shm")
    assert use.found.startswith("a segment for trial needs 4,096 bytes of shared memory and 0 are free")


@needs_mounts
def test_a_dev_shm_that_is_read_only(examine_by: ExamineBy) -> None:
    status, found = examine_by(*mounted("ro"))
    use = found["/dev/shm use"]
    assert (status, use.status) == (1, "failure")
    assert "Read-only file system" in use.found
    assert "chmod 1777 /dev/shm" in use.advice


def test_few_open_files(examine_by: ExamineBy) -> None:
    status, found = examine_by("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")
    assert (status, found["limits"].status) == (0, "warning")
    assert found["limits"].found == "256 open files in a process (256 at the most)"


def test_opencv_that_does_not_load(examine_by: ExamineBy, tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    status, found = examine_by(path=tmp_path)
    missing = "OpenCV needs a system library that is missing (libGL.so.1: cannot open shared object file)"
    assert found["opencv"] == Finding("opencv", "failure", missing, "apt-get install libgl1 libglib2.0-0")
    assert status == 1


def installed(folder: Path, *packages: str) -> Path:
    """A folder of packages as pip leaves it when each of these brings a cv2."""
    for package in packages:
        record = folder / f"{package.replace('-', '_')}-5.0.0.93.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 5.0.0.93\n")
        (record / "top_level.txt").write_text("cv2\n")
    (folder / "cv2").mkdir(exist_ok=True)
    (folder / "cv2" / "__init__.py").touch()
    return folder


def test_two_packages_that_bring_opencv(examine_by: ExamineBy, tmp_path: Path) -> None:
    status, found = examine_by(path=installed(tmp_path, "opencv-python-headless", "opencv-contrib-python"))
    clash = "opencv-contrib-python and opencv-python-headless have overwritten each other's cv2"
    advice = "keep one: pip uninstall opencv-contrib-python opencv-python-headless, then pip install 'opencv-python>=4.14,<6'"
    assert (status, found["opencv"]) == (0, Finding("opencv", "warning", clash, advice))


def test_a_package_in_another_folder_that_is_hidden_is_no_clash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(installed(tmp_path, "opencv-python-headless"))
    assert doctor._opencv_packages() == ["opencv-python-headless"]


def test_opencv_whose_files_another_package_has_taken_along(tmp_path: Path) -> None:
    """`pip uninstall` of one of two packages leaves an empty cv2, which Python imports as a namespace."""
    (site,) = (place.parent for place in map(Path, cv2.__path__))
    for entry in site.iterdir():
        if entry.name.partition(".")[0].partition("_")[0] not in ("cv2", "opencv"):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "cv2").mkdir()
    path = os.pathsep.join([str(Path(doctor.__file__).parents[2]), str(tmp_path)])
    code = "from pipert_shm.cli.doctor import _opencv; print(next(_opencv()))"
    end = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": path}, text=True, capture_output=True, check=True
    )
    said = "OpenCV's files are gone, as when one of two OpenCV packages is uninstalled"
    mend = "pip install --force-reinstall --no-deps 'opencv-python>=4.14,<6'"
    assert end.stdout == f"{Finding('opencv', 'failure', said, mend)}\n"


def test_what_dead_pipes_left() -> None:
    running = finding("pipes").found.split()[0]
    segment = ControlSegment.create(binding.ControlSize(flows=1, routines=1, edges=1, incarnations=1, cells=16), 1000)
    assert finding("pipes").found == f"{int(running) + 1} running, 0 dead that have left segments"
    segment.close()
    segment.unmap()
    assert finding("pipes") == Finding(
        "pipes", "warning", f"{running} running, 1 dead that have left segments", "pipert-shm clean"
    )
    assert segment.pipe_id in sweep_stale()


@pytest.mark.parametrize(("limit", "status"), [("max", "ok"), ("1000000", "warning"), ("1000000000000000", "ok")])
def test_a_limit_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, status: str) -> None:
    """The file is a made-up one: a cgroup of one's own needs rights that a test may not have."""
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    monkeypatch.setattr(doctor, "MEMORY_LIMIT", tmp_path / "memory.max")
    assert finding("container").status == status


def test_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up ones, and rights that root would have."""
    monkeypatch.setattr(doctor, "DEVICES", tmp_path)
    assert (finding("cameras").status, finding("cameras").found) == ("missing", f"none at {tmp_path}/video*")
    (tmp_path / "video0").touch()
    assert finding("cameras") == Finding("cameras", "ok", str(tmp_path / "video0"))
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(tmp_path)))
    found = finding("cameras")
    assert (found.status, found.found) == ("warning", f"this user may not use {tmp_path / 'video0'}")
    assert "usermod -aG video" in found.advice


def test_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed is never ok."""
    extras = {extra: module for module, extra, _ in doctor.EXTRAS}
    assert set(extras) <= set(metadata("pipert_shm").get_all("Provides-Extra") or [])
    monkeypatch.setattr(doctor, "find_spec", lambda module: None if module in (extras["rpc"], extras["onnx"]) else module)
    found = finding("extras")
    assert (found.status, found.advice) == ("missing", f"what you need of: {to_install('onnx', 'rpc')}")
    assert found.found == "not installed: onnx (networks by onnxruntime), rpc (RPCPipeWrapper)"
    monkeypatch.setattr(doctor, "find_spec", lambda module: module)
    assert finding("extras") == Finding("extras", "ok", "all installed")


def test_opencv_names_only_what_reads_streams_here() -> None:
    named = finding("opencv").found.partition("streams by ")[2].split(", ")
    registry = cv2.videoio_registry
    here = {registry.getBackendName(backend): registry.hasBackend(backend) for backend in registry.getStreamBackends()}
    assert named == [name for name, is_here in here.items() if is_here]
    assert "FFMPEG" in named
