"""State that a routine keeps from message to message, separately for each camera."""

from __future__ import annotations

import inspect
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Generic, TypeVar, cast

from pipert_shm.errors import describe, shown
from pipert_shm.limits import check_count

T = TypeVar("T")

MOST_ORIGINS = 64


class PerOrigin(Generic[T]):
    """A routine's state for each origin: `state[self.meta.origin]`, made when it is first asked for. See `Routine.per_origin`.

    It keeps at most `limit` origins. One more takes the place of the one that was used least recently; its state is closed, and
    a new one is made if it comes again. That is counted, and a warning is logged at the first time, the second, the fourth, the
    eighth and so on. Safe to use from any thread.

    Attributes:
        dropped: how many origins were dropped to make room for others.
    """

    def __init__(
        self,
        make: Callable[[str], T] | Callable[[], T],
        logger: Callable[[], logging.Logger],
        limit: int = MOST_ORIGINS,
        close: Callable[[T], object] | None = None,
    ) -> None:
        for what, function in (("make", make), ("close", close)):
            if not callable(function) and (what, function) != ("close", None):
                raise TypeError(
                    f"{what} must be a function, not {shown(function)}: self.per_origin(Counter), or "
                    f"self.per_origin(lambda origin: Counter(origin), close=Counter.close)"
                )
        check_count("limit", limit)
        self.dropped = 0
        self._make = _with_origin(make)
        self._logger = logger
        self._limit = limit
        self._close = close
        self._kept: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.RLock()

    def __getitem__(self, origin: str) -> T:
        with self._lock:
            if origin in self._kept:
                self._kept.move_to_end(origin)
                return self._kept[origin]
            self[origin] = state = self._make(origin)
            return state

    def __setitem__(self, origin: str, state: T) -> None:
        """Sets the state of an origin, as `counts[origin] += 1` does."""
        with self._lock:
            self._kept[origin] = state
            self._kept.move_to_end(origin)
            if len(self._kept) > self._limit:
                self._drop_oldest()

    def __contains__(self, origin: object) -> bool:
        return origin in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[str]:
        """The origins, the one that was used least recently first."""
        with self._lock:
            return iter(tuple(self._kept))

    def clear(self) -> None:
        """Closes and drops the states of all origins; a new one is made when an origin comes again.

        :raises Exception: what `close` raised of one; the others are closed all the same.
        """
        with self._lock, ExitStack() as closing:
            while self._kept:
                _, state = self._kept.popitem()
                if self._close is not None:
                    closing.callback(self._close, state)

    def _drop_oldest(self) -> None:
        origin, state = self._kept.popitem(last=False)
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:
            self._logger().warning(
                "it keeps the state of %d origins at the most: what it knew of %r, which was used least recently, is dropped "
                "(%d so far); give per_origin() a larger limit",
                self._limit,
                origin,
                self.dropped,
            )
        if self._close is None:
            return
        try:
            self._close(state)
        except Exception as error:  # the message in hand is of another origin
            self._logger().error("what it knew of %r can't be closed: %s", origin, describe(error), exc_info=error)

    def __repr__(self) -> str:
        return f"PerOrigin({', '.join(map(repr, self))})"


def _with_origin(make: Callable[[str], T] | Callable[[], T]) -> Callable[[str], T]:
    """A function of an origin's name that calls `make`, with or without the name, as that takes it."""
    try:
        inspect.signature(make).bind()
    except TypeError:
        return cast(Callable[[str], T], make)
    except ValueError:
        pass  # of C, such as dict
    plain = cast(Callable[[], T], make)
    return lambda origin: plain()
