"""The errors, each for the one who must act. `PipertError` is their root."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pipert_shm.display.masking import masked, without_torn_word

CLOSE = 0.7  # how alike two names must be for a suggestion; 1 is equal
LONGEST_NAME = 200  # characters; a longer one gets no suggestion
MOST_COMPARED = 1_000  # names, since to compare one takes some microseconds
MOST_FAULTS = 100  # that the error of a file lists
_VARYING = re.compile(r"((?<=://)[^\s/]+|(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])(?::\d+)?)|0x[0-9a-fA-F]+|\d+")
LONGEST_TEXT = 32_000  # characters of an exception's text; the middle of a longer one is left out

__all__ = [
    "ConfigError",
    "EndOfStream",
    "Fault",
    "FloatingRoutine",
    "FlowDied",
    "NoFreeSlot",
    "NotApplied",
    "PayloadError",
    "PipeFailed",
    "PipeStateError",
    "PipertError",
    "RemoteRefusal",
    "RoutineError",
    "SharedMemoryFull",
    "UniqueRoutineName",
    "UnknownEvent",
    "UnknownTarget",
    "WiresValidation",
]


class PipertError(Exception):
    """Root of every error that pipert_shm raises. Each pickles with all of its attributes; secrets in its text are masked."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(masked(value) if isinstance(value, str) else value for value in arguments))

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self), self.args, vars(self))


def _remade(kind: type[PipertError], arguments: tuple[Any, ...], carried: dict[str, Any]) -> PipertError:
    """Makes an error again from its pickle, without its `__init__`, whose arguments are not the text."""
    error = kind.__new__(kind)
    error.args = arguments
    vars(error).update(carried)
    return error


class EndOfStream(PipertError):
    """Raised by a routine's `main_logic` to say that it has no more to send.

    Not a failure: the routine's `cleanup()` runs, its outgoing wires end after what was already sent, and each receiver ends in
    turn when it has consumed all of its inputs.
    """


class RoutineError(PipertError):
    """A routine can't run as it is; its author must act. Raised by `create_flow()` and `build()`.

    Attributes:
        routine: the routine's name.
    """

    def __init__(self, routine: str, message: str) -> None:
        super().__init__(f"routine {routine!r}: {message}")
        self.routine = routine


class UniqueRoutineName(RoutineError):
    """Two routines of one pipe have the same name."""


class FloatingRoutine(RoutineError):
    """A routine has no wire at all."""


class WiresValidation(PipertError):
    """The wires do not make a pipeline: a cycle, a pair wired twice, a routine that is in no flow, too many receivers."""


class UnknownEvent(PipertError):
    """No targeted routine handles the event, or none takes these parameters. Raised by `notify_event()`.

    Attributes:
        event: the event's name.
        known: the events that the targeted routines handle.
    """

    def __init__(self, event: str, known: list[str], message: str | None = None) -> None:
        super().__init__(
            message
            or f"no routine that was addressed handles the event {event!r}; they handle: {', '.join(known)}"
            f"{suggestion(event, known)}"
        )
        self.event = event
        self.known = known


class UnknownTarget(PipertError):
    """An event was addressed to a flow or a routine that does not exist. Raised by `notify_event()`.

    Attributes:
        target: the name that is not known.
        known: the names that are.
    """

    def __init__(self, kind: str, target: str, known: list[str], hint: str = "") -> None:
        there = ", ".join(known) or "none"
        super().__init__(f"there is no {kind} {target!r}; there are: {there}{suggestion(target, known)}{hint and f'; {hint}'}")
        self.target = target
        self.known = known


class PipeStateError(PipertError):
    """The call does not fit the pipe's state: not built yet, built already, or ended."""


