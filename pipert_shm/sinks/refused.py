"""Where messages go that a server refuses for good."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from pipert_shm.display.masking import masked
from pipert_shm.sinks.letter import Letter
from pipert_shm.video.files import Appender

NAME, OLDER = "refused.jsonl", "refused-older.jsonl"
MOST_BYTES = 8 << 20  # of each of the two files


class RefusedLetters:
    """A text file with a line of JSON for each refused letter. When it is full it becomes the older one, which it replaces.

    Attributes:
        path: of the file.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME

    def add(self, letter: Letter, why: str, tries: int) -> None:
        """Writes a line: when, why, after how many tries, and the letter.

        :raises OSError: when that fails.
        """
        line = {
            "refused": time.time(),
            "why": masked(why),
            "tries": tries,
            "taken": letter.time,
            "key": letter.key,
            "camera": letter.camera,
            "kind": letter.kind,
            "body": letter.body,
        }
        if self.path.exists() and self.path.stat().st_size >= MOST_BYTES:
            os.replace(self.path, self.path.with_name(OLDER))
        file = Appender(self.path)
        try:
            file.append(json.dumps(line, allow_nan=False).encode() + b"\n")
        finally:
            file.close()
