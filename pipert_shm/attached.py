"""Attaching to a pipe that another process of this machine has built."""

from __future__ import annotations

import json
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import posix_ipc

from pipert_shm.attached_source import AttachedSource
from pipert_shm.control.channel import Channel, Received
from pipert_shm.control.dispatch import Dispatch
from pipert_shm.control.encoding import PROTOCOL
from pipert_shm.control.messages import (
    Answer,
    EndTap,
    Extended,
    Hello,
    MakeTap,
    Message,
    Notify,
    Relay,
    Relayed,
    TapEnded,
    TapMade,
    Welcome,
)
from pipert_shm.errors import PipeStateError, UnknownTarget, describe, shown
from pipert_shm.events import Audience, check_event_name, checked_flow_routines
from pipert_shm.graph.names import Names
from pipert_shm.limits import check_seconds
from pipert_shm.parent.line import LONG_PATIENCE, PATIENCE, Deferred, HungUp, Line, Unanswered, error_of
from pipert_shm.parent.relays import STRUCTURE
from pipert_shm.parent.taps import Taps
from pipert_shm.routine import Routine
from pipert_shm.shm import sockets
from pipert_shm.shm.finding import Found, await_pipe
from pipert_shm.shm.listing import Control
from pipert_shm.shm.segments import ControlSegment, is_stale
from pipert_shm.statistics import PipeStatistics, read_statistics
from pipert_shm.system import calls, usage
from pipert_shm.tap import Tap

if TYPE_CHECKING:
    from pipert_shm.agents.remote_pipe import RemotePipe

CLOSING = 2.0  # seconds that routines may take to let go of taps when this process hangs up

_lingering: list[ControlSegment] = []  # of pipes that this process is done with, under views that live


@overload
def attach(pipe: str, *, timeout: float | None = 0) -> Attached: ...
@overload
def attach(pipe: str, *, timeout: float | None = 0, hub: str) -> RemotePipe: ...
def attach(pipe: str, *, timeout: float | None = 0, hub: str | None = None) -> Attached | RemotePipe:
    """Attaches this process to a pipe that runs on this machine, and is the same user's, or on another host.

    The pipe goes on as before, whatever this process does or whenever it dies.

    >>> import pipert_shm
    >>> from pipert_shm import DestinationRoutine, Pipe, SourceRoutine
    >>> class Numbers(SourceRoutine):
    ...     def main_logic(self):
    ...         return self.meta.sequence
    >>> class Screen(DestinationRoutine):
    ...     def main_logic(self, number): ...
    >>> with Pipe(name="yard") as pipe:                    # in some program
    ...     pipe.create_flow("both", True, Numbers("camera"), Screen("screen"))
    ...     pipe.build()
    ...     with pipert_shm.attach("yard") as yard:        # in any other one
    ...         yard.notify_event("start")
    ...         with yard.tap("camera") as tap:
    ...             first, second = tap.read(), tap.read()
    ...         yard.notify_event("kill")
    >>> first < second
    True

    :param pipe: its name (`Pipe(name=…)`), or its id, which `pipert-shm ls` shows.
    :param timeout: seconds to wait for a pipe that is not there yet; None: as long as it takes.
    :param hub: for `PIPE@HOST`, the part that another host runs: the hub's address, or a file with a section `hosts`. That
        gives a `RemotePipe`.
    :raises UnknownTarget: when there is no such pipe, or none in time.
    :raises PipeStateError: when several pipes have this name; or the pipe refuses: 64 processes are attached already, or it is
        run by another version of pipert_shm.
    :raises OSError: when its launcher can't be reached, or is not this user's.
    """
    if not isinstance(pipe, str):
        raise TypeError(f"attach() takes a pipe's name or id, not {shown(pipe)}")
    if timeout is not None:
        check_seconds("timeout", timeout, none="as long as it takes")
    if hub is not None:
        from pipert_shm.agents.remote_pipe import RemotePipe  # with Zenoh

        return RemotePipe(pipe, hub, timeout)
    return Attached(await_pipe(pipe, timeout))


