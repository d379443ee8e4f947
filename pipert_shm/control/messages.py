"""Every message between the processes of a pipe.

The parent, the launcher, the flows, the fork servers and attached processes send each other these and nothing else. Objects of
users (parameters of events, fields of log records, exceptions) travel in them as `bytes`, and only the process that needs them
decodes them. So a message is made of this package's classes only, and decoding it runs no code of others.
"""

# longer than 400 lines: every kind stands here, each with its few fields, and none does anything

from pipert_shm.control.attachment import Attachment
from pipert_shm.events import Audience, Event
from pipert_shm.frozen import Frozen
from pipert_shm.graph.extension import Growth
from pipert_shm.graph.model import EdgePlan, RoutinePlan, Streams
from pipert_shm.graph.names import Names
from pipert_shm.graph.replacement import Replacement


class Message(Frozen):
    """The base class of all messages."""


# ---- parent to launcher; those marked ? are questions, which get one Answer -------------------------


class Notify(Message):
    """? Deliver an event.

    Attributes:
        starts: how many starts the parent has asked for, this one included.
    """

    event: Event
    starts: int


class Kill(Message):
    """To the launcher: end the pipe. To a flow: end.

    Attributes:
        to_be_replaced: another process takes the flow's place: messages that wait for room are sent before, if there is time.
    """

    to_be_replaced: bool = False


class Extend(Message):
    """? Take in the flows and wires of a later build(). The launcher's end of the fork server's channel comes with it."""

    growth: Growth
    fork_server: int


class AskNumbers(Message):
    """? Ask for free numbers for so many routines. The answer is Numbers, or an Answer that says why there are not so many."""

    count: int


class RemoveFlows(Message):
    """? Remove flows. The answer is Removed, or an Answer that says why they can't be removed.

    Attributes:
        receivers_wait: whether routines that are left without an incoming wire wait for another one, and do not end.
    """

    flows: tuple[str, ...]
    receivers_wait: bool


class MakeTap(Message):
    """? Make a tap of a routine's outputs. The answer is TapMade, or an Answer that says why there is none."""

    routine: str


class EndTap(Message):
    """Take a tap away."""

    edge: int


class Trace(Message):
    """? Begin to trace the pipe; or end a trace.

    Attributes:
        serial: of the trace.
        events: that each process keeps, at most; 0: end it.
    """

    serial: int
    events: int


class RestartFlow(Message):
    """Kill a flow and start it afresh."""

    flow: str


class Changing(Message):
    """? A change in several steps begins, or has ended. In between nothing that fails ends the pipe, nor is it over.

    Attributes:
        held: routines that lose wires. They wait for others, and don't end meanwhile.
        restarted: flows that are to get a new process, and so new holder bits for all that they send on.
        linked: routines that stay, and to how many receivers each of them is to be linked.
    """

    on: bool
    held: tuple[str, ...]
    restarted: tuple[str, ...] = ()
    linked: tuple[tuple[str, int], ...] = ()


class Replace(Message):
    """? Put other routines into flows. The launcher's end of the channel of the fork server that has them comes with it."""

    replacement: Replacement
    fork_server: int


class AwaitRuns(Message):
    """? Answer when these flows are up, with the routines that they are to have.

    Attributes:
        set_up: whether `setup()` has to have returned in each of their routines that is to run; a failure is an answer, too.
    """

    flows: tuple[str, ...]
    set_up: bool


class SetParameters(Message):
    """? Set parameters of a routine that runs. The launcher passes it on to the flow, which answers with ParametersSet.

    Attributes:
        packed: their values, by name.
    """

    routine: str
    packed: bytes


# ---- launcher to parent --------------------------------------------------------------------------


class Ready(Message):
    """To the parent: every flow is up. To the launcher: this flow is."""


class Started(Message):
    """Something runs again."""


class Ended(Message):
    """Every routine has ended or failed.

    Attributes:
        starts: how many starts the launcher had been asked for by then.
    """

    starts: int


class Failed(Message):
    """Something failed for good.

    Attributes:
        key: tells the failures apart.
        cause: what failed and why; empty to take an earlier failure back.
    """

    key: str
    cause: str


class Died(Message):
    """A flow has failed for good.

    Attributes:
        exit_code: of its last process.
        why: why no new process could be made; empty when the last one's death is the reason.
    """

    flow: str
    exit_code: int
    why: str


