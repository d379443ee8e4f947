"""What processes use, and what the machine has: read from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process uses: CPU seconds so far, bytes of private memory, and bytes of shared memory that it has mapped."""

    cpu_s: float
    private_bytes: int
    shared_bytes: int

    @classmethod
    def of(cls, pid: int) -> Usage | None:
        """None when there is no such process."""
        try:
            times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return None
        rss = (line.split() for line in lines if line.startswith("Rss"))
        sizes = {name: int(kilobytes) * 1024 for name, kilobytes, _ in rss}
        if not sizes:
            return None  # a zombie
        return cls(
            cpu_s=(int(times[11]) + int(times[12])) / TICKS,
            private_bytes=sizes["RssAnon:"],
            shared_bytes=sizes["RssShmem:"],
        )


def processors() -> int:
    """How many processors this process, and what it starts, may use."""
    return len(os.sched_getaffinity(0))


def machine_cpu_s() -> tuple[float, float]:
    """Seconds that the machine's processors have worked, and that they have been there, since it was started."""
    user, nice, system, idle, iowait, *others = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    work = user + nice + system + sum(others)
    return work / TICKS, (work + idle + iowait) / TICKS
