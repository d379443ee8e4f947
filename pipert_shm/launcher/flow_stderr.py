"""Makes log records of what libraries in the flows write to standard error. Equal lines become one record and a count.

FFmpeg, OpenCV and GStreamer write there from C. The standard error of a flow (of its C code, not of Python) is the pipe that
its stacks come by. The launcher reads it, not the flow: so a crash does not lose last words, and no lock of Python's is needed.
"""

from __future__ import annotations

import logging
import os
import re
import selectors
import time
from dataclasses import dataclass, field

from pipert_shm.control.channel import Channel
from pipert_shm.control.logs import ForwardingHandler, forwarding_logger
from pipert_shm.display.masking import masked, without_torn_word
from pipert_shm.errors import describe, without_numbers
from pipert_shm.launcher.roster import Flow
from pipert_shm.launcher.watch import Watch
from pipert_shm.system import calls

AT_ONCE = 1 << 16  # bytes that are read at once: as many as a pipe holds
LONGEST_LINE = 2000  # characters of a line that are logged
LONGEST_READ = 4 * LONGEST_LINE  # bytes of a line that are looked at: secrets are masked before the line is cut
WINDOW = 60.0  # seconds in which equal lines are logged once
MOST_LINES = 10  # different lines of one flow that are logged in that time
MOST_BYTES = 1 << 20  # bytes of one flow that are looked at in that time
FATAL = b"Fatal Python error"  # the interpreter, or faulthandler, begins its last words with it

_DUMP = re.compile(  # the lines that follow those words, in each supported interpreter
    rb"\s|$|Fatal Python error|Current thread|Thread 0x|Stack \(most recent|Extension modules:"
    rb"|Python runtime state|Garbage-collecting"
)
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(slots=True)
class _Window:
    """Counts what one flow writes within a minute.

    Attributes:
        until: when the minute ends, as of time.monotonic().
        counts: by a line's text without its numbers: how often it came, and the last such line.
        untold: how many lines were not logged.
        size: bytes that were written.
    """

    until: float
    counts: dict[str, tuple[int, str]] = field(default_factory=dict)
    untold: int = 0
    size: int = 0


@dataclass(slots=True)
class _Voice:
    """One flow's standard error."""

    logger: logging.Logger
    who: str
    rest: bytes = b""  # a line without its end
    is_cut: bool = False  # the bytes up to the next line's end belong to a line that was logged
    window: _Window | None = None
    is_fatal: bool = False  # the lines that follow are a dump of its stacks


