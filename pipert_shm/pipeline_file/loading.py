"""Makes a pipe from a pipeline in YAML. An error names file, line and field.

A file looks like this:

    routines:
      camera: {class: pipert_shm.VideoSource, parameters: {source: walk.mp4}}
      detector: {class: pipert_shm.MotionDetector}
      writer: {class: pipert_shm.JsonLinesWriter, parameters: {path: out/detections.jsonl}}
    flows:
      camera: {routines: [camera]}
      detect: {routines: [detector, writer], auto_wire: true}
    wires:
      - {source: camera, destinations: [detector], policy: block}
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pipert_shm.errors import ConfigError, Fault, PipertError, PipeStateError, RoutineError
from pipert_shm.limits import checked_fps
from pipert_shm.pipe import DEFAULT_NAME, Pipe
from pipert_shm.pipeline_file.objects import Maker, location, told, told_of_setting
from pipert_shm.pipeline_file.reader import Where, YamlFile, listed
from pipert_shm.pipeline_file.schema import (
    ApiSettings,
    FlowSettings,
    HostsSettings,
    LoggingSettings,
    MadeOf,
    Pipeline,
    PipeSettings,
    RoutineSettings,
    Section,
    WireSettings,
)
from pipert_shm.routine import Routine
from pipert_shm.transmitters import DataTransmitter
from pipert_shm.wire import Wire

ACROSS_HOSTS = ("codec", "window", "bit_rate")  # settings of wires between hosts

_SECTIONS: dict[str | int, type[Section]] = {
    "routines": RoutineSettings,
    "flows": FlowSettings,
    "wires": WireSettings,
    "pipe": PipeSettings,
    "api": ApiSettings,
    "logging": LoggingSettings,
    "hosts": HostsSettings,
}


class PipelineFile:
    """A pipeline in a YAML 1.2 file, read and validated. Use it on one thread.

    `make_pipe()` imports the classes that the file names, from the file's own directory first. Relative paths in parameters
    start from the working directory, not from the file's.

    :param path: the file.
    :param text: its content, in place of what is on the disk.
    :raises ConfigError: when the file can't be read or has faults. The error lists every fault with its line and field.

    Attributes:
        path: the file, as it was given.
        real_path: the same, wherever the working directory is by now.
        settings: its settings.
        named: what it has imported.
        allowed: what it may import, besides what this package offers; None: anything.
        arguments: of each routine that was made: its parameters, as the file gives them.

    >>> import pathlib, tempfile
    >>> from pipert_shm import PipelineFile
    >>> directory = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(directory.name) / "motion.yaml"
    >>> _ = path.write_text('''
    ... routines:
    ...   camera: {class: pipert_shm.VideoSource, parameters: {source: walk.mp4}}
    ...   detector: {class: pipert_shm.MotionDetector}
    ... flows:
    ...   camera: {routines: [camera]}
    ...   detect: {routines: [detector]}
    ... wires:
    ...   - {source: camera, destinations: [detector], policy: block}
    ... ''')
    >>> pipe = PipelineFile(path).make_pipe()
    >>> [routine["routine_name"] for routine in pipe.get_pipe_structure()["Routines"]]
    ['camera', 'detector']
    >>> _ = path.write_text(path.read_text().replace("block", "wait"))
    >>> PipelineFile(path)                                                  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pipert_shm.errors.ConfigError: ...motion.yaml:9: wires[0].policy: Input should be 'drop_oldest', ... not 'wait'
    >>> directory.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str], text: str | None = None) -> None:
        self.path = Path(path)
        self.real_path = os.path.realpath(path)
        self.named: frozenset[str] = frozenset()
        self.allowed: frozenset[str] | None = None
        self.arguments: dict[str, dict[str, Any]] = {}
        self._file = YamlFile(self.path, text)
        settings, faults = _read(self._file)
        _refuse(faults)
        assert settings is not None, "else there are faults"
        self.settings = settings

    def make_pipe(self) -> Pipe:
        """Imports the classes, makes the routines, and returns a pipe of them, which is checked but not built.

        :raises ConfigError: when a class can't be imported, a parameter does not fit, or the wires don't make a pipeline. The
            error lists every fault.
        """
        if self.settings.hosts is not None:
            raise ConfigError([self.fault(("hosts",), "its flows are for several hosts: see `pipert-shm run` and `apply`")])
        maker = self._maker()
        routines = self._routines(maker, self.settings.routines)
        transmitters = {
            path: maker.make((*path, "data_transmitter"), made_of, DataTransmitter) for path, made_of in self._transmitters()
        }
        self.named |= maker.named
        _refuse(maker.faults)
        pipe = self._assemble(maker, routines, transmitters)
        _refuse(maker.faults)
        try:
            pipe.check()
        except RoutineError as error:
            raise ConfigError([self._file.fault(("routines", error.routine), str(error))]) from error
        except (PipertError, ValueError) as error:
            raise ConfigError([self._file.fault(("wires",), str(error))]) from error
        pipe._pipeline_file = self
        pipe._made_from = self.real_path
        pipe._handlers["apply"] = partial(_answer, weakref.ref(pipe))
        return pipe

    @property
    def data(self) -> dict[str, Any]:
        """What the file says, as plain values."""
        data: dict[str, Any] = self._file.data
        return data

    @property
    def pipe_name(self) -> str:
        """The name of the pipe that `pipert-shm run` makes of it."""
        return self.settings.pipe.name if self.settings.pipe.name != DEFAULT_NAME else self.path.stem

    def make_routines(self, names: Iterable[str]) -> dict[str, Routine]:
        """Makes some of the routines, by name.

        :raises ConfigError: when a class can't be imported, or a parameter does not fit. It lists every fault.
        """
        maker = self._maker()
        routines = self._routines(maker, names)
        _refuse(maker.faults)
        return routines

    def make_transmitter(self, where: Where) -> DataTransmitter | None:
        """Makes the transmitter that a section gives, if it gives one.

        :param where: the section, such as `("wires", 0)`.
        :raises ConfigError: when it can't be made.
        """
        made_of = dict(self._transmitters()).get(where)
        if made_of is None:
            return None
        maker = self._maker()
        transmitter: DataTransmitter | None = maker.make((*where, "data_transmitter"), made_of, DataTransmitter)
        self.named |= maker.named
        _refuse(maker.faults)
        return transmitter

    def fault(self, where: Where, message: str) -> Fault:
        """A fault of this file, with the line of the field."""
        return self._file.fault(where, message)

    def _maker(self) -> Maker:
        return _maker(self._file, self.real_path, self.allowed)

    def _routines(self, maker: Maker, names: Iterable[str]) -> dict[str, Any]:
        routines = {name: _routine(maker, name, self.settings.routines[name]) for name in names}
        self.named |= maker.named
        self.arguments |= {name: maker.arguments.get(("routines", name), {}) for name in routines}
        return routines

    def _assemble(self, maker: Maker, routines: dict[str, Routine], transmitters: dict[Where, DataTransmitter]) -> Pipe:
        settings = self.settings.pipe
        pipe = None
        with _noted(maker, ("pipe",)):
            options = settings.model_dump(exclude={"name", "data_transmitter"})
            pipe = Pipe(logger=logging.getLogger(settings.name), data_transmitter=transmitters.get(("pipe",)), **options)
        pipe = pipe or Pipe()  # so that the other faults are found, too
        for flow, its in self.settings.flows.items():
            options = its.model_dump(exclude={"routines", "auto_wire", "data_transmitter", "host"})
            with _noted(maker, ("flows", flow)):
                members = [routines[name] for name in its.routines]
                pipe.create_flow(flow, its.auto_wire, *members, data_transmitter=transmitters.get(("flows", flow)), **options)
        for number, wire in enumerate(self.settings.wires):
            options = wire.model_dump(exclude={"source", "destinations", "data_transmitter", *ACROSS_HOSTS})
            with _noted(maker, ("wires", number)):
                ends = routines[wire.source], [routines[name] for name in wire.destinations]
                pipe.link(Wire(*ends, data_transmitter=transmitters.get(("wires", number)), **options))
        return pipe

    def _transmitters(self) -> Iterator[tuple[Where, MadeOf]]:
        """The transmitters in the file, with the section that has each."""
        sections: list[tuple[Where, PipeSettings | FlowSettings | WireSettings]] = [(("pipe",), self.settings.pipe)]
        sections += [(("flows", name), flow) for name, flow in self.settings.flows.items()]
        sections += [(("wires", number), wire) for number, wire in enumerate(self.settings.wires)]
        for path, section in sections:
            if section.data_transmitter is not None:
                yield path, section.data_transmitter


