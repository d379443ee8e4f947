"""What a routine, or a pipe, makes of a recording: for tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from pipert_shm.errors import shown
from pipert_shm.pipe import Pipe
from pipert_shm.routine import Routine
from pipert_shm.testing import Output, RoutineHarness
from pipert_shm.testing.replaced import run_on, sources_of
from pipert_shm.testing.surroundings import Passed
from pipert_shm.video.opencv import VideoError
from pipert_shm.video.recording import Recording, Unreadable
from pipert_shm.video.replay import Replay

LOGGER = logging.getLogger(__name__)
WHOLE = "recording"  # who sends the messages of a recording that does not tell of senders


def replayed(
    path: str | os.PathLike[str],
    target: Routine | Pipe,
    *,
    channels: Collection[str] | None = None,
    of: str | None = None,
    keep: Callable[[Output], Any] | None = None,
    trust: bool = False,
) -> list[Any]:
    """Runs a routine, or a pipe that is not built, on a recording, and returns all that it sent, in order.

    It runs on the calling thread, with no other process. No message is dropped, and each run is the same. A routine gets the
    messages of all channels, in the order in which they were recorded; to one with a `join`, each channel is a sender. In a
    pipe, each source sends what its name did in the recording, in that order, too. What the routine or a routine of the pipe
    raises is raised here.

    :param channels: those that the routine gets; None for all. In a pipe the sources say it.
    :param of: the routine of the pipe whose messages are wanted; None for the one that sends to its destinations.
    :param keep: makes of an `Output` what is kept of it, where all frames would take too much memory. By default all of it:
        `payload` and `meta`.
    :param trust: loads pickles, as for `Replay`.
    :raises TypeError: when it is neither a routine nor a pipe, or is a source.
    :raises VideoError: when the recording has no such channel, none for a source of the pipe, or a message that can't be read.
    :raises OSError, ValueError, UntrustedRecording, ImportError: when the file can't be read, as for `Replay`.
    """
    outputs = _Kept(keep)
    if isinstance(target, Pipe):
        if channels is not None:
            raise TypeError("channels= is for a routine: each source of a pipe gets the channel of its name")
        _run_pipe(Path(path), target, of, outputs, trust)
    elif isinstance(target, Routine):
        if of is not None:
            raise TypeError(f"of={of!r} is for a pipe: a routine has its own messages only")
        _run_routine(Path(path), target, channels, outputs, trust)
    else:
        raise TypeError(f"a routine or a pipe runs on a recording, not {shown(target)}")
    return list(outputs)


class _Kept(list[Any]):
    """A list that keeps of each output what it is told to."""

    def __init__(self, keep: Callable[[Output], Any] | None) -> None:
        super().__init__()
        self._keep = keep

    def append(self, output: Output) -> None:
        super().append(output if self._keep is None else self._keep(output))


def _run_routine(path: Path, routine: Routine, channels: Collection[str] | None, outputs: _Kept, trust: bool) -> None:
    def warn(at: int) -> None:
        LOGGER.warning("the recording %s breaks off at byte %d; the routine gets what is before that", path, at)

    recording = Recording(path, trust=trust, on_break=warn)
    try:
        known = list(recording.senders) or [WHOLE]
        senders = known if channels is None else list(channels)
        for missing in set(senders) - set(known):
            raise _no_channel(path, missing, known)
        harness = RoutineHarness(routine, senders=senders)
        harness.outputs = outputs
        with harness:
            harness.pass_on(_passed(path, recording, set(senders)))
    finally:
        recording.close()


def _passed(path: Path, recording: Recording, senders: Collection[str]) -> Iterator[Passed]:
    for found in recording.messages():
        sender = found.sender or WHOLE
        if sender not in senders:
            continue
        if isinstance(found.payload, Unreadable):
            raise VideoError(str(path), found.payload.text) from found.payload.cause
        yield Passed(sender, found.payload, found.origin or WHOLE, found.sequence, found.captured_ns, found.tell)


def _run_pipe(path: Path, pipe: Pipe, of: str | None, outputs: _Kept, trust: bool) -> None:
    recording = Recording(path, trust=trust, on_break=lambda at: None)  # the replays tell of it
    recording.close()
    sources = sources_of(pipe)
    for name in sources:
        if name not in recording.senders:
            raise _no_channel(path, name, recording.senders)
    run_on(pipe, {name: Replay(path, name, paced=False, trust=trust) for name in sources}, of, outputs)


def _no_channel(path: Path, name: str, known: Collection[str]) -> VideoError:
    listed = ", ".join(map(repr, known)) or "none"
    return VideoError(str(path), f"the recording {str(path)!r} has no channel {name!r}; it has {listed}")