class Attached:
    """A pipe that another process has built: `attach()` gives it. A context manager that detaches at its end.

    Methods may be called from any thread, but not from a process that was forked from this one.

    Attributes:
        pipe_id: the pipe's id.
        name: its name.
    """

    def __init__(self, found: Found) -> None:
        self.pipe_id, self.name = found.pipe_id, found.name
        self._home = os.getpid()
        self._logger = logging.getLogger(f"{__name__}.{found.name or found.pipe_id}")
        self._gone = threading.Event()
        self._closed = False
        channel = _connected(found)
        try:
            self._segment = ControlSegment.look_in(found.pipe_id)
        except BaseException as error:
            channel.close()
            if not isinstance(error, posix_ipc.ExistentialError):
                raise
            raise PipeStateError(f"pipe {self._title} has ended") from None
        self._line = Line(self._gone, _turn_away)
        self._line.use(channel, self._logger)
        self._taps = Taps(self._segment, Names(), self._untap, self._logger)
        self._table = self._make_table()
        self._audience = Audience({}, {}, {})
        self._known: tuple[list[str], list[Any]] = [], []
        self._thread = threading.Thread(target=self._listen, name=f"attached-{found.pipe_id}", daemon=True)
        unmap = weakref.finalize(self, _unmap, self._segment)
        unmap.atexit = False
        try:
            calls.start_thread(self._thread)
        except OSError:
            self._line.close()
            raise
        try:
            self._greet()
        except BaseException:
            self.close()
            unmap()  # now: whoever looks at the error keeps this object
            raise

    def _greet(self) -> None:
        hello = Hello(usage.started_at(os.getpid()))
        try:
            welcome: Welcome = self._line.ask(hello, f"the launcher of pipe {self._title}", patience=PATIENCE)
        except HungUp as error:
            if is_stale(self.pipe_id):
                raise
            raise PipeStateError(
                f"the launcher of pipe {self._title} has hung up: too many processes want to attach at this moment; try again"
            ) from error
        self._audience = welcome.audience
        self._taps.know(welcome.names)

    @property
    def _title(self) -> str:
        return f"{self.name!r} ({self.pipe_id})" if self.name else self.pipe_id

    def __repr__(self) -> str:
        state = "detached" if self._closed else "ended" if self._gone.is_set() else "attached"
        return f"Attached({self._title}, {state})"

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if os.getpid() == self._home:
            self.close()

    # ---- looking at it ---------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether the pipe has ended, or this process is detached."""
        return self._gone.is_set()

    def structure(self) -> dict[str, list[Any]]:
        """The routines with their flows and events, as `Pipe.get_pipe_structure` gives them.

        :raises PipeStateError: when the pipe has ended.
        """
        structure: dict[str, list[Any]] = json.loads(self.relay(STRUCTURE))
        return structure

    def statistics(self) -> PipeStatistics:
        """The counters of every routine, wire and flow, as `Pipe.statistics` gives them. It works after the end, too."""
        self._require_home()
        try:
            with Control(self.pipe_id, stale=False) as control:
                self._known = control.flows, control.routines
        except (OSError, ValueError):  # the pipe has ended: what was known last is all that there was
            if not self._known[0]:
                raise PipeStateError(f"pipe {self._title} has ended before its counters were read once") from None
        return read_statistics(self._segment.process, *self._known)

    def tap(self, routine: Routine | str) -> Tap:
        """An iterator over the newest outputs of a routine, as `Pipe.tap` gives it.

        A process may have 8 of them. The frames of one that is the only one of its kind lie where the routine has put them.
        Where more processes tap the same frames, they get copies, so that nobody's views keep the routine from its memory.

        :raises UnknownTarget: when there is no such routine.
        :raises PipeStateError: when the pipe has ended, the routine does not run or sends nothing, or there is no place left.
        """
        if not isinstance(routine, Routine | str):
            raise TypeError(f"tap() takes a routine or the name of one, not {shown(routine)}")
        name = routine if isinstance(routine, str) else routine.name
        self._require_known(name)
        tap: Tap = self._ask(MakeTap(name), LONG_PATIENCE, f"routine {name!r}, in a call of its own perhaps,")
        return tap

    def begin_tap(self, routine: str) -> Callable[[float], Tap | None]:
        """Asks for a tap, and gives a function that waits for it for so many seconds; what that gives is None until it is made.

        :raises UnknownTarget, PipeStateError: as `tap` does; so does the function.
        """
        self._require_known(routine)
        self._require_usable()
        number = self._line.put(MakeTap(routine))

        def look(seconds: float) -> Tap | None:
            answer = self._line.look(number, seconds)
            return answer if isinstance(answer, Tap) else None

        return look

    def _require_known(self, name: str) -> None:
        """:raises UnknownTarget: when there is no such routine."""
        known = [its for routines in self._audience.flows.values() for its in routines]
        if name not in known:
            raise UnknownTarget("routine", name, known)

    def source(self, routine: Routine | str, name: str | None = None, *, reconnect: bool = False) -> AttachedSource:
        """A source for a pipe of this program, which sends what a routine of this one sends. See `AttachedSource`."""
        its = routine if isinstance(routine, str) else routine.name
        return AttachedSource(self.name or self.pipe_id, its, name, reconnect=reconnect)

    # ---- asking it for something -----------------------------------------------------------------

    def notify_event(
        self,
        event_name: str,
        specific_flow_routines: dict[str, Iterable[str]] | None = None,
        specific_routine: str | None = None,
        **event_parameters: Any,
    ) -> None:
        """Notifies routines of an event, as `Pipe.notify_event` does. Returns when it is on its way.

        :raises UnknownEvent, UnknownTarget, PayloadError, WiresValidation, ValueError: as `Pipe.notify_event` does.
        :raises PipeStateError: when the pipe has ended.
        """
        check_event_name(event_name)
        flow_routines: dict[str, Iterable[str]] = dict(checked_flow_routines(specific_flow_routines))
        event = self._audience.address(event_name, flow_routines, specific_routine, event_parameters)
        self._ask(Notify(event, 0), PATIENCE)

    def relay(self, kind: str, body: bytes = b"", *, timeout: float = LONG_PATIENCE) -> bytes:
        """Asks the process that built the pipe a question, which one of its handlers answers; see `Session.serve`.

        :param timeout: seconds that it may take to answer.
        :raises UnknownTarget: when it answers no questions of this kind.
        :raises PipeStateError: when the pipe has ended, or no answer came in time.
        :raises Exception: what the handler raised.
        """
        answer: Relayed = self._ask(Relay(kind, bytes(body)), timeout, "the process that built the pipe")
        if answer.error:
            raise error_of(answer.error)
        return answer.body

    def _ask(self, message: Message, patience: float, whom: str = "") -> Any:
        self._require_usable()
        try:
            return self._line.ask(message, whom or f"the launcher of pipe {self._title}", patience=patience)
        except Deferred:
            if isinstance(message, Notify):
                return None
            raise PipeStateError("a signal's handler can't ask for this in the midst of another call of the pipe's") from None

    def _untap(self, edge: int) -> None:
        if not self._gone.is_set():
            self._line.tell(EndTap(edge))

    def _require_usable(self) -> None:
        self._require_home()
        if self._closed:
            raise PipeStateError(f"this process is detached from pipe {self._title}")

    def _require_home(self) -> None:
        if os.getpid() != self._home:
            raise PipeStateError("this process was forked from the one that is attached, and is not: attach there")

    # ---- the end ---------------------------------------------------------------------------------

    def await_end(self, timeout: float | None = None) -> bool:
        """Waits until the pipe has ended.

        :param timeout: seconds to wait; None: as long as it takes.
        :returns: whether it has.
        """
        return self._gone.wait(timeout)

    def close(self) -> None:
        """Ends all taps, and detaches. Arrays that were read stay valid.

        :raises PipeStateError: in a process that was forked from the one that is attached.
        """
        self._require_home()
        if self._closed:
            return
        self._closed = True
        for tap in self._taps.all():
            tap.close()
        if not len(self._taps):
            self._line.stop_hearing()  # else the listener ends with the last tap
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSING)

    # ---- the thread that hears the launcher -------------------------------------------------------

    def _make_table(self) -> Dispatch:
        table = Dispatch("an attached process", self._logger, self._make_good)
        table.on_received(Welcome, lambda message, received: self._line.answer(received.question, message))
        table.on_received(Answer, lambda message, received: self._line.answer(received.question, message.error or None))
        table.on_received(Relayed, lambda message, received: self._line.answer(received.question, message))
        table.on_received(TapMade, self._make_tap)
        table.on(TapEnded, lambda message: self._taps.end(message.edge))
        table.on(Extended, self._extend)
        return table

    def _make_good(self, received: Received, error: Exception) -> None:
        if received.question:
            self._line.answer(received.question, Unanswered(f"the launcher's answer could not be read: {describe(error)}"))
            self._line.tell(Answer(), received.question)  # where it made something for us

    def _make_tap(self, message: TapMade, received: Received) -> None:
        answer: object
        try:
            answer = self._taps.make(message)
        except Exception as error:
            self._untap(message.edge.number)
            answer = error
        self._line.answer(received.question, answer)

    def _extend(self, message: Extended) -> None:
        self._audience = message.audience
        self._taps.know(message.names)

    def _listen(self) -> None:
        while (received := self._line.hear()) is not None:
            self._table.deliver(received)
            if self._closed and not len(self._taps):
                break
        self._gone.set()
        self._line.end()
        self._taps.end_all()
        self._line.close()


def _connected(found: Found) -> Channel:
    """A channel to a pipe's launcher.

    :raises PipeStateError: when nobody listens there, or the two would not understand each other.
    :raises OSError: when it can't be reached.
    """
    directory, protocol = found.meeting
    title = f"{found.name!r} ({found.pipe_id})"
    if not directory:
        raise PipeStateError(f"nobody can attach to pipe {title}")
    if protocol != PROTOCOL:
        raise PipeStateError(f"pipe {title} is run by another version of pipert_shm: attach with the same one")
    try:
        return Channel(sockets.connect(Path(directory), found.pipe_id))
    except (FileNotFoundError, ConnectionRefusedError):
        raise PipeStateError(
            f"nobody listens for pipe {title} in {directory}: it runs inline, has just ended, or its log says why"
        ) from None


def _unmap(segment: ControlSegment) -> None:
    """Unmaps what this process had of a pipe; what views still stand on, when the next pipe is done with."""
    _lingering.append(segment)
    _lingering[:] = [one for one in _lingering if not one.unmap()]


def _turn_away(answer: Any) -> None:
    """Releases an answer that nobody waits for any more."""
    if isinstance(answer, Tap):
        answer.close()
