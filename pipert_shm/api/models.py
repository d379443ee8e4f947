"""The bodies of requests and of answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model

from pipert_shm import binding
from pipert_shm.flow_statistics import FlowStatistics
from pipert_shm.limits import FASTEST_FPS, LONGEST_WAIT, SLOWEST_FPS, Policy, checked_fps
from pipert_shm.measures import measured
from pipert_shm.statistics import Latency, PipeStatistics, RoutineStatistics, WireStatistics

Model = TypeVar("Model", bound=BaseModel)

# ---- requests ------------------------------------------------------------------------------------


class Request(BaseModel):
    """A body; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Command(Request):
    """The body of a request that executes an event; it may be left out."""

    extra_args: dict[str, Any] = Field(default_factory=dict, examples=[{"factor": 2}])
    """The event's parameters, by name; of each, what `notify_event` takes."""


_RATE = {"anyOf": [{"type": "number", "const": 0}, {"type": "number", "minimum": SLOWEST_FPS, "maximum": FASTEST_FPS}]}


class Rate(Request):
    """How fast a routine may go."""

    fps: Annotated[float, BeforeValidator(checked_fps), WithJsonSchema(_RATE)] = Field(examples=[12.5])
    """Calls of `main_logic` a second, at most, from one a day (1/86,400) to 1,000,000; 0 takes the limit away."""


class Link(Request):
    """A new wire. A setting that is left out is that of an earlier wire between the two, else the pipe's."""

    model_config = ConfigDict(strict=True)  # true is no capacity

    receiver: str = Field(examples=["detector"])
    """The routine that the wire leads to."""
    policy: Policy | None = None
    """What the sender does when the queue is full."""
    capacity: int | None = Field(None, ge=1, le=65_536, examples=[4])
    """Messages that the queue holds."""
    timeout: float | None = Field(None, ge=0, le=LONGEST_WAIT, allow_inf_nan=False)
    """Seconds after which a sender that waits for room (policy `block`) drops its message."""


class Unlink(Request):
    """A wire that is taken away."""

    receiver: str = Field(examples=["detector"])
    """The routine that the wire leads to."""


# ---- answers -------------------------------------------------------------------------------------


class Answer(BaseModel):
    """What is read off an object of the pipe."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)


class Notified(Answer):
    """The action that was done."""

    event: str = Field(examples=["start"])
    """The event's name."""
    routine: str | None
    """Whom it was sent to; null: every routine that handles it."""
    outcome: str = Field(examples=["on its way"])
    """`on its way`, or what became of a kill."""


class Restarted(Answer):
    """A restart that was ordered."""

    flow: str
    """The flow, or the name that its replicas share."""
    outcome: str = Field(examples=["on its way"])


class Removed(Answer):
    """A flow that is gone."""

    flow: str
    """The flow, or the name that its replicas shared."""
    outcome: str = Field(examples=["removed"])


class ChangesModel(Answer):
    """What a pipeline's file has changed, or would change."""

    dry_run: bool
    """Whether nothing was done."""
    changes: list[str] = Field(examples=[["+ flow 'second': camera2"]])
    """A line for each change; none when the pipe is like the file already."""


class RoutineStructure(Answer):
    """One routine, and the events that it handles besides those that all do."""

    flow_name: str
    routine_name: str
    events: list[str]


class Structure(Answer):
    """The pipe's routines, and the events that all of them handle. Spelt as PipeRT-Cockpit reads it."""

    Routines: list[RoutineStructure]
    Events: list[str]


class Health(Answer):
    """The server answers."""

    status: str = Field(examples=["ok"])


class Readiness(Answer):
    """Whether all of the pipe can work."""

    ready: bool
    problems: list[str] = Field(examples=[["flow 'camera': restarting"]])
    """Why it is not ready: flows that are not up, routines that failed."""


class Bucket(Answer):
    """A bucket of a histogram that is not empty."""

    up_to_us: float
    """Its upper end, microseconds."""
    count: int


_NoneForNan = BeforeValidator(lambda value: None if value != value else value)


