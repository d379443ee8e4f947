"""Sends log records to a PipeRT-Cockpit over socket.io. Needs the `cockpit` extra."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pipert_shm.bridges.cockpit_text import as_json, level_of, picture_text, plain_text, structure_text
from pipert_shm.display.masking import masked
from pipert_shm.errors import PipertError, PipeStateError
from pipert_shm.extras import to_install
from pipert_shm.statistics import PipeStatistics

if TYPE_CHECKING:
    from pipert_shm.pipe import Pipe

URL_NAME = "SOCKET_LOGGER_URL"
LONGEST_QUEUE = 10_000  # records that wait for a connection
RETRY_S = 1.0
LOOK_S = 1.0  # seconds between two checks of an idle connection, and between two reports of the rates
LAST_WORDS_S = 2.0  # how long close() waits for the last records to be sent

_SHOWN = ("input", "output")
_WAKE = ""

_Picture = tuple[str, str]  # a routine's page, and `input` or `output`

_logger = logging.getLogger(__name__)


def get_socket_logger(name: str, level: int | str) -> logging.Logger:
    """Returns a logger that sends its records and its children's to a PipeRT-Cockpit. Give it to `Pipe(logger=…)`.

    The Cockpit's address is the environment variable SOCKET_LOGGER_URL, or stands in the file `.env` of the working directory.
    The Cockpit may start later: up to 10,000 records wait for it, and then the oldest are lost. (A Cockpit listens only once
    somebody has opened its page.) Of waiting pictures, the newest of each routine's input and output is kept.

    :param name: the logger's name.
    :param level: the least level that is sent.
    :raises PipertError: when there is no SOCKET_LOGGER_URL.
    :raises ImportError: when python-socketio is not installed.
    """
    logger = logging.getLogger(name)
    if not any(isinstance(handler, CockpitHandler) for handler in logger.handlers):
        logger.addHandler(CockpitHandler(_url(), name))
    logger.setLevel(level)
    return logger


def _url() -> str:
    settings = dict(os.environ)
    if URL_NAME not in settings and Path(".env").is_file():
        for line in Path(".env").read_text().splitlines():
            key, _, value = line.strip().removeprefix("export ").partition("=")
            settings[key.strip()] = value.strip().strip("\"'")
    if not settings.get(URL_NAME):
        raise PipertError(f"where is the Cockpit? Set {URL_NAME} to its http://… address, in the environment or in .env")
    return settings[URL_NAME]


class CockpitHandler(logging.Handler):
    """Sends records on a thread of its own, so that logging never waits. Any thread may log.

    A record with the attribute `pipe_creation` is sent as the event of that name, first on each new connection, since a Cockpit
    that was started again knows nothing of the pipe. Other records are sent as events `log`. A record that was on its way when
    a connection broke may be lost, or arrive twice.

    From `build()` to the pipe's end, a Cockpit also gets the rate of each routine, once a second, whatever the logger's level:
    the messages a second that the routine receives, or sends if it has no input. Replicas are added up. The rate is 0 when the
    pipe has ended. If several pipes share a logger, the rates are those of the pipe that was built last. Other handlers don't
    get rates. Records of a replica go to the page of the original routine. Records about a flow (a death, a restart, a hang)
    go to the pages of its routines.

    :param url: the Cockpit's address.
    :param source: the name under which it reports lost records.

    Attributes:
        lost: records that were never sent, since too many waited.
        takes_structure: makes `Pipe.build()` give this handler the pipe's structure, and a weak reference to the pipe.
    """

    takes_structure = True

    def __init__(self, url: str, source: str) -> None:
        try:
            import socketio
        except ImportError as error:
            raise ImportError(f"the Cockpit logger needs python-socketio: {to_install('cockpit')}") from error
        super().__init__()
        self.lost = 0
        self._new_client = socketio.Client
        self._url = url
        self._source = source
        self._owner = os.getpid()
        self._waiting: queue.Queue[str | _Picture | None] = queue.Queue(LONGEST_QUEUE)
        self._pictures: dict[_Picture, str] = {}  # waiting pictures, the newest of each; their keys stand in the queue
        self._told_of: set[_Picture] = set()  # records without a picture that were reported
        self._lock_of_pictures = threading.Lock()
        self._pages = _Pages()
        self._creation: str | None = None
        self._pipe: Callable[[], Pipe | None] = _no_pipe
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queues a record."""
        if os.getpid() != self._owner:
            return  # a forked process has no sending thread; records of flows come through the pipe
        try:
            if getattr(record, "pipe_creation", False):
                self._pipe = getattr(record, "pipe", _no_pipe)
                self._pages = _Pages(self._pipe())
                structure = record.args[0] if isinstance(record.args, tuple) else record.args  # logging unpacks a single dict
                self._creation = as_json(record.created, record.name, level_of(record), structure_text(structure))
                self._put(_WAKE)
            elif hasattr(record, "image_base64"):
                self._put_picture(record)
            else:
                text = plain_text(self.format(record))
                for source in self._pages.of(record):
                    self._put(as_json(record.created, source, level_of(record), text))
            if self._thread is None:
                # Not before the first record, since build() should not fork while this thread runs.
                self._thread = threading.Thread(target=self._work, name="cockpit", daemon=True)
                self._thread.start()
        except Exception:
            self.handleError(record)

    def _put_picture(self, record: logging.LogRecord) -> None:
        """Queues a picture in the form that a Cockpit shows. A record without one is sent once, not several times a second."""
        text = self.format(record)
        what, picture = text.partition(":")[0], getattr(record, "image_base64", None)
        (source, *_) = self._pages.of(record)
        key = source, what
        if not picture or what not in _SHOWN:
            if key not in self._told_of:
                self._told_of.add(key)
                self._put(as_json(record.created, source, level_of(record), plain_text(text)))
            return
        message = as_json(record.created, source, level_of(record), picture_text(what, picture))
        with self._lock_of_pictures:
            waits = key in self._pictures
            self._pictures[key] = message
        if not waits:
            self._put(key)

    def close(self) -> None:
        """Sends the waiting records, if that takes less than 2 s, and ends the thread."""
        if os.getpid() == self._owner and self._thread is not None:
            self._closing.set()
            self._put(None)
            self._thread.join(LAST_WORDS_S)
        super().close()

    def _put(self, item: str | _Picture | None) -> None:
        while True:
            try:
                return self._waiting.put_nowait(item)
            except queue.Full:
                with suppress(queue.Empty):
                    self._text_of(self._waiting.get_nowait())
                    self.lost += 1

    def _text_of(self, item: str | _Picture | None) -> str | None:
        if not isinstance(item, tuple):
            return item
        with self._lock_of_pictures:
            return self._pictures.pop(item)

    # ---- the sending thread ----------------------------------------------------------------------

    def _work(self) -> None:
        self._unsent: str | None = None
        self._told = 0
        self._look_at = 0.0
        self._rated: set[str] = set()  # pages that have a rate
        self._looks: WeakKeyDictionary[Pipe, PipeStatistics] = WeakKeyDictionary()
        reachable = True
        while not self._closing.is_set():
            client = self._new_client(reconnection=False, handle_sigint=False)
            try:
                client.connect(self._url)
                reachable = True
                try:
                    self._deliver(client)
                finally:
                    client.disconnect()
            except Exception as error:  # of socketio, when the server is away or misbehaves: anything
                if reachable:
                    _logger.warning(
                        "no connection to the Cockpit at %s (%s); it is tried again and again. A Cockpit listens only once "
                        "somebody has opened its page",
                        masked(self._url),
                        masked(str(error)),
                    )
                reachable = False
            self._closing.wait(RETRY_S)

    def _deliver(self, client: Any) -> None:
        """Sends records until the connection breaks or the handler is closed."""
        creation: str | None = None
        while True:
            if self._creation is not creation:
                creation = self._creation
                self._send(client, "pipe_creation", creation)
            lost = self.lost
            if lost > self._told:
                note = f"{lost - self._told} log records were lost, for want of a connection or of speed"
                self._send(client, "log", as_json(time.time(), self._source, "WARNING", note))
                self._told = lost
            if self._unsent:
                self._send(client, "log", self._unsent)
                self._unsent = None
            self._unsent = self._next(client)
            if self._unsent is None:
                for text in self._last_rates():
                    self._send(client, "log", text)
                return

    def _next(self, client: Any) -> str | None:
        """Waits for the next record, and sends the rates meanwhile."""
        while True:
            _require_connection(client)
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_S
                for text in self._rates():
                    self._send(client, "log", text)
            with suppress(queue.Empty):
                return self._text_of(self._waiting.get(timeout=max(0.0, self._look_at - time.monotonic())))

    def _rates(self) -> list[str]:
        """Each routine's rate since the last call, as messages for a Cockpit."""
        pipe = self._pipe()
        if pipe is None:
            return self._last_rates()
        try:
            now, over = pipe.statistics(), pipe._built().gone.is_set()
        except PipeStateError:
            return []  # its build failed
        before = self._looks.get(pipe, now)
        self._looks[pipe] = now
        if over:
            return self._last_rates()
        if before is now:
            return []
        rates = {}
        for routine in pipe.get_pipe_structure()["Routines"]:
            name = routine["routine_name"]
            members = pipe._built().plan.replicas.get(name, (name,))
            of_each = [now.fps(one, before) for one in members if one in now.routines]
            if of_each:  # else it is created, and not built yet
                rates[f"{pipe.logger.name}.{routine['flow_name']}.{name}"] = sum(of_each)
        self._rated = set(rates)
        return [_rate(source, fps) for source, fps in rates.items()]

    def _last_rates(self) -> list[str]:
        """Rates of 0 for routines that have ended, since a Cockpit goes on showing the last rate."""
        ended, self._rated = self._rated, set()
        return [_rate(source, 0) for source in sorted(ended)]

    def _send(self, client: Any, event: str, text: str | None) -> None:
        """Sends an event, and returns when it is written to the connection.

        :raises ConnectionError: when the connection broke before that.
        """
        client.emit(event, text)
        packets = client.eio.queue
        with packets.all_tasks_done:
            while packets.unfinished_tasks and client.eio.state == "connected":
                packets.all_tasks_done.wait(LOOK_S)
        _require_connection(client)


