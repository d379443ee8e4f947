"""A signal to one thread of another process."""

from __future__ import annotations

import os

from pipert_shm.binding.native import ffi, lib


def signal_thread(pid: int, thread: int, number: int) -> None:
    """Sends the signal `number` to one thread. `pid` must not be reaped yet, so that no other process can have it.

    :param thread: as the kernel numbers it: `threading.Thread.native_id`, a name in /proc/PID/task.
    :raises OSError: ProcessLookupError when there is no such thread any more.
    """
    if lib.syscall(lib.SYS_tgkill, ffi.cast("int", pid), ffi.cast("int", thread), ffi.cast("int", number)):
        raise OSError(ffi.errno, os.strerror(ffi.errno))
