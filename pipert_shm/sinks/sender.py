"""The thread that delivers what waits in a spool: in order, again after failures, until the server has said that it has it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from pipert_shm.errors import describe, text_of, without_numbers
from pipert_shm.shm.counters import Counters
from pipert_shm.sinks.courier import Courier, LetterRefused, Undelivered
from pipert_shm.sinks.letter import Letter
from pipert_shm.sinks.refused import RefusedLetters
from pipert_shm.sinks.spool import Spool

FIRST_PAUSE = 0.5  # seconds after a failure; each further one doubles it
LONGEST_PAUSE = 60.0
LONGEST_WAIT = 3600.0  # seconds, that a server may ask for
MOST_TRIES = 5  # of a letter that the server refuses
LINGER = 1.0  # seconds that a delivery may take beyond the time that there was for the end


class Sender:
    """Delivers letters on a thread of its own, from `start` until `end`.

    :param connect: makes a courier; on the sender's thread, before the first delivery and after each failure.
    :param counters: of the routine: `sent`, `retried`, `refused`, `dropped_old` and `damaged` are counted here.
    """

    def __init__(
        self,
        spool: Spool,
        connect: Callable[[], Courier],
        counters: Counters,
        logger: logging.Logger,
        *,
        tries: int = MOST_TRIES,
    ) -> None:
        self._spool = spool
        self._connect = connect
        self._counters = counters
        self._logger = logger
        self._most_tries = tries
        self._refused = RefusedLetters(spool.path)
        self._courier: Courier | None = None
        self._batch: list[Letter] = []  # read, and not dealt with
        self._singly = 0  # so many letters go alone, since one of them was refused
        self._tries = 0  # refusals of the first letter
        self._failures = 0  # in a row
        self._failed_at = 0.0
        self._said = ""
        self._deadline: float | None = None  # of the end
        self._thread = threading.Thread(target=self._run, name="sink-sender", daemon=True)

    def start(self) -> None:
        """Begins to deliver."""
        self._thread.start()

    def end(self, grace: float) -> bool:
        """Ends, after what can still be delivered within so many seconds; whether the thread has ended."""
        self._deadline = time.monotonic() + grace
        self._spool.wake()
        self._thread.join(grace + LINGER)
        return not self._thread.is_alive()

    @property
    def oldest(self) -> float | None:
        """When the oldest letter was taken of those that were read but not delivered."""
        batch = self._batch
        return batch[0].time if batch else None

    @property
    def _is_ending(self) -> bool:
        return self._deadline is not None or self._spool.is_closed

    def is_over(self) -> bool:
        """Whether nothing more is to be delivered. A courier that waits long looks at it."""
        return self._spool.is_closed or (self._deadline is not None and time.monotonic() > self._deadline)

    def _run(self) -> None:
        try:
            while not self.is_over() and self._fill():
                self._attempt()
        except Exception:
            self._logger.exception("the sending thread has failed; what waits stays in the spool until the next start")
        finally:
            self._hang_up()

    def _fill(self) -> bool:
        """Reads letters if none is in hand; False when there are none, and there will be none."""
        while not self._batch:
            courier = self._courier
            self._batch = self._spool.read(courier.most if courier is not None else 1)
            self._counters["damaged"] += self._spool.take_damaged()
            if self._batch:
                break
            if self._is_ending:
                return False
            self._spool.wait(None, lambda: self._is_ending)
        return True

    def _attempt(self) -> None:
        self._leave_out()
        if not self._batch:
            return
        try:
            if self._courier is None:
                self._courier = self._connect()
            self._deliver(self._courier)
        except (Exception, SystemExit) as error:  # of a library or a user's courier: anything
            self._fail(error)

    def _leave_out(self) -> None:
        """Takes out of the batch what has been dropped since it was read, and what is too old by now."""
        oldest = self._spool.settings.max_age
        self._batch = [letter for letter in self._batch if not self._spool.is_dropped(letter)]
        if oldest is not None:
            fresh = [letter for letter in self._batch if self._spool.now - letter.time <= oldest]
            if late := len(self._batch) - len(fresh):
                last = self._batch[-1].number if not fresh else fresh[0].number - 1
                self._batch = fresh
                self._counters["dropped_old"] += late
                self._spool.acknowledge(last)

    def _deliver(self, courier: Courier) -> None:
        most = 1 if self._singly else courier.most
        letters = self._batch[:most]
        try:
            refused = courier.deliver(letters) or {}
        except Undelivered as error:
            self._deal_with(error.arrived, {})
            raise
        except OSError:
            raise  # also a certificate that is not trusted, which is a ValueError besides
        except (LetterRefused, ValueError, TypeError, OverflowError) as error:  # the last three: a library can't encode it
            if len(letters) > 1:
                self._singly = len(letters)
                return
            self._tries += 1
            if self._tries < self._most_tries:
                raise
            refused = {0: _told(error)}
        self._deal_with(len(letters), refused)
        if self._failures:
            seconds = time.monotonic() - self._failed_at
            self._logger.info("delivers again, after %d failures in %.0f s", self._failures, seconds)
        self._failures, self._said = 0, ""

    def _deal_with(self, count: int, refused: Mapping[int, str]) -> None:
        """Of the batch so many letters have arrived, but for those that were refused."""
        if not count:
            return
        letters, self._batch = self._batch[:count], self._batch[count:]
        for place, letter in enumerate(letters):
            if self._spool.is_dropped(letter):
                continue  # it has made room, and counts as dropped
            if place in refused:
                self._set_aside(letter, refused[place])
            else:
                self._counters["sent"] += 1
        self._tries = 0
        self._singly = max(0, self._singly - count)
        self._spool.acknowledge(letters[-1].number)

    def _set_aside(self, letter: Letter, why: str) -> None:
        self._counters["refused"] += 1
        tries = max(1, self._tries)
        try:
            self._refused.add(letter, why, tries)
        except OSError as error:
            self._logger.error("message %s was refused, and can't be kept: %s", letter.key, describe(error))
        self._logger.warning(
            "message %s is not sent, after %d tries: %s; it is kept in %s", letter.key, tries, why, self._refused.path
        )

    def _fail(self, error: Exception | SystemExit) -> None:
        self._hang_up()
        if getattr(error, "arrived", 0):
            self._failures = 0
        if not self._failures:
            self._failed_at = time.monotonic()
        self._failures += 1
        self._counters["retried"] += 1
        why = _told(error)
        if without_numbers(why) != self._said:
            self._said = without_numbers(why)
            self._logger.warning(
                "can't deliver: %s; %d messages wait in the spool, and it tries again", why, self._spool.waiting
            )
        if self._is_ending:
            self._deadline = time.monotonic()  # what is left stays in the spool
            return
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures - 1, 16))
        asked = getattr(error, "wait", None)
        self._pause(pause if asked is None else max(0.0, min(asked, LONGEST_WAIT)))

    def _pause(self, seconds: float) -> None:
        """Waits so long, unless the end begins. The age of the oldest letter is measured meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._is_ending:
            self._spool.pause(min(left, 1.0), lambda: self._is_ending)
            self._spool.measure()

    def _hang_up(self) -> None:
        courier, self._courier = self._courier, None
        if courier is not None:
            with suppress(Exception):  # of a connection that is broken
                courier.close()


def _told(error: Exception | SystemExit) -> str:
    return text_of(error) if isinstance(error, Undelivered | LetterRefused) else describe(error)
