"""What an agent was told, on disk: so that it brings it up again after a reboot."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipert_shm.errors import HostsError


@dataclass(frozen=True, slots=True)
class Told:
    """A pipeline for this host.

    Attributes:
        revision: what tells it from others.
        text: the pipeline's file, without the way to the hub.
        remotes: the routines that need that way.
        by: whose file it is part of: `HOST:PATH`.
    """

    revision: str
    text: str
    remotes: tuple[str, ...]
    by: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of one pipe.

    Attributes:
        now: what it runs.
        before: what it ran before; None if nothing.
        has_ended: whether it has come to its end, and is not to be started again.
        before_had_ended: whether what it ran before had come to its end.
        is_trial: whether it is being brought from `before` to `now`, and nobody knows yet whether that works.
    """

    pipe: str
    now: Told
    before: Told | None = None
    has_ended: bool = False
    before_had_ended: bool = False
    is_trial: bool = False

    def changed(self, told: Told) -> Kept:
        """With another pipeline."""
        return Kept(self.pipe, told, self.now, before_had_ended=self.has_ended)

    def tried(self) -> Kept:
        """The same, before anybody knows whether it works."""
        return replace(self, is_trial=True)

    def put_back(self) -> Kept | None:
        """What was there before; None if nothing was."""
        return None if self.before is None else Kept(self.pipe, self.before, has_ended=self.before_had_ended)

    def ended(self) -> Kept:
        """At its end."""
        return replace(self, has_ended=True)


class Store:
    """A directory with a file for each pipe. Each file is replaced as a whole.

    :raises HostsError: when it can't be made or written to.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory = directory.absolute()
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise HostsError(f"can't keep anything in {directory}: {error.strerror}; name another one by --state") from None

    def path(self, pipe: str, suffix: str) -> Path:
        """A file of a pipe.

        :raises HostsError: when its name would lead out of the directory.
        """
        if os.sep in pipe or "\0" in pipe:
            raise HostsError(f"no pipe is called {pipe!r}: it names a file")
        return self.directory / f"{pipe}.{suffix}"

    def load(self) -> tuple[list[Kept], list[str]]:
        """What is kept, and what can't be read, in words."""
        kept, unreadable = [], []
        for path in sorted(self.directory.glob("*.json")):
            try:
                kept.append(_kept(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, KeyError, TypeError) as error:
                unreadable.append(f"{path} can't be read, and is left alone: {error!r}")
        return kept, unreadable

    def save(self, kept: Kept) -> None:
        """Keeps it, for good when this returns."""
        self.write(kept.pipe, "json", json.dumps(asdict(kept), indent=1))

    def write(self, pipe: str, suffix: str, text: str) -> Path:
        """Writes a file of a pipe, or leaves it as it was."""
        path = self.path(pipe, suffix)
        part = path.with_name(f".{path.name}.new")
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return path

    def forget(self, pipe: str) -> None:
        """Removes what is kept of a pipe."""
        for suffix in ("json", "yaml", "outcome"):
            self.path(pipe, suffix).unlink(missing_ok=True)


def _kept(data: dict[str, Any]) -> Kept:
    before = data["before"]
    marks = (bool(data[name]) for name in ("has_ended", "before_had_ended", "is_trial"))
    return Kept(data["pipe"], _told(data["now"]), None if before is None else _told(before), *marks)


def _told(data: dict[str, Any]) -> Told:
    return Told(str(data["revision"]), str(data["text"]), tuple(data["remotes"]), str(data["by"]))
