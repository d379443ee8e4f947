"""Reads recordings: the messages of each routine that was recorded, in order, and what was known of each."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from pipert_shm.data import Meta
from pipert_shm.errors import PipertError, describe
from pipert_shm.video import recorded

if TYPE_CHECKING:
    from mcap.records import Channel

OF_PICKLES = b"pipert_shm recording 1\n"  # the beginning of older recordings, which are not MCAP files
MCAP_MAGIC = b"\x89MCAP0\r\n"

# The role of a message in a replay: a payload; a picture that belongs to the payload after it; what was known of that.
PAYLOAD = "payload"
PART = "part"
STAMP = "stamp"


class UntrustedRecording(PipertError):
    """A recording has pickles, which can run any code when they are loaded. `Replay(path, trust=True)` loads them.

    Attributes:
        path: path of the recording.
    """

    def __init__(self, path: str, what: str) -> None:
        super().__init__(
            f"{path!r} has {what}, and to load a pickle runs whatever code its writer chose; if you trust where the file comes "
            f"from: Replay({path!r}, trust=True)"
        )
        self.path = path


@dataclass(slots=True)
class Unreadable:
    """Takes the place of a payload that can't be read."""

    text: str
    cause: Exception


class Recorded(NamedTuple):
    """A message of a recording.

    Attributes:
        number: its number among all messages of the recording, from 0.
        sender: the routine that sent it to the recorder.
        origin: the source that it came from.
        sequence: its number there.
        captured_ns: when it was captured, by the clock of the recorder's machine (CLOCK_MONOTONIC, ns).
        payload: an `Unreadable` where it can't be read.
        pts: its position in its video, seconds.
        wall_clock: when it was captured by the camera's clock, seconds since the epoch.
        told: what the recording says of the format of its frame.
    """

    number: int
    sender: str
    origin: str
    sequence: int
    captured_ns: int
    payload: Any
    pts: float | None = None
    wall_clock: float | None = None
    told: Mapping[str, str] = {}

    def tell(self, meta: Meta) -> None:
        """Writes into a meta what is known of the picture."""
        meta.pts, meta.wall_clock = self.pts, self.wall_clock
        recorded.describe(meta, self.told)


