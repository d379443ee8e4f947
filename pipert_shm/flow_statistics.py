"""What is told of a flow: its process's state, and what that takes of the machine."""

# Without `from __future__ import annotations`: see statistics.py.

from dataclasses import dataclass, field, replace
from typing import Annotated

from pipert_shm import binding
from pipert_shm.measures import Measure, documented, state
from pipert_shm.shm.states import EndReason, FlowState
from pipert_shm.system.gpu import gpus
from pipert_shm.system.usage import Usage


@documented
@dataclass(frozen=True)
class FlowStatistics:
    """One flow. Two are equal when the same became of both, whatever their processes take at the moment."""

    name: str
    state: Annotated[
        str,
        state(
            "`running`, `restarting` (also while the pipe is being built), `failed` (for good) or `ended`.",
            "flow_state",
            FlowState,
        ),
    ]
    pid: Annotated[int, Measure("gauge", "The pid of its process, 0 while it has none.")]
    restarts: Annotated[int, Measure("counter", "How often it was restarted.", "flow_restarts")]
    last_exit: Annotated[
        int,
        Measure(
            "gauge",
            "Exit status of its last death, or the negative number of the signal; 0 while it has not died.",
            "flow_last_exit",
        ),
    ]
    last_reason: Annotated[
        str,
        state(
            "Why its last process ended: `none` (there was none), `died` (it exited, or a signal ended it), `hang` (killed for "
            "a `hang_timeout`), `max_rss` (killed for taking more memory than that), `order` (by `restart_flow`, or "
            "replaced by `apply`), `start` (it could not be started) or `end` (the pipe ended).",
            "flow_last_reason",
            EndReason,
            label="reason",
            example="none",
        ),
    ] = "none"
    cpu_s: Annotated[
        float | None,
        Measure(
            "counter",
            "CPU seconds of all threads of its process, since that began, without its child processes. None while it has no "
            "process, or where the system does not tell: so are the next ones.",
            "flow_cpu_seconds",
            example=12.5,
        ),
    ] = field(default=None, compare=False)
    private_bytes: Annotated[
        int | None,
        Measure(
            "gauge",
            "The process's own memory in RAM (`RssAnon`): heap, stacks, and what it has of its own from the fork. `max_rss` "
            "limits this.",
            "flow_private_bytes",
            example=85_000_000,
        ),
    ] = field(default=None, compare=False)
    shared_bytes: Annotated[
        int | None,
        Measure(
            "gauge",
            "Shared memory that the process has touched (`RssShmem`): frames above all, which other flows have mapped, too. "
            "Don't add it up over flows.",
            "flow_shared_bytes",
            example=44_000_000,
        ),
    ] = field(default=None, compare=False)
    file_bytes: Annotated[
        int | None,
        Measure(
            "gauge",
            "Mapped files that the process has in RAM (`RssFile`): the code of libraries above all, which the flows share.",
            "flow_file_bytes",
            example=60_000_000,
        ),
    ] = field(default=None, compare=False)
    gpu_bytes: Annotated[
        int | None,
        Measure(
            "gauge",
            "Memory that the process has on all GPUs of NVIDIA's together, at most a second ago. None, too, where the package "
            "nvidia-ml-py is not installed, or NVML does not list the process.",
            "flow_gpu_bytes",
            example=512_000_000,
        ),
    ] = field(default=None, compare=False)


def read_flow(process: binding.Process, number: int, name: str) -> FlowStatistics:
    """Reads a flow's record in a control segment, or in a copy of one, and what its process takes.

    :raises ValueError, LookupError: when the segment is damaged.
    """
    status = binding.FlowRecord(process, number).read()
    told = FlowState(status.state) if status.state else FlowState.RESTARTING  # no process yet: the pipe is being built
    reason = EndReason(status.last_reason)
    flow = FlowStatistics(name, told.name.lower(), status.pid, status.restarts, status.last_exit, reason.name.lower())
    used = Usage.of(status.pid, status.started) if status.pid > 0 and status.started else None
    if used is None:
        return flow
    return replace(
        flow,
        cpu_s=used.cpu_s,
        private_bytes=used.private_bytes,
        shared_bytes=used.shared_bytes,
        file_bytes=used.file_bytes,
        gpu_bytes=gpus.bytes_of(status.pid),
    )
