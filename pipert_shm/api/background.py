"""A server that runs beside the program."""

from __future__ import annotations

import os
import socket
import threading
from weakref import WeakSet

from pipert_shm.control.guard import report
from pipert_shm.errors import describe
from pipert_shm.parent.session import Session
from pipert_shm.pipe import Pipe
from pipert_shm.system import calls
from pipert_shm.system.interrupts import interrupts_allowed, interrupts_held
from pipert_shm.web.server import Server

LAST_REQUESTS_S = 5.0  # what requests get that wait for a routine when close() has been called

_listeners: WeakSet[socket.socket] = WeakSet()


def _let_go() -> None:
    """In a forked process, such as a flow: with these it would keep the port when they are closed here."""
    for listener in list(_listeners):
        listener.close()


os.register_at_fork(after_in_child=_let_go)


class BackgroundServer:
    """Serves a pipe's control on its own thread until the pipe has ended. `APIWrapper.run()` returns one.

    A program whose last line is done waits for a pipe that is served, started or not, since a client may start it.
    `Pipe.join()` waits for the pipe's end, and then until the last answers are sent. A context manager: leaving the block
    closes it. Any thread.

    Attributes:
        host: the address that it is served on.
        port: the TCP port.
    """

    def __init__(self, pipe: Pipe, server: Server, listener: socket.socket) -> None:
        self.host, self.port = listener.getsockname()[:2]
        self._pipe = pipe
        self._server = server
        self._listener = listener
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="api", daemon=True)
        _listeners.add(listener)
        pipe._attach(self)
        try:
            calls.start_thread(self._thread)
        except BaseException:
            pipe._detach(self)
            listener.close()
            raise

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until nothing is served any more: the pipe has ended, or `close()` was called. Ctrl-C meanwhile kills the pipe.

        What the pipe has failed of is raised by `Pipe.join()`.

        :param timeout: seconds; None: for ever.
        :returns: whether it has ended.
        """
        with interrupts_held():
            while True:
                try:
                    with interrupts_allowed():
                        return self._over.wait(timeout)
                except KeyboardInterrupt:
                    self._pipe.logger.info("interrupted: the pipe is killed")
                    self._end_pipe()

    def _end_pipe(self) -> None:
        session = self._pipe._session
        if session is None:
            self._server.should_exit = True
        else:
            session.kill()

    def close(self) -> None:
        """Ends the server; the pipe goes on. Requests in hand are answered first; 5 s are waited for them."""
        self._pipe._detach(self)
        self._server.should_exit = True
        if threading.current_thread() is not self._thread:
            self._thread.join(LAST_REQUESTS_S)

    def __enter__(self) -> BackgroundServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- what the pipe calls ---------------------------------------------------------------------

    def begin(self, session: Session) -> None:
        """The pipe is built: the server ends with it."""
        self._server.end_with(session.gone)

    def finish(self) -> None:
        """The pipe has ended: waits until clients have been told."""
        self._thread.join()

    # ---- the server's thread ---------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except BaseException as error:  # uvicorn's SystemExit, too, which a thread would swallow
            report(self._pipe.logger, error, "the control has failed: %s", describe(error))
        finally:
            self._listener.close()
            self._pipe._detach(self)
            self._over.set()