class _Pages:
    """Finds the routines' pages for a record."""

    def __init__(self, pipe: Pipe | None = None) -> None:
        self._logger = pipe.logger.name if pipe else ""
        self._originals: dict[str, str] = {}
        self._members: dict[str, list[str]] = {}
        if pipe is None:
            return
        plan = pipe._built().plan
        self._originals = {replica: name for name, replicas in plan.replicas.items() for replica in replicas}
        for item in plan.routines:
            name = self._originals.get(item.routine.name, item.routine.name)
            self._members.setdefault(item.flow, []).append(f"{self._logger}.{item.flow}.{name}")

    def of(self, record: logging.LogRecord) -> list[str]:
        """The sources to send the record under, at least one."""
        flow = getattr(record, "flow", "")
        if record.name in (self._logger, f"{self._logger}.{flow}") and flow in self._members:
            return self._members[flow]
        path, dot, name = str(record.name).rpartition(".")  # a name without a dot is possible
        return [f"{path}{dot}{self._originals.get(name, name)}"]


def _rate(source: str, fps: float) -> str:
    return as_json(time.time(), source, "PIPE_INFRASTRUCTURE", f"fps: {fps:.1f}")


def _no_pipe() -> None: ...


def _require_connection(client: Any) -> None:
    if client.eio.state != "connected":
        raise ConnectionError("it was lost")
