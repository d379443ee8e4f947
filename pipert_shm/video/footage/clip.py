"""A clip of something that happened: from before it to after it, with a picture and a description beside it."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipert_shm.binding import now_ns
from pipert_shm.errors import describe
from pipert_shm.video.files import ROOM, has_room, write_all
from pipert_shm.video.footage.kept import Kept
from pipert_shm.video.footage.packet_file import PART, PacketFile
from pipert_shm.video.footage.roll import Roll
from pipert_shm.video.footage.shelf import clip_path
from pipert_shm.video.footage.thumbnail import thumbnail

SILENT_NS = 2_000_000_000
"""How long after its end a clip waits for a camera that sends nothing; and what may be missing of it before that is told."""

LEAST_ROOM = 8 * ROOM
"""Bytes that must be free for a file to be begun."""


def wall(at_ns: int) -> float:
    """When that was, by this machine's clock: seconds since the epoch."""
    return time.time() - (now_ns() - at_ns) / 1e9


def at_ns(wall_time: float) -> int:
    """When that was (CLOCK_MONOTONIC, ns)."""
    return now_ns() - round((time.time() - wall_time) * 1e9)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file, or another one in its place: whole, or not at all.

    :raises OSError: when it can't be written.
    """
    part = path.with_name(f"{path.name}.new{PART}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def check_room(path: Path) -> None:
    """:raises OSError: when there is no room for a file there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not has_room(path, LEAST_ROOM):
        raise OSError(28, os.strerror(28), str(path))


