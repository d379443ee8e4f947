"""What a test may leave behind: processes, threads, file descriptors, and shared memory of pipes.

It looks at the system itself, and not by the package's own code: so it also sees what that has forgotten.
"""

from __future__ import annotations

import fcntl
import gc
import os
import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipert_shm.testing.stage import unmap_lingering

SHM = Path("/dev/shm")
PATIENCE = 5.0  # seconds that processes and threads have to end in after a test


@dataclass
class Possessions:
    """What this process has at one moment: take one before a test, and ask it afterwards. Any thread.

    Attributes:
        children: ids of the processes that descend from this one.
        threads: of this process.
        files: its open file descriptors, with what they are open on.
        segments: of pipes, in /dev/shm.
        mappings: of such segments in this process.

    >>> before = Possessions()
    >>> pipe_end, other_end = os.pipe()
    >>> len(before.left_by_now())
    2
    >>> os.close(pipe_end); os.close(other_end)
    >>> before.left_after(1.0)
    []
    """

    children: set[int] = field(default_factory=lambda: set(descendants()))
    threads: set[threading.Thread] = field(default_factory=lambda: set(threading.enumerate()))
    files: set[tuple[int, str]] = field(default_factory=lambda: _open_files())
    segments: set[str] = field(default_factory=lambda: {path.name for path in SHM.glob("pipert-*")})
    mappings: set[str] = field(default_factory=lambda: _mapped())

    def left_by_now(self) -> list[str]:
        """What there is now beyond that, in words. Segments of pipes that other processes run, on purpose, don't count."""
        now = Possessions()
        return [
            *(describe(pid) for pid in now.children - self.children),
            *(repr(thread) for thread in now.threads - self.threads),
            *(f"file descriptor {number}: {target}" for number, target in now.files - self.files),
            *(f"/dev/shm/{name}" for name in now.segments - self.segments if not _in_use(name)),
            *(f"mapping {line}" for line in now.mappings - self.mappings),
        ]

    def left_after(self, patience: float = PATIENCE) -> list[str]:
        """What is still left after so many seconds, in words; returns as soon as nothing is.

        What is garbage by then is collected, so that only what somebody holds on to counts.
        """
        deadline = None
        while left := self.left_by_now():
            if deadline is not None and time.monotonic() > deadline:
                return left
            gc.collect()
            unmap_lingering()
            # From here on: on a busy machine, the first collection alone may take longer.
            deadline = deadline or time.monotonic() + patience
            time.sleep(0.001)
        return []


def descendants(ancestor: int | None = None) -> list[int]:
    """Children, their children, and so on, of a process (by default this one)."""
    if ancestor is None and not _has_children():
        return []  # which one system call tells, where a look at every process of the machine takes thousands
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_of(int(entry))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    wanted = [ancestor or os.getpid()]
    while wanted:
        more = children.get(wanted.pop(), [])
        found += more
        wanted += more
    return found


def describe(pid: int) -> str:
    """A process, for a message."""
    fields = stat_of(pid)
    return f"process {pid}, state {fields[0]}, parent {fields[1]}" if fields else f"process {pid}, gone"


def stat_of(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the state on; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(b")") + 2 :].decode().split()


def _has_children() -> bool:
    """Whether this process has any; orphans of them become its own, once it has adopted orphans."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _open_files() -> set[tuple[int, str]]:
    files = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            files.add((int(entry), os.readlink(f"/proc/self/fd/{entry}")))
        except FileNotFoundError:
            continue  # the one that listdir itself had open
    return files


def _mapped() -> set[str]:
    """Segments of pipes that are mapped here, by address."""
    with open("/proc/self/maps") as maps:
        return {line.strip() for line in maps if "/dev/shm/pipert-" in line}


def _in_use(name: str) -> bool:
    """Whether any process holds the lock of the pipe that this segment belongs to; a look that disturbs nobody."""
    control = SHM / (name.rsplit("-", 1)[0] + "-c")
    try:
        fd = os.open(control, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        query = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind: int = struct.unpack_from("h", fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query))[0]
    finally:
        os.close(fd)
    return kind != fcntl.F_UNLCK