def _answer(pipe: weakref.ref[Pipe], question: bytes) -> bytes:
    """Answers an attached process that wants to change the pipe."""
    its = pipe()
    if its is None:
        raise PipeStateError("the pipe has ended")
    service = importlib.import_module("pipert_shm.applying.service")  # by its name, since that stands above this module
    answer: bytes = service.answer(its, question)
    return answer


def load_pipeline(path: Path, text: str | None = None) -> tuple[PipelineFile, Pipe]:
    """Reads a pipeline's file, and makes its pipe, which is checked but not built.

    :param text: its content, in place of what is on the disk.

    :raises ConfigError: as `PipelineFile` and `make_pipe()` do, with the faults of both at once.
    """
    try:
        file = PipelineFile(path, text)
    except ConfigError as error:
        _refuse([*error.faults, *_faults_of_classes(path, text)])
        raise
    return file, file.make_pipe()


def _faults_of_classes(path: Path, text: str | None) -> list[Fault]:
    """The faults of routines' classes and parameters, in a file that has other faults."""
    try:
        file = YamlFile(path, text)
    except ConfigError:
        return []  # it can't be read, which another fault says
    maker = _maker(file, os.path.realpath(path))
    for name, settings in _fitting(file.data, "routines", RoutineSettings).items():
        _routine(maker, str(name), settings)
    return maker.faults


def _maker(file: YamlFile, real_path: str, allowed: frozenset[str] | None = None) -> Maker:
    directory = str(Path(real_path).parent)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    return Maker(file, allowed)


