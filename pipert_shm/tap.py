"""Taps: a routine's outputs, in the process that built the pipe."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from pipert_shm import binding
from pipert_shm.data import TAP, Meta
from pipert_shm.errors import PipeStateError, describe
from pipert_shm.graph.model import EdgePlan
from pipert_shm.graph.names import Names
from pipert_shm.limits import check_seconds
from pipert_shm.message.inbox import Inbox
from pipert_shm.shm.segments import ControlSegment
from pipert_shm.system.descriptors import remedy


class Tap:
    """An iterator over the newest outputs of a routine; ends when the routine or the pipe does.

    It is a wire of capacity 1 that drops the oldest: a slow reader misses messages, and never slows the pipe. Arrays are
    read-only views of shared memory; keep only a few of them at a time, or copies. Use it from one thread; `close()` may be
    called from another.

    Attributes:
        meta: what is known of the last output that was read.
    """

    def __init__(
        self,
        segment: ControlSegment,
        edge: EdgePlan,
        incarnation: int,
        names: Names,
        on_close: Callable[[int], None],
        logger: logging.Logger,
    ) -> None:
        self.meta: Meta | None = None
        self.edge = edge
        self._segment = segment
        self._on_close = on_close
        self._logger = logger
        self._port = binding.Port(segment.process, edge.receiver, 1)
        self._inbox = Inbox(segment, self._port, edge.receiver, self._and_itself(names), {})
        self._inbox.add(edge, incarnation)
        self._inbox.remove(edge.number)  # nothing follows: once it is drained, the record may be another tap's
        self._inbox.on_starved = self._warn_of_starving
        self._home = os.getpid()
        self._over = threading.Event()
        self._closed = False
        self._reading = threading.Lock()

    def read(self, timeout: float | None = None) -> Any:
        """The next output.

        :param timeout: seconds to wait for it; None: as long as it takes.
        :raises TimeoutError: when none came in time.
        :raises ValueError: when the timeout is not a number of seconds, or out of range.
        :raises StopIteration: when there will be no more.
        :raises PipeStateError: in a process that was forked from the one that made the tap.
        """
        self._require_home()
        if timeout is not None:
            check_seconds("timeout", timeout, none="as long as it takes")
        deadline = binding.FOREVER if timeout is None else binding.now_ns() + int(timeout * 1e9)
        while not self._closed:
            left = binding.FOREVER if timeout is None else max(0, deadline - binding.now_ns())
            with self._reading:
                over = self._over.is_set()
                status = self._receive(0 if over else left)  # also what was sent before the end
                if status == binding.OK:
                    payload, self.meta = self._inbox.take()
                    return payload
                if status == binding.NOTICE:
                    self._port.noticed()
                elif over:
                    status = binding.CLOSED
            if status == binding.CLOSED:
                self.close()
            elif status == binding.TIMED_OUT and timeout is not None and binding.now_ns() >= deadline:
                raise TimeoutError(f"no output within {timeout} s")
        raise StopIteration

    def _receive(self, timeout_ns: int) -> int:
        try:
            return self._inbox.receive(timeout_ns)
        except LookupError:
            if self._over.is_set():
                return binding.CLOSED  # the pipe has ended, and the memory that the last message is in is gone
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
            had_ended = self._over.is_set()
            self.end()
            if not had_ended:  # else the launcher knows, and may have given its place to another tap
                self._on_close(self.edge.number)

    def _warn_of_starving(self, edge: EdgePlan, error: OSError) -> None:
        text = "a tap waits, since what the next output is in can't be opened here: %s. It is tried again; %s"
        self._logger.warning(text, describe(error), remedy(error))

    def _require_home(self) -> None:
        if os.getpid() != self._home:
            raise PipeStateError("this process was forked from the one that made the tap, and can't use it: tap there")

    def know(self, names: Names) -> None:
        """Tells the tap the names of the routines whose messages may come, after some were added or removed."""
        self._inbox.names = self._and_itself(names)

    def _and_itself(self, names: Names) -> Names:
        return Names({**names, self.edge.receiver: TAP})

    def end(self) -> None:
        """Makes a reader stop, after what was sent already."""
        self._over.set()
        self._port.notify()

    def release(self) -> None:
        """Drops waiting messages, and gives the edge back once no view of them lives. Call it when the sender has let go."""
        with self._reading:
            self._inbox.end()
            self._inbox.release(self.edge)
