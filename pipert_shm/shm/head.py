"""The head of a message: the part of its body that stands before the payload.

A head is the hops so far, then, if the message's kind says so, a ticket and a stamp.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

# The kinds of a message: how its payload lies in the body.
PICKLE = 0
ARRAY = 1

# Marks that are added to a kind.
TICKETED = 0x100  # a ticket follows the hops
TOMBSTONE = 0x200  # there is no payload
STAMPED = 0x400  # a stamp follows these

HOP = struct.Struct("=QQQ")  # routine, sent ns, received ns
TICKET = struct.Struct("=QQ")  # routine that gave it, number
# pts and wall clock (s, NaN for none), number of the format (0 for none), rows of the array, uncertainty of the capture (ns)
STAMP = struct.Struct("=ddIIQ")


class Head(NamedTuple):
    """What the head of a message says.

    Attributes:
        hops: the hand-overs so far, HOP after HOP.
        ticket: number of the routine that gave it, and of the message there; None where the flow has no order to restore.
        stamp: what a STAMP says of the picture; empty where its origin has said nothing.
    """

    hops: bytes
    ticket: tuple[int, int] | None
    stamp: bytes


def pack(hops: bytes, ticket: tuple[int, int] | None, stamp: bytes) -> tuple[int, bytes]:
    """The marks that a message's kind gets for this head, and the head's bytes."""
    marks = 0
    if ticket is not None:
        marks = TICKETED
        hops += TICKET.pack(*ticket)
    if stamp:
        marks |= STAMPED
        hops += stamp
    return marks, hops


def unpack(kind: int, head: bytes) -> Head:
    """What `pack` made a head of.

    :param kind: the message's kind, with its marks.
    :raises struct.error: when the head is shorter than its marks say.
    """
    end = len(head)
    ticket, stamp = None, b""
    if kind & STAMPED:
        end -= STAMP.size
        stamp = head[end : end + STAMP.size]
    if kind & TICKETED:
        end -= TICKET.size
        ticket = TICKET.unpack_from(head, end)
    return Head(head[:end], ticket, stamp)


def payload_kind(kind: int) -> int:
    """PICKLE or ARRAY: a message's kind without its marks."""
    return kind & ~(TICKETED | STAMPED)
