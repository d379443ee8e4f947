"""Every message between the processes of a pipe, and how it is encoded.

The parent, the launcher, the flows and the fork servers send each other these and nothing else. What users made (parameters of
events, fields of log records, exceptions) travels in them as `bytes`, which only that process decodes that needs it; so the
classes that a message is made of are this package's, and decoding it runs no code of others.
"""

import io
import pickle
import types
import typing
from dataclasses import dataclass, fields
from typing import Any, Union

from pipert_shm.attachment import Attachment
from pipert_shm.events import Audience, Event
from pipert_shm.growth import Growth
from pipert_shm.plan import EdgePlan, RoutinePlan


@dataclass(frozen=True, slots=True)
class Message:
    """What all messages have in common: nothing."""


# ---- parent to launcher; those marked ? are questions, which get one Answer -------------------------


@dataclass(frozen=True, slots=True)
class Notify(Message):
    """? Deliver an event. `starts`: how many starts the parent has asked for, this one included."""

    event: Event
    starts: int


@dataclass(frozen=True, slots=True)
class Kill(Message):
    """End the pipe; to a flow: end yourself."""


@dataclass(frozen=True, slots=True)
class Extend(Message):
    """? Take in the flows and wires of a later build(). The launcher's end of the fork server's channel comes with it."""

    growth: Growth
    fork_server: int


@dataclass(frozen=True, slots=True)
class MakeTap(Message):
    """? Make a tap of a routine's outputs; where it can be, TapMade answers."""

    routine: str


@dataclass(frozen=True, slots=True)
class EndTap(Message):
    """Take a tap away."""

    edge: int


@dataclass(frozen=True, slots=True)
class RestartFlow(Message):
    """Kill a flow and start it afresh."""

    flow: str


# ---- launcher to parent --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """To the parent: every flow is up. To the launcher: this flow is."""


@dataclass(frozen=True, slots=True)
class Started(Message):
    """Something runs again."""


@dataclass(frozen=True, slots=True)
class Ended(Message):
    """Every routine is over, as of so many starts that the parent asked for."""

    starts: int


@dataclass(frozen=True, slots=True)
class Failed(Message):
    """What failed for good and why, by a key; an empty cause takes an earlier one back."""

    key: str
    cause: str


@dataclass(frozen=True, slots=True)
class Died(Message):
    """A flow has failed for good: its process died, or, by `why`, could not be made; then the exit code is an earlier one's."""

    flow: str
    exit_code: int
    why: str


@dataclass(frozen=True, slots=True)
class Answer(Message):
    """To a question: it is done, or the exception that says why not, pickled."""

    error: bytes = b""


@dataclass(frozen=True, slots=True)
class TapMade(Message):
    """The answer to MakeTap, or, from a flow, that its routine sends to the tap."""

    edge: EdgePlan
    incarnation: int


@dataclass(frozen=True, slots=True)
class TapEnded(Message):
    """A tap's sender has let go of it."""

    edge: int


# ---- launcher to flow ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartRoutines(Message):
    """Start these routines, each with the number of its run."""

    runs: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class HandleEvent(Message):
    """Call the handlers of an event. The flow answers with Handled, of the same cost."""

    event: Event
    cost: int


@dataclass(frozen=True, slots=True)
class Refused(Message):
    """What one of the flow's routines asked for can't be."""

    routine: str
    why: str


@dataclass(frozen=True, slots=True)
class AddTap(Message):
    """Send to this tap, too."""

    routine: str
    edge: EdgePlan
    incarnation: int


@dataclass(frozen=True, slots=True)
class RemoveTap(Message):
    """Send to this tap no more."""

    routine: str
    edge: int


@dataclass(frozen=True, slots=True)
class LinkOut(Message):
    """Send on this wire, too."""

    routine: str
    edge: EdgePlan
    incarnation: int


@dataclass(frozen=True, slots=True)
class UnlinkOut(Message):
    """Send on this wire no more; then say Unlinked."""

    routine: str
    edge: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class AddIn(Message):
    """Receive from this incarnation of a wire, after those that came before."""

    routine: str
    edge: EdgePlan
    incarnation: int


@dataclass(frozen=True, slots=True)
class ExpectIn(Message):
    """A wire to this routine was linked."""

    routine: str
    edge: int


@dataclass(frozen=True, slots=True)
class RemoveIn(Message):
    """A wire to this routine was unlinked, and it has all that there is to drain."""

    routine: str
    edge: int


@dataclass(frozen=True, slots=True)
class WantSlots(Message):
    """So many slots of each kind the routine's rings should have now."""

    routine: str
    slots: int
    message_slots: int


@dataclass(frozen=True, slots=True)
class Extended(Message):
    """There are more routines: the names of all, and who can be addressed."""

    names: tuple[str, ...]
    audience: Audience


