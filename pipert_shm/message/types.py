"""The types of a message inside this process, which its sender and its receivers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipert_shm.data import Meta

# Plain tuples: one is made for each message, and a NamedTuple takes several times as long to make.
Message = tuple[Any, Meta]  # a payload, and what is known of it

Opener = Callable[[], Any]  # gives one receiver in the flow a payload of its own
# Messages that wait on a wire within the flow, by token: how to open it, the sender's meta, when it was sent (ns).
# Where C has sent it, the meta is the bytes of a head: see csrc/hot/within.c.
LocalMessages = dict[int, tuple[Opener, Meta | bytes, int]]


class _Nothing:
    """The payload of a tombstone: in an ordered flow it takes the place of a result that was not made."""


NOTHING = _Nothing()
