"""What an earlier run has left in a spool's directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pipert_shm.errors import describe
from pipert_shm.sinks.segment import firsts_in, letter_of, lines_of, path_of, unsummed


@dataclass(slots=True)
class SpoolFile:
    """A file of a spool.

    Attributes:
        first: its first number.
        last: its last number; of a file that is full: what the next one's name tells.
        size: bytes.
    """

    first: int
    last: int
    size: int


def files_in(directory: Path, warn: Callable[[str], object]) -> tuple[list[SpoolFile], int]:
    """Returns the files in order, and how many letters are lost at their end. Empty files are removed."""
    sizes = {first: path_of(directory, first).stat().st_size for first in firsts_in(directory)}
    for first in [first for first, size in sizes.items() if not size]:
        path_of(directory, first).unlink()
        del sizes[first]
    files = [SpoolFile(first, following - 1, sizes[first]) for first, following in pairwise(sizes)]
    if not sizes:
        return [], 0
    first, size = sizes.popitem()
    last, is_torn = _end_of(path_of(directory, first), first, size, warn)
    if is_torn:
        warn("the last message was not written whole")
    return [*files, SpoolFile(first, last, size)], int(is_torn)


def _end_of(path: Path, first: int, size: int, warn: Callable[[str], object]) -> tuple[int, bool]:
    """The last number in the last file, and whether a part of a line stands behind it.

    If nothing in the file can be read, its first number is also its last, so that this counts as lost when it is read.
    """
    last, end = first - 1, 0
    try:
        for line, behind in lines_of(path, 0):
            if (letter := letter_of(line)) is not None:
                last = max(last, letter.number)
            end = behind
    except OSError as error:
        warn(f"{path} can't be read: {describe(error)}")
    return max(last, first), end < size and last >= first


def head_of(fd: int, files: Sequence[SpoolFile], warn: Callable[[str], object]) -> int:
    """Returns up to which number all letters are dealt with.

    :param fd: of the file in which that is noted.
    """
    before_all = files[0].first - 1 if files else 0
    line = os.pread(fd, 64, 0).split(b"\n")[0]
    text = unsummed(line)
    if text is not None and text.strip().isdigit():
        return max(int(text), before_all)
    if line:
        warn("the note of what was delivered is damaged; what is still there is sent, perhaps again")
    return before_all