class Recording:
    """A recording that is open. It is read once, from its beginning to its end, by one thread.

    :param on_break: called with the place, in bytes, at which it breaks off or is damaged.
    :raises OSError: when the file can't be read.
    :raises ValueError: when it is not a recording.
    :raises UntrustedRecording: when it is of an earlier version, which consists of pickles, and `trust` is not set.
    :raises ImportError: when the package `mcap` is not installed.

    Attributes:
        senders: the routines that were recorded, in the order in which they first come, each with the origins of what it sent.
            Empty for one of an earlier version.
    """

    def __init__(self, path: Path, *, trust: bool, on_break: Callable[[int], object]) -> None:
        self._path = str(path)
        self._trust = trust
        self._on_break = on_break
        self._began_ns: int | None = None
        self.senders: dict[str, list[str]] = {}
        self._file = path.open("rb")
        try:
            self._is_mcap = self._begin(self._file)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, file: BinaryIO) -> bool:
        begins = file.read(max(len(MCAP_MAGIC), len(OF_PICKLES)))
        if not begins.startswith(MCAP_MAGIC):
            if begins != OF_PICKLES:
                raise ValueError(f"{self._path!r} is no recording of a Recorder")
            if not self._trust:
                raise UntrustedRecording(self._path, "the pickles of an earlier version")
            return False
        from pipert_shm.video.mcap import channels_in

        for channel in channels_in(file):
            if channel.metadata.get("pipert_shm") == PAYLOAD:
                sender, origin = ends_of(channel)
                origins = self.senders.setdefault(sender, [])
                origins += [origin] if origin not in origins else []
        return True

    def messages(self, sender: str | None = None, origin: str | None = None) -> Iterator[Recorded]:
        """Yields the messages, or only those of a sender, of an origin, or both.

        :raises UntrustedRecording: when one is a pickle and `trust` is not set.
        :raises VideoError: when a compressed chunk is damaged.
        """
        if not self._is_mcap:
            return self._of_pickles()
        wanted = (sender, origin)

        def is_wanted(channel: Channel) -> bool:
            return all(want in (None, its) for want, its in zip(wanted, ends_of(channel), strict=True))

        return self._of_mcap(is_wanted)

    def _of_mcap(self, is_wanted: Callable[[Channel], bool]) -> Iterator[Recorded]:
        from pipert_shm.video.mcap import messages_in

        reading = _Reading(self._path, self._trust)
        for channel, message in messages_in(self._file, self._on_break, is_wanted):
            role = channel.metadata.get("pipert_shm")
            if message is None:
                reading.number += role == PAYLOAD
            elif role == STAMP:
                reading.take_stamp(message.data)
            elif role == PART:
                reading.take_picture(channel.message_encoding, message.data)
            elif role == PAYLOAD:
                if self._began_ns is None:
                    self._began_ns = message.log_time
                yield reading.finish(channel, message.sequence, message.log_time, self._began_ns, message.data)

    def _of_pickles(self) -> Iterator[Recorded]:
        file, number = self._file, 0
        file.seek(len(OF_PICKLES))
        while True:
            start = file.tell()
            try:
                captured_ns, payload = pickle.load(file)
            except (EOFError, pickle.UnpicklingError):
                if start != Path(self._path).stat().st_size:
                    self._on_break(start)
                return
            if self._began_ns is None:
                self._began_ns = captured_ns
            yield Recorded(number, "", "", number, captured_ns, payload, (captured_ns - self._began_ns) / 1e9)
            number += 1

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class _Reading:
    """Puts the messages of a file together that one payload was written as.

    Attributes:
        number: of the payload that comes next.
    """

    def __init__(self, path: str, trust: bool) -> None:
        self._path = path
        self._trust = trust
        self.number = 0
        self._forget()

    def _forget(self) -> None:
        self._pictures: list[np.ndarray] = []
        self._stamp: dict[str, Any] = {}
        self._trouble: Exception | None = None

    def take_stamp(self, data: bytes) -> None:
        """What was known of the payload that follows."""
        try:
            self._stamp = recorded.stamp_from(data)
        except ValueError as error:
            self._trouble = error

    def take_picture(self, encoding: str, data: bytes) -> None:
        """A picture in the payload that follows."""
        self._pictures.append(self._made_of(encoding, data))

    def finish(self, channel: Channel, sequence: int, log_time: int, began_ns: int, data: bytes) -> Recorded:
        """The message whose payload this is."""
        payload = self._made_of(channel.message_encoding, data)
        if self._trouble is not None:
            text = f"message {self.number + 1} of the recording {self._path!r} can't be read, and is left out: "
            payload = Unreadable(f"{text}{describe(self._trouble)}", self._trouble)
        sender, origin = ends_of(channel)
        pts, wall_clock = self._stamp.get("pts"), self._stamp.get("wall_clock")
        captured_ns = recorded.captured_at(log_time, channel.metadata)
        if captured_ns is None:  # it was made by an earlier version, which kept no pts
            captured_ns, pts = log_time, (log_time - began_ns) / 1e9
        found = Recorded(
            self.number,
            sender,
            origin,
            self._stamp.get("sequence", sequence),
            captured_ns,
            payload,
            pts,
            wall_clock,
            channel.metadata,
        )
        self.number += 1
        self._forget()
        return found

    def _made_of(self, encoding: str, data: bytes) -> Any:
        """What a message says; None where that can't be read, or something before it could not."""
        if self._trouble is not None:
            return None
        try:
            if encoding == "cdr":
                return recorded.picture_from(data)
            if encoding == "json":
                return recorded.payload_from_json(data, self._pictures)
            if not self._trust:
                raise UntrustedRecording(self._path, "payloads that are pickled")
            return pickle.loads(data)
        except UntrustedRecording:
            raise
        except Exception as error:  # a class that has moved, say: of a stranger's pickle, anything
            self._trouble = error
            return None


def ends_of(channel: Channel) -> tuple[str, str]:
    """The sender and the origin of a channel's messages. Earlier versions told the origin alone, by the topic."""
    origin = channel.metadata.get("origin") or [*channel.topic.split("/"), ""][1]
    return channel.metadata.get("sender") or origin, origin