class FlowStderr:
    """Reads the standard error of all flows.

    :param logs: where log records go to the parent.
    """

    def __init__(self, logger: logging.Logger, logs: Channel, watch: Watch) -> None:
        self._logger = logger
        self._logs = logs
        self._watch = watch
        self._voices: dict[str, _Voice] = {}

    def begin(self, flow: Flow, fd: int) -> None:
        """Begins to read from `fd`. A process of the flow is about to write to the other end."""
        os.set_blocking(fd, False)
        self._voices[flow.name] = self._voice_of(flow)
        self._watch.add(fd, lambda: self._hear(flow, fd))

    def _voice_of(self, flow: Flow) -> _Voice:
        """Its records are the routine's if the flow has only one: a library does not say for whom it writes."""
        single = flow.routines[0].routine.name if len(flow.routines) == 1 else None
        name = f"{self._logger.name}.{flow.name}.{single}" if single else f"{self._logger.name}.{flow.name}"
        logger = forwarding_logger(name, ForwardingHandler(self._logs, flow.name, single or flow.name))
        return _Voice(logger, f"routine {single!r}" if single else f"flow {flow.name!r}")

    def _hear(self, flow: Flow, fd: int) -> bool:
        """Reads once; whether there may be more to read."""
        try:
            data = calls.read(fd, AT_ONCE)
        except BlockingIOError:
            return False
        except OSError as error:
            self._watch.drop(fd)
            self._logger.error("the standard error of flow %r can't be read any more: %s", flow.name, describe(error))
            return False
        if not data:
            self._watch.drop(fd)  # the flow is dead, and so are the processes that it has forked
            return False
        self._take(self._voices[flow.name], data)
        return True

    def end(self, flow: Flow, fd: int) -> None:
        """Logs the last words of a dead flow. To be called before `fd` is closed."""
        voice = self._voices.get(flow.name)
        if voice is None or fd < 0:
            return
        self._watch.drop(fd)
        for _ in range(MOST_BYTES // AT_ONCE):  # processes that it has forked may go on writing
            if not self._hear(flow, fd):
                break
        if voice.rest:
            self._take(voice, b"\n")
        self._close_window(voice)
        del self._voices[flow.name]

    @property
    def due(self) -> float | None:
        """When `tell_due` should be called, as of time.monotonic()."""
        return min((voice.window.until for voice in self._voices.values() if voice.window is not None), default=None)

    def tell_due(self, now: float) -> None:
        """Logs how often each line came, of flows whose minute has ended."""
        for voice in self._voices.values():
            if voice.window is not None and now >= voice.window.until:
                self._close_window(voice)

    def _take(self, voice: _Voice, data: bytes) -> None:
        if voice.window is None:
            voice.window = _Window(time.monotonic() + WINDOW)
        window = voice.window
        window.size += len(data)
        if window.size > MOST_BYTES:
            window.untold += data.count(b"\n")
            voice.rest, voice.is_fatal = b"", False
            return
        *lines, rest = re.split(rb"[\r\n]+", voice.rest + data)
        if lines and voice.is_cut:
            del lines[0]
            voice.is_cut = False
        if len(rest) > LONGEST_READ and not voice.is_cut:
            lines.append(rest)
            voice.is_cut = True
        voice.rest = b"" if voice.is_cut else rest
        for line in lines:
            self._hear_line(voice, window, line)

    def _hear_line(self, voice: _Voice, window: _Window, line: bytes) -> None:
        if not (voice.is_fatal and _DUMP.match(line)):
            line, fatal, more = line.partition(FATAL)
            voice.is_fatal = bool(fatal)
            if line:
                self._note(voice, window, _text_of(line))
            line = fatal + more
        if voice.is_fatal:
            _pass_on(_text_of(line).encode() + b"\n")

    @staticmethod
    def _note(voice: _Voice, window: _Window, text: str) -> None:
        kind = without_numbers(text)
        count, _ = window.counts.get(kind, (0, ""))
        if not count and len(window.counts) >= MOST_LINES:
            window.untold += 1
            return
        window.counts[kind] = count + 1, text
        if not count:
            voice.logger.warning("%s, on standard error: %s", voice.who, text.strip())

    @staticmethod
    def _close_window(voice: _Voice) -> None:
        window, voice.window = voice.window, None
        if window is None:
            return
        for count, text in window.counts.values():
            if count > 1:
                voice.logger.warning("%s, on standard error, %d times more: %s", voice.who, count - 1, text.strip())
        if window.untold:
            voice.logger.warning("%s, on standard error: %d lines more", voice.who, window.untold)


def _text_of(line: bytes) -> str:
    """The text of a line, without colours, control characters and secrets. A long one is cut."""
    text = _COLOUR.sub("", line[:LONGEST_READ].decode(errors="replace"))
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    if len(line) > LONGEST_READ:
        text, _ = without_torn_word(text, len(text), len(text))
    return masked(text)[:LONGEST_LINE]


def _pass_on(line: bytes) -> None:
    """Writes a line to the terminal, unless that would block."""
    with selectors.PollSelector() as selector:
        try:
            selector.register(2, selectors.EVENT_WRITE)
            if selector.select(0):
                os.write(2, line)
        except (OSError, ValueError):
            return  # there is no terminal