class SharedMemoryFull(PipertError):
    """/dev/shm, or the pipe's `memory_budget`, is too small for the frames; the operator of the machine or container must act.

    Attributes:
        needed: bytes that were asked for.
        free: bytes that were left.
        name: what they were for.
        shm_size: bytes of /dev/shm in which the whole pipe has room.

    :param memory_budget: bytes that the whole pipe's rings take, if its budget is too small, and not /dev/shm.
    """

    def __init__(self, name: str, needed: int, free: int, shm_size: int, *, memory_budget: int | None = None) -> None:
        size = f"{shm_size >> 20}m"
        larger = f"Docker: --shm-size={size}, compose: shm_size: {size}, else: mount -o remount,size={size} /dev/shm"
        if memory_budget is not None:
            where = (
                f"free of the pipe's memory_budget; give it a larger one ({memory_budget:,} bytes), or, where it is half of "
                f"/dev/shm by default, make that larger ({larger}), or use smaller frames or shorter queues"
            )
        else:
            where = (
                f"free in /dev/shm; give it more ({larger}), or use smaller frames, shorter queues or a larger memory_budget"
            )
        super().__init__(f"{name} needs {needed:,} bytes of shared memory and {free:,} are {where}")
        self.needed = needed
        self.free = free
        self.name = name
        self.shm_size = shm_size


class NoFreeSlot(PipertError):
    """Every slot of the routine's ring is held: a receiver keeps frames, or is slower than the wires allow.

    Attributes:
        routine: whose ring it is.
        slots: how many slots the ring has.
        holders: how many of them each holder keeps, by name.
    """

    def __init__(self, routine: str, slots: int, holders: dict[str, int]) -> None:
        kept = ", ".join(f"{name} holds {count}" for name, count in sorted(holders.items()))
        super().__init__(f"all {slots} slots of {routine!r} are in use: {kept or 'they were just freed'}")
        self.routine = routine
        self.slots = slots
        self.holders = holders


class PayloadError(PipertError, ValueError):
    """Something can't be sent to another process: what `main_logic` returned, or an event's parameters.

    A result of `main_logic` is dropped and counted as `error`; the routine goes on. Parameters of an event are refused by the
    call that notifies it.

    Attributes:
        routine: who returned it; empty for an event's parameters.
        field: the part that can't be sent, such as `data.additional_data['lock']`, or a parameter's name in quotes; empty if it
            is not known.
        size: its bytes, if it is too large; else None.
        limit: the limit that it exceeds: bytes if it is too large, levels if it is nested too deep; else None.
    """

    def __init__(
        self, routine: str, field: str, reason: str, *, size: int | None = None, limit: int | None = None, what: str = ""
    ) -> None:
        what = what or f"what routine {routine!r} returned"
        super().__init__(": ".join(part for part in (f"{what} can't be sent to another process", field, reason) if part))
        self.routine = routine
        self.field = field
        self.size = size
        self.limit = limit


class FlowDied(PipertError):
    """A flow's process ended without being asked to.

    Attributes:
        flow: the flow's name.
        exit_code: its exit status, or the negative number of the signal that ended it.

    :param why: how and why it ended, for the text; by default the exit code tells how.
    """

    def __init__(self, flow: str, exit_code: int, why: str = "") -> None:
        how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"exited with status {exit_code}"
        super().__init__(f"flow {flow!r} {why or how}")
        self.flow = flow
        self.exit_code = exit_code


class PipeFailed(PipertError):
    """Raised by `join()` when a part of the pipe failed for good.

    Attributes:
        causes: the failures in order, as texts: one for each routine whose setup, cleanup or memory failed, and for each flow
            that died.
        exit_codes: exit status (negative: signal) of each flow that died.
    """

    def __init__(self, causes: list[str], exit_codes: dict[str, int]) -> None:
        super().__init__("; ".join(shortened(cause, LONGEST_TEXT) for cause in causes))
        self.causes = [masked(cause) for cause in causes]
        self.exit_codes = exit_codes


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in a pipeline file.

    Attributes:
        file: its path.
        line: counted from 1; 0 if the fault is of the whole file.
        field: such as `wires[0].policy`; empty if it is of no field.
        message: what is wrong with it.

    >>> print(Fault("walk.yaml", 7, "wires[0].capacity", "Input should be greater than or equal to 1, not 0"))
    walk.yaml:7: wires[0].capacity: Input should be greater than or equal to 1, not 0
    """

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.field, self.message) if part)


class ConfigError(PipertError):
    """A pipeline file is faulty; its author must act. The text has a line for each fault.

    Attributes:
        faults: all that were found, in order.
    """

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = [replace(fault, message=masked(fault.message)) for fault in faults]
        more = [f"and {len(faults) - MOST_FAULTS:,} faults more"] if len(faults) > MOST_FAULTS else []
        super().__init__("\n".join([*map(str, self.faults[:MOST_FAULTS]), *more]))


class HostsError(PipertError):
    """A wire between hosts can't be set up; its text says what to do."""


