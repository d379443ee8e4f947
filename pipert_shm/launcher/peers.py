"""The launcher's ends of its channels: to the parent, to the flows, and to fork servers."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from pipert_shm.control.channel import RETRY, SHORTAGES, Channel, Received, close_all, packets_of
from pipert_shm.control.guard import contained
from pipert_shm.control.messages import Message
from pipert_shm.errors import describe
from pipert_shm.launcher.watch import Watch

MOST_QUEUED = 32 << 20  # bytes that wait for a peer that does not read
MOST_FAILURES = 100  # tries to receive the last messages of a dead peer
IN_A_ROUND = 64  # messages of one peer, before others get their turn


class Peer:
    """One channel. Nothing here blocks: a message that finds no room in the socket is queued, in order.

    :param name: the process at the other end, for the log.
    :param deliver: called with each message.
    :param on_closed: called when the other end is gone.
    :param on_overfull: called when more than `MOST_QUEUED` bytes wait.
    """

    def __init__(
        self,
        name: str,
        channel: Channel,
        watch: Watch,
        logger: logging.Logger,
        deliver: Callable[[Received], None],
        on_closed: Callable[[], object],
        on_overfull: Callable[[], object],
    ) -> None:
        self.name = name
        self._channel = channel
        channel.set_blocking(False)
        self._watch = watch
        self._logger = logger
        self._deliver = deliver
        self._on_closed = on_closed
        self._on_overfull = on_overfull
        self._queue: deque[tuple[bytes, Sequence[int]]] = deque()
        self._queued = 0
        self.is_open = True
        watch.add(channel, self.hear, self._flush)

    def send(self, message: Message, question: int = 0, fds: Sequence[int] = ()) -> None:
        """Sends a message, or queues it. Does nothing when the other end is gone, which the launcher learns in other ways.

        :param fds: descriptors that go along; they are closed here afterwards.
        :raises PayloadError: when it is too large.
        """
        if not self.is_open:
            close_all(fds)
            return
        try:
            packets = packets_of(message, question)
        except Exception:
            close_all(fds)
            raise
        for packet in packets:
            self._queue.append((packet, fds))
            self._queued += len(packet)
            fds = ()
        self._flush()
        if self._queued > MOST_QUEUED:
            self._logger.error("%s does not read: more than %d MB wait for it", self.name, MOST_QUEUED >> 20)
            self._forget_queue()
            self._on_overfull()

    def _flush(self) -> None:
        try:
            while self._queue:
                packet, fds = self._queue[0]
                self._channel.send_packet(packet, fds)
                self._queue.popleft()
                self._queued -= len(packet)
                close_all(fds)
        except BlockingIOError:
            self._watch.want_room(self._channel, True)
            return
        except OSError as error:
            if not isinstance(error, ConnectionError) and error.errno in SHORTAGES:
                time.sleep(RETRY)
                self._watch.want_room(self._channel, True)
                return
            if not isinstance(error, ConnectionError):
                self._logger.error("%s can't be sent a message: %s", self.name, describe(error))
                self._on_overfull()
            self._forget_queue()  # it is dying, as its pidfd or the end of the channel will say
        self._watch.want_room(self._channel, False)

    def hear(self) -> None:
        """Handles the messages that have come, `IN_A_ROUND` at most."""
        for _ in range(IN_A_ROUND):
            if not self._hear_one():
                return

    def hear_last_words(self, most: int | None = None) -> None:
        """Handles all messages that a dead process left. Those that the system has no memory for are lost.

        :param most: how many at most, where a child of the process could go on sending; None: all.
        """
        failures = heard = 0
        while failures < MOST_FAILURES:
            if heard == most:
                self._logger.warning("%s is dead, and others send in its place: they are not heard any more", self.name)
                return
            try:
                if not self._hear_one():
                    return
                heard += 1
            except OSError:
                failures += 1
        self._logger.error("the last words of %s can't be received: there is no memory for them", self.name)

    def _hear_one(self) -> bool:
        if not self.is_open:
            return False
        try:
            received = self._channel.receive()
        except BlockingIOError:
            return False
        except OSError:
            time.sleep(RETRY)  # no memory for it now: the message stays in the socket
            raise
        if received is None:
            self._watch.drop(self._channel)
            self._on_closed()
            return False
        with contained(self._logger, f"a message of {self.name}"):
            self._deliver(received)
        return True

    def close(self) -> None:
        """Lets go of the channel."""
        if self.is_open:
            self.is_open = False
            self._watch.drop(self._channel)
            self._channel.close()
            self._forget_queue()

    def _forget_queue(self) -> None:
        for _, fds in self._queue:
            close_all(fds)
        self._queue.clear()
        self._queued = 0
