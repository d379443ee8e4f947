"""Channels between the processes of a pipe: SOCK_SEQPACKET pairs that carry messages.

A message is a header and a body. The header has the message's kind, the number of its question, its length and a checksum. So
a receiver recognises a damaged message, and its kind. A message larger than a packet goes in several, one after the other. A
packet is sent whole or not at all. So a process that dies leaves no lock behind, and at most the first packets of a message,
which the end of the channel follows.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from pipert_shm import binding
from pipert_shm.control.encoding import decode, encode, kind_of
from pipert_shm.control.messages import Message
from pipert_shm.errors import PayloadError, PipeStateError, describe
from pipert_shm.frozen import Frozen
from pipert_shm.system import calls

PACKET_BYTES = 120 << 10  # every socket takes it, whatever net.core.wmem_max is
LARGEST_MESSAGE = 8 << 20
MOST_FDS = 4
SHORTAGES = (errno.ENOBUFS, errno.ENOMEM)  # of the kernel, which pass
RETRY = 0.01  # seconds
PATIENCE = 5.0
NO_ROOM_FOR_FDS = "too many open files: the descriptors that came with it were lost"

_HEADER = struct.Struct("<4sHHIIII")  # magic, kind, part, parts, question, bytes of the body, its checksum
_MAGIC = b"PSM1"
_ROOM = PACKET_BYTES - _HEADER.size  # for a part of a body
_MOST_PARTS = -(-LARGEST_MESSAGE // _ROOM)


class Received(Frozen):
    """A message as it came over a channel.

    Attributes:
        kind: the name of its class, as its header says.
        question: the number of the question that it asks, or answers; 0: neither.
        message: None when it could not be read.
        trouble: what is wrong with it; else empty.
        fds: the descriptors that came with it, which are the receiver's to close.
    """

    kind: str
    question: int
    message: Message | None
    trouble: str
    fds: list[int]


class _Head(Frozen):
    """The header of each part of a message."""

    code: int
    part: int
    parts: int
    question: int
    size: int
    checksum: int

    @classmethod
    def of(cls, packet: bytes) -> _Head | None:
        """The header of a packet; None when it can't be read."""
        if len(packet) < _HEADER.size or packet[: len(_MAGIC)] != _MAGIC:
            return None
        return cls(*_HEADER.unpack_from(packet)[1:])

    @property
    def is_too_large(self) -> bool:
        """Whether no message is like that. What comes in so many parts would fill the memory before it is whole."""
        return self.size > LARGEST_MESSAGE or not self.part < self.parts <= _MOST_PARTS


class _Assembly:
    """Puts packets together to messages. One that will never be complete is given as damaged."""

    def __init__(self) -> None:
        self._head: _Head | None = None
        self._parts: list[bytes] = []
        self._fds: list[int] = []
        self._lost_fds = False

    def add(self, packet: bytes, fds: list[int], flags: int) -> Iterator[Received]:
        """The messages that end with this packet: none yet, one, or one that broke off and then this one."""
        head = _Head.of(packet)
        if self._parts and (head is None or head.part == 0):
            yield self._finish("it is not whole")
        fits = head is not None and head.part == len(self._parts) and not flags & socket.MSG_TRUNC
        self._head = head
        self._parts.append(packet[_HEADER.size :])
        self._fds += fds
        self._lost_fds |= bool(flags & socket.MSG_CTRUNC)
        if head is not None and head.is_too_large:
            yield self._finish(f"it is larger than {LARGEST_MESSAGE:,} bytes, which is the limit")
        elif head is None or not fits:
            yield self._finish("it is not whole")
        elif head.part == head.parts - 1:
            yield self._finish("")

    def _finish(self, trouble: str) -> Received:
        head, body, fds, lost_fds = self._head, b"".join(self._parts), self._fds, self._lost_fds
        self._head, self._parts, self._fds, self._lost_fds = None, [], [], False
        if head is None:
            return Received("damaged message", 0, None, trouble, fds)
        message = None
        if not trouble:
            message, trouble = _read(head, body)
        if message is not None and lost_fds:
            trouble = NO_ROOM_FOR_FDS
        return Received(kind_of(head.code), head.question, message, trouble, fds)

    def close(self) -> None:
        """Closes the descriptors of a message that is not complete."""
        close_all(self._fds)
        self._fds = []


def _read(head: _Head, body: bytes) -> tuple[Message | None, str]:
    """The message, or what is wrong with it."""
    if len(body) != head.size:
        return None, "it is not whole"
    if zlib.crc32(body) != head.checksum:
        return None, "its checksum does not fit"
    try:
        return decode(head.code, body), ""
    except Exception as error:
        return None, describe(error)


