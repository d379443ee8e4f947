"""A routine's outputs, in a program on another host."""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np

from pipert_shm.agents.asking import Answer, Asker, Question
from pipert_shm.binding import now_ns
from pipert_shm.data import Meta
from pipert_shm.errors import HostsError, RemoteRefusal, shown
from pipert_shm.hosts.clocks import ClockOffset
from pipert_shm.hosts.decoding import Decoder
from pipert_shm.hosts.window import AutoWindow
from pipert_shm.limits import check_seconds

FrameCodec = Literal["none", "jpeg", "zstd"]

MOST_ASKED = 8  # questions for frames that are under way
FRESH_S = 0.1  # after which a frame that has come, and that nobody has read, is too old
PATIENCE_S = 5.0  # that the answer to a question for a frame may take, of which the agent waits 0.5 s
SILENCE_S = 10.0  # without any answer after which a read raises
AGAIN_S = 0.2  # after which a host that does not answer is asked again


class RemoteTap:
    """An iterator over the newest outputs of a routine on another host; ends when the routine or its pipe does.

    It asks for each frame: as many questions are under way as the rate times the round trip asks for, 8 at the most. So
    nothing piles up on a slow link, and a slow reader misses frames. Those that have come, and were not read within 0.1 s, are
    dropped. Use it from one thread; `close()` may be called from another. `RemotePipe.tap()` makes it.

    Attributes:
        meta: what is known of the last output that was read. `captured_ns` is by this host's clock; there are no hops.
    """

    def __init__(self, asker: Asker, host: str, pipe: str, routine: str, codec: FrameCodec) -> None:
        if codec not in get_args(FrameCodec):
            raise ValueError(f"the codec of a tap is {', '.join(map(repr, get_args(FrameCodec)))}, not {shown(codec)}")
        self.meta: Meta | None = None
        self._asker, self._host, self._routine = asker, host, routine
        self._about: Question = {"pipe": pipe, "routine": routine, "reader": secrets.token_hex(8), "codec": codec}
        self._answers: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
        self._under_way = 0
        self._last = 0  # number of the last frame that was read
        self._window, self._clocks, self._decoder = AutoWindow(), ClockOffset(), Decoder()
        self._heard_at = self._read_at = now_ns()
        self._closed = False
        asker.ask(host, "tap", **self._about)

    def read(self, timeout: float | None = None) -> Any:
        """The next output: arrays of this process's own memory.

        :param timeout: seconds to wait for it; None: as long as it takes.
        :raises TimeoutError: when none came in time.
        :raises ValueError: when the timeout is not a number of seconds, or out of range; or what came is no payload.
        :raises StopIteration: when there will be no more.
        :raises HostsError: when the host has not answered for 10 s. The next read asks again.
        :raises RemoteRefusal: when the host refuses: it holds an object that can't go to another host, say.
        """
        if timeout is not None:
            check_seconds("timeout", timeout, none="as long as it takes")
        deadline = time.monotonic() + (timeout if timeout is not None else float("inf"))
        is_fast = now_ns() - self._read_at <= FRESH_S * 1e9  # else what is asked for ahead would come too early
        self._heard_at = max(self._heard_at, self._read_at)
        while not self._closed:
            self._ask(min(self._window.size, MOST_ASKED) if is_fast else 1)
            frame = self._newest(min(deadline - time.monotonic(), AGAIN_S))
            if frame is not None:
                payload = self._decoded(frame)
                if is_fast:
                    self._ask(min(self._window.size, MOST_ASKED))
                self._read_at = now_ns()
                return payload
            if time.monotonic() >= deadline and not self._closed:
                self._read_at = now_ns()
                raise TimeoutError(f"no output within {timeout} s")
        raise StopIteration

    def _ask(self, most: int) -> None:
        while self._under_way < most:
            question = {"kind": "frame", "asked": now_ns(), **self._about}
            self._asker.begin(self._host, question, self._note, PATIENCE_S)
            self._under_way += 1

    def _note(self, answer: Answer) -> None:
        self._answers.put((now_ns(), answer))

    def _newest(self, seconds: float) -> Answer | None:
        """The newest frame of those that have come; None where none is fresh."""
        newest = None
        try:
            came = self._answers.get(timeout=max(seconds, 0))
            while True:
                if self._is_fresh(*came):
                    newest = came[1]
                came = self._answers.get_nowait()
        except queue.Empty:
            return newest

    def _is_fresh(self, came_at: int, answer: Answer) -> bool:
        """Takes note of an answer; whether it is a frame to be read."""
        self._under_way -= 1
        if answer == Answer.none():
            self._tell_silence()
            return False
        self._heard_at = came_at
        if answer.error:
            self._read_at = now_ns()
            raise RemoteRefusal(f"host {self._host}: {answer.error}")
        told = answer.value
        trip = self._clocks.note(sent=told["asked"], arrived=told["arrived"], answered=told["answered"], back=came_at)
        self._window.note_round_trip(trip / 1e9)
        if told["ended"]:
            self.close()
        if told["number"] is None or told["number"] <= self._last:  # a later one was faster
            return False
        self._window.note_sent(came_at / 1e9)
        self._last = told["number"]
        return now_ns() - came_at <= FRESH_S * 1e9

    def _tell_silence(self) -> None:
        if now_ns() - self._heard_at > SILENCE_S * 1e9:
            self._heard_at = self._read_at = now_ns()
            raise HostsError(
                f"host {self._host} has not answered for {SILENCE_S:.0f} s: the link is cut, or the host or its agent is down"
            )
        if not self._under_way:
            time.sleep(AGAIN_S)

    def _decoded(self, answer: Answer) -> Any:
        told, now = answer.value, now_ns()
        meta = Meta((told["origin"],), 0, told["sequence"])
        payload = self._decoder.decode([answer.body], meta, lambda shape, dtype: np.empty(shape, dtype))
        offset = self._clocks.offset(now)
        assert offset is not None, "this answer was noted"
        meta.captured_ns = told["captured_ns"] - offset.ns
        meta.uncertainty_ns = told["uncertainty_ns"] + offset.uncertainty_ns
        self.meta = meta
        return payload

    def __repr__(self) -> str:
        return f"RemoteTap({self._routine!r} on {self._host}{', closed' if self._closed else ''})"

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.read()

    def __enter__(self) -> RemoteTap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends it. A host that does not hear that ends it after 10 s."""
        if not self._closed:
            self._closed = True
            self._asker.begin(self._host, {"kind": "untap", **self._about}, lambda answer: None)
