"""How long a thread has waited for a processor, though it could have run."""

from __future__ import annotations

import os
from contextlib import suppress


class QueueTime:
    """The time that this thread has waited for a processor. For the thread that makes it; to be closed by it."""

    def __init__(self) -> None:
        self._fd = -1
        with suppress(OSError):  # a kernel without such a count
            self._fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def seconds(self) -> float:
        """Seconds since the thread began; 0 where the kernel does not count them."""
        if self._fd < 0:
            return 0.0
        return int(os.pread(self._fd, 80, 0).split()[1]) / 1e9

    def close(self) -> None:
        """Closes the kernel's count."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
