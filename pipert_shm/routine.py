"""Routines: what users write."""

from __future__ import annotations

import functools
import logging
import math
import operator
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, ClassVar, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import DTypeLike

from pipert_shm.data import InHand, Meta
from pipert_shm.display.tables import HtmlRepr
from pipert_shm.errors import PipeStateError, shown
from pipert_shm.events import UPDATE_FPS_NAME, check_name, events
from pipert_shm.join import Join
from pipert_shm.limits import check_count, check_seconds, checked_fps
from pipert_shm.origins import MOST_ORIGINS, PerOrigin
from pipert_shm.parameters import MadeWith
from pipert_shm.shm.counters import Counters
from pipert_shm.spans import Traced, Tracer

T = TypeVar("T")
LARGEST_FRAME = 1 << 47  # bytes: what a process can address
MOST_AXES = 32  # as every version of NumPy has


class Role(Enum):
    """A routine's role: it makes messages, turns them into others, or takes them."""

    SOURCE = "source"
    MIDDLE = "middle"
    DESTINATION = "destination"


class Runtime(Tracer, Protocol):
    """The services that a routine uses of the process that runs it."""

    def loan(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, wait: bool = True) -> np.ndarray:
        """See `Routine.loan`. Without `wait` it is an error at once if no slot is free, and no queue drops a message for it."""

    def writable(self, array: np.ndarray) -> np.ndarray | None:
        """A writable array on the same memory, if nobody else sees that; else None. Safe to call from any thread."""

    def wake(self) -> None:
        """Makes the routine look at its settings again. Any thread."""


_here = threading.local()


def run_as(runtime: Runtime | None) -> Runtime | None:
    """Makes the calling thread that of a routine, or of none; returns whose it was."""
    before: Runtime | None = getattr(_here, "runtime", None)
    _here.runtime = runtime
    return before


