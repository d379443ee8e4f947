"""Puts the pieces of an H.264 or H.265 stream together to whole pictures, as early as it is sure that a picture is complete.

A piece is what one RTP packet brings: a NAL unit, several, or a part of one. FFmpeg's parser says that a picture is complete
when the next one begins, which is a frame gap later. Most senders cut NAL units into parts of one length, and each picture into
the same number of slices: there the last part of the last slice is short, and tells the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

Codec: TypeAlias = Literal["h264", "hevc"]

LEARNED_FROM = (60, 600)
"""Pictures that must all agree with the rule before it is relied upon: at first, and after it has been wrong once."""

LEAST_PARTS = 10
"""Of a first part of a NAL unit, and of a further one, so many must have been seen to know how long they are."""

MOSTLY = 0.9
"""The share of parts that must have the same length, and of pictures that must have as many slices as any has."""

_START = b"\0\0\0\1"
_SHORT_START = b"\0\0\1"

# The length of a piece, below 0 if it continues a NAL unit; and how many slices begin in it.
_Shape: TypeAlias = list[tuple[int, int]]


class Unit(NamedTuple):
    """The data of a picture.

    Attributes:
        data: to be decoded.
        pts: the sender's stamp, in the unit of the pieces' stamps; None if there is none.
        came_ns: when its last piece came.
        is_key: whether decoding can begin with it.
        is_early: whether it was given before the next picture began.
    """

    data: bytes
    pts: int | None
    came_ns: int
    is_key: bool
    is_early: bool


class _Look(NamedTuple):
    """What a piece that begins with a NAL unit has.

    Attributes:
        slices: how many slices begin in it.
        leads: whether it begins a picture: with what stands before the slices, or with the first slice.
        trails: whether it has only what may stand behind the slices of a picture.
        is_key: whether decoding can begin with the picture.
    """

    slices: int
    leads: bool
    trails: bool
    is_key: bool


_CONTINUES = _Look(0, False, False, False)


class Units:
    """Joins pieces. Pure logic; one thread at a time.

    At first a picture is complete when the next one begins. It is given *early*, as soon as its last piece is there, once the
    rule in the module's description has been right for sixty pictures. If it is wrong after that, a part of a picture has been
    given as a whole: the rest of that picture is dropped, and `broken` is set.

    :param lossless: whether all pieces come, as they do by TCP.

    Attributes:
        broken: whether pictures may refer to one that was cut off. Who sees it leaves out pictures up to the next key frame,
            and resets it.
        early: whether the rule is relied upon.
    """

    def __init__(self, codec: Codec, *, lossless: bool = True) -> None:
        self._look = _look_h264 if codec == "h264" else _look_h265
        self._lossless = lossless
        self.broken = False
        self.early = False
        self._mistakes = 0
        self._seen: list[_Shape] = []
        self._seen_key = False
        self._rule = _Rule(0, 0, 0)
        self._carried: list[bytes] = []  # what stood behind a picture that was given already
        self._given = False
        self._trailing = False
        self._begin()

    def _begin(self) -> None:
        self._pieces, self._carried = self._carried, []
        self._pts: int | None = None
        self._came_ns = 0
        self._slices = 0
        self._is_key = False
        self._shape: _Shape = []
        self._given = False

    def feed(self, piece: bytes, pts: int | None, came_ns: int) -> Sequence[Unit]:
        """Takes the next piece, and gives the pictures that are complete with it.

        :param pts: the stamp of the piece.
        :param came_ns: when it came.
        """
        look = self._look(piece) if piece.startswith(_START) else _CONTINUES
        complete: Sequence[Unit] = ()
        if self._slices and (look is not _CONTINUES or pts != self._pts) and self._begins_picture(look, pts):
            complete = self.end()
            self._begin()
        if look is not _CONTINUES:
            self._trailing = look.trails
        if self._given:
            if self._trailing:
                self._carried.append(piece)
            else:
                self._note_mistake()
            return complete
        if not self._slices:
            self._pts = pts
        self._slices += look.slices
        self._is_key |= look.is_key
        self._pieces.append(piece)
        self._came_ns = came_ns
        if self._trailing and self._slices:
            return complete
        length = -len(piece) if look is _CONTINUES else len(piece)
        if not self.early:
            self._shape.append((length, look.slices))
        elif -length > self._rule.further:  # the sender cuts in another way now
            self._learn_anew()
        elif self._slices == self._rule.slices and self._rule.ends(length):
            complete = [*complete, self._unit(is_early=True)]
            self._given = True
        return complete

    def end(self) -> Sequence[Unit]:
        """Gives the picture that has come so far, if any: the stream has ended, or another picture begins."""
        if not self._slices or self._given:
            return ()
        self._learn()
        self._given = True
        return [self._unit(is_early=False)]

    def _unit(self, *, is_early: bool) -> Unit:
        return Unit(b"".join(self._pieces), self._pts, self._came_ns, self._is_key, is_early)

    def _begins_picture(self, look: _Look, pts: int | None) -> bool:
        """Whether a piece belongs to another picture than the slices before it."""
        if look.leads:
            return True
        if look.trails or (look is _CONTINUES and self._trailing):
            return False
        if look is _CONTINUES or not self._lossless:
            return pts != self._pts
        return False  # a further slice: the stamps of this sender are not the pictures'

    # ---- learning --------------------------------------------------------------------------------

    def _learn(self) -> None:
        if self.early or self._mistakes == len(LEARNED_FROM) or not self._shape:
            return
        self._seen.append(self._shape)
        self._seen_key |= self._is_key
        if len(self._seen) < LEARNED_FROM[self._mistakes]:
            return
        rule = _Rule.of(self._seen) if self._seen_key else None
        self._seen.clear()
        if rule is not None:
            self._rule, self.early = rule, True
            self._seen_key = False

    def _learn_anew(self) -> None:
        self.early = self._seen_key = False
        self._shape = []

    def _note_mistake(self) -> None:
        self.broken = True
        if self.early:
            self._mistakes += 1
            self._learn_anew()


class _Rule(NamedTuple):
    """How to know the last piece of a picture.

    Attributes:
        slices: of each picture.
        first: length of a first part of a NAL unit that is cut.
        further: length of a further part, unless it is the last.
    """

    slices: int
    first: int
    further: int

    @classmethod
    def of(cls, shapes: Sequence[_Shape]) -> _Rule | None:
        """The rule that has been right for all these pictures; None if there is none."""
        counts = Counter(sum(slices for _, slices in shape) for shape in shapes)
        slices = max(counts)
        if counts[slices] < MOSTLY * len(shapes):
            return None
        firsts: Counter[int] = Counter()
        furthers: Counter[int] = Counter()
        for shape in shapes:
            for (length, _), (following, _) in pairwise(shape):
                if following < 0:
                    (firsts if length > 0 else furthers)[abs(length)] += 1
        first, further = _usual(firsts), _usual(furthers)
        if first is None or further is None:
            return None
        rule = cls(slices, first, further)
        return rule if all(map(rule.suits, shapes)) else None

    def suits(self, shape: _Shape) -> bool:
        """Whether it would not have said of a piece that it is the last when it was not."""
        slices = 0
        for length, begin in shape[:-1]:
            slices += begin
            if slices == self.slices and self.ends(length):
                return False
        return True

    def ends(self, length: int) -> bool:
        """Whether a piece is the last one of its NAL unit. Of one that is as long as a part it can't be told."""
        return length < self.first if length > 0 else -length < self.further