class Answer(Message):
    """To a question: it is done, or it can't be.

    Attributes:
        error: the exception that says why not, pickled; else empty.
    """

    error: bytes = b""


class Numbers(Message):
    """The answer to AskNumbers: numbers, each with the generation of the routine that gets it."""

    free: tuple[tuple[int, int], ...]


class Removed(Message):
    """The answer to RemoveFlows: it is done.

    Attributes:
        fork_servers: the pids of the fork servers that had no other flow, and have been ended.
    """

    fork_servers: tuple[int, ...]


class TapMade(Message):
    """To the parent: the answer to MakeTap. From a flow: its routine sends to the tap now."""

    edge: EdgePlan
    incarnation: int


class ServerEnded(Message):
    """A fork server that no flow needed any more was killed, and is to be reaped."""

    pid: int


class TapEnded(Message):
    """A tap's sender has let go of it."""

    edge: int


# ---- attached processes, launcher and parent -----------------------------------------------------


class Hello(Message):
    """? The first message of a process that attaches. The answer is Welcome, or an Answer that says why not.

    Attributes:
        started: when the process began, in clock ticks since the system did.
    """

    started: int


class Welcome(Message):
    """The process is attached.

    Attributes:
        name: the pipe's.
        names: of all routines, by number, and by the number that their messages carry.
        audience: who can be addressed by events.
    """

    pipe_id: str
    name: str
    names: Names
    audience: Audience


class Relay(Message):
    """? A question of an attached process to the parent, which the launcher passes on."""

    kind: str
    body: bytes


class Relayed(Message):
    """The answer to Relay.

    Attributes:
        error: the exception that is the answer, pickled; else empty.
    """

    body: bytes
    error: bytes


# ---- launcher to flow ----------------------------------------------------------------------------


class StartRoutines(Message):
    """Start these routines, each with the number of its run."""

    runs: tuple[tuple[str, int], ...]


class HandleEvent(Message):
    """Call the handlers of an event; then say Handled.

    Attributes:
        cost: what the event counts for among those that wait to be handled; 0: it is not counted, nor answered.
    """

    event: Event
    cost: int


class Refused(Message):
    """A change that one of the flow's routines asked for can't be made."""

    routine: str
    why: str


class AddTap(Message):
    """Send to this tap, too. Its incarnation is given by its name, for the owner."""

    routine: str
    edge: EdgePlan
    incarnation: int


class RemoveTap(Message):
    """Stop sending to this tap; then say TapEnded."""

    routine: str
    edge: int


class LinkOut(Message):
    """Send on this wire, too."""

    routine: str
    edge: EdgePlan
    incarnation: int


class UnlinkOut(Message):
    """Stop sending on this wire; then say Unlinked."""

    routine: str
    edge: int
    incarnation: int


class AddIn(Message):
    """Receive from this incarnation of a wire too, after its earlier ones. It is given by its name: see binding.Incarnation."""

    routine: str
    edge: EdgePlan
    incarnation: int


class ExpectIn(Message):
    """A wire to this routine was linked."""

    routine: str
    edge: int


class RemoveIn(Message):
    """A wire to this routine was unlinked: no more incarnations follow, and the wire ends with what these still hold."""

    routine: str
    edge: int


class LetEnd(Message):
    """The routine was held, and may end when its streams have: it has heard of its wires before this.

    Attributes:
        hold: the number of that hold. A later one stays.
    """

    routine: str
    hold: int


class WantSlots(Message):
    """Have at least so many slots in the routine's ring, and in that of its messages."""

    routine: str
    slots: int
    message_slots: int


class InOrder(Message):
    """What the order of results takes now of a routine.

    Attributes:
        lanes, restores: as of `RoutinePlan`.
    """

    routine: str
    lanes: dict[int, int]
    restores: dict[str, Streams]


class TraceInto(Message):
    """Note what the flow does, in a ring of events to be made; or note nothing any more.

    Attributes:
        serial: of the trace.
        ring: the number of the ring; 0: note nothing.
        events: that it keeps, at most.
        flow: the flow's number.
    """

    serial: int
    ring: int
    events: int
    flow: int


