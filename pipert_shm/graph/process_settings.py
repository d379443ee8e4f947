"""What the process of a flow may take of the machine: a limit of memory, processors, niceness."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pipert_shm.errors import PipertError, describe, shown
from pipert_shm.limits import check_count, is_count
from pipert_shm.system import calls

LEAST_NICENESS, MOST_NICENESS = -20, 19


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """What a flow's process may take. Where something is None, that is as for the program that built the pipe.

    Attributes:
        max_rss: bytes of private memory past which the process is killed.
        cpus: the processors that it runs on.
        nice: its niceness.
    """

    max_rss: int | None = None
    cpus: Collection[int] | None = None
    nice: int | None = None

    def check(self) -> None:
        """Checks the settings, also whether this process could set them.

        :raises ValueError: when one of them is of the wrong type or out of range, a processor is not there, or the niceness is
            not permitted.
        """
        if self.max_rss is not None:
            check_count("max_rss (bytes)", self.max_rss)
        if self.cpus is not None:
            _check_cpus(self.cpus)
        if self.nice is not None:
            _check_niceness(self.nice)

    def plain(self) -> ProcessSettings:
        """The same, checked, in plain types, which cross to other processes.

        :raises ValueError: see `check`.
        """
        self.check()
        return ProcessSettings(
            None if self.max_rss is None else int(self.max_rss),
            None if self.cpus is None else frozenset(map(int, self.cpus)),
            None if self.nice is None else int(self.nice),
        )

    def apply(self) -> None:
        """Sets processors and niceness of this process, which has one thread yet: those to come inherit them.

        :raises PipertError: when the system refuses that.
        """
        if self.cpus is not None:
            try:
                calls.set_cpus(0, self.cpus)
                given = calls.cpus_of(0)
            except OSError as error:
                raise PipertError(f"it can't be put on cpus={_listed(self.cpus)}: {describe(error)}") from error
            if given != self.cpus:
                raise PipertError(f"it can't be put on cpus={_listed(self.cpus)}: the system gives it {_listed(given)} only")
        if self.nice is not None:
            try:
                calls.set_niceness(self.nice)
            except OSError as error:
                raise PipertError(f"its niceness can't be set to {self.nice}: {describe(error)}") from error


def _check_cpus(cpus: Any) -> None:
    """:raises ValueError: when it is no set of processors that this process may use."""
    if isinstance(cpus, str | bytes) or not isinstance(cpus, Collection) or not all(is_count(cpu, 0) for cpu in cpus):
        raise ValueError(f"cpus must be a set of numbers of processors, such as {{0, 2}}, not {shown(cpus)}")
    if not cpus:
        raise ValueError("cpus must name one processor at least (None: those of the program)")
    there = os.sched_getaffinity(0)
    missing = sorted({int(cpu) for cpu in cpus} - there)
    if missing:
        raise ValueError(f"cpus: processor {_listed(missing)} is not there for this program; it may use {_listed(there)}")


def _check_niceness(nice: Any) -> None:
    """:raises ValueError: when it is no niceness, or this process may not have it."""
    if isinstance(nice, bool) or not (is_count(nice, LEAST_NICENESS) and nice <= MOST_NICENESS):
        raise ValueError(
            f"nice must be a whole number from {LEAST_NICENESS} to {MOST_NICENESS} (the more, the later it gets its turn), "
            f"not {shown(nice)}"
        )
    own = os.getpriority(os.PRIO_PROCESS, 0)
    if nice < own and not _is_permitted(int(nice)):
        raise ValueError(
            f"nice: {nice} is not permitted to this program, whose own niceness is {own}: to lower it takes the capability "
            f"CAP_SYS_NICE or a limit RLIMIT_NICE (`ulimit -e`) of {20 - nice}"
        )


def _is_permitted(nice: int) -> bool:
    """Whether this process may have a niceness. A thread tries it, which ends then: only the system knows all of its rules."""
    refused: list[OSError] = []

    def attempt() -> None:
        try:
            calls.set_niceness(nice)
        except OSError as error:
            refused.append(error)

    thread = threading.Thread(target=attempt, name="pipert-niceness")
    calls.start_thread(thread)
    thread.join()
    return not refused


def _listed(cpus: Collection[int]) -> str:
    """Such as `0-3,6`, as the tools of the system write them."""
    spans: list[list[int]] = []
    for cpu in sorted(cpus):
        if spans and cpu == spans[-1][1] + 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
