"""Looking at processes, from the outside: who descends from whom, and how much CPU they use."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

from pipert_shm.testing.leftovers import descendants as descendants
from pipert_shm.testing.leftovers import describe as describe
from pipert_shm.testing.leftovers import stat_of
from waiting import eventually

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Makes orphaned descendants children of this process, rather than of init: so none gets lost from sight."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def is_zombie(pid: int) -> bool:
    """Whether it has ended, but nobody has asked for its status."""
    fields = stat_of(pid)
    return fields is not None and fields[0] == "Z"


def stop(pid: int) -> None:
    """SIGSTOP; returns when none of its threads does anything any more."""
    os.kill(pid, signal.SIGSTOP)

    def all_stopped() -> bool:
        tasks = [task.name for task in Path(f"/proc/{pid}/task").iterdir()]
        return all((fields := stat_of(int(task))) is not None and fields[0] in "Tt" for task in tasks)

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
