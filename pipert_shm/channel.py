"""Control messages between the processes of a pipe: pickled tuples over SOCK_SEQPACKET pairs.

A packet is sent whole or not at all and belongs to one receiver, so a process that dies leaves no half-written message and no
lock behind. Ends that are not handed over are closed in forked children.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Sequence
from typing import Any

from pipert_shm import native

PACKET_BYTES = 1 << 20
MOST_FDS = 4


class Channel:
    """One end of a pair."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._guarded = False

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PACKET_BYTES)
        return cls(ends[0]), cls(ends[1])

    def keep(self) -> Channel:
        """Makes this end this process's own: children that are forked from now on don't get it."""
        native.guard(self._socket.fileno())
        self._guarded = True
        return self

    def fileno(self) -> int:
        return self._socket.fileno()

    def set_blocking(self, blocking: bool) -> None:
        self._socket.setblocking(blocking)

    def set_patience(self, seconds: float) -> None:
        """From now on `send` and `receive` raise TimeoutError when they had to wait for so long."""
        self._socket.settimeout(seconds)

    def send(self, *message: Any, fds: Sequence[int] = ()) -> None:
        """Sends a message, and file descriptors with it.

        :raises ValueError: when it is too large for a packet.
        :raises BlockingIOError: when this end does not block and there is no room now.
        :raises OSError: when the other end is gone.
        """
        packet = pickle.dumps(message, 5)
        try:
            if fds:
                socket.send_fds(self._socket, [packet], fds)
            else:
                self._socket.send(packet)
        except OSError as error:
            if len(packet) > PACKET_BYTES // 8 and not isinstance(error, BlockingIOError | BrokenPipeError | ConnectionError):
                raise ValueError(
                    f"{len(packet):,} bytes are too much for an event ({message[0]!r}); send large data over a wire"
                ) from error
            raise

    def receive(self) -> tuple[Any, ...] | None:
        """The next message, None when the other end is gone."""
        try:
            packet = self._socket.recv(PACKET_BYTES)
        except ConnectionError:
            return None
        if not packet:
            return None
        message: tuple[Any, ...] = pickle.loads(packet)
        return message

    def receive_with_fds(self) -> tuple[tuple[Any, ...] | None, list[int]]:
        """The same, with the file descriptors that came with it, which are the caller's to close."""
        try:
            packet, fds, _, _ = socket.recv_fds(self._socket, PACKET_BYTES, MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            return None, []
        return (pickle.loads(packet) if packet else None), list(fds)

    def stop_receiving(self) -> None:
        """Makes `receive` return None, in whichever thread it waits."""
        self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        if self._guarded:
            native.unguard(self._socket.fileno())
            self._guarded = False
        self._socket.close()
