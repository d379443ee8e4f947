"""Running a pipeline's file, `.yaml` or `.py`: `pipert-shm run`."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import NoReturn

from pipert_shm.cli.watching import Address, Elsewhere, Loaded, Watch, files_of, own_modules, report
from pipert_shm.control.log_output import TERMINAL_FORMAT
from pipert_shm.errors import ConfigError, Fault, PipeFailed, PipertError
from pipert_shm.events import KILL_EVENT_NAME, START_EVENT_NAME
from pipert_shm.pipe import Pipe
from pipert_shm.pipeline_file.loading import load_pipeline
from pipert_shm.pipeline_file.objects import told
from pipert_shm.pipeline_file.schema import LoggingSettings
from pipert_shm.statistics import losses
from pipert_shm.system.streams import flush_output

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def load(path: Path, text: str | None = None) -> Loaded:
    """Imports what a file needs, makes its pipe and checks it; nothing is built.

    :param path: a `.yaml` or `.yml` file (see `PipelineFile`), or a `.py` file that defines a function `make_pipe()`, which
        takes nothing and returns a `Pipe` that is not built. That file is imported as a module, so what it does under
        `if __name__ == "__main__"` is not done; its own directory comes first in `sys.path`.
    :param text: the content of a `.yaml` file, in place of what is on the disk.
    :raises ConfigError: when it is none of these, or does not fit.
    :raises PipertError: when the pipe of a `.py` file does not fit. What else its code raises goes through.
    """
    if path.suffix in (".yaml", ".yml"):
        file, pipe = load_pipeline(path, text)
        api = file.settings.api
        return Loaded(_named(pipe, path), (api.host, api.port) if api else None, file.settings.logging)
    if path.suffix != ".py":
        raise _refusal(path, "it is neither .yaml nor .yml nor .py")
    try:
        make_pipe = getattr(_import(path), "make_pipe", None)
        if not callable(make_pipe):
            raise _refusal(path, "it defines no function make_pipe(), which returns the Pipe to run")
        pipe = make_pipe()
    except (ImportError, OSError) as error:
        raise _refusal(path, told(error)) from error
    if not isinstance(pipe, Pipe):
        raise _refusal(path, f"its make_pipe() returned {type(pipe).__name__}, not a Pipe")
    pipe.check()
    return Loaded(_named(pipe, path), None, LoggingSettings())


def _named(pipe: Pipe, path: Path) -> Pipe:
    """The pipe, named after its file unless it has a name: the program would be the command."""
    if not pipe.is_named:
        pipe.name = path.stem
    return pipe


def _refusal(path: Path, message: str) -> ConfigError:
    return ConfigError([Fault(str(path), 0, "", message)])


def _import(path: Path) -> ModuleType:
    if path.stem in sys.modules:
        raise _refusal(path, f"a module {path.stem!r} is loaded already; give the file another name")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    sys.path.insert(0, str(path.resolve().parent))
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_loaded(elsewhere: Elsewhere, api: Address | None = None) -> int:
    """Runs this host's part of a file for several hosts, as `run` does; at once 0 if it has none."""
    with _signals() as came:
        try:
            loaded = elsewhere.load()
            if loaded is not None:
                came.pipe = loaded.pipe
                _run(loaded, api, elsewhere.started, elsewhere.hosts)
        except BaseException:
            elsewhere.failed()
            raise
    return came.status


def run(
    path: Path,
    api: Address | None = None,
    on_started: Callable[[Pipe], None] | None = None,
) -> int:
    """Runs a file's pipe until it has ended, was killed, or a signal came.

    :param api: where the HTTP control listens, in place of what the file says.
    :param on_started: called when the pipe has been started; if it raises, the pipe ends.
    :returns: 0, or 128 and the number of the signal (SIGINT, SIGTERM, SIGHUP or SIGQUIT) at which the pipe was killed.
    :raises PipeFailed: when a routine failed for good or a flow's process died.
    :raises PipertError, ValueError, OSError: when the file, the address or the machine does not fit.
    """
    with _signals() as came:
        loaded = load(path)
        came.pipe = loaded.pipe
        _run(loaded, api, on_started)
    return came.status


