"""Serves a pipe's control over zerorpc, with PipeRT2's calls. Needs the `rpc` extra."""

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
from pipert_shm.extras import to_install
from pipert_shm.parent.session import Session
from pipert_shm.pipe import Pipe, check_pipe
from pipert_shm.statistics import Latency, RoutineStatistics, WireStatistics
from pipert_shm.web.addresses import is_loopback, name_of

THREADS = 40  # threads for calls that may wait for the pipe; a call that waits for its end needs none
LOOKS = 4  # threads for calls that only read
LAST_ANSWERS_S = 2.0  # how long the end waits for clients that don't read their answers


class RPCPipeWrapper:
    """Serves a pipe's control to zerorpc clients: `start`, `pause`, `kill`, `execute`, `structure` and `statistics`.

    An error is raised in the client as `zerorpc.RemoteError`. A client with the key may call everything. Without a key, any
    user of this machine may, and nobody else.

    :param pipe: the pipe, built or not.
    :raises TypeError: when it is not a pipe.
    """

    def __init__(self, pipe: Pipe) -> None:
        check_pipe("RPCPipeWrapper(pipe)", pipe)
        self._pipe = pipe
        self._end: _End | None = None  # while it serves

    def run_rpc_server(self, endpoint: str, *, key: str | None = None) -> None:
        """Serves until the pipe is killed. It returns when the pipe and the server have ended.

        A client, the program, Ctrl-C and SIGTERM can kill the pipe. Another thread may build the pipe meanwhile. Events that
        come before are kept for `build()`.

        :param endpoint: zerorpc's address, such as `tcp://127.0.0.1:4242`; without a key, a loopback address.
        :param key: a secret of 40 characters that clients need, too: see `use_key`. With a key the traffic is encrypted
            (ZeroMQ's CURVE). `zmq.curve_keypair()[1].decode()` makes one.
        :raises ValueError: when there is no key and other machines could reach the endpoint, or the key is not valid.
        :raises ImportError: when zerorpc is not installed.
        :raises PipeFailed: as `Pipe.join` does, when a routine failed for good or a flow's process died.
        """
        check_endpoint(endpoint, key)
        try:
            import gevent.threadpool
            import zerorpc
        except ImportError as error:
            raise ImportError(f"RPC needs zerorpc: {to_install('rpc')}") from error
        logging.getLogger("zerorpc").addHandler(logging.NullHandler())  # it would log clients' mistakes with a traceback
        patient, looking = gevent.threadpool.ThreadPool(THREADS), gevent.threadpool.ThreadPool(LOOKS)
        context = zerorpc.Context()
        server = zerorpc.Server(self._methods(patient, looking), context=context)
        keeper = None if key is None else _Keeper(context, server, key)
        end = self._end = _End(self._pipe)
        self._pipe._attach(end)
        try:
            server.bind(endpoint)
            gevent.spawn(end.gone.wait).link(lambda _: server.stop())
            with _signals_do(end.hasten):
                server.run()
        finally:
            server.close()
            if keeper is not None:
                keeper.close()
            _flush(context)
            self._pipe._detach(end)
            end.close()
            self._end = None
        patient.kill()
        looking.kill()
        if self._pipe._session is not None:
            self._pipe.join(to_kill=True)

    def _methods(self, patient: Any, looking: Any) -> dict[str, Callable[..., Any]]:
        """What clients can call, by name.

        :param patient: a pool of threads for the calls that may wait for the pipe.
        :param looking: a pool of threads for the calls that only look.
        """
        methods = {call.__name__: _pooled(call, patient) for call in (self.start, self.pause)}
        methods |= {call.__name__: _pooled(call, looking) for call in (self.structure, self.statistics)}
        methods["kill"] = self.kill  # these two wait, in their own greenlets
        methods["execute"] = self._executor(_pooled(self._notify, patient))
        return methods

    def _executor(self, notify: Callable[[str, dict[str, Any]], Any]) -> Callable[..., Any]:
        """Makes the call `execute`, which sends events with `notify`, and waits for the pipe's end in a greenlet."""

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
        :param arguments: the parameters of `Pipe.notify_event` or `Pipe.join`, as a dict or its JSON.
        :raises ValueError: when they are neither.
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
        """Waits for the pipe's end; while serving in a greenlet, so that another client may start the pipe meanwhile."""
        if self._end is None:
            self._pipe.join(to_kill)
        else:
            self._end.wait(to_kill)

    def structure(self) -> dict[str, Any]:
        """See `Pipe.get_pipe_structure`."""
        return self._pipe.get_pipe_structure()

    def statistics(self) -> dict[str, Any]:
        """See `Pipe.statistics`. Routines and wires are lists of dicts, and a latency is a dict of count, p50_us and p99_us."""
        now = self._pipe.statistics()
        return {
            "time_s": now.time_s,
            "routines": [_plain(routine) for routine in now.routines.values()],
            "wires": [_plain(wire) for wire in now.wires.values()],
        }


# ---- who may call --------------------------------------------------------------------------------


def check_endpoint(endpoint: str, key: str | None) -> None:
    """Checks that nobody without a right can call a server there.

    :raises ValueError: when there is no key and other machines can reach the endpoint, or the key is not valid.
    """
    if key is not None:
        _public_part(key)
    elif not endpoint.startswith(("ipc://", "inproc://")) and not is_loopback(name_of(endpoint.removeprefix("tcp://"))):
        raise ValueError(
            f"on {endpoint!r} anyone could end the pipe: give it a key=, or serve it on an address such as tcp://127.0.0.1:4242"
        )


