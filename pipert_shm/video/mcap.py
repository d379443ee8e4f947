"""Writes and reads MCAP files (https://mcap.dev), which other tools read as well. A file is valid after each message.

The package `mcap` knows the formats of records. But its writer keeps a chunk in memory until the chunk is complete, and can't
go on after a write that failed. Here a chunk grows in the file: a message is appended, and then the chunk's header is written
again. Between these two writes the message is a record of its own, which is valid, too.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipert_shm.errors import describe
from pipert_shm.extras import to_install
from pipert_shm.video.files import NewFile, write_all
from pipert_shm.video.opencv import VideoError

try:
    from mcap.data_stream import ReadDataStream, RecordBuilder
    from mcap.exceptions import McapError
    from mcap.opcode import Opcode
    from mcap.records import (
        Channel,
        Chunk,
        ChunkIndex,
        DataEnd,
        Footer,
        Header,
        McapRecord,
        Message,
        MessageIndex,
        Schema,
        Statistics,
    )
    from mcap.stream_reader import breakup_chunk
except ImportError as error:
    raise ImportError(f"recordings need the package mcap ({error}): {to_install('recording')}") from error

MAGIC = b"\x89MCAP0\r\n"
CHUNK_BYTES = 1 << 20
CHUNK_S = 5.0
CHUNK_HEAD = struct.Struct(
    "<BQQQQIIQ"
)  # opcode, length, first and last time, size, CRC, length of the compression's name, size
PREFIX = struct.Struct("<BQ")  # opcode and length of a record
FOOTER_BYTES = 37  # of the last record, with the magic number behind it
LARGEST = 1 << 40  # bytes of a record; a larger length means that the file is damaged


@dataclass(slots=True)
class _OpenChunk:
    """The chunk that grows at the end of the file.

    Attributes:
        start: its place in the file, bytes.
        first, last: log times of its messages, ns.
        begun: when it was begun, CLOCK_MONOTONIC, seconds.
        index: by channel, the log time of each message and its place in the chunk.
    """

    start: int
    first: int
    last: int
    begun: float
    index: dict[int, list[tuple[int, int]]]


class PassedOver(NamedTuple):
    """Stands in the place of a message that was not read."""

    channel_id: int


@dataclass(slots=True)
class Part:
    """One message: its channel, and its data in pieces."""

    channel: int
    data: list[bytes | memoryview]


class McapWriter:
    """Writes an MCAP file. One thread at a time.

    :raises OSError: when the file can't be made.

    Attributes:
        file: the file.
    """

    def __init__(self, path: Path) -> None:
        self.file = NewFile(path)
        self._fd = self.file.fd
        self._size = 0
        self._head = RecordBuilder()  # schemas and channels, which are repeated at the end
        self._schemas: dict[str, int] = {}
        self._channels: dict[tuple[str, str, tuple[tuple[str, str], ...]], int] = {}
        self._counts: dict[int, int] = {}
        self._chunks = RecordBuilder()
        self._chunk_count = 0
        self._first = self._last = 0
        self._chunk: _OpenChunk | None = None
        self._append(MAGIC + _packed(Header(profile="", library="pipert_shm")))

    def channel(
        self, topic: str, encoding: str, role: str, schema: Schema | None = None, metadata: dict[str, str] | None = None
    ) -> int:
        """Returns the number of a channel, which is made at the first call.

        :param role: what a replay does with its messages: `payload` or `part`.
        :param schema: this method sets its id.
        :param metadata: what else holds for all of its messages. A topic may have several channels.
        """
        key = topic, role, tuple((metadata or {}).items())
        number = self._channels.get(key)
        if number is not None:
            return number
        records: list[McapRecord] = []
        schema_id = 0
        if schema is not None:
            schema_id = self._schemas.get(schema.name, 0)
            if not schema_id:
                schema_id = schema.id = len(self._schemas) + 1
                records.append(schema)
        number = len(self._channels) + 1
        records.append(Channel(number, topic, encoding, {"pipert_shm": role, **(metadata or {})}, schema_id))
        self._end_chunk()
        self._append(b"".join(map(_packed, records)))
        for record in records:
            record.write(self._head)
        if schema is not None:
            self._schemas[schema.name] = schema_id
        self._channels[key] = number
        return number

    def write(self, log_time: int, sequence: int, parts: list[Part]) -> None:
        """Writes messages that belong together, all or none.

        :param log_time: ns since the epoch.
        :raises OSError: for example when the disk is full.
        """
        chunk = self._chunk
        if chunk is not None and (self._size - chunk.start > CHUNK_BYTES or time.monotonic() - chunk.begun > CHUNK_S):
            self._end_chunk()
            chunk = None
        head = b"" if chunk is not None else _chunk_head(log_time, log_time, 0)
        start = self._size if chunk is None else chunk.start
        pieces: list[bytes | memoryview] = [head]
        places: list[tuple[int, int]] = []
        at = self._size + len(head)
        for part in parts:
            size = 22 + sum(map(len, part.data))
            places.append((part.channel, at - start - CHUNK_HEAD.size))
            pieces.append(PREFIX.pack(Opcode.MESSAGE, size))
            pieces.append(struct.pack("<HIQQ", part.channel, sequence & 0xFFFFFFFF, log_time, log_time))
            pieces += part.data
            at += PREFIX.size + size
        self._append(*pieces)
        if chunk is None:
            chunk = self._chunk = _OpenChunk(start, log_time, log_time, time.monotonic(), {})
        chunk.first, chunk.last = min(chunk.first, log_time), max(chunk.last, log_time)
        os.pwrite(self._fd, _chunk_head(chunk.first, chunk.last, self._size - start - CHUNK_HEAD.size), start)
        for channel, place in places:
            chunk.index.setdefault(channel, []).append((log_time, place))
            self._counts[channel] = self._counts.get(channel, 0) + 1
        self._first = min(self._first or log_time, log_time)
        self._last = max(self._last, log_time)

    def _end_chunk(self) -> None:
        """Writes the index of the chunk's messages."""
        chunk = self._chunk
        if chunk is None:
            return
        end = self._size
        builder = RecordBuilder()
        offsets = {}
        for channel, entries in chunk.index.items():
            offsets[channel] = end + builder.count
            MessageIndex(channel, entries).write(builder)
        length = builder.count
        self._append(_taken(builder))
        self._chunk = None
        self._chunk_count += 1
        size = end - chunk.start - CHUNK_HEAD.size
        ChunkIndex(
            chunk_length=end - chunk.start,
            chunk_start_offset=chunk.start,
            compression="",
            compressed_size=size,
            message_end_time=chunk.last,
            message_index_length=length,
            message_index_offsets=offsets,
            message_start_time=chunk.first,
            uncompressed_size=size,
        ).write(self._chunks)

    def finish(self) -> None:
        """Writes the index of the whole file. Without it the file can only be read from its beginning.

        :raises OSError: for example when the disk is full.
        """
        self._end_chunk()
        end = _packed(DataEnd(0))
        summary = RecordBuilder()
        summary.write(_taken(self._head))
        Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts=self._counts,
            chunk_count=self._chunk_count,
            message_count=sum(self._counts.values()),
            message_end_time=self._last,
            message_start_time=self._first,
            metadata_count=0,
            schema_count=len(self._schemas),
        ).write(summary)
        summary.write(_taken(self._chunks))
        self._append(end, _taken(summary), _packed(Footer(self._size + len(end), 0, 0)), MAGIC)

    def _append(self, *pieces: bytes | memoryview) -> None:
        try:
            for piece in pieces:
                write_all(self._fd, piece)
        except OSError:
            os.ftruncate(self._fd, self._size)
            os.lseek(self._fd, self._size, os.SEEK_SET)
            raise
        self._size += sum(map(len, pieces))

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