def writable(array: np.ndarray) -> np.ndarray:
    """An array of the same content that can be written to; no other routine sees the changes.

    It is the same memory, at no cost, if the calling thread's routine is the only one that holds the frame: a frame that came
    through shared memory and went to no other routine, or an array of its own. Else it is a private copy: while another
    receiver of the frame has it, or one that it was sent on to; where frames come or go within the flow; and on other threads.

    >>> import numpy as np
    >>> from pipert_shm import writable
    >>> frame = np.zeros((2, 2), np.uint8)
    >>> frame.flags.writeable = False
    >>> drawing = writable(frame)
    >>> drawing[0] = 255
    >>> int(frame.max()), int(drawing.max())
    (0, 255)

    Send the returned array, or a view of it. It turns read-only then; older writable views of it don't, so let go of them.
    `numpy.shares_memory` says False of the two arrays, since they lie on different mappings of the same memory.

    :raises TypeError: when it is not an array.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"writable() takes an array, not {shown(array)}; of a payload that holds one: writable(data.frame)")
    runtime = getattr(_here, "runtime", None)
    own = None if runtime is None else runtime.writable(array)
    return np.array(array, order="K", copy=True) if own is None else own


Notifier = Callable[..., None]


class _OwnLogger:
    """The descriptor behind `self.logger`; a routine may set another logger there."""

    @overload
    def __get__(self, routine: None, kind: type[Routine]) -> _OwnLogger: ...
    @overload
    def __get__(self, routine: Routine, kind: type[Routine]) -> logging.Logger: ...
    def __get__(self, routine: Routine | None, kind: type[Routine]) -> _OwnLogger | logging.Logger:
        return self if routine is None else routine._logger


class Routine(MadeWith, InHand, Traced, HtmlRepr):
    """One step of a pipe: `setup()` is called, then `main_logic` again and again, then `cleanup()`.

    Subclass `SourceRoutine`, `MiddleRoutine` or `DestinationRoutine`; a direct subclass gets its role from its wires.

    All three methods run on the routine's own thread in its flow's process. The object that you made stays in the process that
    built the pipe, and does not see the attributes that the running routine sets.

    :param name: unique in its pipe, and with no `/` in it; by default the class name and a number.
    :raises ValueError: when the name is not a valid one.

    Attributes:
        name: the routine's name.
        flow_name: the name of its flow; None before it is in one.
        meta: origin, sequence number and times of the message in hand, inside `main_logic`; `metas`: all of a batch or join.
        hang_timeout: seconds in one call of `main_logic` after which the flow counts as hung: the stacks of its threads are
            logged, it is killed and restarted. None: never. Set it on the class or in `__init__`.
        max_errors: exceptions in a row after which the flow is restarted. None: never. Set it likewise.
        join: makes `main_logic` get one message of each input, that belong together. Set it likewise.
        replicable: whether its flow may have replicas. Set it to False for a routine that must see each frame of a camera.
        counter_names: the names of the routine's own counters, at most 16. Set it on the class.
        logger: for log records; it is a child of the pipe's logger, named `Pipe.Flow.Routine`. In `__init__` it is not yet.
        counters: the routine's own counters, all 0 at first: `self.counters["faces"] += 3`. Others read them in
            `pipe.statistics().routines[name].counters`; a restarted process goes on with them.
        events: the decorator that marks handlers of events, as `pipert_shm.events` is.
    """

    events = staticmethod(events)
    role: ClassVar[Role | None] = None
    hang_timeout: float | None = None
    max_errors: int | None = None
    join: Join | None = None
    replicable: bool = True
    works_alone: bool = False  # whether it may have no wire at all, since it does something besides sending
    counter_names: ClassVar[tuple[str, ...]] = ()
    logger = _OwnLogger()  # gives `_logger`, which is set anew in the pipe, and again in the flow's process
    _counters: ClassVar[defaultdict[str, int]] = defaultdict(int)

    def __init__(self, name: str | None = None) -> None:
        if name is None:
            kind = type(self).__name__
            name = f"{kind}-{Routine._counters[kind]}"
            Routine._counters[kind] += 1
        name = check_name("a routine", name)
        self.name: str = name
        self.flow_name: str | None = None
        self.meta = Meta((name,), 0, 0)
        self.counters = Counters(self.counter_names)
        self._logger: logging.Logger = logging.getLogger(name)
        self._const_fps: float = 0.0
        self._output_bytes: int | None = None
        self._notifier: Notifier | None = None
        self._runtime: Runtime | None = None

    def __repr__(self) -> str:
        its = vars(self)  # a subclass's __init__ may not have called ours yet
        flow = its.get("flow_name")
        return f"{type(self).__name__}({its.get('name')!r}{'' if flow is None else f' in flow {flow!r}'})"

    def setup(self) -> None:
        """Called before the first `main_logic` of each run; open files, cameras and models here."""

    def cleanup(self) -> None:
        """Called after the last `main_logic` of each run; close here what `setup()` opened."""

    # longer than 40 lines: its docstring is the reference
    def loan(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> np.ndarray:
        """A writable array in shared memory. It is not cleared.

        When `main_logic` returns it, alone or anywhere inside a payload, it is sent without a copy, and turns read-only (older
        views of it don't: let go of them). One that is never sent is given back when it dies.

        It is a plain array where the routine does not run in a flow, or sends to nobody; and where no wire leaves the flow and
        no slot is free, since it never waits there.

        :param shape: as of `numpy.empty`.
        :raises TypeError: for a dtype that holds Python objects, which can't lie in shared memory.
        :raises ValueError: for a shape that no array can have.
        :raises NoFreeSlot: when every slot of the ring is held; the error names the holders. If a wire's policy is `block`, it
            waits first.
        :raises SharedMemoryFull: when there is no memory for it.

        >>> from pipert_shm import DestinationRoutine, EndOfStream, Pipe, Wire
        >>> class Camera(SourceRoutine):
        ...     def main_logic(self):
        ...         if self.meta.sequence == 3:
        ...             raise EndOfStream
        ...         frame = self.loan((480, 640, 3))
        ...         frame[:] = self.meta.sequence           # the only write: in a camera, capture.read(frame)
        ...         return {"camera": self.name, "frame": frame}
        >>> class Screen(DestinationRoutine):
        ...     def main_logic(self, data):
        ...         assert data["frame"][0, 0, 0] == self.meta.sequence
        >>> camera, screen = Camera("camera"), Screen("screen")
        >>> with Pipe(policy="block") as pipe:
        ...     pipe.create_flow("capture", False, camera)
        ...     pipe.create_flow("show", False, screen)
        ...     pipe.link(Wire(camera, screen))
        ...     pipe.build()
        ...     pipe.notify_event("start")
        >>> pipe.statistics().routines["screen"].received, pipe.statistics().routines["camera"].copied_bytes
        (3, 0)
        """
        try:
            shape, kind = _known_layout(shape, dtype)
        except TypeError:  # a list can't be looked up
            shape, kind = _layout(shape, dtype)
        return np.empty(shape, kind) if self._runtime is None else self._runtime.loan(shape, kind)

    def per_origin(
        self,
        make: Callable[[str], T] | Callable[[], T],
        *,
        limit: int = MOST_ORIGINS,
        close: Callable[[T], object] | None = None,
    ) -> PerOrigin[T]:
        """A container of state that is separate for each camera, for a routine that several cameras may be wired to.

        Call it in `setup()`, so that each run has new state. Get the state for the message in hand with
        `[self.meta.origin]`; in a batch or a join, with `[meta.origin]` for each of `self.metas`. Outside of a flow, in a test,
        `self.meta.origin` is the routine's own name. Two crops of one camera have the same origin: give each its own routine.

        :param make: makes the state of an origin when it first comes. It gets the origin's name if it takes an argument.
        :param limit: the most origins that are kept. For one more, the one that was used least recently is dropped, with a
            warning.
        :param close: called with each state that is dropped, and with all of them by `clear()`: call that in `cleanup()`.
        :raises TypeError: when `make` or `close` can't be called.
        :raises ValueError: when the limit is no whole number of at least 1.

        >>> class Changes(MiddleRoutine):
        ...     replicable = False
        ...     def setup(self):
        ...         self.seen = self.per_origin(dict)
        ...     def main_logic(self, level):
        ...         seen = self.seen[self.meta.origin]
        ...         before, seen["level"] = seen.get("level"), level
        ...         return None if level == before else level
        >>> changes = Changes("changes")
        >>> changes.setup()
        >>> [changes.main_logic(level) for level in (5, 5, 7)], list(changes.seen)
        ([5, None, 7], ['changes'])
        """
        return PerOrigin(make, lambda: self._logger, limit, close)

    def declare_output(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> None:
        """Declares the size of the frames that this routine loans or sends. Call it in `__init__`.

        `build()` makes room for them then, or raises if there is too little. Without it the ring is made for the first frame.

        :param shape: as of `numpy.empty`. `(0,)` says to `pipert-shm doctor` that the routine makes no frames of its own.
        :raises TypeError, ValueError: as `loan` does.
        """
        shape, kind = _layout(shape, dtype)
        self._output_bytes = math.prod(shape) * kind.itemsize

    def set_const_fps(self, fps: float) -> None:
        """Limits the calls of `main_logic` to `fps` a second, at even intervals; 0 removes the limit.

        The deadlines are absolute, so that a late call does not delay all later ones. Call it before or while the pipe runs.

        :param fps: 0, or from one call a day (1/86,400) to 1,000,000 a second.
        :raises ValueError: when it is out of range, or not a number.

        >>> class Camera(SourceRoutine):
        ...     def main_logic(self):
        ...         return self.meta.sequence
        >>> camera = Camera("camera")
        >>> camera.set_const_fps(25)                        # 40 ms from one frame to the next
        >>> camera.set_const_fps(-1)
        Traceback (most recent call last):
        ValueError: fps must be 0 for no limit, or a number from 1/86,400 (one call a day) to 1,000,000, not -1
        """
        self._const_fps = fps = checked_fps(fps)
        if self._runtime is not None:
            self._runtime.wake()
        if self._runtime is None and self._notifier is not None:
            self._notifier(UPDATE_FPS_NAME, None, self.name, {"fps": fps}, only_if_built=True)

    def notify_event(
        self,
        event_name: str,
        routines_by_flow: dict[str, Iterable[str]] | None = None,
        specific_routine: str | None = None,
        **event_parameters: Any,
    ) -> None:
        """Notifies an event, as `Pipe.notify_event` does, from inside or outside of the routine.

        :raises UnknownEvent, UnknownTarget: when no routine would get it.
        :raises PipeStateError: when the routine is in no pipe.
        """
        if self._notifier is None:
            raise PipeStateError(f"routine {self.name!r} is in no pipe yet: create_flow() first")
        self._notifier(event_name, routines_by_flow, specific_routine, event_parameters)


def _layout(shape: Any, dtype: DTypeLike) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """A frame's shape and dtype in NumPy's own types.

    :raises TypeError, ValueError: when no frame can have them.
    """
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        advice = "a shape is one tuple, such as (480, 640, 3), and the dtype comes after it"
        raise TypeError(
            f"a frame's dtype must be one of NumPy's, such as np.uint8, not {shown(dtype)} ({error}); {advice}"
        ) from None
    if kind.hasobject:
        raise TypeError(
            f"a frame can't be of dtype {kind}: Python objects don't lie in shared memory; use numbers, or a message"
        )
    try:
        lengths = tuple(map(operator.index, shape if isinstance(shape, Iterable) else (shape,)))
    except TypeError:
        raise TypeError(f"a frame's shape must be whole numbers, such as (480, 640, 3), not {shown(shape)}") from None
    if any(length < 0 for length in lengths) or math.prod(lengths) * kind.itemsize > LARGEST_FRAME or len(lengths) > MOST_AXES:
        raise ValueError(
            f"there can't be a frame of shape {shown(lengths)}: no length may be negative, there may be {MOST_AXES} of them at "
            f"most, and {LARGEST_FRAME:,} bytes in all"
        )
    return lengths, kind


_known_layout: Callable[[Any, Any], tuple[tuple[int, ...], np.dtype[Any]]] = functools.lru_cache(maxsize=256)(_layout)


class SourceRoutine(Routine):
    """A routine that makes messages: `main_logic()` returns one, or None for nothing, or raises `EndOfStream`."""

    role = Role.SOURCE

    def main_logic(self) -> Any:
        """Makes the next message."""
        raise NotImplementedError


class MiddleRoutine(Routine):
    """A routine that turns messages into others: `main_logic(data)` returns one, or None for nothing."""

    role = Role.MIDDLE

    def main_logic(self, data: Any) -> Any:
        """Turns a message into another."""
        raise NotImplementedError


class DestinationRoutine(Routine):
    """A routine that takes messages: `main_logic(data)`."""

    role = Role.DESTINATION

    def main_logic(self, data: Any) -> None:
        """Takes a message."""
        raise NotImplementedError


class BatchRoutine(Routine):
    """A routine that handles several messages in one call, from all its wires in turn: one detector for many cameras.

    `main_logic(batch)` gets a list of payloads and returns a list with a result for each, in the same order; a result of None
    sends nothing. It may also return just None. Each result inherits the meta of its own message, and is sent as a message of
    its own. `self.metas` are the metas of the batch.

    A routine with no wire from it is a destination. The queues before and after it get room for its batches, unless they
    block, so that nothing is dropped while every step keeps up.

    :param batch_size: the most messages in one call.
    :param max_wait: seconds that the first message of a batch may wait for others; 0: take only messages that are there.
    :raises ValueError: when one of them is out of range.

    >>> class Detector(BatchRoutine):
    ...     def main_logic(self, batch):
    ...         return [frame.mean() for frame in batch]
    >>> detector = Detector("detector", batch_size=8, max_wait=0.02)
    """

    def __init__(self, name: str | None = None, *, batch_size: int = 8, max_wait: float = 0.0) -> None:
        super().__init__(name)
        check_count("batch_size", batch_size)
        check_seconds("max_wait", max_wait)
        self.batch_size = batch_size
        self.max_wait = max_wait

    def main_logic(self, batch: list[Any]) -> list[Any] | None:
        """Handles some messages."""
        raise NotImplementedError


class FPSRoutine(Routine):
    """A routine whose role is inferred from its wires: `main_logic(data=None)`. It is PipeRT2's base class."""

    def main_logic(self, data: Any = None) -> Any:
        """Makes, turns or takes a message, depending on its wires."""
        raise NotImplementedError
