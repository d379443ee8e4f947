"""Payload classes, and what is known of a message besides its payload."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pipert_shm.codec import HOP, STAMP, STAMPED, TICKET, TICKETED
from pipert_shm.native import DELIVERY, now_ns

MOST_HOPS = 16


@dataclass
class Data:
    """Base class of payloads; subclass it as a dataclass and add fields.

    Any picklable object may be a payload: a `Data`, a dict, an ndarray.

    >>> @dataclass
    ... class Reading(Data):
    ...     value: float
    >>> Reading(21.5)
    Reading(additional_data={}, value=21.5)
    """

    additional_data: dict[Any, Any] = field(default_factory=dict, init=False)


class FrameData(Data, ABC):
    """A payload that carries a frame; what `log_data` shows of it is `get_frame()`."""

    @abstractmethod
    def get_frame(self) -> np.ndarray:
        """The frame: (height, width, 3) uint8, BGR."""


class Hop(NamedTuple):
    """One hand-over: to which routine, when it was published, when it was received (CLOCK_MONOTONIC, ns)."""

    routine: str
    sent_ns: int
    received_ns: int


class Meta:
    """What is known of the message in hand: `self.meta` inside `main_logic`.

    What a middle routine returns inherits the meta of the message it was made from.

    Attributes:
        sequence: number of the message at its origin, from 0.
        captured_ns: when the origin had it, CLOCK_MONOTONIC, ns. A source may set it inside `main_logic`; else it is the time
            at which `main_logic` returned.
        pts: where in its video it stands, seconds; None where the origin has not said. A source may set it inside `main_logic`.
    """

    __slots__ = ("_hops", "_last", "_names", "_raw", "captured_ns", "origin_number", "pts", "sequence", "ticket")

    _raw: tuple[int, bytes] | tuple[int, Meta, int, int]

    def __init__(
        self,
        names: tuple[str, ...],
        origin: int,
        sequence: int,
        captured_ns: int = 0,
        hops: bytes = b"",
        ticket: tuple[int, int] | None = None,
        last: tuple[int, int, int] | None = None,
        pts: float | None = None,
    ) -> None:
        self._names = names
        self._hops = hops
        self._last = last  # hop, which is added to the others when somebody wants them
        self.origin_number = origin
        self.sequence = sequence
        self.captured_ns = captured_ns
        self.pts = pts
        self.ticket = ticket  # within an ordered flow: number of the routine that sent to it, and of the message there

    @classmethod
    def received(cls, names: tuple[str, ...], number: int, raw: bytes) -> Meta:
        """Of a message that came to routine `number`. Most who receive never look, so it is read when somebody does.

        :param raw: see `native.Port.raw`.
        """
        meta = cls.__new__(cls)
        meta._names = names
        meta._raw = number, raw
        return meta

    @classmethod
    def handed(cls, names: tuple[str, ...], number: int, sent: Meta, sent_ns: int, received_ns: int) -> Meta:
        """Of a message that came to routine `number` from one in its flow; read when somebody looks.

        :param sent: the sender's, its `raw_hops` read before.
        """
        meta = cls.__new__(cls)
        meta._names = names
        meta._raw = number, sent, sent_ns, received_ns
        return meta

    def __getattr__(self, name: str) -> Any:
        """What of a received message's nobody has looked at."""
        if name == "_raw" or name not in Meta.__slots__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raw = self._raw
        if len(raw) == 2:
            self._read(*raw)
        else:
            number, sent, sent_ns, received_ns = raw
            hops, last = sent.raw_hops[-(MOST_HOPS - 1) * HOP.size :], (number, sent_ns, received_ns)
            self.__init__(self._names, sent.origin_number, sent.sequence, sent.captured_ns, hops, sent.ticket, last, sent.pts)  # type: ignore[misc]
        return getattr(self, name)

    def _read(self, number: int, raw: bytes) -> None:
        _, _, _, _, _, _, received_ns, sequence, captured_ns, sent_ns, origin, kind, head, _, _ = DELIVERY.unpack_from(raw)
        end = DELIVERY.size + head
        ticket, pts = None, None
        if kind & STAMPED:
            end -= STAMP.size
            (pts,) = STAMP.unpack_from(raw, end)
        if kind & TICKETED:
            end -= TICKET.size
            ticket = TICKET.unpack_from(raw, end)
        hops = raw[DELIVERY.size : end][-(MOST_HOPS - 1) * HOP.size :]
        self.__init__(self._names, origin, sequence, captured_ns, hops, ticket, (number, sent_ns, received_ns), pts)  # type: ignore[misc]

    @property
    def origin(self) -> str:
        """Name of the source."""
        return self._names[self.origin_number]

    @property
    def capture_time(self) -> float:
        """When the origin had it, as seconds since the epoch (`time.time()`)."""
        return time.time() - (now_ns() - self.captured_ns) / 1e9

    @property
    def raw_hops(self) -> bytes:
        """The hand-overs as they stand in a message."""
        if self._last is not None:
            self._hops += HOP.pack(*self._last)
            self._last = None
        return self._hops

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The hand-overs so far, oldest first; the last one is to this routine. The last 16 are kept."""
        return tuple(Hop(self._names[routine], sent, received) for routine, sent, received in HOP.iter_unpack(self.raw_hops))

    def __repr__(self) -> str:
        return f"Meta(origin={self.origin!r}, sequence={self.sequence}, captured_ns={self.captured_ns}, hops={self.hops})"