class Extended(Message):
    """Flows were added or removed.

    Attributes:
        names: of the new routines, by number, and by the number that their messages carry.
        audience: the new flows, as they can be addressed by events.
        flows: those that were removed.
        gone: the numbers that the messages of removed routines carry.
    """

    names: Names
    audience: Audience
    flows: tuple[str, ...] = ()
    gone: tuple[int, ...] = ()


class ReceiverDied(Message):
    """A receiver died: make this incarnation ready for the next one; then say Recovered."""

    routine: str
    incarnation: int


class ReceiverFailed(Message):
    """A receiver failed for good: take back everything on this incarnation."""

    routine: str
    incarnation: int


class SenderDied(Message):
    """A sender to this routine died: what it left may be drained."""

    routine: str


# ---- flow to launcher ----------------------------------------------------------------------------


class StateChanged(Message):
    """A routine's new state.

    Attributes:
        run: the number of its run.
        cause: why it failed; else empty.
    """

    routine: int
    run: int
    state: int
    cause: str


class Notified(Message):
    """One of the flow's routines notifies an event."""

    event: Event
    by: str


class Handled(Message):
    """The handlers of an event have returned; its cost is as in HandleEvent."""

    cost: int


class SetUp(Message):
    """A routine's `setup()` has returned."""

    routine: int
    run: int


class ParametersSet(Message):
    """The answer to SetParameters.

    Attributes:
        why: they are not set; empty when they are.
    """

    routine: str
    why: str


class Recovered(Message):
    """The incarnation of a dead receiver is ready for the next one."""

    incarnation: int


class Unlinked(Message):
    """The sender is done with an incarnation of a wire that was unlinked."""

    incarnation: int


class TapRefused(Message):
    """The routine can't send to the tap."""

    edge: int
    why: str


# ---- launcher and fork server --------------------------------------------------------------------


class ForkFlow(Message):
    """? Fork a flow. Its ends of the control channel and of the pipe for its stacks come along.

    Attributes:
        later: the routines that were added after those that the fork server knows.
        gone: the numbers of those that it knows and that were removed.
        past: the names of routines that were removed, by the number that their messages carry.
        ins, outs, reach, slots, lanes, restores: what the plan says now of the flow's routines, by their number.
    """

    flow: str
    later: list[RoutinePlan]
    gone: list[int]
    past: dict[int, str]
    ins: dict[int, list[EdgePlan]]
    outs: dict[int, list[EdgePlan]]
    reach: dict[int, frozenset[int]]
    slots: dict[int, int]
    lanes: dict[int, dict[int, int]]
    restores: dict[int, dict[str, Streams]]
    attachment: Attachment
    audience: Audience


class Reap(Message):
    """? Ask for the exit status of a child that has ended."""

    pid: int


class Forked(Message):
    """The answer to ForkFlow: the child's pid; or 0, and why there is no child."""

    pid: int
    why: str


class Reaped(Message):
    """The answer to Reap: a child's exit status, as `os.waitstatus_to_exitcode` gives it."""

    exit_code: int


# ---- log records ---------------------------------------------------------------------------------


class Record(Message):
    """A log record.

    Attributes:
        fields: the standard ones.
        extra: those that users added, each pickled by itself.
    """

    fields: dict[str, str | int | float | None]
    extra: dict[str, bytes]


# ---- all of them ---------------------------------------------------------------------------------

KINDS: tuple[type[Message], ...] = (
    Notify, Kill, Extend, AskNumbers, RemoveFlows, MakeTap, EndTap, Trace, RestartFlow,
    Changing, Replace, AwaitRuns, SetParameters,
    Ready, Started, Ended, Failed, Died, Answer, Numbers, Removed, TapMade, TapEnded, ServerEnded,
    Hello, Welcome, Relay, Relayed,
    StartRoutines, HandleEvent, Refused, AddTap, RemoveTap, LinkOut, UnlinkOut, AddIn, ExpectIn, RemoveIn, LetEnd, WantSlots,
    InOrder, TraceInto, Extended,
    ReceiverDied, ReceiverFailed, SenderDied,
    StateChanged, SetUp, Notified, Handled, ParametersSet, Recovered, Unlinked, TapRefused,
    ForkFlow, Reap, Forked, Reaped,
    Record,
)  # fmt: skip
