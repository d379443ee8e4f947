"""Pictures in a terminal that can show them: by kitty's protocol, or by sixel."""

from __future__ import annotations

import base64
import os
import re
import select
import sys
import termios
import tty
from collections.abc import Callable
from typing import Literal, TextIO

import numpy as np

Protocol = Literal["kitty", "sixel"]

ANSWER_S = 0.5  # how long a terminal may take to say what it can
WIDEST_SIXEL = 480  # pixels: sixel is many bytes
CHUNK = 4096  # characters of one of kitty's commands
HOME, NUMBER = "\x1b[H", 71  # the number of our picture, which the next one replaces

_ASK = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c"  # kitty's question, then one that every terminal answers
_ATTRIBUTES = re.compile(r"\x1b\[\?([\d;]*)c")


def picture_protocol() -> Protocol | None:
    """How this process's terminal shows pictures; None where it does not, or where there is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    answer = _asked(sys.stdin.fileno())
    if "_Gi=31;OK" in answer:
        return "kitty"
    attributes = _ATTRIBUTES.search(answer)
    return "sixel" if attributes is not None and "4" in attributes[1].split(";") else None


def _asked(terminal: int) -> str:
    """What the terminal answers to our question."""
    settings = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        sys.stdout.write(_ASK)
        sys.stdout.flush()
        answer = ""
        while _ATTRIBUTES.search(answer) is None and select.select([terminal], [], [], ANSWER_S)[0]:
            answer += os.read(terminal, 1024).decode(errors="replace")
        return answer
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, settings)


def draw_kitty(picture: np.ndarray, out: TextIO) -> bool:
    """Draws a picture at the top of the terminal, in place of the one before."""
    import cv2

    data = base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()
    pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    out.write(HOME)
    for number, piece in enumerate(pieces):
        head = f"a=T,f=100,i={NUMBER},q=2," if number == 0 else ""
        out.write(f"\x1b_G{head}m={int(number < len(pieces) - 1)};{piece}\x1b\\")
    out.flush()
    return True


def draw_sixel(picture: np.ndarray, out: TextIO) -> bool:
    """The same, for terminals with sixel: in 216 colours, at most 480 pixels wide."""
    out.write(f"{HOME}{sixel_of(picture)}")
    out.flush()
    return True


def sixel_of(picture: np.ndarray) -> str:
    """A picture as sixel."""
    from pipert_shm.display.pictures import scaled

    small, _ = scaled(picture, WIDEST_SIXEL)
    colours = np.repeat(small[..., None], 3, 2) if small.ndim == 2 else small[..., 2::-1] if small.shape[2] > 1 else small
    levels = (colours.astype(np.uint16) * 5 + 127) // 255
    indices = (levels[..., 0] * 36 + levels[..., 1] * 6 + levels[..., -1]).astype(np.uint8)
    height, width = indices.shape
    parts = [f'\x1bP0;1q"1;1;{width};{height}']
    parts += [f"#{n};2;{n // 36 * 20};{n // 6 % 6 * 20};{n % 6 * 20}" for n in map(int, np.unique(indices))]
    for top in range(0, height, 6):
        band = indices[top : top + 6]
        weights = (1 << np.arange(len(band), dtype=np.uint8))[:, None]
        for colour in map(int, np.unique(band)):
            parts.append(f"#{colour}{_runs(((band == colour) * weights).sum(0))}$")
        parts.append("-")
    return "".join(parts) + "\x1b\\"


def _runs(row: np.ndarray) -> str:
    """A row of sixels, each a number from 0 to 63, in runs of equal ones."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    lengths = np.diff(starts, append=len(row))
    runs = zip(row[starts].tolist(), lengths.tolist(), strict=True)
    return "".join(f"!{length}{chr(63 + value)}" if length > 3 else chr(63 + value) * length for value, length in runs)


PICTURES: dict[Protocol, Callable[[np.ndarray, TextIO], bool]] = {"kitty": draw_kitty, "sixel": draw_sixel}
