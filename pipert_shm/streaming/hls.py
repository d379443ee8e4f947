"""HLS: a stream as a playlist and a few short files, which any number of players fetch by HTTP."""

from __future__ import annotations

import io
import os
import re
import time
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

from pipert_shm.streaming.muxing import Muxer
from pipert_shm.streaming.pushing import Push
from pipert_shm.video.files import write_all

PLAYLIST = "index.m3u8"
LISTED = 6  # segments in the playlist
LATE = 2  # segments that are kept after they have left it, for players that are behind
SEGMENT_S = 2.0  # as often as there are key frames
_OWN = re.compile(r"(init|segment)-(?P<number>\d{1,18})\.(mp4|m4s)(\.tmp)?")


class Store(Protocol):
    """Where the files of one stream are kept.

    Attributes:
        next: a number that no file of an earlier stream had there.
    """

    next: int

    def put(self, name: str, content: bytes) -> None:
        """Keeps a file, in the place of one of that name.

        :raises OSError: when there is no room.
        """

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""


class MemoryStore:
    """Files in memory. Any thread."""

    next = 0

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    def put(self, name: str, content: bytes) -> None:
        """See `Store.put`."""
        self._files[name] = content

    def remove(self, name: str) -> None:
        """See `Store.remove`."""
        self._files.pop(name, None)

    def get(self, name: str) -> bytes | None:
        """A file's content; None when there is none."""
        return self._files.get(name)

    @property
    def bytes_kept(self) -> int:
        """How much memory the files take."""
        return sum(map(len, list(self._files.values())))


class DirectoryStore:
    """Files in a directory, which is made, and cleared of what an earlier stream has left. Each file appears whole.

    :raises OSError: when it can't be made.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.next = 0
        directory.mkdir(parents=True, exist_ok=True)
        for left in list(directory.iterdir()):
            if found := _OWN.fullmatch(left.name):
                self.next = max(self.next, int(found["number"]) + 1)
            if found or left.name in (PLAYLIST, f"{PLAYLIST}.tmp"):
                left.unlink(missing_ok=True)

    def put(self, name: str, content: bytes) -> None:
        """See `Store.put`."""
        part = self._directory / f"{name}.tmp"
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                write_all(fd, content)
            finally:
                os.close(fd)
            os.replace(part, self._directory / name)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        """See `Store.remove`."""
        (self._directory / name).unlink(missing_ok=True)


class HlsSender:
    """Writes a stream's files: fragments of MP4, two seconds each, of which the last eight are kept. See `Sender`.

    Each connection begins with a file of parameters of its own, and goes on with numbers that no file before had. So a player
    that holds files of an earlier one takes none for another.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[str, None] = OrderedDict()  # the files of this connection and of those before
        self._next = store.next
        self._failure: OSError | None = None

    def send(self, push: Push) -> None:
        """Writes until the stream ends.

        :raises OSError: when a file can't be written, as when the disk is full.
        """
        first = push.first()
        # EXT-X-MEDIA-SEQUENCE must not go back, and what was kept in memory, or removed, tells a new process nothing: the clock
        # does. It runs faster than the numbers, of which there is one each two seconds. Where it was set back, the files tell.
        number = self._next = max(time.time_ns() // 1_000_000_000, self._next)
        options = {
            "hls_time": f"{SEGMENT_S - 0.1:g}",  # of a camera whose clock differs a little, too, each key frame begins one
            "hls_list_size": str(LISTED),
            "hls_segment_type": "fmp4",
            "hls_flags": "independent_segments+program_date_time",
            "hls_fmp4_init_filename": f"init-{number}.mp4",
            "hls_segment_filename": "segment-%d.m4s",
            "start_number": str(number),
        }
        with Muxer(PLAYLIST, "hls", options, first, io_open=self._open) as muxer:
            muxer.write(first)
            push.connected()
            push.note_sent()
            while not push.over:
                packet = push.take()
                if packet is not None:
                    muxer.write(packet)
                    push.note_sent()
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure

    def _open(self, url: str, flags: int, options: dict[str, str]) -> _File:
        return _File(self, url.removesuffix(".tmp"))

    def keep(self, name: str, content: bytes) -> None:
        """Keeps a file that is whole, and removes those that are too old."""
        try:
            self._store.put(name, content)
            if name == PLAYLIST:
                return
            self._kept[name] = None
            found = _OWN.fullmatch(name)
            if found is not None:
                self._next = max(self._next, int(found["number"]) + 1)
            while len(self._kept) > 1 + LISTED + LATE:
                self._drop_oldest()
        except OSError as error:  # FFmpeg would not tell of it
            self._failure = error

    def _drop_oldest(self) -> None:
        names = list(self._kept)
        newest_init = next(name for name in reversed(names) if name.startswith("init"))
        oldest = next(name for name in names if name != newest_init)
        del self._kept[oldest]
        self._store.remove(oldest)


class _File(io.BytesIO):
    """A file that FFmpeg writes: it is kept when it is closed."""

    def __init__(self, sender: HlsSender, name: str) -> None:
        super().__init__()
        self._sender = sender
        self._name = name

    def close(self) -> None:
        if not self.closed:
            self._sender.keep(self._name, self.getvalue())
        super().close()
