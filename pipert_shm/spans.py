"""Parts of a routine's work that a trace of the pipe shows: `with self.span("nms"):`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from pipert_shm import binding
from pipert_shm.binding import trace
from pipert_shm.shm import tracing


class Tracer(Protocol):
    """Notes what a routine does."""

    def note_span(self, name: str, began_ns: int, ended_ns: int = 0) -> None:
        """Notes what was done from one moment to another one (0: to now), if somebody traces the pipe. Any thread."""


class Traced:
    """A base of routines: what they do can be told apart in a trace."""

    _runtime: Tracer | None = None

    def span(self, name: str) -> AbstractContextManager[None]:
        """A context whose time is shown in a trace of the pipe (`Pipe.trace`), within the call of `main_logic`. Any thread.

        While nobody traces the pipe it does nothing, and takes a fraction of a microsecond.

        :param name: what is done. The first 63 bytes of it are shown, and 255 names of a flow.

        >>> from pipert_shm import MiddleRoutine
        >>> class Detector(MiddleRoutine):
        ...     def main_logic(self, frame):
        ...         with self.span("network"):
        ...             boxes = [(0, 0, 4, 4), (1, 0, 5, 4)]
        ...         with self.span("nms"):
        ...             return boxes[:1]
        >>> Detector("detector").main_logic(None)
        [(0, 0, 4, 4)]
        """
        runtime = self._runtime
        return _Span(runtime, name) if tracing.on and runtime is not None else _NO_SPAN

    def _note_span(self, name: str, began_ns: int, ended_ns: int = 0) -> None:
        """Notes what was done from one moment to another one, as `span` does."""
        if tracing.on and self._runtime is not None:
            self._runtime.note_span(name, began_ns, ended_ns)


class _Span:
    """A context whose time is noted."""

    __slots__ = ("_began_ns", "_name", "_tracer")

    def __init__(self, tracer: Tracer, name: str) -> None:
        self._tracer = tracer
        self._name = name

    def __enter__(self) -> None:
        self._began_ns = binding.now_ns()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._tracer.note_span(self._name, self._began_ns)


_NO_SPAN: AbstractContextManager[None] = trace.NoSpan()  # of C: a span that nobody sees takes a third of the time then
