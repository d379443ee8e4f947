"""Where PipeRT2's classes take other arguments, or do something else, than this package's."""

from __future__ import annotations

import base64
import logging
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import pipert_shm
from pipert_shm.api.background import BackgroundServer
from pipert_shm.control.log_output import PIPE_INFRASTRUCTURE
from pipert_shm.display.pictures import encoded
from pipert_shm.events import events
from pipert_shm.transmitters import BasicTransmitter, DataTransmitter
from pipert_shm.wire import QueueNetwork, Wire

PIPE_INFRASTRUCTURE_LOG_LEVEL = PIPE_INFRASTRUCTURE
QUALITY = 60  # of JPEG


class EventBoard:
    """For `Pipe(event_board=EventBoard())`. Every pipe has its own way for events here."""


class LegacyPipe(pipert_shm.Pipe):
    """With PipeRT2's arguments and defaults: queues of one message, writable copies, log lines on standard output.

    A source that is linked again is linked anew: the later wire takes the place of the earlier one.
    """

    def __init__(
        self,
        event_board: EventBoard | None = None,
        network: QueueNetwork | None = None,
        logger: logging.Logger | None = None,
        data_transmitter: DataTransmitter | None = None,
        auto_pacing_mechanism: bool = False,
    ) -> None:
        super().__init__(
            network or QueueNetwork(),
            logger or get_default_print_logger("Pipe"),
            data_transmitter or BasicTransmitter(),
            auto_pacing_mechanism=auto_pacing_mechanism,
        )

    def link(self, *wires: Wire) -> None:
        """Connects routines; of a source's wires the last one counts."""
        for wire in wires:
            if isinstance(wire, Wire):
                linked = self._blueprint.wires
                linked[:] = [other for other in linked if other.source is not wire.source]
            super().link(wire)


class LegacyAPIWrapper(pipert_shm.APIWrapper):
    """With `api_process`, which stands for what serves: here a thread."""

    def __init__(self, host: str, port: int, pipe: pipert_shm.Pipe, **options: Any) -> None:
        super().__init__(host, port, pipe, **options)
        self.api_process = ApiProcess()

    def run(self) -> BackgroundServer:
        """Serves in the background."""
        self.api_process.server = super().run()
        return self.api_process.server


class ApiProcess:
    """Stands for the process that serves, as far as scripts use it."""

    server: BackgroundServer | None = None

    def is_alive(self) -> bool:
        """Whether it serves."""
        return self.server is not None and not self.server.wait(0)

    def join(self, timeout: float | None = None) -> None:
        """Waits until it serves no longer."""
        if self.server is not None:
            self.server.wait(timeout)

    def terminate(self) -> None:
        """Ends it; the pipe goes on."""
        if self.server is not None:
            self.server.close()


class ClassFunctions:
    """A decorator factory that knows its functions by class and key, as `all`. Those of a class's `events` handle events."""

    def __init__(self) -> None:
        self.all: dict[str, dict[str, set[Callable[..., Any]]]] = defaultdict(lambda: defaultdict(set))
        self._handles = False  # whether it is a class's `events`, by which subclasses mark theirs, too

    def __call__(self, key: str | Callable[..., Any]) -> Any:
        """Marks a function, by this key; used bare, by `default_key`."""
        return self._add("default_key", key) if callable(key) else partial(self._add, key)

    def _add(self, key: str, function: Callable[..., Any]) -> Callable[..., Any]:
        self.all[function.__qualname__.rpartition(".")[0]][key].add(function)
        return events(key)(function) if self._handles else function

    def __set_name__(self, owner: type, name: str) -> None:
        if name == "events":
            self._handles = True
            for key, functions in self.all[owner.__qualname__].items():
                for function in functions:
                    events(key)(function)


def plog(self: logging.Logger, message: object, *arguments: object, **options: Any) -> None:
    """Logs below DEBUG, as the framework's own."""
    self.log(PIPE_INFRASTRUCTURE_LOG_LEVEL, message, *arguments, **options)


def add_pipe_log_level() -> None:
    """Gives every logger a method `plog`."""
    logging.addLevelName(PIPE_INFRASTRUCTURE_LOG_LEVEL, "PIPE_INFRASTRUCTURE")
    setattr(logging.Logger, "plog", plog)  # noqa: B010 - a plain assignment would not pass the type checker


def get_default_print_logger(logger_name: str) -> logging.Logger:
    """The logger of this name, which prints from INFO on, with time and name. Asked again, it does not print twice."""
    logger = logging.getLogger(logger_name)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(asctime)s — %(name)s — %(levelname)s — %(message)s", "%d-%m-%y %H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    return logger


def numpy_frame_to_base64(numpy_frame: np.ndarray) -> str:
    """A frame as a JPEG in base64.

    :raises ValueError: when it is no picture.
    """
    return base64.b64encode(encoded(numpy_frame, QUALITY)).decode()


def create_log_record_of_extra_frame(name: str, numpy_frame: np.ndarray) -> str:
    """The text by which PipeRT2 logs a picture with a name. A Cockpit falls over it, and is sent it as a plain line."""
    return f"extra_image: { ({'name': name, 'image_base64': numpy_frame_to_base64(numpy_frame)}) }"
