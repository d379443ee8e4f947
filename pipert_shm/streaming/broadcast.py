"""One stream for all who watch it: a thread that takes frames, and encodes each once, and only while somebody watches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from pipert_shm.binding import now_ns
from pipert_shm.display.pictures import Mosaic
from pipert_shm.errors import PipeStateError, UnknownTarget, describe
from pipert_shm.streaming.encoding import Encoded, Limiter, StreamEncoder, StreamSettings
from pipert_shm.streaming.pictures import Shown, check_shown
from pipert_shm.system import calls

LINGER_S = 3.0  # frames are taken for so long after the last watcher has left
LOOK_S = 0.5  # between two looks whether anybody watches
AGAIN_S = 0.5  # a feed that has ended is opened again after so long
KEYS_APART_S = 0.25  # between two key frames that watchers ask for
GATHER_S = 0.02  # that the frames of several cameras are waited for, to be in one picture
MOST_PACKETS = 60  # that wait for one watcher: two seconds


class Feed(Protocol):
    """Where frames come from."""

    def read(self, timeout: float) -> Shown:
        """The next frame.

        :raises TimeoutError: when none comes in time.
        :raises StopIteration: when there will be no more.
        :raises ValueError: when what comes is no picture.
        """

    def close(self) -> None:
        """Ends it. Any thread."""


class Watcher:
    """One who gets a stream's packets. The first is a key frame. One who is too slow loses all up to the next key frame.

    Attributes:
        lost: how many packets it was too slow for.
        over: whether there will be no more.
        problem: why there are none, if that is known.
    """

    def __init__(self, leave: Callable[[Watcher], None], ask_key: Callable[[], None]) -> None:
        self.lost = 0
        self.over = False
        self.problem = ""
        self._leave = leave
        self.ask_key = ask_key
        self._wake: Callable[[], object] | None = None
        self._changed = threading.Condition()
        self._waiting: deque[Encoded] = deque()
        self._lacks_key = True
        self._was_slow = False

    @property
    def has_news(self) -> bool:
        """Whether there is a packet, or the reason why there is none."""
        return bool(self._waiting or self.problem or self.over)

    def wake_by(self, wake: Callable[[], object]) -> None:
        """Has a function called when there is something new: on the broadcast's thread, so it must not block."""
        self._wake = wake
        wake()

    def take(self, timeout: float = 0.0) -> Encoded | None:
        """The next packet; None when none comes within so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.over, timeout)  # a problem stays, and must not end each wait
            return self._waiting.popleft() if self._waiting else None

    def close(self) -> None:
        """Watches no more. Any thread."""
        self._leave(self)
        self.end()

    def offer(self, packet: Encoded) -> None:
        """Gives it a packet. For the broadcast."""
        with self._changed:
            if self._lacks_key and not packet.is_key:
                self.lost += self._was_slow  # one that has just come lacks nothing
                return
            if len(self._waiting) >= MOST_PACKETS:
                self.lost += len(self._waiting) + 1
                self._waiting.clear()
                self._lacks_key = self._was_slow = True
                self.ask_key()
                return
            self._lacks_key = self._was_slow = False
            self.problem = ""
            self._waiting.append(packet)
        self._note()

    def end(self, problem: str = "") -> None:
        """Tells it that there will be no more. For the broadcast."""
        with self._changed:
            self.over, self.problem = True, self.problem or problem
        self._note()

    def tell(self, problem: str) -> None:
        """Tells it why there is nothing to be seen. For the broadcast."""
        with self._changed:
            self.problem = problem
        self._note()

    def _note(self) -> None:
        with self._changed:
            self._changed.notify_all()
        if self._wake is not None:
            with suppress(RuntimeError):  # its event loop has ended
                self._wake()


class Broadcast:
    """A stream, and its watchers. Frames of several cameras are in one picture, a tile each. Any thread.

    Nothing is encoded, and after three seconds no frame is taken either, while nobody watches.

    :param name: for its thread and the log.
    :param open_feed: gives the frames' feed. It raises `UnknownTarget` when there is none any more, and `PipeStateError` when
        there is none now.

    Attributes:
        logger: of what it belongs to.
        encoded: how many frames were encoded.
        skipped: how many were left out, since they came faster than `fps`.
        unwatched: how many came while nobody watched.
        refused: how many could not be encoded, or were no pictures. Each costs only itself.
    """

    def __init__(self, name: str, open_feed: Callable[[], Feed], settings: StreamSettings, logger: logging.Logger) -> None:
        self.name = name
        self.encoded = self.skipped = self.unwatched = self.refused = 0
        self._open_feed = open_feed
        self._settings = settings
        self.logger = logger
        self._lock = threading.Lock()
        self._watchers: list[Watcher] = []
        self._thread: threading.Thread | None = None
        self._feed: Feed | None = None
        self._closed = threading.Event()
        self._wants_key = False
        self._key_ns = 0
        self._watched_at = 0.0

    @property
    def watchers(self) -> int:
        """How many watch it."""
        return len(self._watchers)

    @property
    def closed(self) -> bool:
        """Whether it has ended for good."""
        return self._closed.is_set()

    def watch(self) -> Watcher:
        """Begins to watch.

        :raises OSError: when there is no room for its thread.
        """
        watcher = Watcher(self._drop, self._ask_key)
        with self._lock:
            if self._closed.is_set():
                watcher.end()
                return watcher
            self._watchers.append(watcher)
            self._wants_key = True
            if self._thread is None:
                self._watched_at = time.monotonic()
                thread = threading.Thread(target=self._work, name=f"stream-{self.name}", daemon=True)
                try:
                    calls.start_thread(thread)
                except OSError:
                    self._watchers.remove(watcher)
                    raise
                self._thread = thread
        return watcher

    def close(self, patience: float | None = None) -> None:
        """Ends it, and tells its watchers.

        :param patience: seconds to wait for its thread.
        """
        self._closed.set()
        thread, feed = self._thread, self._feed
        if feed is not None:
            feed.close()
        if patience is not None and thread is not None and thread is not threading.current_thread():
            thread.join(patience)

    def _drop(self, watcher: Watcher) -> None:
        with self._lock:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    def _ask_key(self) -> None:
        self._wants_key = True

    # ---- its thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            problem = ""
            try:
                self._stream()
            except Exception as error:  # of the feed's own code, too
                expected = isinstance(error, UnknownTarget | PipeStateError)
                problem = str(error) if expected else describe(error)
                self.logger.log(logging.INFO if expected else logging.ERROR, "stream %s ends: %s", self.name, problem)
            with self._lock:
                if self._watchers and not problem and not self._closed.is_set():
                    continue  # somebody came at the last moment
                watchers, self._watchers, self._thread = self._watchers, [], None
            for watcher in watchers:
                watcher.end(problem)
            return

    def _stream(self) -> None:
        """Streams until nobody watches any more, or there is nothing to be seen for good."""
        encoder, limiter, mosaic = StreamEncoder(self._settings), Limiter(self._settings.fps), Mosaic()
        opened = False
        while not self._has_ended():
            try:
                self._feed = feed = self._open_feed()
            except PipeStateError:
                if not opened:
                    raise
                self._closed.wait(AGAIN_S)  # it has ended, or its flow is being restarted
                continue
            opened = True
            try:
                self._follow(feed, encoder, limiter, mosaic)
            finally:
                self._feed = None
                feed.close()
            if not self._has_ended():
                self._closed.wait(AGAIN_S)

    def _follow(self, feed: Feed, encoder: StreamEncoder, limiter: Limiter, mosaic: Mosaic) -> None:
        """Streams what a feed gives, until it ends or nobody watches."""
        while not self._has_ended():
            try:
                shown = feed.read(LOOK_S)
                check_shown(shown)
            except TimeoutError:
                continue
            except StopIteration:
                return
            except ValueError as error:
                self._refuse(str(error))
                continue
            if not self._watchers:
                self.unwatched += 1
                mosaic.note(shown.origin)
                del shown
                continue
            self._show(shown, encoder, limiter, mosaic, feed)
            del shown  # or a slot would be held until the next frame comes

    def _show(self, shown: Shown, encoder: StreamEncoder, limiter: Limiter, mosaic: Mosaic, feed: Feed) -> None:
        """Encodes a frame, unless it is left out. One that is refused costs itself only."""
        picture = self._chosen(shown, limiter, mosaic, feed)
        if picture is None:
            return
        try:
            self._encode(picture, encoder)
        except Exception as error:  # of OpenCV, of FFmpeg: whatever they find wrong with it
            self._refuse(f"a frame of shape {shown.frame.shape} of {shown.origin!r} can't be encoded: {describe(error)}")

    def _has_ended(self) -> bool:
        now = time.monotonic()
        if self._watchers:
            self._watched_at = now
        return self._closed.is_set() or now - self._watched_at >= LINGER_S

    def _chosen(self, shown: Shown, limiter: Limiter, mosaic: Mosaic, feed: Feed) -> Shown | None:
        """What is to be encoded after a frame; None when it is left out."""
        several = mosaic.note(shown.origin)
        if several:
            if not self._put(shown, mosaic):
                return None
            shown = shown._replace(at_ns=now_ns())
        if not limiter.lets(shown.at_ns):
            self.skipped += 1
            return None
        if not several:
            return shown
        self._gather(feed, mosaic, {shown.origin})
        return shown._replace(frame=mosaic.picture(), format="bgr")

    def _gather(self, feed: Feed, mosaic: Mosaic, seen: set[str]) -> None:
        """Takes the frames of the other cameras, too, which come at the same time and would be missed while one is encoded."""
        until = time.monotonic() + GATHER_S
        while len(seen) < len(mosaic) and (left := until - time.monotonic()) > 0:
            try:
                shown = feed.read(left)
                check_shown(shown)
            except (TimeoutError, StopIteration):
                return  # an end is met at the next read
            except ValueError as error:
                self._refuse(str(error))
                return
            self._put(shown, mosaic)
            seen.add(shown.origin)

    def _put(self, shown: Shown, mosaic: Mosaic) -> bool:
        """Puts a frame into its tile. Returns whether it could be."""
        try:
            mosaic.put(shown.origin, shown.frame, shown.format)
        except Exception as error:  # of OpenCV: whatever it finds wrong with it
            self._refuse(f"a frame of shape {shown.frame.shape} of {shown.origin!r} can't be shown: {describe(error)}")
            return False
        return True

    def _encode(self, shown: Shown, encoder: StreamEncoder) -> None:
        now = now_ns()
        key = self._wants_key and now - self._key_ns >= KEYS_APART_S * 1e9
        packet = encoder.encode(shown, key=key)
        if key:
            self._wants_key, self._key_ns = False, now
        self.encoded += 1
        for watcher in list(self._watchers):
            watcher.offer(packet)

    def _refuse(self, problem: str) -> None:
        """Counts a frame that can't be streamed; says so in the log once, and to all watchers."""
        self.refused += 1
        if self.refused == 1:
            self.logger.warning("stream %s: %s; such frames are counted as refused, and said once", self.name, problem)
        for watcher in list(self._watchers):
            watcher.tell(problem)