class NotApplied(ConfigError):
    """A running pipe could not be brought to what a pipeline's file says. The text says which step failed, and of what.

    Attributes:
        restored: whether the pipe is as it was before; if not, the text says what is not.
    """

    def __init__(self, fault: Fault, failures: list[str]) -> None:
        self.restored = not failures
        after = "the pipe is as it was before" if self.restored else f"and it is not as it was before: {'; '.join(failures)}"
        super().__init__([replace(fault, message=f"{fault.message}; {after}")])


class RemoteRefusal(PipertError):
    """A pipe that is controlled over HTTP or zerorpc refuses, or does not answer; the text says why."""


def describe(error: BaseException) -> str:
    """An exception's type and text. Its own `__str__` may fail."""
    text, name = text_of(error), _name_of(error)
    return f"{name}: {text}" if text else name


def _name_of(error: BaseException) -> str:
    """The name of its class, also where a metaclass hides that."""
    name: str = type.__dict__["__name__"].__get__(type(error))
    return name


def text_of(error: BaseException) -> str:
    """An exception's text, shortened to `LONGEST_TEXT` characters, with secrets masked."""
    try:
        text = str.__str__(str(error))
    except BaseException as failure:  # of a stranger's __str__: anything
        return f"(its text can't be told: its __str__ raises {_name_of(failure)})"
    # Lone surrogates could not be written anywhere.
    return shortened(text.encode("utf-8", "backslashreplace").decode(), LONGEST_TEXT)


def shortened(text: str, limit: int) -> str:
    """The text, with secrets masked, in at most `limit` characters. The middle of a longer one is left out, and counted.

    >>> shortened("the model does not fit: " + "0" * 1000 + " at layer 7", 80)
    'the model does not fit: 00000000 [… 988 characters left out …] 0000 at layer 7'
    """
    size = len(text)
    if size <= 4 * limit:
        text = masked(text)  # before it is cut: of half a secret nobody can tell that it is one
        size = len(text)
        if size <= limit:
            return text
        head = tail = text
    else:  # no text takes long, so only what may be told is masked, and not the word that this tears
        head, tail = (masked(part) for part in without_torn_word(text, 2 * limit, size - 2 * limit))
    room = max(0, limit - len(f" [… {size:,} characters left out …] "))
    end = room // 3
    beginning = room - end
    return f"{head[:beginning]} [… {size - room:,} characters left out …] {tail[max(0, len(tail) - end) :]}"


def without_numbers(text: str) -> str:
    """The text with `#` for each number, so that texts that differ only in numbers are equal. Numbers in addresses are kept.

    >>> without_numbers("frame 17 of rtsp://10.0.0.5:554/live at 0x7f00")
    'frame # of rtsp://10.0.0.5:554/live at #'
    """
    return _VARYING.sub(lambda found: found[1] or "#", text)


def suggestion(given: object, known: Iterable[str]) -> str:
    """A hint that names the known word closest to the given one; empty if none is close.

    >>> suggestion("Drop-Oldest", ("drop_oldest", "drop_newest", "block"))
    "; did you mean 'drop_oldest'?"
    >>> suggestion("fast", ("drop_oldest", "drop_newest", "block"))
    ''
    """
    likely = closest(given, known)
    return f"; did you mean {likely!r}?" if likely else ""


def closest(given: object, known: Iterable[str]) -> str | None:
    """The name that was probably meant; None where none is close. Upper case, `-` and `_` make no difference."""
    from difflib import get_close_matches

    names = list(known)
    if not isinstance(given, str) or len(given) > LONGEST_NAME or len(names) > MOST_COMPARED:
        return None
    plain = {name.lower().replace("-", "_"): name for name in names}
    close = get_close_matches(given.lower().replace("-", "_"), plain, 1, CLOSE)
    return plain[close[0]] if close else None


def shown(value: object, limit: int = 200) -> str:
    """A value's `repr`, shortened, for the text of an error."""
    try:
        return shortened(repr(value), limit)
    except BaseException:  # of a stranger's __repr__: anything
        return f"something of type {type(value).__name__}"