def run_watched(path: Path, api: Address | None = None, elsewhere: Elsewhere | None = None) -> int:
    """Runs a file's pipe, afresh in a new interpreter whenever its code has changed, until a signal comes.

    A change of a `.yaml` file is applied to the pipe that runs, and starts it afresh only where that can't be.

    :param elsewhere: of a file for several hosts.
    Looked at are the file, and every `.py` file beside it or beside a module that it imports, other than installed ones.

    :returns: 128 and the number of the signal.
    """
    path = path.resolve()
    before = files_of(path, {path.parent})
    with _signals() as came:
        loaded = None
        try:
            loaded = load(path) if elsewhere is None else elsewhere.load()
            came.pipe = loaded.pipe if loaded else None
        except Exception as error:
            _failed(error, elsewhere)
        directories = {path.parent} | {Path(module).resolve().parent for module in own_modules()}
        watch = Watch(path, {**files_of(path, directories), **before}, directories, came.pipe, elsewhere)
        try:
            if loaded:
                _run(loaded, api, elsewhere.started if elsewhere else None, elsewhere.hosts if elsewhere else ())
        except Exception as error:
            _failed(error, elsewhere)
        if not came.numbers:
            watch.wait()
    if came.numbers:
        return came.status
    _start_afresh()


def _failed(error: Exception, elsewhere: Elsewhere | None) -> None:
    """Tells of a failure while a file is watched."""
    report(error)
    try:
        if elsewhere is not None:
            elsewhere.failed()
    except PipertError as other:
        report(other)


def _run(
    loaded: Loaded, api: Address | None, on_started: Callable[[Pipe], None] | None = None, hosts: Sequence[str] = ()
) -> None:
    """Runs a pipe to its end.

    :param hosts: others that run parts of it, which the HTTP control shows, too.
    """
    pipe, address = loaded.pipe, api or loaded.api
    _configure(loaded.logging)
    wrapper = None
    if address:
        from pipert_shm.api import APIWrapper
        from pipert_shm.api.front import dashboard_is_installed

        try:
            wrapper = APIWrapper(*address, pipe, token=os.environ.get("PIPERT_TOKEN"), dashboard=dashboard_is_installed())
        except ValueError as error:  # the address is not one that it may listen on
            raise PipertError(f"{error} (the token comes from the environment variable PIPERT_TOKEN)") from None
        if hosts:
            from pipert_shm.api.elsewhere import Elsewhere

            wrapper.follow_hosts(Elsewhere(pipe._made_from, hosts))
    with pipe:  # leaving it waits for its end, in which a signal kills it
        pipe.build()
        pipe.notify_event(START_EVENT_NAME)
        if on_started:
            on_started(pipe)
        if wrapper:
            # It serves until the pipe is killed, which is what join() does when all routines have ended.
            threading.Thread(target=_join, args=(pipe,), name="run-join", daemon=True).start()
            wrapper.serve()
    _log_totals(pipe)


def _join(pipe: Pipe) -> None:
    try:
        pipe.join()
    except PipeFailed as failure:
        pipe.logger.debug("%s: the main thread hears of it, too", failure)


def _configure(settings: LoggingSettings) -> None:
    handler = logging.FileHandler(settings.file) if settings.file else logging.StreamHandler()
    logging.basicConfig(level=settings.level, format=TERMINAL_FORMAT, handlers=[handler])  # unless the file's code did
    for name, level in {"uvicorn": "WARNING", "watchfiles": "WARNING", **settings.levels}.items():
        logging.getLogger(name).setLevel(level)


def _log_totals(pipe: Pipe) -> None:
    statistics = pipe.statistics()
    for wire in statistics.wires.values():
        counts = wire.sender, wire.receiver, wire.sent, wire.received, losses(wire, over=True) or "nothing"
        pipe.logger.info("%s -> %s: %d sent, %d received, dropped: %s", *counts)
    for routine in statistics.routines.values():
        if routine.errors:
            pipe.logger.warning("%s: %d errors", routine.name, routine.errors)


@dataclass(slots=True)
class _Came:
    """Signals that have come.

    Attributes:
        numbers: which, in order.
        pipe: what they end, once it is there.
    """

    numbers: list[int] = field(default_factory=list)
    pipe: Pipe | None = None

    @property
    def status(self) -> int:
        """The exit status: as a shell has it for a program that a signal ended; 0 when none came."""
        return 128 + self.numbers[0] if self.numbers else 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """Raises KeyboardInterrupt at the first one. Those that follow find the pipe ending, which they must not break off."""
        self.numbers.append(number)
        if len(self.numbers) == 1 or self.pipe is None:
            raise KeyboardInterrupt
        # The exception may have come where none can get through, such as a __del__: so this does it, too.
        threading.Thread(target=self._kill, args=(self.pipe,), name="run-kill", daemon=True).start()

    def _kill(self, pipe: Pipe) -> None:
        with suppress(PipertError):  # it has ended
            pipe.notify_event(KILL_EVENT_NAME)


@contextmanager
def _signals() -> Iterator[_Came]:
    """Makes the signals that end a program end its pipe; they are ignored from then on."""
    came = _Came()
    # What is ignored stays so: nohup ignores SIGHUP.
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, came.note) for number in handled}
    try:
        yield came
    except KeyboardInterrupt:
        if not came.numbers:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if came.numbers else handler)


def _start_afresh() -> NoReturn:
    flush_output()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
