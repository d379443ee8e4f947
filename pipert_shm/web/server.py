"""An HTTP server that gives each client a limited time, and keeps room for health checks and clients with the token."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from pipert_shm.system.interrupts import interrupts_deferred
from pipert_shm.web.guard import CROWDED

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as Protocol
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as Protocol

HEAD_S = 10.0  # how long the head of a request may take to come
BODY_S = 30.0  # and its body
MOST_BUSY = 256  # requests that are answered at a time; beyond that, probes and who shows the token
MOST_CONNECTIONS = 256  # beyond that, the clients that have been silent longest are hung up on…
PATIENCE_S = 1.0  # …after so long, which is enough for a client that has something to say
MOST_OPEN = 1024  # beyond that, at once


class Connection(Protocol):
    """One client. While it is its turn to say something, it is waited for, but not for ever.

    Attributes:
        since: when the wait for it began, by the loop's clock; None while a request of it is being answered.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.since: float | None = None
        self._guarded: ASGIApp = self.app
        self.app = self._answer
        self._awaited: tuple[object, float | None] = None, None  # in which request, and for how long
        self._timer: asyncio.TimerHandle | None = None

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        silent = sum(isinstance(one, Connection) and one.since is not None for one in self.connections)
        scope[CROWDED] = len(self.connections) - silent > MOST_BUSY
        await self._guarded(scope, receive, send)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._look()
        if len(self.connections) > MOST_OPEN:
            self._make_room()
        elif len(self.connections) > MOST_CONNECTIONS:
            self.loop.call_later(PATIENCE_S, self._make_room)

    def data_received(self, data: bytes) -> None:
        """It has said something."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """It has been answered."""
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._await(None)
        super().connection_lost(exc)

    def _look(self) -> None:
        """Sees whose turn it is."""
        cycle = self.cycle
        limit: float | None = None
        if self.transport.get_protocol() is self:  # else it is a WebSocket by now
            limit = HEAD_S if cycle is None or cycle.response_complete else BODY_S if cycle.more_body else None
        if self._awaited != (cycle, limit):  # what comes in drops does not gain time
            self._awaited = cycle, limit
            self._await(limit)

    def _await(self, limit: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.since = None if limit is None else self.loop.time()
        self._timer = None if limit is None else self.loop.call_later(limit, self.transport.close)

    def _make_room(self) -> None:
        """Hangs up on the client that has been silent longest."""
        silent = [one for one in self.connections if isinstance(one, Connection) and one.since is not None]
        if len(self.connections) > MOST_CONNECTIONS and silent:
            oldest = min(silent, key=lambda one: one.since or 0.0)
            self.connections.discard(oldest)
            oldest.transport.abort()


class Server(uvicorn.Server):
    """Serves an application. When it ends, it hangs up on slow clients; to their requests that is a disconnection, no failure.

    :param app: the application, with its guard.
    :param on_end: called when it ends: ends the answers that would go on.
    :param slow_client_s: what a client that is in the middle of a request gets then.
    :param options: of `uvicorn.Config`.
    """

    def __init__(self, app: ASGIApp, on_end: Callable[[], None], *, slow_client_s: float = 3.0, **options: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=Connection,
                log_config=None,
                access_log=False,  # the token may stand in an address
                **options,
            )
        )
        self._on_end = on_end
        self._slow_client_s = slow_client_s

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until it is told to end. A signal that comes while its loop is made waits until the loop can be closed."""
        with interrupts_deferred():
            runner = asyncio.Runner()
            runner.get_loop()
        with runner:
            runner.run(self.serve(sockets=sockets))

    def end_with(self, over: threading.Event) -> None:
        """Ends when the event is set; a new thread waits for it."""

        def wait() -> None:
            over.wait()
            self.should_exit = True

        threading.Thread(target=wait, name="api-end", daemon=True).start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ends at every signal that ends the program by a handler of Python's, as `pipert-shm run` has them, and not at two."""
        with super().capture_signals():
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            more = [number for number in (signal.SIGHUP, signal.SIGQUIT) if callable(signal.getsignal(number))]
            before = {number: signal.signal(number, self.handle_exit) for number in more}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)  # uvicorn raises those that came again, for these

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends at the first signal, which the program then hears of. At those that follow uvicorn would break its end off."""
        if not self._captured_signals:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends all answers, and hangs up on clients that do not take the rest."""
        self._on_end()
        asyncio.get_running_loop().call_later(self._slow_client_s, self._hang_up)
        await super().shutdown(sockets)

    def _hang_up(self) -> None:
        for connection in self.server_state.connections:
            connection.transport.abort()