def use_key(client: Any, key: str) -> None:
    """Makes a client use a server's key. Call it before the client connects.

    >>> from pipert_shm.bridges.rpc import use_key
    >>> import zerorpc                                                      # doctest: +SKIP
    >>> client = zerorpc.Client()                                           # doctest: +SKIP
    >>> use_key(client, os.environ["PIPERT_KEY"])                           # doctest: +SKIP
    >>> client.connect("tcp://10.0.0.5:4242")                               # doctest: +SKIP

    :param client: a `zerorpc.Client`.
    :param key: the key that `run_rpc_server` got.
    :raises ValueError: when the key is not valid.
    """
    socket = client._events._socket
    socket.curve_secretkey, socket.curve_publickey = key.encode(), _public_part(key)
    socket.curve_serverkey = _public_part(key)


def _public_part(key: str) -> bytes:
    import zmq
    from zmq.error import ZMQError

    try:
        public: bytes = zmq.curve_public(key.encode("ascii"))
    except (ValueError, ZMQError):
        raise ValueError(
            "the key is no key of ZeroMQ's: it has 40 characters; this makes one: "
            "python -c 'import zmq; print(zmq.curve_keypair()[1].decode())'"
        ) from None
    return public


class _Keeper:
    """Lets in clients that have the key: it answers ZeroMQ's question about each client that connects (RFC 27, ZAP).

    Make it before the server is bound, and use it on the hub's thread.
    """

    def __init__(self, context: Any, server: Any, key: str) -> None:
        import gevent
        from zmq.constants import SocketType
        from zmq.utils import z85

        self._credential = z85.decode(_public_part(key))
        self._requests = context.socket(SocketType.REP)
        self._requests.bind("inproc://zeromq.zap.01")
        socket = server._events._socket
        socket.curve_secretkey, socket.curve_server = key.encode(), True
        socket.zap_domain = b"pipert"
        self._greenlet = gevent.spawn(self._answer)

    def _answer(self) -> None:
        while True:
            version, request, _, _, _, mechanism, *credentials = self._requests.recv_multipart()
            known = mechanism == b"CURVE" and credentials == [self._credential]
            status = (b"200", b"OK", b"owner") if known else (b"400", b"another key", b"")
            self._requests.send_multipart([version, request, *status, b""])

    def close(self) -> None:
        """Lets no more clients in."""
        self._greenlet.kill()
        self._requests.close()


# ---- the pipe's end ------------------------------------------------------------------------------


class _End:
    """Waits for the pipe's end on behalf of any number of greenlets: one thread waits, and wakes them.

    Make it and use it on the hub's thread.

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
        self._joining = self._killing = False
        self.gone = gevent.event.Event()
        self._watchers = []
        for event in (self._joined, self.gone):
            watcher = gevent.get_hub().loop.async_()  # other threads may send to it
            watcher.start(event.set)
            self._watchers.append(watcher)

    def begin(self, session: Session) -> None:
        """Tells it that the pipe is built. Any thread."""
        self._session = session

        def await_gone() -> None:
            session.gone.wait()
            self._watchers[1].send()

        _in_thread("rpc-end", await_gone)

    def finish(self) -> None:
        """Does nothing: `run_rpc_server` returns by itself."""

    def hasten(self) -> None:
        """Kills the pipe; if it is not built yet, ends the server."""
        if self._session is None:
            self._watchers[1].send()
        else:
            _in_thread("rpc-signal", self._session.kill)

    def wait(self, to_kill: bool) -> None:
        """Blocks this greenlet until the pipe has ended.

        :param to_kill: kills the pipe first; if it is not built yet, only the server ends.
        :raises PipeFailed: as `Pipe.join` does.
        :raises PipeStateError: when it is not built and `to_kill` is False.
        """
        if to_kill and self._session is None:
            self.hasten()
            return
        session = self._pipe._built()
        if to_kill and not self._killing:
            self._killing = True
            _in_thread("rpc-kill", lambda: self._kill(session))  # it may wait for room for the event
        if not self._joining:
            self._joining = True
            _in_thread("rpc-join", lambda: self._join(session))
        self._joined.wait()
        if self._failure is not None:
            raise self._failure

    def _kill(self, session: Session) -> None:
        try:
            session.kill()
        finally:
            self._killing = False

    def _join(self, session: Session) -> None:
        try:
            session.outcome.over.wait()  # a pipe that was not started yet counts, too
            self._pipe.join()
        except Exception as error:
            self._failure = error
        self._watchers[0].send()

    def close(self) -> None:
        """Frees the hub's watchers. The pipe has ended."""
        for watcher in self._watchers:
            watcher.close()


def _in_thread(name: str, action: Callable[[], object]) -> None:
    threading.Thread(target=action, name=name, daemon=True).start()


@contextmanager
def _signals_do(action: Callable[[], object]) -> Iterator[None]:
    """Makes Ctrl-C and SIGTERM call the action. At a KeyboardInterrupt zerorpc would wait for its clients."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: action()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pooled(call: Callable[..., Any], pool: Any) -> Callable[..., Any]:
    """The call, made on a thread of the pool: zerorpc's greenlets share one thread, and none may hold up the others."""

    def serve(*arguments: Any) -> Any:
        value, error = pool.apply(_outcome, (call, arguments))
        if error is not None:
            raise error
        return value

    return serve


def _flush(context: Any) -> None:
    """Waits until the clients have their answers, that of the call that ended the pipe among them, but not for long."""
    flush = threading.Thread(target=context.term, name="rpc-flush", daemon=True)
    flush.start()
    flush.join(LAST_ANSWERS_S)


def _outcome(call: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    """Returns the call's result, or its error, since gevent prints errors that a pool's thread raises."""
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
