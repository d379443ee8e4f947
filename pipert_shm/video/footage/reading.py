"""Reads footage again: packets of its files, and a time span of it as one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av

from pipert_shm.video.capture import cannot_open
from pipert_shm.video.footage.kept import TICKS, Form, Kept, Run
from pipert_shm.video.footage.packet_file import PacketFile
from pipert_shm.video.footage.shelf import Segment


def packets_of(path: Path, start_ns: int = 0) -> Iterator[Kept]:
    """The packets of a file, up to its end or to where it breaks off.

    :param start_ns: when its first picture came.
    :raises VideoError: when it can't be opened.
    """
    try:
        container = av.open(str(path.absolute()), format="mp4")
    except (av.error.FFmpegError, OSError) as error:
        raise cannot_open(path, str(error)) from error
    with container:
        if not container.streams.video:
            raise cannot_open(path, "there is no video in it")
        stream = container.streams.video[0]
        run = Run(Form(stream), 0)
        ratio = (stream.time_base or Fraction(1, TICKS)) * TICKS
        first: int | None = None
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt or packet.pts is None or packet.dts is None or not packet.size:
                    continue
                pts = int(packet.pts * ratio)
                first = pts if first is None else first
                came_ns = start_ns + round((pts - first) * 1e9 / TICKS)
                yield Kept(bytes(packet), pts, int(packet.dts * ratio), packet.is_keyframe, came_ns, None, run)
        except av.error.FFmpegError:
            return  # what comes behind this was not written any more


def mend(part: Path, path: Path) -> PacketFile | None:
    """Makes a whole file of what a process has left when it was killed; None if there is no picture in it.

    :raises OSError: when it can't be written.
    :raises VideoError: when it can't be read.
    """
    files = _written(packets_of(part), path)
    return files[0] if files else None


def export(segments: Iterable[Segment], begin: float, end: float, path: Path) -> list[Path]:
    """Copies a time span of a camera's continuous recording into one file; nothing is encoded anew.

    :param begin: seconds since the epoch; it begins with the key frame before.
    :param end: seconds since the epoch.
    :returns: the files: more than one if the pictures' size or codec changes.
    :raises OSError: when it can't be written.
    :raises VideoError: when a file can't be read.
    """
    return [file.path for file in _written(_between(segments, begin, end), path)]


def _between(segments: Iterable[Segment], begin: float, end: float) -> Iterator[Kept]:
    waiting: list[Kept] = []  # since the last key frame before it begins
    begin_ns, end_ns = begin * 1e9, end * 1e9
    for segment in segments:
        for packet in packets_of(segment.path, round(segment.start * 1e9)):
            if packet.came_ns > end_ns:
                break
            if packet.came_ns < begin_ns:
                if packet.is_key:
                    waiting.clear()
                waiting.append(packet)
                continue
            if packet.is_key and packet.came_ns == begin_ns:
                waiting.clear()
            yield from waiting
            waiting.clear()
            yield packet


def _written(packets: Iterable[Kept], path: Path) -> list[PacketFile]:
    """Writes packets to a file, and to further ones where it does not take them."""
    files: list[PacketFile] = []
    file: PacketFile | None = None
    try:
        for packet in packets:
            if file is not None and not file.takes(packet) and packet.is_key:
                file.end()
                file = None
            if file is None:
                if not packet.is_key:
                    continue
                name = path if not files else path.with_stem(f"{path.stem}_{len(files) + 1}")
                file = PacketFile(name, packet)
                files.append(file)
            if file.takes(packet):
                file.add(packet)
    finally:
        if file is not None:
            file.end()
    return [each for each in files if each.span.frames]
