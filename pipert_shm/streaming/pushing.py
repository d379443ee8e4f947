"""Sends a stream somewhere, again and again: a thread that connects, sends until that fails, and waits before the next try."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

from pipert_shm.errors import PipertError, describe
from pipert_shm.streaming.broadcast import Broadcast, Watcher
from pipert_shm.streaming.encoding import Encoded
from pipert_shm.system import calls

SHORTEST_WAIT, LONGEST_WAIT = 0.25, 10.0
"""Seconds between two tries: the wait doubles from the first to the second, until something was sent for `STEADY_S`."""

STEADY_S = 5.0
FIRST_S = 10.0  # that a stream's first picture may take
LOOK_S = 0.25
FAREWELL_S = 1.0  # that `close` waits for the thread, which may be waiting for a silent server


class StreamingError(PipertError):
    """A stream can't be sent, or is no longer taken. Its text says what to do. It is tried again."""


class Sender(Protocol):
    """What a `Pusher` sends by. It is used by one thread."""

    def send(self, push: Push) -> None:
        """Connects, sends what `push.packets` gives, and takes leave.

        :raises Exception: when that fails.
        """


class Push:
    """One connection of a pusher.

    Attributes:
        watcher: who gets the packets.
        stopping: set when the pusher is to end.
    """

    def __init__(self, pusher: Pusher, watcher: Watcher, stopping: threading.Event) -> None:
        self.watcher = watcher
        self.stopping = stopping
        self._pusher = pusher
        self._lost = 0

    def connected(self) -> None:
        """Notes that the other end takes the stream."""
        self._pusher.note_connected()

    def note_sent(self) -> None:
        """Counts a packet that was sent."""
        self._pusher.sent += 1

    def first(self) -> Encoded:
        """The first packet, a key frame.

        :raises StreamingError: when none comes in time, or the stream ends.
        """
        until = time.monotonic() + FIRST_S
        while (packet := self.watcher.take(LOOK_S)) is None:
            if self.over or time.monotonic() >= until:
                raise StreamingError(self.watcher.problem or f"no frame to send came within {FIRST_S:g} s")
        return packet

    def take(self) -> Encoded | None:
        """The next packet, if one comes soon."""
        packet = self.watcher.take(LOOK_S)
        self.note_lost()
        return packet

    def note_lost(self) -> None:
        """Counts the packets that the other end was too slow for."""
        lost = self.watcher.lost
        self._pusher.lost += lost - self._lost
        self._lost = lost

    @property
    def over(self) -> bool:
        """Whether there is nothing more to send."""
        return self.stopping.is_set() or self.watcher.over


class Pusher:
    """Keeps a broadcast sent. Nothing waits for it.

    :param sender: knows how to send.
    :param where: what the log calls the other end; secrets in it are masked.

    Attributes:
        sent: how many packets were sent.
        lost: how many packets the other end was too slow for.
        connected: whether it is connected now.
        connections: how often it has connected.
        problem: why it could not send the last time; empty once it is connected.
    """

    def __init__(self, broadcast: Broadcast, sender: Sender, where: str, logger: logging.Logger) -> None:
        self.sent = self.lost = self.connections = 0
        self.connected = False
        self.problem = ""
        self._push: Push | None = None
        self._broadcast = broadcast
        self._sender = sender
        self._where = where
        self._logger = logger
        self._stopping = threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._work, name=f"push-{broadcast.name}", daemon=True)
        calls.start_thread(self._thread)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Takes leave of the other end, without waiting for that."""
        self._stopping.set()
        push = self._push
        if push is not None:
            push.watcher.close()

    def close(self, patience: float = FAREWELL_S) -> None:
        """Takes leave of the other end. A thread that waits for a silent one ends by itself.

        :param patience: seconds to wait for its thread.
        """
        self.stop()
        self._thread.join(max(0.0, patience))

    def _work(self) -> None:
        wait = SHORTEST_WAIT
        while not (self._stopping.is_set() or self._broadcast.closed):
            began = time.monotonic()
            try:
                self._send_once()
            except Exception as error:  # of FFmpeg, of the system, of the other end: all are tried again
                self._tell(error)
            if self._stopping.is_set() or self._broadcast.closed:
                break
            wait = SHORTEST_WAIT if time.monotonic() - began >= STEADY_S and self.connected else min(2 * wait, LONGEST_WAIT)
            self.connected = False
            self._stopping.wait(wait)
        self.connected = False

    def _send_once(self) -> None:
        push = self._push = Push(self, self._broadcast.watch(), self._stopping)
        try:
            self._sender.send(push)
        finally:
            push.watcher.close()
            push.note_lost()

    def note_connected(self) -> None:
        """Notes that the other end takes the stream."""
        self.connections += 1
        self.connected, self.problem, self._warned = True, "", False
        self._logger.info("streams to %s", self._where)

    def _tell(self, error: Exception) -> None:
        self.problem = describe(error)
        if not self._stopping.is_set() and not self._warned:
            self._warned = True
            self._logger.warning("can't stream to %s: %s; it is tried again", self._where, self.problem)
