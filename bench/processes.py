"""Processes of a measurement: forked, waited for, and never left behind."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

LONGEST_ROUND_S = 40.0

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

_led = False  # whether this process is in a group of a measurement

fork = multiprocessing.get_context("fork")


def run_together(*targets: Callable[[], None], longest_s: float = LONGEST_ROUND_S) -> None:
    """Runs each in a process of its own, and waits for all.

    :param longest_s: seconds after which they are ended.
    :raises RuntimeError: when one of them failed, or did not end.
    """
    processes = [fork.Process(target=_lead_a_group, args=(target,)) for target in targets]
    deadline = time.monotonic() + longest_s
    try:
        for process in processes:
            process.start()
        running = list(processes)
        while running and not any(process.exitcode for process in processes) and time.monotonic() < deadline:
            wait([process.sentinel for process in running], deadline - time.monotonic())
            running = [process for process in running if process.exitcode is None]
        exit_codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            if process.pid is not None:
                if process.exitcode != 0:
                    _end_group(process.pid)
                    process.kill()
                process.join()
    if any(code != 0 for code in exit_codes):
        raise RuntimeError(f"its processes ended with {exit_codes} (None: not within {longest_s:g} s, or not before a failure)")


def settle(end: int) -> None:
    """Keeps the calling thread on one processor: that of end 0, or another one for end 1 where the machine has two."""
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[min(end, len(processors) - 1)]})


def _lead_a_group(target: Callable[[], None]) -> None:
    """Of all that the target forks in turn, so that it can be ended with it."""
    global _led
    if not _led:
        os.setpgid(0, 0)
        _led = True
    target()


def _end_group(pid: int) -> None:
    with suppress(ProcessLookupError):  # it may lead none
        os.killpg(pid, signal.SIGKILL)


def adopt_orphans() -> None:
    """Makes what descendants of this process leave behind children of it."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """This process gets a SIGTERM when its parent dies."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(what: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(what, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({what})")


def end_orphans(patience_s: float = 5.0) -> None:
    """Waits for all children of this process to end, adopted ones too, and kills those that take longer."""
    deadline = time.monotonic() + patience_s
    with suppress(ChildProcessError):  # there is none left
        while True:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split():
                        os.kill(int(pid), signal.SIGKILL)
                time.sleep(0.01)


def cpu_ns(pid: int) -> int:
    """Processor time of a process so far, all threads: the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def descendants(pid: int) -> list[int]:
    """Children of a process, theirs, and so on."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            if Path(f"/proc/{child}/task").exists():  # one that ended meanwhile has none
                found += [child, *descendants(child)]
    return found


def idle_s() -> float:
    """Seconds that all processors of the machine together have been idle so far."""
    return int(Path("/proc/stat").read_text().split(maxsplit=6)[4]) / os.sysconf("SC_CLK_TCK")
