"""How do messages go from a pipe on one host to a pipe on another?

`RemoteSender` is a destination, and `RemoteReceiver` a source; to their pipes they are routines like any others. From below:
`messages` (what the two say to each other), `window`, `clocks`, `protocol` (what each does, without I/O or clocks), `payloads`,
`carrier` (Zenoh, which no other module imports), `line` (the thread between the two), `sender` and `receiver`.
"""

from __future__ import annotations

from pipert_shm.hosts.carrier import Hub
from pipert_shm.hosts.receiver import RemoteReceiver
from pipert_shm.hosts.sender import RemoteSender

__all__ = ["Hub", "RemoteReceiver", "RemoteSender"]
