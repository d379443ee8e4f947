"""Control over zerorpc, by PipeRT2's calls. Needs the `rpc` extra."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import wraps
from typing import Any

from pipert_shm.events import KILL_EVENT_NAME, START_EVENT_NAME, STOP_EVENT_NAME
from pipert_shm.pipe import Pipe
from pipert_shm.session import Session
from pipert_shm.statistics import Latency, RoutineStatistics, WireStatistics

THREADS = 40  # calls at a time; one that waits for the pipe's end takes none
LAST_ANSWERS_S = 2.0  # how long clients that don't read their answers are waited for at the end


class RPCPipeWrapper:
    """Serves a pipe's control to zerorpc clients: `start`, `pause`, `kill`, `execute`, `structure` and `statistics`.

    An error is raised in the client as `zerorpc.RemoteError`. There is no authentication: bind it to a loopback address.
    """

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._end: _End | None = None  # while it serves

    def run_rpc_server(self, endpoint: str) -> None:
        """Serves until the pipe is killed, by a client or otherwise, or by Ctrl-C or SIGTERM. Then both have ended.

        The pipe may be built meanwhile, by another thread; events that come before are kept for `build()`.

        :param endpoint: as zerorpc takes it, such as `tcp://127.0.0.1:4242`.
        :raises ImportError: when zerorpc is not installed.
        :raises PipeFailed: as `Pipe.join` does, when a routine failed for good or a flow's process died.
        """
        try:
            import gevent.threadpool
            import zerorpc
        except ImportError as error:
            raise ImportError("RPC needs zerorpc: pip install 'pipert_shm[rpc]'") from error
        logging.getLogger("zerorpc").addHandler(logging.NullHandler())  # it logs clients' mistakes with a traceback
        pool = gevent.threadpool.ThreadPool(THREADS)

        def pooled(call: Callable[..., Any]) -> Callable[..., Any]:
            """The call, on a thread of the pool: zerorpc's greenlets share this one, and none may hold up the others."""

            def serve(*arguments: Any) -> Any:
                value, error = pool.apply(_outcome, (call, arguments))
                if error is not None:
                    raise error
                return value

            return serve

        calls = (self.start, self.pause, self.structure, self.statistics)
        methods = {call.__name__: pooled(call) for call in calls}
        methods["kill"] = self.kill  # these two wait, in their own greenlets
        methods["execute"] = self._executor(pooled(self._notify))
        context = zerorpc.Context()
        server = zerorpc.Server(methods, context=context)
        end = self._end = _End(self._pipe)
        self._pipe._attach(end)
        try:
            server.bind(endpoint)
            gevent.spawn(end.gone.wait).link(lambda _: server.stop())
            with _signals_do(end.hasten):
                server.run()
        finally:
            server.close()
            # The answer to the call that ended it all may still be on its way out.
            flush = threading.Thread(target=context.term, name="rpc-flush", daemon=True)
            flush.start()
            flush.join(LAST_ANSWERS_S)
            self._pipe._detach(end)
            end.close()
            self._end = None
        pool.kill()
        if self._pipe._session is not None:
            self._pipe.join(to_kill=True)

    def _executor(self, notify: Callable[[str, dict[str, Any]], Any]) -> Callable[..., Any]:
        """The call `execute`, which notifies by this, and waits for the pipe's end beside it."""

        @wraps(self.execute)
        def execute(name: str, arguments: str | dict[str, Any] | None = None) -> None:
            self._execute(name, arguments, notify)

        return execute

    def start(self) -> None:
        """Starts all routines."""
        self._pipe.notify_event(START_EVENT_NAME)

    def pause(self) -> None:
        """Stops all routines after the message in hand."""
        self._pipe.notify_event(STOP_EVENT_NAME)

    def kill(self) -> None:
        """Ends the pipe, and then the server."""
        self._join(to_kill=True)

    def execute(self, name: str, arguments: str | dict[str, Any] | None = None) -> None:
        """Notifies an event, or calls `join`.

        :param name: the event's name, or `join`.
        :param arguments: its parameters, as a dict or the JSON of one: what `Pipe.notify_event` or `Pipe.join` takes.
        :raises ValueError: when they are something else.
        """
        self._execute(name, arguments, self._notify)

    def _execute(self, name: str, arguments: str | dict[str, Any] | None, notify: Callable[[str, dict[str, Any]], Any]) -> None:
        parameters = json.loads(arguments) if isinstance(arguments, str) else arguments or {}
        if not isinstance(parameters, dict):
            raise ValueError(f"the arguments of {name!r} must be a dict or the JSON of one, not {arguments!r}")
        if name == "join":
            self._join(**parameters)
        elif name == KILL_EVENT_NAME:
            self.kill()
        else:
            notify(name, parameters)

    def _notify(self, name: str, parameters: dict[str, Any]) -> None:
        self._pipe.notify_event(name, **parameters)

    def _join(self, to_kill: bool = False) -> None:
        """Waits for the pipe's end. Where it serves, it does so in a greenlet; another client may start the pipe meanwhile."""
        if self._end is None:
            self._pipe.join(to_kill)
        else:
            self._end.wait(to_kill)

    def structure(self) -> dict[str, Any]:
        """See `Pipe.get_pipe_structure`."""
        return self._pipe.get_pipe_structure()

    def statistics(self) -> dict[str, Any]:
        """See `Pipe.statistics`; routines and wires are lists of dicts here, and a latency is its count, p50 and p99."""
        now = self._pipe.statistics()
        return {
            "time_s": now.time_s,
            "routines": [_plain(routine) for routine in now.routines.values()],
            "wires": [_plain(wire) for wire in now.wires.values()],
        }


