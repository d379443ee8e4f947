"""Scrolls and filters a long text on a terminal."""

from __future__ import annotations

import re
from dataclasses import dataclass

HELP = "↑ ↓ PgUp PgDn Home End: scroll · /: filter · q: quit"

_KEY = re.compile(r"\x1b(?:\[[0-9;]*[~A-Za-z]|O[A-Za-z])|.", re.DOTALL)
_STEPS = {"\x1b[A": -1, "\x1bOA": -1, "k": -1, "\x1b[B": 1, "\x1bOB": 1, "j": 1}
_PAGES = {"\x1b[5~": -1, "\x1b[6~": 1, " ": 1}
_HOME = ("\x1b[H", "\x1bOH", "\x1b[1~", "g")
_END = ("\x1b[F", "\x1bOF", "\x1b[4~", "G")


@dataclass(slots=True)
class Pager:
    """The place in a text, moved by keys, and the filter.

    Attributes:
        filter: a text that a shown line has to contain; empty: all lines are shown.
        is_typing: whether keys go to the filter: after `/`, until Enter or Escape.
        wants_end: whether `q` was pressed.
        first: the first line that is shown.
    """

    filter: str = ""
    is_typing: bool = False
    wants_end: bool = False
    first: int = 0
    _page: int = 1

    def press(self, keys: str) -> None:
        """Handles input from the keyboard: letters, and escape sequences of other keys."""
        for key in _KEY.findall(keys):
            if self.is_typing:
                self._type(key)
            else:
                self._command(key)

    def _type(self, key: str) -> None:
        if key in ("\r", "\n", "\x1b"):
            self.is_typing = False
            self.filter = "" if key == "\x1b" else self.filter
        elif key in ("\x7f", "\b"):
            self.filter = self.filter[:-1]
        elif key.isprintable():
            self.filter += key
        self.first = 0

    def _command(self, key: str) -> None:
        if key == "q":
            self.wants_end = True
        elif key == "/":
            self.is_typing, self.filter = True, ""
        elif key == "\x1b":
            self.filter = ""
        elif key in _HOME:
            self.first = 0
        elif key in _END:
            self.first = 1 << 30  # window() knows where the end is
        else:
            self.first = max(0, self.first + _STEPS.get(key, 0) + self._page * _PAGES.get(key, 0))

    def window(self, count: int, height: int) -> range:
        """Which of `count` lines are shown where `height` have room. It stays within them."""
        self._page = max(1, height - 1)  # a line of the old page stays in sight
        self.first = min(self.first, max(0, count - height))
        return range(self.first, min(count, self.first + height))

    def status(self, window: range, count: int) -> str:
        """The status line: the place in the text, and the keys."""
        if self.is_typing:
            return f"filter: {self.filter}▏ Enter: keep · Esc: all"
        shown = f"filter: {self.filter} (Esc: all) · " if self.filter else ""
        return f"{shown}lines {window.start + 1 if window else 0}-{window.stop} of {count} · {HELP}"
