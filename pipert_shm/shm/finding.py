"""Finds the running pipes of this machine by their names, as their control segments tell them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pipert_shm.display.tables import printable
from pipert_shm.errors import PipeStateError, UnknownTarget
from pipert_shm.frozen import Frozen
from pipert_shm.shm import sockets
from pipert_shm.shm.listing import Control, Meeting
from pipert_shm.shm.segments import SHM, is_stale, pipe_ids
from pipert_shm.system.changes import Changes

LOOK_AGAIN = 1.0  # seconds after which a look is taken though nothing was seen to change


class Found(Frozen):
    """A pipe that runs.

    Attributes:
        name: what it is called; empty if that is unknown.
        file: the pipeline's file that it was made from, as a real path; empty if it was made by a program.
        meeting: where to attach to it.
    """

    pipe_id: str
    name: str
    meeting: Meeting
    file: str = ""


def running() -> list[Found]:
    """The pipes of this user that run."""
    found = []
    for pipe_id in pipe_ids():
        if is_stale(pipe_id):
            continue
        try:
            with Control(pipe_id, stale=False) as control:
                if control.user == os.geteuid():  # another one's may be readable, and say anything
                    found.append(Found(pipe_id, control.name, control.meeting, control.file))
        except (OSError, ValueError):
            continue  # it has ended meanwhile, can't be read, or is damaged
    return found


def find(wanted: str) -> Found | None:
    """The pipe of this name or id; None when there is none.

    :raises PipeStateError: when several are called so.
    """
    pipes = running()
    found = [pipe for pipe in pipes if pipe.pipe_id == wanted] or [pipe for pipe in pipes if pipe.name == wanted]
    if len(found) > 1:
        ids = ", ".join(pipe.pipe_id for pipe in found)
        raise PipeStateError(f"{len(found)} pipes are called {wanted!r}: attach by the id of one of them: {ids}")
    return found[0] if found else None


def made_from(file: str) -> list[Found]:
    """The pipes of this user that run from a pipeline's file.

    :param file: its real path.
    """
    return [pipe for pipe in running() if pipe.file == printable(file)]


def find_made_from(file: str, name: str) -> Found:
    """The pipe that was made from a pipeline's file.

    :param file: its real path.
    :param name: what a pipe of this file is called, for errors: one of another file may have the same name.
    :raises UnknownTarget: when there is none.
    :raises PipeStateError: when there are several; or none, but one of this name.
    """
    found = made_from(file)
    if len(found) > 1:
        ids = ", ".join(pipe.pipe_id for pipe in found)
        raise PipeStateError(f"{len(found)} pipes run from {file}: name one of them by its id: {ids}")
    if found:
        return found[0]
    pipes = running()
    for pipe in pipes:
        if pipe.name == name:
            other = f"runs from {pipe.file}" if pipe.file else "was made by a program"
            raise PipeStateError(f"the pipe that is called {name!r} ({pipe.pipe_id}) {other}, and does not run from {file}")
    known = [pipe.name or pipe.pipe_id for pipe in pipes]
    raise UnknownTarget("pipe that runs from", file, known, "`pipert-shm run` with this file starts one")


def await_pipe(wanted: str, timeout: float | None) -> Found:
    """The pipe of this name or id, as soon as there is one.

    :param timeout: seconds to wait for it; 0: not at all; None: as long as it takes.
    :raises UnknownTarget: when there is none.
    :raises PipeStateError: when several are called so.
    """
    deadline = float("inf") if timeout is None else time.monotonic() + timeout
    found = find(wanted)
    if timeout != 0 and not _listens(found):
        with Changes(_directories()) as changes:
            while not _listens(found := find(wanted)) and (left := deadline - time.monotonic()) > 0:
                changes.wait(min(left, LOOK_AGAIN))
    if found is None:
        raise UnknownTarget("pipe", wanted, [pipe.name or pipe.pipe_id for pipe in running()])
    return found


def _listens(pipe: Found | None) -> bool:
    """Whether a pipe is there, and has got as far as to make its socket; if it never makes one, attaching says so."""
    return pipe is not None and (not pipe.meeting.directory or Path(pipe.meeting.directory, pipe.pipe_id).exists())


def _directories() -> list[Path]:
    """Where something changes when a pipe begins. The name of a socket is the last thing that is made."""
    path = sockets.directory()
    return [SHM, path if path.is_dir() else path.parent]