def _usual(lengths: Counter[int]) -> int | None:
    if not lengths:
        return None
    (length, count), *_ = lengths.most_common(1)
    return length if count >= max(LEAST_PARTS, MOSTLY * lengths.total()) else None


# ---- NAL units -----------------------------------------------------------------------------------


def _beginnings(piece: bytes, header: int) -> Iterator[int]:
    """Where the NAL units of a piece begin, each with so many bytes of header."""
    at = piece.find(_SHORT_START)
    while at >= 0 and at + 3 + header <= len(piece):
        yield at + 3
        at = piece.find(_SHORT_START, at + 3)


def _has_high_bit(piece: bytes, at: int) -> bool:
    return piece[at : at + 1] >= b"\x80"


_H264_LEADS = frozenset((6, 7, 8, 9, 15, 16, 17, 18))  # SEI, parameter sets, the delimiter
_H264_SLICES = frozenset((1, 2, 5))
_H264_TRAILS = frozenset((10, 11, 12, 13, 14, 19, 20, 21))  # ends, filling, what only decoders of extensions read


def _look_h264(piece: bytes) -> _Look:
    slices, is_key = 0, False
    leads: bool | None = None
    trails = True
    for at in _beginnings(piece, 1):
        kind = piece[at] & 31
        if kind in _H264_SLICES:
            slices += 1
        if leads is None:
            leads = kind in _H264_LEADS or (kind in _H264_SLICES and _has_high_bit(piece, at + 1))  # the first macroblock is 0
        trails = trails and kind in _H264_TRAILS
        is_key |= kind in (5, 7)
    return _Look(slices, bool(leads), trails and leads is not None, is_key)


_H265_LEADS = frozenset((32, 33, 34, 35, 39, *range(41, 45), *range(48, 56)))
_H265_KEYS = range(16, 24)


def _look_h265(piece: bytes) -> _Look:
    slices, is_key = 0, False
    leads: bool | None = None
    trails = True
    for at in _beginnings(piece, 2):
        kind = piece[at] >> 1 & 63
        base = not (piece[at] & 1 or piece[at + 1] >> 3)  # not of an extension's layer
        is_slice = kind < 32 and base
        slices += is_slice
        if leads is None:
            is_first = is_slice and _has_high_bit(piece, at + 2)
            leads = is_first or (kind in _H265_LEADS and base)
        trails = trails and not (is_slice or (kind in _H265_LEADS and base))
        is_key |= base and kind in _H265_KEYS
    return _Look(slices, bool(leads), trails and leads is not None, is_key)
