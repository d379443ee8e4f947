"""What an agent answers to programs of other hosts that are attached to a pipe of its: structure, counters and frames."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipert_shm.agents.asking import Handler, Question
from pipert_shm.agents.counts import told_of
from pipert_shm.attached import Attached, attach
from pipert_shm.binding import now_ns
from pipert_shm.data import Meta
from pipert_shm.errors import RemoteRefusal
from pipert_shm.tap import Tap

if TYPE_CHECKING:
    from pipert_shm.agents.agent import Agent
    from pipert_shm.agents.remote_tap import FrameCodec

LOOK_S = 0.5  # that a frame is waited for before the question is answered without one
IDLE_S = 10.0  # after which nobody reads a tap any more
MOST_TAPS = 8  # of all programs of other hosts

_logger = logging.getLogger(__name__)


def handlers(agent: Agent) -> Mapping[str, Handler]:
    """Who answers which kind of question."""

    def on_structure(question: Question) -> tuple[Any, bytes]:
        with attach(agent.pipe_id(question)) as attached:
            return attached.structure(), b""

    def on_counts(question: Question) -> tuple[Any, bytes]:
        with attach(agent.pipe_id(question)) as attached:
            return told_of(attached.statistics()), b""

    taps = _Taps(agent)
    return {
        "structure": on_structure,
        "counts": on_counts,
        "tap": taps.make,
        "frame": taps.frame,
        "untap": taps.end,
    }


class _Taps:
    """The taps of programs of other hosts, by what each of them has drawn at random."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._lock = threading.Lock()
        self._taps: dict[str, _Tap] = {}
        self._closed: deque[str] = deque(maxlen=256)  # of which questions may still be under way

    def make(self, question: Question) -> tuple[Any, bytes]:
        """Makes a tap.

        :raises PipertError: when it can't be.
        """
        self._tap(question)
        return None, b""

    def frame(self, question: Question) -> tuple[Any, bytes]:
        """The next frame of a tap. One that nobody has read for a while is made again."""
        arrived = now_ns()
        value, body = self._tap(question).next()
        return value | {"asked": question["asked"], "arrived": arrived, "answered": now_ns()}, body

    def end(self, question: Question) -> tuple[Any, bytes]:
        """Ends a tap."""
        self._closed.append(str(question["reader"]))
        self._end(str(question["reader"]))
        return None, b""

    def _tap(self, question: Question) -> _Tap:
        reader = str(question["reader"])
        pipe = self._agent.pipe_id(question)
        with self._lock:
            tap = self._taps.get(reader)
            if tap is None:
                if reader in self._closed:
                    raise RemoteRefusal("this tap was closed")
                if len(self._taps) >= MOST_TAPS:
                    raise RemoteRefusal(f"{MOST_TAPS} taps of other hosts' programs are there already: close one")
                tap = self._taps[reader] = _Tap()
                self._watch(reader, tap, IDLE_S)
        tap.asked_at = time.monotonic()
        try:
            tap.open(pipe, str(question["routine"]), question["codec"])
        except BaseException:
            self._end(reader)
            raise
        return tap

    def _end(self, reader: str) -> None:
        with self._lock:
            tap = self._taps.pop(reader, None)
        if tap is not None:
            tap.close()

    def _watch(self, reader: str, tap: _Tap, seconds: float) -> None:
        tap.timer = threading.Timer(seconds, self._end_if_idle, (reader, tap))
        tap.timer.daemon = True
        tap.timer.start()

    def _end_if_idle(self, reader: str, tap: _Tap) -> None:
        with self._lock:
            left = tap.asked_at + IDLE_S - time.monotonic()
            if self._taps.get(reader) is not tap:
                return
            if left > 0:
                self._watch(reader, tap, left)
                return
        self._end(reader)


class _Tap:
    """A tap of a routine here, and the codec by which its frames go. Any thread.

    Attributes:
        asked_at: when a frame was asked for last, CLOCK_MONOTONIC, seconds.
        timer: that ends it when nobody asks.
    """

    def __init__(self) -> None:
        self.asked_at = time.monotonic()
        self.timer: threading.Timer | None = None
        self._one_at_a_time = threading.Lock()
        self._attached: Attached | None = None
        self._tap: Tap | None = None
        self._encode: Callable[[Any, Meta], Any] = lambda payload, meta: None
        self._number = 0

    def open(self, pipe: str, routine: str, codec: FrameCodec) -> None:
        """Taps the routine, if that is not done yet.

        :raises PipertError: when it can't be tapped, or a package that the codec needs is lacking.
        """
        with self._one_at_a_time:
            if self._tap is not None:
                return
            from pipert_shm.hosts.encoding import Encoder  # with OpenCV
            from pipert_shm.hosts.payloads import check_codec

            check_codec(codec)
            encoder = Encoder(None, _logger)
            self._encode = lambda payload, meta: encoder.encode(payload, meta, codec)
            self._attached = attach(pipe)
            self._tap = self._attached.tap(routine)

    def next(self) -> tuple[dict[str, Any], bytes]:
        """The next frame: what is told of it, and its bytes; without a number where none came in time.

        :raises PayloadError: when it holds an object that can't go to another host.
        """
        with self._one_at_a_time:
            assert self._tap is not None
            try:
                payload = self._tap.read(LOOK_S)
            except TimeoutError:
                return {"number": None, "ended": False}, b""
            except StopIteration:
                return {"number": None, "ended": True}, b""
            meta = self._tap.meta
            assert meta is not None
            self._number += 1
            value = {
                "number": self._number,
                "ended": False,
                "origin": meta.origin,
                "sequence": meta.sequence,
                "captured_ns": meta.captured_ns,
                "uncertainty_ns": meta.uncertainty_ns,
            }
            return value, b"".join(self._encode(payload, meta).pieces)

    def close(self) -> None:
        """Ends it."""
        if self.timer is not None:
            self.timer.cancel()
        if self._attached is not None:
            self._attached.close()  # with its tap, so that `next` returns
