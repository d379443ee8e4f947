"""Letters that wait on the disk for their delivery. They outlive the process that took them."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from pipert_shm.errors import PipertError, describe, without_numbers
from pipert_shm.sinks.found import SpoolFile, files_in, head_of
from pipert_shm.sinks.letter import Letter
from pipert_shm.sinks.segment import content_of, letter_of, line_of, lines_of, path_of, summed
from pipert_shm.sinks.settings import SpoolSettings
from pipert_shm.video.files import locked, write_all

LOCK_PATIENCE = 3.0  # seconds in which a flow that is being replaced lets go of the spool
MOST_WARNINGS = 100
SYNC_PAUSE = 1.0  # seconds
LONGEST_HEAD = 64  # bytes of a line before a letter's content
BATCH_BYTES = 1 << 20  # that are read at once, unless one letter is larger


class SinkError(PipertError):
    """A sink can't keep a message, or can't have its spool; the text says what to do."""


class Spool:
    """Letters in files of a directory, in the order in which they came. One thread appends, another one reads and acknowledges.

    What was appended is sent by the next process if this one is killed. After a power cut the last second may be missing, since
    it is brought to the disk once a second. It is never larger on the disk than its settings say.

    Attributes:
        changed: called with the lock held after each change; gauges are set there.

    :raises SinkError: when another sink uses the directory.
    :raises OSError: when the directory can't be made or written to.
    """

    def __init__(self, settings: SpoolSettings, logger: logging.Logger, changed: Callable[[], None] = lambda: None) -> None:
        self.settings = settings
        self.path = settings.path
        self.changed = changed
        self._logger = logger
        self._warned: set[str] = set()
        self.path.mkdir(parents=True, exist_ok=True)
        self._began = time.time() - time.monotonic()
        self._condition = threading.Condition()
        self._lock_fd = self._take()
        self._write_fd = self._acked_fd = -1
        try:
            self._acked_fd = os.open(self.path / "acknowledged", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._files, self._damaged = files_in(self.path, self._warn)
            self._head = head_of(self._acked_fd, self._files, self._warn)  # all up to this number are dealt with
        except BaseException:
            for fd in (self._lock_fd, self._acked_fd):
                if fd >= 0:
                    os.close(fd)
            raise
        self._next = max(self._files[-1].last if self._files else 0, self._head) + 1
        self._read_number = self._head + 1  # the next one to be read
        self._read_at = (0, 0)  # a file, and an offset in it
        self._unsynced: list[int] = []  # descriptors of files that are full, but not on the disk yet
        self._is_dirty = self._is_closed = False
        self._note()  # now, so that it has its place on the disk when that is full
        self._remove_acknowledged()
        self._syncing = threading.Thread(target=self._keep_synced, name="spool-sync", daemon=True)
        self._syncing.start()

    def _take(self) -> int:
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        deadline = time.monotonic() + LOCK_PATIENCE
        while not locked(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if time.monotonic() > deadline:
                holder = os.pread(fd, 20, 0).decode(errors="replace").strip()
                os.close(fd)
                raise SinkError(
                    f"the spool {str(self.path)!r} is in use by process {holder or 'unknown'}; give each sink a spool of its "
                    "own (spool=), or end the other program"
                )
            time.sleep(0.05)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        return fd

    def _warn(self, text: str) -> None:
        """Logs it, unless the same was logged before."""
        kind = without_numbers(text)
        if kind not in self._warned and len(self._warned) < MOST_WARNINGS:
            self._warned.add(kind)
            self._logger.warning("spool %s: %s", self.path, text)

    # ---- appending -------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since the epoch, by a clock that is not set while the spool is open."""
        return self._began + time.monotonic()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    @property
    def waiting(self) -> int:
        """How many letters wait."""
        return self._next - 1 - self._head

    def append(self, letters: Sequence[Letter]) -> tuple[int, int]:
        """Takes the letters, all or none; returns how many it has dropped for them of older ones, and of these.

        :raises SinkError: when one is too large, or the disk is full; none is taken then.
        """
        contents = self._fitting([content_of(letter) for letter in letters])
        beyond = len(letters) - len(contents)
        if too_large := [len(content) for content in contents if len(content) > self.settings.largest]:
            raise SinkError(
                f"a message of {too_large[0]:,} bytes is not sent: the spool takes {self.settings.largest:,} bytes at most (an "
                "eighth of max_bytes, and 1 MiB); make it smaller"
            )
        with self._condition:
            lines = [line_of(self._next + place, self.now, content) for place, content in enumerate(contents)]
            dropped = self._make_room(len(lines), sum(map(len, lines)))
            if dropped is None:
                return 0, len(lines)
            try:
                self._write(b"".join(lines))
            except OSError as error:
                cause = error.strerror or describe(error)
                raise SinkError(f"can't add to the spool {str(self.path)!r}: {cause}; check that the disk has room") from error
            self._next += len(lines)
            self._files[-1].last = self._next - 1
            self._is_dirty = True
            self.changed()
            self._condition.notify_all()
            return dropped + beyond, 0

    def _fitting(self, contents: list[bytes]) -> list[bytes]:
        """Of more than a whole spool takes, the last ones, if the oldest make room."""
        limits = self.settings
        if limits.when_full == "drop_newest":
            return contents
        fitting, left = contents[-limits.max_messages :], limits.max_bytes
        for place in range(len(fitting) - 1, -1, -1):
            left -= len(fitting[place]) + LONGEST_HEAD
            if left < 0:
                return fitting[place + 1 :] or fitting[-1:]
        return fitting

    def _make_room(self, count: int, size: int) -> int | None:
        """Drops old letters until there is room; returns how many, or None if the new ones are to be dropped."""
        limits = self.settings
        if limits.when_full == "drop_newest":
            full = self.waiting + count > limits.max_messages or self._size() + size > limits.max_bytes
            return None if full else 0
        before = self._head
        if (surplus := self.waiting + count - limits.max_messages) > 0:
            self._pass(min(self._head + surplus, self._next - 1))
        while self._files and self._size() + size > limits.max_bytes:
            self._pass(max(self._files[0].last, self._head))
            if self._files and self._files[0].last <= self._head:  # the file that is written to
                self._end_file()
                self._remove_acknowledged()
        return self._head - before

    def _size(self) -> int:
        return sum(file.size for file in self._files)

    def _write(self, data: bytes) -> None:
        if self._write_fd >= 0 and self._files[-1].size + len(data) > self.settings.segment_bytes:
            self._end_file()
        if self._write_fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            self._write_fd = os.open(path_of(self.path, self._next), flags, 0o666)
            self._files.append(SpoolFile(self._next, self._next - 1, 0))
        file = self._files[-1]
        try:
            write_all(self._write_fd, data)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._write_fd, file.size)
            if not file.size or file.last > self._head:
                raise
            os.close(self._write_fd)  # the disk may be full of what was dealt with
            self._write_fd = -1
            self._remove_acknowledged()
            self._write(data)
            return
        file.size += len(data)

    def _end_file(self) -> None:
        if self._write_fd >= 0:
            self._unsynced.append(self._write_fd)
            self._write_fd = -1

    # ---- reading ---------------------------------------------------------------------------------

    def read(self, most: int) -> list[Letter]:
        """Returns the next letters, each only once: at most so many, and at most a mebibyte of them, but at least one if any
        waits.
        """
        letters: list[Letter] = []
        taken = 0
        while len(letters) < most and taken < BATCH_BYTES:
            with self._condition:
                file = next((file for file in self._files if file.last >= self._read_number), None)
                if file is None:
                    self._skip_all(self._next)
                    break
                last, size, is_last = file.last, file.size, file is self._files[-1]
            taken += self._read_in(file.first, last, size, most, letters)
            if self._read_number <= last and not letters:
                self._skip_all(last + 1)  # the rest of the file can't be read
            if is_last or letters:
                break
        return letters

    def _read_in(self, first: int, last: int, size: int, most: int, letters: list[Letter]) -> int:
        """Reads letters of one file; returns how many bytes it has read."""
        offset = begin = self._read_at[1] if self._read_at[0] == first else 0
        try:
            for line, end in lines_of(path_of(self.path, first), offset):
                offset = end
                letter = letter_of(line)
                if letter is not None and letter.number <= last and self._skip_to(letter.number):
                    letters.append(letter)
                is_enough = len(letters) >= most or (letters and offset - begin >= BATCH_BYTES)
                if is_enough or offset >= size or self._read_number > last:
                    break
        except FileNotFoundError:
            pass  # it was dropped meanwhile
        except OSError as error:
            self._warn(f"{path_of(self.path, first)} can't be read from byte {offset:,} on: {describe(error)}")
        self._read_at = (first, offset)
        return offset - begin

    def _skip_to(self, number: int) -> bool:
        """Goes on behind this number, and returns whether it comes next. What is missing before it is lost."""
        with self._condition:
            if number < self._read_number:
                return False  # it was read before, or has been dropped
            self._damaged += number - self._read_number
            self._read_number = number + 1
            return True

    def _skip_all(self, end: int) -> None:
        """What is missing before this number is lost."""
        with self._condition:
            self._damaged += max(0, end - self._read_number)
            self._read_number = max(end, self._read_number)

    def wait(self, timeout: float | None, awake: Callable[[], bool]) -> None:
        """Returns when there is something to read, or `awake` says so after a `wake`, or the time is up."""
        with self._condition:
            self._condition.wait_for(lambda: self._read_number < self._next or awake() or self._is_closed, timeout)

    def pause(self, seconds: float, awake: Callable[[], bool]) -> None:
        """Returns after this time, or when `awake` says so after a `wake`."""
        with self._condition:
            self._condition.wait_for(lambda: awake() or self._is_closed, seconds)

    def measure(self) -> None:
        """Has the gauges set."""
        with self._condition:
            if not self._is_closed:
                self.changed()

    def take_damaged(self) -> int:
        """Returns how many letters could not be read since the last call."""
        with self._condition:
            damaged, self._damaged = self._damaged, 0
            return damaged

    def wake(self) -> None:
        """Makes `wait` look at its condition again."""
        with self._condition:
            self._condition.notify_all()

    # ---- what is dealt with ----------------------------------------------------------------------

    def is_dropped(self, letter: Letter) -> bool:
        """Whether a letter that was read has made room since."""
        return letter.number <= self._head

    def acknowledge(self, number: int) -> None:
        """Notes that all letters up to this one are dealt with."""
        with self._condition:
            if number > self._head and not self._is_closed:
                self._pass(number)
                self.changed()

    def _pass(self, number: int) -> None:
        self._head = number
        self._read_number = max(self._read_number, number + 1)
        self._note()
        self._remove_acknowledged()

    def _note(self) -> None:
        try:
            os.pwrite(self._acked_fd, summed(b"%20d" % self._head), 0)
        except OSError as error:
            self._warn(f"can't note what was delivered, which the next start sends again: {describe(error)}")

    def _remove_acknowledged(self) -> None:
        while self._files and self._files[0].last <= self._head and not (len(self._files) == 1 and self._write_fd >= 0):
            path_of(self.path, self._files.pop(0).first).unlink(missing_ok=True)

    # ---- bringing it to the disk -----------------------------------------------------------------

    def _keep_synced(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._is_dirty or self._is_closed)
                if self._condition.wait_for(lambda: self._is_closed, SYNC_PAUSE):
                    return
            try:
                self._sync()
            except OSError as error:
                self._warn(f"the disk does not take what was added to the spool: {describe(error)}")

    def _sync(self) -> None:
        with self._condition:
            self._is_dirty = False
            fds, self._unsynced = self._unsynced, []
            if self._write_fd >= 0:
                fds.append(os.dup(self._write_fd))
        fds.append(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        try:
            for fd in fds:
                os.fsync(fd)
        finally:
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        """Lets go of the directory; what waits stays there.

        :raises OSError: when the disk does not take what was added last.
        """
        with self._condition:
            if self._is_closed:
                return
            self._is_closed = True
            self._end_file()
            self._remove_acknowledged()
            self._condition.notify_all()
        self._syncing.join()
        try:
            if self._is_dirty:
                self._sync()
        finally:
            for fd in self._unsynced:
                os.close(fd)
            os.close(self._acked_fd)
            os.close(self._lock_fd)
