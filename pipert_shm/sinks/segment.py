"""The files of a spool: a line of text for each letter, with its number and a check sum.

    1c291ca3 17 1764000000.123 {"key": "1f0c-start", "camera": "yard", "kind": "enter", "body": {...}}

The sum is the CRC-32 of what stands behind it. JSON has no line's end within it, so what is damaged ends where the next line
begins.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from pipert_shm.display.patterns import Pattern
from pipert_shm.sinks.letter import Letter
from pipert_shm.sinks.settings import LARGEST_LETTER

SUFFIX = ".spool"
_NAME = Pattern(r"\d{20}\.spool")
_CHUNK = 1 << 16
_LONGEST_LINE = LARGEST_LETTER + 128


def path_of(directory: Path, first: int) -> Path:
    """Returns the path of the file that begins with this number."""
    return directory / f"{first:020d}{SUFFIX}"


def firsts_in(directory: Path) -> list[int]:
    """Returns the first number of each file, in order."""
    return sorted(int(path.stem) for path in directory.iterdir() if _NAME.fullmatch(path.name))


def content_of(letter: Letter) -> bytes:
    """Returns a letter without its number and time, in ASCII."""
    content = {"key": letter.key, "camera": letter.camera, "kind": letter.kind, "body": letter.body}
    return json.dumps(content, allow_nan=False).encode()


def summed(text: bytes) -> bytes:
    """Returns a line of this text, with its check sum.

    >>> summed(b"17").rstrip()
    b'3f39b042 17'
    """
    return b"%08x %b\n" % (zlib.crc32(text), text)


def unsummed(line: bytes) -> bytes | None:
    """Returns the text of a line without its end; None if the check sum is not right.

    >>> unsummed(b"3f39b042 17"), unsummed(b"3f39b042 18")
    (b'17', None)
    """
    text = line[9:]
    return text if line[:9] == b"%08x " % zlib.crc32(text) else None


def line_of(number: int, time: float, content: bytes) -> bytes:
    """Returns the line of a letter."""
    return summed(b"%d %.3f %b" % (number, time, content))


def letter_of(line: bytes) -> Letter | None:
    """Returns the letter of a line; None if the line is damaged."""
    text = unsummed(line)
    if text is None:
        return None
    try:
        number, time, content = text.split(b" ", 2)
        given = json.loads(content)
        return Letter(given["key"], given["camera"], given["kind"], given["body"], int(number), float(time))
    except (ValueError, KeyError, TypeError):  # the sum is right, so another program wrote this
        return None


def lines_of(path: Path, offset: int) -> Iterator[tuple[bytes, int]]:
    """Yields each whole line from an offset on, and the offset behind it. What is too long for a line is passed over in pieces.

    :raises OSError: when the file can't be read; on a damaged disk, for example.
    """
    with path.open("rb", buffering=0) as file:
        rest = b""
        while chunk := os.pread(file.fileno(), _CHUNK, offset + len(rest)):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                offset += len(line) + 1
                yield line, offset
            if len(rest) > _LONGEST_LINE:
                offset += len(rest)
                rest = b""