class Clip:
    """A clip that is being recorded. One thread at a time.

    :param folder: of the camera.
    :param event: what happened; its clip is told of it.
    :param about_ns: when it happened; the picture beside the clip is of then.
    :param begin_ns: when it should begin; it does so with the key frame before.
    :param end_ns: when it ends; None while nobody knows.
    :param longest: seconds that it plays at most, from `begin_ns` on.

    Attributes:
        id: of the event.
        cursor: number of the packet that comes next; None before the first.
        is_over: whether nothing more is written to it.
        cut: why something is missing.
    """

    def __init__(
        self,
        folder: Path,
        camera: str,
        event: Mapping[str, Any],
        about_ns: int,
        begin_ns: int,
        end_ns: int | None,
        longest: float,
        logger: logging.Logger,
    ) -> None:
        self.id = str(event["id"])
        self.path = clip_path(folder, wall(about_ns), self.id)
        self.cursor: int | None = None
        self.is_over = False
        self.cut: list[str] = []
        self.files: list[dict[str, Any]] = []
        self._camera = camera
        self._event = event
        self._about_ns, self._begin_ns, self._end_ns = about_ns, begin_ns, end_ns
        self._last_ns = begin_ns + round(longest * 1e9)
        self._logger = logger
        self._file: PacketFile | None = None
        self._pictures: list[Kept] | None = []  # from the last key frame on, up to what it is about
        self._thumbnail: str | None = None
        self._came_ns = 0
        self._is_named = False

    @property
    def limit_ns(self) -> int:
        """When it ends, at the latest."""
        return self._last_ns if self._end_ns is None else min(self._end_ns, self._last_ns)

    @property
    def deadline_ns(self) -> int:
        """When it ends even if no packet comes any more."""
        return self.limit_ns + SILENT_NS

    @property
    def is_of_end(self) -> bool:
        """Whether it was asked for by the end of what happened."""
        return self._event.get("phase") == "end"

    def go_on_like(self, asked: Clip) -> None:
        """Takes the end of a clip that was asked for by the same event: that of the event's end, or the later one."""
        if asked.is_of_end:
            self._end_ns = asked._end_ns
        elif self._end_ns is not None and asked._end_ns is not None:
            self._end_ns = max(self._end_ns, asked._end_ns)

    def place(self, roll: Roll) -> None:
        """Chooses the packet that it begins with, once there is one."""
        if self.cursor is None:
            self.cursor = roll.key_before(self._begin_ns)

    def write(self, packets: Iterable[Kept], lost: int) -> None:
        """Writes the next packets.

        :param lost: how many before them are gone, since memory did not suffice.
        """
        if not self._is_named:
            self._name()
        if lost:
            self._note_cut("memory did not suffice for all packets: footage.memory_mb")
            self._end_file()
        try:
            for packet in packets:
                if packet.came_ns > self.limit_ns:
                    self.finish()
                    return
                self._write(packet)
                self._picture(packet)
        except OSError as error:
            self.fail(error)
            return
        if now_ns() > self.deadline_ns:
            self.finish()

    def _name(self) -> None:
        """Takes a name that no other clip has: one that was cut by a restart may be of the same event."""
        self._is_named = True
        wanted, number = self.path, 0
        while any(path.exists() for path in (self.path, self._json(), self._json(PART))):
            number += 1
            self.path = wanted.with_stem(f"{wanted.stem}-{number}")

    def _write(self, packet: Kept) -> None:
        if self._file is not None and not self._file.takes(packet):
            if not packet.is_key:
                return  # the camera has come back, and nothing can be decoded yet
            self._end_file()
        if self._file is None:
            if not packet.is_key:
                return
            if not self.files and packet.came_ns > self._begin_ns + SILENT_NS // 2:
                self._note_cut("nothing from before was there")
            path = self.path if not self.files else self.path.with_stem(f"{self.path.stem}_{len(self.files) + 1}")
            check_room(path)
            self._file = PacketFile(path, packet)
            self.files.append({"file": path.name, "key_frame": wall(packet.came_ns), "codec": packet.run.form.codec})
            self._tell(PART)
        self._came_ns = packet.came_ns
        if not self._file.add(packet):
            self._end_file()

    def _picture(self, packet: Kept) -> None:
        """Keeps what the picture is made of, and makes it when that is there."""
        if self._pictures is None:
            return
        if packet.is_key:
            if self._pictures and packet.came_ns > self._about_ns:
                self._show()
                return
            self._pictures = []
        if self._pictures or packet.is_key:
            self._pictures.append(packet)
        if self._pictures and packet.came_ns >= self._about_ns:
            self._show()

    def _show(self) -> None:
        packets, self._pictures = self._pictures, None
        jpeg = thumbnail(packets) if packets else None
        if jpeg is None:
            self._logger.warning("clip %s has no picture beside it: what it is about can't be decoded", self.path)
            return
        path = self.path.with_suffix(".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, jpeg)
        self._thumbnail = path.name

    # ---- the end ---------------------------------------------------------------------------------

    def _note_cut(self, why: str) -> None:
        if why not in self.cut:
            self.cut.append(why)

    def _end_file(self) -> None:
        """:raises OSError: when its end can't be written."""
        file, self._file = self._file, None
        if file is None:
            return
        told = self.files[-1]
        failure: OSError | None = None
        try:
            made = file.end()
        except OSError as error:
            made, failure = file.path, error
        if made is None:
            self.files.pop()
        else:
            span = file.span
            told.update(file=made.name, key_frame=wall(span.first_ns), start=wall(span.first_ns), end=wall(span.last_ns))
            told.update(frames=span.frames, width=file.size[0], height=file.size[1], bytes=made.stat().st_size)
            if span.clock is not None:
                told["camera_clock"] = span.clock
        if failure is not None:
            raise failure

    def finish(self, why: str | None = None) -> None:
        """Ends it.

        :param why: why it is cut short; None if it is not.
        """
        if self.is_over:
            return
        self.is_over = True
        if why is not None:
            self._note_cut(why)
        elif self._end_ns is None or self._end_ns > self._last_ns:
            self._note_cut("it lasted longer than footage.clips.longest")
        elif self._came_ns < self.limit_ns - SILENT_NS:
            self._note_cut("the camera was silent at its end")
        try:
            if self._pictures:
                self._show()
            self._end_file()
            self._tell_end()
        except OSError as error:
            self.fail(error)

    def give_up(self, packets: int) -> None:
        """Ends it after a fault, which has cost so many packets at most."""
        self.fail(OSError(f"recording failed, {packets} packets from its end on"))

    def fail(self, error: OSError) -> None:
        """Ends it, as far as the disk lets it."""
        self.is_over = True
        self._end_ns = min(self.limit_ns, now_ns())
        self._note_cut(f"it could not be written: {error.strerror or describe(error)}")
        for step in self._end_file, self._tell_end:
            try:
                step()
            except Exception as another:
                self._logger.debug("clip %s: %s", self.path, another)

    def _tell_end(self) -> None:
        if not self.files:
            self._note_cut("no packets of that time were there")
            self._unmake()
            return
        self._tell()
        self._json(PART).unlink(missing_ok=True)

    def _unmake(self) -> None:
        for path in (self._json(PART), *([self.path.with_suffix(".jpg")] if self._thumbnail else ())):
            path.unlink(missing_ok=True)

    def _json(self, suffix: str = "") -> Path:
        return self.path.with_name(f"{self.path.stem}.json{suffix}")

    def _tell(self, suffix: str = "") -> None:
        """Writes the description; with `.part` for one that is not whole yet."""
        write_whole(
            self._json(suffix),
            description(self._camera, self._event, self.files, self._thumbnail, self.cut, wall(self._begin_ns)),
        )


def description(
    camera: str,
    event: Mapping[str, Any],
    files: list[dict[str, Any]],
    picture: str | None,
    cut: list[str],
    wanted: float,
) -> bytes:
    """The JSON beside a clip. Times are seconds since the epoch."""
    told: dict[str, Any] = {"camera": camera, "event": dict(event), "wanted_from": wanted}
    if files and "start" in files[0]:
        told.update(start=files[0]["start"], end=files[-1].get("end"))
    told.update(files=files, thumbnail=picture, is_cut=bool(cut), cut=cut)
    return json.dumps(told, indent=1, default=str).encode() + b"\n"
