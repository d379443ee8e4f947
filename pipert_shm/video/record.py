"""A stream to disk, and back into a pipe."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any, BinaryIO

from pipert_shm.errors import EndOfStream
from pipert_shm.routine import DestinationRoutine, SourceRoutine
from pipert_shm.video.files import set_aside

MAGIC = b"pipert_shm recording 1\n"
REST = 0.1  # seconds after which a source that waits looks whether it is to stop


class Recorder(DestinationRoutine):
    """Writes all that it gets to a file, as it is, with the time of its capture; `Replay` sends it again.

    Any payload will do. Frames are not compressed: 1080p takes 6 MB a frame. Put it on the wire whose traffic you want to see
    again: behind the camera to run detectors on the same frames, behind the detector to run what comes after it.

    :param path: of the file; its directory is made where it is missing. Each start, after a crash too, begins a new one; one
        that is there is kept, with a number.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        super().__init__(name)
        self.path = Path(path)
        self._file: BinaryIO | None = None

    def setup(self) -> None:
        """Opens the file.

        :raises OSError: when it can't be made or written to.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        set_aside(self.path)
        self._file = self.path.open("wb")
        self._file.write(MAGIC)

    def main_logic(self, data: Any) -> None:
        """Writes one message.

        :raises OSError: when it can't be written: the disk is full, say.
        """
        assert self._file is not None, "setup() comes first"
        pickle.dump((self.meta.captured_ns, data), self._file, protocol=5)

    def cleanup(self) -> None:
        """Ends the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Replay(SourceRoutine):
    """Sends what a `Recorder` wrote: the same payloads, bit for bit, in the same order and at the same pace; then it ends.

    A recording that breaks off, since its process was killed, is sent as far as it goes, with a warning. It is made of pickles:
    replay only what you trust.

    :param path: of the file.
    :param paced: whether to keep the time that lay between the captures; else it goes as fast as the wires let it.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None, *, paced: bool = True) -> None:
        super().__init__(name)
        self.path = Path(path)
        self._paced = paced
        self._file: BinaryIO | None = None
        self._next: tuple[int, Any] | None = None  # when it was captured, and the payload
        self._offset_ns: int | None = None  # from the recording's clock to ours

    def setup(self) -> None:
        """Opens the file.

        :raises OSError: when it can't be read.
        :raises ValueError: when it is no recording.
        """
        self._file = self.path.open("rb")
        self._next = self._offset_ns = None
        if self._file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{str(self.path)!r} is no recording of a Recorder")

    def main_logic(self) -> Any:
        """The next payload, or None while its time has not come.

        :raises EndOfStream: after the last one.
        """
        if self._next is None:
            self._next = self._load()
        captured_ns, payload = self._next
        if self._paced:
            now = time.monotonic_ns()
            if self._offset_ns is None:
                self._offset_ns = now - captured_ns
            early = (captured_ns + self._offset_ns - now) / 1e9
            if early > 0:
                time.sleep(min(early, REST))
            if early > REST:
                return None
        self._next = None
        return payload

    def _load(self) -> tuple[int, Any]:
        assert self._file is not None, "setup() comes first"
        start = self._file.tell()
        try:
            captured_ns, payload = pickle.load(self._file)
        except (EOFError, pickle.UnpicklingError):
            if start != self.path.stat().st_size:
                self._logger.warning("the recording %s breaks off at byte %d; the rest is not sent", self.path, start)
            raise EndOfStream from None
        return captured_ns, payload

    def cleanup(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
