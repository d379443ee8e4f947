"""Taps: a routine's outputs, in the process that built the pipe."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from pipert_shm import native
from pipert_shm.data import Meta
from pipert_shm.descriptors import remedy
from pipert_shm.errors import PipeStateError, describe
from pipert_shm.limits import check_seconds
from pipert_shm.memory import ControlSegment
from pipert_shm.plan import EdgePlan
from pipert_shm.ports import Inbox, Message


class Tap:
    """An iterator over the newest outputs of a routine; ends when the routine or the pipe does.

    It is a wire of capacity 1 that drops the oldest: whoever reads slowly misses messages, and never slows the pipe. Arrays
    are read-only views of shared memory; keep only a few of them at a time, or copies. Use it from one thread; `close()` may
    come from another.

    Attributes:
        meta: what is known of the last output that was read.
    """

    def __init__(
        self,
        segment: ControlSegment,
        edge: EdgePlan,
        incarnation: int,
        names: tuple[str, ...],
        on_close: Callable[[int], None],
        logger: logging.Logger,
    ) -> None:
        self.meta: Meta | None = None
        self.edge = edge
        self._segment = segment
        self._on_close = on_close
        self._logger = logger
        self._port = native.Port(segment.process, edge.receiver, 1)
        self._inbox = Inbox(segment, self._port, edge.receiver, names, {})
        self._inbox.add(edge, incarnation)
        self._inbox.on_starved = self._warn_of_starving
        self._home = os.getpid()
        self._over = threading.Event()
        self._closed = False
        self._reading = threading.Lock()

    def read(self, timeout: float | None = None) -> Any:
        """The next output.

        :param timeout: seconds to wait for it; None: as long as it takes.
        :raises TimeoutError: when none came in time.
        :raises ValueError: when the timeout is no number of seconds.
        :raises StopIteration: when there will be none.
        :raises PipeStateError: in a process that was forked from the one that made the tap.
        """
        self._require_home()
        if timeout is not None:
            check_seconds("timeout", timeout, none="as long as it takes")
        deadline = native.FOREVER if timeout is None else native.now_ns() + int(timeout * 1e9)
        while not self._closed:
            left = native.FOREVER if timeout is None else max(0, deadline - native.now_ns())
            with self._reading:
                over = self._over.is_set()
                received = self._receive(0 if over else left)  # also what was sent before the end
                if received == native.OK:
                    received = self._inbox.take()
                if isinstance(received, tuple):
                    payload, self.meta = received
                    return payload
                status = received
                if status == native.NOTICE:
                    self._port.noticed()
                elif over:
                    status = native.CLOSED
            if status == native.CLOSED:
                self.close()
            elif status == native.TIMED_OUT and timeout is not None and native.now_ns() >= deadline:
                raise TimeoutError(f"no output within {timeout} s")
        raise StopIteration

    def _receive(self, timeout_ns: int) -> int | Message:
        try:
            return self._inbox.receive(timeout_ns)
        except LookupError:
            if self._over.is_set():
                return native.CLOSED  # the pipe has ended, and the memory that the last message is in is gone
            raise

    def __repr__(self) -> str:
        return f"Tap({self._inbox.names[self.edge.sender]!r}{', closed' if self._closed else ''})"

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.read()

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Takes the wire away. Arrays that were read stay valid.

        :raises PipeStateError: in a process that was forked from the one that made the tap.
        """
        self._require_home()
        if not self._closed:
            self._closed = True
            self.end()
            self._on_close(self.edge.number)

    def _warn_of_starving(self, edge: EdgePlan, error: OSError) -> None:
        text = "a tap waits, since what the next output is in can't be opened here: %s. It is tried again; %s"
        self._logger.warning(text, describe(error), remedy(error))

    def _require_home(self) -> None:
        if os.getpid() != self._home:
            raise PipeStateError("this process was forked from the one that made the tap, and can't use it: tap there")

    def know(self, names: tuple[str, ...]) -> None:
        """There are more routines, whose messages may come."""
        self._inbox.names = names

    def end(self) -> None:
        """Makes a reader stop: there will be no more."""
        self._over.set()
        self._port.notify()

    def release(self) -> None:
        """After the sender let go: drops what waits, and gives the edge back once no view of it lives."""
        with self._reading:
            self._inbox.end()
            self._inbox.release(self.edge)
