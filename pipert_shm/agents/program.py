"""A pipe that a program makes, some of whose flows other hosts run: what `Pipe.build()` does before it builds its own part.

It writes the file that says the same, has the other hosts apply that as `pipert-shm run` does, and puts the ends of wires
between hosts in the place of the flows that run elsewhere. Routines of this host stay the objects that they are, and may be
anything; the others are described (`describing`).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from pipert_shm.agents.beside import Brought
from pipert_shm.agents.beside import bring as bring_beside
from pipert_shm.agents.describing import check_twin, described
from pipert_shm.agents.splitting import written
from pipert_shm.errors import ConfigError, Fault, PipertError, WiresValidation
from pipert_shm.graph.blueprint import Blueprint, FlowSpec
from pipert_shm.graph.model import Restart
from pipert_shm.pipeline_file.loading import PipelineFile
from pipert_shm.pipeline_file.objects import told_of_setting
from pipert_shm.pipeline_file.schema import HostsSettings
from pipert_shm.routine import Routine
from pipert_shm.transmitters import SharedMemoryTransmitter
from pipert_shm.wire import Wire

STANDS_FOR_OURS = "pipert_shm.Routine"  # in place of the class of a routine that stays here


def checked(hosts: Mapping[str, str]) -> dict[str, str]:
    """The settings, as a file has them.

    :raises ConfigError: when they don't fit.
    """
    if not isinstance(hosts, Mapping):
        raise TypeError(f"hosts is a dict such as {{'hub': 'tcp/10.0.0.7:7447'}}, not {type(hosts).__name__}")
    settings = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in hosts.items()}
    try:
        HostsSettings.model_validate(settings)
    except ValidationError as error:
        known = list(HostsSettings.model_fields)
        faults = [_fault(f"hosts.{fault['loc'][0]}", told_of_setting(dict(fault), known)) for fault in error.errors()]
        raise ConfigError(faults) from None
    return settings


@dataclass(slots=True)
class OnHosts:
    """A pipe that was divided.

    Attributes:
        here: what is left for this host, with the ends of wires to others.
        added: the flows of those ends.
    """

    here: Blueprint
    brought: Brought
    logger: logging.Logger
    added: dict[str, FlowSpec] = field(default_factory=dict)

    def take_back(self) -> None:
        """Has the other hosts go back to what they had."""
        try:
            self.brought.take_back()
        except PipertError as error:
            self.logger.error("the other hosts could not be brought back to what they had: %s", error)

    def finish(self) -> None:
        """Ends the parts of hosts that the pipe no longer names."""
        for line in self.brought.finish():
            self.logger.info("%s", line)


def bring(whole: Blueprint, settings: dict[str, Any], hosts: dict[str, str], logger: logging.Logger) -> OnHosts:
    """Has other hosts run the flows that are for them.

    :param settings: the file's section `pipe`.
    :param hosts: its section `hosts`.
    :raises ConfigError: when a host can't, or something does not fit. All hosts are as they were before.
    :raises RoutineError, WiresValidation: when a routine or a wire can't be described.
    :raises PipertError: when the hub can't be reached.
    """
    data = _data_of(whole, settings, hosts)
    path = os.path.join(_folder(), f"{settings['name']}.yaml")
    try:
        file = PipelineFile(path, written(data))
        _check_twins(file, whole)
        brought = bring_beside(path, written(data), os.path.realpath(sys.argv[0]))
    except ConfigError as error:
        raise ConfigError([_fault(fault.field, fault.message) for fault in error.faults]) from None
    for line in brought.lines:
        logger.info("%s", line)
    if brought.text is None:
        brought.take_back()
        raise PipertError("no flow is for this host: leave one here, or write a file for agents, and say `pipert-shm apply`")
    return _divided(whole, brought, path, logger)


def _fault(where: str, message: str) -> Fault:
    """A fault of the program: it has no line."""
    return Fault(sys.argv[0] or "the program", 0, where, message)


def _folder() -> str:
    """Where the program's own modules are."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.dirname(os.path.abspath(main)) if main else os.getcwd()


# ---- the file that says the same -----------------------------------------------------------------


