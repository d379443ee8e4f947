"""The settings of a pipeline's file, as pydantic models, and their JSON Schema for editors."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from pipert_shm.graph.model import RestartPolicy
from pipert_shm.graph.process_settings import LEAST_NICENESS, MOST_NICENESS
from pipert_shm.limits import LARGEST_CAPACITY, LEAST_BIT_RATE, MOST_UNDER_WAY, Policy

Capacity = Annotated[int, Field(ge=1, le=LARGEST_CAPACITY)]
Seconds = Annotated[float, Field(ge=0)]
MoreSeconds = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(min_length=1)]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class Section(BaseModel):
    """A mapping that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class MadeOf(Section):
    """Something that is made from a class."""

    cls: Annotated[Name, Field(alias="class")]
    """Where it can be imported from, such as `detectors.Faces` for the class Faces in detectors.py beside this file."""
    parameters: dict[str, Any] = {}
    """Keyword arguments for it, which its type hints say more of. `{class: …, parameters: {…}}` among them is an object."""


class RoutineSettings(MadeOf):
    """A routine. Its class gets the routine's name as `name`, and the parameters."""

    fps: Annotated[float, Field(ge=0)] | None = None
    """The most calls of `main_logic` a second; 0: no limit. By default the class's own."""
    hang_timeout: MoreSeconds | None = None
    """Seconds in one call after which its flow counts as hung, and is restarted. By default the class's own."""
    max_errors: Annotated[int, Field(ge=1)] | None = None
    """Exceptions in a row after which its flow is restarted. By default the class's own."""


def _is_host(value: Any) -> Any:
    """The value, if it names a host or labels."""
    if isinstance(value, dict) and value and all(isinstance(word, str) and word for pair in value.items() for word in pair):
        return value
    if isinstance(value, str) and value:
        return value
    raise PydanticCustomError("host", 'give a host\'s name, or its labels as texts, such as {gpu: "true"}')


Labels = dict[str, str]
Host = Annotated[str | Labels, BeforeValidator(_is_host)]


class FlowSettings(Section):
    """A flow: a process, with a thread for each of its routines."""

    routines: Annotated[list[Name], Field(min_length=1)]
    """Their names."""
    auto_wire: bool = False
    """Wire each routine to the next one."""
    data_transmitter: MadeOf | None = None
    """For the wires that `auto_wire` makes."""
    replicas: Annotated[int, Field(ge=1)] = 1
    """How many processes run the flow side by side; each message goes to one of them."""
    ordered: bool = False
    """Whether what comes after the replicas gets their results in the order of the messages."""
    restart: RestartPolicy = "on-failure"
    """Whether the flow is restarted when its process dies."""
    max_restarts: Annotated[int, Field(ge=0)] = 5
    """Restarts within `restart_window` after which it has failed for good."""
    restart_window: MoreSeconds = 60.0
    """Seconds."""
    max_rss: Annotated[int, Field(ge=1)] | None = None
    """Bytes of private memory past which its process is restarted by its policy. By default no limit."""
    cpus: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Numbers of the processors that it runs on. By default all that the program has."""
    nice: Annotated[int, Field(ge=LEAST_NICENESS, le=MOST_NICENESS)] | None = None
    """The niceness of its process: the more, the later it gets its turn. By default that of the program."""
    host: Host | None = None
    """The host that it runs on, or the labels that a host has to have. By default where the file is run or applied."""


class WireSettings(Section):
    """A wire: one sender to one receiver or several."""

    source: Name
    """The sender's name."""
    destinations: Annotated[list[Name], Field(min_length=1)]
    """The receivers' names."""
    data_transmitter: MadeOf | None = None
    """How payloads travel. By default as the pipe says."""
    policy: Policy | None = None
    """What the sender does when a queue is full. By default as the pipe says."""
    capacity: Capacity | None = None
    """Messages that a queue holds. By default as the pipe says."""
    timeout: Seconds | None = None
    """Seconds after which a blocked sender drops the message. By default as the pipe says."""
    max_age: MoreSeconds | None = None
    """Seconds since its capture after which a message is dropped. By default never."""
    codec: Name | None = None
    """How payloads travel where the wire goes to another host. By default `none`."""
    window: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_UNDER_WAY)] | None = None
    """The most messages under way to another host. By default auto: what the rate and the round trip ask for."""
    bit_rate: Annotated[int, Field(ge=LEAST_BIT_RATE)] | None = None
    """Bits a second of each camera's film to another host, for codec h264, h265 or auto. By default what suits its size."""


class PipeSettings(Section):
    """Settings of the whole pipe, those of its wires being what holds where a wire says nothing."""

    name: Name = "Pipe"
    """What other programs call it, and the logger that all records go to."""
    data_transmitter: MadeOf | None = None
    """How payloads travel. By default through shared memory."""
    policy: Policy | None = None
    """What a sender does when a queue is full. By default drop_oldest."""
    capacity: Capacity | None = None
    """Messages that a queue holds. By default 2."""
    timeout: Seconds | None = None
    """Seconds after which a blocked sender drops the message. By default never."""
    memory_budget: Annotated[int, Field(ge=1)] | None = None
    """Bytes of /dev/shm that frames may take. By default half of what is free."""
    auto_pacing_mechanism: bool = False
    """Routines rest while every queue that they send to is full."""
    on_failure: Literal["continue", "stop"] = "continue"
    """What the pipe does when a flow has failed for good."""
    grace_period: Seconds = 5.0
    """Seconds that a routine has to return when the pipe ends."""


class ApiSettings(Section):
    """Where the HTTP control listens while the pipeline runs."""

    host: Name = "127.0.0.1"
    """A loopback address; another one needs a token, in the environment variable PIPERT_TOKEN."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 takes a free one, which the log tells."""


class LoggingSettings(Section):
    """Where log records go, and which."""

    level: Level = "INFO"
    """The least level that counts."""
    levels: dict[str, Level] = {}
    """Other levels, by logger: `<pipe>.<flow>.<routine>`, or the first part or parts of it."""
    file: Name | None = None
    """A file that they are appended to. By default they go to stderr."""


class HostsSettings(Section):
    """How the hosts find each other."""

    hub: Name
    """The hub's address: tcp/HOST:PORT or tls/HOST:PORT."""
    ca: Name | None = None
    """File with the certificate of the authority that all hosts trust, for tls/."""
    certificate: Name | None = None
    """File with the certificate of this host."""
    key: Name | None = None
    """File with its private key."""
    name: Name | None = None
    """What the host is called where the file is run or applied. By default the name in its certificate, else the machine's."""


class Pipeline(Section):
    """A pipeline for `pipert-shm run`."""

    routines: Annotated[dict[Name, RoutineSettings], Field(min_length=1)]
    """The routines, by name."""
    flows: Annotated[dict[Name, FlowSettings], Field(min_length=1)]
    """The flows, by name; each routine is in one of them."""
    wires: list[WireSettings] = []
    """The wires between routines."""
    pipe: PipeSettings = PipeSettings()
    """Settings of the whole pipe."""
    api: ApiSettings | None = None
    """HTTP control. By default none."""
    logging: LoggingSettings = LoggingSettings()
    """Log records."""
    hosts: HostsSettings | None = None
    """The hub, where flows run on several hosts. By default all run on this one, and nothing listens."""


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of a pipeline, for editors.

    It is kept as docs/pipeline.schema.json; `python -m pipert_shm.pipeline_file.schema` prints it.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Pipeline.model_json_schema()}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
