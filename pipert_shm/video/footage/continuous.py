"""Records everything, in files of a minute or so, each of which begins with a key frame."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from pipert_shm.binding import now_ns
from pipert_shm.video.footage.clip import check_room, wall
from pipert_shm.video.footage.kept import Kept
from pipert_shm.video.footage.packet_file import PacketFile
from pipert_shm.video.footage.roll import Roll
from pipert_shm.video.footage.shelf import segment_path

GAP_NS = 2_000_000_000
"""A key frame after a longer gap begins a new file, so that a file says truly from when to when it is. Other packets go on in
the file at hand: they may only have been read late, and they build on what is in it."""

RETRY_NS = 5_000_000_000
"""After a failure of the disk, the time until the next attempt."""


class Continuous:
    """What records everything. One thread at a time.

    :param folder: of the camera.
    :param seconds: of a file.
    :param ended: is told of each file that is whole.

    Attributes:
        cursor: number of the packet that comes next; None before the first.
        unrecorded: how many packets could not be recorded.
    """

    def __init__(self, folder: Path, seconds: float, ended: Callable[[Path], None], logger: logging.Logger) -> None:
        self._folder = folder
        self._seconds = seconds
        self._ended = ended
        self._logger = logger
        self.cursor: int | None = None
        self.unrecorded = 0
        self._file: PacketFile | None = None
        self._began_ns = self._came_ns = 0
        self._retry_ns = 0
        self._has_failed = False

    def place(self, roll: Roll) -> None:
        """Chooses the packet that it begins with, once there is one."""
        if self.cursor is None and roll.begin < roll.end:
            self.cursor = roll.begin

    def write(self, packets: Iterable[Kept], lost: int) -> None:
        """Writes the next packets.

        :param lost: how many before them are gone, since memory did not suffice.
        """
        if lost:
            self.unrecorded += lost
            self._logger.warning("%d packets are not recorded: the disk is too slow for footage.memory_mb", lost)
            self.finish()
        for packet in packets:
            try:
                self._write(packet)
            except OSError as error:
                self._fail(error)
                self.unrecorded += 1

    def give_up(self, packets: int) -> None:
        """Ends the file at hand after a fault, which has cost so many packets at most."""
        self.unrecorded += packets
        self.finish()

    def _write(self, packet: Kept) -> None:
        if self._file is not None and self._ends_before(packet):
            self.finish()
        if self._file is None:
            if not packet.is_key or now_ns() < self._retry_ns:
                self.unrecorded += 1
                return
            path = segment_path(self._folder, wall(packet.came_ns))
            check_room(path)
            self._file = PacketFile(path, packet)
            self._began_ns = packet.came_ns
            if self._has_failed:
                self._has_failed = False
                self._logger.info("there is room again: recording goes on")
        self._came_ns = packet.came_ns
        if not self._file.add(packet):
            self.unrecorded += 1
            self.finish()

    def _ends_before(self, packet: Kept) -> bool:
        assert self._file is not None
        if not self._file.takes(packet):
            return True
        is_due = packet.came_ns - self._began_ns >= self._seconds * 1e9
        return packet.is_key and (is_due or packet.came_ns - self._came_ns > GAP_NS)

    def _fail(self, error: OSError) -> None:
        self._retry_ns = now_ns() + RETRY_NS
        if not self._has_failed:
            self._has_failed = True
            self._logger.error(
                "recording pauses: %s; the camera goes on, and what is not recorded is counted as unrecorded. It is tried "
                "again each %d s; footage.continuous.gb bounds what is kept",
                error.strerror or error,
                RETRY_NS // 1_000_000_000,
            )
        self.finish()

    def finish(self) -> None:
        """Ends the file at hand."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            made = file.end(segment_path(self._folder, wall(file.span.first_ns), file.span.seconds))
        except OSError as error:
            made = file.path
            self._fail(error)
        if made is not None:
            self._ended(made)
