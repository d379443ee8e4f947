"""Removes the oldest footage, by age and bytes.

The clock may step, and files are called by it. So age is taken from a clock that never steps for what this process has
recorded, and what was there before goes slowly. See docs/how-to/footage.md.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from pipert_shm.video.files import locked
from pipert_shm.video.footage.packet_file import PART
from pipert_shm.video.footage.settings import DAY_S, GB, FootageSettings, Limits
from pipert_shm.video.footage.shelf import ALL, CLIPS, cameras

OLD_AT_ONCE = 4
"""Files, or clips, of earlier runs that go for their age each time that a new one is whole."""

_PREFIX = len("10-15-00.250")


class Retention:
    """Keeps the limits of one camera, and those of all in its directory. One thread at a time.

    :param folder: of the camera.
    """

    def __init__(self, folder: Path, settings: FootageSettings, logger: logging.Logger) -> None:
        self._folder = folder
        self._settings = settings
        self._logger = logger
        self._own: dict[Path, float] = {}  # the folders that this process has written to, in this order, and when it did last
        self._sizes: dict[Path, tuple[int, int]] = {}  # of a folder's files, as of the folder's last change

    def note(self, path: Path) -> None:
        """Takes note of a file that is whole now."""
        self._own[path.parent] = time.clock_gettime(time.CLOCK_BOOTTIME)

    def keep_limits(self) -> int:
        """Removes what is too much; returns how many files that were."""
        settings = self._settings
        removed = 0
        for kind, wanted in (ALL, settings.continuous), (CLIPS, settings.clips):
            if wanted is not None:
                removed += self._keep(self._in_order(_places(self._folder, kind)), wanted.kept)
        if settings.gb is not None:
            with _alone_in(settings.directory) as is_alone:
                removed += self._keep_in_all(settings.gb) if is_alone else 0
        self._sizes = {place: size for place, size in self._sizes.items() if place.exists()}
        return removed

    def _in_order(self, places: list[Path]) -> list[Path]:
        """Oldest first: those of earlier runs by their names, then the own ones as they were written."""
        mine = [place for place in self._own if place in places]
        return [*(place for place in places if place not in self._own), *mine]

    def _keep(self, places: list[Path], limits: Limits) -> int:
        removed = 0
        if limits.days is not None:
            removed += self._remove_old(places, limits.days * DAY_S)
        if limits.gb is not None:
            removed += self._remove_beyond([[place] for place in places], limits.gb)
        return removed

    def _keep_in_all(self, gb: float) -> int:
        """What all cameras may have: the continuous recording goes first, then clips."""
        at_once: list[list[Path]] = []
        for kind in ALL, CLIPS:
            of_all = [place for folder in cameras(self._settings.directory) for place in _places(folder, kind)]
            of_all.sort(key=_name)
            at_once += (list(places) for _, places in groupby(of_all, key=_name))
        return self._remove_beyond(at_once, gb)

    def _remove_old(self, places: list[Path], seconds: float) -> int:
        removed, left = 0, OLD_AT_ONCE
        now, up = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
        for place in places:
            written = self._own.get(place)
            if written is not None:
                if up - written > seconds:
                    removed += self._remove(place)
                continue
            end = _end_of(place)
            if end is None or now - end <= seconds or not left:
                continue
            for group in self._groups(place)[:left]:
                left -= 1
                removed += _unlink(group)
            _leave(place)
        return removed

    def _remove_beyond(self, at_once: list[list[Path]], gb: float) -> int:
        """Removes the oldest.

        :param at_once: folders, oldest first; those of the same hour together.
        """
        over = sum(self._size_of(place) for places in at_once for place in places) - gb * GB
        removed = 0
        for places in at_once:
            if over <= 0:
                break
            groups = [group for place in places for group in self._groups(place)]
            for group in sorted(groups, key=lambda group: group[0].name):
                if over <= 0:
                    break
                over -= sum(map(_length, group))
                removed += _unlink(group)
            for place in places:
                _leave(place)
        return removed

    def _remove(self, place: Path) -> int:
        removed = sum(map(_unlink, self._groups(place)))
        _leave(place)
        self._own.pop(place, None)
        return removed

    def _size_of(self, place: Path) -> int:
        """Bytes of the files that are whole."""
        try:
            changed = place.stat().st_mtime_ns
        except FileNotFoundError:
            return 0
        known = self._sizes.get(place)
        if known is None or known[0] != changed:
            self._sizes[place] = known = changed, sum(_length(path) for group in self._groups(place) for path in group)
        return known[1]

    def _groups(self, place: Path) -> list[list[Path]]:
        """The files of a folder that are whole, oldest first; a clip with what stands beside it."""
        try:
            names = sorted(name for name in os.listdir(place) if not name.endswith(PART))
        except FileNotFoundError:
            return []
        return [[place / name for name in group] for _, group in groupby(names, key=lambda name: name[:_PREFIX])]


@contextmanager
def _alone_in(directory: Path) -> Iterator[bool]:
    """Locks a directory; False if another camera has. Several at once would each remove all that is too much."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield locked(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)


def _places(folder: Path, kind: str) -> list[Path]:
    """The folders with files of a camera: one for each day, or each hour; oldest first."""
    places = folder.glob(f"{kind}/*/*" if kind == ALL else f"{kind}/*")
    return sorted(place for place in places if _end_of(place) is not None)


def _name(place: Path) -> tuple[str, ...]:
    """Which day, or day and hour, a folder is for."""
    return place.parts[-2:] if len(place.name) == 2 else place.parts[-1:]


def _end_of(place: Path) -> float | None:
    """When the hour, or the day, of a folder ends; None if it is no folder of ours."""
    for name, form, seconds in ((f"{place.parent.name} {place.name}", "%Y-%m-%d %H", 3600.0), (place.name, "%Y-%m-%d", DAY_S)):
        with suppress(ValueError):
            return datetime.strptime(name, form).replace(tzinfo=UTC).timestamp() + seconds
    return None


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _unlink(paths: list[Path]) -> int:
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _leave(place: Path) -> None:
    """Removes a folder, and the one above it, if nothing is in them any more."""
    with suppress(OSError):  # something is in it
        place.rmdir()
        place.parent.rmdir()
