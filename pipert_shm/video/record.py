"""The routine that records streams to disk."""

from __future__ import annotations

import os
import pickle
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipert_shm.binding import now_ns
from pipert_shm.data import Meta
from pipert_shm.errors import describe
from pipert_shm.routine import DestinationRoutine
from pipert_shm.video import recorded
from pipert_shm.video.files import set_aside
from pipert_shm.video.opencv import VideoError
from pipert_shm.video.recording import PART, PAYLOAD, STAMP

if TYPE_CHECKING:
    from mcap.records import Schema

    from pipert_shm.video.mcap import McapWriter, Part


class Recorder(DestinationRoutine):
    """Writes each payload that it gets, with what is known of it, to an MCAP file. `Replay` sends them again.

    Tools for MCAP (https://mcap.dev) show the file: each origin is a topic, and frames are `sensor_msgs/msg/Image`. Numbers,
    texts, arrays, lists, dicts, `Detections` and `DetectedFrame` are JSON. A payload of another class is pickled, with a
    warning, and only `Replay(path, trust=True)` sends it again. Frames are not compressed: one of 1080p takes 6 MB, and 3 MB if
    it is planar. `meta.format` is written, too. The tools have no name for planar formats, and show such a frame in grey, with
    its luma above its colours.

    Wire it to the routines whose output you want to see again: to the cameras, to run detectors on the same frames; to the
    detector, to run the steps after it; or to both. The file says of each message which routine sent it, and has its origin,
    sequence number, capture time, `pts`, `wall_clock` and `format`.

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
        meta = self.meta
        log_time = meta.captured_ns + self._epoch_ns
        told = recorded.format_told(meta)
        told |= {"origin": meta.origin, "sender": sender_of(meta), "epoch_ns": str(self._epoch_ns)}
        try:
            self._file.write(log_time, meta.sequence, self._parts_of(data, log_time, told, self._file))
        except OSError as error:
            self._failure = VideoError(
                str(self.path),
                f"can't write to the recording {str(self.path)!r}: {error.strerror}; check that the disk has room; "
                f"what comes is written again when it has",
            )
            raise self._failure from error
        self._failure = None

    def _parts_of(self, data: Any, log_time: int, told: dict[str, str], file: McapWriter) -> list[Part]:
        from pipert_shm.video.mcap import Part

        meta = self.meta
        topic = f"/{meta.origin}" if told["sender"] == meta.origin else f"/{meta.origin}/{told['sender']}"

        def picture(name: str, role: str, array: np.ndarray) -> Part:
            channel = file.channel(name, "cdr", role, _image_schema(), told)
            return Part(channel, recorded.picture_data(array, log_time, meta.origin, meta.format_of(array)))

        stamp = recorded.stamp_data(meta)
        stamps = [] if stamp is None else [Part(file.channel(f"{topic}/meta", "json", STAMP, None, told), [stamp])]
        if recorded.is_picture(data):
            return [*stamps, picture(topic, PAYLOAD, data)]
        try:
            text, pictures = recorded.json_from_payload(data)
        except (TypeError, ValueError) as error:
            pickled = Part(file.channel(f"{topic}/pickle", "pickle", PAYLOAD, None, told), [self._pickle(data, error)])
            return [*stamps, pickled]
        parts = [picture(f"{topic}/frame{number or ''}", PART, array) for number, array in enumerate(pictures)]
        return [*stamps, *parts, Part(file.channel(f"{topic}/data", "json", PAYLOAD, None, told), [text])]

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


def sender_of(meta: Meta) -> str:
    """The routine that sent the message in hand to the one that has it. Replicas are called by the name that they share."""
    hops = meta.hops
    return _REPLICA.sub("", hops[-2].routine) if len(hops) > 1 else meta.origin


_REPLICA = re.compile(r"#\d+$")
