"""Routines: what users write."""

from __future__ import annotations

import functools
import inspect
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

from pipert_shm.counters import Counters
from pipert_shm.data import Meta
from pipert_shm.errors import PipeStateError, RoutineError, shown
from pipert_shm.events import UPDATE_FPS_NAME, check_name, events, handlers_of
from pipert_shm.join import Join
from pipert_shm.limits import LONGEST_WAIT as LONGEST_WAIT
from pipert_shm.limits import check_count, check_seconds, checked_fps
from pipert_shm.origins import MOST_ORIGINS, PerOrigin
from pipert_shm.tables import HtmlRepr

T = TypeVar("T")

LARGEST_FRAME = 1 << 47  # bytes: what a process can address
MOST_AXES = 32  # as every version of NumPy has


class Role(Enum):
    """What a routine does with messages: makes them, turns them into others, or takes them."""

    SOURCE = "source"
    MIDDLE = "middle"
    DESTINATION = "destination"


class Runtime(Protocol):
    """What a routine asks of the process that runs it."""

    def loan(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """See `Routine.loan`."""

    def writable(self, array: np.ndarray) -> np.ndarray | None:
        """The array's own memory, to be written to, where nobody else sees it; else None. Any thread."""


_here = threading.local()


def run_as(runtime: Runtime) -> None:
    """Makes the calling thread that of a routine."""
    _here.runtime = runtime


def writable(array: np.ndarray) -> np.ndarray:
    """An array of the same content that may be written to, and that no other routine sees the changes of.

    It is the same memory, at no cost, where the routine whose thread calls is the only one that holds the frame: a frame that
    came through shared memory and went to nobody else, or an array of its own. Else it is a private copy: while a sibling, or a
    receiver of what was sent on, has the frame; where frames came or go within the flow; and on other threads.

    >>> import numpy as np
    >>> from pipert_shm import writable
    >>> frame = np.zeros((2, 2), np.uint8)
    >>> frame.flags.writeable = False
    >>> drawing = writable(frame)
    >>> drawing[0] = 255
    >>> int(frame.max()), int(drawing.max())
    (0, 255)

    Send the array that it returned, or a view of it: it turns read-only then. Older writable views of it don't; let go of them.
    (`numpy.shares_memory` compares addresses, and the two stand on different mappings of the same memory.)

    :raises TypeError: when it is no array.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"writable() takes an array, not {shown(array)}; of a payload that holds one: writable(data.frame)")
    runtime = getattr(_here, "runtime", None)
    own = None if runtime is None else runtime.writable(array)
    return np.array(array, order="K", copy=True) if own is None else own


Notifier = Callable[..., None]


class _OwnLogger:
    """What `self.logger` gives; a routine may keep another one there."""

    @overload
    def __get__(self, routine: None, kind: type[Routine]) -> _OwnLogger: ...
    @overload
    def __get__(self, routine: Routine, kind: type[Routine]) -> logging.Logger: ...
    def __get__(self, routine: Routine | None, kind: type[Routine]) -> _OwnLogger | logging.Logger:
        return self if routine is None else routine._logger


class Routine(HtmlRepr):
    """One step of a pipe: `setup()`, then `main_logic` again and again, then `cleanup()`.

    Subclass `SourceRoutine`, `MiddleRoutine` or `DestinationRoutine`; a direct subclass takes its role from its wires.

    All three methods run on the routine's own thread in its flow's process. The object that you made stays in the process that
    built the pipe: attributes that a running routine sets are not seen there.

    :param name: unique in its pipe, and with no `/` in it; by default the class name and a number.
    :raises ValueError: when the name can't be one.

    Attributes:
        name: the routine's name.
        flow_name: the flow that it is in, once it is in one.
        meta: what is known of the message in hand, inside `main_logic`.
        hang_timeout: seconds in one call of `main_logic` after which the flow counts as hung: the stacks of its threads are
            logged, it is killed and restarted. None: never. Set it on the class or in `__init__`.
        max_errors: exceptions in a row after which the flow is restarted. None: never. Set it likewise.
        join: makes `main_logic` get a message of each input, that belong together. Set it likewise.
        replicable: whether its flow may have replicas. A routine that must see every frame of a camera says False, since each
            replica sees a part of them. Set it likewise.
        metas: what is known of all messages in hand, where they are several: of a batch, or of a join, in order.
        counter_names: what it counts of its own, at most 8 names. Set it on the class.
        logger: for log records; they go to the pipe's, named `Pipe.Flow.Routine`. In `__init__` it is not of the pipe yet.
        counters: these, all 0 at first, to be set by the routine: `self.counters["faces"] += 3`. Everyone can read them, in
            `pipe.statistics().routines[name].counters`; a restarted process goes on with them.
        events: the decorator that marks handlers of events, as `pipert_shm.events` is.
    """

    events = staticmethod(events)
    role: ClassVar[Role | None] = None
    hang_timeout: float | None = None
    max_errors: int | None = None
    join: Join | None = None
    replicable: bool = True
    counter_names: ClassVar[tuple[str, ...]] = ()
    logger = _OwnLogger()  # `_logger` by a public name: it is another one in the pipe, and again in the flow's process
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
        self.metas: list[Meta] = []
        self.counters = Counters(self.counter_names)
        self._logger: logging.Logger = logging.getLogger(name)
        self._const_fps: float = 0.0
        self._output_bytes = 0
        self._notifier: Notifier | None = None
        self._runtime: Runtime | None = None

    def __repr__(self) -> str:
        its = vars(self)  # a subclass's __init__ may not have got as far as ours
        flow = its.get("flow_name")
        return f"{type(self).__name__}({its.get('name')!r}{'' if flow is None else f' in flow {flow!r}'})"

    def setup(self) -> None:
        """Called before the first `main_logic` of each start; open files, cameras and models here."""

    def cleanup(self) -> None:
        """Called after the last `main_logic` of each run; close here what `setup()` opened."""

    def loan(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> np.ndarray:
        """A writable array in shared memory, with whatever it held before.

        Returned from `main_logic`, alone or anywhere inside a payload, it is sent where it lies, with no copy, and turns
        read-only (older views of it don't: let go of them). One that is never sent is given back when it dies.

        Without shared memory it is a plain array: where the routine does not run in a flow, or sends to nobody; and where no
        wire leaves the flow and no slot is free, for there it never waits.

        :param shape: as of `numpy.empty`.
        :raises TypeError: for a dtype that holds Python objects, which can't lie in shared memory.
        :raises ValueError: for a shape that no array can have.
        :raises NoFreeSlot: when every slot of the ring is held, by those that it names; where a wire's policy is `block` it
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
        """State for each camera its own: what a routine keeps from frame to frame, where several cameras may be wired to it.

        Call it in `setup()`, so that each start begins afresh, and take the state of the message in hand by
        `[self.meta.origin]`; of a batch or a join, by `[meta.origin]` for each of `self.metas`. Outside of a flow, in a test,
        `self.meta.origin` is the routine's own name. Two crops of one camera have the same origin: give each its own routine.

        :param make: makes the state of one origin, when it first comes. It gets the origin's name where it needs an argument.
        :param limit: the most origins that it keeps. One more drops the one that was used least recently, with a warning.
        :param close: called with a state that is dropped, and by `clear()` with all of them: call that in `cleanup()`.
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
        """Says how large the frames are that this routine loans or sends, so that `build()` can make room for them, or say that
        there is too little. Call it in `__init__`; without it the ring is made for the first frame.

        :raises TypeError, ValueError: as `loan` does.
        """
        shape, kind = _layout(shape, dtype)
        self._output_bytes = math.prod(shape) * kind.itemsize

    def set_const_fps(self, fps: float) -> None:
        """Calls `main_logic` at most `fps` times a second, at even intervals; 0 takes the limit away.

        The deadlines are absolute, so that a late call does not make all that follow late. Before or while the pipe runs.

        :param fps: 0, or from one call a day (1/86,400) to 1,000,000 a second.
        :raises ValueError: when it is something else.

        >>> class Camera(SourceRoutine):
        ...     def main_logic(self):
        ...         return self.meta.sequence
        >>> camera = Camera("camera")
        >>> camera.set_const_fps(25)                        # 40 ms from one frame to the next
        >>> camera.set_const_fps(-1)
        Traceback (most recent call last):
        ValueError: fps must be 0 for no limit, or a number from 1/86,400 (one call a day) to 1,000,000, not -1
        """
        fps = checked_fps(fps)
        self._const_fps = fps
        if self._runtime is None and self._notifier is not None:
            self._notifier(UPDATE_FPS_NAME, None, self.name, {"fps": fps}, only_if_built=True)

    def notify_event(
        self,
        event_name: str,
        routines_by_flow: dict[str, Iterable[str]] | None = None,
        specific_routine: str | None = None,
        **event_parameters: Any,
    ) -> None:
        """Notifies an event, as `Pipe.notify_event` does, from within a routine or from outside.

        :raises UnknownEvent, UnknownTarget: when nobody would get it.
        :raises PipeStateError: when the routine is in no pipe.
        """
        if self._notifier is None:
            raise PipeStateError(f"routine {self.name!r} is in no pipe yet: create_flow() first")
        self._notifier(event_name, routines_by_flow, specific_routine, event_parameters)


def _layout(shape: Any, dtype: DTypeLike) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """A frame's shape and dtype, of what describes them.

    :raises TypeError, ValueError: when there can't be such a frame.
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
    """A routine that takes several messages in one call, of all its wires in turn: one detector for many cameras.

    `main_logic(batch)` gets a list of payloads and returns a list with a result for each, in the same order, None for those
    that are to send nothing; or just None. Each result inherits the meta of its own message, and goes out as a message of its
    own. `self.metas` are those of the batch.

    With no wire that leads from it, it is a destination. The queues before and behind it get room for its batches, unless
    they block, so that nothing is dropped where nobody is slow.

    :param batch_size: the most messages of one call.
    :param max_wait: seconds that the first message of a batch may wait for others; 0: take what is there.
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
    """A routine whose role is inferred from its wires: `main_logic(data=None)`. PipeRT2's base class."""

    def main_logic(self, data: Any = None) -> Any:
        """Makes, turns or takes a message, by the wires."""
        raise NotImplementedError


class FunctionalMiddleRoutine(MiddleRoutine):
    """A middle routine that is a function of its message: what it returns is sent, None sends nothing.

    :param func: takes the payload. A lambda will do: flows are forked. None: `logic` is set before `build()`.
    :raises RoutineError: when it can't be called, or is `async def` or a generator function.

    Attributes:
        logic: the function.

    >>> FunctionalMiddleRoutine(lambda frame: frame[::2, ::2], "half").main_logic(np.zeros((4, 6))).shape
    (2, 3)
    """

    def __init__(self, func: Callable[[Any], Any] | None = None, name: str | None = None) -> None:
        if func is not None:
            _require_function("FunctionalMiddleRoutine", func, name)
        super().__init__(name)
        if func is not None:
            _require_plain(self.name, "its function", func)
        self.logic = func

    def main_logic(self, data: Any) -> Any:
        """What the function makes of it."""
        assert self.logic is not None  # build() has seen to that
        return self.logic(data)


def from_callable(func: Callable[..., Any], name: str | None = None) -> FPSRoutine:
    """A routine whose `main_logic` is any callable: a function, a bound method, an object with `__call__`.

    Its role is inferred from its wires. As a source it is called with nothing, or None where it needs an argument, and raises
    `EndOfStream` at its end; else it is called with the payload.

    :param name: by default the function's name; without one, as of a lambda, `FPSRoutine` and a number.
    :raises RoutineError: when it can't be called, or is `async def` or a generator function.

    >>> def shout(text):
    ...     return text.upper()
    >>> routine = from_callable(shout)
    >>> routine.name, routine.main_logic("hello")
    ('shout', 'HELLO')
    """
    _require_function("from_callable", func, name)
    own = getattr(func, "__name__", "<lambda>")
    routine = FPSRoutine(name or (None if own == "<lambda>" else own))
    _require_plain(routine.name, "its function", func)
    setattr(routine, "main_logic", func)  # noqa: B010 - a plain assignment would not pass the type checker
    return routine


def logic_of(routine: Routine, role: Role) -> Callable[..., Any]:
    """The routine's `main_logic`, callable with no argument for a source and with the payload for the others.

    :raises RoutineError: when there is none, its signature does not fit the role, or the routine can't be run in another way.
    """
    logic: Callable[..., Any] | None = getattr(routine, "main_logic", None)
    if logic is None or not callable(logic) or getattr(logic, "__func__", None) in _PLACEHOLDERS:
        raise RoutineError(routine.name, f"{type(routine).__name__} has no main_logic")
    _check_runnable(routine)
    signature = inspect.signature(logic)
    arguments: tuple[None, ...] = () if role is Role.SOURCE else (None,)
    if _takes(signature, arguments):
        return logic
    if role is Role.SOURCE and routine.role is None and _takes(signature, (None,)):
        return lambda: logic(None)
    wanted = "main_logic(self)" if role is Role.SOURCE else "main_logic(self, data)"
    raise RoutineError(
        routine.name, f"as a {role.value} it needs {wanted}, but {type(routine).__name__} has main_logic{signature}"
    )


def _check_runnable(routine: Routine) -> None:
    """:raises RoutineError: when a method of it would not run when it is called, or a limit of it can't be meant."""
    names = ["main_logic", "setup", "cleanup"]
    names += sorted({method for methods in handlers_of(type(routine)).values() for method in methods})
    for name in names:
        if hasattr(routine, name):
            _require_plain(routine.name, f"{name}()", getattr(routine, name))
    if isinstance(routine, FunctionalMiddleRoutine):
        _require_plain(routine.name, "its function, `logic`,", routine.logic)
    try:
        if routine.hang_timeout is not None:
            check_seconds("hang_timeout", routine.hang_timeout, positive=True, none="never")
        if routine.max_errors is not None:
            check_count("max_errors", routine.max_errors)
    except ValueError as error:
        raise RoutineError(routine.name, str(error)) from None
    if routine.join is not None and not isinstance(routine.join, Join):
        raise RoutineError(routine.name, f'join must be a Join, such as Join(by="seq"), not {shown(routine.join)}')


def _require_function(call: str, func: Any, name: Any) -> None:
    """:raises TypeError: when something else stands in the function's place, that can be told."""
    if callable(name) and not callable(func):
        raise TypeError(f"the function comes before the name: {call}(function, {shown(func)}), not {call}({shown(func)}, …)")
    if isinstance(func, Routine) or (isinstance(func, type) and issubclass(func, Routine)):
        raise TypeError(f"{call}() makes a routine of a function, and {shown(func)} is a routine or a class of them already")


def _require_plain(routine: str, what: str, function: Any) -> None:
    """:raises RoutineError: when it is no function whose body runs when it is called."""
    if not callable(function):
        raise RoutineError(routine, f"{what} can't be called: it is {shown(function)}")
    for code in (function, getattr(type(function), "__call__", None)):  # noqa: B004 - an object may have an `async def __call__`
        if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
            advice = "write `def`, and call asyncio.run(…) in it where it needs a coroutine"
            raise RoutineError(routine, f"{what} is `async def`, and a call of it runs nothing: {advice}")
        if inspect.isgeneratorfunction(code):
            advice = "return a result instead of `yield`; several results may be one list"
            raise RoutineError(routine, f"{what} is a generator function, and a call of it runs nothing: {advice}")


_PLACEHOLDERS = {cls.main_logic for cls in (SourceRoutine, MiddleRoutine, DestinationRoutine, BatchRoutine, FPSRoutine)}


def _takes(signature: inspect.Signature, arguments: tuple[None, ...]) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True
