"""What `pipert-shm run` runs, and `--watch`: a change of the file is applied, and one of code starts afresh."""

from __future__ import annotations

import sys
import sysconfig
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipert_shm.errors import PipertError, PipeStateError
from pipert_shm.events import KILL_EVENT_NAME
from pipert_shm.pipe import Pipe
from pipert_shm.pipeline_file.schema import LoggingSettings
from pipert_shm.system.streams import say

LATE_MS = 1000  # after so long without an event --watch looks all the same: for what changed before it began

Address = tuple[str, int]
Files = dict[Path, int]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file defines. `api`: where the HTTP control is to listen."""

    pipe: Pipe
    api: Address | None
    logging: LoggingSettings


class Elsewhere(Protocol):
    """What `run` asks of a file some of whose flows other hosts run."""

    hosts: list[str]

    def load(self) -> Loaded | None:
        """Has the other hosts run their parts; this one's, or None if it has none."""

    def started(self, pipe: Pipe) -> None:
        """Waits until all of this host's routines run."""

    def failed(self) -> None:
        """This host's part could not be run, or has ended: takes back what that asks for."""

    def apply(self) -> bool:
        """Applies the file, which has changed. Returns False where it has to be started afresh."""


class Watch:
    """A thread that applies the pipeline's file when that alone has changed, and kills the pipe when code has.

    :param before: the files as they were when they were loaded.
    :param elsewhere: who applies a file for several hosts.
    """

    def __init__(
        self, path: Path, before: Files, directories: set[Path], pipe: Pipe | None, elsewhere: Elsewhere | None
    ) -> None:
        self._elsewhere = elsewhere
        self._path = path
        self._before = before
        self._directories = directories
        self._pipe = pipe
        self._changed = threading.Event()
        threading.Thread(target=self._look, name="run-watch", daemon=True).start()

    def _look(self) -> None:
        while True:
            try:
                now = self._changed_files()
            except (OSError, RuntimeError) as error:  # the system has no more inotify watches, say
                say_all(f"can't watch the files: {error}; WATCHFILES_FORCE_POLLING=1 looks at them again and again instead")
                return
            files = {path for path in now.keys() | self._before.keys() if now.get(path) != self._before.get(path)}
            if files != {self._path} or not self._is_applied():
                break
            self._before = now
        say_all(f"{', '.join(sorted(path.name for path in files))} changed: starting afresh")
        self._changed.set()
        if self._pipe:
            self._pipe.notify_event(KILL_EVENT_NAME)

    def _is_applied(self) -> bool:
        """Brings the pipe to what its file says now. If that can't be, the pipe goes on as it is, and the reason is told.

        :returns: False when the file asks for what only a fresh start can do, or no pipe runs.
        """
        from pipert_shm.applying.apply import apply_pipeline

        if self._elsewhere is not None:
            return self._elsewhere.apply()
        if self._pipe is None or self._path.suffix == ".py":
            return False
        try:
            if apply_pipeline(self._pipe, self._path, dry_run=True).difference.refused:
                return False
            say_all(f"{self._path.name} changed: applied\n{apply_pipeline(self._pipe, self._path)}")
        except PipeStateError:  # it is not built yet, or has ended
            return False
        except PipertError as error:
            say_all(f"{self._path.name} changed, and is not applied:\n{error}")
        except Exception as error:  # of code that the file names; whatever it is, the next change is looked at
            say_all(f"{self._path.name} changed, and is not applied:")
            report(error)
        return True

    def _changed_files(self) -> Files:
        """Waits for a change; the files as they are then."""
        from watchfiles import watch  # only --watch needs it

        directories = [directory for directory in self._directories if directory.is_dir()]
        for _ in watch(*directories, watch_filter=self._counts, recursive=False, rust_timeout=LATE_MS, yield_on_timeout=True):
            now = files_of(self._path, self._directories)
            if now != self._before:
                return now
        raise AssertionError("a watch without an end")

    def _counts(self, change: object, file: str) -> bool:
        return file == str(self._path) or file.endswith(".py")

    def wait(self) -> None:
        """Until a file has changed."""
        if not self._changed.is_set():
            say_all(f"{self._path.name} has ended; waiting for a change")
        self._changed.wait()


def files_of(path: Path, directories: set[Path]) -> Files:
    """The file, and the Python files in the directories, and when each was written."""
    found = {}
    for file in {path, *(file for directory in directories for file in directory.glob("*.py"))}:
        try:
            found[file] = file.stat().st_mtime_ns
        except FileNotFoundError:
            continue  # an editor is about to put another one in its place
    return found


def own_modules() -> list[str]:
    """Files of the modules that are loaded, but for those of Python and of installed packages."""
    installed = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return [
        file
        for file in files
        if file and not file.startswith(installed) and not {"site-packages", "dist-packages"} & set(Path(file).parts)
    ]


def report(error: Exception) -> None:
    """Tells of an error: of one of this package its text, of another one the traceback, too."""
    if isinstance(error, PipertError):
        say_all(str(error))
    else:
        say("".join(traceback.format_exception(error)).rstrip())


def say_all(text: str) -> None:
    """Says each line of a text on standard error."""
    for line in text.splitlines():
        say(f"pipert-shm: {line}")
