"""Looking at processes, from the outside: who descends from whom, and how much CPU they use."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

from waiting import eventually

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Makes orphaned descendants children of this process, rather than of init: so none gets lost from sight."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _stat(pid: int) -> list[str] | None:
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


def descendants(ancestor: int | None = None) -> list[int]:
    """Children, their children, and so on, of a process (by default this one)."""
    if ancestor is None and not _has_children():
        return []  # which one system call tells, where a look at every process of the machine takes thousands
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    wanted = [ancestor or os.getpid()]
    while wanted:
        more = children.get(wanted.pop(), [])
        found += more
        wanted += more
    return found


def describe(pid: int) -> str:
    """For a message."""
    fields = _stat(pid)
    return f"process {pid}, state {fields[0]}, parent {fields[1]}" if fields else f"process {pid}, gone"


def is_zombie(pid: int) -> bool:
    """Whether it has ended, but nobody has asked for its status."""
    fields = _stat(pid)
    return fields is not None and fields[0] == "Z"


def stop(pid: int) -> None:
    """SIGSTOP; returns when none of its threads does anything any more."""
    os.kill(pid, signal.SIGSTOP)

    def all_stopped() -> bool:
        tasks = [task.name for task in Path(f"/proc/{pid}/task").iterdir()]
        return all((fields := _stat(int(task))) is not None and fields[0] in "Tt" for task in tasks)

    eventually(all_stopped, f"a stop of process {pid}")


def kill_all_but(known: set[int]) -> None:
    """SIGKILL to all descendants but the `known`, until there are none."""
    for pid in set(descendants()) - known:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    reap_orphans(known)


def reap_orphans(known: set[int], timeout: float = 15.0) -> None:
    """Waits until all descendants that are not `known` have ended by themselves.

    :raises AssertionError: when one does not in time.
    """

    def all_gone() -> bool:
        rest = set(descendants()) - known
        for pid in filter(is_zombie, rest):
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return not rest

    eventually(all_gone, "the end of all orphans", timeout)


def cpu_seconds(pids: list[int]) -> float:
    """CPU time that all threads of the processes have used so far."""
    spent = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                spent += int((task / "schedstat").read_text().split()[0])
    return spent / 1e9