def _buckets_of(latency: object) -> object:
    if not isinstance(latency, Latency):
        return latency
    filled = [
        Bucket(up_to_us=binding.BUCKET_NS[place] / 1000, count=count) for place, count in enumerate(latency.counts) if count
    ]
    return {"count": latency.count, "p50_us": latency.p50_us, "p99_us": latency.p99_us, "buckets": filled}


class LatencyModel(Answer):
    """A distribution of durations."""

    count: int
    p50_us: Annotated[float | None, _NoneForNan]
    """The median in microseconds; null before the first message."""
    p99_us: Annotated[float | None, _NoneForNan]
    buckets: list[Bucket]


_Latency = Annotated[LatencyModel, BeforeValidator(_buckets_of)]


def _fields_of(statistics: type) -> Callable[[type[Model]], type[Model]]:
    """Gives a model the fields of a class of statistics."""

    def build(model: type[Model]) -> type[Model]:
        described: dict[str, Any] = {}
        for name, kind, measure in measured(statistics):
            text = None if measure is None else measure.text
            examples = None if measure is None or measure.example is None else [measure.example]
            described[name] = (_Latency if kind is Latency else kind, Field(description=text, examples=examples))
        return create_model(model.__name__, __base__=model, __module__=__name__, __doc__=model.__doc__, **described)

    return build


@_fields_of(RoutineStatistics)
class RoutineModel(Answer):
    """The fields of `pipert_shm.RoutineStatistics`."""


@_fields_of(WireStatistics)
class WireModel(Answer):
    """The fields of `pipert_shm.WireStatistics`."""


@_fields_of(FlowStatistics)
class FlowModel(Answer):
    """The fields of `pipert_shm.FlowStatistics`."""


class StatisticsModel(Answer):
    """The pipe at one moment."""

    time_s: float
    """CLOCK_MONOTONIC, seconds: rates are differences over it."""
    routines: list[RoutineModel]
    wires: list[WireModel]
    flows: list[FlowModel]


def statistics_model(now: PipeStatistics) -> StatisticsModel:
    """The statistics of a pipe, as they are answered."""
    return StatisticsModel(
        time_s=now.time_s,
        routines=[RoutineModel.model_validate(routine) for routine in now.routines.values()],
        wires=[WireModel.model_validate(wire) for wire in now.wires.values()],
        flows=[FlowModel.model_validate(flow) for flow in now.flows.values()],
    )


class HostModel(Answer):
    """The part of the pipe that another host runs."""

    host: str = Field(examples=["edge-1"])
    problem: str
    """Why it tells nothing, such as that it can't be reached; empty where it does."""
    statistics: StatisticsModel | None
    """Its counters. Names are `ROUTINE@HOST` and `FLOW@HOST`; `time_s` is by that host's clock."""


class HostsModel(Answer):
    """The parts of the pipe on other hosts."""

    hosts: list[HostModel]


class FindingModel(Answer):
    """One thing that was found out about the pipe."""

    kind: str = Field(examples=["bottleneck"])
    severity: Literal["problem", "cost", "note"]
    """`problem`: something is lost, or stands; `cost`: it works, but takes more than it has to, or holds up others."""
    about: Literal["pipe", "flow", "routine", "wire"]
    """What `where` names."""
    where: str = Field(examples=["detector"])
    """A routine or a flow, or a wire as `sender -> receiver`; empty: the pipe."""
    what: str
    """What was found, with the numbers."""
    why: str
    """What follows from the numbers; empty where nothing does."""
    advice: list[str]
    """What to try, the likeliest first."""
    drawn_from: str
    """The counters that say so."""


class Why(Answer):
    """What slows the pipe down, in words; what matters most comes first."""

    seconds: float
    """The time that it is drawn from."""
    findings: list[FindingModel]


class Problem(BaseModel):
    """Why a request was refused."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    detail: str = Field(examples=["there is no routine 'camra'; there are: camera, screen"])
    """What is wrong."""
    known: list[str] = []
    """The known names, where a name was not known."""
