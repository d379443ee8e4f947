"""Tampering with the messages between a pipe's processes, at the one place that all of their packets pass.

What is patched in the parent before `build()` is inherited by all that is forked; orders to them go through shared memory.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from pipert_shm.control import messages
from pipert_shm.control.attachment import Attachment
from pipert_shm.control.channel import PACKET_BYTES, Channel, packets_of
from pipert_shm.control.messages import KINDS, Message
from pipert_shm.events import Audience, Event
from pipert_shm.graph.extension import Growth
from pipert_shm.graph.model import EdgePlan
from pipert_shm.graph.names import Names
from pipert_shm.graph.replacement import Replacement
from pipert_shm.transmitters import SharedMemoryTransmitter

HEADER = struct.Struct("<4sHHIIII")  # as pipert_shm.control.channel has it
NOBODYS_QUESTION = 4_000_000_000
ROOM = 4 << 20
ANY, FLOW, NO_FLOW, LAUNCHER = range(4)
Packet = bytes
Damage = Callable[[Packet], list[Packet]]

EDGE = EdgePlan(
    number=0,
    sender=0,
    receiver=1,
    policy="block",
    capacity=1,
    timeout=None,
    transmitter=SharedMemoryTransmitter(),
    local=False,
)
_EVENT = Event("nobody handles this", ("nobody",))
_AUDIENCE = Audience({}, {}, {})

SAMPLES: tuple[Message, ...] = (
    messages.Notify(_EVENT, 0), messages.Kill(), messages.Extend(Growth({}, {}, {}, {}, {}, [], _AUDIENCE), 0),
    messages.AskNumbers(1), messages.RemoveFlows(("none",), False),
    messages.MakeTap("nobody"), messages.EndTap(10**6), messages.Trace(10**6, 0),
    messages.RestartFlow("none"), messages.Changing(False, ("nobody",)),
    messages.Replace(Replacement({}, (), {}, {}, _AUDIENCE), 0), messages.AwaitRuns((), False),
    messages.SetParameters("nobody", b""),
    messages.Ready(), messages.Started(), messages.Ended(0),
    messages.Failed("key", ""), messages.Died("none", 1, ""), messages.Answer(), messages.Numbers(()), messages.Removed(()),
    messages.TapMade(EDGE, 10**6), messages.TapEnded(10**6), messages.ServerEnded(10**6),
    messages.Hello(0), messages.Welcome("none", "", Names(), _AUDIENCE),
    messages.Relay("nothing", b""), messages.Relayed(b"", b""),
    messages.StartRoutines((("nobody", 1),)), messages.HandleEvent(_EVENT, 512),
    messages.Refused("nobody", "why"), messages.AddTap("nobody", EDGE, 0), messages.RemoveTap("nobody", 0),
    messages.LinkOut("nobody", EDGE, 0), messages.UnlinkOut("nobody", 0, 0), messages.AddIn("nobody", EDGE, 0),
    messages.ExpectIn("nobody", 0), messages.RemoveIn("nobody", 0), messages.LetEnd("nobody", 1),
    messages.WantSlots("nobody", 1, 1), messages.InOrder("nobody", {}, {}),
    messages.TraceInto(0, 0, 0, 0), messages.Extended(Names({0: "nobody"}), _AUDIENCE),
    messages.ReceiverDied("nobody", 0), messages.ReceiverFailed("nobody", 0), messages.SenderDied("nobody"),
    messages.StateChanged(10**6, 1, 1, ""), messages.SetUp(10**6, 1), messages.Notified(_EVENT, "nobody"),
    messages.Handled(1 << 40), messages.ParametersSet("nobody", ""),
    messages.Recovered(10**6), messages.Unlinked(10**6), messages.TapRefused(10**6, "why"),
    messages.ForkFlow("none", [], [], {}, {}, {}, {}, {}, {}, {}, Attachment({}, {}, {}, []), _AUDIENCE), messages.Reap(0),
    messages.Forked(0, "why"), messages.Reaped(0), messages.Record({"msg": "a record"}, {}),
)  # fmt: skip
"""One of each kind. They are about nothing that there is."""


def code_of(kind: type[Message]) -> int:
    return KINDS.index(kind)


def packet_with(packet: Packet, *, body: bytes | None = None, code: int | None = None, part: int = 0, parts: int = 1) -> Packet:
    """The packet with some things changed, and with lengths and checksum that are right for it."""
    import zlib

    magic, old_code, _, _, question, _, _ = HEADER.unpack_from(packet)
    body = packet[HEADER.size :] if body is None else body
    code = old_code if code is None else code
    return HEADER.pack(magic, code, part, parts, question, len(body), zlib.crc32(body)) + body


def _flip(packet: Packet) -> Packet:
    at = HEADER.size + (len(packet) - HEADER.size) // 2
    return packet[:at] + bytes([packet[at] ^ 0xFF]) + packet[at + 1 :]


def _of_nothing(packet: Packet) -> bytes:
    """As many fields as its kind has, None each; one where it has none."""
    kind = KINDS[HEADER.unpack_from(packet)[1]]
    return pickle.dumps((None,) * (len(kind.FIELDS) or 1), 5)


def _of_another(packet: Packet) -> bytes:
    is_record = HEADER.unpack_from(packet)[1] == code_of(messages.Record)
    other = packets_of(messages.Reap(1) if is_record else SAMPLES[-1])[0]
    return other[HEADER.size :]


_DEEP = b"\x80\x05" + b"]" * 20_000 + b"a" * 19_999 + b"\x85."

DAMAGES: dict[str, Damage] = {
    "flipped": lambda packet: [_flip(packet)],
    "header": lambda packet: [b"oops" + packet[4:]],
    "truncated": lambda packet: [packet[:-1]],
    "cut in the header": lambda packet: [packet[:10]],
    "oversized": lambda packet: [packet + bytes(PACKET_BYTES)],
    "deep": lambda packet: [packet_with(packet, body=_DEEP)],
    "wrong types": lambda packet: [packet_with(packet, body=_of_nothing(packet))],
    "another's body": lambda packet: [packet_with(packet, body=_of_another(packet))],
    "unknown kind": lambda packet: [packet_with(packet, code=len(KINDS) + 7)],
    "no beginning": lambda packet: [packet_with(packet, part=1, parts=2)],
    "no end": lambda packet: [packet_with(packet, parts=3)],
}
IN_PLACE: dict[str, Damage] = {
    "missing": lambda packet: [],
    "doubled": lambda packet: [packet, packet],
    "flipped": DAMAGES["flipped"],
}
_WAYS = list(IN_PLACE)


def named_in_log(damage: str, kind: type[Message]) -> str:
    """What the receiver calls a damaged message."""
    if damage in ("header", "cut in the header"):
        return "damaged message"
    return f"unknown kind {len(KINDS) + 7}" if damage == "unknown kind" else kind.__name__


class Tampering:
    """Orders to whoever sends next: change a message of this kind, or send these packets before one of this kind."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, ROOM)
        self._words = np.frombuffer(self._memory, np.int64, 8)
        self._parent = os.getpid()

    def change(self, kind: type[Message], how: str, *, by_flow: bool = False, by_launcher: bool = False) -> None:
        """The next message of this kind is tampered with: one that a flow sends, or another process, or just the launcher."""
        self._words[:4] = (code_of(kind), FLOW if by_flow else LAUNCHER if by_launcher else NO_FLOW, _WAYS.index(how), 0)
        self._words[4] = 1

    def insert(self, packets: Sequence[Packet], before: type[Message]) -> None:
        """Whoever sends the next message of this kind sends these packets first."""
        data = pickle.dumps(list(packets))
        self._memory[64 : 64 + len(data)] = data
        self._words[:4] = (code_of(before), ANY, -1, len(data))
        self._words[4] = 1

    @property
    def is_done(self) -> bool:
        """Whether somebody has sent such a message."""
        return not self._words[4]

    def forget(self) -> None:
        """Nothing is to be changed any more."""
        self._words[4] = 0

    def packets_instead_of(self, packet: Packet) -> list[Packet]:
        if not self._words[4] or len(packet) < HEADER.size:
            return [packet]
        code, who, way, size = map(int, self._words[:4])
        _, sent, part, _, _, _, _ = HEADER.unpack_from(packet)
        if sent != code or part or not self._is(who):
            return [packet]
        self._words[4] = 0
        if way >= 0:
            return IN_PLACE[_WAYS[way]](packet)
        return [*pickle.loads(self._memory[64 : 64 + size]), packet]

    def _is(self, who: int) -> bool:
        """Whether this process is meant."""
        is_flow = self._parent not in (os.getpid(), os.getppid())
        return {ANY: True, FLOW: is_flow, NO_FLOW: not is_flow, LAUNCHER: self._parent == os.getppid()}[who]


@contextmanager
def tampering() -> Iterator[Tampering]:
    """For pipes that are built within."""
    orders = Tampering()
    send_packet = Channel.send_packet

    def send(channel: Channel, packet: Packet, fds: Sequence[int] = ()) -> None:
        for changed in orders.packets_instead_of(packet):
            send_packet(channel, changed, fds)
            fds = ()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Channel, "send_packet", send)
        yield orders