def _data_of(whole: Blueprint, settings: dict[str, Any], hosts: dict[str, str]) -> dict[str, Any]:
    """What a pipeline's file would say."""
    if type(whole.defaults.transmitter) is not SharedMemoryTransmitter:
        raise WiresValidation("data_transmitter: an object can't go to another host; leave it away where the pipe has hosts")
    routines: dict[str, Any] = {}
    flows: dict[str, Any] = {}
    for name, spec in whole.flows.items():
        flows[name] = _flow(spec)
        for routine in spec.routines:
            routines[routine.name] = {"class": STANDS_FOR_OURS} if spec.host is None else described(routine)
    elsewhere = {routine.name for spec in whole.flows.values() if spec.host is not None for routine in spec.routines}
    wires = [_wire(wire, elsewhere) for wire in whole.wires]
    return {"pipe": settings, "hosts": hosts, "routines": routines, "flows": flows, "wires": wires}


def _flow(spec: FlowSpec) -> dict[str, Any]:
    process = {name: getattr(spec.process, name) for name in ("max_rss", "nice")}
    process["cpus"] = None if spec.process.cpus is None else sorted(spec.process.cpus)
    flow: dict[str, Any] = {
        "routines": [routine.name for routine in spec.routines],
        "replicas": int(spec.replicas),
        "ordered": spec.ordered,
        "restart": spec.restart.policy,
        "max_restarts": int(spec.restart.limit),
        "restart_window": float(spec.restart.window),
        **{name: value for name, value in process.items() if value is not None},
    }
    if spec.host is not None:
        flow["host"] = spec.host if isinstance(spec.host, str) else dict(spec.host)
    return flow


def _wire(wire: Wire, elsewhere: set[str]) -> dict[str, Any]:
    ends = [wire.source.name, *(to.name for to in wire.destinations)]
    if wire.data_transmitter is not None and not elsewhere.isdisjoint(ends):
        raise WiresValidation(f"Wire({wire.ends}): a data_transmitter can't go to another host: leave it away")
    given = {name: getattr(wire, name) for name in ("policy", "capacity", "timeout", "max_age", "codec", "window")}
    options = {name: value for name, value in given.items() if value is not None}
    return {"source": ends[0], "destinations": ends[1:], **options}


def _check_twins(file: PipelineFile, whole: Blueprint) -> None:
    """Makes the routines of other hosts here, of their descriptions, and compares them."""
    for spec in whole.flows.values():
        for routine in spec.routines if spec.host is not None else ():
            check_twin(routine, partial(_made, file, routine.name))


def _made(file: PipelineFile, name: str) -> Routine:
    return file.make_routines([name])[name]


# ---- what is left for this host ------------------------------------------------------------------


def _divided(whole: Blueprint, brought: Brought, path: str, logger: logging.Logger) -> OnHosts:
    assert brought.text is not None
    part = YAML(typ="safe", pure=True).load(brought.text)
    ours = {routine.name: routine for spec in whole.flows.values() for routine in spec.routines}
    made = PipelineFile(path, brought.text).make_routines([name for name in part["routines"] if name not in ours])
    here = Blueprint(whole.defaults)
    result = OnHosts(here, brought, logger)
    for name, flow in part["flows"].items():
        spec = whole.flows.get(name)
        if spec is None:
            spec = result.added[name] = FlowSpec(tuple(made[routine] for routine in flow["routines"]), restart=Restart())
            here.wires += [Wire(one, other) for one, other in zip(spec.routines, spec.routines[1:], strict=False)]
        here.flows[name] = spec
    here.wires += _wires_here(whole.wires, part["wires"], brought.wires, {**ours, **made})
    return result


def _wires_here(
    wires: list[Wire], parts: Iterable[dict[str, Any]], numbers: Iterable[int], routines: Mapping[str, Routine]
) -> list[Wire]:
    """The wires of this host's part, each with the settings of the one that it is a part of."""
    here = []
    for part, number in zip(parts, numbers, strict=True):
        wire = copy(wires[number])
        wire.source = routines[part["source"]]
        wire.destinations = tuple(routines[name] for name in part["destinations"])
        here.append(wire)
    return here
