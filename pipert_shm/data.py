"""Payload classes, and the metadata of a message."""

from __future__ import annotations

import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from pipert_shm.binding import DELIVERY_BYTES, now_ns, read_delivered
from pipert_shm.display.formats import FORMATS as FORMATS
from pipert_shm.display.formats import PLANAR as PLANAR
from pipert_shm.display.formats import Format as Format
from pipert_shm.errors import shown
from pipert_shm.limits import is_count
from pipert_shm.shm.head import HOP, STAMP, unpack

MOST_HOPS = 16
MOST_ROWS = (1 << 32) - 1

# The names of routines, by the number that their messages carry.
Labels: TypeAlias = Mapping[int, str] | tuple[str, ...]
NAN = float("nan")
TAP = "tap"  # what a tap is called among the receivers of a message
_SETTABLE = ("sequence", "captured_ns", "pts", "wall_clock", "origin_number", "ticket", "_format", "_rows", "uncertainty_ns")


@dataclass
class Data:
    """Base class of payloads: subclass it as a dataclass and add fields.

    A payload need not be one. Any object that pickles will do, such as a dict or an ndarray.

    Attributes:
        additional_data: anything else, by key.

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
        """The frame. `meta.format` says how its pixels lie (see `pipert_shm.video.format_of`); None stands for BGR, or grey."""


class Hop(NamedTuple):
    """One hand-over of a message.

    Attributes:
        routine: name of the receiver; `tap` where that is a tap.
        sent_ns: when it was sent, CLOCK_MONOTONIC, ns.
        received_ns: when it was received, CLOCK_MONOTONIC, ns.
    """

    routine: str
    sent_ns: int
    received_ns: int


class Meta:
    """Metadata of the message in hand: `self.meta` inside `main_logic`.

    The result of a middle routine inherits the meta of the message that it was made from. Use a meta from one thread.

    Attributes:
        sequence: number of the message at its origin, from 0.
        captured_ns: when the origin captured it, CLOCK_MONOTONIC, ns. A source may set it inside `main_logic`; else it is the
            time at which `main_logic` returned.
        uncertainty_ns: by how much `captured_ns` may be wrong, ns: 0 for what this host captured. For a frame of another host
            the clocks of the two had to be compared.
        pts: position in its video, seconds; None where the origin has set none. A source may set it inside `main_logic`.
        wall_clock: when the camera captured it by the camera's own clock, seconds since the epoch; None where nobody has said.
        origin_number: number of the origin. No other routine of the pipe's life has it, not even a later one of that name.
        ticket: in a replicated flow whose order is restored, the routine that sent to it, and the message's number there.
    """

    __slots__ = (
        "_format",
        "_hops",
        "_last",
        "_names",
        "_raw",
        "_rows",
        "captured_ns",
        "origin_number",
        "pts",
        "sequence",
        "ticket",
        "uncertainty_ns",
        "wall_clock",
    )

    _raw: tuple[int, bytes] | tuple[int, Meta, int, int]

    def __init__(
        self,
        names: Labels,
        origin: int,
        sequence: int,
        captured_ns: int = 0,
        hops: bytes = b"",
        ticket: tuple[int, int] | None = None,
        last: tuple[int, int, int] | None = None,
        pts: float | None = None,
        stamp: bytes = b"",
    ) -> None:
        self._names = names
        self._hops = hops
        self._last = last  # the last hop, which is added to the others when they are read
        self.origin_number = origin
        self.sequence = sequence
        self.captured_ns = captured_ns
        self.pts = pts
        self.wall_clock: float | None = None
        self._format = self._rows = self.uncertainty_ns = 0
        self.ticket = ticket
        if stamp:
            pts, wall_clock, self._format, self._rows, self.uncertainty_ns = STAMP.unpack(stamp)
            self.pts = None if pts != pts else pts
            self.wall_clock = None if wall_clock != wall_clock else wall_clock

    @classmethod
    def received(cls, names: Labels, number: int, raw: bytes) -> Meta:
        """The meta of a message that routine `number` received. It is decoded on first access, since most are never read.

        :param raw: see `binding.Port.raw`.
        """
        meta = cls.__new__(cls)
        meta._names = names
        meta._raw = number, raw
        return meta

    @classmethod
    def handed(cls, names: Labels, number: int, sent: Meta, sent_ns: int, received_ns: int) -> Meta:
        """The meta of a message that routine `number` received from one in its flow. It too is decoded on first access.

        :param sent: the sender's meta, whose `raw_hops` were read before.
        """
        meta = cls.__new__(cls)
        meta._names = names
        meta._raw = number, sent, sent_ns, received_ns
        return meta

    def __getattr__(self, name: str) -> Any:
        """Decodes a received message's meta on first access. Python asks here only for attributes that are not set yet."""
        if name == "_raw" or name not in Meta.__slots__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raw, already = self._raw, {}
        for settable in _SETTABLE:  # what was set before the first look stays
            with suppress(AttributeError):
                already[settable] = object.__getattribute__(self, settable)
        if len(raw) == 2:
            self._read(*raw)
        else:
            number, sent, sent_ns, received_ns = raw
            hops, last = sent.raw_hops[-(MOST_HOPS - 1) * HOP.size :], (number, sent_ns, received_ns)
            self.__init__(  # type: ignore[misc]
                self._names, sent.origin_number, sent.sequence, sent.captured_ns, hops, sent.ticket, last, stamp=sent.raw_stamp
            )
        for settable, value in already.items():
            setattr(self, settable, value)
        return getattr(self, name)

    def _read(self, number: int, raw: bytes) -> None:
        found = read_delivered(raw)
        hops, ticket, stamp = unpack(found.kind, raw[DELIVERY_BYTES : DELIVERY_BYTES + found.head])
        hops, last = hops[-(MOST_HOPS - 1) * HOP.size :], (number, found.sent_ns, found.received_ns)
        self.__init__(  # type: ignore[misc]
            self._names, found.origin, found.sequence, found.captured_ns, hops, ticket, last, stamp=stamp
        )

    @property
    def origin(self) -> str:
        """Name of the source that the message comes from."""
        return self._names[self.origin_number]

    def come_from(self, origin: str) -> bool:
        """Sets the origin, by its name. False where no routine of this pipe has that name: the origin stays what it is then."""
        if self.origin == origin:
            return True
        names = self._names
        known = [number for number, name in (enumerate(names) if isinstance(names, tuple) else names.items()) if name == origin]
        if known:
            self.origin_number = known[-1]  # those before are of routines of that name that were removed
        return bool(known)

    @property
    def capture_time(self) -> float:
        """When the origin captured it, in seconds since the epoch, as `time.time()` gives."""
        return time.time() - (now_ns() - self.captured_ns) / 1e9

    @property
    def format(self) -> Format | None:
        """How the pixels of the frame lie, as its origin, or a routine that converted it, has said; None where nobody has.

        A routine that converts a frame sets it. It is about the whole frame: see `pipert_shm.video.format_of`.

        :raises ValueError: when it is set to what is no format.
        """
        return FORMATS[self._format - 1] if 0 < self._format <= len(FORMATS) else None

    @format.setter
    def format(self, value: Format | None) -> None:
        self.describe(value, 0)

    def describe(self, value: Format | None, rows: int) -> None:
        """Sets the format of a frame that has so many rows as an array (`shape[0]`).

        A part of the frame, which has fewer, is then not taken for one of that format.

        :raises ValueError: when the value is no format, or there can't be so many rows.
        """
        if value is not None and value not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, or None, not {shown(value)}")
        if not (type(rows) is int or is_count(rows, 0)) or not 0 <= rows <= MOST_ROWS:
            raise ValueError(f"rows must be a whole number from 0 to {MOST_ROWS}, not {shown(rows)}")
        self._format = 0 if value is None else FORMATS.index(value) + 1
        self._rows = rows

    @property
    def described(self) -> tuple[Format | None, int]:
        """What `describe` was told: the format, and the rows of the array, 0 for any number."""
        return self.format, self._rows

    def format_of(self, frame: np.ndarray) -> Format | None:
        """The format of a frame of this message; None for an array that is in none. See `pipert_shm.video.format_of`."""
        told = self.format
        if frame.ndim == 2:
            planar = told in PLANAR and self._rows in (0, len(frame))
            return told if planar and frame.dtype == np.uint8 and not (len(frame) % 3 or frame.shape[1] % 2) else "gray"
        if frame.ndim == 3 and frame.shape[2] == 3:
            return "rgb" if told == "rgb" else "bgr"
        return "gray" if frame.ndim == 3 and frame.shape[2] == 1 else None

    @property
    def raw_stamp(self) -> bytes:
        """What the head of a message says of the picture and its time; empty where nothing is known of it."""
        if self.pts is None and self.wall_clock is None and not self._format and not self.uncertainty_ns:
            return b""
        pts, wall_clock = self.pts, self.wall_clock
        numbers = NAN if pts is None else pts, NAN if wall_clock is None else wall_clock
        try:
            return STAMP.pack(*numbers, self._format, self._rows, self.uncertainty_ns)
        except struct.error:
            found = shown((*numbers, self.uncertainty_ns))
            text = (
                f"meta.pts and meta.wall_clock are numbers of seconds, or None, and meta.uncertainty_ns one of ns, not {found}"
            )
            raise TypeError(text) from None

    @property
    def raw_hops(self) -> bytes:
        """The hand-overs so far, as the bytes of a message's head."""
        if self._last is not None:
            self._hops += HOP.pack(*self._last)
            self._last = None
        return self._hops

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The hand-overs so far, oldest first, at most the last 16. The last one is to this routine."""
        return tuple(Hop(self._names[routine], sent, received) for routine, sent, received in HOP.iter_unpack(self.raw_hops))

    def __repr__(self) -> str:
        return f"Meta(origin={self.origin!r}, sequence={self.sequence}, captured_ns={self.captured_ns}, hops={self.hops})"


class InHand:
    """What a routine knows of the message in hand. The part of C that calls `main_logic` makes no meta: a look does."""

    _pshm_meta: Meta | None = None  # None: `_pshm_look` gives it
    _pshm_metas: list[Meta] | None = None  # None: `meta` is the only one
    _pshm_look: Callable[[], Meta]
    _pshm_replaced: Callable[[], None]  # called when `meta` is set while C makes the calls

    @property
    def meta(self) -> Meta:
        """The origin, sequence number and times of the message in hand, inside `main_logic`."""
        meta = self._pshm_meta
        return self._pshm_look() if meta is None else meta

    @meta.setter
    def meta(self, meta: Meta) -> None:
        if not isinstance(meta, Meta):
            raise TypeError(f"meta must be a Meta, not {type(meta).__name__}")
        before, self._pshm_meta, self._pshm_metas = self._pshm_meta, meta, None
        if before is None and hasattr(self, "_pshm_replaced"):
            self._pshm_replaced()

    @property
    def metas(self) -> list[Meta]:
        """The metas of all messages in hand, in order, where they are several: of a batch, or of a join."""
        return [self.meta] if self._pshm_metas is None else self._pshm_metas

    @metas.setter
    def metas(self, metas: list[Meta]) -> None:
        self._pshm_metas = metas