class Channel:
    """One end of a pair. Any thread may send. Receiving is for one thread.

    A thread may even send in the midst of a send of its own: from a signal handler, or from a `__del__` that runs then.

    The end belongs to the process that `keep`s it. A child that is forked from that one does not have the descriptor:
    its number may be another file's there, which must not be touched.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._owner = 0
        self._outgoing: deque[tuple[list[bytes], Sequence[int]]] = deque()
        self._sending = threading.RLock()
        self._is_sending = False
        self._assembly = _Assembly()
        self._received: deque[Received] = deque()

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two ends.

        :raises OSError: when the system has no descriptors or no memory for them.
        """
        ends = calls.channel_ends()
        return cls(ends[0]), cls(ends[1])

    def keep(self) -> Channel:
        """Makes this end this process's own, and returns it. Children that are forked from now on don't get it."""
        binding.guard(self._socket.fileno())
        self._owner = os.getpid()
        return self

    def fileno(self) -> int:
        return self._socket.fileno()

    def set_blocking(self, blocking: bool) -> None:
        self._socket.setblocking(blocking)

    def send(self, message: Message, question: int = 0, fds: Sequence[int] = ()) -> bool:
        """Sends a message, and file descriptors with it. Waits for room.

        False when it is called in the midst of a send of the same thread: that send then sends this message, too.

        :raises PayloadError: when the message is too large, or can't be encoded.
        :raises PipeStateError: in a process that was forked from the one that the channel belongs to.
        :raises OSError: when the other end is gone, or the system has had no memory for the message for some seconds.
        """
        self._outgoing.append((packets_of(message, question), fds))
        with self._sending:
            if self._is_sending:  # by this thread, further out
                return False
            self._is_sending = True
            try:
                while self._outgoing:
                    packets, fds = self._outgoing.popleft()
                    for packet in packets:
                        self._insist(packet, fds)
                        fds = ()
            finally:
                self._is_sending = False
        return True

    def _insist(self, packet: bytes, fds: Sequence[int]) -> None:
        for _ in range(int(PATIENCE / RETRY)):
            try:
                self.send_packet(packet, fds)
                return
            except OSError as error:
                if error.errno not in SHORTAGES:
                    raise
            time.sleep(RETRY)
        self.send_packet(packet, fds)

    def send_packet(self, packet: bytes, fds: Sequence[int] = ()) -> None:
        """Sends a part of a message.

        :raises BlockingIOError: when this end does not block and there is no room now.
        :raises PipeStateError, OSError: as `send` does.
        """
        self._require_own()
        calls.send(self._socket, packet, fds)

    def receive(self) -> Received | None:
        """The next message; None when the other end is gone.

        :raises BlockingIOError: when this end does not block and there is no whole message now.
        :raises OSError: when the system has no memory for it now; the message is not lost.
        """
        self._require_own()
        while not self._received:
            try:
                packet, fds, flags = calls.receive(self._socket, PACKET_BYTES, MOST_FDS)
            except ConnectionError:
                return None
            if not packet:
                return None
            self._received.extend(self._assembly.add(packet, fds, flags))
        return self._received.popleft()

    def _require_own(self) -> None:
        if self._owner and self._owner != os.getpid():
            raise PipeStateError("a process that was forked from one of a pipe's has no part in the pipe: use it in that one")

    def receive_patiently(self, complain: Callable[[OSError], object]) -> Received | None:
        """The next message, as `receive` gives it, of an end that blocks.

        :param complain: called when the system has no memory for the message; then it is tried again.
        """
        while True:
            try:
                return self.receive()
            except OSError as error:
                if error.errno not in SHORTAGES:
                    raise
                complain(error)
            time.sleep(RETRY)

    def stop_receiving(self) -> None:
        """Makes `receive` return None, in whichever thread it waits."""
        self._socket.shutdown(socket.SHUT_RD)

    def duplicate(self) -> Channel:
        """This end with another descriptor, which belongs to no process yet."""
        return Channel(calls.duplicate(self._socket))

    def detach(self) -> int:
        """Gives the descriptor to the caller."""
        return self._socket.detach()

    def close(self) -> None:
        if self._owner:
            binding.unguard(self._socket.fileno())
            self._owner = 0
        self._socket.close()
        self._assembly.close()
        while self._received:
            close_all(self._received.popleft().fds)


def packets_of(message: Message, question: int = 0) -> list[bytes]:
    """The packets that carry a message.

    :raises PayloadError: when it is too large, or can't be encoded.
    """
    code, body = encode(message)
    if len(body) > LARGEST_MESSAGE:
        reason = f"{len(body):,} bytes, and {LARGEST_MESSAGE:,} is the limit"
        raise PayloadError("", "", reason, size=len(body), limit=LARGEST_MESSAGE, what=f"a message ({type(message).__name__})")
    pieces = [body[start : start + _ROOM] for start in range(0, len(body), _ROOM)] or [b""]
    checksum = zlib.crc32(body)
    return [
        _HEADER.pack(_MAGIC, code, part, len(pieces), question, len(body), checksum) + piece
        for part, piece in enumerate(pieces)
    ]


def close_all(fds: Iterable[int]) -> None:
    """Closes descriptors."""
    for fd in fds:
        os.close(fd)
