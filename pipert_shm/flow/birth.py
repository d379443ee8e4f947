"""What the launcher, or a fork server, gives a flow's process when it forks it."""

from __future__ import annotations

from pipert_shm.control.attachment import Attachment
from pipert_shm.control.channel import Channel
from pipert_shm.events import Audience
from pipert_shm.frozen import Frozen
from pipert_shm.graph.model import Plan


class FlowBirth(Frozen):
    """All that one process of a flow starts with.

    Attributes:
        name: the flow's.
        logger_name: the pipe's logger; the flow's loggers are below it.
        grace: seconds that its routines have to return in when it ends.
        audience: who can be addressed by events, at the time of the fork.
        attachment: which incarnations of its edges, and which rings, it starts with.
        control: its end of the channel to the launcher.
        logs: where its log records go to the parent.
        stacks: the descriptor that it writes the stacks of its threads to, and what C code writes to standard error.
    """

    name: str
    plan: Plan
    pipe_id: str
    logger_name: str
    grace: float
    audience: Audience
    attachment: Attachment
    control: Channel
    logs: Channel
    stacks: int
