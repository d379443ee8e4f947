"""A /dev/shm that no other process of the machine sees: with one each, tests that list or sweep it run side by side.

`python tests/private_shm.py` says by its exit status whether this machine allows that; `python tests/private_shm.py COMMAND …`
runs a command so, or as it is where that is not allowed.
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 0x40000


def take() -> None:
    """Gives a new, empty /dev/shm to the calling thread, and to all processes and threads that it starts from now on.

    :raises OSError: where that is not allowed: it takes CAP_SYS_ADMIN.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for name, call, arguments in (
        ("a mount namespace", libc.unshare, (CLONE_NEWNS,)),
        ("a private /", libc.mount, (None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)),
        ("a tmpfs on /dev/shm", libc.mount, (b"none", b"/dev/shm", b"tmpfs", ctypes.c_ulong(0), b"mode=1777")),
    ):
        if call(*arguments):
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    command = sys.argv[1:]
    try:
        take()
    except OSError as error:
        if not command:
            sys.exit(str(error))
    if command:
        os.execvp(command[0], command)