@dataclass(frozen=True, slots=True)
class ReceiverDied(Message):
    """Make this incarnation fit for the next receiver; then say Recovered."""

    routine: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class ReceiverFailed(Message):
    """Take back all that is on this incarnation: no receiver will come."""

    routine: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class SenderDied(Message):
    """A sender to this routine is dead: what it left may be drained."""

    routine: str


# ---- flow to launcher ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StateChanged(Message):
    """A routine's state, and of a failure the cause."""

    routine: int
    run: int
    state: int
    cause: str


@dataclass(frozen=True, slots=True)
class Notified(Message):
    """One of the flow's routines notifies an event."""

    event: Event
    by: str


@dataclass(frozen=True, slots=True)
class Handled(Message):
    """The handlers of an event of this cost have returned."""

    cost: int


@dataclass(frozen=True, slots=True)
class Recovered(Message):
    """Nothing of the dead receiver is left on this incarnation."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Unlinked(Message):
    """The sender is done with an incarnation of a wire that was unlinked."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class TapRefused(Message):
    """The routine can't send to the tap."""

    edge: int
    why: str


# ---- launcher and fork server --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ForkFlow(Message):
    """? Fork a flow. Its ends of the control channel and of the pipe for its stacks come along.

    Attributes:
        later: the routines that were added after those that the fork server knows.
        ins, outs, reach, slots: what is so now of the flow's routines, by their number.
    """

    flow: str
    later: list[RoutinePlan]
    ins: dict[int, list[EdgePlan]]
    outs: dict[int, list[EdgePlan]]
    reach: dict[int, frozenset[int]]
    slots: dict[int, int]
    attachment: Attachment
    audience: Audience


@dataclass(frozen=True, slots=True)
class Reap(Message):
    """? Ask for the exit status of a child that has ended."""

    pid: int


@dataclass(frozen=True, slots=True)
class Forked(Message):
    """The child's pid; 0, and why there is none."""

    pid: int
    why: str


@dataclass(frozen=True, slots=True)
class Reaped(Message):
    """A child's exit status, as of os.waitstatus_to_exitcode."""

    exit_code: int


# ---- log records ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record(Message):
    """A log record: its plain fields, and those that users gave it, each pickled by itself."""

    fields: dict[str, str | int | float | None]
    extra: dict[str, bytes]


# ---- encoding ------------------------------------------------------------------------------------

KINDS: tuple[type[Message], ...] = (
    Notify, Kill, Extend, MakeTap, EndTap, RestartFlow,
    Ready, Started, Ended, Failed, Died, Answer, TapMade, TapEnded,
    StartRoutines, HandleEvent, Refused, AddTap, RemoveTap, LinkOut, UnlinkOut, AddIn, ExpectIn, RemoveIn, WantSlots, Extended,
    ReceiverDied, ReceiverFailed, SenderDied,
    StateChanged, Notified, Handled, Recovered, Unlinked, TapRefused,
    ForkFlow, Reap, Forked, Reaped,
    Record,
)  # fmt: skip
_CODES = {kind: code for code, kind in enumerate(KINDS)}
_PLAIN = {("builtins", name) for name in ("frozenset", "set", "getattr")}


def kind_of(code: int) -> str:
    """The name of a kind, for a log."""
    return KINDS[code].__name__ if code < len(KINDS) else f"unknown kind {code}"


def encode(message: Message) -> tuple[int, bytes]:
    """The message's kind, and its body."""
    values = tuple(getattr(message, field.name) for field in fields(message))
    return _CODES[type(message)], pickle.dumps(values, 5)


def decode(code: int, body: bytes) -> Message:
    """The message.

    :raises LookupError: when there is no such kind.
    :raises TypeError: when it has other fields than its kind, or of other types.
    :raises Exception: whatever else pickle finds wrong with it.
    """
    if code >= len(KINDS):
        raise LookupError(f"there are only {len(KINDS)} kinds of messages")
    kind = KINDS[code]
    values = _OwnClasses(io.BytesIO(body)).load()
    message = kind(*values)
    for field in fields(kind):
        value = getattr(message, field.name)
        if not _fits(value, field.type):
            raise TypeError(f"{field.name} is {type(value).__name__}, not {field.type}")
    return message


class _OwnClasses(pickle.Unpickler):
    """Makes nothing but what messages are made of."""

    def find_class(self, module: str, name: str) -> Any:
        own = module == "inspect" or module.startswith("pipert_shm.")  # inspect: the signatures of handlers
        if "." in name or not (own or (module, name) in _PLAIN):
            raise pickle.UnpicklingError(f"no message is made of {module}.{name}")
        return super().find_class(module, name)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type; of a container, its items as well."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, Union):
        return any(_fits(value, argument) for argument in arguments)
    if origin is None:
        return hint is Any or isinstance(value, type(None) if hint is None else hint)
    if not isinstance(value, origin):
        return False
    if origin is dict:
        key, item = arguments
        return all(_fits(one, key) and _fits(other, item) for one, other in value.items())
    if origin is tuple and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    return all(_fits(one, arguments[0]) for one in value)
