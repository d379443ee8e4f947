"""How do messages go from a pipe on one host to a pipe on another?

`RemoteSender` is a destination, and `RemoteReceiver` a source; to their pipes they are routines like any others. From below:
`messages` (what the two say to each other), `window`, `clocks`, `protocol` (what each does, without I/O or clocks), `payloads`,
`session` (how Zenoh is configured), `carrier` (what goes over it), `line` (the thread between the two), `sender` and
`receiver`.
`share` and `shared_sender` divide a stream among hosts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pipert_shm.hosts.session import Hub

if TYPE_CHECKING:
    from pipert_shm.hosts.receiver import RemoteReceiver
    from pipert_shm.hosts.sender import RemoteSender
    from pipert_shm.hosts.share import Share
    from pipert_shm.hosts.shared_sender import SharedSender

__all__ = ["Hub", "RemoteReceiver", "RemoteSender", "Share", "SharedSender"]
_LAZY = {"RemoteReceiver": "receiver", "RemoteSender": "sender", "Share": "share", "SharedSender": "shared_sender"}


def __getattr__(name: str) -> Any:
    """The routines load when they are first asked for: they need OpenCV, and agents don't."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
