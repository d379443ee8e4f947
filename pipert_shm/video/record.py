"""Records a stream to disk, and replays it."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from pipert_shm.binding import now_ns
from pipert_shm.errors import EndOfStream, PipertError, describe
from pipert_shm.routine import DestinationRoutine, SourceRoutine
from pipert_shm.video import recorded
from pipert_shm.video.files import set_aside
from pipert_shm.video.opencv import VideoError

if TYPE_CHECKING:
    from mcap.records import Schema

    from pipert_shm.video.mcap import McapWriter, Part

OF_PICKLES = b"pipert_shm recording 1\n"  # the beginning of older recordings, which are not MCAP files
MCAP_MAGIC = b"\x89MCAP0\r\n"
REST = 0.1  # the longest sleep of a replay, in seconds, so that it stops soon when it is told to

# The role of a message in a replay: a payload, or a picture that belongs to the payload after it.
PAYLOAD = "payload"
PART = "part"


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


class Recorder(DestinationRoutine):
    """Writes each payload that it gets, with its capture time, to an MCAP file. `Replay` sends them again.

    Tools for MCAP (https://mcap.dev) show the file: each origin is a topic, and frames are `sensor_msgs/msg/Image`. Numbers,
    texts, arrays, lists, dicts, `Detections` and `DetectedFrame` are JSON. A payload of another class is pickled, with a
    warning, and only `Replay(path, trust=True)` sends it again. Frames are not compressed: one of 1080p takes 6 MB, and 3 MB if
    it is planar. `meta.format` is written, too. The tools have no name for planar formats, and show such a frame in grey, with
    its luma above its colours.

    Wire it to the routine whose output you want to see again: to the camera, to run detectors on the same frames; to the
    detector, to run the steps after it.

    Each message is in the file before the next one is taken, even if the process is killed then. A message that the disk has no
    room for is an error, and leaves nothing in the file. Later messages are written when there is room again.

    Each start, after a crash too, begins a new file. An earlier file is kept under a name with a number. A second recorder of
    the same path, in any process, writes to a file with a number. A recorder can't have replicas: each would get a part of the
    messages.

    :param path: of the file (`.mcap`); a missing directory is made.
    """

    replicable = False

    def __init__(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        super().__init__(name)
        self.path = Path(path)
        self._file: McapWriter | None = None
        self._failure: VideoError | None = None
        self._epoch_ns = 0
        self._pickled: set[type] = set()  # classes that were warned of

    def setup(self) -> None:
        """Opens the file.

        :raises OSError: when the file can't be made or written to.
        :raises ImportError: when the package `mcap` is not installed.
        """
        from pipert_shm.video.mcap import McapWriter

        self.path.parent.mkdir(parents=True, exist_ok=True)
        set_aside(self.path, self._logger)
        self._file = McapWriter(self.path)
        if (path := self._file.file.path) != self.path:
            self._logger.warning("the recording is written to %s, since another writer has %s in hand", path, self.path)
        self._failure = None
        self._epoch_ns = time.time_ns() - now_ns()  # once, so that the time between two messages is what it was

    def main_logic(self, data: Any) -> None:
        """Writes one message.

        :raises VideoError: when the message can't be written: the disk is full, or the payload does not pickle.
        """
        assert self._file is not None, "setup() comes first"
        log_time = self.meta.captured_ns + self._epoch_ns
        try:
            self._file.write(log_time, self.meta.sequence, self._parts_of(data, log_time, self._file))
        except OSError as error:
            self._failure = VideoError(
                str(self.path),
                f"can't write to the recording {str(self.path)!r}: {error.strerror}; check that the disk has room; "
                f"what comes is written again when it has",
            )
            raise self._failure from error
        self._failure = None

    def _parts_of(self, data: Any, log_time: int, file: McapWriter) -> list[Part]:
        from pipert_shm.video.mcap import Part

        topic, told = f"/{self.meta.origin}", recorded.format_told(self.meta)

        def picture(name: str, role: str, array: np.ndarray) -> Part:
            channel = file.channel(name, "cdr", role, _image_schema(), told)
            return Part(channel, recorded.picture_data(array, log_time, self.meta.origin, self.meta.format_of(array)))

        if recorded.is_picture(data):
            return [picture(topic, PAYLOAD, data)]
        try:
            text, pictures = recorded.json_from_payload(data)
        except (TypeError, ValueError) as error:
            return [Part(file.channel(f"{topic}/pickle", "pickle", PAYLOAD, None, told), [self._pickle(data, error)])]
        parts = [picture(f"{topic}/frame{number or ''}", PART, array) for number, array in enumerate(pictures)]
        return [*parts, Part(file.channel(f"{topic}/data", "json", PAYLOAD, None, told), [text])]

    def _pickle(self, data: Any, cause: Exception) -> bytes:
        if type(data) not in self._pickled:
            self._pickled.add(type(data))
            self._logger.warning("payloads have %s: they are pickled, and replayed only by Replay(…, trust=True)", cause)
        try:
            return pickle.dumps(data, protocol=5)
        except Exception as error:  # of a stranger's __reduce__: anything
            raise VideoError(str(self.path), f"can't record a payload: it does not pickle: {describe(error)}") from error

    def cleanup(self) -> None:
        """Ends the file with an index.

        :raises VideoError: when the last messages or the index could not be written. All before that can be replayed.
        """
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            file.finish()
        except OSError as error:
            raise VideoError(
                str(self.path),
                f"can't write the index of the recording {str(self.path)!r}: {error.strerror}; it can be replayed",
            ) from error
        finally:
            file.close()
        if self._failure is not None:
            raise self._failure


def _image_schema() -> Schema:
    from mcap.records import Schema

    return Schema(id=0, name=recorded.IMAGE_NAME, encoding="ros2msg", data=recorded.IMAGE_DEFINITION)


@dataclass(slots=True)
class _Unreadable:
    """Takes the place of a payload that can't be read."""

    text: str
    cause: Exception


class _Message(NamedTuple):
    """What a replay sends.

    Attributes:
        captured_ns: when it was captured, by the recording's clock.
        payload: the payload.
        told: what the recording says of the format of its frame.
    """

    captured_ns: int
    payload: Any
    told: dict[str, str]


class Replay(SourceRoutine):
    """Sends what a `Recorder` wrote: the same payloads, bit for bit, in the same order and at the same pace. Then it ends.

    For receivers the replay is the origin: `self.meta.origin` is its name, and the capture time is that of the replay.
    `self.meta.format` is what it was.
    `self.meta.pts` is the time since the first message of the recording, in seconds. Play each camera of a recording with a
    routine of its own, `Replay("yard.mcap", "gate", origin="gate")`. Without `origin` all cameras come from one routine, with a
    warning.

    A recording that breaks off, because its process was killed, is sent as far as it goes, with a warning. A message that can't
    be read, because its class does not exist any more, for example, is left out. It counts as an error, and `pipe.join()`
    raises it in the end.

    :param path: of the file.
    :param origin: sends only the messages of this origin, by the name that it had in the recording.
    :param paced: True keeps the time between captures; False sends as fast as the wires take it.
    :param trust: loads pickles, too: payloads of other classes, and recordings of earlier versions. Loading runs any code that
        the file's writer chose, so set it only for files that you trust.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        origin: str | None = None,
        paced: bool = True,
        trust: bool = False,
    ) -> None:
        super().__init__(name)
        self.path = Path(path)
        self._origin = origin
        self._origins: set[str] = set()  # seen so far
        self._paced = paced
        self._trust = trust
        self._file: BinaryIO | None = None
        self._failure: PipertError | None = None  # the error that ended the stream
        self._next: _Message | None = None
        self._began_ns: int | None = None  # capture time of the first message
        self._offset_ns: int | None = None  # between the recording's clock and ours

    def setup(self) -> None:
        """Opens the file.

        :raises OSError: when the file can't be read.
        :raises ValueError: when it is not a recording.
        :raises UntrustedRecording: when it is of an earlier version, which consists of pickles, and `trust` is not set.
        :raises ImportError: when the package `mcap` is not installed.
        """
        self._next = self._offset_ns = self._began_ns = self._failure = None
        self._origins.clear()
        file = self.path.open("rb")
        try:
            self._payloads = self._read(file)
        except BaseException:
            file.close()
            raise
        self._file = file

    def main_logic(self) -> Any:
        """Returns the next payload, or None while it is not due.

        :raises EndOfStream: after the last one.
        :raises UntrustedRecording: when the payload is a pickle and `trust` is not set. The stream ends.
        :raises VideoError: when one message can't be read, which is left out; or when the file can't be read further, which
            ends the stream.
        """
        if self._next is None:
            self._next = self._read_next()
            if self._next is None:
                if self._origin is not None and self._origin not in self._origins:
                    known = ", ".join(map(repr, sorted(self._origins))) or "none"
                    self._failure = VideoError(
                        str(self.path), f"the recording {str(self.path)!r} has nothing of {self._origin!r}; it is of {known}"
                    )
                    raise self._failure
                raise EndOfStream
        captured_ns, payload, told = self._next
        if isinstance(payload, _Unreadable):
            self._next = None
            self._failure = VideoError(str(self.path), payload.text)
            raise self._failure from payload.cause
        if self._began_ns is None:
            self._began_ns = captured_ns
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
        self.meta.pts = (captured_ns - self._began_ns) / 1e9
        recorded.describe(self.meta, told)
        return payload

    def _read_next(self) -> _Message | None:
        """Returns the next message; None after the last one, and after a failure."""
        try:
            return next(self._payloads, None)
        except PipertError as error:
            self._failure = error
            raise
        except Exception as error:  # of the disk, the decompression, or a stranger's pickle: anything
            self._failure = VideoError(
                str(self.path),
                f"the recording {str(self.path)!r} is damaged, or can't be read: {describe(error)}; what follows is not sent",
            )
            raise self._failure from error

    def _read(self, file: BinaryIO) -> Iterator[_Message]:
        """Yields each message."""
        begins = file.read(max(len(MCAP_MAGIC), len(OF_PICKLES)))
        if begins.startswith(MCAP_MAGIC):
            return self._of_mcap(file)
        if begins != OF_PICKLES:
            raise ValueError(f"{str(self.path)!r} is no recording of a Recorder")
        if not self._trust:
            raise UntrustedRecording(str(self.path), "the pickles of an earlier version")
        return self._of_pickles(file)

    def _of_mcap(self, file: BinaryIO) -> Iterator[_Message]:
        from pipert_shm.video.mcap import messages_in

        pictures: list[np.ndarray] = []
        trouble: Exception | None = None  # an error in a picture of the next payload
        number = 0
        for channel, message in messages_in(file, self._warn_of_break):
            role = channel.metadata.get("pipert_shm")
            if role not in (PART, PAYLOAD):
                continue  # written by another program
            if not self._is_wanted(channel.topic.split("/")[1]):
                continue
            payload: Any = None
            try:
                if trouble is None:
                    payload = self._payload_of(channel.message_encoding, message.data, pictures)
            except UntrustedRecording:
                raise
            except Exception as error:  # a class that has moved, say: of a stranger's pickle, anything
                trouble = error
            if role == PART:
                pictures.append(payload)
                continue
            number += 1
            if trouble is not None:
                text = (
                    f"message {number} of the recording {str(self.path)!r} can't be read, and is left out: {describe(trouble)}"
                )
                payload = _Unreadable(text, trouble)
            pictures, trouble = [], None
            yield _Message(message.log_time, payload, channel.metadata)

    def _is_wanted(self, origin: str) -> bool:
        if origin not in self._origins:
            self._origins.add(origin)
            if self._origin is None and len(self._origins) == 2:
                self._logger.warning(
                    "the recording %s is of several origins (%s, …), which all are %r now: give each a Replay(…, origin=…) "
                    "of its own where receivers tell them apart",
                    self.path,
                    ", ".join(map(repr, sorted(self._origins))),
                    self.name,
                )
        return self._origin in (None, origin)

    def _payload_of(self, encoding: str, data: bytes, pictures: list[np.ndarray]) -> Any:
        if encoding == "cdr":
            return recorded.picture_from(data)
        if encoding == "json":
            return recorded.payload_from_json(data, pictures)
        if not self._trust:
            raise UntrustedRecording(str(self.path), "payloads that are pickled")
        return pickle.loads(data)

    def _of_pickles(self, file: BinaryIO) -> Iterator[_Message]:
        while True:
            start = file.tell()
            try:
                captured_ns, payload = pickle.load(file)
            except (EOFError, pickle.UnpicklingError):
                if start != self.path.stat().st_size:
                    self._warn_of_break(start)
                return
            yield _Message(captured_ns, payload, {})

    def _warn_of_break(self, at: int) -> None:
        self._logger.warning("the recording %s breaks off at byte %d; the rest is not sent", self.path, at)

    def cleanup(self) -> None:
        """Closes the file.

        :raises PipertError: when a part of the recording could not be sent.
        """
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._failure is not None:
            raise self._failure
