"""The routine that sends again what was recorded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pipert_shm.errors import EndOfStream, PipertError, describe
from pipert_shm.routine import Routine, SourceRoutine
from pipert_shm.video.in_step import ENDED, Alone, InStep, Place
from pipert_shm.video.opencv import VideoError
from pipert_shm.video.recording import Recorded, Recording, Unreadable

REST = 0.1  # the longest wait in one call, in seconds, so that a replay stops soon when it is told to


@runtime_checkable
class Company(Protocol):
    """What a replay asks of the process that runs it: who else is there."""

    def companions(self) -> Sequence[tuple[Routine, Place]]:
        """The routines of the pipe, the replay among them, and what each shows to the others."""

    def await_ring(self, look: Callable[[], bool], seconds: float) -> bool:
        """What `look` says; where that is False, it looks again when somebody has rung, or after so many seconds."""

    def sent(self) -> int:
        """How many messages the replay has sent, in all lives of its process."""


class Replay(SourceRoutine):
    """Sends what a `Recorder` wrote: the same payloads, bit for bit, in the same order and at the same pace. Then it ends.

    A recording has a *channel* for each routine that was recorded. A replay of that name sends the messages of its channel:
    `Replay("yard.mcap", "gate")` sends what `gate` sent. So a pipe whose cameras are replaced by replays of their names runs as
    it did. Of a name that the recording does not have, a replay sends all messages.

    Several replays of one file go in step, in one flow or in several: in the order in which the recorder got the messages, and
    on one clock. Each waits for its turn, so one whose wires block, or whose process hangs, holds up the others. One that was
    stopped, has ended or has failed does not; one whose process died does until the next process goes on where it was.

    Messages have the sequence numbers, `pts`, `wall_clock` and `format` that they had, and the origin, too, where a routine of
    the pipe has its name; else the replay is the origin. The time between captures is what it was, and the first one is now.

    A recording that breaks off, because its process was killed, is sent as far as it goes, with a warning. A message that can't
    be read, because its class does not exist any more, for example, is left out. It counts as an error, and `pipe.join()`
    raises it in the end. Recordings of earlier versions tell of each message's origin only, and count as sent by it.

    :param path: of the file.
    :param channel: the routine whose messages to send, where the replay has another name.
    :param origin: sends only the messages of this origin, by the name that it had in the recording.
    :param paced: True keeps the time between captures; False sends as fast as the wires take it.
    :param trust: loads pickles, too: payloads of other classes, and recordings of earlier versions. Loading runs any code that
        the file's writer chose, so set it only for files that you trust.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        channel: str | None = None,
        origin: str | None = None,
        paced: bool = True,
        trust: bool = False,
    ) -> None:
        super().__init__(name)
        self.path = Path(path)
        self._channel = channel
        self._origin = origin
        self._paced = paced
        self._trust = trust
        self._step = InStep(self.name, Alone(), {}, lambda: 0)
        self._await_ring: Callable[[Callable[[], bool], float], bool] = lambda look, seconds: look()
        self._first = 0  # the number of the message to begin with
        self._recording: Recording | None = None
        self._failure: PipertError | None = None  # the error that ended the stream
        self._next: Recorded | None = None
        self._strange: set[str] = set()  # origins that no routine has the name of

    def setup(self) -> None:
        """Opens the file.

        :raises OSError: when the file can't be read.
        :raises ValueError: when it is not a recording.
        :raises UntrustedRecording: when it is of an earlier version, which consists of pickles, and `trust` is not set.
        :raises VideoError: when it has no such channel.
        :raises ImportError: when the package `mcap` is not installed.
        """
        self._next = self._failure = None
        self._strange.clear()
        recording = Recording(self.path, trust=self._trust, on_break=self._warn_of_break)
        try:
            self._messages = recording.messages(self._sender_in(recording), self._origin)
        except BaseException:
            recording.close()
            raise
        self._recording = recording
        self._fall_in()

    def _sender_in(self, recording: Recording) -> str | None:
        """The routine whose messages are sent; None for all."""
        senders, path = recording.senders, str(self.path)
        if self._channel is None:
            origins = senders.get(self.name)
            return None if origins is None or self._origin not in (None, *origins) else self.name
        if self._channel not in senders:
            raise VideoError(path, f"the recording {path!r} has no channel {self._channel!r}; it has {_listed(senders)}")
        return self._channel

    def _fall_in(self) -> None:
        """Finds the other replays of the file, and goes in step with them."""
        here = self._runtime
        if isinstance(here, Company):
            places = {one.name: place for one, place in here.companions() if one is self or self._is_beside(one)}
            own = places.pop(self.name)
            self._step = InStep(self.name, own, places, here.sent)
            self._await_ring = here.await_ring
        self._first = self._step.enter()

    def _is_beside(self, other: object) -> bool:
        return isinstance(other, Replay) and os.path.realpath(other.path) == os.path.realpath(self.path)

    def main_logic(self) -> Any:
        """Returns the next payload, or None while it is not due.

        :raises EndOfStream: after the last one.
        :raises UntrustedRecording: when the payload is a pickle and `trust` is not set. The stream ends.
        :raises VideoError: when one message can't be read, which is left out; or when the file can't be read further, which
            ends the stream.
        """
        if self._next is None:
            self._next = self._read_next()
            self._step.stand(ENDED if self._next is None else self._next.number)
        found = self._next
        if found is None:
            self._require_any()
            raise EndOfStream
        if isinstance(found.payload, Unreadable):
            self._next = None
            self._failure = VideoError(str(self.path), found.payload.text)
            raise self._failure from found.payload.cause
        captured_ns = self._when_due(found)
        if captured_ns is None:
            return None
        self._next = None
        meta = self.meta
        meta.sequence, meta.captured_ns = found.sequence, captured_ns
        found.tell(meta)
        if found.origin and not meta.come_from(found.origin):
            self._note_strange(found.origin)
        return found.payload

    def _when_due(self, found: Recorded) -> int | None:
        """When a message counts as captured; None while it is not due."""
        step = self._step
        if not self._await_ring(step.may_go, REST):
            for missing in step.take_missing():
                self._logger.warning("%r, which replays %s too, has not begun: this one goes on without it", missing, self.path)
            return None
        captured_ns = max(1, found.captured_ns + step.offset_ns(found.captured_ns))
        early = (captured_ns - time.monotonic_ns()) / 1e9 if self._paced else 0.0
        if early > 0:
            time.sleep(min(early, REST))
        return None if early > REST else captured_ns

    def _require_any(self) -> None:
        """:raises VideoError: when nothing in the recording is of the origin that is wanted."""
        assert self._recording is not None
        known = sorted({origin for origins in self._recording.senders.values() for origin in origins})
        if self._origin is not None and self._origin not in known:
            self._failure = VideoError(
                str(self.path), f"the recording {str(self.path)!r} has nothing of {self._origin!r}; it is of {_listed(known)}"
            )
            raise self._failure

    def _note_strange(self, origin: str) -> None:
        """Warns when messages of several origins come from this routine."""
        if origin not in self._strange:
            self._strange.add(origin)
            if len(self._strange) == 2:
                self._logger.warning(
                    "the recording %s is of several origins (%s, …), which all are %r now: give each a Replay(…, origin=…) "
                    "of its own where receivers tell them apart",
                    self.path,
                    ", ".join(map(repr, sorted(self._strange))),
                    self.name,
                )

    def _read_next(self) -> Recorded | None:
        """Returns the next message; None after the last one, and after a failure."""
        try:
            return next((found for found in self._messages if found.number >= self._first), None)
        except PipertError as error:
            self._failure = error
            raise
        except Exception as error:  # of the disk, the decompression, or a stranger's pickle: anything
            self._failure = VideoError(
                str(self.path),
                f"the recording {str(self.path)!r} is damaged, or can't be read: {describe(error)}; what follows is not sent",
            )
            raise self._failure from error

    def _warn_of_break(self, at: int) -> None:
        self._logger.warning("the recording %s breaks off at byte %d; the rest is not sent", self.path, at)

    def cleanup(self) -> None:
        """Closes the file.

        :raises PipertError: when a part of the recording could not be sent.
        """
        self._step.stand(ENDED)
        if self._recording is not None:
            self._recording.close()
            self._recording = None
        if self._failure is not None:
            raise self._failure


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
