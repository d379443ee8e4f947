"""What a sender and a receiver on two hosts say to each other, and how it becomes bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, TypeAlias

VERSION = 3
MOST_NUMBER = 1 << 37  # of a message: what a receiver keeps of its place has 38 bits for those after it
UNKNOWN_NS = (1 << 63) - 1  # uncertainty of a capture time where the clocks were never compared
MOST_NS = 1 << 62  # of a stamp, either way: differences of two still fit into 64 bits
EPOCH_BITS = 20  # of a sender's token: its stream, and then which process of the sender it is

_HELLO = struct.Struct("<BBQIQB?q")
_MESSAGE = struct.Struct("<BBQIQQqB?q?qQQ")
_ACK = struct.Struct("<BBQQIQQ??Bqqq")
_BYE = struct.Struct("<BBQ")
_REFRESH = struct.Struct("<BBQ")
_TAKEN = struct.Struct("<BBQ")
HELLO, MESSAGE, ACK, BYE, REFRESH, TAKEN = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True, slots=True)
class Hello:
    """A sender asks what the receiver has. It is the first thing that it says, and what it says when no answer comes.

    Attributes:
        stream: number of the sender's pipe, drawn at random.
        epoch: which process of the sender it is, from 1.
        base: number of the oldest message that the sender still has, or of its next one. Earlier ones will not come.
        window: the most messages that it has under way.
        is_lossless: whether each message has to come.
        sent_ns: when it was sent, by the sender's clock. The answer repeats it.
        name: of the sender, for people.
    """

    stream: int
    epoch: int
    base: int
    window: int
    is_lossless: bool
    sent_ns: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Offset:
    """How far the receiver's clock is ahead of the sender's, in ns, and by how much that may be wrong."""

    ns: int
    uncertainty_ns: int


@dataclass(frozen=True, slots=True)
class Message:
    """A message under way.

    Attributes:
        number: of the message in its stream, from 0.
        captured_ns: when it was captured, by the sender's clock.
        offset: of the clocks, as the sender knows it; None before the first answer.
        body: the payload, which the protocol does not look at.
        receiver: which process it is for; it is the one that answered last.
        size: bytes of the body, as the receiver found it.
    """

    stream: int
    epoch: int
    base: int
    number: int
    window: int
    is_lossless: bool
    sent_ns: int
    captured_ns: int
    offset: Offset | None
    body: Any
    receiver: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Ack:
    """A receiver says what it has.

    Attributes:
        receiver: which process of the receiver it is: a number drawn at random.
        stream, epoch: the sender that it listens to; 0 where it does not know one.
        accepted: messages up to this number have come, or are given up; the number after the last one.
        consumed: messages up to this number have been handed over to the receiving pipe, likewise.
        has_gap: whether a later message came, so that the one after `accepted` is missing.
        is_answer: whether it answers a `Hello`.
        room: messages that the receiver keeps at the most.
        echo_ns: the stamp of what it answers; 0 for none.
        arrived_ns, sent_ns: when that arrived, and when this was sent, by the receiver's clock.
        name: of the receiver, for people; in an answer.
    """

    receiver: int
    stream: int
    epoch: int
    accepted: int
    consumed: int
    has_gap: bool
    is_answer: bool
    room: int
    echo_ns: int
    arrived_ns: int
    sent_ns: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Bye:
    """One end ends, of its own will. `end` is the token by which the other one knows it."""

    end: int


@dataclass(frozen=True, slots=True)
class Refresh:
    """A receiver can't decode a film of this stream: the next picture should be a key frame."""

    stream: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A receiver does not listen to the sender of this stream, since it listens to another one. `name` is of that.

    From a sender to a receiver it says the same: it does not send to the one with this token.
    """

    stream: int
    name: str


Said: TypeAlias = Hello | Message | Ack | Bye | Refresh | Taken


def pack(said: Said) -> bytes:
    """The bytes of what one end says. The body of a message travels beside them."""
    match said:
        case Hello():
            place = said.stream, said.epoch, said.base, said.window, said.is_lossless, said.sent_ns
            return _HELLO.pack(VERSION, HELLO, *place) + said.name.encode()
        case Message():
            numbers = said.stream, said.epoch, said.base, said.number, said.captured_ns, said.window, said.is_lossless
            offset = (False, 0, 0) if said.offset is None else (True, said.offset.ns, said.offset.uncertainty_ns)
            return _MESSAGE.pack(VERSION, MESSAGE, *numbers, said.sent_ns, *offset, said.receiver)
        case Ack():
            state = said.receiver, said.stream, said.epoch, said.accepted, said.consumed, said.has_gap, said.is_answer
            stamps = said.echo_ns, said.arrived_ns, said.sent_ns
            return _ACK.pack(VERSION, ACK, *state, said.room, *stamps) + said.name.encode()
        case Bye():
            return _BYE.pack(VERSION, BYE, said.end)
        case Refresh():
            return _REFRESH.pack(VERSION, REFRESH, said.stream)
        case Taken():
            return _TAKEN.pack(VERSION, TAKEN, said.stream) + said.name.encode()


def unpack(data: bytes, body: Any = None, size: int = 0) -> Said:
    """What `pack` made bytes of.

    :param body: of a message.
    :param size: its bytes.
    :raises ValueError: when they are no such bytes, are of another version, or have numbers in them that no end says.
    """
    said = _unpacked(data, body, size)
    _check(said)
    return said


def _unpacked(data: bytes, body: Any, size: int) -> Said:
    if len(data) < 2 or data[0] != VERSION:
        raise ValueError(f"{len(data)} bytes of another program, or of another version of this one")
    try:
        match data[1]:
            case 1:
                return _hello(data)
            case 2:
                return _message(data, body, size)
            case 3:
                fields: tuple[Any, ...] = (*_ACK.unpack_from(data)[2:], _text(data, _ACK.size))
                return Ack(*fields)
            case 4:
                return Bye(*_BYE.unpack(data)[2:])
            case 5:
                return Refresh(*_REFRESH.unpack(data)[2:])
            case 6:
                return Taken(_TAKEN.unpack_from(data)[2], _text(data, _TAKEN.size))
    except struct.error as error:
        raise ValueError(f"a damaged message: {error}") from None
    raise ValueError(f"a message of an unknown kind, {data[1]}")


def _check(said: Said) -> None:
    """:raises ValueError: when a number in it is one that the protocol could not go on with."""
    numbers: tuple[int, ...]
    stamps: tuple[int, ...]
    match said:
        case Hello():
            numbers, stamps, count = (said.base,), (said.sent_ns,), said.window
        case Message():
            numbers, count = (said.base, said.number), said.window
            stamps = said.sent_ns, said.captured_ns, said.offset.ns if said.offset else 0
        case Ack():
            numbers, count = (said.accepted, said.consumed), said.room
            stamps = said.echo_ns, said.arrived_ns, said.sent_ns
        case _:
            return
    if max(numbers) > MOST_NUMBER or max(map(abs, stamps)) > MOST_NS or count == 0:
        raise ValueError(f"a damaged message: {type(said).__name__} with numbers {numbers}, stamps {stamps}, room for {count}")


def _hello(data: bytes) -> Hello:
    stream, epoch, base, window, is_lossless, sent_ns = _HELLO.unpack_from(data)[2:]
    return Hello(stream, epoch, base, window, is_lossless, sent_ns, _text(data, _HELLO.size))


def _text(data: bytes, at: int) -> str:
    return data[at:].decode(errors="backslashreplace")


def _message(data: bytes, body: Any, size: int) -> Message:
    stream, epoch, base, number, captured, window, is_lossless, sent, *offset, receiver = _MESSAGE.unpack(data)[2:]
    known = Offset(*offset[1:]) if offset[0] else None
    return Message(stream, epoch, base, number, window, is_lossless, sent, captured, known, body, receiver, size)