class _End:
    """The pipe's end, for any number of greenlets: one thread waits for it, and wakes them.

    To be made and used in the hub's thread.

    Attributes:
        gone: set when the pipe is gone.
    """

    def __init__(self, pipe: Pipe) -> None:
        import gevent
        import gevent.event

        self._pipe = pipe
        self._session: Session | None = None  # until the pipe is built
        self._joined = gevent.event.Event()
        self._failure: Exception | None = None
        self._joining = False
        self.gone = gevent.event.Event()
        self._watchers = []
        for event in (self._joined, self.gone):
            watcher = gevent.get_hub().loop.async_()  # which other threads may send to
            watcher.start(event.set)
            self._watchers.append(watcher)

    def begin(self, session: Session) -> None:
        """The pipe is built. Any thread."""
        self._session = session

        def await_gone() -> None:
            session.gone.wait()
            self._watchers[1].send()

        _in_thread("rpc-end", await_gone)

    def finish(self) -> None:
        """Nothing is waited for: `run_rpc_server` returns by itself."""

    def hasten(self) -> None:
        """Kills the pipe; without one, what serves it ends."""
        if self._session is None:
            self._watchers[1].send()
        else:
            _in_thread("rpc-signal", self._session.kill)

    def wait(self, to_kill: bool) -> None:
        """Blocks this greenlet until the pipe has ended.

        :param to_kill: kill it first; where there is none yet, only the server ends.
        :raises PipeFailed: as `Pipe.join` does.
        :raises PipeStateError: when it is not built, and not to be killed.
        """
        if to_kill and self._session is None:
            self.hasten()
            return
        session = self._pipe._built()
        if to_kill:
            _in_thread("rpc-kill", session.kill)  # which waits when there is no room for the event
        if not self._joining:
            self._joining = True
            _in_thread("rpc-join", lambda: self._join(session))
        self._joined.wait()
        if self._failure is not None:
            raise self._failure

    def _join(self, session: Session) -> None:
        try:
            session.over.wait()  # also of a pipe that was not started yet
            self._pipe.join()
        except Exception as error:
            self._failure = error
        self._watchers[0].send()

    def close(self) -> None:
        """Lets go of what the hub has of it; the pipe is gone."""
        for watcher in self._watchers:
            watcher.close()


def _in_thread(name: str, action: Callable[[], object]) -> None:
    threading.Thread(target=action, name=name, daemon=True).start()


@contextmanager
def _signals_do(action: Callable[[], object]) -> Iterator[None]:
    """What Ctrl-C and SIGTERM do, instead of raising KeyboardInterrupt, at which zerorpc would wait for its clients."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: action()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _outcome(call: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    """What the call returned or raised, as a value: gevent prints what a pool's thread raises."""
    try:
        return call(*arguments), None
    except Exception as error:
        return None, error


def _plain(counters: RoutineStatistics | WireStatistics) -> dict[str, Any]:
    values = {field.name: getattr(counters, field.name) for field in fields(counters)}
    for name, value in values.items():
        if isinstance(value, Latency):
            known = {"p50_us": value.p50_us, "p99_us": value.p99_us} if value.count else {"p50_us": None, "p99_us": None}
            values[name] = {"count": value.count, **known}
    return values