def _packed(record: McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return _taken(builder)


def _taken(builder: RecordBuilder) -> bytes:
    data: bytes = builder.end()  # type: ignore[no-untyped-call]
    return data


def _chunk_head(first: int, last: int, size: int) -> bytes:
    return CHUNK_HEAD.pack(Opcode.CHUNK, CHUNK_HEAD.size - PREFIX.size + size, first, last, size, 0, 0, size)


def messages_in(
    file: BinaryIO, on_break: Callable[[int], object], is_wanted: Callable[[Channel], bool] = lambda channel: True
) -> Iterator[tuple[Channel, Message | None]]:
    """Yields the messages of a file in order. If its end is missing, it yields those that are whole.

    :param on_break: called with the place, in bytes, at which the file breaks off or is damaged.
    :param is_wanted: whether the messages of a channel are read. In the place of others stands None.
    :raises VideoError: when a compressed chunk is damaged.
    """
    channels: dict[int, Channel] = {}
    unwanted: set[int] = set()
    file.seek(len(MAGIC))
    while True:
        at = file.tell()
        try:
            records = _next_records(file, unwanted)
        except (McapError, ValueError, struct.error, OverflowError, MemoryError):
            on_break(at)
            return
        for record in records:
            if isinstance(record, Channel):
                channels[record.id] = record
                (unwanted.discard if is_wanted(record) else unwanted.add)(record.id)
            elif isinstance(record, DataEnd):
                return
            elif isinstance(record, Message | PassedOver):
                if record.channel_id not in channels:
                    on_break(at)
                    return
                is_read = isinstance(record, Message) and record.channel_id not in unwanted
                yield channels[record.channel_id], record if is_read else None  # type: ignore[misc]


def channels_in(file: BinaryIO) -> list[Channel]:
    """The channels of a file: those that its index tells of; where it has none, those before its end."""
    size = os.fstat(file.fileno()).st_size
    found: dict[int, Channel] = {}
    try:
        file.seek(max(0, size - FOOTER_BYTES))
        opcode, _, start = struct.unpack("<BQQ", _read(file, 17))
        if opcode == Opcode.FOOTER and start and os.pread(file.fileno(), len(MAGIC), size - len(MAGIC)) == MAGIC:
            file.seek(start)
            while file.tell() < size - FOOTER_BYTES:
                found.update({record.id: record for record in _next_records(file, set()) if isinstance(record, Channel)})
            return list(found.values())
    except (McapError, ValueError, struct.error, OverflowError, MemoryError):
        found.clear()  # it has an index that is damaged
    file.seek(len(MAGIC))
    everything = set(range(1 << 16))
    with suppress(McapError, VideoError, ValueError, struct.error, OverflowError, MemoryError):  # reading it tells of that
        while True:
            for record in _next_records(file, everything):
                if isinstance(record, Channel):
                    found[record.id] = record
                elif isinstance(record, DataEnd):
                    return list(found.values())
    return list(found.values())


def _next_records(file: BinaryIO, unwanted: set[int]) -> list[McapRecord | PassedOver]:
    """Reads the next records. A chunk that is not compressed is read record by record, since its end may be missing.

    :param unwanted: the numbers of channels whose messages are passed over.
    """
    opcode, length = PREFIX.unpack(_read(file, PREFIX.size))
    if length > LARGEST:
        raise ValueError("no record is as large")
    if opcode == Opcode.CHUNK:
        return _chunk_in(file, length)
    if opcode == Opcode.MESSAGE and unwanted:
        (channel,) = struct.unpack("<H", _read(file, 2))
        if channel in unwanted:
            _pass_over(file, length - 2)
            return [PassedOver(channel)]
        file.seek(-2, os.SEEK_CUR)
    data = _read(file, length)
    stream = ReadDataStream(BytesIO(data))
    if opcode == Opcode.CHANNEL:
        return [Channel.read(stream)]
    if opcode == Opcode.MESSAGE:
        return [Message.read(stream, length)]
    if opcode == Opcode.DATA_END:
        return [DataEnd.read(stream)]
    if not 0 < opcode <= max(Opcode) and opcode < 0x80:
        raise ValueError("there is no such record")
    return []


def _chunk_in(file: BinaryIO, length: int) -> list[McapRecord | PassedOver]:
    """The records of a compressed chunk; none of another, which follow."""
    begun = file.tell()
    head = _read(file, 32)
    if not int.from_bytes(head[28:32], "little"):
        _read(file, 8)
        return []
    file.seek(begun)
    chunk = Chunk.read(ReadDataStream(BytesIO(_read(file, length))))
    try:
        return [*breakup_chunk(chunk)]
    except Exception as error:  # of zstd, LZ4, or the records
        raise VideoError(
            file.name, f"the chunk at byte {begun} of {file.name!r} is damaged: {describe(error)}; what follows is not sent"
        ) from error


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError("it ends here")
    return data


def _pass_over(file: BinaryIO, count: int) -> None:
    at = file.tell() + count
    if count < 0 or at > os.fstat(file.fileno()).st_size:
        raise ValueError("it ends here")
    file.seek(at)