def _routine(maker: Maker, name: str, settings: RoutineSettings) -> Any:
    """Makes a routine; None when there are faults."""
    path: Where = ("routines", name)
    routine: Routine | None = maker.make(path, settings, Routine, name=name)
    if settings.fps is not None:
        with _noted(maker, (*path, "fps")):
            fps = checked_fps(settings.fps)
            if routine is not None:
                routine.set_const_fps(fps)
    if routine is not None and settings.hang_timeout is not None:
        routine.hang_timeout = settings.hang_timeout
    if routine is not None and settings.max_errors is not None:
        routine.max_errors = settings.max_errors
    return routine


def _refuse(faults: list[Fault]) -> None:
    """:raises ConfigError: when there are faults; it tells them in the order of their lines."""
    if faults:
        raise ConfigError(sorted(faults, key=lambda fault: fault.line))


@contextmanager
def _noted(maker: Maker, path: Where) -> Iterator[None]:
    """Notes an error in the block as a fault of this field."""
    try:
        yield
    except (PipertError, ValueError) as error:
        maker.note(path, told(error))


# ---- the settings --------------------------------------------------------------------------------


def _read(file: YamlFile) -> tuple[Pipeline | None, list[Fault]]:
    """Returns a file's settings, and all faults in them."""
    settings, faults = None, []
    try:
        settings = Pipeline.model_validate(file.data)
    except ValidationError as error:
        faults = [_fault_of(file, dict(fault)) for fault in error.errors()]
    if isinstance(file.data, dict):
        faults += [file.fault(path, message) for path, message in (*_misfits(file.data), *_without_hosts(file.data))]
    return settings, faults


def _fault_of(file: YamlFile, error: dict[str, Any]) -> Fault:
    """Turns one of pydantic's faults into ours."""
    path = location(error["loc"])
    known = _fields_at(path[:-1]) if error["type"] == "extra_forbidden" else []
    return file.fault(path, told_of_setting(error, known))


def _fields_at(where: Where) -> list[str]:
    """The names of the settings in the section at this place."""
    section = Pipeline if not where else MadeOf if where[-1] == "data_transmitter" else _SECTIONS[where[0]]
    return [field.alias or name for name, field in section.model_fields.items()]


S = TypeVar("S", bound=Section)


def _fitting(data: Any, section: str, kind: type[S]) -> dict[str | int, S]:
    """The parts of a section that are valid, by name or number."""
    parts = data.get(section) if isinstance(data, dict) else None
    fitting: dict[str | int, S] = {}
    numbered = list(enumerate(parts)) if isinstance(parts, list) else []
    for key, part in parts.items() if isinstance(parts, dict) else numbered:
        with suppress(ValidationError):  # the validation of the whole file reports it
            fitting[key] = kind.model_validate(part)
    return fitting


def _misfits(data: dict[Any, Any]) -> Iterator[tuple[Where, str]]:
    """Finds names of routines that don't exist, routines in no flow or in two, and pairs that are wired twice."""
    routines = data.get("routines")
    if not isinstance(routines, dict):
        return
    names = [name for name in routines if isinstance(name, str)]
    flows = _fitting(data, "flows", FlowSettings)
    flow_of: dict[str, str] = {}
    for flow, settings in flows.items():
        for number, name in enumerate(settings.routines):
            path: Where = ("flows", flow, "routines", number)
            if name not in routines:
                yield path, _unknown(name, names)
            elif name in flow_of:
                yield path, f"routine {name!r} is in flow {flow_of[name]!r} already"
            flow_of.setdefault(name, str(flow))
    if isinstance(data.get("flows"), dict) and len(flows) == len(data["flows"]):
        for name in names:
            if name not in flow_of:
                yield ("routines", name), "is in no flow; name it in the routines of one"
    wired: set[tuple[str, str]] = set()
    for wire_number, wire in _fitting(data, "wires", WireSettings).items():
        if wire.source not in routines:
            yield ("wires", wire_number, "source"), _unknown(wire.source, names)
        for place, name in enumerate(wire.destinations):
            path = ("wires", wire_number, "destinations", place)
            if name not in routines:
                yield path, _unknown(name, names)
            elif (wire.source, name) in wired:
                yield path, f"{wire.source!r} is wired to {name!r} already"
            wired.add((wire.source, name))


def _without_hosts(data: dict[Any, Any]) -> Iterator[tuple[Where, str]]:
    """Finds what is said about other hosts in a file that knows no hub."""
    if "hosts" in data:
        return
    needed = "needs a section `hosts`, which says how to reach the hub"
    for name, flow in _fitting(data, "flows", FlowSettings).items():
        if flow.host is not None:
            yield ("flows", name, "host"), needed
    for number, wire in _fitting(data, "wires", WireSettings).items():
        for setting in ACROSS_HOSTS:
            if getattr(wire, setting) is not None:
                yield ("wires", number, setting), f"is for wires between hosts, and {needed}"


def _unknown(name: str, names: list[str]) -> str:
    return f"there is no routine {name!r}; {listed('there are', names, name)}"
