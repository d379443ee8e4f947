"""A server for a pipe's HTTP control, beside its flows."""

from __future__ import annotations

import socket
from collections.abc import Collection

from pipert_shm.api.app import create_app, end_streams, follow_hosts
from pipert_shm.api.background import BackgroundServer
from pipert_shm.api.elsewhere import Elsewhere
from pipert_shm.api.front import announce
from pipert_shm.limits import check_port
from pipert_shm.pipe import Pipe
from pipert_shm.web.addresses import check_address
from pipert_shm.web.server import Server


class APIWrapper:
    """Serves a pipe's HTTP control: see `create_app`.

    It answers 256 requests at a time, and refuses others with 503. It always answers `/health`, `/ready` and every client that
    shows the token. It hangs up on a client that is silent: after 10 s without a request's head, 30 s without its body, or when
    another client needs the place.

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
    :raises TypeError: when the token is no str.
    :raises ValueError: when there is no token, and `host` is not a loopback address; or the token can't be shown.
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
        check_address(host, token, "end the pipe")
        check_port(port)
        self._address = (host, port)
        self._pipe = pipe
        self._has_dashboard = dashboard
        self._app = create_app(pipe, token=token, hosts=hosts, origins=origins, dashboard=dashboard)

    def follow_hosts(self, hosts: Elsewhere) -> None:
        """Shows the parts that other hosts run, too: `pipert-shm run` of a file for several hosts calls it before it serves."""
        follow_hosts(self._app, hosts)

    def run(self) -> BackgroundServer:
        """Starts to serve on its own thread, until the pipe has ended. The port is open when this returns.

        The pipe may be built later: until then, requests that need it are answered with 409.

        :raises OSError: when the port is taken.
        """
        listener = self._listen()
        try:
            return BackgroundServer(self._pipe, Server(self._app, lambda: end_streams(self._app)), listener)
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

        server = Server(self._app, end)
        with self._listen() as listener:
            server.end_with(session.gone)
            try:
                server.run(sockets=[listener])
            except KeyboardInterrupt:
                session.relay.logger.info("interrupted: the pipe is killed")
        self._pipe.join(to_kill=True)

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        listener = socket.create_server(self._address, family=family)
        announce(self._pipe.logger, *listener.getsockname()[:2], dashboard=self._has_dashboard)
        return listener
