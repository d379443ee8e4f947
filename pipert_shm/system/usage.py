"""What a process takes of the machine: CPU time and memory, as the kernel counts them anyway.

The kernel fills these files of /proc from counters, without a lock of the process's: to read them costs the process nothing. So
there is no PSS, the fair share of what several processes have mapped: for that the kernel walks the page tables of the process,
which waits meanwhile when it maps memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipert_shm.system import calls

TICKS = os.sysconf("SC_CLK_TCK")

# places in /proc/PID/stat behind the name of the program, which may contain anything
_USER, _SYSTEM, _START = 11, 12, 19


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process takes.

    Attributes:
        cpu_s: CPU seconds of all of its threads so far, also of those that have ended. Not those of its child processes.
        private_bytes: its own memory in RAM (`RssAnon`): heap, stacks, and private mappings that were written to.
        shared_bytes: shared memory that it has touched (`RssShmem`): that of frames, which other processes have mapped as well.
        file_bytes: mapped files in RAM (`RssFile`): code of libraries above all, which the processes share.
    """

    cpu_s: float
    private_bytes: int
    shared_bytes: int
    file_bytes: int

    @classmethod
    def of(cls, pid: int, started: int) -> Usage | None:
        """None when there is no such process any more, or the system does not tell.

        :param started: when it began: see `started_at`. A process that has its pid by now began later.
        """
        try:
            status = calls.process_file(pid, "status")
            stat = _stat_of(pid)  # last: the process that this is about was there all the time
        except OSError:
            return None
        sizes = _sizes_in(status)
        if int(stat[_START]) != started or not sizes:  # a zombie has no sizes
            return None
        return cls(
            cpu_s=(int(stat[_USER]) + int(stat[_SYSTEM])) / TICKS,
            private_bytes=sizes["RssAnon"],
            shared_bytes=sizes["RssShmem"],
            file_bytes=sizes["RssFile"],
        )


def started_at(pid: int) -> int:
    """When a process began, in clock ticks since the system did. Together with the pid this names it for good.

    :raises OSError: when there is no such process, or the system does not tell.
    """
    return int(_stat_of(pid)[_START])


def private_bytes_of(pid: int) -> int:
    """The private memory of a process, in bytes: see `Usage`. 0 of one that has ended.

    :raises OSError: when there is no such process, or the system does not tell.
    """
    return _sizes_in(calls.process_file(pid, "status")).get("RssAnon", 0)


def _stat_of(pid: int) -> list[str]:
    return calls.process_file(pid, "stat").rpartition(")")[2].split()


def _sizes_in(status: str) -> dict[str, int]:
    """The sizes in a process's status, by name, in bytes."""
    lines = (line.split() for line in status.splitlines() if line.startswith("Rss"))
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in lines}


def processors() -> int:
    """How many processors this process, and what it starts, may use."""
    return len(os.sched_getaffinity(0))


def machine_cpu_s() -> tuple[float, float]:
    """Seconds that the machine's processors have worked, and that they have been there, since it was started."""
    user, nice, system, idle, iowait, *others = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    work = user + nice + system + sum(others)
    return work / TICKS, (work + idle + iowait) / TICKS
