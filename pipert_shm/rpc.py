"""Control over zerorpc, by PipeRT2's calls. Needs the `rpc` extra."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from pipert_shm.events import KILL_EVENT_NAME, START_EVENT_NAME, STOP_EVENT_NAME
from pipert_shm.pipe import Pipe
from pipert_shm.statistics import Latency, RoutineStatistics, WireStatistics

THREADS = 40  # calls at a time; a client that waits in `join` takes one
LAST_ANSWERS_S = 2.0  # how long clients that don't read their answers are waited for at the end


class RPCPipeWrapper:
    """Serves a pipe's control to zerorpc clients: `start`, `pause`, `kill`, `execute`, `structure` and `statistics`.

    An error is raised in the client as `zerorpc.RemoteError`. There is no authentication: bind it to a loopback address.
    """

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def run_rpc_server(self, endpoint: str) -> None:
        """Serves until the pipe is killed, by a client or otherwise, or Ctrl-C, which kills the pipe. Then both have ended.

        :param endpoint: as zerorpc takes it, such as `tcp://127.0.0.1:4242`.
        :raises ImportError: when zerorpc is not installed.
        :raises PipeStateError: when the pipe is not built.
        :raises PipeFailed: as `Pipe.join` does, when a routine failed for good or a flow's process died.
        """
        session = self._pipe._built()
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

        calls = (self.start, self.pause, self.kill, self.execute, self.structure, self.statistics)
        context = zerorpc.Context()
        server = zerorpc.Server({call.__name__: pooled(call) for call in calls}, context=context)
        try:
            server.bind(endpoint)
            gevent.spawn(pool.apply, session.gone.wait).link(lambda _: server.stop())
            with _ctrl_c_does(lambda: gevent.spawn(pool.apply, session.kill)):
                server.run()
        finally:
            server.close()
            # The answer to the call that ended it all may still be on its way out.
            flush = threading.Thread(target=context.term, name="rpc-flush", daemon=True)
            flush.start()
            flush.join(LAST_ANSWERS_S)
        pool.kill()
        self._pipe.join(to_kill=True)

    def start(self) -> None:
        """Starts all routines."""
        self._pipe.notify_event(START_EVENT_NAME)

    def pause(self) -> None:
        """Stops all routines after the message in hand."""
        self._pipe.notify_event(STOP_EVENT_NAME)

    def kill(self) -> None:
        """Ends the pipe, and then the server."""
        self._pipe.join(to_kill=True)

    def execute(self, name: str, arguments: str | dict[str, Any] | None = None) -> None:
        """Notifies an event, or calls `join`.

        :param name: the event's name, or `join`.
        :param arguments: its parameters, as a dict or the JSON of one: what `Pipe.notify_event` or `Pipe.join` takes.
        :raises ValueError: when they are something else.
        """
        parameters = json.loads(arguments) if isinstance(arguments, str) else arguments or {}
        if not isinstance(parameters, dict):
            raise ValueError(f"the arguments of {name!r} must be a dict or the JSON of one, not {arguments!r}")
        if name == "join":
            self._pipe.join(**parameters)
        elif name == KILL_EVENT_NAME:
            self.kill()
        else:
            self._pipe.notify_event(name, **parameters)

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


@contextmanager
def _ctrl_c_does(action: Callable[[], object]) -> Iterator[None]:
    """Instead of raising KeyboardInterrupt, at which zerorpc would wait for clients that wait for the pipe's end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: action())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
