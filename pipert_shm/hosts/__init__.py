"""How do messages go from a pipe on one host to a pipe on another?

`RemoteSender` is a destination, and `RemoteReceiver` a source; to their pipes they are routines like any others. From below:
`messages` (what the two say to each other), `window`, `clocks`, `protocol` (what each does, without I/O or clocks), `payloads`,
`session` (how Zenoh is configured), `carrier` (what goes over it), `line` (the thread between the two), `sender` and
`receiver`.
`share` divides a stream among hosts.
"""

from __future__ import annotations

from pipert_shm.hosts.receiver import RemoteReceiver
from pipert_shm.hosts.sender import RemoteSender
from pipert_shm.hosts.session import Hub
from pipert_shm.hosts.share import Share

__all__ = ["Hub", "RemoteReceiver", "RemoteSender", "Share"]
