"""The base class of destinations that send messages to other systems, each at least once."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from pipert_shm.limits import check_count, check_seconds
from pipert_shm.routine import DestinationRoutine
from pipert_shm.sinks.courier import Courier
from pipert_shm.sinks.letter import letters_of
from pipert_shm.sinks.sender import MOST_TRIES, Sender
from pipert_shm.sinks.settings import SpoolSettings
from pipert_shm.sinks.spool import Spool
from pipert_shm.video.detection import NOT_FINITE


class Sink(DestinationRoutine):
    """Sends what it gets to another system, at least once and in order. A subclass says how: `connect()`.

    It takes a `DetectionEvent`, a `DetectedFrame`, `Detections`, a dict, or a list of these, and sends a JSON object for each.
    A frame in which nothing was found is not sent. `main_logic` only adds it to a spool on the disk, which takes some ten
    microseconds. A thread delivers from there, so a slow or absent server never slows a camera.

    - **At least once.** What was taken is delivered, also if the flow is killed meanwhile. The next process goes on where this
      one was. A message may come twice if nobody could know whether it arrived; `key` tells. A power cut may cost the last
      second.
    - **In order**, as the messages came. A server that does not answer is tried again after 0.5 s, and then after twice the
      time, at most 60 s; or when it asks for.
    - **Bounded.** A full spool drops its oldest messages, or the newest (`when_full`), and counts them.
    - **What the server refuses** because of what is in it is tried `tries` times. Then it goes to the spool's file
      `refused.jsonl`, of which the newest 8 to 16 MiB are kept, and the others go on.

    The end of the routine waits at most `grace` seconds for the server, if that answers. The rest stays in the spool.

    The counters are `accepted` (all that came), `sent`, `retried` (attempts that failed), `refused`, `dropped_full`,
    `dropped_old` (`max_age`), `damaged` (could not be read on the disk), `not_finite` (boxes that were left out), and two of
    the moment: `waiting`, how many messages are in the spool, and `oldest_s`, for how many seconds the oldest has been waiting.
    `accepted` is the sum of `sent`, `refused`, `dropped_full`, `dropped_old`, `damaged` and `waiting`.

    :param spool: a directory, by default `spool/<name>`; or a mapping with `path`, `max_bytes` (64 MiB), `max_messages`
        (1,000,000), `max_age` (seconds; None: for ever) and `when_full` (`drop_oldest` or `drop_newest`).
    :param tries: how often a message is sent that the server refuses.
    :param grace: seconds for the last messages when the routine ends; less than the pipe's `grace_period`.
    :raises TypeError, ValueError: when one of these is out of range.
    """

    replicable = False  # replicas would share its spool
    counter_names = (
        "accepted",
        "sent",
        "retried",
        "refused",
        "dropped_full",
        "dropped_old",
        "damaged",
        NOT_FINITE,
        "waiting",
        "oldest_s",
    )

    def __init__(
        self,
        name: str | None = None,
        *,
        spool: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        tries: int = MOST_TRIES,
        grace: float = 2.0,
    ) -> None:
        super().__init__(name)
        check_count("tries", tries)
        check_seconds("grace", grace)
        self._settings = SpoolSettings.of(spool, self.name)
        self._most_tries = tries
        self._grace = grace
        self._spool: Spool | None = None
        self._sender: Sender | None = None

    def connect(self) -> Courier:
        """Connects to the server. It is called on the sending thread, before the first message and after each failure.

        :raises Exception: any one, when that fails; it is tried again.
        """
        raise NotImplementedError

    def is_over(self) -> bool:
        """Whether the time for deliveries is up. A courier that waits long for its server should look at it. Any thread."""
        sender = self._sender
        return sender is None or sender.is_over()

    def setup(self) -> None:
        """Opens the spool, and begins to send what an earlier run has left there.

        :raises SinkError: when another process uses the spool.
        :raises OSError: when the directory can't be made or written to.
        """
        self._spool = Spool(self._settings, self._logger, self._measure)
        self._sender = Sender(self._spool, self.connect, self.counters, self._logger, tries=self._most_tries)
        self._measure()
        self._sender.start()

    def main_logic(self, data: object) -> None:
        """Adds what the payload tells to the spool: all of it, or nothing.

        :raises TypeError: when the payload is none that a sink takes.
        :raises SinkError: when the disk is full, or a message larger than 1 MiB or an eighth of the spool.
        """
        assert self._spool is not None, "setup() comes first"
        letters = letters_of(self, data)
        if not letters:
            return
        older, newer = self._spool.append(letters)
        self.counters["accepted"] += len(letters)
        self.counters["dropped_full"] += older + newer

    def _measure(self) -> None:
        if self._spool is not None and self._sender is not None:
            oldest = self._sender.oldest
            self.counters["waiting"] = self._spool.waiting
            self.counters["oldest_s"] = 0 if oldest is None else max(0, int(self._spool.now - oldest))

    def cleanup(self) -> None:
        """Sends for at most `grace` seconds what still waits, and closes the spool.

        What is left waits there for the next start.
        """
        spool, sender = self._spool, self._sender
        if spool is None or sender is None:
            return
        began = time.monotonic()
        if not sender.end(self._grace):
            self._logger.warning("a delivery did not end within %.0f s; it may come twice", time.monotonic() - began)
        waiting = spool.waiting
        self._spool = self._sender = None
        spool.close()
        self.counters["waiting"] = waiting
        if waiting:
            self._logger.warning("%d messages wait in the spool %s for the next start", waiting, spool.path)
