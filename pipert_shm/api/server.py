"""A server for a pipe's HTTP control, beside its flows."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from pipert_shm.api.app import create_app, end_streams
from pipert_shm.api.background import BackgroundServer
from pipert_shm.api.guard import is_loopback
from pipert_shm.pipe import Pipe

SLOW_CLIENT_S = 3  # what a client that is in the middle of a request gets when the server ends
MOST_CONNECTIONS = 256


class APIWrapper:
    """Serves a pipe's HTTP control: see `create_app`. No more than 256 clients at a time; others are answered with 503.

    >>> from pipert_shm import APIWrapper, Pipe
    >>> APIWrapper("0.0.0.0", 8080, Pipe())
    Traceback (most recent call last):
    ValueError: on '0.0.0.0' anyone could end the pipe: give it a token=, or serve it on 127.0.0.1, ::1 or localhost

    :param host: the address to serve on; without a token, a loopback address.
    :param port: the TCP port; 0 takes a free one, which the pipe's logger tells.
    :param token: what clients have to show, as `Authorization: Bearer …`; a browser opens `/?token=…` once.
    :param hosts: names by which it is reached, besides localhost and addresses.
    :param origins: sites whose pages may use it, such as `https://cockpit.example`.
    :param dashboard: whether there is a page at `/` that shows the pipe, and controls it. It needs the `dashboard` extra.
    :raises ImportError: when the dashboard is wanted, and NiceGUI is not installed.
    :raises ValueError: when there is no token, and `host` is not a loopback address.
    """

    def __init__(
        self,
        host: str,
        port: int,
        pipe: Pipe,
        *,
        token: str | None = None,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        dashboard: bool = False,
    ) -> None:
        if not token and not is_loopback(host):
            raise ValueError(
                f"on {host!r} anyone could end the pipe: give it a token=, or serve it on 127.0.0.1, ::1 or localhost"
            )
        self._address = (host, port)
        self._pipe = pipe
        self._app = create_app(pipe, token=token, hosts=hosts, origins=origins, dashboard=dashboard)

    def run(self) -> BackgroundServer:
        """Serves on a thread of its own until the pipe has ended, and returns at once; the port is open then.

        The pipe may be built later: until then, requests that need it are answered with 409.

        :raises OSError: when the port is taken.
        """
        listener = self._listen()
        try:
            return BackgroundServer(self._pipe, self._make_server(lambda: end_streams(self._app)), listener)
        except BaseException:
            listener.close()
            raise

    def serve(self) -> None:
        """Serves until the pipe is killed, by `/kill` or otherwise, or Ctrl-C, which kills the pipe. Then both have ended.

        :raises PipeStateError: when the pipe is not built.
        :raises OSError: when the port is taken.
        :raises PipeFailed: as `Pipe.join` does, when a routine failed for good or a flow's process died.
        """
        session = self._pipe._built()

        def end() -> None:
            end_streams(self._app)
            session.kill()  # a request may wait for a routine that hangs

        server = self._make_server(end)

        def end_with_pipe() -> None:
            session.gone.wait()
            server.should_exit = True

        with self._listen() as listener:
            threading.Thread(target=end_with_pipe, name="api-end", daemon=True).start()
            try:
                server.run(sockets=[listener])
            except KeyboardInterrupt:
                session.relay.logger.info("interrupted: the pipe is killed")
        self._pipe.join(to_kill=True)

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        listener = socket.create_server(self._address, family=family)
        self._pipe.logger.info("the control listens on %s, port %d", *listener.getsockname()[:2])
        return listener

    def _make_server(self, on_end: Callable[[], None]) -> _Server:
        """:param on_end: what is done first when it ends."""
        config = uvicorn.Config(
            self._app,
            loop="asyncio",
            log_config=None,
            access_log=False,  # the token may stand in an address
            limit_concurrency=MOST_CONNECTIONS,
        )
        return _Server(config, on_end)


class _Server(uvicorn.Server):
    """Hangs up on clients that are slow when it ends; to their requests that is a disconnection, and not a failure."""

    def __init__(self, config: uvicorn.Config, on_end: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_end = on_end

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
        self._on_end()
        asyncio.get_running_loop().call_later(SLOW_CLIENT_S, self._hang_up)
        await super().shutdown(sockets)

    def _hang_up(self) -> None:
        for connection in self.server_state.connections:
            connection.transport.abort()
